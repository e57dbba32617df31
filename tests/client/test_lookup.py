"""Lookups in plain numpy: what is looked up, from how many shards, and what is refused."""

import numpy as np
import pytest
from memory_client import MemoryTable

from rowloom.client import SGD, InvalidRequest, TableSpec, Zeros
from rowloom.client.lookup import (
    Ragged,
    SparseIds,
    lookup,
    lookup_sparse,
    lookup_sparse_gradient,
    push,
    safe_lookup_sparse,
    safe_lookup_sparse_gradient,
    weighted_sum,
    weighted_sum_gradient,
)
from rowloom.proto import partition

E = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)


def shards_of(rows, n, strategy):
    return [
        rows[
            partition.id_of(
                p, np.arange(partition.size_of(p, n, strategy, len(rows))), n, strategy, len(rows)
            )
        ]
        for p in range(n)
    ]


@pytest.mark.parametrize("strategy", ["mod", "div"])
@pytest.mark.parametrize("n", [1, 2, 5, 13, 17])
@pytest.mark.parametrize("row_shape", [(), (3,), (2, 3)])
def test_shards_together_are_the_whole_table(strategy, n, row_shape):
    rows = np.random.default_rng(1).normal(size=(13, *row_shape)).astype(np.float32)
    ids = np.random.default_rng(2).integers(0, 13, (4, 5))
    np.testing.assert_array_equal(lookup(shards_of(rows, n, strategy), ids, strategy), rows[ids])


@pytest.mark.parametrize("shape", [(), (0,), (1,), (2, 0, 3), (2, 3, 4)])
def test_ids_of_any_shape_give_their_shape_and_the_row_shape(shape):
    ids = np.random.default_rng(3).integers(0, 4, shape)
    got = lookup(E, ids)
    assert got.shape == (*shape, 3)
    np.testing.assert_array_equal(got, E[ids])


def test_tables_of_a_cluster_are_shards_of_a_larger_one(client):
    spec = {"dim": (2, 2), "optimizer": SGD(lr=1.0), "initializer": Zeros()}
    rows = np.arange(13 * 4, dtype=np.float32).reshape(13, 2, 2)
    for strategy in ("mod", "div"):
        tables = []
        for p, part in enumerate(shards_of(rows, 3, strategy)):
            table = client.create_table(TableSpec(f"{strategy}{p}", len(part), **spec))
            table.assign(np.arange(len(part)), part)
            tables.append(table)
        ids = np.array([[12, 0], [5, 5]])
        np.testing.assert_array_equal(lookup(tables, ids, strategy), rows[ids])
        grads = np.ones((4, 2, 2), np.float32)
        push(tables, ids.reshape(-1), grads, strategy)
        expected = rows.copy()
        np.subtract.at(expected, ids.reshape(-1), grads)
        np.testing.assert_array_equal(lookup(tables, np.arange(13), strategy), expected)


@pytest.mark.parametrize("row_shape", [(), (4,), (2, 5)])
def test_max_norm_clips_what_is_returned_and_not_the_table(row_shape):
    rows = np.random.default_rng(4).normal(size=(10, *row_shape)).astype(np.float32) * 3
    table = MemoryTable(TableSpec("t", 10, dim=row_shape or 1), rows if row_shape else rows[:, None])
    params = table if row_shape else rows
    got = lookup(params, np.arange(10), max_norm=2.0)
    norms = np.sqrt((rows.reshape(10, -1) ** 2).sum(1))
    factor = (2.0 / np.maximum(norms, 2.0)).reshape(-1, *[1] * len(row_shape))
    np.testing.assert_allclose(got, rows * factor, rtol=1e-6)
    np.testing.assert_array_equal(lookup(params, np.arange(10)), rows)


def test_a_row_too_long_for_float32_squares_is_clipped_all_the_same():
    got = lookup(np.full((1, 4), 1e30, np.float32), [0], max_norm=2.0)
    np.testing.assert_allclose(got, np.ones((1, 4)), rtol=1e-6)


def test_ragged_ids_give_ragged_rows():
    got = lookup(E, Ragged(Ragged([3, 1, 0], [0, 2, 3]), [0, 0, 2]), max_norm=0.5)
    np.testing.assert_array_equal(got.row_splits, [0, 0, 2])
    np.testing.assert_array_equal(got.values.row_splits, [0, 2, 3])
    np.testing.assert_array_equal(got.values.values, lookup(E, [3, 1, 0], max_norm=0.5))


def test_a_lookup_pulls_once_and_its_gradient_is_what_a_push_takes():
    table = MemoryTable(TableSpec("t", 4, dim=3, optimizer=SGD(lr=1.0)), E)
    out = safe_lookup_sparse(table, IDS, WEIGHTS)
    assert table.pulls == 1
    push(table, *safe_lookup_sparse_gradient(table, IDS, WEIGHTS, np.ones_like(out)))
    assert table.pulls == 1
    assert len(table.pushes) == 1
    np.testing.assert_allclose(E - table.rows, np.outer([1 / 3, 2 / 3, 1, 0], np.ones(3)), atol=1e-6)


