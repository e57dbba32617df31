"""What an optimizer does to gradients before it applies them: done to rows too, or refused; also in hand-made loops."""

import math

import numpy as np
import pytest
from keras_beside import (
    DIM,
    ON_TENSORFLOW,
    V,
    a_table,
    beside,
    fit,
    keras,
    quiet,
    two_inputs,
    two_uses,
    weights_of,
)
from memory_client import MemoryClient

from rowloom.client import Adagrad, InvalidRequest, TableSpec
from rowloom.client.layers_keras import Embedding, share_requests

pytestmark = quiet
DOES = {
    "clipnorm": (1.0, "the optimizer's clipnorm=1.0 does not reach the gradients of table 't'"),
    "global_clipnorm": (1.0, "the optimizer's global_clipnorm=1.0 does not reach"),
    "clipvalue": (1.0, "the optimizer's clipvalue=1.0 does not reach"),
    "gradient_accumulation_steps": (
        3,
        r"give this layer gradient_accumulation_steps=3, .* or 1 if each batch",
    ),
    "loss_scale_factor": (8.0, "the optimizer's loss_scale_factor=8.0 would scale what is pushed to 't'"),
}


def one_step(layer, optimizer, traced: bool) -> None:
    """A step of a loop that the layer is told nothing of."""
    if not ON_TENSORFLOW:
        keras.ops.sum(layer(np.array([1, 2]))).backward()
        variables = layer.trainable_variables
        optimizer.apply([v.value.grad for v in variables], variables)
        return
    import tensorflow as tf

    def step(ids):
        with tf.GradientTape() as tape:
            loss = keras.ops.sum(layer(ids))
        variables = layer.trainable_variables
        optimizer.apply(tape.gradient(loss, [v.value for v in variables]), variables)

    (tf.function(step) if traced else step)(tf.constant([1, 2]))


@pytest.mark.parametrize("traced", [False, True] if ON_TENSORFLOW else [False])
@pytest.mark.parametrize("argument", DOES)
def test_a_loop_of_ones_own_is_refused_an_optimizer_that_does_more_than_the_rows_see(argument, traced):
    value, said = DOES[argument]
    table = a_table()
    before = table.rows.copy()
    # autograph makes an error of its own of those that it traces, and keeps what they say
    with pytest.raises(Exception if traced else InvalidRequest, match=said):
        one_step(Embedding(table), keras.optimizers.Adam(0.1, **{argument: value}), traced)
    assert (table.rows == before).all() == traced  # an eager step has pushed before its optimizer is seen


@pytest.mark.parametrize(
    "how", [{"clipnorm": math.inf, "gradient_accumulation_steps": 1}, {"trainable": False}]
)
def test_a_layer_that_says_what_holds_for_its_rows_is_let_go_on(how):
    layer = Embedding(a_table(), **how)
    optimizer = keras.optimizers.SGD(0.1, clipnorm=1.0, gradient_accumulation_steps=2)
    if layer.trainable:
        one_step(layer, optimizer, traced=False)
        assert keras.ops.convert_to_numpy(layer.anchor) == 0
    else:
        fit(two_uses(layer), *two_inputs(), optimizer)


def test_a_loop_whose_optimizer_only_steps_is_let_go_on():
    layer = Embedding(a_table())
    for _ in range(2):
        one_step(layer, keras.optimizers.AdamW(0.1), traced=False)


@pytest.mark.skipif(
    not ON_TENSORFLOW, reason="Keras wraps optimizers for loss scaling on TensorFlow and JAX only"
)
def test_loss_scaling_in_a_loop_of_ones_own_is_refused():
    optimizer = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.1))
    with pytest.raises(InvalidRequest, match="loss scaling would scale what is pushed to 't'"):
        one_step(Embedding(a_table()), optimizer, traced=False)


def test_an_optimizers_loss_scale_factor_was_in_what_is_pushed():
    table, (x, y) = a_table(), two_inputs()
    before = table.rows.copy()
    for how in ({}, {"clipnorm": math.inf, "gradient_accumulation_steps": 1}):
        with pytest.raises(InvalidRequest, match=DOES["loss_scale_factor"][1]):
            fit(two_uses(Embedding(table, **how)), x, y, keras.optimizers.SGD(0.1, loss_scale_factor=8.0))
    np.testing.assert_array_equal(table.rows, before)
    fit(two_uses(Embedding(table)), x, y, keras.optimizers.SGD(0.1, loss_scale_factor=1.0))


# ------------------------------------------------------------------------------------------------------- accumulation


@pytest.mark.parametrize("clipnorm", [None, 0.02])
def test_accumulated_gradients_train_rows_as_the_optimizer_trains_a_weight(clipnorm):
    table = a_table()
    local = beside(table)
    x, y = two_inputs()
    losses = []
    for layer in (Embedding(table, gradient_accumulation_steps=3, clipnorm=clipnorm), local):
        optimizer = keras.optimizers.SGD(0.1, gradient_accumulation_steps=3, clipnorm=clipnorm)
        losses.append(fit(two_uses(layer), x, y, optimizer))
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-5)
    np.testing.assert_allclose(table.rows, weights_of(local), atol=1e-6)


def test_an_accumulated_push_is_one_step_of_the_tables_optimizer():
    tables = [a_table(Adagrad(lr=0.1)), a_table(Adagrad(lr=0.1))]
    x, y = two_inputs(32)
    # Four batches of 8 whose mean gradient is that of one batch of 32.
    for table, size, steps in zip(tables, (8, 32), (4, 1), strict=True):
        model = two_uses(Embedding(table, gradient_accumulation_steps=steps))
        model.compile(
            keras.optimizers.SGD(0.1, gradient_accumulation_steps=steps if steps > 1 else None), "mse"
        )
        model.fit(x, y, batch_size=size, epochs=2, shuffle=False, verbose=0)
    np.testing.assert_allclose(tables[0].rows, tables[1].rows, atol=1e-5)


def test_accumulation_in_fit_is_refused_until_the_layer_says_what_holds_for_the_table():
    x, y = two_inputs()
    said = DOES["gradient_accumulation_steps"][1]
    with pytest.raises(InvalidRequest, match=said):
        fit(two_uses(Embedding(a_table())), x, y, keras.optimizers.SGD(0.1, gradient_accumulation_steps=3))
    other = Embedding(a_table(), gradient_accumulation_steps=4)
    with pytest.raises(
        InvalidRequest, match="gradient_accumulation_steps=3, the layer's is 4: give both the same"
    ):
        fit(two_uses(other), x, y, keras.optimizers.SGD(0.1, gradient_accumulation_steps=3))
    with pytest.raises(InvalidRequest, match="gradient_accumulation_steps must be at least 1, got 0"):
        Embedding(a_table(), gradient_accumulation_steps=0)
    assert (
        Embedding(a_table(), gradient_accumulation_steps=4).get_config()["gradient_accumulation_steps"] == 4
    )


def test_layers_that_share_a_push_accumulate_alike():
    a, b = keras.Input((), dtype="int32"), keras.Input((), dtype="int32")
    client = MemoryClient()
    tables = [client.create_table(TableSpec(name, V, DIM)) for name in ("t", "u")]
    rows = [
        Embedding(t, gradient_accumulation_steps=k)(x) for t, k, x in zip(tables, (2, 3), (a, b), strict=True)
    ]
    with pytest.raises(InvalidRequest, match=r"gradient_accumulation_steps of \[2, 3\]"):
        share_requests(keras.Model([a, b], keras.ops.concatenate(rows)))
