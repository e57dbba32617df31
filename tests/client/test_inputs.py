"""Ids, rows, gradients and weights in whatever callers hold them: what is taken, copied, and refused."""

import array
import threading

import numpy as np
import pytest

from rowloom.client import SGD, Client, InvalidRequest, Ragged, SparseIds, TableSpec, Zeros
from rowloom.client.inputs import as_array, largest
from rowloom.client.vocabulary import Vocabulary

SPEC = TableSpec("t", 100, dim=2, optimizer=SGD(lr=1.0), initializer=Zeros())


class Tensor:
    """The face of a torch tensor, which numpy may refuse to read."""

    def __init__(self, value, refusal: Exception | None = None) -> None:
        self.value, self.dtype, self._refusal = np.asarray(value), "torch.thing", refusal

    def detach(self):
        return self

    def cpu(self):
        return self

    def clone(self):
        return Tensor(self.value.copy())

    def numpy(self) -> np.ndarray:
        if self._refusal is not None:
            raise self._refusal
        return self.value


@pytest.fixture
def table(client: Client):
    return client.create_table(SPEC)


# ------------------------------------------------------------------------------------------------------------ masked


def masked(values, *places) -> np.ma.MaskedArray:
    mask = np.zeros(np.shape(values), bool)
    for place in places:
        mask[place] = True
    return np.ma.array(values, mask=mask)


IDS = masked([1, 2, 3], 1)
ONES = np.ones((3, 2))


@pytest.mark.parametrize(
    "call",
    [
        lambda t: t.pull(IDS),
        lambda t: t.pull([IDS, IDS]),
        lambda t: t.pull([[1, 2, 3], IDS]),
        lambda t: t.pull([[[1, 2, 3]], [IDS]]),
        lambda t: t.pull(masked(7, ())),
        lambda t: t.push(IDS, ONES),
        lambda t: t.push([1, 2, 3], masked(ONES, (1, 0))),
        lambda t: t.push([1, 2, 3], [masked([1.0, 1.0], 0)] * 3),
        lambda t: t.push_async(IDS, ONES),
        lambda t: t.push_async([1, 2, 3], masked(ONES, (1, 0))),
        lambda t: t.pull_async(IDS),
        lambda t: t.assign(IDS, ONES),
        lambda t: t.assign([1, 2, 3], masked(ONES, (1, 0))),
        lambda t: t.renorm(IDS, 1.0),
        lambda t: t.step([1, 2, 3], ONES, IDS),
        lambda t: next(t.prefetch([IDS])),
        lambda t: t.pull_bags(IDS, [0]),
        lambda t: t.pull_bags([1, 2, 3], masked([0, 1], 1)),
        lambda t: t.pull_bags([1, 2, 3], [0], weights=masked([1.0, 1.0, 1.0], 1)),
        lambda t: t.push_bags([1, 2, 3], [0], masked([[1.0, 1.0]], (0, 1))),
        lambda t: t.pull_bags(Ragged(IDS, [0, 3])),
        lambda t: t.pull_bags(Ragged([1, 2, 3], masked([0, 3], 1))),
        lambda t: t.pull_bags(SparseIds([[0, 0]], masked([1], 0), [1, 1])),
        lambda t: t.client.pull({"t": IDS}),
        lambda t: t.client.push({"t": (IDS, ONES)}),
    ],
)
def test_a_masked_entry_is_never_read_and_never_trained(table, call) -> None:
    with pytest.raises(InvalidRequest, match=r"is masked, and 1 of \d are: fill or drop them first"):
        call(table)
    assert not table.pull(np.arange(100)).any()


def test_the_refusal_says_where_the_first_masked_entry_is(table) -> None:
    with pytest.raises(InvalidRequest, match=r"grads\[1, 0\] is masked, and 2 of 6 are"):
        table.push([1, 2, 3], masked(ONES, (1, 0), (2, 1)))


def test_masked_arrays_of_which_nothing_is_masked_are_arrays(table) -> None:
    table.push(masked([1, 2, 3]), masked(ONES))
    table.push_async(np.ma.array([1, 2, 3]), [masked([1.0, 1.0])] * 3).result()
    assert table.pull(masked([1, 2, 3]))[:, 0].tolist() == [-2, -2, -2]
    assert table.pull_bags(masked([1, 2, 3]), masked([0, 1]), weights=masked([1, 1, 2])).tolist() == [
        [-2, -2],
        [-6, -6],
    ]


def test_masked_rows_words_and_ids_of_files_and_vocabularies_are_refused_too(client, table, tmp_path) -> None:
    words = Vocabulary(["a", "b"])
    for call in (
        lambda: client.from_pretrained(masked(ONES, (1, 0)), "new"),
        lambda: table.export(tmp_path / "x.npy", ids=IDS),
        lambda: words.encode(masked(np.array(["a", "b"]), 1)),
        lambda: words.decode(IDS),
    ):
        with pytest.raises(InvalidRequest, match=r"is masked, and 1 of \d are: fill or drop them first"):
            call()
    assert [t.name for t in client.tables()] == ["t"]


