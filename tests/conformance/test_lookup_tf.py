"""Lookups beside TensorFlow's, on the same input; its embedding_ops_test case by case."""

import functools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

tf = pytest.importorskip("tensorflow", reason="needs TensorFlow: pip install tensorflow-cpu")

from rowloom.client.lookup import (  # noqa: E402
    Ragged,
    SparseIds,
    lookup,
    lookup_gradient,
    lookup_sparse,
    lookup_sparse_gradient,
    lookup_sparse_weights_gradient,
    safe_lookup_sparse,
    safe_lookup_sparse_gradient,
)
from rowloom.proto import partition  # noqa: E402

COMBINERS = ["sum", "mean", "sqrtn"]
COMPAT = tf.compat.v1.nn
close = functools.partial(np.testing.assert_allclose, rtol=2e-6, atol=2e-6)


def table(rng, v=13, row_shape=(5,), dtype=np.float32):
    return (rng.normal(size=(v, *row_shape)) * 2).astype(dtype)


def shards_of(rows, n, strategy):
    if n == 1:
        return [rows]
    sizes = [partition.size_of(p, n, strategy, len(rows)) for p in range(n)]
    return [rows[partition.id_of(p, np.arange(size), n, strategy, len(rows))] for p, size in enumerate(sizes)]


def sparse(rng, shape=(6, 4), v=13, low=0, filled=0.5):
    """Random ids and weights at random places; examples without any among them."""
    there = np.argwhere(rng.random(shape) < filled)
    ids = SparseIds(there, rng.integers(low, v, len(there)), shape)
    return ids, SparseIds(there, rng.uniform(0.2, 2, len(there)).astype(np.float32), shape)


def theirs(ours):
    return None if ours is None else tf.SparseTensor(ours.indices, ours.values, ours.dense_shape)


def dense(gradient, shape):
    ids, grads = gradient
    out = np.zeros(shape, np.float64)
    np.add.at(out, ids, grads)
    return out


def whole_gradient(grads, params, strategy):
    """TensorFlow's gradients of shards as one dense gradient of the table."""
    n, total = len(params), sum(map(len, params))
    out = np.zeros((total, *params[0].shape[1:]))
    for p, grad in enumerate(grads):
        if grad is not None:
            part = tf.convert_to_tensor(grad).numpy()
            ids = partition.id_of(p, np.arange(len(part)), n, strategy, total) if n > 1 else slice(None)
            out[ids] = part
    return out


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16, np.int32])
@pytest.mark.parametrize("id_type", [np.int32, np.int64])
@pytest.mark.parametrize("strategy", ["mod", "div"])
@pytest.mark.parametrize("n", [1, 2, 5, 13])
def test_sharded_lookups(strategy, n, id_type, dtype):
    rng = np.random.default_rng(n)
    for row_shape in [(), (5,), (2, 3)]:
        params = shards_of(table(rng, row_shape=row_shape, dtype=dtype), n, strategy)
        for shape in [(), (1,), (30,), (2, 3, 4), (0,)]:
            ids = rng.integers(0, 13, shape).astype(id_type)
            expected = COMPAT.embedding_lookup([tf.constant(p) for p in params], ids, strategy)
            got = lookup(params, ids, strategy)
            assert got.dtype == expected.numpy().dtype
            np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize("row_shape", [(), (5,), (2, 3)])
def test_max_norm_in_any_rank(row_shape, n):
    rng = np.random.default_rng(0)
    params = shards_of(table(rng, row_shape=row_shape), n, "mod")
    ids = rng.integers(0, 13, (4, 3))
    for max_norm in (0.1, 1.0, 2.5, 1e6):
        close(lookup(params, ids, max_norm=max_norm), COMPAT.embedding_lookup(params, ids, max_norm=max_norm))


@pytest.mark.parametrize("max_norm", [None, 1.5])
@pytest.mark.parametrize("strategy", ["mod", "div"])
@pytest.mark.parametrize("n", [1, 3])
def test_gradients_of_lookups(n, strategy, max_norm):
    rng = np.random.default_rng(1)
    params = shards_of(table(rng), n, strategy)
    ids, upstream = rng.integers(0, 13, (4, 3)), rng.normal(size=(4, 3, 5)).astype(np.float32)
    variables = [tf.Variable(p) for p in params]
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(COMPAT.embedding_lookup(variables, ids, strategy, max_norm=max_norm) * upstream)
    expected = whole_gradient(tape.gradient(loss, variables), params, strategy)
    got = lookup_gradient(params, ids, upstream, strategy, max_norm)
    close(dense(got, expected.shape), expected, atol=1e-5)


