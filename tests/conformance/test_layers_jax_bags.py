"""Bags of ids in JAX beside jax.numpy: rows, and what jax.grad gives, for one table and for many."""

import numpy as np
import pytest
from memory_client import MemoryClient

from rowloom.client import SGD, Adagrad, InvalidRequest, Normal, TableSpec

jax = pytest.importorskip("jax", reason="needs JAX: pip install jax")
import jax.numpy as jnp  # noqa: E402

from rowloom.client.layers_jax import (  # noqa: E402
    BagLookup,
    EmbeddingBagCollection,
    EmbeddingBagConfig,
)

V, DIM = 11, 3
TABLES = {"users": (11, 3, "sum"), "items": (7, 4, "mean")}
OF = {"seen": "users", "shown": "users", "bought": "items"}
IDS = {
    "seen": np.array([[1, 2, -1], [3, 1, 1]]),
    "shown": (np.array([1, 0, 2]), np.array([0, 2])),
    "bought": (np.array([6, 6, 2, 1, 0]), np.array([0, 0]), np.array([0.5, 2.0, -1.0, 0.0, 3.0])),
}


def a_table(v=V, dim=DIM, optimizer=None):
    return MemoryClient().create_table(TableSpec("t", v, dim, optimizer=optimizer or SGD(lr=1.0)))


def beside(weight, ids, offsets, weights, pooling, padding):
    """The same by jax.numpy, a bag at a time: [B, dim]. weight: [V, dim]."""
    if offsets is None:
        bags = [(row, None if weights is None else weights[k]) for k, row in enumerate(ids)]
    else:
        ends = [*offsets[1:], len(ids)]
        bags = [
            (ids[a:b], None if weights is None else weights[a:b]) for a, b in zip(offsets, ends, strict=True)
        ]
    return jnp.stack([_bag(weight, some, by, pooling, padding) for some, by in bags])


def _bag(weight, ids, weights, pooling, padding):
    there = [k for k, id in enumerate(ids) if id >= 0 and id != padding]
    total = sum((weight[ids[k]] * (1.0 if weights is None else weights[k]) for k in there), jnp.zeros(DIM))
    return total / max(len(there), 1) if pooling == "mean" else total


CASES = {
    "a matrix": (np.array([[1, 2], [3, 3], [0, 10]]), None),
    "missing ids": (np.array([[1, -1, 2], [-1, -5, -1]]), None),
    "offsets": (np.array([1, 2, 3, 3, 0]), np.array([0, 2, 2, 4])),
    "a last bag of none": (np.array([1, 2, 2]), np.array([0, 3])),
    "no ids at all": (np.empty((0,), int), np.array([0, 0])),
}


@pytest.mark.parametrize("jit", [False, True])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("pooling", ["sum", "mean"])
@pytest.mark.parametrize("padding", [None, 2])
@pytest.mark.parametrize("case", CASES)
def test_bags_and_their_gradients_are_those_of_jax_numpy(case, padding, pooling, weighted, jit):
    ids, offsets = CASES[case]
    weights = np.random.default_rng(1).normal(size=ids.shape).astype(np.float32) if weighted else None
    table = a_table()
    before = jnp.array(table.rows)
    embed = BagLookup(table, pooling, padding)

    def loss(anchor, weights, ids, offsets):
        out = embed(ids, anchor, offsets=offsets, weights=weights)
        return (jnp.sin(out) * jnp.arange(1.0, 1 + out.size).reshape(out.shape)).sum()

    def local(rows, weights):
        out = beside(rows, ids, offsets, weights, pooling, padding)
        return (jnp.sin(out) * jnp.arange(1.0, 1 + out.size).reshape(out.shape)).sum()

    asked = (0, 1) if weighted else 0
    run = jax.value_and_grad(loss, argnums=asked)
    got, grads = (jax.jit(run) if jit else run)(embed.anchor, weights, ids, offsets)
    want, expected = jax.value_and_grad(local, argnums=asked)(before, weights)
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-5)
    jax.effects_barrier()
    np.testing.assert_allclose(before - table.rows, expected[0] if weighted else expected, rtol=0, atol=1e-5)
    if weighted:
        np.testing.assert_allclose(grads[1], expected[1], rtol=0, atol=1e-5)
    assert not {int(id) for some, _ in table.pushes for id in some} & {-1, padding}