IDS = SparseIds([[0, 0], [0, 1], [0, 2], [1, 0], [3, 0], [4, 0], [4, 1]], [0, 1, -1, -1, 2, 0, 1], [5, 4])
WEIGHTS = SparseIds(IDS.indices, [1.0, 2.0, 1.0, 1.0, 3.0, 0.0, -0.5], [5, 4])
ZERO = np.zeros(3, np.float32)


@pytest.mark.parametrize(
    ("weights", "default_id", "expected"),
    [
        (WEIGHTS, None, [(E[0] + 2 * E[1]) / 3, ZERO, ZERO, E[2], ZERO]),
        (WEIGHTS, 3, [(E[0] + 2 * E[1]) / 3, E[3], E[3], E[2], E[3]]),
        (None, None, [(E[0] + E[1]) / 2, ZERO, ZERO, E[2], (E[0] + E[1]) / 2]),
        (None, 0, [(E[0] + E[1]) / 2, E[0], E[0], E[2], (E[0] + E[1]) / 2]),
    ],
)
@pytest.mark.parametrize("n", [1, 3])
def test_a_safe_lookup_prunes_and_fills(weights, default_id, expected, n):
    params = shards_of(E, n, "div")
    got = safe_lookup_sparse(params, IDS, weights, default_id=default_id)
    np.testing.assert_allclose(got, np.array(expected), rtol=1e-6)


def test_a_safe_sum_keeps_weights_of_zero_and_less():
    got = safe_lookup_sparse(E, IDS, WEIGHTS, "sum")
    np.testing.assert_allclose(got[4], -0.5 * E[1], rtol=1e-6)


def test_a_safe_lookup_of_three_axes_combines_the_last():
    ids = SparseIds([[0, 0, 0], [0, 0, 1], [1, 1, 0]], [0, 1, 2], [2, 2, 2])
    got = safe_lookup_sparse(E, ids)
    np.testing.assert_allclose(got, [[(E[0] + E[1]) / 2, ZERO], [ZERO, E[2]]], rtol=1e-6)


def test_the_default_row_is_clipped_too():
    got = safe_lookup_sparse(E * 100, SparseIds([], [], [1, 1]), default_id=2, max_norm=1.0)
    np.testing.assert_allclose(np.linalg.norm(got), 1.0, rtol=1e-6)


def test_missing_ids_touch_no_row():
    ids, grads = safe_lookup_sparse_gradient(E, IDS, WEIGHTS, np.ones((5, 3)))
    assert ids.tolist() == [0, 1, 2]
    np.testing.assert_allclose(grads[:, 0], [1 / 3, 2 / 3, 1.0], rtol=1e-6)


def test_empty_examples_train_the_default_row():
    ids, _ = safe_lookup_sparse_gradient(E, IDS, WEIGHTS, np.ones((5, 3)), default_id=3)
    assert ids.tolist() == [0, 1, 3, 3, 2, 3]


def test_a_batch_without_any_ids_is_zeros_and_has_no_gradient():
    nothing = SparseIds([], [], [2, 3])
    assert not safe_lookup_sparse(E, nothing, max_norm=1.0).any()
    assert lookup_sparse(E, nothing, max_norm=1.0).shape == (0, 3)
    ids, grads = safe_lookup_sparse_gradient(E, nothing, None, np.ones((2, 3)), max_norm=1.0)
    assert ids.shape == (0,)
    assert grads.shape == (0, 3)


@pytest.mark.parametrize("combiner", ["sum", "mean", "sqrtn"])
def test_an_example_without_ids_in_the_middle_is_zeros_and_at_the_end_is_left_out(combiner):
    got = lookup_sparse(E, SparseIds([[0, 0], [2, 0]], [1, 2], [4, 1]), combiner=combiner)
    np.testing.assert_allclose(got, [E[1], ZERO, E[2]])


def test_weights_that_sum_to_zero_give_zeros():
    ids = SparseIds([[0, 0], [0, 1]], [1, 2], [1, 2])
    weights = SparseIds(ids.indices, [1.0, -1.0], [1, 2])
    np.testing.assert_array_equal(lookup_sparse(E, ids, weights, "mean"), [ZERO])
    assert not lookup_sparse_gradient(E, ids, weights, np.ones((1, 3)), "mean")[1].any()


def test_weights_may_sum_to_less_than_zero():
    ids = SparseIds([[0, 0], [0, 1]], [1, 2], [1, 2])
    weights = SparseIds(ids.indices, [1.0, -3.0], [1, 2])
    np.testing.assert_allclose(lookup_sparse(E, ids, weights, "mean"), [(E[1] - 3 * E[2]) / -2], rtol=1e-6)


