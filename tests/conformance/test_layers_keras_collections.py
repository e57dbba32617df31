"""Collections of embeddings beside keras.layers.Embedding for each table, on the backend that KERAS_BACKEND names."""

import math

import numpy as np
import pytest
from keras_beside import ON_TENSORFLOW, beside, fit, keras, numpy, only_tensorflow, quiet, weights_of
from memory_client import MemoryClient

from rowloom.client import SGD, Adagrad, InvalidRequest, Normal, TableNotFound, TableSpec
from rowloom.client.layers_keras import (
    Embedding,
    EmbeddingBagCollection,
    EmbeddingBagConfig,
    EmbeddingCollection,
    EmbeddingConfig,
    share_requests,
    tables_of,
)

pytestmark = quiet
SIZES = {"users": (11, 3), "items": (7, 4)}
FEATURES = {"users": ("seen", "shown"), "items": ("bought",)}
NAMES = ("seen", "shown", "bought")


def tables(**how):
    client = MemoryClient()
    for name, (v, dim) in SIZES.items():
        client.create_table(TableSpec(name, v, dim, **{"optimizer": SGD(lr=0.1), **how}))
    return client


def config(kind, name, **how):
    v, dim = SIZES[name]
    return kind(num_embeddings=v, embedding_dim=dim, name=name, feature_names=FEATURES[name], **how)


def collection(client, **how):
    return EmbeddingCollection(client, [config(EmbeddingConfig, name) for name in SIZES], **how)


def bags_of(client, poolings=("sum", "mean"), padding=(None, None), **how):
    made = [
        config(EmbeddingBagConfig, name, pooling=pooling, padding_idx=pad)
        for name, pooling, pad in zip(SIZES, poolings, padding, strict=True)
    ]
    return EmbeddingBagCollection(client, made, **how)


def one_by_one(locals_):
    """What a collection does, with a layer of Keras for each table."""

    def embed(features):
        return {name: locals_[k](features[name]) for name, k in zip(NAMES, (0, 0, 1), strict=True)}

    return embed


def scored(embed, k=2):
    """A model in which every feature counts."""
    inputs = {name: keras.Input((k,), dtype="int64", name=name) for name in NAMES}
    parts = [keras.ops.mean(rows, axis=1) for rows in embed(inputs).values()]
    score = keras.ops.sum(keras.ops.tanh(keras.ops.concatenate(parts, axis=1)), axis=-1, keepdims=True)
    return keras.Model(inputs, keras.layers.Dense(1, kernel_initializer="ones")(score))


def batch(n=64, k=2):
    rng = np.random.default_rng(0)
    x = {name: rng.integers(0, v, (n, k)) for name, v in zip(NAMES, (11, 11, 7), strict=True)}
    return x, rng.normal(size=(n, 1)).astype("float32")


# ------------------------------------------------------------------------------------------------------------- rows


def test_rows_of_all_features_are_those_of_a_keras_embedding_for_each_table_and_come_in_one_pull():
    client = tables()
    x, _ = batch()
    x["seen"], x["shown"] = x["seen"][:, 0], x["shown"].astype("int32").reshape(32, 2, 2)
    got = collection(client)({**x, "label": np.zeros(64)})
    want = one_by_one([beside(client.table(name)) for name in SIZES])(x)
    assert tuple(got) == NAMES
    for name in NAMES:
        np.testing.assert_array_equal(numpy(got[name]), numpy(want[name]))
    assert client.pulled == [["users", "items"]]


def test_a_symbolic_call_pulls_nothing_and_knows_the_shapes():
    client = tables()
    inputs = {name: keras.Input((5,), dtype="int32", name=name) for name in NAMES}
    assert {n: s.shape for n, s in collection(client)(inputs).items()} == {
        "seen": (None, 5, 3),
        "shown": (None, 5, 3),
        "bought": (None, 5, 4),
    }
    assert bags_of(client)(inputs).shape == (None, 10)
    assert bags_of(client, as_dict=True)(inputs)["bought"].shape == (None, 4)
    assert client.pulled == []


def test_a_feature_of_two_tables_is_named_with_each():
    made = [
        EmbeddingConfig(num_embeddings=v, embedding_dim=dim, name=name, feature_names=["id"])
        for name, (v, dim) in SIZES.items()
    ]
    rows = EmbeddingCollection(tables(), made)({"id": np.array([1])})
    assert {name: one.shape[1] for name, one in rows.items()} == {"id@users": 3, "id@items": 4}


