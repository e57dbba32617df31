"""A table that a client has frozen is to its layers what a weight without gradient is to the framework's."""

import os

import numpy as np
import pytest

os.environ.setdefault("KERAS_BACKEND", "tensorflow")

from rowloom.client import SGD, TableSpec, Zeros, connect


@pytest.fixture
def table(client):
    return client.create_table(TableSpec("t", 10, dim=2, optimizer=SGD(lr=1.0), initializer=Zeros()))


def torch_step(table):
    torch = pytest.importorskip("torch", reason="needs PyTorch")
    from rowloom.client.layers_torch import Embedding, clip_grad_norm_, push_on_step

    layer, weight = Embedding(table), torch.nn.Parameter(torch.ones(2))
    model = torch.nn.ParameterDict({"w": weight})
    model.layer = layer
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    push_on_step(optimizer, model)

    def step() -> float:
        optimizer.zero_grad()
        (layer(torch.tensor([1, 3])) @ (weight * 0 + 1)).sum().backward()
        norm = float(clip_grad_norm_(model, 100.0))
        optimizer.step()
        return norm

    return step


def keras_step(table):
    pytest.importorskip("tensorflow", reason="needs TensorFlow")
    keras = pytest.importorskip("keras", reason="needs Keras")
    import tensorflow as tf

    if keras.config.backend() != "tensorflow":
        pytest.skip("needs Keras on TensorFlow")
    from rowloom.client.layers_keras import Embedding

    layer = Embedding(table)

    def step() -> None:
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(layer(np.array([1, 3])))
        tape.gradient(loss, layer.trainable_variables)

    return step


def jax_step(table):
    jax = pytest.importorskip("jax", reason="needs JAX")
    from rowloom.client.layers_jax import Lookup

    embed = Lookup(table)

    def step() -> None:
        jax.block_until_ready(jax.grad(lambda anchor: embed(np.array([1, 3]), anchor).sum())(embed.anchor))
        jax.effects_barrier()

    return step


@pytest.mark.parametrize("made", [torch_step, keras_step, jax_step])
def test_a_layer_trains_a_table_before_and_after_it_was_frozen_and_not_between(table, made):
    step = made(table)
    step()
    assert table.pull([1, 3]).tolist() == [[-1, -1], [-1, -1]]
    table.freeze()
    step()
    assert table.pull([1, 3]).tolist() == [[-1, -1], [-1, -1]]
    table.thaw()
    step()
    assert table.pull([1, 3]).tolist() == [[-2, -2], [-2, -2]]


def test_the_gradients_of_a_frozen_table_are_not_counted_when_a_model_is_clipped(table):
    step = torch_step(table)
    assert step() == pytest.approx(2.0)
    table.freeze()
    assert step() == 0.0


@pytest.mark.parametrize("made", [torch_step, keras_step, jax_step])
def test_layers_of_a_read_only_client_look_up_and_train_nothing(cluster, table, made):
    table.assign([1], [[5, 5]])
    with connect(cluster.address, read_only=True) as reader:
        if made is not torch_step:
            made(reader["t"])()
        else:
            torch = pytest.importorskip("torch", reason="needs PyTorch")
            from rowloom.client.layers_torch import Embedding

            layer = Embedding(reader["t"])
            assert not layer(torch.tensor([1])).requires_grad
    assert table.pull([1]).tolist() == [[5, 5]]
