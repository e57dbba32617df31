"""JAX lookups beside jax.numpy.take."""

import numpy as np
import pytest
from memory_client import MemoryClient, MemoryTable

from rowloom.proto.errors import InvalidRequest
from rowloom.proto.spec import SGD, Adagrad, TableEntry, TableSpec

jax = pytest.importorskip("jax", reason="needs JAX: pip install jax")

import jax.numpy as jnp  # noqa: E402

from rowloom.client.layers_jax import Lookup  # noqa: E402

V, DIM = 20, 4


def a_table(optimizer=None, shape=(V, DIM)) -> MemoryTable:
    spec = TableSpec("t", shape[0], dim=shape[1:], optimizer=optimizer or SGD(lr=0.1))
    return MemoryClient().create_table(spec)


@pytest.mark.parametrize("jit", [False, True])
@pytest.mark.parametrize("dtype", ["int8", "uint16", "int32"])
@pytest.mark.parametrize("shape", [(), (5,), (2, 3), (2, 0), (2, 1, 3)])
def test_rows_are_those_of_take(jit, dtype, shape):
    table = a_table()
    ids = np.random.default_rng(1).integers(0, V, shape).astype(dtype)
    embed = Lookup(table)
    got = (jax.jit(embed) if jit else embed)(ids)
    assert got.dtype == jnp.float32
    np.testing.assert_array_equal(got, jnp.take(jnp.array(table.rows), ids, axis=0))


def test_rows_of_any_shape():
    table = a_table(shape=(5, 2, 3))
    np.testing.assert_array_equal(Lookup(table)([[1, 2]]), table.rows[[[1, 2]]])
    assert a_table(shape=(5,)).spec.row_shape == ()
    assert Lookup(a_table(shape=(5,)))([1, 2]).shape == (2,)


def test_a_tuple_or_dict_of_ids_is_one_pull():
    table = a_table()
    got = Lookup(table)({"a": jnp.array([1, 2]), "b": (np.array([[3]]), 4)})
    np.testing.assert_array_equal(got["a"], table.rows[[1, 2]])
    np.testing.assert_array_equal(got["b"][0], table.rows[[[3]]])
    np.testing.assert_array_equal(got["b"][1], table.rows[4])
    assert table.pulls == 1
    assert Lookup(table)({}) == {}


def test_negative_ids_are_zeros_and_have_no_gradient():
    table = a_table()
    embed = Lookup(table)
    ids = jnp.array([-1, 3])
    np.testing.assert_array_equal(embed(ids), [np.zeros(DIM), table.rows[3]])
    jax.grad(lambda a: embed(ids, a).sum())(embed.anchor)
    assert [i.tolist() for i, _ in table.pushes] == [[3]]


@pytest.mark.parametrize("optimizer", [SGD(lr=0.1), Adagrad(lr=0.1)])
def test_training_under_jit_has_the_losses_and_rows_of_an_array(optimizer):
    table = a_table(optimizer)
    embed = Lookup(table)
    rng = np.random.default_rng(0)

    def score(a, b, w):
        return jnp.mean(((a.mean(axis=1) * b) @ w - 1) ** 2)

    def with_table(params, a, b):
        return score(*embed((a, b), params["rows"]), params["w"])

    def with_array(params, a, b):
        return score(params["rows"][a], params["rows"][b], params["w"])

    @jax.jit
    def mine(params, a, b):
        value, grads = jax.value_and_grad(with_table)(params, a, b)
        return value, jax.tree.map(lambda p, g: p - 0.1 * g, params, grads)

    @jax.jit
    def local(params, sums, a, b):
        value, grads = jax.value_and_grad(with_array)(params, a, b)
        g = grads["rows"]
        sums = sums + g * g
        step = g if isinstance(optimizer, SGD) else g / (jnp.sqrt(sums) + 1e-10)
        return value, {"rows": params["rows"] - 0.1 * step, "w": params["w"] - 0.1 * grads["w"]}, sums

    p = {"rows": embed.anchor, "w": jnp.ones(DIM)}
    q = {"rows": jnp.array(table.rows), "w": jnp.ones(DIM)}
    sums = jnp.zeros_like(q["rows"])
    for _ in range(30):
        a, b = rng.integers(0, V, (8, 3)), rng.integers(0, V, 8)
        got, p = mine(p, a, b)
        want, q, sums = local(q, sums, a, b)
        assert abs(float(got) - float(want)) < 1e-5
    np.testing.assert_allclose(table.rows, q["rows"], rtol=0, atol=1e-5)
    assert float(p["rows"]) == 0
    assert len(table.pushes) == 30


