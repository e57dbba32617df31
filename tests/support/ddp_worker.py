"""One of two ranks that train a model with DistributedDataParallel, each on its half of every batch.

python ddp_worker.py RANK STORE ADDRESS OUT
"""

import sys

import numpy as np
import torch

from rowloom.client import connect
from rowloom.client.layers_torch import EmbeddingBag

ROWS, DIM, STEPS, BATCH = 20, 4, 6, 8


def model_over(embed):
    torch.manual_seed(3)
    return torch.nn.Sequential(embed, torch.nn.Linear(DIM, 1))


def batches():
    generator = torch.Generator().manual_seed(0)
    for _ in range(STEPS):
        yield (
            torch.randint(0, ROWS, (BATCH, 3), generator=generator),
            torch.rand(BATCH, 1, generator=generator),
        )


def main(rank, store, address, out):
    torch.distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    with connect(address) as client:
        embed = EmbeddingBag(client.table("t"), mode="sum", grad_scale=1 / 2)
        model = torch.nn.parallel.DistributedDataParallel(model_over(embed))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        half = slice(rank * BATCH // 2, (rank + 1) * BATCH // 2)
        for ids, y in batches():
            loss = torch.nn.functional.mse_loss(model(ids[half]), y[half])
            torch.distributed.barrier()  # everybody has pulled
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            torch.distributed.barrier()  # everybody has pushed
    dense = torch.cat([p.detach().reshape(-1) for p in model.module[1].parameters()])
    np.save(out, dense.numpy())
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), *sys.argv[2:])
