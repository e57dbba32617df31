"""A training step over 26 tables in PyTorch: collections and plain layers over shards beside torch's own embeddings.

`python tests/bench/many_tables.py [--rounds 15] [--beside rpc ray] [--batches 256 1024 4096]`

A step looks ids up in every table, has a gradient for each row, and trains the rows with Adagrad: forward, backward and
optimizer, without a model around them. "layers" are plain ones inside of `prefetched`, "alone" those without. Beside:
`torch.nn.Embedding(sparse=True)` and `torch.optim.Adagrad`, and stores that one could build in an afternoon: servers of
torch's RPC, and Ray actors, each of which has all tables as one, so that a step is one pull and one push there too.
Medians of rounds in which all take turns, each of eight steps one after the other, as a trainer makes them: the first
step after another's turn finds the caches full of what that one used. One line of JSON for each batch. It takes about a
minute.
"""

import argparse
import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
from costs import medians
from rivals.ray_actors import RayActors
from rivals.torch_rpc import TorchRpc

from rowloom.client import Adagrad
from rowloom.client.client import Client
from rowloom.client.layers_torch import (
    Embedding,
    EmbeddingBagCollection,
    EmbeddingBagConfig,
    EmbeddingCollection,
    EmbeddingConfig,
    prefetched,
)
from rowloom.deploy import local_cluster
from rowloom.deploy.bench.rival import Rival
from rowloom.deploy.bench.workload import zipf_ids
from rowloom.proto.allocator import keep_freed_memory

COUNT, ROWS, DIM, LR = 26, 100_000, 16, 0.01
NAMES = [f"t{k}" for k in range(COUNT)]
SHARDS = 2
STEPS = 8  # of a turn
RIVALS: dict[str, type[Rival]] = {"rpc": TorchRpc, "ray": RayActors}
Batch = dict[str, Any]
Step = Callable[[Batch, list[Any]], None]


def over_shards(client: Client) -> Step:
    """A step of EmbeddingCollection."""
    embed = EmbeddingCollection(client, [_config(EmbeddingConfig, name) for name in NAMES])

    def step(ids: Batch, grads: list[Any]) -> None:
        torch.autograd.backward(list(embed(ids).values()), grads)

    return step


def layers_over_shards(client: Client) -> Step:
    """A step of plain `Embedding` layers, whose rows are pulled together."""
    layers = [Embedding(client.table(name)) for name in NAMES]

    def step(ids: Batch, grads: list[Any]) -> None:
        with prefetched(client, ids):
            rows = [layer(some) for layer, some in zip(layers, ids.values(), strict=True)]
        torch.autograd.backward(rows, grads)

    return step


def layers_alone(client: Client) -> Step:
    """A step of plain `Embedding` layers, each of which pulls by itself."""
    layers = [Embedding(client.table(name)) for name in NAMES]

    def step(ids: Batch, grads: list[Any]) -> None:
        rows = [layer(some) for layer, some in zip(layers, ids.values(), strict=True)]
        torch.autograd.backward(rows, grads)

    return step


def bags_over_shards(client: Client) -> Step:
    """A step of EmbeddingBagCollection: bags of one id, concatenated."""
    embed = EmbeddingBagCollection(client, [_config(EmbeddingBagConfig, name) for name in NAMES])

    def step(ids: Batch, grads: list[Any]) -> None:
        embed({name: some[:, None] for name, some in ids.items()}).backward(torch.cat(grads, 1))

    return step


def local() -> Step:
    """A step of torch's own."""
    modules = [torch.nn.Embedding(ROWS, DIM, sparse=True) for _ in NAMES]
    optimizer = torch.optim.Adagrad([module.weight for module in modules], lr=LR)

    def step(ids: Batch, grads: list[Any]) -> None:
        optimizer.zero_grad()
        rows = [module(some) for module, some in zip(modules, ids.values(), strict=True)]
        torch.autograd.backward(rows, grads)
        optimizer.step()

    return step


@contextmanager
def rival(kind: type[Rival]) -> Iterator[Step]:
    """A step of a store that has all tables as one of COUNT * ROWS."""
    threads, begins = torch.get_num_threads(), np.arange(COUNT)[:, None] * ROWS

    def step(ids: Batch, grads: list[Any]) -> None:
        flat = (np.stack([some.numpy() for some in ids.values()]) + begins).reshape(-1)
        store.pull(flat)
        store.push(flat, torch.cat(grads).numpy())

    with kind(COUNT * ROWS, DIM, SHARDS) as store:
        torch.set_num_threads(threads)  # that of torch's RPC takes all but one away
        yield step


def _config(kind: type[Any], name: str) -> Any:
    return kind(
        num_embeddings=ROWS, embedding_dim=DIM, name=name, feature_names=[name], optimizer=Adagrad(lr=LR)
    )


def main() -> None:
    """All batches."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--beside", nargs="*", choices=RIVALS, default=list(RIVALS))
    parser.add_argument("--batches", type=int, nargs="*", default=[256, 1024, 4096])
    asked = parser.parse_args()
    keep_freed_memory()
    with ExitStack() as running:
        # First: they fork, which gRPC complains of.
        others = {name: running.enter_context(rival(RIVALS[name])) for name in asked.beside}
        cluster = running.enter_context(local_cluster(shards=SHARDS, processes=True))
        client = running.enter_context(cluster.connect())
        steps = {"shards": over_shards(client), "bags": bags_over_shards(client)}
        steps |= {
            "layers": layers_over_shards(client),
            "alone": layers_alone(client),
            "torch": local(),
        } | others
        for batch in asked.batches:
            print(json.dumps(measured(steps, batch, asked.rounds)), flush=True)


def measured(steps: dict[str, Step], batch: int, rounds: int) -> dict[str, Any]:
    """Milliseconds of each, and how often those of torch's own they are."""
    rng = np.random.default_rng(0)
    ids = [{name: torch.from_numpy(zipf_ids(batch, ROWS, rng)) for name in NAMES} for _ in range(STEPS)]
    grads = [torch.randn(batch, DIM) * 1e-3 for _ in NAMES]

    def run(step: Step) -> None:
        for some in ids:
            step(some, grads)

    calls: dict[str, Callable[[], object]] = {
        name: (lambda step=step: run(step)) for name, step in steps.items()
    }
    medians(calls, 2)  # rows come into being
    took = medians(calls, rounds)
    found = {name: round(seconds * 1e3 / STEPS, 2) for name, seconds in took.items()}
    ratios = {
        f"{name}/torch": round(seconds / took["torch"], 2)
        for name, seconds in took.items()
        if name != "torch"
    }
    return {"what": f"a step over {COUNT} tables, {batch:,} ids each, ms", **found, **ratios}


if __name__ == "__main__":
    main()
