"""Keras layers under `tf.distribute`: replicas of one model would each push their own step, so training is refused."""

import os
import subprocess
import sys

from keras_beside import only_tensorflow

# TensorFlow makes two devices of a processor only before it is used: so in a process of its own.
PROGRAM = """
import sys
sys.path.insert(0, "tests/support")
import keras, numpy as np, tensorflow as tf
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
from memory_client import MemoryClient
from rowloom.client import InvalidRequest
from rowloom.client.layers_keras import Embedding
from rowloom.proto.spec import Adagrad, TableSpec

x, y = np.array([[1], [2]]), np.array([[5.0], [5.0]])

def a_model(strategy, **how):
    table = MemoryClient().create_table(TableSpec("t", 9, dim=2, optimizer=Adagrad(lr=1.0)))
    with strategy.scope():
        layer = Embedding(table, **how)
        model = keras.Sequential([layer, keras.layers.Flatten(), keras.layers.Dense(1)])
        model.compile("sgd", "mae")
        model.build((None, 1))
    return table, layer, model

def refused(act):
    try:
        act()
    except InvalidRequest as e:
        assert "table 't': 2 replicas of MirroredStrategy would each push" in str(e), e
        assert "tf.distribute.OneDeviceStrategy" in str(e), e
    else:
        raise AssertionError("not refused")

mirrored = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
table, layer, model = a_model(mirrored)
refused(lambda: model.fit(x, y, verbose=0))
assert np.isfinite(model.evaluate(x, y, verbose=0))
assert model.predict(x, verbose=0).shape == (2, 1)

def a_step():
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(layer(x))
    tape.gradient(loss, [layer.anchor.value])

refused(lambda: mirrored.run(a_step))
assert not table.pushes

table, _, model = a_model(mirrored, trainable=False)
model.fit(x, y, verbose=0)
assert not table.pushes

table, _, model = a_model(tf.distribute.OneDeviceStrategy("CPU:0"))
model.fit(x, y, verbose=0)
assert len(table.pushes) == 1
"""


@only_tensorflow
def test_each_replica_of_a_mirrored_strategy_pushed_a_step_of_its_own():
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
        capture_output=True,
        text=True,
        timeout=150,
    )
    assert done.returncode == 0, done.stderr[-3000:]