def test_the_gradient_is_that_of_finite_differences():
    table = a_table(SGD(lr=1.0))
    embed = Lookup(table)
    ids = np.array([3, 5, 3])

    def loss(rows):
        return jnp.sum(jnp.sin(rows) * jnp.arange(1.0, 13).reshape(3, 4))

    before = table.rows.astype(np.float64)
    jax.grad(lambda a: loss(embed(ids, a)))(embed.anchor)
    got = before - table.rows
    want = np.zeros_like(before)
    np.add.at(want, ids, np.cos(before[ids]) * np.arange(1.0, 13).reshape(3, 4))
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-5)


def test_without_an_anchor_nothing_is_pushed():
    table = a_table()
    embed = Lookup(table)
    jax.grad(lambda w: (embed(jnp.array([1])) @ w).sum())(jnp.ones(DIM))
    assert table.pushes == []


def test_a_pull_sees_the_pushes_of_the_steps_before_also_inside_scan():
    table = a_table(SGD(lr=0.5))
    table.rows[:] = 1.0
    embed = Lookup(table)

    @jax.jit
    def steps(anchor, ids):
        def one(anchor, i):
            value, _ = jax.value_and_grad(lambda a: (embed(i, a) ** 2).sum() / 2)(anchor)
            return anchor, value

        return jax.lax.scan(one, anchor, ids)[1]

    np.testing.assert_allclose(steps(embed.anchor, jnp.zeros((3, 1), jnp.int32)), [2, 0.5, 0.125])


@pytest.mark.parametrize("loop", ["scan", "map", "fori_loop"])
def test_a_lookup_in_a_loop_of_a_loss_is_a_step_for_each_turn_and_one_before_it_is_one(loop):
    ids = jnp.array([[1, 2], [1, 3]])

    def total(each, over):  # of what each turn has, as an RNN would
        if loop == "scan":
            return jax.lax.scan(lambda sum, one: (sum + each(one), None), 0.0, over)[0]
        if loop == "map":
            return jax.lax.map(each, over).sum()
        return jax.lax.fori_loop(0, len(over), lambda turn, sum: sum + each(over[turn]), 0.0)

    def loss(look_up, before):
        if before:
            return total(lambda rows: (rows**2).sum(), look_up(ids))
        return total(lambda some: (look_up(some) ** 2).sum(), ids)

    moved = {}
    for before in (False, True):
        table = a_table(Adagrad(lr=0.1))
        table.rows[:], embed = 1.0, Lookup(table)
        jax.jit(jax.grad(lambda a, embed=embed, before=before: loss(lambda i: embed(i, a), before)))(
            embed.anchor
        )
        jax.effects_barrier()
        assert len(table.pushes) == (1 if before else 2)
        moved[before] = 1 - table.rows[1, 0]
    np.testing.assert_allclose([moved[True], moved[False]], [0.1, 0.1 + 0.1 / np.sqrt(2)], rtol=1e-4)


def test_large_batches_pass():
    table = a_table(shape=(1000, 64))
    embed = Lookup(table)
    ids = np.random.default_rng(0).integers(0, 1000, 50_000)
    step = jax.jit(jax.value_and_grad(lambda a, i: embed(i, a).sum()))
    want = table.rows[ids].sum()
    np.testing.assert_allclose(step(embed.anchor, ids)[0], want, rtol=1e-3)


def test_what_is_wrong_is_named():
    embed = Lookup(a_table())
    with pytest.raises(InvalidRequest, match="ids must be integers, got float32"):
        embed(jnp.array([1.5]))
    with pytest.raises(InvalidRequest, match="id 3000000000 is no int32; set jax_enable_x64"):
        embed(np.array([3_000_000_000]))
    with pytest.raises(Exception, match=r"is 20, table 't' has ids in \[0, 20\)"):
        jax.block_until_ready(jax.jit(embed)(jnp.array([20])))


