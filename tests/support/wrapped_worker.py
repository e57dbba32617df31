"""One of two ranks that train a model in DistributedDataParallel in unusual ways, beside torch's own embeddings.

python wrapped_worker.py RANK STORE ADDRESS STEPS KIND...

Each KIND has its own tables, "a0" and "b0" for the first, and its own process group, so that none can hurt the next.
It is made of words: "unused", find_unused_parameters, where each rank uses some layers or none; "static", static_graph,
where the first rank never uses a layer; "views", gradient_as_bucket_view; "at_step", push_on_step; "many",
collections; "reentrant", layers in checkpoints, each of which is a backward pass of its own; "alone", a pass of the
module by itself; "clipped", gradients are clipped before each step; "join", where one rank has more batches; "thrown",
all stop when one has none left.
Prints for each "done", or what went wrong.
"""

import datetime
import sys

import numpy as np
import torch
from torch.utils.checkpoint import checkpoint

from rowloom.client import connect
from rowloom.client.layers_torch import (
    Embedding,
    EmbeddingCollection,
    EmbeddingConfig,
    clip_grad_norm_,
    push_on_step,
)

ROWS, DIM, NAMES = 12, 4, ("a", "b")
DDP = torch.nn.parallel.DistributedDataParallel


class Rows(torch.nn.Module):
    """Rows of two embeddings, summed, then a dense layer."""

    def __init__(self, embeds, together=None, reentrant=False):
        super().__init__()
        self.reentrant = reentrant
        torch.manual_seed(0)
        self.embeds, self.together, self.dense = (
            torch.nn.ModuleDict(embeds),
            together,
            torch.nn.Linear(DIM, 1),
        )

    def forward(self, ids):
        """ids: of each embedding that is used."""
        if self.together is not None:
            rows = self.together(ids).values()
        elif self.reentrant:
            rows = [self.again(self.embeds[name], some) for name, some in ids.items()]
        else:
            rows = [self.embeds[name](some) for name, some in ids.items()]
        return self.dense(sum((some.sum(0) for some in rows), torch.ones(DIM)))

    def again(self, embed, ids):
        """Rows that are looked up again in the backward pass, which goes there only for an input with a gradient."""
        zero = torch.zeros(1, requires_grad=True)
        return checkpoint(lambda zero: embed(ids) + zero, zero, use_reentrant=True)


def pairs(client, tables, kind):
    """The model under test and one with torch's embeddings."""
    weights = {name: torch.from_numpy(table.pull(np.arange(ROWS)).copy()) for name, table in tables.items()}
    if "many" in kind:
        sizes = {"num_embeddings": ROWS, "embedding_dim": DIM}
        configs = [
            EmbeddingConfig(**sizes, name=table.name, feature_names=[name]) for name, table in tables.items()
        ]
        ours = Rows({}, EmbeddingCollection(client, configs))
    else:
        ours = Rows({name: Embedding(table) for name, table in tables.items()}, reentrant="reentrant" in kind)
    embeds = {name: torch.nn.Embedding(ROWS, DIM, _weight=some) for name, some in weights.items()}
    return ours, Rows(embeds, reentrant="reentrant" in kind)


def batch(rng, names):
    return {name: torch.from_numpy(rng.integers(0, ROWS, int(rng.integers(0, 4)))) for name in names}


def steps(kind, rank, count):
    """For each step, what happens in it: functions of a wrapped model."""
    common, mine = np.random.default_rng(1), np.random.default_rng(rank + 2)
    for _ in range(count):
        used = NAMES
        if "unused" in kind:
            used = [name for name in NAMES if mine.random() < 0.6]
        elif "static" in kind:
            used = NAMES[: 2 * rank]
        ids, more = batch(mine, used), batch(mine, used)
        once = "static" in kind or "reentrant" in kind
        what = "plain" if once else common.choice(["plain", "mixed", "looked at", "no_sync"])
        odd = bool(mine.random() < 0.5)
        yield lambda model, what=what, ids=ids, more=more, odd=odd: step(kind, model, what, ids, more, odd)


