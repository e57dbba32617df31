"""`model.export`: a program with the rows in it, which another process serves without servers."""

import subprocess
import sys

import numpy as np
import pytest
from keras_beside import ON_TENSORFLOW, V, a_table, keras, quiet, two_inputs, two_uses
from memory_client import MemoryClient

from rowloom.client import InvalidRequest, Normal, TableSpec
from rowloom.client.layers_keras import (
    Embedding,
    EmbeddingBagCollection,
    EmbeddingBagConfig,
    SharedEmbeddings,
    share_requests,
)

pytestmark = quiet
on_tensorflow = pytest.mark.skipif(not ON_TENSORFLOW, reason="a SavedModel is TensorFlow's")

SERVE = """
import sys
import numpy as np
import tensorflow as tf

path, batch, out = sys.argv[1:]
given = dict(np.load(batch))
model = tf.saved_model.load(path)
served = model.serve({name: tf.constant(ids) for name, ids in given.items()})
np.save(out, served.numpy())
assert not any(name.startswith("rowloom") for name in sys.modules)
"""


def towers(users, items, bags):
    """Every kind of layer."""
    given = {
        "user": keras.Input((), dtype="int64", name="user"),
        "seen": keras.Input((3,), dtype="float32", name="seen"),
        "kinds": keras.Input((2,), dtype="int64", name="kinds"),
    }
    parts = [
        users(given["user"]),
        items({"seen": given["seen"]})["seen"],
        bags({"kinds": given["kinds"]}),
    ]
    return keras.Model(given, keras.layers.Dense(2)(keras.layers.Concatenate()(parts)))


def batch(n=16):
    rng = np.random.default_rng(0)
    return {
        "user": rng.integers(0, 11, n),
        "seen": rng.integers(-1, 7, (n, 3)).astype("float32"),
        "kinds": rng.integers(-1, 5, (n, 2)),
    }


@on_tensorflow
@pytest.mark.timeout(120)  # another process imports TensorFlow
@pytest.mark.parametrize("shared", [False, True])
def test_another_process_serves_what_was_trained_without_servers(client, tmp_path, shared):
    how = {"dim": 4, "initializer": Normal(std=0.3)}
    users, items = (client.create_table(TableSpec(n, v, **how)) for n, v in (("users", 11), ("items", 7)))
    made = EmbeddingBagConfig(num_embeddings=5, embedding_dim=3, name="kinds", feature_names=["kinds"])
    model = towers(Embedding(users), SharedEmbeddings(items), EmbeddingBagCollection(client, [made]))
    if shared:
        share_requests(model)
    x = batch()
    model.compile("sgd", "mse")
    model.fit(x, np.ones((16, 2)), verbose=0)
    model.export(tmp_path / "served", verbose=False)
    np.savez(tmp_path / "batch.npz", **x)
    want = model.predict(x, verbose=0)
    users.assign(np.arange(11), np.zeros((11, 4)))  # the program has rows of its own
    arguments = [str(tmp_path / name) for name in ("served", "batch.npz", "out.npy")]
    done = subprocess.run(
        [sys.executable, "-c", SERVE, *arguments], capture_output=True, text=True, timeout=100
    )
    assert done.returncode == 0, done.stderr[-2000:]
    np.testing.assert_allclose(np.load(tmp_path / "out.npy"), want, rtol=0, atol=1e-6)


@on_tensorflow
def test_a_program_refuses_what_the_table_refuses(tmp_path):
    import tensorflow as tf

    x = keras.Input((2,), dtype="float32")
    for name, layer in (("ids", Embedding(a_table())), ("bags", SharedEmbeddings(a_table()))):
        rows = layer(x) if name == "ids" else layer({"x": x})["x"]
        model = keras.Model(x, rows)
        model.export(tmp_path / name, verbose=False)
        served = tf.saved_model.load(tmp_path / name)
        assert served.serve(tf.constant([[1.0, 2.0]])).shape[0] == 1
        wrong = [
            (V, r"which has ids in \[0, 20\)"),
            (np.nan, "whole numbers"),
            (1e20, "whole numbers"),
        ]
        for value, match in [*wrong, *([(-1, "which has ids in")] if name == "ids" else [])]:
            with pytest.raises(tf.errors.InvalidArgumentError, match=match):
                served.serve(tf.constant([[1.0, value]]))


