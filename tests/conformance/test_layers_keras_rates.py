"""Learning rates of tables that follow a Keras optimizer's, and what is said where they do not."""

import dataclasses
import math
import warnings

import numpy as np
import pytest
from keras_beside import (
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

from rowloom.client import SGD, Cosine, InvalidRequest, Normal, TableSpec
from rowloom.client.layers_keras import Embedding, bind_lr, share_requests

pytestmark = quiet


def followed(table):
    """The table, whose `set_lr` works as a cluster's; `rates`: what it was told."""
    table.rates = []

    def set_lr(lr):
        table.rates.append(lr)
        table.spec = dataclasses.replace(table.spec, optimizer=SGD(lr=lr))

    table.set_lr = set_lr
    return table


def halved(epoch, lr):
    return lr / 2 if epoch else lr


SCHEDULES = {
    "LearningRateScheduler": (lambda: 0.1, [keras.callbacks.LearningRateScheduler(halved)], 2),
    "ExponentialDecay": (lambda: keras.optimizers.schedules.ExponentialDecay(0.1, 4, 0.5), [], 11),
    "PiecewiseConstantDecay": (
        lambda: keras.optimizers.schedules.PiecewiseConstantDecay([3, 7], [0.1, 0.05, 0.2]),
        [],
        2,
    ),
    "a warm-up from 0": (
        lambda: keras.optimizers.schedules.CosineDecay(0.0, 8, warmup_target=0.1, warmup_steps=4),
        [],
        12,
    ),
}


@pytest.mark.parametrize("eagerly", [False, True])
@pytest.mark.parametrize("name", SCHEDULES)
def test_a_bound_table_trains_as_a_weight_of_the_optimizer_does(name, eagerly):
    make, callbacks, changes = SCHEDULES[name]
    table = followed(a_table())
    local = beside(table)
    x, y = two_inputs()
    losses = []
    for layer in (Embedding(table), local):
        model = two_uses(layer)
        model.compile(keras.optimizers.SGD(make()), "mse", run_eagerly=eagerly)
        if layer is not local:
            bind_lr(model.optimizer, model)
        history = model.fit(
            x, y, batch_size=16, epochs=3, shuffle=False, verbose=0, callbacks=callbacks
        ).history
        losses.append(history["loss"])
    np.testing.assert_allclose(*losses, rtol=0, atol=1e-6)
    np.testing.assert_allclose(table.rows, weights_of(local), rtol=0, atol=1e-6)
    assert len(table.rates) <= changes, "a rate is sent when it has changed, and once"


def test_a_plateau_reaches_a_table_on_a_cluster_whose_spec_and_repr_show_it(client):
    table = client.create_table(TableSpec("t", V, 4, optimizer=SGD(lr=0.4), initializer=Normal(std=0.1)))
    model = two_uses(Embedding(table))
    model.compile(keras.optimizers.SGD(0.1), "mse")
    bind_lr(model.optimizer, model)
    x, y = two_inputs()
    plateau = keras.callbacks.ReduceLROnPlateau(monitor="loss", patience=1, min_delta=1e9, factor=0.5)
    model.fit(x, y, batch_size=16, epochs=4, verbose=0, callbacks=[plateau])
    assert table.spec.optimizer.lr < 0.4
    assert f"lr={table.spec.optimizer.lr}" in repr(table)
    now = float(keras.ops.convert_to_numpy(model.optimizer.learning_rate))
    # The last change came when the last epoch was over.
    assert table.spec.optimizer.lr in (pytest.approx(4 * now, rel=1e-6), pytest.approx(8 * now, rel=1e-6))


def test_layers_that_share_requests_follow_too_and_a_rate_is_sent_once():
    table = followed(a_table())
    given = keras.Input((2,), dtype="int64")
    one, two = (Embedding(table, name=name)(given) for name in ("one", "two"))
    model = share_requests(keras.Model(given, keras.ops.sum(one + two, axis=(1, 2))[:, None]))
    model.compile(keras.optimizers.SGD(0.1), "mse")
    bind_lr(model.optimizer, model)
    x = np.array([[1, 2]] * 4)
    model.fit(x, np.ones((4, 1)), verbose=0)
    model.optimizer.learning_rate = 0.05
    model.fit(x, np.ones((4, 1)), verbose=0)
    assert table.rates == [pytest.approx(0.05)]


def test_it_is_bound_also_when_fit_has_traced_the_model_already():
    table = followed(a_table())
    model = two_uses(Embedding(table))
    x, y = two_inputs()
    fit(model, x, y)
    bind_lr(model.optimizer, model)
    model.optimizer.learning_rate = 0.2
    model.fit(x, y, batch_size=64, epochs=2, verbose=0)
    assert table.rates == [pytest.approx(0.2)]


def test_a_rate_that_changes_and_is_not_bound_is_said_once():
    x, y = two_inputs()
    model = two_uses(Embedding(a_table(), name="emb"))
    model.compile(keras.optimizers.SGD(0.1), "mse")
    scheduler = keras.callbacks.LearningRateScheduler(halved)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        model.fit(x, y, batch_size=16, epochs=4, verbose=0, callbacks=[scheduler])
    ours = [str(one.message) for one in said if "layer" in str(one.message)]
    assert len(ours) == 1
    assert "learning rate went from 0.1 to 0.05, and table 't' still trains with lr=0.1: bind_lr" in ours[0]


@pytest.mark.parametrize("why", ["another model", "a schedule of the table's own", "frozen"])
def test_nothing_is_said_where_nothing_can_be_meant(why):
    x, y = two_inputs()
    table = a_table(
        SGD(lr=Cosine(0.1, 100)) if why.startswith("a schedule") else None, frozen=why == "frozen"
    )
    table.push = lambda ids, grads: None
    model = two_uses(Embedding(table))
    for rate in (0.1, 0.05) if why == "another model" else (0.1,):  # each compile begins anew
        fit(model, x, y, keras.optimizers.SGD(rate))
    if why != "another model":
        model.optimizer.learning_rate = 0.01
        model.fit(x, y, verbose=0)


@pytest.mark.skipif(not ON_TENSORFLOW, reason="a loop of TensorFlow")
@pytest.mark.parametrize("compiled", [True, False])
def test_a_loop_of_ones_own_follows_what_was_bound_before_it_was_traced(compiled):
    import tensorflow as tf

    table = followed(a_table())
    layer = Embedding(table)
    layer.build()
    optimizer = keras.optimizers.SGD(0.1)

    def step(ids):
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(layer(ids))
        optimizer.apply(tape.gradient(loss, layer.trainable_variables), layer.trainable_variables)

    early = tf.function(step)
    early(tf.constant([1]))
    bind_lr(optimizer, layer)
    run = tf.function(step) if compiled else step
    run(tf.constant([1]))
    optimizer.learning_rate = 0.025
    run(tf.constant([1]))
    assert table.rates == [pytest.approx(0.025)]
    with pytest.raises(Exception, match="traced before bind_lr, so it does not tell table 't'"):
        early(tf.constant([1]))


def test_an_optimizer_that_clips_is_refused_by_bind_lr_where_a_loop_hides_it():
    layer = Embedding(a_table())
    for argument in ("clipnorm", "global_clipnorm", "clipvalue"):
        with pytest.raises(InvalidRequest, match=rf"the optimizer's {argument}=1.0 does not reach"):
            bind_lr(keras.optimizers.SGD(0.1, **{argument: 1.0}), layer)
    bind_lr(keras.optimizers.SGD(0.1, clipnorm=1.0), Embedding(a_table(), clipnorm=math.inf))


def test_what_cannot_be_bound_is_refused():
    optimizer = keras.optimizers.SGD(0.1)
    with pytest.raises(InvalidRequest, match="no layer over a table"):
        bind_lr(optimizer, keras.layers.Dense(1))
    with pytest.raises(InvalidRequest, match="table 't' has a schedule of its own"):
        bind_lr(optimizer, Embedding(a_table(SGD(lr=Cosine(0.1, 100)))))
    with pytest.raises(InvalidRequest, match="learning rate is 0, and rates in proportion to that are none"):
        bind_lr(keras.optimizers.SGD(0.0), Embedding(a_table()))
    model = two_uses(Embedding(a_table(), name="emb"))
    bind_lr(optimizer, model)
    x, y = two_inputs()
    with pytest.raises(
        InvalidRequest, match="'t' follows another optimizer than the one that trains the model"
    ):
        fit(model, x, y)


def test_loss_scaling_of_a_model_around_a_layer_of_float32_is_refused():
    """It passed: the layer's own type needs no scaling, and what was pushed was 32768 times too large."""
    x, y = two_inputs()
    model = two_uses(Embedding(a_table(), name="emb", dtype="float32"))
    scaled = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.1))
    with pytest.raises(InvalidRequest, match="layer 'emb': loss scaling would scale what is pushed to 't'"):
        fit(model, x, y, scaled)