@only_tensorflow
def test_sparse_and_ragged_ids_are_read_as_by_an_embedding():
    import tensorflow as tf

    client = tables()
    ragged = tf.ragged.constant([[1, 2], [], [3]])
    sparse = tf.SparseTensor([[0, 0], [1, 2]], [2, 1], (2, 3))
    got = collection(client)({"seen": ragged, "shown": sparse, "bought": tf.constant([1])})
    rows = client.table("users").rows
    np.testing.assert_array_equal(got["seen"].flat_values.numpy(), rows[[1, 2, 3]])
    np.testing.assert_array_equal(numpy(got["shown"]), rows[[[2, 0, 0], [0, 0, 1]]])


# --------------------------------------------------------------------------------------------------------- training


@pytest.mark.parametrize("eagerly", [False, True])
def test_fit_has_the_losses_and_rows_of_keras_and_a_pull_and_a_push_a_step(eagerly):
    client = tables()
    local = [beside(client.table(name)) for name in SIZES]
    x, y = batch()
    got = fit(scored(collection(client)), x, y, run_eagerly=eagerly)
    want = fit(scored(one_by_one(local)), x, y)
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-6)
    for name, layer in zip(SIZES, local, strict=True):
        np.testing.assert_allclose(client.table(name).rows, weights_of(layer), rtol=0, atol=1e-6)
    assert client.requests == [["users", "items"]] * 12
    builds = 0 if ON_TENSORFLOW else 1  # on PyTorch `fit` calls a model once to build it
    assert client.pulled == [["users", "items"]] * (12 + builds)


def test_a_collection_used_twice_in_a_loss_pushes_once():
    client = tables()
    embed = collection(client)
    inputs = {name: keras.Input((2,), dtype="int64", name=name) for name in NAMES}
    total = sum(keras.ops.sum(rows, axis=(1, 2)) for _ in range(2) for rows in embed(inputs).values())
    x, y = batch(16)
    fit(keras.Model(inputs, total[:, None]), x, y)
    assert client.requests == [["users", "items"]] * 3


@pytest.mark.parametrize("eagerly", [False, True])
def test_a_feature_that_the_loss_does_not_depend_on_is_not_trained(eagerly):
    client = tables()
    embed = collection(client)
    inputs = {name: keras.Input((2,), dtype="int64", name=name) for name in NAMES}
    rows = embed(inputs)
    model = keras.Model(inputs, keras.ops.sum(rows["shown"], axis=(1, 2))[:, None])
    x, y = batch(16)
    fit(model, x, y, run_eagerly=eagerly)
    assert client.requests == [["users"]] * 3
    for ids, _ in client.table("users").pushes:
        np.testing.assert_array_equal(np.sort(ids), np.sort(x["shown"].reshape(-1)))


def test_the_gradient_of_padding_is_not_pushed_and_its_row_comes_as_it_is():
    client = tables()
    made = [config(EmbeddingConfig, "users", padding_idx=-10), config(EmbeddingConfig, "items")]
    embed = EmbeddingCollection(client, made)
    x, y = batch()
    np.testing.assert_array_equal(numpy(embed(x)["seen"]), client.table("users").rows[x["seen"]])
    before = client.table("users").rows.copy()
    fit(scored(embed), x, y)
    changed = np.flatnonzero((client.table("users").rows != before).any(axis=1))
    assert changed.tolist() == [k for k in range(11) if k != 1]


def test_a_frozen_table_beside_others_is_not_trained_and_frozen_ones_alone_push_nothing():
    client = MemoryClient()
    for name, (v, dim) in SIZES.items():
        client.create_table(TableSpec(name, v, dim, optimizer=SGD(lr=0.1), frozen=name == "items"))
    x, y = batch()
    fit(scored(collection(client)), x, y)
    assert client.requests == [["users"]] * 12
    frozen = tables(frozen=True)
    fit(scored(collection(frozen)), x, y)
    assert frozen.requests == []


def test_each_table_is_clipped_by_its_own_norm_as_keras_clips_each_weight():
    client = tables()
    x, y = batch()
    fit(scored(collection(client, clipnorm=0.5)), x, y * 100, keras.optimizers.SGD(0.1, clipnorm=0.5))
    for table in client.tables():
        for ids, grads in table.pushes:
            total = np.zeros_like(table.rows)
            np.add.at(total, ids, grads)
            np.testing.assert_allclose(np.linalg.norm(total), 0.5, rtol=1e-5)