@pytest.mark.parametrize("dtype", [np.uint8, np.uint32, np.int8, np.int64])
def test_ids_of_any_type_may_be_padding_and_one_that_a_type_does_not_hold_is_none(dtype):
    table = a_table(v=1000)
    for padding, left in ((3, 1), (999, 2)):
        out = jax.jit(BagLookup(table, "mean", padding))(np.array([[3, 5]], dtype))
        np.testing.assert_allclose(out[0], table.rows[[3, 5]][2 - left :].mean(0), rtol=1e-6)


def test_bags_may_have_more_axes():
    table = a_table()
    ids = np.arange(8).reshape(2, 2, 2)
    np.testing.assert_allclose(BagLookup(table, "sum")(ids), table.rows[ids].sum(2), rtol=1e-6)


def test_a_padding_of_infinite_gradient_trains_nothing_else():
    table = a_table(optimizer=SGD(lr=1.0))
    embed, ids = BagLookup(table, "sum", padding_idx=2), np.array([[2, 1]])
    jax.grad(lambda a, w: embed(ids, a, weights=w).sum())(embed.anchor, jnp.array([[jnp.inf, 1.0]]))
    jax.effects_barrier()
    assert [some.tolist() for some, _ in table.pushes] == [[1]]
    assert np.isfinite(table.rows).all()


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda e: e(jnp.array([1, 2])), r"ids of shape \(2,\) need offsets"),
        (lambda e: e(jnp.array([[1, 2]]), offsets=jnp.array([0])), r"offsets \[B\] go with ids \[N\]"),
        (lambda e: e(jnp.array([[1, 2]]), weights=jnp.array([1.0])), "a weight for each id"),
        (lambda e: e(jnp.array([[1, 2]]), weights=np.array([[True, False]])), "must be numbers, got bool"),
        (lambda e: e(jnp.array([1.0]), offsets=[0]), "ids must be integers, got float32"),
        (lambda e: e(jnp.array([1]), offsets=[0.5]), "offsets of ids must be integers"),
        (lambda e: BagLookup(e.table, "max"), 'pooling must be "sum" or "mean", got \'max\''),
        (lambda e: BagLookup(e.table, padding_idx=11), "padding_idx must be within num_embeddings"),
    ],
)
def test_what_cannot_be_meant_is_refused(call, match):
    with pytest.raises(InvalidRequest, match=match):
        call(BagLookup(a_table()))


@pytest.mark.parametrize("jit", [False, True])
@pytest.mark.parametrize("offsets", [[1, 2], [0, 2, 1], [0, 4], [-1, 2], []])
def test_offsets_that_do_not_rise_from_zero_are_refused_when_the_program_runs(offsets, jit):
    embed = BagLookup(a_table())
    run = jax.jit(lambda ids, offsets: embed(ids, offsets=offsets))
    run = run if jit else lambda ids, offsets: embed(ids, offsets=offsets)
    with pytest.raises(Exception, match="offsets must rise from 0 to at most 3"):
        jax.block_until_ready(run(jnp.array([1, 2, 3]), jnp.array(offsets, jnp.int32)))


# ---------------------------------------------------------------------------------------------------- many tables


def tables(**how):
    client = MemoryClient()
    for name, (v, dim, _) in TABLES.items():
        client.create_table(TableSpec(name, v, dim, **{"optimizer": SGD(lr=0.1), **how}))
    return client


def config(name, **how):
    v, dim, pooling = TABLES[name]
    features = [feature for feature, table in OF.items() if table == name]
    return EmbeddingBagConfig(
        num_embeddings=v, embedding_dim=dim, name=name, feature_names=features, pooling=pooling, **how
    )


def collection(client, as_dict=False, **how):
    return EmbeddingBagCollection(client, [config(name, **how) for name in TABLES], as_dict=as_dict)


def local_bags(params):
    out = []
    for feature, table in OF.items():
        value = IDS[feature]
        ids, offsets, weights = (*(value if isinstance(value, tuple) else (value,)), None, None)[:3]
        out.append(_local(params[table], ids, offsets, weights, TABLES[table][2]))
    return jnp.concatenate(out, 1)


def _local(rows, ids, offsets, weights, pooling):
    if offsets is None:
        return jnp.where((ids >= 0)[..., None], rows[ids], 0.0).sum(1)
    segments = np.searchsorted(offsets, np.arange(len(ids)), side="right") - 1
    by = jnp.ones(len(ids)) if weights is None else jnp.asarray(weights)
    total = jax.ops.segment_sum(rows[ids] * by[:, None], segments, len(offsets))
    counts = np.bincount(segments, minlength=len(offsets))[:, None]
    return total / np.maximum(counts, 1) if pooling == "mean" else total


