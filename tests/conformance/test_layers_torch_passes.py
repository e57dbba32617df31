"""Backward passes and steps in which rows were trained with other gradients than a weight of PyTorch gets."""

import copy

import numpy as np
import pytest
from torch_beside import a_table, equal, pushed, torch, touched, twin

from rowloom.client import Adagrad, InvalidRequest, TableSpec
from rowloom.client.layers_torch import Embedding, EmbeddingCollection, EmbeddingConfig, push_on_step

IDS = torch.tensor([1, 2, 3])


def scaled(**how):
    return torch.amp.GradScaler("cpu", init_scale=2.0**16, **how)


# ------------------------------------------------------------------------------------------------------ GradScaler


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("other", [False, True])
def test_rows_were_pushed_65536_times_too_large_if_the_scaler_was_not_given(fused, other):
    table = a_table()
    model = torch.nn.ModuleList([Embedding(table), torch.nn.Linear(3, 1)])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, fused=fused)
    scaler = scaled()
    push_on_step(optimizer, model, scaler=scaled() if other else None)
    dense = model[1].weight.detach().clone()
    scaler.scale(model[1](model[0](IDS)).sum()).backward()
    with pytest.raises(
        InvalidRequest, match=r"scale 65536 .*'t'.*push_on_step\(optimizer, model, scaler=scaler\)"
    ):
        scaler.step(optimizer)
    assert table.pushes == []
    equal(model[1].weight, dense)


@pytest.mark.parametrize("frozen", [False, True])
def test_a_scaler_that_scales_nothing_of_a_table_need_not_be_given(frozen):
    table = a_table()
    model = torch.nn.ModuleList([Embedding(table).freeze(frozen), torch.nn.Linear(3, 1)])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    push_on_step(optimizer, model)
    scaler = scaled(enabled=frozen)
    scaler.scale((model[0](IDS) * model[1].bias).sum()).backward()
    scaler.step(optimizer)
    assert touched(table) == (set() if frozen else {1, 2, 3})


# ------------------------------------------------------------------------------------------ what a weight would do


@pytest.mark.parametrize(
    "freeze", [lambda layer: layer.freeze(True), lambda layer: layer.requires_grad_(False)]
)
@pytest.mark.parametrize("at_step", [False, True])
def test_rows_frozen_between_the_passes_were_trained_all_the_same(client, freeze, at_step):
    tables = [client.create_table(TableSpec(name, 5, dim=2)) for name in ("a", "b")]
    one = Embedding(tables[0])
    config = EmbeddingConfig(num_embeddings=5, embedding_dim=2, name="b", feature_names=["b"])
    many = EmbeddingCollection(client, [config])
    model = torch.nn.ModuleList([one, many, torch.nn.Linear(2, 1)])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    if at_step:
        push_on_step(optimizer, model)
    every, trained = torch.arange(5), torch.tensor([0, 4])
    before = [table.pull(every) for table in tables]

    def loss_of(ids):
        return model[2](one(ids) + many({"b": ids})["b"]).sum()

    loss_of(trained).backward()
    loss = loss_of(IDS)
    for layer in (one, many):
        freeze(layer)
    loss.backward()
    optimizer.step()
    for table, rows in zip(tables, before, strict=True):
        assert np.flatnonzero((table.pull(every) != rows).any(1)).tolist() == trained.tolist()


def test_rows_descended_where_the_optimizer_maximizes():
    tables = [a_table(), a_table(name="other")]
    models = [
        torch.nn.ModuleList([make(table) for table in tables])
        for make in (Embedding, lambda t: twin(torch.nn.Embedding, t))
    ]
    for model in models:
        groups = [{"params": model[0].parameters(), "maximize": True}, {"params": model[1].parameters()}]
        optimizer = torch.optim.SGD(groups, lr=1.0)
        if model is models[0]:
            push_on_step(optimizer, model)
        (model[0](IDS) * model[1](IDS)).sum().backward()
        optimizer.step()
    for table, theirs in zip(tables, models[1], strict=True):
        equal(table.rows, theirs.weight, 1e-6)


# ------------------------------------------------------------------------------------------- passes within passes


def again(segment, *args):
    """A reentrant checkpoint, which has a backward pass of its own; that comes to an input with a gradient only."""
    zero = torch.zeros(1, requires_grad=True)
    return torch.utils.checkpoint.checkpoint(
        lambda zero, *args: segment(*args) + zero, zero, *args, use_reentrant=True
    )


def cubed(look_up):
    return lambda ids: look_up(ids).pow(3)


def segments(look_up):
    return again(cubed(look_up), IDS).sum() + again(cubed(look_up), IDS).sum() + look_up(IDS).sum()


def nested(look_up):
    inner = cubed(look_up)

    def middle(ids):
        return again(inner, ids) * again(inner, ids)

    return again(middle, IDS).sum() + again(middle, IDS).sum()


@pytest.mark.parametrize("loss", [segments, nested])
@pytest.mark.parametrize("at_step", [False, True])
def test_checkpoints_of_one_table_saw_rows_that_the_pass_itself_had_pushed(loss, at_step):
    table = a_table(optimizer=Adagrad(lr=0.1))
    layer, theirs = Embedding(table), twin(torch.nn.Embedding, table)
    optimizers = [torch.optim.SGD(one.parameters(), lr=0.0) for one in (layer, theirs)]
    if at_step:
        push_on_step(optimizers[0], layer)
    for one, optimizer in zip((layer, theirs), optimizers, strict=True):
        loss(one).backward()
        optimizer.step()
    assert len(table.pushes) == 1
    equal(pushed(table), theirs.weight.grad, 1e-4 * float(theirs.weight.grad.abs().max()))


def fail(grad=None):
    raise ArithmeticError("on purpose")


@pytest.mark.parametrize("inner", [False, True])
def test_a_checkpoint_that_fails_takes_nothing_of_later_passes_with_it(inner):
    table = a_table()
    layer = Embedding(table)

    def fails(ids):
        rows = layer(ids)
        if torch.is_grad_enabled():  # in the backward pass
            rows.register_hook(fail) if inner else fail()
        return rows

    loss = again(fails, IDS).sum() + again(layer, IDS).sum()  # the second one's pass comes first
    with pytest.raises(ArithmeticError, match="on purpose") as kept:
        loss.backward()
    assert table.pushes == []
    layer(IDS[:1]).sum().backward()
    again(layer, IDS[1:2]).sum().backward()
    assert touched(table) == {1, 2}
    assert kept.traceback


def test_an_optimizer_that_steps_within_the_pass_of_a_checkpoint_has_its_rows():
    table = a_table()
    model = torch.nn.ModuleList([Embedding(table), torch.nn.Linear(3, 1)])
    theirs = torch.nn.ModuleList([twin(torch.nn.Embedding, table), copy.deepcopy(model[1])])
    for one in (model, theirs):
        table_like = next(iter(one[0].parameters()))
        optimizer = torch.optim.SGD([table_like], lr=1.0)
        if one is model:
            push_on_step(optimizer, one)

        def hook(parameter, optimizer=optimizer):
            optimizer.step()
            optimizer.zero_grad()

        table_like.register_post_accumulate_grad_hook(hook)
        one[1](again(one[0], IDS)).sum().backward()
    equal(table.rows, theirs[0].weight)
