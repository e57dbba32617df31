"""The examples train as the same models held in this process do: the same loss curve."""

import numpy as np
import pytest
from example_modules import EXAMPLES, example

from rowloom.client import SGD, Normal, TableSpec, Uniform


@pytest.mark.parametrize("name", ["two_tower_keras", "collection_keras", "skipgram_jax"])
def test_an_example_has_less_than_sixty_lines(name):
    assert len((EXAMPLES / f"{name}.py").read_text().splitlines()) < 60


@pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword")  # Keras' own
def test_two_tower_in_keras_has_the_loss_curve_of_local_embeddings(client):
    keras = pytest.importorskip("keras")
    from rowloom.client.layers_keras import Embedding, SharedEmbeddings, share_requests

    two_tower = example("two_tower_keras")
    how = {"dim": two_tower.DIM, "optimizer": SGD(lr=8.0), "initializer": Normal(std=0.3, seed=1)}
    users = client.create_table(TableSpec("users", two_tower.USERS, **how))
    items = client.create_table(TableSpec("items", two_tower.ITEMS, **how))
    local_users = keras.layers.Embedding(two_tower.USERS, two_tower.DIM)
    local_items = keras.layers.Embedding(two_tower.ITEMS, two_tower.DIM)

    def pooled(features):
        def mean(ids):
            there = keras.ops.cast(ids >= 0, "float32")[..., None]
            rows = local_items(keras.ops.maximum(ids, 0)) * there
            return keras.ops.sum(rows, 1) / keras.ops.maximum(keras.ops.sum(there, 1), 1)

        return {name: mean(ids) for name, ids in features.items()}

    local = two_tower.two_tower(local_users, pooled)
    local_users.set_weights([users.pull(np.arange(two_tower.USERS))])
    local_items.set_weights([items.pull(np.arange(two_tower.ITEMS))])
    expected = two_tower.train(local)
    ours = share_requests(two_tower.two_tower(Embedding(users), SharedEmbeddings(items)))
    got = two_tower.train(ours)
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-5)
    assert got[-1] < got[0] / 2
    np.testing.assert_allclose(
        items.pull(np.arange(two_tower.ITEMS)),
        keras.ops.convert_to_numpy(local_items.embeddings),
        rtol=0,
        atol=1e-4,
    )


@pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword")  # Keras' own
def test_the_collection_in_keras_has_the_loss_curve_and_rows_of_local_embeddings(client):
    keras = pytest.importorskip("keras")
    from rowloom.client.layers_keras import EmbeddingBagCollection

    clicks = example("collection_keras")
    ours = EmbeddingBagCollection(client, clicks.tables())
    local = [keras.layers.Embedding(clicks.ROWS, clicks.DIM) for _ in clicks.FEATURES]

    def embed(features):
        rows = [layer(features[name]) for layer, name in zip(local, clicks.FEATURES, strict=True)]
        return keras.ops.squeeze(keras.ops.concatenate(rows, -1), 1)

    theirs = clicks.clicks_model(embed)
    every = np.arange(clicks.ROWS)
    for layer, name in zip(local, clicks.FEATURES, strict=True):
        layer.set_weights([client.table(name).pull(every)])
    expected, got = clicks.train(theirs), clicks.train(clicks.clicks_model(ours))
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-4)
    assert got[-1] < got[0] / 2
    for layer, name in zip(local, clicks.FEATURES, strict=True):
        rows = keras.ops.convert_to_numpy(layer.embeddings)
        np.testing.assert_allclose(client.table(name).pull(every), rows, rtol=0, atol=1e-3)


def test_skip_gram_in_jax_has_the_loss_curve_of_local_arrays(client):
    jax = pytest.importorskip("jax")
    import jax.numpy as jnp

    skipgram = example("skipgram_jax")
    got, vocabulary, rows = skipgram.main()
    size = len(vocabulary)
    seen = client.create_table(
        TableSpec("centers", size, skipgram.DIM, initializer=Uniform(-0.05, 0.05, seed=1))
    )
    params = (jnp.array(seen.pull(np.arange(size))), jnp.zeros((size, skipgram.DIM)))
    sums = (jnp.zeros_like(params[0]), jnp.zeros_like(params[1]))

    @jax.jit
    def step(params, sums, c, o):
        value, grads = jax.value_and_grad(lambda p: skipgram.loss(p[0][c], p[1][o]))(params)
        sums = jax.tree.map(lambda s, g: s + g * g, sums, grads)
        new = jax.tree.map(lambda p, g, s: p - 0.1 * g / (jnp.sqrt(s) + 1e-10), params, grads, sums)
        return value, new, sums

    expected = []
    ids = vocabulary.encode(skipgram.TEXT.split())
    for epoch in range(4):
        for c, o in skipgram.batches(ids, size, seed=epoch):
            value, params, sums = step(params, sums, c, o)
            expected.append(float(value))
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-5)
    assert got[-1] < got[0] * 0.8
    np.testing.assert_allclose(rows, params[0], rtol=0, atol=1e-4)
