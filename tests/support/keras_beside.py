"""What the tests of the Keras layers share. Skips them where there is no Keras; picks a backend where none is named."""

import importlib.util
import os

import numpy as np
import pytest
from memory_client import MemoryClient, MemoryTable

from rowloom.proto.spec import SGD, TableSpec

if "KERAS_BACKEND" not in os.environ:
    has_tensorflow = importlib.util.find_spec("tensorflow") is not None
    os.environ["KERAS_BACKEND"] = "tensorflow" if has_tensorflow else "torch"
keras = pytest.importorskip("keras", reason="needs Keras with TensorFlow or PyTorch: pip install keras torch")

ON_TENSORFLOW = keras.backend.backend() == "tensorflow"
only_tensorflow = pytest.mark.skipif(not ON_TENSORFLOW, reason="sparse, ragged and tapes are TensorFlow's")
# Keras itself turns tensors of PyTorch into arrays in a way that numpy 2 warns about.
quiet = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword")
V, DIM = 20, 4


def a_table(optimizer=None, rows=None, **how) -> MemoryTable:
    spec = TableSpec("t", V if rows is None else len(rows), dim=DIM if rows is None else rows.shape[1:])
    spec = TableSpec(spec.name, spec.num_embeddings, spec.dim, optimizer=optimizer or SGD(lr=0.1), **how)
    return MemoryClient().create_table(spec, rows)


def numpy(tensor) -> np.ndarray:
    return keras.ops.convert_to_numpy(tensor)


def weights_of(layer) -> np.ndarray:
    return numpy(layer.embeddings)


def beside(table):
    """keras.layers.Embedding with the table's rows."""
    layer = keras.layers.Embedding(*table.rows.shape)
    layer.build()
    layer.embeddings.assign(table.rows)
    return layer


def fit(model, x, y, optimizer=None, **how):
    model.compile(optimizer or keras.optimizers.SGD(0.1), "mse", **how)
    history = model.fit(x, y, batch_size=16, epochs=3, shuffle=False, verbose=0).history
    return [float(loss) for loss in history["loss"]]


def two_uses(embed):
    """One layer on two inputs; the ids of both overlap."""
    a, b = keras.Input((3,), dtype="int32"), keras.Input((), dtype="int64")
    score = keras.ops.sum(keras.ops.mean(embed(a), axis=1) * embed(b), axis=-1, keepdims=True)
    return keras.Model([a, b], keras.layers.Dense(1, kernel_initializer="ones")(score))


def two_inputs(n=64):
    rng = np.random.default_rng(0)
    return [rng.integers(0, V, (n, 3)), rng.integers(0, V, n)], rng.normal(size=(n, 1)).astype("float32")