def test_ragged_ids_and_max_norm():
    params, ids = np.array([[1.0], [2.0], [4.0]], np.float32), [[0, 1], [], [2]]
    ragged = tf.ragged.constant(ids, dtype=tf.int64)
    expected = tf.nn.embedding_lookup(params, ragged, max_norm=2.0)
    got = lookup(params, ragged, max_norm=2.0)
    close(got.values, expected.values)
    np.testing.assert_array_equal(got.row_splits, expected.row_splits)
    assert got.values.max() == 2.0


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16, tf.bfloat16.as_numpy_dtype])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("combiner", COMBINERS)
@pytest.mark.parametrize(("n", "strategy"), [(1, "mod"), (3, "mod"), (3, "div")])
def test_sparse_lookups(n, strategy, combiner, weighted, dtype):
    rng = np.random.default_rng(2)
    for row_shape in [(5,), (2, 5)]:
        for max_norm in (None, 1.5):
            params = shards_of(table(rng, row_shape=row_shape, dtype=dtype), n, strategy)
            ids, weights = sparse(rng)
            weights = weights if weighted else None
            expected = COMPAT.embedding_lookup_sparse(
                params, theirs(ids), theirs(weights), strategy, combiner=combiner, max_norm=max_norm
            )
            got = lookup_sparse(params, ids, weights, combiner, max_norm, partition_strategy=strategy)
            assert got.dtype == dtype
            eps = {np.float16: 4e-3, np.float32: 2e-6, np.float64: 2e-6}.get(dtype, 2e-2)
            close(got.astype(np.float64), expected.numpy().astype(np.float64), rtol=eps, atol=eps)


@pytest.mark.parametrize("max_norm", [None, 1.5])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("combiner", COMBINERS)
@pytest.mark.parametrize("n", [1, 3])
def test_gradients_of_sparse_lookups(n, combiner, weighted, max_norm):
    rng = np.random.default_rng(3)
    params = shards_of(table(rng, row_shape=(2, 3)), n, "mod")
    ids, weights = sparse(rng)
    variables, values = [tf.Variable(p) for p in params], tf.Variable(weights.values)
    with tf.GradientTape() as tape:
        given_weights = tf.SparseTensor(weights.indices, values, weights.dense_shape) if weighted else None
        out = COMPAT.embedding_lookup_sparse(
            variables, theirs(ids), given_weights, combiner=combiner, max_norm=max_norm
        )
        upstream = rng.normal(size=out.shape).astype(np.float32)
        loss = tf.reduce_sum(out * upstream)
    *grads, along = tape.gradient(loss, [*variables, values])
    ours = weights if weighted else None
    expected = whole_gradient(grads, params, "mod")
    got = lookup_sparse_gradient(params, ids, ours, upstream, combiner, max_norm)
    close(dense(got, expected.shape), expected, atol=1e-5)
    if weighted:
        got = lookup_sparse_weights_gradient(params, ids, ours, upstream, combiner, max_norm)
        close(got, along, atol=1e-5)


@pytest.mark.parametrize("combiner", COMBINERS)
def test_missing_rows_in_the_middle_are_zeros_and_at_the_end_are_left_out(combiner):
    ids = SparseIds([[1, 0], [3, 0]], [2, 1], [6, 2])
    weights = SparseIds(ids.indices, np.float32([2, 3]), [6, 2])
    params = table(np.random.default_rng(4))
    for some in (None, weights):
        expected = COMPAT.embedding_lookup_sparse(params, theirs(ids), theirs(some), combiner=combiner)
        got = lookup_sparse(params, ids, some, combiner)
        assert got.shape == (4, 5) == expected.shape
        close(got, expected)


@pytest.mark.parametrize("combiner", COMBINERS)
def test_weights_that_sum_to_zero_or_less(combiner):
    ids = SparseIds([[0, 0], [0, 1], [1, 0], [2, 0], [2, 1]], [2, 1, 3, 0, 1], [3, 2])
    weights = SparseIds(ids.indices, np.float32([1, -1, 0, -3, 1]), [3, 2])
    params = table(np.random.default_rng(4))
    expected = COMPAT.embedding_lookup_sparse(params, theirs(ids), theirs(weights), combiner=combiner)
    close(lookup_sparse(params, ids, weights, combiner), expected)


