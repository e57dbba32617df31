"""Where layers over tables once did something else than PyTorch, and nobody heard of it."""

import copy
import pickle

import numpy as np
import pytest
from torch_beside import a_table, equal, pushed, torch, touched, twin

from rowloom.client import SGD, InvalidRequest, TableSpec
from rowloom.client.layers_torch import (
    Embedding,
    EmbeddingBag,
    EmbeddingCollection,
    EmbeddingConfig,
    PrefetchLoader,
    clip_grad_norm_,
    prefetched,
    push_on_step,
)

IDS = torch.tensor([1, 2, 3])


def model_of(table, **how):
    return torch.nn.ModuleList([Embedding(table, **how), torch.nn.Linear(3, 1)])


def loss_of(model, ids=IDS):
    return model[1](model[0](ids)).sum()


# --------------------------------------------------------------------------------------- gradients that do not count


def test_a_gradient_of_padding_that_was_not_finite_made_the_whole_model_so():
    table = a_table()
    layer = Embedding(table, padding_idx=0)
    theirs = twin(torch.nn.Embedding, table, padding_idx=0)
    theirs.weight.grad = None
    upstream = torch.ones(3, 3)
    upstream[1] = float("nan")
    ids = torch.tensor([4, 0, 5])
    for one in (layer, theirs):
        one(ids).backward(upstream)
    assert torch.isfinite(layer.anchor.grad).all()
    equal(pushed(table), theirs.weight.grad)
    layer(ids).backward(torch.full((3, 3), float("nan")))
    assert torch.isnan(layer.anchor.grad).all()


def test_a_collection_said_the_same_of_padding(client):
    configs = [
        EmbeddingConfig(num_embeddings=9, embedding_dim=3, name=name, feature_names=[name], padding_idx=pad)
        for name, pad in (("a", 0), ("b", None))
    ]
    embed = EmbeddingCollection(client, configs)
    rows = embed({"a": torch.tensor([0, 1]), "b": torch.tensor([2])})
    upstream = torch.tensor([[float("nan")] * 3, [1.0] * 3])
    torch.autograd.backward([rows["a"], rows["b"]], [upstream, torch.ones(1, 3)])
    assert torch.isfinite(embed.anchor.grad).all()


