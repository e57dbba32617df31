"""Summed gradients, made where they are sent from: the bits of a plain loop, however they are cut and asked for."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rowloom.client import cores as helpers
from rowloom.client.calls.routing import Route, distinct_of
from rowloom.client.calls.sums import Sums
from rowloom.proto import codec


def sums_of(ids: np.ndarray, grads: np.ndarray) -> tuple[np.ndarray, Sums]:
    distinct, inverse = distinct_of(ids)
    return distinct, Sums.of(grads, Route(distinct, np.array([0, len(distinct)]), inverse))


def loop(ids: np.ndarray, grads: np.ndarray) -> dict[int, np.ndarray]:
    out: dict[int, np.ndarray] = {}
    for row_id, grad in zip(ids.tolist(), grads, strict=True):
        out[row_id] = out[row_id] + grad if row_id in out else grad
    return out


@given(st.lists(st.integers(0, 9), max_size=60), st.integers(1, 5), st.integers(0, 3))
def test_sums_are_those_of_a_plain_loop_bit_for_bit(ids: list[int], width: int, skip: int) -> None:
    array = np.array(ids, np.int64)
    grads = np.random.default_rng(len(ids)).normal(size=(len(ids), width)).astype(np.float32) ** 9
    distinct, sums = sums_of(array, grads)
    expected = loop(array, grads)
    whole = sums.array()
    assert whole.dtype == np.float32
    assert sums.most == max((ids.count(i) for i in ids), default=0)
    for k, row_id in enumerate(distinct.tolist()):
        np.testing.assert_array_equal(whole[k], expected[row_id])
    some = np.arange(len(distinct))[::-1][: len(distinct) // 2]
    np.testing.assert_array_equal(sums[some].array(), whole[some])
    part = sums[1:3]
    buffer = np.zeros(skip + whole[1:3].nbytes, np.uint8)
    part.write(buffer[skip:], codec.FLOAT32)  # at any byte
    assert buffer[skip:].tobytes() == whole[1:3].tobytes()


@pytest.mark.parametrize("wire", [codec.FLOAT32, codec.BFLOAT16, codec.FLOAT16])
def test_what_travels_is_the_sum_rounded_once(wire: int) -> None:
    rng = np.random.default_rng(wire)
    ids, grads = rng.integers(0, 20, 100), rng.normal(size=(100, 6)).astype(np.float32)
    _, sums = sums_of(ids, grads)
    expected = codec.to_wire(sums.array(), wire).data.tobytes()
    buffer = np.zeros(len(expected), np.uint8)
    sums.write(buffer, wire)
    assert buffer.tobytes() == expected


@pytest.mark.parametrize("threads", [1, 2, 3, 4])
def test_pieces_make_up_the_whole_and_come_in_order(monkeypatch, threads: int) -> None:
    monkeypatch.setattr(helpers, "_cores", threads)
    size = 100 * helpers.PIECE_BYTES
    pieces = helpers.in_pieces(lambda begin, end: (begin, end), 10, size)
    assert len(pieces) == threads
    assert [k for begin, end in pieces for k in range(begin, end)] == list(range(10))
    assert helpers.in_pieces(lambda begin, end: (begin, end), 0, size) == [(0, 0)]
    assert helpers.in_pieces(lambda begin, end: (begin, end), 10, helpers.PIECE_BYTES) == [(0, 10)]


def test_what_a_piece_raises_is_raised(monkeypatch) -> None:
    monkeypatch.setattr(helpers, "_cores", 2)

    def fails(begin: int, _: int) -> None:
        if begin:
            raise MemoryError("no room")

    with pytest.raises(MemoryError, match="no room"):
        helpers.in_pieces(fails, 10, 2 * helpers.PIECE_BYTES)


def test_a_child_after_a_fork_has_helpers_of_its_own(monkeypatch) -> None:
    monkeypatch.setattr(helpers, "_cores", 2)
    helpers.in_pieces(lambda *_: None, 10, 2 * helpers.PIECE_BYTES)
    before = helpers._pool
    assert before is not None
    helpers._forget()
    assert helpers.in_pieces(lambda begin, end: end, 10, 2 * helpers.PIECE_BYTES) == [5, 10]
    assert helpers._pool is not before


def test_pieces_are_done_here_when_no_thread_can_be_started_any_more(monkeypatch) -> None:
    class Over:
        def submit(self, *_: object) -> None:
            raise RuntimeError("cannot schedule new futures after interpreter shutdown")

    monkeypatch.setattr(helpers, "_cores", 2)
    monkeypatch.setattr(helpers, "_pool", Over())
    assert helpers.in_pieces(lambda begin, end: end, 10, 2 * helpers.PIECE_BYTES) == [5, 10]
