"""EmbeddingBag over a table beside torch.nn.EmbeddingBag."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torch_beside import DIM, V, a_table, equal, pushed, torch, touched, twin

from rowloom.client import SGD, InvalidRequest, Normal, TableSpec
from rowloom.client.layers_torch import Embedding, EmbeddingBag

Theirs = torch.nn.EmbeddingBag
MODES = ["sum", "mean", "max"]
INTEGERS = [torch.int32, torch.int64]


def reference(ids, weight, bounds, mode, weights=None):
    """Bags one by one. bounds: [(begin, end)]."""
    out = []
    for begin, end in bounds:
        rows = weight[ids[begin:end].long()]
        if weights is not None:
            rows = rows * weights[begin:end, None]
        if begin == end:
            out.append(torch.zeros(weight.shape[1], dtype=weight.dtype))
        else:
            out.append({"sum": rows.sum(0), "mean": rows.mean(0), "max": rows.amax(0)}[mode])
    return torch.stack(out)


@settings(max_examples=150)
@given(
    st.lists(st.lists(st.integers(0, V - 1), max_size=6), min_size=1, max_size=7),
    st.sampled_from(MODES),
    st.sampled_from([None, 0, -1, 5]),
    st.sampled_from([None, 0.7]),
    st.tuples(st.booleans(), st.booleans(), st.booleans()),
    st.tuples(st.sampled_from(INTEGERS), st.sampled_from(INTEGERS)),
)
def test_bags_their_gradients_and_renormed_tables_are_those_of_torch(
    bags, mode, padding_idx, max_norm, flags, types
):
    last, by_frequency, weighted = flags
    by_frequency &= mode != "max"
    weighted &= mode == "sum"
    table = a_table()
    how = dict(mode=mode, padding_idx=padding_idx, max_norm=max_norm, include_last_offset=last)
    theirs, ours = twin(Theirs, table, **how), EmbeddingBag(table, **how, scale_grad_by_freq=by_frequency)
    ids = torch.tensor([i for bag in bags for i in bag], dtype=types[0])
    ends = np.cumsum([0] + [len(bag) for bag in bags])
    offsets = torch.tensor(ends if last else ends[:-1], dtype=types[1])
    generator = torch.Generator().manual_seed(len(ids))
    weights = [torch.randn(len(ids), generator=generator).requires_grad_() for _ in range(2)]
    weights[1].data.copy_(weights[0].data)
    expected = theirs(ids, offsets, weights[0] if weighted else None)
    got = ours(ids, offsets, weights[1] if weighted else None)
    equal(got, expected, 1e-6)
    equal(table.rows, theirs.weight, 1e-6)
    upstream = torch.randn(expected.shape, generator=generator)
    expected.backward(upstream)
    got.backward(upstream)
    # With scale_grad_by_freq PyTorch 2.13 divides by the count of another id: see the next test.
    counts = np.maximum(np.bincount(ids, minlength=V), 1) if by_frequency else np.ones(V)
    equal(pushed(table), (theirs.weight.grad.numpy() / counts[:, None]).astype(np.float32), 1e-5)
    assert touched(table) <= set(ids.tolist()) - {ours.padding_idx}
    if weighted:
        equal(weights[1].grad, weights[0].grad, 1e-5)


@pytest.mark.parametrize("mode", ["sum", "mean"])
def test_scale_grad_by_freq_divides_by_the_count_of_the_id_itself_as_embedding_does(mode):
    for ids in ([0, 0, 1], [1, 0, 0], [2, 1, 2, 1, 2, 0]):
        bag, rows = a_table(), a_table()
        how = dict(scale_grad_by_freq=True)
        EmbeddingBag(bag, mode=mode, **how)(torch.tensor([ids])).sum().backward()
        theirs = twin(torch.nn.Embedding, rows, **how)
        theirs(torch.tensor([ids])).sum(1).sum().backward()
        equal(pushed(bag), theirs.weight.grad / (1 if mode == "sum" else len(ids)), 1e-6)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dtype", INTEGERS)
def test_the_known_example_of_bags_and_of_a_matrix(mode, dtype):
    table = a_table(5, 2)
    table.rows[:] = np.arange(1, 11).reshape(5, 2)
    layer = EmbeddingBag(table, mode=mode)
    ids, offsets = torch.tensor([3, 1, 1, 1, 4, 0], dtype=dtype), torch.tensor([0, 0, 3, 3, 6], dtype=dtype)
    below = {"sum": 1, "mean": 3, "max": 1}[mode]
    row = {"max": [[7, 8], [9, 10]]}.get(mode, [[13, 16], [13, 16]])
    grad = {"max": [[0, 0], [0, 0], [0, 0], [1, 2], [3, 4]]}.get(
        mode, [[3, 4], [5, 8], [0, 0], [1, 2], [3, 4]]
    )
    out = layer(ids, offsets)
    with_empty = np.zeros((5, 2), np.float32)
    with_empty[[1, 3]] = row
    equal(out, with_empty / np.float32(below), 1e-6)
    out.backward(torch.tensor([[99.0, 99], [1, 2], [99, 99], [3, 4], [99, 99]]))
    equal(pushed(table), np.array(grad, np.float32) / below, 1e-6)
    table.rows[:], table.pushes = np.arange(1, 11).reshape(5, 2), []
    out = layer(ids.reshape(2, 3))
    equal(out, np.array(row, np.float32) / below, 1e-6)
    out.backward(torch.tensor([[1.0, 2], [3, 4]]))
    equal(pushed(table), np.array(grad, np.float32) / below, 1e-6)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("types", [(a, b) for a in INTEGERS for b in INTEGERS])
def test_empty_bags_are_zeros_and_push_nothing(mode, types):
    for bags in (1, 2, 4):
        table = a_table()
        out = EmbeddingBag(table, mode=mode)(
            torch.tensor([], dtype=types[0]), torch.zeros(bags, dtype=types[1])
        )
        equal(out, np.zeros((bags, DIM), np.float32))
        out.sum().backward()
        assert table.pushes == []


def test_no_ids_with_weights_give_zeros_and_gradients_of_no_weights():
    weights = torch.zeros(0, requires_grad=True)
    layer = EmbeddingBag(a_table(), mode="sum")
    out = layer(torch.zeros(0, dtype=torch.int64), torch.zeros(3, dtype=torch.int64), weights)
    out.sum().backward()
    assert weights.grad.shape == (0,)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("all_padding", [False, True])
def test_padding_in_a_line_is_as_filling_a_matrix_up_with_padding(mode, all_padding):
    rng = np.random.default_rng(5)
    sizes = [10, 0, *rng.integers(1, 10, 8)]
    bags = [np.full(n, 1) if all_padding else rng.integers(0, V, n) for n in sizes]
    for padding_idx in {int(i) for bag in bags for i in bag}:
        line, matrix = a_table(), a_table()
        ids = torch.from_numpy(np.concatenate(bags))
        offsets = torch.from_numpy(np.cumsum([0, *sizes[:-1]]))
        filled = [np.concatenate([bag, np.full(10 - len(bag), padding_idx)]) for bag in bags]
        a = EmbeddingBag(line, mode=mode, padding_idx=padding_idx)(ids, offsets)
        b = EmbeddingBag(matrix, mode=mode, padding_idx=padding_idx)(torch.from_numpy(np.stack(filled)))
        equal(a, b, 1e-6)
        a.sum().backward()
        b.sum().backward()
        equal(pushed(line), pushed(matrix), 1e-5)
        assert padding_idx not in touched(line)


def test_the_last_offset_is_read_as_torch_reads_it_with_and_without_padding():
    for padding_idx in (None, 9, 2):
        table = a_table()
        how = dict(include_last_offset=True, padding_idx=padding_idx)
        theirs, ours = twin(Theirs, table, **how), EmbeddingBag(table, **how)
        ids = torch.tensor([0, 1, 2, 3])
        for offsets in ([0, 3, 4], [0, 3, 3], [0, 0, 4]):
            equal(ours(ids, torch.tensor(offsets)), theirs(ids, torch.tensor(offsets)), 1e-6)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("max_norm", [None, 3.0])
@pytest.mark.parametrize("sizes", [(101, 5, 3, 7), (2, 5, 53, 23), (2, 101, 3, 7), (1, 2, 1, 2)])
def test_bags_of_one_size_are_rows_reduced(mode, max_norm, sizes):
    v, dim, bags, length = sizes
    one, other = a_table(v, dim), a_table(v, dim)
    ids = torch.randint(v, (bags, length), generator=torch.Generator().manual_seed(1))
    rows = Embedding(other, max_norm=max_norm)(ids)
    expected = {"sum": rows.sum(1), "mean": rows.mean(1), "max": rows.amax(1)}[mode]
    got = EmbeddingBag(one, mode=mode, max_norm=max_norm)(ids)
    equal(got, expected, 1e-5)
    equal(one.rows, other.rows)
    if mode != "max":  # amax shares the gradient of ties, bags give it to the first
        upstream = torch.rand(bags, dim, generator=torch.Generator().manual_seed(2)) / ids.numel()
        expected.backward(upstream)
        got.backward(upstream)
        equal(pushed(one), pushed(other), 1e-6)


@pytest.mark.parametrize("bag_has_gradient", [True, False])
@pytest.mark.parametrize("weights_have_gradient", [True, False])
def test_weights_and_rows_have_gradients_when_asked(bag_has_gradient, weights_have_gradient):
    table = a_table()
    layer = EmbeddingBag(table, mode="sum").requires_grad_(bag_has_gradient)
    weights = torch.rand(3, 4, requires_grad=weights_have_gradient)
    out = layer(torch.arange(1, 5).expand(3, -1), per_sample_weights=torch.softmax(weights, dim=-1))
    assert out.requires_grad == (bag_has_gradient or weights_have_gradient)
    if out.requires_grad:
        out.sum().backward()
    assert bool(table.pushes) == bag_has_gradient
    assert (weights.grad is not None) == weights_have_gradient


def test_weights_with_mean_are_divided_by_the_number_of_ids():
    table = a_table()
    layer = EmbeddingBag(table, mode="mean", padding_idx=4)
    ids, offsets = torch.tensor([1, 4, 2, 2, 4, 3]), torch.tensor([0, 3, 3, 5])
    weights = torch.tensor([0.5, 9.0, -2.0, 1.0, 9.0, 3.0], requires_grad=True)
    weight = torch.from_numpy(table.rows.copy()).requires_grad_()
    copy = weights.detach().clone().requires_grad_()
    kept = torch.tensor([0, 2, 3, 5])
    expected = reference(ids[kept], weight, [(0, 2), (2, 2), (2, 3), (3, 4)], "mean", copy[kept])
    got = layer(ids, offsets, weights)
    equal(got, expected, 1e-6)
    upstream = torch.randn(4, DIM)
    got.backward(upstream)
    expected.backward(upstream)
    equal(pushed(table), weight.grad, 1e-6)
    equal(weights.grad, copy.grad, 1e-6)


@pytest.mark.parametrize("mode", ["sum", "mean"])
def test_gradients_of_weights_are_those_of_finite_differences(mode):
    layer = EmbeddingBag(a_table(), mode=mode, padding_idx=1).double().requires_grad_(False)
    ids, offsets = torch.tensor([3, 1, 1, 0, 4, 0]), torch.tensor([0, 0, 3, 5])
    weights = torch.rand(6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda w: layer(ids, offsets, w), (weights,))


def test_ties_of_max_go_to_the_row_that_torch_chooses():
    table = a_table()
    table.rows[:] = 1.0
    theirs, ours = twin(Theirs, table, mode="max"), EmbeddingBag(table, mode="max")
    ids = torch.tensor([[5, 3, 5, 1], [2, 2, 9, 0]])
    for module in (theirs, ours):
        module(ids).sum().backward()
    equal(pushed(table), theirs.weight.grad)
    assert touched(table) == {5, 2}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("mode", MODES)
def test_bags_of_half_precision_are_summed_in_float32(dtype, mode):
    table = a_table()
    ours = EmbeddingBag(table, mode=mode).to(dtype)
    ids = torch.tensor([[1, 2, 3], [4, 4, 4]])
    exact = EmbeddingBag(table, mode=mode)(ids)
    assert ours(ids).dtype == dtype
    equal(ours(ids), exact.to(dtype))
    equal(ours(ids), twin(Theirs, table, mode=mode, dtype=dtype)(ids), 0.05)


def bad_calls():
    one, two = torch.tensor([1, 2, 3]), torch.ones(3, 4, dtype=torch.int64)
    start = torch.tensor([0])
    return {
        "negative id": ({}, (torch.tensor([[-1, 1]]),)),
        "large id": ({}, (torch.tensor([[V, 1]]),)),
        "float ids": ({}, (torch.tensor([[1.0]]),)),
        "no offsets": ({}, (one,)),
        "offsets of a matrix": ({}, (two, torch.arange(3))),
        "three axes": ({}, (torch.ones(1, 2, 3, dtype=torch.int64), start)),
        "offsets of two axes": ({}, (one, start[None])),
        "first offset": ({}, (one, torch.tensor([1, 2]))),
        "last offset": ({}, (one, torch.tensor([0, 100]))),
        "shape of weights": ({"mode": "sum"}, (one, start, torch.ones(2))),
        "shape of weights of a matrix": ({"mode": "sum"}, (two, None, torch.ones(12))),
        "type of weights": ({"mode": "sum"}, (one, start, torch.ones(3, dtype=torch.float64))),
        "weights of max": ({"mode": "max"}, (one, start, torch.ones(3))),
    }


@pytest.mark.parametrize("case", bad_calls())
def test_bad_calls_raise_what_torch_raises(case):
    how, call = bad_calls()[case]
    with pytest.raises(Exception) as theirs:  # noqa: PT011  # whatever it is, ours must be one
        twin(Theirs, a_table(), **how)(*call)
    with pytest.raises(theirs.type, match=r"input|offsets|per_sample_weights"):
        EmbeddingBag(a_table(), **how)(*call)


@pytest.mark.parametrize(
    "how",
    [
        {"mode": "max", "scale_grad_by_freq": True},
        {"mode": "max", "sparse": True},
        {"mode": "median"},
        {"padding_idx": V},
        {"padding_idx": -V - 1},
    ],
    ids=str,
)
def test_bad_arguments_raise_what_torch_raises_if_not_sooner(how):
    with pytest.raises((ValueError, AssertionError)) as theirs:
        twin(Theirs, a_table(), **how)(torch.ones(2, 2, dtype=torch.int64)).sum().backward()
    with pytest.raises(theirs.type, match=next(reversed(how))):
        EmbeddingBag(a_table(), **how)


def test_rows_that_are_no_vectors_are_refused():
    with pytest.raises(InvalidRequest, match=r"rows of \(2, 2\), not vectors"):
        EmbeddingBag(a_table(dim=(2, 2)))


# ----------------------------------------------------------------------------------------------- on a real cluster


@pytest.mark.parametrize("mode", MODES)
def test_on_shards_bags_are_trained_as_in_torch(client, mode):
    table = client.create_table(TableSpec("t", 60, 4, optimizer=SGD(lr=0.3), initializer=Normal()))
    how = dict(mode=mode, padding_idx=7, max_norm=2.0)
    theirs, ours = Theirs(60, 4, **how), EmbeddingBag(table, **how)
    with torch.no_grad():
        theirs.weight.copy_(torch.from_numpy(table.pull(np.arange(60))))
    optimizer = torch.optim.SGD(theirs.parameters(), lr=0.3)
    generator = torch.Generator().manual_seed(4)
    for _ in range(15):
        ids, offsets = torch.randint(0, 60, (30,), generator=generator), torch.tensor([0, 4, 4, 11, 25])
        expected, got = theirs(ids, offsets), ours(ids, offsets)
        equal(got, expected, 1e-5)
        optimizer.zero_grad()
        (expected**2).sum().backward()
        (got**2).sum().backward()
        optimizer.step()
    equal(table.pull(np.arange(60)), theirs.weight, 1e-5)


def test_from_pretrained_and_create_make_the_table(client):
    rows = torch.rand(5, 3)
    frozen = EmbeddingBag.from_pretrained(rows, client=client, name="a", mode="max", padding_idx=2)
    ids = torch.tensor([[0, 1], [2, 2]])
    equal(frozen(ids), Theirs.from_pretrained(rows, mode="max", padding_idx=2)(ids))
    equal(frozen.table.pull(np.arange(5)), rows)
    assert not frozen(ids).requires_grad
    made = EmbeddingBag.create(client, "b", 9, 4, padding_idx=0, mode="sum", optimizer=SGD(lr=1.0))
    assert not made.table.pull([0]).any()
    made(torch.tensor([[0, 1]])).sum().backward()
    assert "mode='sum'" in repr(made)
    assert "padding_idx=0" in repr(made)


@pytest.mark.parametrize("mode", ["sum", "mean", "max"])
@pytest.mark.parametrize("last", [False, True])
def test_offsets_of_no_bag_no_longer_end_the_process(mode, last):
    layer = EmbeddingBag(a_table(), mode=mode, include_last_offset=last)
    offsets = torch.tensor([0] if last else [], dtype=torch.int64)
    with pytest.raises(InvalidRequest, match="offsets say that there is no bag, and input has 2 ids"):
        layer(torch.tensor([1, 2]), offsets)
    with pytest.raises(RuntimeError, match="offsets say that there is no bag"):
        layer.double()(torch.tensor([1, 2]), offsets)