def test_ids_above_int64_are_named_as_they_are_by_exports_and_vocabularies(table, tmp_path) -> None:
    huge = np.array([2**63 + 5], np.uint64)
    with pytest.raises(InvalidRequest, match=f"is {2**63 + 5}, table 't' has ids in"):
        table.export(tmp_path / "x.npy", ids=huge)
    with pytest.raises(InvalidRequest, match=f"id {2**63 + 5} is not in the vocabulary"):
        Vocabulary(["a"]).decode(huge)


# ------------------------------------------------------------------------------------------------------------- empty


NOTHING = [
    [],
    (),
    *(np.array([], kind) for kind in ("f8", "f2", "O", "U1", "?", "M8[s]")),
    Tensor([]),
    array.array("d"),
]


@pytest.mark.parametrize("nothing", NOTHING, ids=lambda x: f"{type(x).__name__} {getattr(x, 'dtype', '')}")
def test_an_empty_array_of_any_type_is_no_ids(client: Client, table, nothing) -> None:
    assert table.pull(nothing).shape == (0, 2)
    assert table.pull_async(nothing).result().shape == (0, 2)
    assert table.step(nothing, np.empty((0, 2), object), nothing).shape == (0, 2)
    assert client.pull({"t": nothing})["t"].shape == (0, 2)
    assert table.pull_bags(nothing, nothing).shape == (0, 2)
    assert table.pull_bags(nothing, [0, 0], weights=nothing, combiner="mean").tolist() == [[0, 0]] * 2
    table.push(nothing, np.empty((0, 2), "U1"))
    table.push_async(nothing, np.empty((0, 2))).result()
    table.push_bags(nothing, [0], [[1, 1]], weights=nothing)
    table.assign(nothing, np.empty((0, 2)))
    table.renorm(nothing, 1.0)
    assert not table.pull(np.arange(100)).any()


def test_an_empty_array_keeps_its_shape(table) -> None:
    assert table.pull(np.empty((3, 0))).shape == (3, 0, 2)
    assert table.pull(np.empty((0, 4), bool)).shape == (0, 4, 2)


# ----------------------------------------------------------------------------------------------------------- tensors


@pytest.mark.parametrize(
    "error", [TypeError("sparse\nadvice"), RuntimeError("negative"), NotImplementedError("meta")]
)
def test_a_tensor_that_numpy_cannot_take_is_refused_in_our_words(table, error) -> None:
    bad = Tensor([1], error)
    match = rf"must be a dense tensor .*, got one of torch.thing: {error.args[0].splitlines()[0]}$"
    for call in (
        lambda: table.pull(bad),
        lambda: table.pull([bad, bad]),
        lambda: table.push([1], bad),
        lambda: table.push_async(bad, [[1, 1]]),
    ):
        with pytest.raises(InvalidRequest, match=match):
            call()


def test_lists_of_tensors_are_arrays() -> None:
    assert as_array([Tensor([1, 2]), Tensor([3, 4])], "ids").tolist() == [[1, 2], [3, 4]]
    assert as_array([[Tensor(1)], (Tensor(2),)], "ids").tolist() == [[1], [2]]


# ------------------------------------------------------------------------------------------------------------ copied


def buffers():
    yield "array", np.array([1]), np.ones((1, 2))
    yield "list", [1], [[1.0, 1.0]]
    yield "tuple of lists", ([1],), ([[1.0, 1.0]],)
    yield "list of arrays", [np.array([1])], [np.ones((1, 2))]
    yield "array.array", array.array("q", [1]), [array.array("d", [1.0, 1.0])]
    yield "memoryview", memoryview(array.array("q", [1])), memoryview(np.ones((1, 2)))
    yield "bytearray", np.frombuffer(bytearray(np.int64(1).tobytes()), np.int64), [[1.0, 1.0]]
    yield "tensor", Tensor([1]), Tensor([[1.0, 1.0]])


def overwrite(value, by) -> None:
    """Use a buffer again."""
    if isinstance(value, Tensor):
        value.value[...] = by
    elif isinstance(value, list | tuple) and not isinstance(value[0], int | float):
        for one in value:
            overwrite(one, by)
    elif isinstance(value, memoryview):
        np.asarray(value)[...] = by
    else:
        value[0] = by