def test_an_optimizer_that_clips_is_refused_and_names_the_tables():
    x, y = batch()
    with pytest.raises(InvalidRequest, match=r"clipnorm=0.5 does not reach .* 'users', 'items'"):
        fit(scored(collection(tables())), x, y, keras.optimizers.SGD(0.1, clipnorm=0.5))
    fit(scored(collection(tables(), clipnorm=math.inf)), x, y, keras.optimizers.SGD(0.1, clipnorm=0.5))


@pytest.mark.parametrize("ours", [SGD(lr=0.1), Adagrad(lr=0.1, eps=1e-7, initial_accumulator=0.1)])
def test_training_on_shards_has_the_losses_of_the_same_tables_in_memory(client, ours):
    memory = tables(optimizer=ours)
    for name, (v, dim) in SIZES.items():
        spec = TableSpec(name, v, dim, optimizer=ours, initializer=Normal(std=0.3))
        memory.table(name).rows[:] = client.create_table(spec).pull(np.arange(v))
    x, y = batch()
    got, want = (fit(scored(collection(one)), x, y) for one in (client, memory))
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-6)
    for name, (v, _) in SIZES.items():
        rows = client.table(name).pull(np.arange(v))
        np.testing.assert_allclose(rows, memory.table(name).rows, rtol=0, atol=1e-5)


# ------------------------------------------------------------------------------------------------------------- bags


def pooled_by_keras(locals_, poolings, padding, missing=-1):
    """Bags of Keras' own rows."""
    ops = keras.ops

    def embed(features):
        out = []
        for name, k in zip(NAMES, (0, 0, 1), strict=True):
            ids = features[name]
            there = ops.logical_and(ids != missing, ids != (missing if padding[k] is None else padding[k]))
            there = ops.cast(there, "float32")[..., None]
            total = ops.sum(locals_[k](ops.maximum(ids, 0)) * there, 1)
            count = ops.maximum(ops.sum(there, 1), 1)
            out.append(total / count if poolings[k] == "mean" else total)
        return ops.concatenate(out, axis=1)

    return embed


@pytest.mark.parametrize("poolings", [("sum", "mean"), ("mean", "sum")])
@pytest.mark.parametrize("padding", [(None, None), (0, 3)])
def test_bags_and_their_training_are_those_of_keras_rows_pooled(poolings, padding):
    client = tables()
    local = [beside(client.table(name)) for name in SIZES]
    x, y = batch(k=3)
    for ids in x.values():
        ids[::3, 1:] = -1
        ids[5] = -1

    def model(embed):
        inputs = {name: keras.Input((3,), dtype="int64", name=name) for name in NAMES}
        return keras.Model(inputs, keras.ops.sum(keras.ops.tanh(embed(inputs)), axis=1, keepdims=True))

    ours = bags_of(client, poolings, padding)
    theirs = pooled_by_keras(local, poolings, padding)
    np.testing.assert_allclose(numpy(ours(x)), numpy(theirs(x)), rtol=0, atol=1e-6)
    np.testing.assert_allclose(fit(model(ours), x, y), fit(model(theirs), x, y), rtol=0, atol=1e-6)
    for name, layer in zip(SIZES, local, strict=True):
        np.testing.assert_allclose(client.table(name).rows, weights_of(layer), rtol=0, atol=1e-6)
    assert client.requests == [["users", "items"]] * 12


def test_weights_of_a_mean_are_divided_by_their_sum_and_come_as_a_dict_too():
    client = tables()
    rows = client.table("items").rows
    ids, weights = np.array([[1, 2], [3, -1]]), np.array([[1.0, 3.0], [2.0, 9.0]])
    one = np.array([[1], [2]])
    got = bags_of(client, as_dict=True)({"seen": one, "shown": one, "bought": (ids, weights)})
    np.testing.assert_allclose(numpy(got["bought"]), [(rows[1] + 3 * rows[2]) / 4, rows[3]], rtol=1e-6)
    np.testing.assert_array_equal(numpy(got["seen"]), client.table("users").rows[[1, 2]])


# ------------------------------------------------------------------------------------------------ saving, refusals


