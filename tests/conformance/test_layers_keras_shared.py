"""Features that share one table, beside feature columns, on the backend that KERAS_BACKEND names."""

import numpy as np
import pytest
from keras_beside import (
    DIM,
    V,
    a_table,
    fit,
    keras,
    numpy,
    only_tensorflow,
    quiet,
)

from rowloom.client.layers_keras import SharedEmbeddings
from rowloom.proto.errors import InvalidRequest
from rowloom.proto.spec import SGD

pytestmark = quiet

# ------------------------------------------------------------------------------------------------------- shared


def safe_lookup(rows, ids, weights, combiner, max_norm=None, default_id=None):
    """The safe sparse lookup of feature columns, in a loop: (pooled, gradient of the rows for ones upstream)."""
    out, grads = np.zeros((len(ids), rows.shape[1])), np.zeros(rows.shape)
    for i, (bag, w) in enumerate(zip(ids, weights, strict=True)):
        kept = [(j, x) for j, x in zip(bag, w, strict=True) if j >= 0 and (x > 0 or combiner == "sum")]
        if not kept and default_id is not None:
            kept = [(default_id, 1.0)]
        if not kept:
            continue
        size = {
            "sum": 1.0,
            "mean": sum(x for _, x in kept),
            "sqrtn": np.sqrt(sum(x * x for _, x in kept)),
        }[combiner]
        for j, x in kept:
            row = rows[j].astype(np.float64)
            norm = np.linalg.norm(row)
            clip = max_norm is not None and norm > max_norm
            out[i] += (row * max_norm / norm if clip else row) * x / size
            g = np.ones(len(row)) * x / size
            grads[j] += max_norm * (g / norm - row * (row @ g) / norm**3) if clip else g
    return out, grads


GOLDEN_IDS = np.array([[0, 1, -1], [-1, -1, -1], [-1, -1, -1], [2, -1, -1], [0, 1, -1]])
GOLDEN_WEIGHTS = np.array([[1, 2, 1], [1, 0, 0], [0, 0, 0], [3, 0, 0], [0, -0.5, 0]], np.float32)


@pytest.mark.parametrize("default_id", [None, 3])
def test_the_golden_bags_of_the_safe_lookup(default_id):
    table = a_table()
    e = table.rows
    layer = SharedEmbeddings(table, combiner="mean", default_id=default_id)
    none = np.zeros(DIM) if default_id is None else e[3]
    got = numpy(layer({"x": (GOLDEN_IDS, GOLDEN_WEIGHTS)})["x"])
    np.testing.assert_allclose(got, [(e[0] + 2 * e[1]) / 3, none, none, e[2], none], rtol=1e-6)
    got = numpy(layer({"x": GOLDEN_IDS})["x"])
    np.testing.assert_allclose(
        got, [(e[0] + e[1]) / 2, none, none, e[2], (e[0] + e[1]) / 2], rtol=1e-5, atol=1e-7
    )


@pytest.mark.parametrize("combiner", ["sum", "mean", "sqrtn"])
@pytest.mark.parametrize("max_norm", [None, 0.2])
@pytest.mark.parametrize("default_id", [None, 5])
def test_pooled_rows_and_their_gradients_are_those_of_the_safe_lookup(combiner, max_norm, default_id):
    rng = np.random.default_rng(4)
    table = a_table(SGD(lr=1.0))
    before = table.rows.copy()
    bags = {}
    for name in ("a", "b"):
        ids = rng.integers(-3, V, (32, 5))
        weights = rng.choice(np.array([-0.5, 0, 0.5, 2], np.float32), (32, 5))
        bags[name] = (ids, np.where(ids < 0, 0, weights) if name == "a" else np.ones_like(weights))
    want = {k: safe_lookup(before, *v, combiner, max_norm, default_id) for k, v in bags.items()}

    inputs = {k: keras.Input((5,), dtype="int64", name=k) for k in bags}
    weights = keras.Input((5,), name="w")
    layer = SharedEmbeddings(table, combiner=combiner, max_norm=max_norm, default_id=default_id)
    pooled = layer({"a": (inputs["a"], weights), "b": inputs["b"]})
    model = keras.Model({**inputs, "w": weights}, pooled)
    feed = {"a": bags["a"][0], "b": bags["b"][0], "w": bags["a"][1]}
    got = model.predict(feed, batch_size=32, verbose=0)
    for name in bags:
        np.testing.assert_allclose(got[name], want[name][0], rtol=0, atol=1e-5)

    total = keras.ops.sum(pooled["a"] + pooled["b"], axis=1)
    trained = keras.Model({**inputs, "w": weights}, total)
    trained.compile(keras.optimizers.SGD(1.0), loss=lambda true, out: keras.ops.sum(out))
    trained.fit(feed, np.zeros(32), batch_size=32, verbose=0)
    assert len(table.pushes) == 1
    expected = before - sum(grads for _, grads in want.values())
    np.testing.assert_allclose(table.rows, expected, rtol=0, atol=2e-4)