@pytest.mark.parametrize("shape", [(6, 4), (3, 2, 4), (2, 2, 2, 3)])
@pytest.mark.parametrize("default_id", [None, 0, 3])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("combiner", COMBINERS)
@pytest.mark.parametrize("n", [1, 3])
def test_safe_sparse_lookups_and_their_gradients(n, combiner, weighted, default_id, shape):
    rng = np.random.default_rng(5)
    params = shards_of(table(rng), n, "div")
    for max_norm in (None, 1.5):
        ids, weights = sparse(rng, shape, low=-5)
        weights = SparseIds(weights.indices, weights.values - 0.8, shape) if weighted else None
        if weights is not None and combiner == "sqrtn":
            weights.values[:] = np.abs(weights.values)
        variables = [tf.Variable(p) for p in params]
        how = {"combiner": combiner, "default_id": default_id, "max_norm": max_norm}
        with tf.GradientTape() as tape:
            out = COMPAT.safe_embedding_lookup_sparse(
                variables, theirs(ids), theirs(weights), partition_strategy="div", **how
            )
            upstream = rng.normal(size=out.shape).astype(np.float32)
            loss = tf.reduce_sum(out * upstream)
        got = safe_lookup_sparse(params, ids, weights, **how)
        assert got.shape == (*shape[:-1], 5)
        close(got, out, rtol=1e-5, atol=1e-5)
        expected = whole_gradient(tape.gradient(loss, variables), params, "div")
        got = safe_lookup_sparse_gradient(params, ids, weights, upstream, **how)
        close(dense(got, expected.shape), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("combiner", COMBINERS)
@pytest.mark.parametrize("default_id", [None, 3])
def test_ragged_bags(combiner, default_id):
    rng = np.random.default_rng(6)
    params, lengths = table(rng), [2, 0, 3, 1, 0]
    ids = tf.RaggedTensor.from_row_lengths(rng.integers(0, 13, 6), lengths)
    weights = tf.RaggedTensor.from_row_lengths(rng.uniform(0.5, 2, 6).astype(np.float32), lengths)
    for some in (None, weights):
        expected = tf.nn.safe_embedding_lookup_sparse(params, ids, some, combiner, default_id)
        close(safe_lookup_sparse(params, ids, some, combiner, default_id), expected)
        ours = Ragged(ids.values, ids.row_splits)
        our_weights = None if some is None else Ragged(some.values, some.row_splits)
        expected = tf.nn.embedding_lookup_sparse(params, ids, some, combiner)
        close(lookup_sparse(params, ours, our_weights, combiner), expected)


@settings(max_examples=60)
@given(
    seed=st.integers(0, 2**31),
    batch=st.integers(1, 5),
    width=st.integers(1, 5),
    filled=st.sampled_from([0.0, 0.2, 0.9]),
    combiner=st.sampled_from(COMBINERS),
    scale=st.sampled_from([1e-20, 1.0, 1e15]),
    max_norm=st.sampled_from([None, 1.0]),
)
def test_random_bags_of_small_and_large_rows(seed, batch, width, filled, combiner, scale, max_norm):
    rng = np.random.default_rng(seed)
    params = table(rng) * np.float32(scale)
    ids, weights = sparse(rng, (batch, width), low=-2, filled=filled)
    expected = COMPAT.safe_embedding_lookup_sparse(
        params, theirs(ids), theirs(weights), combiner=combiner, max_norm=max_norm
    )
    got = safe_lookup_sparse(params, ids, weights, combiner, max_norm=max_norm)
    close(got, expected, rtol=1e-5, atol=1e-6 * scale)


def test_what_is_refused_is_refused_by_both_with_the_same_class():
    params = table(np.random.default_rng(7))
    ids, weights = SparseIds([[0, 0]], [1], [1, 1]), SparseIds([[0, 0], [0, 1]], [1.0, 2.0], [1, 2])
    pairs = [
        (ValueError, lambda: lookup([], [0]), lambda: tf.nn.embedding_lookup([], [0])),
        (ValueError, lambda: lookup(None, [0]), lambda: tf.nn.embedding_lookup(None, [0])),
        (
            ValueError,
            lambda: lookup([params, params], [0], "x"),
            lambda: COMPAT.embedding_lookup([params, params], [0], "x"),
        ),
        (
            ValueError,
            lambda: lookup_sparse(params, ids, None, "max"),
            lambda: tf.nn.embedding_lookup_sparse(params, theirs(ids), None, "max"),
        ),
        (
            TypeError,
            lambda: lookup_sparse(params, [[1]]),
            lambda: tf.nn.embedding_lookup_sparse(params, [[1]], None),
        ),
        (
            TypeError,
            lambda: lookup_sparse(params, ids, [1.0]),
            lambda: tf.nn.embedding_lookup_sparse(params, theirs(ids), [1.0]),
        ),
        (
            ValueError,
            lambda: lookup_sparse(params, ids, weights),
            lambda: tf.nn.embedding_lookup_sparse(params, theirs(ids), theirs(weights)),
        ),
    ]
    for error, ours, of_tensorflow in pairs:
        with pytest.raises(error):
            of_tensorflow()
        with pytest.raises(error):
            ours()


@pytest.mark.parametrize("bad", [-1, 13])
def test_an_id_out_of_range_is_refused_by_both(bad):
    params = table(np.random.default_rng(8))
    with pytest.raises(tf.errors.InvalidArgumentError):
        tf.nn.embedding_lookup(params, [0, bad])
    with pytest.raises(ValueError, match=rf"ids\[1\] is {bad}"):
        lookup(params, [0, bad])


def test_shards_of_different_types_are_refused_by_both():
    params = [np.zeros((2, 1), np.float32), np.zeros((2, 1), np.float64)]
    with pytest.raises((TypeError, ValueError, tf.errors.InvalidArgumentError)):
        COMPAT.safe_embedding_lookup_sparse(
            [tf.constant(p) for p in params], theirs(SparseIds([[0, 0]], [1], [1, 1]))
        )
    with pytest.raises(TypeError, match="one type"):
        safe_lookup_sparse(params, SparseIds([[0, 0]], [1], [1, 1]))
