"""JAX lookups on several devices, in `jax.shard_map`: what they push together is the gradient of an array."""

import os
import subprocess
import sys

import pytest

jax = pytest.importorskip("jax", reason="needs JAX: pip install jax")

# JAX makes two devices of a processor only before it is used: so in a process of its own.
PROGRAM = """
import sys
sys.path.insert(0, "tests/support")
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import Mesh, PartitionSpec as P
from memory_client import MemoryClient
from rowloom.client.layers_jax import BagLookup, Lookup
from rowloom.proto.spec import SGD, TableSpec

assert len(jax.devices()) == 2
mesh, ids, by = Mesh(np.array(jax.devices()), ("d",)), jnp.array([0, 1, 2, 3, 1, 5, 6, 7]), jnp.arange(8.0) + 1
each, same = P("d"), P()

def shard_map(function, *specs, out=same, **how):
    return jax.shard_map(function, mesh=mesh, in_specs=specs, out_specs=out, **how)

def total(rows, by):
    return jnp.sum(rows * by[: len(rows), None])

def summed(of):
    return shard_map(lambda a, i, c: jax.lax.psum(total(of(i, a), c), "d"), same, each, each)

def each_by_itself(of):
    inside = shard_map(lambda a, i, c: jnp.sum(of(i, a) * c[:, None], 1), same, each, each, out=each)
    return lambda *given: inside(*given).sum()

def unchecked(of):
    inside = lambda a, i, c: jax.lax.psum(total(of(i, a), c), "d")
    return shard_map(inside, same, each, each, check_vma=False)

def of_the_same_ids(of):
    return shard_map(lambda a, i, c: jax.lax.psum(total(of(i, a)[:4], c), "d"), same, same, each)

def bags(of):
    return summed(lambda i, a: of(i[:, None], a) if isinstance(of, BagLookup) else of(i, a))

def table_and_rows():
    # So slow that it does not matter whether a device pulls before another one pushes.
    table = MemoryClient().create_table(TableSpec("t", 9, dim=2, optimizer=SGD(lr=1e-9)))
    return table, jnp.asarray(table.rows)

def pushed(table):
    jax.effects_barrier()
    found = np.zeros((9, 2), np.float32)
    for at, grads in table.pushes:
        np.add.at(found, at, grads)
    return found

for build in (summed, each_by_itself, unchecked, of_the_same_ids, bags):
    table, rows = table_and_rows()
    layer = (BagLookup if build is bags else Lookup)(table)
    value, slope = jax.jit(jax.value_and_grad(build(layer)))(layer.anchor, ids, by)
    want, wanted = jax.jit(jax.value_and_grad(build(lambda i, a: a[i])))(rows, ids, by)
    np.testing.assert_allclose(value, want, rtol=1e-6, err_msg=build.__name__)
    np.testing.assert_allclose(pushed(table), wanted, rtol=1e-6, err_msg=build.__name__)
    assert slope == 0

# The rows of all devices with one pull and one push: looked up outside. XLA of JAX 0.9 cannot compile it.
if jax.__version_info__ >= (0, 10):
    table, rows = table_and_rows()
    layer = Lookup(table)
    inside = shard_map(lambda r, c: jax.lax.psum(total(r, c), "d"), each, each)
    jax.jit(jax.grad(lambda a: inside(layer(ids, a), by)))(layer.anchor)
    np.testing.assert_allclose(pushed(table), jax.grad(lambda a: total(a[ids], by))(rows), rtol=1e-6)
    assert (table.pulls, len(table.pushes)) == (1, 1)

# A gradient asked for inside, by an anchor that each device has for itself.
if hasattr(jax.lax, "pcast"):
    table, rows = table_and_rows()
    layer = Lookup(table)
    def inside(a, i, c):
        a = jax.lax.pcast(a, ("d",), to="varying")
        return jax.lax.psum(jax.grad(lambda a: total(layer(i, a), c))(a), "d")
    assert jax.jit(shard_map(inside, same, each, each))(layer.anchor, ids, by) == 0
    wanted = jax.grad(lambda a: total(a[ids], by))(rows)
    np.testing.assert_allclose(pushed(table), wanted, rtol=1e-6)
"""


@pytest.mark.skipif(not hasattr(jax, "shard_map"), reason="needs jax.shard_map: pip install 'jax>=0.7'")
def test_in_shard_map_each_device_pushed_the_sum_of_the_gradients_of_all():
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env={**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=2", "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        timeout=150,
    )
    assert done.returncode == 0, done.stderr[-3000:]
