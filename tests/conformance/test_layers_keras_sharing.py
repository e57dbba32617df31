"""Plain Keras layers that share their requests: what changes is how many calls there are, and nothing else."""

import math

import numpy as np
import pytest
from keras_beside import ON_TENSORFLOW, beside, fit, keras, numpy, quiet, weights_of
from memory_client import MemoryClient

from rowloom.client import SGD, Adagrad, InvalidRequest, TableSpec
from rowloom.client.layers_keras import (
    Embedding,
    EmbeddingCollection,
    EmbeddingConfig,
    SharedEmbeddings,
    share_requests,
    tables_of,
)

pytestmark = quiet
SIZES = {"users": 11, "items": 7}
DIM = 3


def tables(**how):
    client = MemoryClient()
    for name, v in SIZES.items():
        client.create_table(TableSpec(name, v, DIM, **{"optimizer": SGD(lr=0.1), **how}))
    return client


def inputs():
    shapes = {"user": (), "item": (), "seen": (3,)}
    return {name: keras.Input(shape, dtype="int64", name=name) for name, shape in shapes.items()}


def scored(parts):
    score = keras.ops.sum(keras.ops.tanh(keras.ops.concatenate(parts, axis=1)), axis=-1, keepdims=True)
    return keras.layers.Dense(1, kernel_initializer="ones")(score)


def model_of(users, items):
    """Items are used by two calls of one layer, with ids that the model itself computes."""
    given = inputs()
    last = (given["seen"][:, 0] * 5 + 1) % SIZES["items"]
    return keras.Model(given, scored([users(given["user"]), items(given["item"]), items(last)]))


def batch(n=64):
    rng = np.random.default_rng(0)
    x = {"user": rng.integers(0, 11, n), "item": rng.integers(0, 7, n), "seen": rng.integers(0, 7, (n, 3))}
    return x, rng.normal(size=(n, 1)).astype("float32")


def ordered(calls):
    """The tables of each call; which is first, the model's graph says."""
    return [sorted(names) for names in calls]


@pytest.mark.parametrize("eagerly", [False, True])
@pytest.mark.parametrize("train", [True, False])
def test_a_step_is_a_pull_and_a_push_with_the_losses_and_rows_of_keras(eagerly, train):
    client = tables()
    users, items = client.table("users"), client.table("items")
    local = beside(users), beside(items)
    local[1].trainable = train
    x, y = batch()
    model = share_requests(model_of(Embedding(users), Embedding(items, trainable=train)))
    got = fit(model, x, y, run_eagerly=eagerly)
    want = fit(model_of(*local), x, y)
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-6)
    for table, layer in zip((users, items), local, strict=True):
        np.testing.assert_allclose(table.rows, weights_of(layer), rtol=0, atol=1e-6)
    assert ordered(client.requests) == [["items", "users"] if train else ["users"]] * 12
    builds = 0 if ON_TENSORFLOW else 1  # on PyTorch `fit` calls a model once to build it
    assert ordered(client.pulled) == [["items", "users"]] * (12 + builds)


def towers(users, items):
    """Each side a Sequential model, with dropout, which must know whether it is trained."""

    def tower(layer, name):
        start = keras.initializers.GlorotUniform(seed=1)
        dense = keras.layers.Dense(2, "tanh", kernel_initializer=start)
        return keras.Sequential(
            [keras.Input((), dtype="int64"), layer, keras.layers.Dropout(1e-9), dense], name=name
        )

    given = inputs()
    sides = [tower(users, "left")(given["user"]), tower(items, "right")(given["item"])]
    return keras.Model(given, keras.layers.Dot(axes=1)(sides))


@pytest.mark.parametrize("eagerly", [False, True])
def test_towers_that_are_sequential_models_share_too(eagerly):
    client = tables()
    users, items = client.table("users"), client.table("items")
    local = beside(users), beside(items)
    x, y = batch()
    got = fit(share_requests(towers(Embedding(users), Embedding(items))), x, y, run_eagerly=eagerly)
    want = fit(towers(*local), x, y)
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-6)
    for table, layer in zip((users, items), local, strict=True):
        np.testing.assert_allclose(table.rows, weights_of(layer), rtol=0, atol=1e-6)
    assert ordered(client.requests) == [["items", "users"]] * 12


@pytest.mark.parametrize("eagerly", [False, True])
def test_two_layers_over_one_table_take_one_step_of_its_optimizer(eagerly):
    client = tables(optimizer=Adagrad(lr=0.1))
    table = client.table("items")
    given = inputs()
    model = keras.Model(
        given, scored([Embedding(table)(given["item"]), Embedding(table)(given["seen"][:, 0])])
    )
    x, y = batch(16)
    fit(share_requests(model), x, y, run_eagerly=eagerly)
    assert client.requests == [["items"]] * 3
    assert [len(ids) for ids, _ in table.pushes] == [32] * 3


