"""A PyTorch model and its tables, stopped at any moment and gone on with. First: pip install 'rowloom[torch]'."""

from rowloom.client.layers_torch import EmbeddingBag, load_checkpoint, save_checkpoint  # isort: skip (it says what to install)
import sys

import numpy as np
import torch
from dlrm_torch import DIM, DLRM, SIZES, clicks

from rowloom.client import Adagrad, Adam, Normal, TableSpec, newest_snapshot
from rowloom.deploy import local_cluster

STEPS, EVERY = 60, 5
RULES = {"adagrad": Adagrad(lr=0.5), "adam": Adam(lr=0.01)}


def main(storage="resume", rule="adagrad"):
    """Train to the end, from the newest snapshot on if there is one. Prints the loss of each step."""
    found = newest_snapshot(f"{storage}/snapshots", having="checkpoint")
    how = {"dim": DIM, "optimizer": RULES[rule], "initializer": Normal(std=0.5, seed=1)}
    specs = [TableSpec(name, size, **how) for name, size in SIZES.items()]
    torch.manual_seed(0)
    with (
        local_cluster(shards=2, processes=True, tables=specs, storage=storage, restore=found) as cluster,
        cluster.connect() as client,
    ):
        bags = {name: EmbeddingBag(client.table(name), mode="sum") for name in SIZES}
        model = DLRM(bags)
        optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
        begin = load_checkpoint(client, model, optimizer)["step"] if found or client.restored else 0
        for step, (numbers, ids, clicked) in enumerate(clicks(STEPS)):
            if step < begin:
                continue
            loss = torch.nn.functional.binary_cross_entropy_with_logits(model(numbers, ids), clicked)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            print(step, loss.item().hex(), flush=True)
            if (step + 1) % EVERY == 0:
                save_checkpoint(client, model, optimizer, step=step + 1)
        return {name: client.table(name).pull(np.arange(size)) for name, size in SIZES.items()}


if __name__ == "__main__":
    rows = main(*sys.argv[1:3])
    np.savez(f"{(sys.argv[1:] or ['resume'])[0]}/rows.npz", **rows)