def step(kind, model, what, ids, more, odd):
    """odd: this rank does what others may leave."""
    if what == "no_sync" and "at_step" in kind:
        with model.no_sync():
            model(more).square().sum().backward()
    loss = model(ids).square().sum()
    if what == "mixed":
        loss = loss + model.module(more).square().sum()
    if what == "looked at" and odd:
        model.module(more)
    loss.backward()


def train(client, tables, rank, kind, count):
    ours, theirs = pairs(client, tables, kind)
    optimizers = [torch.optim.Adagrad(model.parameters(), lr=0.1) for model in (ours, theirs)]
    if "at_step" in kind:
        push_on_step(optimizers[0], ours)
    options = {
        "find_unused_parameters": "unused" in kind,
        "static_graph": "static" in kind,
        "gradient_as_bucket_view": "views" in kind,
    }
    wrapped = [DDP(model, **options) for model in (ours, theirs)]
    for n, one in enumerate(steps(kind, rank, count)):
        norms = []
        for model, optimizer in zip(wrapped, optimizers, strict=True):
            one(model)
            if "clipped" in kind:
                norms.append(clip(model))
            optimizer.step()
            optimizer.zero_grad()
        assert np.allclose(norms[:1], norms[1:], rtol=1e-5), f"step {n}: the norms {norms} differ"
        for name, table in tables.items():
            rows, expected = table.pull(np.arange(ROWS)), theirs.embeds[name].weight.detach()
            assert np.allclose(rows, expected, atol=1e-5), f"step {n}: rows of {name!r} differ"
        assert torch.allclose(ours.dense.weight, theirs.dense.weight, atol=1e-5), f"step {n}: dense differs"
        torch.distributed.barrier()


def clip(model):
    """Gradients, to less than most steps have. Returns their norm before."""
    if any(isinstance(m, torch.nn.Embedding) for m in model.modules()):
        return float(torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5))
    return float(clip_grad_norm_(model, 0.5))


def train_alone(client, tables, rank, kind):
    """One rank trains the module by itself, which averages nothing; without sync, both train the wrapped one."""
    ours, _ = pairs(client, tables, kind)
    wrapped = DDP(ours)
    wrapped(dict.fromkeys(NAMES, torch.tensor([1]))).sum().backward()
    before = tables["a"].pull(np.arange(ROWS)).copy()
    torch.distributed.barrier()
    if rank == 1:
        ours(dict.fromkeys(NAMES, torch.tensor([2]))).sum().backward()
    torch.distributed.barrier()
    changed = np.flatnonzero((tables["a"].pull(np.arange(ROWS)) != before).any(axis=1))
    assert list(changed) == [2], f"rows {list(changed)} changed"
    with wrapped.no_sync():
        wrapped(dict.fromkeys(NAMES, torch.tensor([3]))).sum().backward()
    step = np.abs(tables["a"].pull(np.array([3])) - before[3]).max()
    assert abs(step - 0.1) < 1e-5, f"Adagrad's first step is of 0.1, not of {step}: each rank took one"


def outcome(client, tables, rank, kind, count):
    try:
        if "alone" in kind:
            train_alone(client, tables, rank, kind)
        elif "join" in kind:
            model = DDP(pairs(client, tables, kind)[0])
            with model.join(throw_on_early_termination="thrown" in kind):
                for _ in range(1 + rank):
                    model(dict.fromkeys(NAMES, torch.tensor([1]))).sum().backward()
        else:
            train(client, tables, rank, kind, count)
    except Exception as e:
        return f"{type(e).__name__}: {e}".replace("\n", " ")
    return "done"


def main(rank, store, address, count, kinds):
    torch.set_num_threads(1)
    with connect(address) as client:
        for n, kind in enumerate(kinds):
            torch.distributed.init_process_group(
                "gloo",
                init_method=f"file://{store}{n}",
                rank=rank,
                world_size=2,
                timeout=datetime.timedelta(seconds=8),
            )
            tables = {name: client.table(f"{name}{n}") for name in NAMES}
            print(outcome(client, tables, rank, kind, count), flush=True)
            torch.distributed.destroy_process_group()
    sys.stdin.read()  # a rank of gloo aborts when it sees that another has ended: whoever started them ends all


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4]), sys.argv[5:])