@pytest.mark.parametrize(("ids", "grads"), [b[1:] for b in buffers()], ids=[b[0] for b in buffers()])
def test_a_buffer_used_again_does_not_reach_a_call_in_the_background(
    client: Client, table, ids, grads
) -> None:
    table.assign([5], [[7, 7]])
    gate = threading.Event()
    waiting = [client.later_in_order(gate.wait, 120), *(client.later(gate.wait, 120) for _ in range(4))]
    pushed = [table.push_async(ids, grads), client.push_async({"t": (ids, grads)})]
    pulled = [table.pull_async(ids), client.pull_async({"t": ids})]
    with table.prefetch([ids]) as prefetched:
        prefetched._top_up()
        overwrite(ids, 5)
        overwrite(grads, 100)
        gate.set()
        for one in (*waiting, *pushed, *pulled):
            one.result(120)
        given, rows = next(prefetched)
    assert np.asarray(given.value if isinstance(given, Tensor) else given).reshape(-1).tolist() == [1]
    for one in (rows, pulled[0].result(), pulled[1].result()["t"]):
        assert one.max() <= 0, "the row of another id"
    assert table.pull([1, 5]).tolist() == [[-2, -2], [7, 7]]


# ------------------------------------------------------------------------------------------------------ beyond float32


def test_the_refusal_of_a_value_beyond_float32_shows_the_value(table) -> None:
    for call in (lambda: table.push([4], [[0, 1e39]]), lambda: table.assign([4], [[0, 1e39]])):
        with pytest.raises(
            InvalidRequest, match=r"of id 4 \(number 0 .*\) is 1e\+39 in column 1: .* of float32"
        ):
            call()
    with pytest.raises(InvalidRequest, match=r"grads of bag 0 is 1e\+39 in column 1"):
        table.push_bags([4], [0], [[0, 1e39]])


@pytest.mark.parametrize("weight", [np.inf, -np.inf, np.nan, 1e39])
@pytest.mark.parametrize("combiner", ["sum", "mean", "sqrtn"])
@pytest.mark.parametrize("kind", ["offsets", "square", "ragged", "sparse"])
def test_a_weight_that_float32_does_not_hold_no_longer_makes_a_bag_infinite_or_zero(
    table, kind, combiner, weight
) -> None:
    weights = np.array([1.0, 1.0, weight, 1.0])
    ids, offsets, grads = {
        "offsets": (np.arange(4), [0, 2], np.zeros((2, 2))),
        "square": (np.arange(4).reshape(2, 2), None, np.zeros((2, 2))),
        "ragged": (Ragged(np.arange(4), [0, 2, 4]), None, np.zeros((2, 2))),
        "sparse": (SparseIds([[0, 0], [0, 1], [1, 0], [1, 1]], np.arange(4), [2, 2]), None, np.zeros((2, 2))),
    }[kind]
    given = {
        "offsets": weights,
        "square": weights.reshape(2, 2),
        "ragged": Ragged(weights, [0, 2, 4]),
        "sparse": SparseIds([[0, 0], [0, 1], [1, 0], [1, 1]], weights, [2, 2]),
    }[kind]
    how = {"combiner": combiner, "weights": given}
    match = rf"the weight of id 2 in bag 1 \(entry 2\) is {str(weight).replace('+', '.')}: "
    with pytest.raises(InvalidRequest, match=match):
        table.pull_bags(ids, offsets, **how)
    with pytest.raises(InvalidRequest, match=match):
        table.push_bags(ids, offsets, grads, **how)


@pytest.mark.parametrize(("combiner", "weight"), [("mean", 3e38), ("sqrtn", 1e20)])
def test_weights_whose_size_overflows_no_longer_make_a_bag_of_zeros(table, combiner, weight) -> None:
    weights = np.full(2, weight, np.float32)
    table.assign([1, 2], [[1, 1], [1, 1]])
    with pytest.raises(
        InvalidRequest, match=rf"the size that '{combiner}' divides by, .* of id 1 in bag 0 .* is inf"
    ):
        table.pull_bags([1, 2], [0], combiner=combiner, weights=weights)
    assert table.pull_bags([1, 2], [0], combiner=combiner, weights=weights.astype(np.float64)).max() > 0.9


def test_a_share_that_float32_does_not_hold_is_refused(table) -> None:
    with pytest.raises(InvalidRequest, match=r"the factor that the weights make of id 2 in bag 0"):
        table.pull_bags([1, 2, 3], [0], combiner="mean", weights=[1e-30, 1e30, -1e30])


@pytest.mark.parametrize("weights", [["a", "b"], [1j, 1j], [None, None]], ids=str)
def test_weights_that_are_no_numbers_are_refused(table, weights) -> None:
    with pytest.raises(InvalidRequest, match="weights must be numbers, got "):
        table.pull_bags([1, 2], [0], weights=weights)


@pytest.mark.parametrize("rows", [1, 300, 700_000], ids=["one", "few", "many, in pieces"])
@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_the_largest_wherever_it_stands(rows, wrong):
    for place in {0, rows // 2, rows - 1}:
        values = np.full((rows, 4), -2.0, np.float32)
        assert largest(values) == 2.0
        values[place, 3] = wrong
        assert not largest(values) <= np.finfo(np.float32).max


def test_of_no_rows_the_largest_is_nought():
    assert largest(np.empty((0, 4), np.float32)) == 0.0