@pytest.mark.parametrize("make", [collection, lambda c: bags_of(c, padding=(1, None), as_dict=True)])
def test_a_saved_model_finds_its_tables_and_makes_no_new_ones(tmp_path, make):
    client = tables()
    inputs = {name: keras.Input((2,), dtype="int64", name=name) for name in NAMES}
    parts = [keras.layers.Flatten()(rows) for rows in make(client)(inputs).values()]
    model = keras.Model(inputs, keras.layers.Concatenate()(parts))
    model.save(tmp_path / "m.keras")
    with pytest.raises(InvalidRequest, match="table 'users' is on a cluster: load inside"):
        keras.models.load_model(tmp_path / "m.keras")
    with pytest.raises(TableNotFound), tables_of(MemoryClient()):
        keras.models.load_model(tmp_path / "m.keras")
    with tables_of(client):
        again = keras.models.load_model(tmp_path / "m.keras")
    x, _ = batch()
    np.testing.assert_array_equal(model.predict(x, verbose=0), again.predict(x, verbose=0))


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda c: EmbeddingCollection(c, []), "tables must be a list of EmbeddingConfig"),
        (lambda c: EmbeddingBagCollection(c, [config(EmbeddingConfig, "users")]), "has a EmbeddingConfig"),
        (lambda c: EmbeddingCollection("127.0.0.1:1", []), "client must be a Client"),
        (lambda c: collection(c)(np.array([1])), "features must be a dict"),
        (lambda c: collection(c)({"seen": np.array([1])}), "features lack 'shown' of table 'users'"),
        (lambda c: collection(c)({n: np.array([11]) for n in NAMES}), r"is 11, table 'users' has ids in"),
        (lambda c: collection(c)({n: np.array([-1]) for n in NAMES}), "is -1, table 'users'"),
        (lambda c: bags_of(c)({n: np.array([1]) for n in NAMES}), r"'seen': ids must be \[batch, K\]"),
        (
            lambda c: collection(c)({n: np.ma.array([1], mask=[True]) for n in NAMES}),
            r"ids\[0\] is masked, and 1 of 1 are",
        ),
    ],
)
def test_what_cannot_be_meant_is_refused(make, match):
    client = tables()
    with pytest.raises(InvalidRequest, match=match):
        make(client)
    assert client.requests == []


@pytest.mark.parametrize("share", [False, True])
@pytest.mark.parametrize(
    ("value", "dtype", "match"),
    [
        (-1, "int64", r"is -1, table 'users' has ids in \[0, 11\)"),
        (2**63, "uint64", r"9223372036854775808.*table 'users'|9223372036854775808, ids are whole numbers"),
        (np.nan, "float32", "is nan, ids are whole numbers"),
        (1e20, "float32", r"is 1\.0\d*e\+20, ids are whole numbers"),
    ],
)
def test_what_is_no_id_is_refused_in_fit_whatever_looks_it_up(value, dtype, match, share):
    """A cast made ids of NaN and 1e20; of -1 the last row."""
    if dtype == "uint64" and not ON_TENSORFLOW:
        pytest.skip("Keras itself refuses the type")
    client = tables()
    x, y = batch(16)
    x["seen"] = x["seen"].astype(dtype)
    x["seen"][3, 1] = value
    inputs = {
        name: keras.Input((2,), dtype=dtype if name == "seen" else "int64", name=name) for name in NAMES
    }
    users, items = (Embedding(client.table(name)) for name in SIZES)
    embed = collection(client)
    rows = (
        {"seen": users(inputs["seen"]), "bought": items(inputs["bought"])} if share else embed(inputs)
    ).values()
    model = keras.Model(
        inputs, keras.ops.sum(keras.ops.concatenate([keras.ops.mean(r, 1) for r in rows], 1), 1)
    )
    with pytest.raises(Exception, match=match):
        fit(share_requests(model) if share else model, x, y)
    assert client.requests == []


def test_rows_have_the_type_of_the_layer():
    x, _ = batch()
    for layer in (collection(tables(), dtype="bfloat16"), bags_of(tables(), dtype="bfloat16", as_dict=True)):
        kinds = {keras.backend.standardize_dtype(rows.dtype) for rows in layer(x).values()}
        assert kinds == {"bfloat16"}


@pytest.mark.skipif(ON_TENSORFLOW, reason="PyTorch's own loop")
def test_ids_may_be_overwritten_before_the_backward_pass_of_pytorch():
    import torch

    client = tables()
    ids = {name: torch.tensor([1, 2]) for name in NAMES}
    loss = sum(rows.sum() for rows in collection(client)(ids).values())
    for value in ids.values():
        value.zero_()
    loss.backward()
    assert {int(i) for pushed, _ in client.table("items").pushes for i in pushed} == {1, 2}