@pytest.mark.skipif(
    not hasattr(jax.lax, "pcast"), reason="needs JAX 0.9: older ones say it in their own words"
)
def test_a_batched_lookup_was_refused_in_words_that_name_neither_the_table_nor_what_to_write():
    table, ids = a_table(), jnp.array([1, 2])
    embed = Lookup(table)
    ways = [
        lambda: jax.vmap(embed)(ids),
        lambda: jax.vmap(jax.jit(embed))(ids),
        lambda: jax.vmap(jax.grad(lambda a, i: embed(i, a).sum()), (None, 0))(embed.anchor, ids),
        lambda: jax.vmap(jax.grad(lambda a, c: embed(ids, a).sum() * c), (None, 0))(embed.anchor, 1.0 + ids),
        lambda: jax.jacrev(lambda a: embed(ids, a))(embed.anchor),
    ]
    for way in ways:
        with pytest.raises(InvalidRequest, match=r"table 't': JAX cannot batch .* give it the ids of all"):
            way()
    assert table.pushes == []


def test_what_comes_after_a_lookup_may_be_batched_checkpointed_and_differentiated_forward():
    table, ids, weight = a_table(), jnp.array([1, 2, 2]), jnp.arange(DIM, dtype=jnp.float32)
    embed, rows = Lookup(table), jnp.array(table.rows)

    def loss(anchor, weight, of):
        after = jax.checkpoint(lambda row: (row @ weight) ** 2)
        return jnp.sum(jax.vmap(after)(of(ids, anchor)))

    def slope(anchor, of):
        return jax.jvp(lambda w: loss(anchor, w, of), (weight,), (weight,))[1]

    np.testing.assert_allclose(slope(embed.anchor, embed), slope(rows, lambda i, a: a[i]), rtol=1e-5)
    wanted = jax.grad(loss)(rows, weight, lambda i, a: a[i])
    jax.jit(jax.grad(lambda a: loss(a, weight, embed)))(embed.anchor)
    jax.effects_barrier()
    np.testing.assert_allclose(table.rows, rows - 0.1 * wanted, rtol=1e-5)


def test_it_trains_on_a_real_cluster(client):
    table = client.create_table(TableSpec("t", V, DIM, optimizer=Adagrad(lr=0.1)))
    embed = Lookup(table)
    step = jax.jit(jax.value_and_grad(lambda a, i: ((embed(i, a) - 1) ** 2).mean()))
    losses = [float(step(embed.anchor, np.arange(V))[0]) for _ in range(20)]
    assert losses[-1] < losses[0] / 4


MIXED = [
    (jnp.array([3_000_000_000], jnp.uint32), 3_000_000_000),
    (jnp.array([1]), 1),
    (np.array([2], np.int8), 2),
    (np.int32(3), 3),
    (np.array([2**32 - 1], np.uint32), 2**32 - 1),
]


@pytest.mark.parametrize("jit", [False, True])
@pytest.mark.parametrize("x64", [False, True])
def test_large_unsigned_ids_beside_signed_ones_are_no_longer_rows_of_zeros(jit, x64):
    """JAX makes int32 of uint32 and int32 together, which wraps: so each goes by itself."""
    with jax.enable_x64(x64):
        table, given = SparseTable(), tuple(ids for ids, _ in MIXED)
        embed = Lookup(table)
        if jit and not x64:  # nobody can see whether they were cut
            with pytest.raises(InvalidRequest, match=r"JAX cuts .* down to u?int32: set jax_enable_x64"):
                jax.jit(embed)(given)
            return
        rows = (jax.jit(embed) if jit else embed)(given)
        jax.block_until_ready(rows)
        assert table.asked == [id for _, id in MIXED]
        if not x64:
            return
        jax.block_until_ready(jax.jit(jax.grad(lambda a: sum(r.sum() for r in embed(given, a))))(0.0))
        jax.effects_barrier()
        assert table.pushed == [id for _, id in MIXED]


@pytest.mark.skipif(jax.config.jax_enable_x64, reason="with int64 nothing is narrowed")
def test_a_jitted_lookup_gave_the_rows_of_ids_that_jax_had_cut_to_32_bits():
    client = MemoryClient()
    ids = np.array([2**33 + 5, 2**31 + 7])
    with pytest.raises(InvalidRequest, match=r"make the table with num_embeddings=2147483648"):
        jax.jit(Lookup(client.create_table(TableSpec("open", None, dim=DIM))))(ids)
    fits = Lookup(client.create_table(TableSpec("fits", V, dim=DIM)))
    jax.block_until_ready(jax.jit(fits)(np.array([V - 1])))


