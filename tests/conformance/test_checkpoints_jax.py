"""JAX programs that are stopped and go on: the bits of a training that nobody stopped, or a refusal."""

import random

import numpy as np
import pytest

jax = pytest.importorskip("jax", reason="needs JAX: pip install jax")

import jax.numpy as jnp  # noqa: E402
from resumed import STEPS, a_batch, a_client, assert_same_bits, rows_of  # noqa: E402

from rowloom.client import InvalidRequest, newest_snapshot  # noqa: E402
from rowloom.client.layers_jax import Lookup, load_checkpoint, save_checkpoint  # noqa: E402


def fresh():
    """Parameters and their momentum, in bfloat16 and float32, a count, and a random key."""
    params = {
        "w": jnp.ones((8, 1)) / 8,
        "b": jnp.zeros(1, jnp.bfloat16),
        "anchor": jnp.zeros(()),
    }
    return {
        "params": params,
        "momentum": jax.tree.map(jnp.zeros_like, params),
        "count": np.int64(0),
        "key": jax.random.key_data(jax.random.key(1)),
    }


def program(client):
    users, items = Lookup(client.table("users")), Lookup(client.table("items"))

    @jax.jit
    def step(params, momentum, key, batch):
        a, b, labels = batch

        def loss(params):
            x = jnp.concatenate([users(a, params["anchor"]), items(b, params["anchor"])], 1)
            x = jnp.where(jax.random.bernoulli(key, 0.9, x.shape), x, 0)
            return jnp.mean((x @ params["w"] + params["b"].astype(jnp.float32) - labels) ** 2)

        value, grads = jax.value_and_grad(loss)(params)
        momentum = jax.tree.map(lambda m, g: m * 0.5 + g, momentum, grads)
        return value, jax.tree.map(lambda p, m: (p - 0.1 * m).astype(p.dtype), params, momentum), momentum

    return step


def trained(folder, stop=None):
    """From the newest checkpoint on, to the end or until it is stopped behind a checkpoint. Losses, rows, the tree."""
    with a_client(folder, newest_snapshot(folder / "snapshots", having="checkpoint")) as client:
        step, tree, begin = program(client), fresh(), 0
        if client.restored:
            tree, state = load_checkpoint(client, tree)
            begin = state["step"]
        losses = []
        for number in range(begin, STEPS):
            key, mine = jax.random.split(jax.random.wrap_key_data(tree["key"]))
            value, params, momentum = step(tree["params"], tree["momentum"], mine, a_batch(number))
            count = tree["count"] + 1
            tree = {
                "params": params,
                "momentum": momentum,
                "count": count,
                "key": jax.random.key_data(key),
            }
            losses.append(float(value))
            if number + 1 == stop:
                save_checkpoint(client, tree, step=stop)
                return losses, None, None
        jax.effects_barrier()
        return losses, rows_of(client), tree


def test_stopped_at_any_step_and_gone_on_is_uninterrupted_to_the_bit(tmp_path):
    losses, rows, tree = trained(tmp_path / "whole")
    for seed in range(2):
        folder, stop = tmp_path / str(seed), random.Random(seed).randrange(1, STEPS)
        before, _, _ = trained(folder, stop)
        after, their_rows, their_tree = trained(folder)
        assert before + after == losses, f"stopped at {stop}"
        assert_same_bits(their_rows, rows)
        assert jax.tree.structure(their_tree) == jax.tree.structure(tree)
        assert_same_bits(jax.tree.leaves(their_tree), jax.tree.leaves(tree))


def test_a_tree_that_differs_is_refused_with_the_first_leaf_that_does(tmp_path):
    trained(tmp_path, 2)
    with a_client(tmp_path, newest_snapshot(tmp_path / "snapshots")) as client:
        other = fresh()
        other["params"]["w"] = jnp.zeros((9, 1))
        with pytest.raises(
            InvalidRequest, match=r"the tree differs .*\['params'\]\['w'\].*\(8, 1\).*\(9, 1\)"
        ):
            load_checkpoint(client, other)
        with pytest.raises(InvalidRequest, match=r"\['k'\] is a random key: give jax.random.key_data"):
            save_checkpoint(client, {"k": jax.random.key(0)})
        program(client)(fresh()["params"], fresh()["momentum"], jax.random.key(0), a_batch(0))
        jax.effects_barrier()
        with pytest.raises(InvalidRequest, match="have changed its rows since"):
            load_checkpoint(client, fresh())
