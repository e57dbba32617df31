"""Many tables in JAX with one pull and one push, beside arrays and jax.grad."""

import numpy as np
import pytest
from memory_client import MemoryClient

from rowloom.client import SGD, Adagrad, InvalidRequest, Normal, TableSpec

jax = pytest.importorskip("jax", reason="needs JAX: pip install jax")
import jax.numpy as jnp  # noqa: E402

from rowloom.client.layers_jax import EmbeddingCollection, EmbeddingConfig  # noqa: E402

SIZES = {"users": (11, 3), "items": (7, 4)}
FEATURES = {"users": ("seen", "shown"), "items": ("bought",)}
OF = {"seen": "users", "shown": "users", "bought": "items"}
IDS = {"seen": np.array([[1, 2], [3, 1]]), "shown": np.array([[1, 0]]), "bought": np.array([6, 6])}


def tables(**how):
    client = MemoryClient()
    for name, (v, dim) in SIZES.items():
        client.create_table(TableSpec(name, v, dim, **{"optimizer": SGD(lr=0.1), **how}))
    return client


def config(name, **how):
    v, dim = SIZES[name]
    return EmbeddingConfig(
        num_embeddings=v, embedding_dim=dim, name=name, feature_names=FEATURES[name], **how
    )


def collection(client, **how):
    return EmbeddingCollection(client, [config(name, **how) for name in SIZES])


def loss_of(rows, scale):
    return sum(k * jnp.sum(jnp.tanh(rows[name] * scale)) for k, name in enumerate(OF, 1))


@pytest.mark.parametrize("jit", [False, True])
def test_rows_of_all_features_are_those_of_take_and_come_in_one_pull(jit):
    client = tables()
    embed = collection(client)
    rows = (jax.jit(embed) if jit else embed)({**IDS, "label": np.zeros(2)})
    assert set(rows) == set(OF)
    for name, table in OF.items():
        np.testing.assert_array_equal(rows[name], jnp.take(client.table(table).rows, IDS[name], axis=0))
    assert client.pulled == [["users", "items"]]


@pytest.mark.parametrize("jit", [False, True])
def test_value_and_grad_trains_all_tables_with_one_push_as_arrays_are_trained(jit):
    client = tables()
    embed = collection(client)

    def ours(params, ids):
        return loss_of(embed(ids, params["embed"]), params["scale"])

    def theirs(params, ids):
        return loss_of({n: params[t][ids[n]] for n, t in OF.items()}, params["scale"])

    local = {name: jnp.array(client.table(name).rows) for name in SIZES} | {"scale": jnp.ones(())}
    params = {"embed": embed.anchor, "scale": jnp.ones(())}
    step, expected = (jax.value_and_grad(one) for one in (ours, theirs))
    step = jax.jit(step) if jit else step
    for _ in range(4):
        value, grads = step(params, IDS)
        want, gradients = expected(local, IDS)
        np.testing.assert_allclose(value, want, rtol=1e-5)
        np.testing.assert_allclose(grads["scale"], gradients["scale"], rtol=1e-5)
        assert float(grads["embed"]) == 0
        params = jax.tree.map(lambda p, g: p - 0.1 * g, params, grads)
        local = jax.tree.map(lambda p, g: p - 0.1 * g, local, gradients)
    jax.effects_barrier()
    for name in SIZES:
        np.testing.assert_allclose(client.table(name).rows, local[name], rtol=0, atol=1e-5)
    assert client.requests == [["users", "items"]] * 4
    assert client.pulled == [["users", "items"]] * 4


def test_padding_and_negative_ids_have_no_gradient():
    client = tables()
    embed = EmbeddingCollection(client, [config("users", padding_idx=1), config("items")])
    rows = embed({**IDS, "bought": np.array([-1, 3])})
    np.testing.assert_array_equal(rows["seen"][0, 0], client.table("users").rows[1])
    assert not rows["bought"][0].any()
    ids = {**IDS, "bought": np.array([-1, 3])}
    jax.grad(lambda anchor: loss_of(embed(ids, anchor), 1.0))(embed.anchor)
    jax.effects_barrier()
    pushed = {t.name: {int(i) for ids, _ in t.pushes for i in ids} for t in client.tables()}
    assert pushed == {"users": {0, 2, 3}, "items": {3}}


def test_a_frozen_table_beside_others_is_not_trained_and_without_an_anchor_none_is():
    client = MemoryClient()
    for name, (v, dim) in SIZES.items():
        client.create_table(TableSpec(name, v, dim, optimizer=SGD(lr=0.1), frozen=name == "items"))
    embed = collection(client)
    jax.grad(lambda scale: loss_of(embed(IDS), scale))(1.0)
    jax.effects_barrier()
    assert client.requests == []
    jax.grad(lambda anchor: loss_of(embed(IDS, anchor), 1.0))(embed.anchor)
    jax.effects_barrier()
    assert client.requests == [["users"]]


def test_training_on_shards_has_the_losses_of_the_same_tables_in_memory(client):
    how = {"optimizer": Adagrad(lr=0.1), "initializer": Normal(std=0.3)}
    memory = tables(optimizer=how["optimizer"])
    for name, (v, dim) in SIZES.items():
        memory.table(name).rows[:] = client.create_table(TableSpec(name, v, dim, **how)).pull(np.arange(v))
    losses = []
    for one in (client, memory):
        embed = collection(one)
        step = jax.jit(jax.value_and_grad(lambda a, ids, embed=embed: loss_of(embed(ids, a), 1.0)))
        losses.append([float(step(embed.anchor, IDS)[0]) for _ in range(5)])
    np.testing.assert_allclose(*losses, rtol=1e-5)
    assert losses[0][-1] < losses[0][0]


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda c: EmbeddingCollection(c, []), "tables must be a list of EmbeddingConfig"),
        (lambda c: EmbeddingCollection("127.0.0.1:1", []), "client must be a Client"),
        (lambda c: collection(c)(np.array([1])), "features must be a dict"),
        (lambda c: collection(c)({"seen": [1]}), "features lack 'shown' of table 'users'"),
        (lambda c: collection(c)({**IDS, "seen": [1.0]}), "ids must be integers"),
        (lambda c: collection(c)({**IDS, "seen": np.array([2**40])}), "is no int32; set jax_enable_x64"),
    ],
)
def test_what_cannot_be_meant_is_refused(make, match):
    with pytest.raises(InvalidRequest, match=match):
        make(tables())


def test_an_id_that_a_table_lacks_is_refused_when_the_program_runs():
    with pytest.raises(Exception, match="is 11, table 'users' has ids in"):
        jax.block_until_ready(collection(tables())({**IDS, "seen": np.array([11])}))
