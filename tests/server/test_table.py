"""One table on one shard: against a plain dict, bit for bit; and its memory."""

import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from oracle import OracleTable

from rowloom.client import SGD, Adagrad, Adam, InvalidRequest, Normal, Optimizer, TableSpec, Uniform
from rowloom.proto.errors import Overloaded
from rowloom.proto.layout import owner
from rowloom.proto.spec import TableEntry
from rowloom.server.rows import memory
from rowloom.server.rows.rows import Rows
from rowloom.server.table import ShardTable

OPTIMIZERS = [
    SGD(lr=0.5),
    SGD(lr=0.1, weight_decay=0.01),
    SGD(lr=0.1, momentum=0.9),
    SGD(lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.1),
    Adagrad(lr=0.1),
    Adagrad(lr=0.1, eps=1e-3, initial_accumulator=0.5),
    Adam(lr=0.01),
    Adam(lr=0.1, betas=(0.5, 0.7), eps=1e-3),
]


def table_of(
    optimizer: Optimizer, dim: int = 5, v: int | None = 1000, shard: int = 0, n: int = 1, **more
) -> ShardTable:
    spec = TableSpec("t", v, dim=dim, optimizer=optimizer, initializer=Normal(seed=1), **more)
    return ShardTable(TableEntry(1, spec), shard, n)


def pull(table: ShardTable, ids) -> np.ndarray:
    ids = np.asarray(ids, np.int64)
    out = np.empty((len(ids), table.width), np.float32)
    table.pull(ids, out)
    return out


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=repr)
@pytest.mark.parametrize("dim", [1, 5, 64])
def test_pushes_equal_a_plain_numpy_loop_bit_for_bit(optimizer: Optimizer, dim: int) -> None:
    table, oracle = table_of(optimizer, dim), OracleTable(table_of(optimizer, dim).spec)
    rng = np.random.default_rng(0)
    for _ in range(50):
        ids = rng.integers(0, 60, rng.integers(0, 40))
        grads = rng.normal(size=(len(ids), dim)).astype(np.float32)
        table.push(ids, grads, table.next_step())
        oracle.push(ids, grads)
    np.testing.assert_array_equal(pull(table, np.arange(100)), oracle.pull(np.arange(100)))
    assert len(table) == len(oracle.rows)


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=repr)
@pytest.mark.parametrize("partition", ["mod", "div"])
def test_any_number_of_shards_gives_the_same_bits(optimizer: Optimizer, partition) -> None:
    rng = np.random.default_rng(1)
    pushes = [
        (i := rng.integers(0, 100, 30), rng.normal(size=(len(i), 5)).astype(np.float32)) for _ in range(20)
    ]
    answers = []
    for n in (1, 2, 5, 7):
        tables = [table_of(optimizer, v=100, shard=s, n=n, partition=partition) for s in range(n)]
        for ids, grads in pushes:
            owners = owner(tables[0].spec, ids, n)
            for s, table in enumerate(tables):
                table.push(ids[owners == s], grads[owners == s], table.next_step())
        out = np.empty((100, 5), np.float32)
        owners = owner(tables[0].spec, np.arange(100), n)
        for s, table in enumerate(tables):
            out[owners == s] = pull(table, np.flatnonzero(owners == s))
        answers.append(out)
    for other in answers[1:]:
        np.testing.assert_array_equal(other, answers[0])


def test_pulling_computes_first_values_and_stores_nothing() -> None:
    table = table_of(SGD())
    np.testing.assert_array_equal(pull(table, [3, 3, 999]), pull(table, [3, 3, 999]))
    assert len(table) == 0


def test_a_moved_table_goes_on_as_if_it_had_never_moved() -> None:
    rng = np.random.default_rng(2)
    here, stay = table_of(Adagrad(lr=0.1)), table_of(Adagrad(lr=0.1))
    ids, grads = rng.integers(0, 1000, 500), rng.normal(size=(500, 5)).astype(np.float32)
    for table in (here, stay):
        table.push(ids, grads, 0)
    there = [table_of(Adagrad(lr=0.1), shard=s, n=3) for s in range(3)]
    for s, table in enumerate(there):
        cursor = 0
        while True:
            some, values, slots, cursor = here.read(cursor, 1000, 3, s)
            table.install(some, values, slots)
            if not cursor:
                break
    assert sum(map(len, there)) == len(here)
    for s, table in enumerate(there):
        mine = np.arange(s, 1000, 3)
        table.push(mine, np.ones((len(mine), 5), np.float32), 0)
    stay.push(np.arange(1000), np.ones((1000, 5), np.float32), 0)
    for s, table in enumerate(there):
        np.testing.assert_array_equal(pull(table, np.arange(s, 1000, 3)), pull(stay, np.arange(s, 1000, 3)))


@given(st.lists(st.integers(0, 300), max_size=80), st.integers(64, 4000), st.integers(0, 4))
def test_reading_in_blocks_gives_every_row_once(ids: list[int], limit: int, new_n: int) -> None:
    table = table_of(SGD())
    table.push(np.array(ids, np.int64), np.ones((len(ids), 5), np.float32), 0)
    seen: list[int] = []
    for index in range(max(1, new_n)):
        cursor = 0
        while True:
            some, values, slots, after = table.read(cursor, limit, new_n, index)
            assert values.shape == (len(some), 5)
            assert slots == []
            seen += some.tolist()
            assert after == 0 or after > cursor
            cursor = after
            if not cursor:
                break
    assert sorted(seen) == sorted(set(ids))