@pytest.mark.skipif(jax.config.jax_enable_x64, reason="with int64 nothing is narrowed")
def test_ids_that_jax_would_narrow_are_refused():
    embed = Lookup(MemoryClient().create_table(TableSpec("open", None, dim=DIM)))
    for wrong in (-(2**40), -(2**63), 3_000_000_000):
        with pytest.raises(InvalidRequest, match=f"id {wrong} is no int32; set jax_enable_x64"):
            embed(np.array([wrong]))
    with pytest.raises(InvalidRequest, match=f"id {2**32} is no uint32; set jax_enable_x64"):
        embed(np.array([2**32], np.uint64))
    for wrong in (2**63, 2**64 - 1):
        with pytest.raises(InvalidRequest, match=f"id {wrong} is no int64"):
            embed(np.array([wrong], np.uint64))


@pytest.mark.parametrize("jit", [False, True])
def test_with_int64_large_ids_are_what_they_are_and_mixed_ones_do_not_become_floats(jit):
    with jax.enable_x64(True):
        table = SparseTable()
        embed = Lookup(table)
        run = jax.jit(embed) if jit else embed
        large = {
            "a": jnp.array([2**62 + 1], jnp.uint64),
            "b": jnp.array([2**62 + 3]),
            "c": jnp.array([7], jnp.uint32),
        }
        jax.block_until_ready(run(large))
        assert table.asked == [2**62 + 1, 2**62 + 3, 7]
        with pytest.raises(Exception, match=r"ids\[0\] is 9223372036854775808, ids are whole numbers below"):
            jax.block_until_ready(run(jnp.array([2**63], jnp.uint64)))


class SparseTable:
    """Remembers which ids were asked for, and pushed to."""

    spec = TableSpec("sparse", None, dim=DIM)
    name, entry = spec.name, TableEntry(1, spec)

    @property
    def client(self):
        return self

    def pull_entries(self, wanted):
        ((_, ids),) = wanted
        self.asked = ids.tolist()
        return [np.zeros((len(ids), DIM), np.float32)]

    def push_entries(self, given):
        ((_, ids, _),) = given
        self.pushed = ids.tolist()


def test_masked_ids_are_refused():
    with pytest.raises(InvalidRequest, match=r"ids\[1\] is masked, and 1 of 2 are"):
        Lookup(a_table())({"a": np.ma.array([1, 2], mask=[False, True])})


@pytest.mark.parametrize("jit", [False, True])
@pytest.mark.parametrize("power", [1, 3])
def test_a_gradient_of_a_gradient_by_the_anchor_pushed_something_wrong_without_a_word(jit, power):
    table = a_table()
    before, embed = table.rows.copy(), Lookup(table)

    def slope(anchor):
        return jax.grad(lambda a: jnp.sum(embed(jnp.array([1, 2]), a) ** power))(anchor)

    step = jax.grad(slope)
    with pytest.raises(
        InvalidRequest, match="by the anchor of table 't' pushes, so it cannot be differentiated"
    ):
        (jax.jit(step) if jit else step)(embed.anchor)
    jax.effects_barrier()
    if jit:  # else the inner gradient has run by then
        np.testing.assert_array_equal(table.rows, before)


@pytest.mark.parametrize("jit", [False, True])
def test_a_penalty_on_a_gradient_works_where_the_inner_one_leaves_the_anchor_out(jit):
    table, ids = a_table(), jnp.array([1, 2, 2])
    before, embed, weight = jnp.array(table.rows), Lookup(table), jnp.arange(DIM, dtype=jnp.float32)

    def total(params, rows_of, inner):
        def loss(params):
            return jnp.sum((rows_of(params["rows"]) @ params["weight"]) ** 2)

        if inner == "weight":
            slope = jax.grad(lambda w: loss({**params, "weight": w}))(params["weight"])
        else:
            slope = jax.grad(loss)(params)["weight"]
        return loss(params) + jnp.sum(slope**2)

    def step(anchor, inner):
        return jax.grad(lambda p: total(p, lambda a: embed(ids, a), inner))(
            {"rows": anchor, "weight": weight}
        )

    run = jax.jit(step, static_argnums=1) if jit else step
    wanted = jax.grad(lambda p: total(p, lambda rows: rows[ids], "weight"))(
        {"rows": before, "weight": weight}
    )
    run(embed.anchor, "weight")
    jax.effects_barrier()
    np.testing.assert_allclose(table.rows, before - 0.1 * wanted["rows"], atol=1e-5)
    with pytest.raises(
        InvalidRequest, match=r"keep the anchor out of what the inner jax\.grad differentiates"
    ):
        run(embed.anchor, "all")