def test_every_layer_over_tables_takes_part_and_rows_keep_their_masks_and_types():
    client = tables()
    made = [EmbeddingConfig(num_embeddings=7, embedding_dim=DIM, name="items", feature_names=["item"])]
    given = inputs()

    def model():
        masked = Embedding(client.table("items"), mask_zero=True, dtype="mixed_bfloat16")(given["seen"])
        parts = [
            keras.layers.GlobalAveragePooling1D(dtype="float32")(masked),
            SharedEmbeddings(client.table("users"), default_id=2)({"user": given["seen"] - 3})["user"],
            EmbeddingCollection(client, made)(given)["item"],
        ]
        return keras.Model(given, keras.layers.Concatenate()(parts))

    x, _ = batch()
    x["seen"][0] = 0
    want = model().predict(x, verbose=0)
    calls = len(client.pulled)
    got = share_requests(model()).predict(x, verbose=0)
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-6)
    assert ordered(client.pulled[calls:]) == [["items", "users"]] * 2, "two batches of 32, each with one pull"


@pytest.mark.filterwarnings("ignore:Gradients do not exist for variables")  # Keras on PyTorch, of any layer
@pytest.mark.parametrize("eagerly", [False, True])
def test_a_layer_that_the_loss_does_not_depend_on_is_not_trained(eagerly):
    client = tables()
    given = inputs()
    rows = Embedding(client.table("users"))(given["user"])
    other = Embedding(client.table("items"))(given["item"])
    model = keras.Model(given, [scored([rows]), other])
    x, y = batch(16)
    share_requests(model).compile(keras.optimizers.SGD(0.1), ["mse", None], run_eagerly=eagerly)
    model.fit(x, [y, np.zeros((16, DIM))], verbose=0)
    assert client.requests == [["users"]]


def test_each_layer_clips_for_itself():
    client = tables()
    users = Embedding(client.table("users"), clipnorm=0.01)
    items = Embedding(client.table("items"), clipnorm=math.inf)
    x, y = batch(16)
    fit(share_requests(model_of(users, items)), x, y * 100, keras.optimizers.SGD(0.1, clipnorm=0.5))
    norms = {}
    for table in client.tables():
        total = np.zeros_like(table.rows)
        np.add.at(total, table.pushes[0][0], table.pushes[0][1])
        norms[table.name] = np.linalg.norm(total)
    assert norms["users"] == pytest.approx(0.01, rel=1e-5)
    assert norms["items"] > 1
    model = share_requests(model_of(*(Embedding(table) for table in client.tables())))
    with pytest.raises(InvalidRequest, match=r"clipnorm=0\.5 does not reach the gradients of table 'users'"):
        fit(model, x, y, keras.optimizers.SGD(0.1, clipnorm=0.5))


def test_the_model_that_is_saved_is_the_one_that_was_there(tmp_path):
    client = tables()
    model = model_of(*(Embedding(table) for table in client.tables()))
    before = [layer.name for layer in model.layers]
    share_requests(model).save(tmp_path / "m.keras")
    assert [layer.name for layer in model.layers] == before
    with tables_of(client):
        again = keras.models.load_model(tmp_path / "m.keras")
    x, _ = batch()
    want = again.predict(x, verbose=0)
    calls = len(client.pulled)
    np.testing.assert_array_equal(share_requests(again).predict(x, verbose=0), want)
    np.testing.assert_array_equal(numpy(model(x)), want)
    assert ordered(client.pulled[calls:]) == [["items", "users"]] * 3


def test_it_shares_after_a_compile_and_a_fit_too():
    client = tables()
    model = model_of(*(Embedding(table) for table in client.tables()))
    x, y = batch(16)
    fit(model, x, y)
    assert len(client.requests) == 2 * 3
    client.requests.clear()
    share_requests(model)
    model.fit(x, y, verbose=0)
    assert ordered(client.requests) == [["items", "users"]]


class Tower(keras.Model):
    def __init__(self, *layers):
        super().__init__()
        self.parts = layers

    def call(self, x):
        return sum(keras.ops.sum(layer(x), axis=-1) for layer in self.parts)


def chained(client):
    given = inputs()
    first = Embedding(client.table("users"))(given["user"])
    ids = keras.ops.cast(keras.ops.abs(first[:, 0]), "int64")
    return keras.Model(given, scored([first, Embedding(client.table("items"))(ids)]))


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (
            lambda c: Tower(*(Embedding(t) for t in c.tables())),
            "not of the functional API, .* EmbeddingCollection",
        ),
        (
            lambda c: keras.Model((x := keras.Input((2,))), Embedding(c.table("users"))(x)),
            "itself calls 1 layers over tables",
        ),
        (chained, "ids of a layer are made of the rows of layer 'embedding"),
        (
            lambda c: model_of(Embedding(c.table("users")), Embedding(tables().table("items"))),
            "are of several clients",
        ),
    ],
)
def test_what_cannot_share_is_refused(make, match):
    client = tables()
    with pytest.raises(InvalidRequest, match=match):
        share_requests(make(client))
    assert client.pulled == []


def test_shared_layers_train_on_a_real_cluster(client):
    made = [client.create_table(TableSpec(name, v, DIM, optimizer=SGD(lr=0.1))) for name, v in SIZES.items()]
    x, y = batch()
    losses = fit(share_requests(model_of(*(Embedding(table) for table in made))), x, y)
    assert losses[-1] < losses[0]