def test_unaligned_and_read_only_gradients_are_taken() -> None:
    table = table_of(SGD(lr=1.0))
    before = pull(table, [1])
    raw = b"x" + np.ones((1, 5), np.float32).tobytes()
    grads = np.frombuffer(memoryview(raw)[1:], np.float32).reshape(1, 5)
    table.check_push(np.array([1]), grads)
    table.push(np.array([1]), grads, 0)
    np.testing.assert_array_equal(pull(table, [1]), before - 1)


@pytest.mark.parametrize("p", [1.0, 2.0, 3.0, np.inf])
def test_renorm_scales_long_rows_in_the_table_and_leaves_short_ones(p: float) -> None:
    table = table_of(SGD(), dim=8)
    table.assign(np.array([1, 2]), np.array([[3.0] * 8, [0.01] * 8], np.float32))
    table.renorm(np.array([1, 2, 1, 7]), 1.0, p)
    norms = np.linalg.norm(pull(table, [1, 2, 7]).astype(np.float64), ord=p, axis=1)
    assert abs(norms[0] - 1) < 1e-5
    np.testing.assert_array_equal(pull(table, [2]), np.full((1, 8), 0.01, np.float32))
    assert norms[2] <= 1 + 1e-5


def test_a_frozen_table_takes_rows_but_no_gradients() -> None:
    table = table_of(SGD(), frozen=True)
    with pytest.raises(InvalidRequest, match="frozen"):
        table.check_push(np.array([1]), np.ones((1, 5), np.float32))
    table.check_assign(np.array([1]), np.ones((1, 5), np.float32))


def test_a_table_of_a_billion_rows_is_made_at_once_and_costs_what_is_pushed() -> None:
    began = time.thread_time()  # of the processor: what others do meanwhile does not count
    shards = [table_of(Adagrad(), dim=64, v=10**9, shard=s, n=4) for s in range(4)]
    assert time.thread_time() - began < 1.0
    for s, table in enumerate(shards):
        ids = np.arange(s, 10**9, 10**5 * 4)
        table.push(ids, np.ones((len(ids), 64), np.float32), 0)
        assert table.nbytes < len(ids) * 64 * 4 * 2 * 1.2


def test_a_table_beyond_the_memory_says_so_and_stays_as_it_was(monkeypatch) -> None:
    monkeypatch.setattr("rowloom.server.rows.memory.memory_bytes", lambda: 100 * (2 * 4 + 8))
    rows = Rows([2], 10**6, "small")
    ids = np.arange(100)
    rows.reserve(ids)
    rows.insert(ids)
    rows.reserve(np.arange(50))  # these exist
    with pytest.raises(Overloaded, match="'small' has 100 rows on this shard and cannot hold 1 more"):
        rows.reserve(np.array([5, 100, 100]))
    np.testing.assert_array_equal(rows.find(np.array([99, 100])), [99, -1])


@given(st.lists(st.lists(st.integers(0, 2**63 - 1) | st.integers(0, 20), max_size=50), max_size=6))
def test_rows_are_numbered_like_a_dict(batches: list[list[int]]) -> None:
    rows, numbers = Rows([1], 10**6, "dict"), {}
    for batch in batches:
        ids = np.array(batch, np.int64)
        rows.reserve(ids)
        first = len(numbers)
        expected = [numbers.setdefault(i, len(numbers)) for i in batch]
        got, new = rows.insert(ids)
        assert (got.tolist(), new.tolist()) == (expected, list(range(first, len(numbers))))
        assert rows.count == rows.end == len(numbers)
        assert rows.find(ids).tolist() == expected
        assert rows.ids_of(rows.numbers()).tolist() == list(numbers)


def test_the_index_grows_and_still_finds_everything() -> None:
    rows = Rows([1], 10**6, "growing")
    ids = np.random.default_rng(0).permutation(200_000)
    for some in np.array_split(ids, 37):
        rows.reserve(some)
        rows.insert(some)
    np.testing.assert_array_equal(rows.ids_of(rows.find(ids)), ids)
    assert (rows.find(ids + 10**6) == -1).all()
    assert rows.nbytes < 200_000 * (4 + 8 + 12)


def test_refused_address_space_is_a_clear_error(monkeypatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError("no")

    rows = Rows([2], 100, "t")
    with monkeypatch.context() as patch:
        patch.setattr(memory.mmap, "mmap", refuse)
        with pytest.raises(Overloaded, match="overcommit"):
            rows.reserve(np.array([1]))
    rows.reserve(np.array([1]))
    rows.insert(np.array([1]))
    assert rows.count == 1


def test_uniform_is_the_default_and_lr_changes_count_by_version() -> None:
    table = ShardTable(TableEntry(1, TableSpec("d", 10, dim=2)), 0, 1)
    assert isinstance(table.spec.initializer, Uniform)
    table.set_lr(0.5, 2)
    table.set_lr(0.9, 1)
    assert table.lr == 0.5
    assert table.entry.current_lr == 0.5
