"""What of a training loop is a step of the tables' optimizers, and what is dropped: every layer beside torch's own."""

import numpy as np
import pytest
from torch_beside import equal, torch

from rowloom.client import Adam, TableSpec
from rowloom.client.layers_torch import (
    Embedding,
    EmbeddingBag,
    EmbeddingBagCollection,
    EmbeddingBagConfig,
    EmbeddingCollection,
    EmbeddingConfig,
    clip_grad_norm_,
    push_on_step,
)

V, DIM, LR = 10, 2, 0.1
ROWS = torch.arange(V * DIM).reshape(V, DIM) / 10
KINDS = ["embedding", "bag", "collection", "bag collection"]


class Model(torch.nn.Module):
    """Rows of ids [N] times a weight: [N]. Ids of 0 are padding."""

    def __init__(self, embed, kind):
        super().__init__()
        self.embed, self.kind = embed, kind
        self.weight = torch.nn.Parameter(torch.ones(DIM))

    def rows(self, ids):
        ids = torch.tensor(ids, dtype=torch.int64)
        given = ids[:, None] if "bag" in self.kind else ids
        if "collection" not in self.kind:
            return self.embed(given)
        rows = self.embed({"f": given})
        return rows["f"] if isinstance(rows, dict) else rows

    def forward(self, ids):
        return (self.rows(ids) * self.weight).sum(1)


def ours(client, kind):
    table = client.create_table(TableSpec("t", V, dim=DIM, optimizer=Adam(lr=LR)))
    table.assign(np.arange(V), ROWS.numpy())
    how = {
        "num_embeddings": V,
        "embedding_dim": DIM,
        "name": "t",
        "feature_names": ["f"],
        "padding_idx": 0,
    }
    if kind == "embedding":
        embed = Embedding(table, padding_idx=0)
    elif kind == "bag":
        embed = EmbeddingBag(table, mode="sum", padding_idx=0)
    elif kind == "collection":
        embed = EmbeddingCollection(client, [EmbeddingConfig(**how)])
    else:
        embed = EmbeddingBagCollection(client, [EmbeddingBagConfig(**how)])
    return Model(embed, kind), table


def theirs(kind):
    how = {"freeze": False, "padding_idx": 0, "sparse": True}
    if "bag" in kind:
        return Model(torch.nn.EmbeddingBag.from_pretrained(ROWS.clone(), mode="sum", **how), "bag")
    return Model(torch.nn.Embedding.from_pretrained(ROWS.clone(), **how), "embedding")


class Both:
    """A model of each kind and what trains it: our dense optimizer, and theirs of the dense part and of the rows."""

    def __init__(self, client, kind, at_step=True, scaler=None):
        self.mine, self.table = ours(client, kind)
        self.other = theirs(kind)
        dense = torch.optim.SGD(self.mine.parameters(), lr=LR)
        if at_step:
            push_on_step(dense, self.mine, scaler=scaler)
        self.trained = [
            (self.mine, [dense]),
            (
                self.other,
                [
                    torch.optim.SGD([self.other.weight], lr=LR),
                    torch.optim.SparseAdam([self.other.embed.weight], lr=LR),
                ],
            ),
        ]

    def run(self, loop):
        for model, optimizers in self.trained:
            loop(model, Several(optimizers))
        equal(self.table.pull(np.arange(V)), self.other.embed.weight, 1e-5)
        equal(self.mine.weight, self.other.weight, 1e-5)


class Several:
    """Optimizers as one."""

    def __init__(self, optimizers):
        self.all = optimizers

    def step(self):
        for one in self.all:
            one.step()

    def zero_grad(self, **how):
        for one in self.all:
            one.zero_grad(**how)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("at_step", [False, True])
def test_a_batch_of_padding_only_or_of_no_ids_is_a_step_where_torch_counts_one(client, kind, at_step):
    def loop(model, optimizer):
        for ids in ([1, 2], [0, 0], [], [0], [1, 3], [2]):
            model(ids).sum().backward()
            optimizer.step()
            optimizer.zero_grad()

    Both(client, kind, at_step).run(loop)