def test_missing_ids_touch_no_row():
    table = a_table()
    layer = SharedEmbeddings(table)
    inner = keras.Input((2,), dtype="int64")
    model = keras.Model(inner, keras.layers.Dense(1)(layer({"x": inner})["x"]))
    fit(model, np.array([[3, -1], [-1, -1]]), np.ones((2, 1)))
    assert {int(i) for ids, _ in table.pushes for i in ids} == {3}


def test_each_feature_can_have_its_combiner():
    table = a_table()
    ids = np.array([[1, 2]])
    got = SharedEmbeddings(table, combiner={"a": "sum", "b": "mean"})({"a": ids, "b": ids})
    np.testing.assert_allclose(numpy(got["a"]), 2 * numpy(got["b"]), rtol=1e-6)
    with pytest.raises(InvalidRequest, match="no combiner for feature 'c'"):
        SharedEmbeddings(table, combiner={"a": "sum"})({"c": ids})


def test_shared_embeddings_name_what_is_wrong():
    with pytest.raises(InvalidRequest, match="combiner must be one of sum, mean, sqrtn, got 'max'"):
        SharedEmbeddings(a_table(), combiner="max")
    with pytest.raises(InvalidRequest, match="max_norm must be above 0, got -1"):
        SharedEmbeddings(a_table(), max_norm=-1)
    with pytest.raises(InvalidRequest, match=r"rows of \(2, 3\), not vectors"):
        SharedEmbeddings(a_table(rows=np.zeros((4, 2, 3), np.float32)))
    with pytest.raises(InvalidRequest, match=r"feature 'x': ids must be \[batch, K\]"):
        SharedEmbeddings(a_table())({"x": np.array([1, 2])})


@only_tensorflow
def test_ragged_and_sparse_bags_are_read():
    import tensorflow as tf

    table = a_table()
    ragged = tf.ragged.constant([[1, 2], [], [3]])
    got = SharedEmbeddings(table, combiner="sum")({"r": ragged, "s": ragged.to_sparse()})
    want = [table.rows[1] + table.rows[2], np.zeros(DIM), table.rows[3]]
    for name in ("r", "s"):
        np.testing.assert_allclose(numpy(got[name]), want, rtol=1e-6)


@only_tensorflow
@pytest.mark.parametrize("combiner", ["sum", "mean", "sqrtn"])
@pytest.mark.parametrize("max_norm", [None, 0.15])
def test_pooled_rows_are_those_of_feature_columns(combiner, max_norm):
    """tf.feature_column.shared_embeddings still works in graphs, on the column's own methods."""
    import tensorflow as tf
    from tensorflow.python.feature_column import feature_column_v2 as fc

    table = a_table()
    rng = np.random.default_rng(7)
    ids = {name: rng.integers(-1, V, (16, 3)) for name in ("aaa", "bbb")}
    weights = rng.choice(np.array([0.5, 1, 2], np.float32), (16, 3))
    with tf.Graph().as_default():
        columns = [tf.feature_column.categorical_column_with_identity(name, V) for name in ids]
        columns[1] = tf.feature_column.weighted_categorical_column(columns[1], "weights")
        shared = tf.feature_column.shared_embeddings(
            columns,
            DIM,
            combiner=combiner,
            max_norm=max_norm,
            initializer=tf.compat.v1.constant_initializer(table.rows),
        )
        features = {name: tf.constant(value) for name, value in ids.items()}
        features["bbb"] = tf.sparse.from_dense(tf.constant(np.where(ids["bbb"] < 0, 0, ids["bbb"] + 1)))
        features["bbb"] = tf.SparseTensor(
            features["bbb"].indices, features["bbb"].values - 1, features["bbb"].dense_shape
        )
        features["weights"] = tf.SparseTensor(
            features["bbb"].indices,
            tf.gather_nd(tf.constant(weights), features["bbb"].indices),
            features["bbb"].dense_shape,
        )
        cache = fc.FeatureTransformationCache(features)
        pooled = [column.get_dense_tensor(cache, None) for column in shared]
        with tf.compat.v1.Session() as session:
            session.run(tf.compat.v1.global_variables_initializer())
            want = session.run(pooled)
    layer = SharedEmbeddings(table, combiner=combiner, max_norm=max_norm)
    got = layer({"aaa": ids["aaa"], "bbb": (ids["bbb"], np.where(ids["bbb"] < 0, 0, weights))})
    np.testing.assert_allclose(numpy(got["aaa"]), want[0], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(numpy(got["bbb"]), want[1], rtol=1e-5, atol=1e-6)