@on_tensorflow
@pytest.mark.parametrize("how", ["tf.saved_model.save", "ExportArchive"])
def test_the_other_ways_to_write_a_program_down_have_the_rows_too(tmp_path, how):
    import tensorflow as tf

    x = keras.Input((2,), dtype="int64", name="ids")
    table = a_table()
    model = keras.Model(x, Embedding(table)(x))
    if how == "ExportArchive":
        archive = keras.export.ExportArchive()
        archive.track(model)
        archive.add_endpoint("rows", model.__call__, [keras.InputSpec(shape=(None, 2), dtype="int64")])
        archive.write_out(tmp_path / "m", verbose=False)
    else:
        tf.saved_model.save(model, str(tmp_path / "m"))
    served = tf.saved_model.load(str(tmp_path / "m"))
    ids = tf.constant([[1, 2]], tf.int64)
    got = served.signatures["serving_default"](ids)
    np.testing.assert_array_equal(next(iter(got.values())), table.rows[[[1, 2]]])


@on_tensorflow
def test_a_model_trains_on_after_its_export_and_exports_what_it_is_then(tmp_path):
    import tensorflow as tf

    table = a_table()
    model = two_uses(Embedding(table))
    x, y = two_inputs()
    model.compile("sgd", "mse")
    for _ in range(2):
        model.fit(x, y, verbose=0)
        model.export(tmp_path / "m", verbose=False)
        served = tf.saved_model.load(tmp_path / "m")
        got = served.serve([tf.constant(x[0], tf.int32), tf.constant(x[1])])
        np.testing.assert_allclose(got, model.predict(x, verbose=0), rtol=0, atol=1e-6)
    assert len(table.pushes) == 4


@on_tensorflow
@pytest.mark.parametrize("size", [None, 10**9])
def test_a_table_that_is_too_large_is_refused_with_what_to_do(tmp_path, size):
    client = MemoryClient()
    table = client.create_table(TableSpec("large", 10, dim=4))
    object.__setattr__(table.spec, "num_embeddings", size)
    x = keras.Input((), dtype="int64")
    model = keras.Model(x, Embedding(table)(x))
    with pytest.raises(InvalidRequest, match=r"'large' is .* holds at most 268435456 bytes .*HotRows"):
        model.export(tmp_path / "m", verbose=False)


@on_tensorflow
def test_tables_that_are_too_large_together_are_refused(tmp_path, monkeypatch):
    from rowloom.client.layers_keras import exporting

    monkeypatch.setattr(exporting, "_MOST_TOGETHER", 4 * V * 4)
    client, x = MemoryClient(), keras.Input((), dtype="int64")
    one, two = (Embedding(client.create_table(TableSpec(name, V, dim=4)))(x) for name in ("one", "two"))
    with pytest.raises(InvalidRequest, match=r"'one', 'two' have 640 bytes of rows together, .* at most 320"):
        keras.Model(x, one + two).export(tmp_path / "m", verbose=False)
    keras.Model(x, one).export(tmp_path / "m", verbose=False)


@pytest.mark.skipif(ON_TENSORFLOW, reason="of the torch backend: needs KERAS_BACKEND=torch")
def test_a_program_of_torch_would_have_the_rows_of_one_batch_and_is_refused(monkeypatch):
    import torch

    layer = Embedding(a_table())
    layer(torch.tensor([1]))
    monkeypatch.setattr(torch.onnx, "is_in_onnx_export", lambda: True)
    with pytest.raises(InvalidRequest, match="cannot be exported on the torch backend"):
        layer(torch.tensor([1]))