@pytest.mark.parametrize("kind", KINDS)
def test_steps_without_a_backward_pass_and_passes_without_the_layer_are_none(client, kind):
    def loop(model, optimizer):
        for ids in ([1, 2], None, [1], None, [2, 2]):
            (model.weight.sum() if ids is None else model(ids).sum()).backward()
            optimizer.step()
            optimizer.zero_grad()
            optimizer.step()

    Both(client, kind).run(loop)


@pytest.mark.parametrize("kind", KINDS)
def test_a_graph_that_is_kept_adds_its_gradients_again_and_padding_among_them_adds_none(client, kind):
    def loop(model, optimizer):
        for ids in ([1, 2, 1], [3, 0], [0]):
            loss = (model(ids) ** 2).sum()
            loss.backward(retain_graph=True)
            loss.backward()
            (model([0]) * 3).sum().backward()
            optimizer.step()
            optimizer.zero_grad()

    Both(client, kind).run(loop)


@pytest.mark.parametrize("kind", KINDS)
def test_a_gradient_penalty_is_part_of_the_step_and_asking_for_the_slope_is_none(client, kind):
    def loop(model, optimizer):
        for ids in ([1, 2, 1], [3, 0]):
            rows = model.rows(ids)
            score = ((rows * model.weight) ** 3).sum()
            (slope,) = torch.autograd.grad(score, rows, create_graph=True)
            (score + (slope**2).sum()).backward()
            optimizer.step()
            optimizer.zero_grad()

    Both(client, kind).run(loop)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("to_none", [True, False])
def test_gradients_that_zero_grad_drops_are_never_pushed(client, kind, to_none):
    """With set_to_none=False they once were, by the next step."""

    def loop(model, optimizer):
        for dropped, ids in (([4, 5], [1, 2]), ([6], [3]), ([1], [1])):
            (model(dropped) * 7).sum().backward()
            optimizer.zero_grad(set_to_none=to_none)
            model(ids).sum().backward()
            optimizer.step()
            optimizer.zero_grad()

    both = Both(client, kind)
    both.run(loop)
    equal(both.table.pull([4, 5, 6]), ROWS[4:7])


@pytest.mark.parametrize("to_none", [True, False])
def test_a_step_that_a_scaler_skipped_leaves_nothing_for_the_next_one(client, to_none):
    """The gradients that overflowed once waited on, where zero_grad leaves zeros."""
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10, growth_interval=100)
    both = Both(client, "embedding", scaler=scaler)
    model, (optimizer,) = both.trained[0]
    for ids, factor in (([1, 2], 1.0), ([4], float("inf")), ([1, 3], 1.0)):
        scaler.scale((model(ids) * factor).sum()).backward()
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad(set_to_none=to_none)

    def loop(model, optimizer):
        for ids in ([1, 2], [1, 3]):
            model(ids).sum().backward()
            optimizer.step()
            optimizer.zero_grad()

    both.trained = both.trained[1:]
    both.run(loop)


@pytest.mark.parametrize("kind", KINDS)
def test_accumulated_gradients_are_clipped_as_torch_clips_dense_ones(client, kind):
    def loop(model, optimizer):
        for many in ([[1, 2], [2, 0], [0]], [[3], [1, 1]]):
            for ids in many:
                (model(ids) ** 2).sum().backward()
            clip(model)
            optimizer.step()
            optimizer.zero_grad()

    def clip(model):
        if model is both.mine:
            clip_grad_norm_(model, 0.5)
            return
        rows = model.embed.weight.grad.coalesce()
        norm = torch.cat([rows.values().reshape(-1), model.weight.grad]).norm()
        scale = min(1.0, float(0.5 / (norm + 1e-6)))
        model.embed.weight.grad = rows * scale
        model.weight.grad *= scale

    both = Both(client, kind)
    both.run(loop)