def test_half_precision_is_summed_in_single_precision():
    rows = np.full((1, 1), 1.0, np.float16)
    ids = SparseIds([[0, k] for k in range(4096)], [0] * 4096, [1, 4096])
    got = lookup_sparse(rows, ids, combiner="sum")
    assert got.dtype == np.float16
    assert got[0, 0] == 4096  # 1 + 2048 is 2048 in float16


def test_ragged_bags_are_those_of_the_same_sparse_ids():
    ragged, weights = Ragged([0, 1, 2], [0, 2, 2, 3]), Ragged([1.0, 2.0, 3.0], [0, 2, 2, 3])
    sparse = SparseIds([[0, 0], [0, 1], [2, 0]], [0, 1, 2], [3, 2])
    sparse_weights = SparseIds(sparse.indices, [1.0, 2.0, 3.0], [3, 2])
    for combiner in ("sum", "mean", "sqrtn"):
        np.testing.assert_array_equal(
            lookup_sparse(E, ragged, weights, combiner), lookup_sparse(E, sparse, sparse_weights, combiner)
        )


def test_a_weighted_sum_adds_values_times_rows_in_any_order_of_examples():
    examples, features, values = [2, 0, 2, 0], [3, 1, 3, 0], [1.0, 2.0, 0.5, -1.0]
    got = weighted_sum(E, examples, features, values, 3)
    np.testing.assert_allclose(got, [2 * E[1] - E[0], ZERO, 1.5 * E[3]], rtol=1e-6)
    ids, grads = weighted_sum_gradient(examples, features, values, np.eye(3))
    assert ids.tolist() == [0, 1, 3]
    np.testing.assert_allclose(grads, [[-1, 0, 0], [2, 0, 0], [0, 0, 1.5]])


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: lookup(None, [0]), ValueError, "params"),
        (lambda: lookup([], [0]), ValueError, "at least one"),
        (lambda: lookup([E, E], [0], "hash"), ValueError, "partition_strategy .* 'hash'"),
        (lambda: lookup([E, E[:, :2]], [0]), ValueError, r"rows of one shape, .*\(2,\)"),
        (lambda: lookup([E, E.astype(np.float64)], [0]), TypeError, "float64"),
        (lambda: lookup(E, [0, 4]), ValueError, r"ids\[1\] is 4"),
        (lambda: lookup([E, E], [8]), ValueError, r"ids\[0\] is 8"),
        (lambda: lookup([E, E[:1]], [7], "div"), ValueError, r"ids\[0\] is 7"),
        (lambda: lookup([E, E[:1]], [3]), ValueError, r"ids\[0\] is 3"),
        (lambda: lookup(E, [-1]), ValueError, r"ids\[0\] is -1"),
        (lambda: lookup(E, [0.5]), TypeError, "integers"),
        (lambda: lookup(np.ones((2, 2), int), [0], max_norm=1.0), TypeError, "floats .* int64"),
        (lambda: lookup_sparse(np.ones((4, 2), int), Ragged([0], [0, 1])), TypeError, "floats"),
        (lambda: lookup(E, [0], max_norm=0), ValueError, "max_norm"),
        (lambda: lookup_sparse(E, [[0]]), TypeError, "sp_ids"),
        (lambda: lookup_sparse(E, IDS, [1.0]), TypeError, "sp_weights"),
        (lambda: lookup_sparse(E, Ragged([0], [0, 1]), WEIGHTS), TypeError, "sp_weights"),
        (lambda: lookup_sparse(E, IDS, combiner="max"), ValueError, "combiner .* 'max'"),
        (lambda: lookup_sparse(E, IDS, SparseIds([], [], [5, 4])), ValueError, "a value for each id"),
        (lambda: lookup_sparse(E, SparseIds([[1, 0], [0, 0]], [0, 1], [2, 1])), ValueError, "order"),
        (lambda: SparseIds([[2, 0]], [0], [2, 1]), ValueError, "outside of dense_shape"),
        (lambda: SparseIds([[0, 0]], [0, 1], [2, 1]), ValueError, "indices must be"),
        (lambda: Ragged([1, 2], [0, 1]), ValueError, "rise from 0 to 2"),
        (lambda: push(E, [0], E[:1]), TypeError, "tables"),
        (lambda: weighted_sum(E, [3], [0], [1.0], 3), ValueError, "examples"),
        (lambda: lookup_sparse_gradient(E, IDS, None, np.ones((5, 2))), ValueError, "upstream"),
    ],
)
def test_wrong_arguments_have_the_class_of_tensorflow_and_are_named(call, error, message):
    with pytest.raises(error, match=message) as caught:
        call()
    assert isinstance(caught.value, InvalidRequest)
