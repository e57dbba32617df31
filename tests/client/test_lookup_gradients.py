"""Gradients of lookups against finite differences of the lookups."""

import numpy as np
import pytest

from rowloom.client.lookup import (
    Ragged,
    SparseIds,
    lookup,
    lookup_gradient,
    lookup_sparse,
    lookup_sparse_gradient,
    lookup_sparse_weights_gradient,
    safe_lookup_sparse,
    safe_lookup_sparse_gradient,
    weighted_sum,
    weighted_sum_gradient,
)
from rowloom.client.lookups.pooling import segment_sum

V = 7
RNG = np.random.default_rng(0)


def differences(f, x, eps=1e-6):
    """The gradient of f() with respect to the float64 array x, which f reads, by central differences."""
    out = np.empty_like(x)
    for place in np.ndindex(x.shape):
        here = x[place]
        x[place] = here + eps
        above = f()
        x[place] = here - eps
        out[place] = (above - f()) / (2 * eps)
        x[place] = here
    return out


def dense(gradient, shape):
    ids, grads = gradient
    out = np.zeros(shape)
    np.add.at(out, ids, grads)
    return out


def parts(table, n):
    return [table[p::n] for p in range(n)] if n > 1 else table


@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize("max_norm", [None, 1.0])
@pytest.mark.parametrize("row_shape", [(), (3,), (2, 2)])
def test_of_rows(row_shape, max_norm, n):
    table, ids = RNG.normal(size=(V, *row_shape)), RNG.integers(0, V, (4, 3))
    upstream = RNG.normal(size=(4, 3, *row_shape))

    def f():
        return (lookup(parts(table, n), ids, max_norm=max_norm) * upstream).sum()

    got = lookup_gradient(parts(table, n), ids, upstream, max_norm=max_norm)
    np.testing.assert_allclose(dense(got, table.shape), differences(f, table), atol=1e-7)


def test_of_ragged_rows():
    ids, upstream = Ragged([3, 1, 3], [0, 2, 3]), RNG.normal(size=(3, 2))
    got = lookup_gradient(np.zeros((V, 2)), ids, Ragged(upstream, ids.row_splits))
    assert got[0].tolist() == [3, 1, 3]
    np.testing.assert_array_equal(got[1], upstream)


INDICES = [[0, 0], [0, 2], [1, 1], [3, 0], [3, 1], [3, 2]]


@pytest.mark.parametrize("combiner", ["sum", "mean", "sqrtn"])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("max_norm", [None, 1.0])
def test_of_combined_rows_and_of_their_weights(combiner, weighted, max_norm):
    table = RNG.normal(size=(V, 2, 2))
    ids = SparseIds(INDICES, [1, 1, 5, 2, 0, 1], [4, 3])
    values = RNG.uniform(0.5, 2, 6)
    weights = SparseIds(INDICES, values, [4, 3]) if weighted else None
    upstream = RNG.normal(size=(4, 2, 2))

    def f():
        return (lookup_sparse(table, ids, weights, combiner, max_norm) * upstream).sum()

    got = lookup_sparse_gradient(table, ids, weights, upstream, combiner, max_norm)
    np.testing.assert_allclose(dense(got, table.shape), differences(f, table), atol=1e-7)
    if weights is not None:
        got = lookup_sparse_weights_gradient(table, ids, weights, upstream, combiner, max_norm)
        np.testing.assert_allclose(got, differences(f, weights.values), atol=1e-7)


@pytest.mark.parametrize("combiner", ["sum", "mean", "sqrtn"])
@pytest.mark.parametrize("default_id", [None, 4])
def test_of_safely_combined_rows(combiner, default_id):
    table = RNG.normal(size=(V, 3))
    indices = [[0, 0, 0], [0, 0, 1], [0, 1, 0], [1, 1, 0], [1, 1, 2]]
    ids = SparseIds(indices, [1, -1, -1, 2, 4], [2, 2, 3])
    weights = SparseIds(indices, [1.0, 2.0, 1.0, 0.5, -1.0], [2, 2, 3])
    upstream = RNG.normal(size=(2, 2, 3))

    def f():
        got = safe_lookup_sparse(table, ids, weights, combiner, default_id, max_norm=1.0)
        return (got * upstream).sum()

    got = safe_lookup_sparse_gradient(table, ids, weights, upstream, combiner, default_id, max_norm=1.0)
    np.testing.assert_allclose(dense(got, table.shape), differences(f, table), atol=1e-7)


def test_of_weighted_sums():
    table = RNG.normal(size=(V, 2))
    examples, features, values = RNG.integers(0, 4, 9), RNG.integers(0, V, 9), RNG.normal(size=9)
    upstream = RNG.normal(size=(4, 2))
    got = weighted_sum_gradient(examples, features, values, upstream)
    expected = differences(
        lambda: (weighted_sum(table, examples, features, values, 4) * upstream).sum(), table
    )
    np.testing.assert_allclose(dense(got, table.shape), expected, atol=1e-7)


def test_gradients_of_a_step_that_overflowed_warned_on_stderr_where_they_are_summed():
    grads = np.array([[np.inf], [-np.inf], [1.0], [3e38], [3e38]], np.float32)
    with np.errstate(all="raise"):  # as a warning, wherever those of numpy are shown
        sums = segment_sum(grads, np.array([0, 0, 1, 2, 2]), 3)
    np.testing.assert_array_equal(sums, [[np.nan], [1.0], [np.inf]])
