"""One of some ranks that train a model, each on its part of every batch.

python ddp_worker.py RANK RANKS STEPS STORE ADDRESS OUT KIND

KIND: "ddp", DistributedDataParallel; "ddp at step", with a push when the optimizer steps, for each two batches. "fsdp"
and "fsdp at step": fully_shard, the same; "fsdp whole": one group of parameters for the model instead of one for each
part; "fsdp of two axes": over a mesh of as many; "fsdp of some": over one of as many that not all processes are in;
"fsdp 1": FullyShardedDataParallel. Prints "done", or why the layer refuses.
"""

import sys

import numpy as np
import torch

from rowloom.client import InvalidRequest, connect
from rowloom.client.layers_torch import EmbeddingBag, push_on_step

ROWS, DIM, BATCH = 20, 4, 8


def model_over(embed):
    torch.manual_seed(3)
    return torch.nn.Sequential(embed, torch.nn.Linear(DIM, 1))


def batches(steps):
    generator = torch.Generator().manual_seed(0)
    for _ in range(steps):
        yield (
            torch.randint(0, ROWS, (BATCH, 3), generator=generator),
            torch.rand(BATCH, 1, generator=generator),
        )


def part_of(batch):
    """This rank's."""
    size = BATCH // torch.distributed.get_world_size()
    return batch[torch.distributed.get_rank() * size :][:size]


def sharded(model, kind):
    import torch.distributed.fsdp
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    if kind == "fsdp 1":
        return torch.distributed.fsdp.FullyShardedDataParallel(model, device_id=torch.device("cpu"))
    ranks = torch.distributed.get_world_size()
    if kind == "fsdp of some":
        mesh = init_device_mesh("cpu", (ranks // 2, 1, 2), mesh_dim_names=("others", "replicas", "parts"))
        return fully_shard(model, mesh=mesh["replicas", "parts"])
    shape = (2, ranks // 2) if kind == "fsdp of two axes" else (ranks,)
    mesh = init_device_mesh("cpu", shape, mesh_dim_names=("replicas", "parts")[-len(shape) :])
    if kind != "fsdp whole":
        for part in model:
            fully_shard(part, mesh=mesh)
    return fully_shard(model, mesh=mesh)


def train(model, steps):
    """Pushes at the end of each backward pass."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for ids, y in batches(steps):
        loss = torch.nn.functional.mse_loss(model(part_of(ids)), part_of(y))
        torch.distributed.barrier()  # everybody has pulled
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def train_at_step(model, steps):
    """Pushes when the optimizer steps: what two backward passes added up."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    push_on_step(optimizer, model)
    for n, (ids, y) in enumerate(batches(steps), 1):
        torch.nn.functional.mse_loss(model(part_of(ids)), part_of(y)).backward()
        torch.distributed.barrier()
        if n % 2 == 0:
            optimizer.step()
            optimizer.zero_grad()
        torch.distributed.barrier()


def main(rank, ranks, steps, store, address, out, kind):
    torch.distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=ranks)
    with connect(address) as client:
        model = model_over(EmbeddingBag(client.table("t"), mode="sum"))
        dense = model[1]
        over = torch.nn.parallel.DistributedDataParallel(model) if "ddp" in kind else sharded(model, kind)
        try:
            (train_at_step if "at step" in kind else train)(over, steps)
        except InvalidRequest as e:
            say(str(e))
    whole = [getattr(p, "full_tensor", lambda p=p: p)() for p in dense.parameters()]
    np.save(out, torch.cat([p.detach().reshape(-1) for p in whole]).numpy())
    say("done")


def say(line):
    """A rank of gloo aborts when it sees that another has ended, however orderly: whoever started them ends all."""
    print(line, flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    rank, ranks, steps = map(int, sys.argv[1:4])
    main(rank, ranks, steps, *sys.argv[4:])
