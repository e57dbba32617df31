"""The partition formulas against TensorFlow's own embedding_lookup: what ours lays out, theirs finds."""

import numpy as np
import pytest

from rowloom.proto import partition

tf = pytest.importorskip(
    "tensorflow", reason="tensorflow is not installed: pip install 'rowloom[conformance]'"
)

SPLITS = [
    *[(13, n) for n in (1, 2, 3, 4, 5, 7, 13)],
    *[(10, 4), (1, 1), (60, 59), (60, 7), (97, 31), (199, 39), (128, 8), (1000, 3)],
]


def shards_of(table: np.ndarray, n: int, strategy) -> list[np.ndarray]:
    """The table cut by our way back: shard i holds the rows of id_of(i, 0), id_of(i, 1) …"""
    v = len(table)
    return [
        table[partition.id_of(i, np.arange(partition.size_of(i, n, strategy, v)), n, strategy, v)]
        for i in range(n)
    ]


@pytest.mark.parametrize("strategy", ["mod", "div"])
@pytest.mark.parametrize(("v", "n"), SPLITS)
def test_tensorflow_finds_every_row_where_we_put_it(strategy, v, n):
    table = np.arange(v * 2, dtype=np.float32).reshape(v, 2)
    ids = np.random.default_rng(v * 100 + n).integers(0, v, (5, 11))
    params = [tf.constant(s) for s in shards_of(table, n, strategy)]
    theirs = tf.compat.v1.nn.embedding_lookup(params, tf.constant(ids), partition_strategy=strategy)
    np.testing.assert_array_equal(theirs.numpy(), table[ids])
    every = tf.compat.v1.nn.embedding_lookup(params, tf.range(v, dtype=tf.int64), partition_strategy=strategy)
    np.testing.assert_array_equal(every.numpy(), table)


@pytest.mark.parametrize("strategy", ["mod", "div"])
@pytest.mark.parametrize(("v", "n"), SPLITS)
def test_we_find_every_row_where_tensorflow_put_its_gradient(strategy, v, n):
    # The gradient lies in the rows that TensorFlow read: its own (shard, local) of each id.
    params = [
        tf.Variable(np.zeros((s.shape[0], 1), np.float32)) for s in shards_of(np.zeros((v, 1)), n, strategy)
    ]
    ids = np.arange(v)
    with tf.GradientTape() as tape:
        looked_up = tf.compat.v1.nn.embedding_lookup(params, tf.constant(ids), partition_strategy=strategy)
        loss = tf.reduce_sum(looked_up * tf.constant(ids[:, None] + 1.0, tf.float32))
    gradients = tape.gradient(loss, params)
    shards = partition.shard_of(ids, n, strategy, v)
    locals_ = partition.local_of(ids, n, strategy, v)
    for shard, gradient in enumerate(gradients):
        dense = tf.convert_to_tensor(gradient).numpy()[:, 0]
        mine = np.zeros_like(dense)
        mine[locals_[shards == shard]] = ids[shards == shard] + 1
        np.testing.assert_array_equal(dense, mine)


@pytest.mark.parametrize("strategy", ["mod", "div"])
def test_an_id_beyond_the_table_has_no_place_there_or_here(strategy):
    params = [tf.constant(s) for s in shards_of(np.zeros((13, 1), np.float32), 5, strategy)]
    with pytest.raises(tf.errors.InvalidArgumentError):
        tf.compat.v1.nn.embedding_lookup(params, tf.constant([15]), partition_strategy=strategy)
    shard = int(partition.shard_of(np.array([15]), 5, strategy, 13)[0])
    local = int(partition.local_of(np.array([15]), 5, strategy, 13)[0])
    assert shard >= 5 or local >= partition.size_of(shard, 5, strategy, 13)