def test_a_clipped_step_with_padding_that_was_not_finite_trained_nan():
    table = a_table()
    model = model_of(table, padding_idx=0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    push_on_step(optimizer, model)
    ids = torch.tensor([4, 0])
    rows = model[0](ids)
    (model[1](rows).sum() + (rows[1] * float("nan")).sum()).backward()
    model[1].zero_grad()
    assert torch.isfinite(clip_grad_norm_(model, 1.0))
    optimizer.step()
    assert touched(table) == {4}


def test_a_gradient_with_the_negative_bit_was_an_error():
    table = a_table()
    layer, theirs = Embedding(table), twin(torch.nn.Embedding, table)
    for one in (layer, theirs):
        rows = one(IDS)
        z = torch.complex(torch.ones_like(rows), rows).conj()
        (z * z).imag.sum().backward()
    equal(pushed(table), theirs.weight.grad)


# ------------------------------------------------------------------------------------------------------------ steps


@pytest.mark.parametrize("together", [False, True])
def test_a_copy_of_what_pushes_at_steps_trained_nothing_without_a_word(together):
    table = a_table()
    model = model_of(table)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    push_on_step(optimizer, model)
    other, theirs = copy.deepcopy((model, optimizer)) if together else (copy.deepcopy(model), None)
    theirs = theirs or torch.optim.SGD(other.parameters(), lr=0.1)
    loss_of(other)  # to look rows up is no fault
    with pytest.raises(InvalidRequest, match=r"call push_on_step\(optimizer, model\) for the copy"):
        loss_of(other).backward()
    theirs.zero_grad()
    push_on_step(theirs, other)
    loss_of(other).backward()
    theirs.step()
    assert touched(table) == {1, 2, 3}
    loss_of(model).backward()
    optimizer.step()
    assert len(table.pushes) == 2


def test_a_pickled_layer_that_pushed_at_steps_says_so_too(client):
    table = client.create_table(TableSpec("t", 11, dim=3, optimizer=SGD(lr=1.0)))
    model = model_of(table)
    push_on_step(torch.optim.SGD(model.parameters(), lr=0.1), model)
    again = pickle.loads(pickle.dumps(model))
    with pytest.raises(InvalidRequest, match="a copy of a layer"):
        loss_of(again).backward()


def test_two_optimizers_of_one_layer_pushed_once_where_torch_steps_twice():
    table = a_table()
    model = model_of(table)
    one, other = (torch.optim.SGD(model.parameters(), lr=0.1) for _ in range(2))
    handle = push_on_step(one, model)
    with pytest.raises(InvalidRequest, match=r"another optimizer pushes .* 't' .* call remove\(\)"):
        push_on_step(other, model)
    loss_of(model).backward()
    other.step()
    assert table.pushes == []
    handle.remove()
    push_on_step(other, model)
    push_on_step(other, model)  # again, as with a scaler that was left out
    del one, other, handle
    last = torch.optim.SGD(model.parameters(), lr=0.1)
    push_on_step(last, model)  # the other one is gone: a notebook's cell is run again
    loss_of(model).backward()
    last.step()
    assert len(table.pushes) == 1


def test_an_optimizer_that_steps_within_the_backward_pass_lost_all_rows():
    table = a_table()
    before = table.rows.copy()
    model = model_of(table)
    theirs = torch.nn.ModuleList([twin(torch.nn.Embedding, table), copy.deepcopy(model[1])])
    for one in (model, theirs):
        optimizers = {
            p: torch.optim.SGD([p], lr=1.0 if p.dim() == 2 and len(p) > 1 else 0.1) for p in one.parameters()
        }
        if one is model:
            push_on_step(optimizers[model[0].anchor], model)

        def hook(parameter, optimizers=optimizers):
            optimizers[parameter].step()
            optimizers[parameter].zero_grad()

        for parameter in one.parameters():
            parameter.register_post_accumulate_grad_hook(hook)
        for _ in range(3):
            loss_of(one).backward()
    equal(table.rows, theirs[0].weight)
    assert not np.array_equal(before, table.rows)


# ----------------------------------------------------------------------------------------------- rows pulled ahead


@pytest.mark.parametrize("kind", [Embedding, EmbeddingBag])
def test_rows_pulled_ahead_were_those_of_before_another_layer_renormed_them(kind):
    table = a_table()
    table.rows *= 100
    ids = IDS if kind is Embedding else IDS[:, None]
    with prefetched(table, {"t": ids}):
        kind(table, max_norm=0.01)(ids)
        rows = kind(table)(ids)
    assert rows.norm(dim=-1).max() <= 0.011


def test_loops_over_two_loaders_left_the_rows_of_their_batches_behind(client):
    tables = [client.create_table(TableSpec(name, 11, dim=3, optimizer=SGD(lr=1.0))) for name in ("a", "b")]
    layers = [Embedding(table) for table in tables]
    batches = [torch.tensor([k, k + 1]) for k in range(0, 6, 2)]
    loaders = [
        PrefetchLoader(batches, client, {table.name: lambda batch: batch}, depth=3) for table in tables
    ]
    with torch.no_grad():
        turns = zip(*loaders, strict=False)
        next(turns)
        for table in tables:  # of rows that are pulled ahead this is not seen
            table.assign(np.arange(11), np.ones((11, 3), np.float32))
        for turn in turns:
            for (batch, rows), table, layer in zip(turn, tables, layers, strict=True):
                equal(layer(batch), rows[table.name])
        del (
            turns,
            turn,
        )  # as at the end of `for turn in zip(...)`: the second loader was not asked for its end
        for layer in layers:
            for batch in batches:
                equal(layer(batch), torch.ones(2, 3))


# --------------------------------------------------------------------------------------------------------- refusals


def made_fx(model):
    from torch.fx.experimental.proxy_tensor import make_fx

    return make_fx(model)(IDS)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("freeze", [True, False])
@pytest.mark.parametrize(
    "written_down",
    [
        lambda model: torch.jit.trace(model, (IDS,)),
        lambda model: torch.jit.script(model),
        made_fx,
        lambda model: torch.fx.symbolic_trace(model),
        lambda model: torch.export.export(model, (IDS,), strict=False),
    ],
)
def test_a_traced_layer_gave_the_rows_of_its_example(written_down, freeze):
    with pytest.raises(NotImplementedError, match=r"rows of the example"):
        written_down(torch.nn.Sequential(Embedding(a_table()).freeze(freeze)))


@pytest.mark.parametrize(
    "look_up",
    [
        lambda layer: torch.func.vmap(layer)(IDS[:, None]),
        lambda layer: layer(IDS.to("meta")),
        lambda layer: layer(torch.nested.nested_tensor([IDS, IDS[:1]], layout=torch.jagged)),
    ],
)
def test_ids_without_numbers_are_refused_in_words(look_up):
    with pytest.raises(InvalidRequest, match="ids must be numbers that a layer over a table can send"):
        look_up(Embedding(a_table()))
