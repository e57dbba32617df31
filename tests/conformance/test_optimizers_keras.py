"""Our optimizers and schedules beside those of Keras and TensorFlow, over 1,000 random sparse steps."""

import os

import numpy as np
import pytest

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from sparse_steps import DIM, Ours, V, assert_alike, steps, summed

from rowloom.proto.spec import FTRL, SGD, Adagrad, Adam, Cosine, Exponential, WarmUp
from rowloom.server.optimizers.rates import Rates

tf = pytest.importorskip("tensorflow")
keras = pytest.importorskip("keras")

pytestmark = [
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="Keras runs on another backend"),
]


def slices(ids: np.ndarray, grads: np.ndarray):
    return tf.IndexedSlices(tf.constant(grads), tf.constant(ids), (V, DIM))


def trained_by_keras(optimizer) -> np.ndarray:
    """Duplicates are summed before Keras sees them: it would square them one by one, as TensorFlow and torch do not.

    In float64, because Keras takes 1 - beta**t in the type of the weights: in float32 it is off by 1e-4 at first.
    """
    weight = keras.Variable(Ours(SGD()).rows(), dtype="float64")
    for ids, grads in steps():
        named = np.unique(ids)
        optimizer.apply([slices(named, summed(ids, grads)[named].astype(np.float64))], [weight])
    return keras.ops.convert_to_numpy(weight)


def trained_by_tensorflow(optimizer) -> np.ndarray:
    weight = tf.Variable(Ours(SGD()).rows())
    for ids, grads in steps():
        optimizer.apply_gradients([(slices(ids, grads), weight)])
    return weight.numpy()


def test_adam_moves_every_row_as_in_keras() -> None:
    theirs = trained_by_keras(keras.optimizers.Adam())
    assert_alike(Ours(Adam(eps=1e-7, mode="dense")).train(), theirs)


def test_adagrad_is_that_of_keras() -> None:
    theirs = trained_by_keras(keras.optimizers.Adagrad(0.1))
    assert_alike(Ours(Adagrad(0.1, eps=1e-7, initial_accumulator=0.1)).train(), theirs)


def test_adagrad_is_that_of_tensorflow() -> None:
    theirs = trained_by_tensorflow(tf.compat.v1.train.AdagradOptimizer(0.1))
    assert_alike(Ours(Adagrad(0.1, eps=0.0, initial_accumulator=0.1)).train(), theirs)


def test_momentum_is_that_of_keras_while_the_rate_stays() -> None:
    theirs = trained_by_keras(keras.optimizers.SGD(0.05, momentum=0.9, nesterov=True))
    assert_alike(Ours(SGD(0.05, momentum=0.9, nesterov=True, mode="dense")).train(), theirs)


def test_lazy_momentum_is_that_of_tensorflow() -> None:
    theirs = trained_by_tensorflow(tf.compat.v1.train.MomentumOptimizer(0.05, 0.9))
    assert_alike(Ours(SGD(0.05, momentum=0.9)).train(), theirs)


@pytest.mark.parametrize("power", [-0.5, -0.7])
@pytest.mark.parametrize("l1", [0.0, 0.01])
@pytest.mark.parametrize("more", [{}, {"l2": 0.1, "l2_shrinkage": 0.05, "beta": 0.2}])
def test_ftrl_on_touched_rows_is_that_of_tensorflow(power: float, l1: float, more: dict) -> None:
    names = {
        "l2": "l2_regularization_strength",
        "l2_shrinkage": "l2_shrinkage_regularization_strength",
        "beta": "beta",
    }
    theirs = trained_by_tensorflow(
        tf.compat.v1.train.FtrlOptimizer(
            0.1,
            learning_rate_power=power,
            l1_regularization_strength=l1,
            **{names[k]: v for k, v in more.items()},
        )
    )
    assert_alike(Ours(FTRL(0.1, lr_power=power, l1=l1, **more)).train(), theirs)


def test_ftrl_has_the_defaults_of_keras() -> None:
    config = keras.optimizers.Ftrl().get_config()
    o = FTRL()
    assert o.lr == pytest.approx(config["learning_rate"])
    assert (o.lr_power, o.initial_accumulator, o.l1, o.l2, o.l2_shrinkage, o.beta) == (
        config["learning_rate_power"],
        config["initial_accumulator_value"],
        config["l1_regularization_strength"],
        config["l2_regularization_strength"],
        config["l2_shrinkage_regularization_strength"],
        config["beta"],
    )


@pytest.mark.parametrize("step", [0, 1, 9, 10, 11, 50, 109, 110, 5000])
def test_schedules_are_those_of_keras(step: int) -> None:
    schedules = keras.optimizers.schedules
    pairs = [
        (Exponential(0.1, 30, 0.7), schedules.ExponentialDecay(0.1, 30, 0.7)),
        (Exponential(0.1, 30, 0.7, staircase=True), schedules.ExponentialDecay(0.1, 30, 0.7, staircase=True)),
        (Cosine(0.1, 100, alpha=0.1), schedules.CosineDecay(0.1, 100, alpha=0.1)),
        (
            WarmUp(10, Cosine(0.1, 100), start=0.02),
            schedules.CosineDecay(0.02, 100, warmup_target=0.1, warmup_steps=10),
        ),
    ]
    for ours, theirs in pairs:
        assert Rates(ours).at(step + 1) == pytest.approx(float(theirs(step)), rel=1e-5, abs=1e-7), ours


def test_adam_on_a_schedule_moves_every_row_as_in_keras() -> None:
    theirs = trained_by_keras(keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(0.002, 600, 0.1)))
    assert_alike(Ours(Adam(Cosine(0.002, 600, 0.1), eps=1e-7, mode="dense")).train(), theirs)


def test_the_dense_gradient_of_a_step_is_the_sum_of_its_slices() -> None:
    ids, grads = next(iter(steps()))
    np.testing.assert_allclose(
        summed(ids, grads), tf.convert_to_tensor(slices(ids, grads)).numpy(), rtol=1e-6
    )