@pytest.mark.parametrize("jit", [False, True])
def test_a_collection_trains_all_tables_with_one_pull_and_one_push_as_arrays_are_trained(jit):
    client = tables()
    embed = collection(client)
    local = {name: jnp.array(client.table(name).rows) for name in TABLES}

    def loss(out):
        return jnp.sum(jnp.tanh(out) * jnp.arange(1.0, 1 + out.size).reshape(out.shape))

    step = jax.value_and_grad(lambda anchor, ids: loss(embed(ids, anchor)))
    step = jax.jit(step) if jit else step
    for _ in range(4):
        value, _ = step(embed.anchor, {**IDS, "label": np.zeros(2)})
        want, grads = jax.value_and_grad(lambda params: loss(local_bags(params)))(local)
        np.testing.assert_allclose(value, want, rtol=1e-5)
        local = jax.tree.map(lambda p, g: p - 0.1 * g, local, grads)
    jax.effects_barrier()
    for name in TABLES:
        np.testing.assert_allclose(client.table(name).rows, local[name], rtol=0, atol=1e-5)
    assert client.requests == [["users", "items"]] * 4
    assert client.pulled == [["users", "items"]] * 4


def test_bags_come_side_by_side_or_as_a_dict_in_the_order_of_the_names():
    embed = collection(tables())
    whole, parts = embed(IDS), collection(tables(), as_dict=True)(IDS)
    assert embed.embedding_names == ("seen", "shown", "bought") == tuple(parts)
    np.testing.assert_array_equal(whole, np.concatenate(list(parts.values()), 1))
    assert whole.shape == (2, 3 + 3 + 4)


def test_features_of_other_numbers_of_bags_come_as_a_dict_only():
    ids = {**IDS, "seen": np.array([[1, 2]])}
    with pytest.raises(InvalidRequest, match=r"the same number of bags, got .*'seen': .*as_dict=True"):
        collection(tables())(ids)
    assert collection(tables(), as_dict=True)(ids)["seen"].shape == (1, 3)


def test_padding_is_left_out_of_the_bags_of_its_table_only():
    client = tables()
    embed = EmbeddingBagCollection(client, [config("users", padding_idx=1), config("items")], as_dict=True)
    out = embed(IDS)
    rows = client.table("users").rows
    np.testing.assert_allclose(out["seen"], [rows[2], rows[3]], rtol=1e-6)
    jax.grad(lambda anchor: sum(one.sum() for one in embed(IDS, anchor).values()))(embed.anchor)
    jax.effects_barrier()
    pushed = {t.name: {int(i) for ids, _ in t.pushes for i in ids} for t in client.tables()}
    assert pushed == {"users": {0, 2, 3}, "items": {0, 1, 2, 6}}


def test_what_a_feature_cannot_be_is_refused_with_its_name():
    for wrong, match in (
        ((1, 2, 3, 4), r"feature 'seen' must be ids, \(ids, offsets\)"),
        (np.array([1, 2]), r"feature 'seen' of shape \(2,\) need offsets"),
        (np.array([[1.0]]), "feature 'seen' must be integers"),
        ((np.array([[1, 2]]), np.array([[0.5, 1.0]])), "offsets of feature 'seen' must be integers"),
    ):
        with pytest.raises(InvalidRequest, match=match):
            collection(tables())({**IDS, "seen": wrong})


def test_training_on_shards_has_the_losses_of_the_same_tables_in_memory(client):
    how = {"optimizer": Adagrad(lr=0.1), "initializer": Normal(std=0.3)}
    memory = tables(optimizer=how["optimizer"])
    for name, (v, dim, _) in TABLES.items():
        memory.table(name).rows[:] = client.create_table(TableSpec(name, v, dim, **how)).pull(np.arange(v))
    losses = []
    for one in (client, memory):
        embed = collection(one)
        step = jax.jit(jax.value_and_grad(lambda a, ids, embed=embed: jnp.tanh(embed(ids, a)).sum()))
        losses.append([float(step(embed.anchor, IDS)[0]) for _ in range(5)])
    np.testing.assert_allclose(*losses, rtol=1e-5)
    assert losses[0][-1] < losses[0][0]
