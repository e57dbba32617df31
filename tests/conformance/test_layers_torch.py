"""Embedding over a table beside torch.nn.Embedding."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torch_beside import DIM, V, a_table, equal, pushed, torch, touched, twin

from rowloom.client import SGD, InvalidRequest, Normal, TableExists, TableSpec
from rowloom.client.layers_torch import Embedding

Theirs = torch.nn.Embedding


@settings(max_examples=60)
@given(
    st.lists(st.integers(0, V - 1), max_size=24),
    st.sampled_from([(-1,), (-1, 2), (-1, 2, 3)]),
    st.sampled_from([None, 0, 4, -1, -V]),
    st.sampled_from([None, 0.5, 1.0, 100.0]),
    st.sampled_from([1.0, 2.0, 3.5, float("inf")]),
    st.booleans(),
    st.sampled_from([torch.int64, torch.int32]),
)
def test_rows_gradients_and_renormed_tables_are_those_of_torch(
    ids, shape, padding_idx, max_norm, norm_type, by_frequency, dtype
):
    table = a_table()
    how = dict(
        padding_idx=padding_idx, max_norm=max_norm, norm_type=norm_type, scale_grad_by_freq=by_frequency
    )
    theirs, ours = twin(Theirs, table, **how), Embedding(table, **how)
    block = int(np.prod(shape[1:]))
    ids = torch.tensor(ids[: len(ids) // block * block], dtype=dtype).reshape(len(ids) // block, *shape[1:])
    expected, got = theirs(ids), ours(ids)
    equal(got, expected, 1e-6)
    equal(table.rows, theirs.weight, 1e-6)
    upstream = torch.randn(expected.shape, generator=torch.Generator().manual_seed(1))
    expected.backward(upstream)
    got.backward(upstream)
    equal(pushed(table), theirs.weight.grad, 1e-5)
    assert touched(table) == set(ids.reshape(-1).tolist()) - {ours.padding_idx}


def test_ids_may_be_a_scalar_and_rows_may_be_matrices():
    table = a_table(dim=(2, 4))
    ours = Embedding(table)
    equal(ours(torch.tensor(3)), table.rows[3])
    out = ours(torch.tensor([[3, 1, 3]]))
    equal(out, table.rows[[[3, 1, 3]]])
    out.sum().backward()
    expected = np.zeros_like(table.rows)
    expected[3], expected[1] = 2, 1
    equal(pushed(table), expected)


def test_a_batch_is_pulled_with_one_call_and_what_is_kept_of_it_is_a_copy(monkeypatch):
    table = a_table()
    asked = []
    monkeypatch.setattr(table, "pull", lambda ids: asked.append(ids.tolist()) or table.rows[ids])
    ids = torch.tensor([[5, 2], [5, 5]])
    out = Embedding(table)(ids)  # `Table.pull` asks for each id once
    ids.fill_(3)
    out.sum().backward()
    assert asked == [[5, 2, 5, 5]]
    assert touched(table) == {2, 5}


def test_no_ids_ask_nothing_and_push_nothing():
    table = a_table()
    out = Embedding(table, max_norm=1.0)(torch.zeros(2, 0, dtype=torch.int64))
    assert out.shape == (2, 0, DIM)
    out.sum().backward()
    assert (table.pulls, table.pushes) == (0, [])


def test_the_padding_row_is_returned_as_it_is_and_never_pushed():
    for padding_idx, row in ((0, 0), (-2, V - 2)):
        table = a_table()
        ours = Embedding(table, padding_idx=padding_idx)
        table.assign([row], np.full((1, DIM), 7.0))
        out = ours(torch.tensor([row, 2, row]))
        equal(out[0], np.full(DIM, 7.0, np.float32))
        out.sum().backward()
        assert touched(table) == {2}
        assert (ours.padding_idx, ours.num_embeddings, ours.embedding_dim) == (row, V, DIM)


@pytest.mark.parametrize("n", [1, 2, 1000])
@pytest.mark.parametrize("others", [[], [1, 3], [2]])
def test_padding_gets_no_gradient_however_often_it_occurs(n, others):
    table = a_table()
    Embedding(table, padding_idx=0)(torch.tensor(others + [0] * n)).sum().backward()
    assert touched(table) == set(others)


def test_max_norm_changes_the_table_and_the_gradient_is_of_the_new_row():
    table = a_table(4, 4)
    table.rows *= 5
    out = Embedding(table, max_norm=1.0)(torch.tensor([0, 1, 2, 2]))
    assert (out.norm(dim=1) <= 1).all()
    equal(out[2], out[3])
    equal(table.rows[[0, 1, 2]], out[:3])
    assert np.linalg.norm(table.rows[3]) > 1
    out.sum().backward()
    equal(pushed(table), np.array([[1.0], [1], [2], [0]], np.float32).repeat(4, 1))


@pytest.mark.parametrize("mode", ["eval", "no_grad", "frozen"])
def test_max_norm_holds_without_training_too(mode):
    table = a_table(frozen=mode == "frozen")
    layer = Embedding(table, max_norm=0.1)
    with torch.set_grad_enabled(mode != "no_grad"):
        layer.train(mode != "eval")(torch.tensor([1, 2]))
    assert np.linalg.norm(table.rows[[1, 2]], axis=1).max() <= 0.1


def test_gradients_of_two_backward_passes_arrive_both():
    table = a_table()
    theirs, ours = twin(Theirs, table, sparse=True), Embedding(table, sparse=True)
    for module in (theirs, ours):
        loss = module(torch.tensor([7, 1, 3])).sum()
        loss.backward(retain_graph=True)
        loss.backward()
        module(torch.tensor([8, 1])).sum().backward()
    equal(pushed(table), theirs.weight.grad.to_dense())
    assert len(table.pushes) == 3


def test_sparse_gradients_go_with_scale_grad_by_freq():
    table = a_table()
    Embedding(table, sparse=True, scale_grad_by_freq=True)(torch.tensor([4, 4, 4, 2])).sum().backward()
    expected = np.zeros_like(table.rows)
    expected[[2, 4]] = 1
    equal(pushed(table), expected, 1e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_a_layer_of_another_type_gives_rows_of_that_type(dtype):
    table = a_table()
    theirs, ours = twin(Theirs, table, dtype=dtype), Embedding(table).to(dtype)
    ids = torch.tensor([[2, 8, 2]])
    assert ours(ids).dtype == dtype
    equal(ours(ids), theirs(ids))
    for module in (theirs, ours):
        module(ids).sum().backward()
    equal(pushed(table), theirs.weight.grad)
    assert (ours.num_embeddings, ours.embedding_dim) == (V, DIM)


@pytest.mark.parametrize(
    "input",
    [
        torch.tensor([V]),
        torch.tensor([-1]),
        torch.tensor([1.0]),
        torch.tensor([1], dtype=torch.int16),
        torch.tensor([True]),
        [1, 2],
    ],
    ids=str,
)
def test_bad_ids_raise_what_torch_raises(input):
    table = a_table()
    with pytest.raises(Exception) as theirs:  # noqa: PT011  # whatever it is, ours must be one
        twin(Theirs, table)(input)
    with pytest.raises(theirs.type, match="input") as ours:
        Embedding(table, max_norm=0.1)(input)
    assert isinstance(ours.value, InvalidRequest)
    equal(table.rows, a_table().rows)


@pytest.mark.parametrize("padding_idx", [V, V + 9, -V - 1])
def test_a_padding_idx_out_of_range_raises_what_torch_raises(padding_idx):
    with pytest.raises(AssertionError):
        Theirs(V, DIM, padding_idx=padding_idx)
    with pytest.raises(AssertionError, match=f"padding_idx .*{V}, got {padding_idx}") as ours:
        Embedding(a_table(), padding_idx=padding_idx)
    assert isinstance(ours.value, InvalidRequest)


def test_wrong_arguments_are_named():
    with pytest.raises(TypeError, match=r"table must be a Table.*got 10.*Embedding.create"):
        Embedding(10, 3)  # type: ignore[arg-type]
    with pytest.raises(InvalidRequest, match="max_norm must be above 0, got 0"):
        Embedding(a_table(), max_norm=0)
    with pytest.raises(AssertionError, match=r"padding_idx.*None, got -1"):
        Embedding(a_table(v=None), padding_idx=-1)
    with pytest.raises(InvalidRequest, match="client and name"):
        Embedding.from_pretrained(torch.zeros(2, 3))
    with pytest.raises(AttributeError, match=r"layer\.table\.pull"):
        _ = Embedding(a_table()).weight


# ----------------------------------------------------------------------------------------------- on a real cluster


@pytest.mark.parametrize("partition", ["mod", "div"])
def test_on_shards_rows_are_renormed_looked_up_and_trained_as_in_torch(client, partition):
    spec = TableSpec("t", 50, 4, partition=partition, optimizer=SGD(lr=0.5), initializer=Normal(std=2.0))
    table = client.create_table(spec)
    how = dict(padding_idx=-3, max_norm=1.5, scale_grad_by_freq=True)
    theirs, ours = Theirs(50, 4, **how), Embedding(table, **how)
    with torch.no_grad():
        theirs.weight.copy_(torch.from_numpy(table.pull(np.arange(50))))
    optimizer = torch.optim.SGD(theirs.parameters(), lr=0.5)
    generator = torch.Generator().manual_seed(3)
    for _ in range(20):
        ids = torch.randint(0, 50, (6, 5), generator=generator)
        expected, got = theirs(ids), ours(ids)
        equal(got, expected, 1e-6)
        optimizer.zero_grad()
        (expected**2).sum().backward()
        (got**2).sum().backward()
        optimizer.step()
    equal(table.pull(np.arange(50)), theirs.weight, 1e-6)


@pytest.mark.parametrize(
    "dtype", [torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.float32, torch.float64]
)
def test_from_pretrained_takes_rows_of_any_type(client, dtype):
    rows = torch.tensor([[1, 2, 3], [4, 5, 6]], dtype=dtype)
    layer = Embedding.from_pretrained(rows, client=client, name="pretrained")
    equal(layer(torch.tensor([0, 1])), rows)
    assert layer.table.spec.frozen
    assert not layer(torch.tensor([0])).requires_grad


def test_from_pretrained_keeps_the_padding_row_and_the_options(client):
    rows = torch.rand(4, 3)
    how = dict(padding_idx=2, max_norm=0.2, norm_type=0.5, sparse=True)
    layer = Embedding.from_pretrained(rows, client=client, name="a", **how)
    theirs = Theirs.from_pretrained(rows.clone(), **how)
    ids = torch.tensor([0, 1, 2])
    equal(layer(ids), theirs(ids), 1e-6)
    equal(layer.table.pull(np.arange(4)), theirs.weight, 1e-6)


def test_from_pretrained_not_frozen_is_trained(client):
    layer = Embedding.from_pretrained(
        torch.ones(4, 3), freeze=False, client=client, name="a", optimizer=SGD(lr=1.0)
    )
    layer(torch.tensor([1, 1])).sum().backward()
    equal(layer.table.pull([0, 1]), np.array([[1, 1, 1], [-1, -1, -1]], np.float32))


def test_from_pretrained_over_a_table_that_is_there_freezes_only_the_layer(client):
    table = client.create_table(TableSpec("a", 5, 2, optimizer=SGD(lr=1.0)))
    assert not Embedding.from_pretrained(table)(torch.tensor([1])).requires_grad
    assert Embedding.from_pretrained(table, freeze=False)(torch.tensor([1])).requires_grad
    with pytest.raises(TableExists, match=r"'a' is already there"):
        Embedding.from_pretrained(torch.zeros(5, 2), client=client, name="a")
    with pytest.raises(AssertionError, match=r"2-dimensional.*\(4,\)"):
        Embedding.from_pretrained(torch.zeros(4), client=client, name="b")


def test_create_makes_normal_rows_with_zeros_for_padding_and_leaves_a_table_that_is_there_alone(client):
    how = dict(padding_idx=-1, optimizer=SGD(lr=1.0))
    layer = Embedding.create(client, "made", 1000, 8, **how)
    rows = layer.table.pull(np.arange(1000))
    assert not rows[999].any()
    assert abs(rows[:999].mean()) < 0.05
    assert abs(rows[:999].std() - 1) < 0.05
    layer.table.assign([999, 0], np.ones((2, 8)))
    again = Embedding.create(client, "made", 1000, 8, **how)
    equal(again(torch.tensor([999, 0])), np.ones((2, 8), np.float32))
