"""The code of docs/feature_columns.md, before and after, beside each other: the same vectors for the same rows."""

import re
from pathlib import Path

import numpy as np
import pytest
from keras_beside import ON_TENSORFLOW, keras, numpy

tf = pytest.importorskip("tensorflow", reason="feature columns are TensorFlow's: pip install tensorflow")
if not ON_TENSORFLOW:
    pytest.skip("the page is run on TensorFlow", allow_module_level=True)

PAGE = (Path(__file__).parents[2] / "docs/feature_columns.md").read_text(encoding="utf-8")
SECTIONS = {
    part.splitlines()[0]: re.findall(r"^```python\n(.*?)^```$", part, re.MULTILINE | re.DOTALL)
    for part in re.split(r"^##? ", PAGE, flags=re.MULTILINE)[1:]
}
TOP, *REST = SECTIONS
# What each section reads; -1 and "" are missing, other odd values unknown.
BATCH = {
    "city": [["Oslo", "Rome", ""], ["", "", ""], ["Rome", "Rome", "Lima"]],
    "color": [["red", "blue", "pink"], ["green", "", ""], ["pink", "", ""]],
    "size": [[36, 40, 41], [-1, 12345, -1], [38, 36, 7]],
    "kind": [[0, 4, 5], [-1, -1, -1], [2, -7, 2]],
    "age": [[17.9], [18.0], [77.0]],
    "watched": [[1, 2, -1], [-1, -1, -1], [99, 99, 0]],
    "shown": [[3, -1, -1], [7, 8, 9], [-1, -1, -1]],
}
ONE = {"city": [["Oslo"], ["Rome"], ["Lima"]], "color": [["red"], ["blue"], ["pink"]]}


def batch(section):
    given = {**BATCH, **(ONE if section == "Crossed features" else {})}
    return {name: tf.constant(value) for name, value in given.items()}


def before(code, given, tables):
    """What TensorFlow makes of the columns, with the rows of these tables as their variables."""
    from tensorflow.python.feature_column import feature_column_v2 as fc

    with tf.Graph().as_default():
        names = {"tf": tf}
        exec(code, names)
        columns = sorted(names["columns"], key=lambda column: column.name)
        features = {name: tf.constant(value.numpy()) for name, value in given.items()}
        if hasattr(columns[0], "shared_embedding_column_creator"):
            cache = fc.FeatureTransformationCache(features)
            parts = [column.get_dense_tensor(cache, None) for column in columns]
            out = tf.concat(parts, axis=1)
        else:
            out = tf.compat.v1.feature_column.input_layer(features, columns)
        variables = tf.compat.v1.global_variables()
        assert len(variables) == len(tables)
        with tf.compat.v1.Session() as session:
            session.run([tf.compat.v1.global_variables_initializer(), tf.compat.v1.tables_initializer()])
            for variable, table in zip(variables, tables, strict=True):
                variable.load(table.pull(np.arange(table.spec.num_embeddings)), session)
            return session.run(out)


def after(code, given, names):
    """What the layers make of the same batch, in the columns' order, and their tables."""
    known = {table.name for table in names["client"].tables()}
    exec(code, names)
    ids = next(iter(tf.data.Dataset.from_tensors(given).map(names["ids_of"])))
    rows = names["embed"](ids)
    tables = [table for table in names["client"].tables() if table.name not in known]
    return np.concatenate([numpy(rows[name]) for name in sorted(rows)], axis=1), tables


@pytest.mark.parametrize("section", [name for name in REST if not name.startswith("All of them")])
def test_the_layers_give_the_vectors_of_the_columns(section, client) -> None:
    ours, theirs = SECTIONS[section][1], SECTIONS[section][0]
    names = {"client": client}
    exec(SECTIONS[TOP][0], names)
    given = batch(section)
    got, tables = after(ours, given, names)
    want = before(theirs, given, tables)
    assert np.abs(want).max() > 0
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-6)


def test_all_in_one_pull_is_the_same_by_both_ways(client) -> None:
    names = {"client": client}
    exec(SECTIONS[TOP][0], names)
    names["table"]("cities", 1000)
    names["table"]("items", 100)
    for code in SECTIONS[REST[-1]]:
        exec(code, names)
    one, other = names["model"], names["collection"]
    other.layers[-1].set_weights(one.layers[-1].get_weights())
    x = {"city": [[5, 7], [-1, -1]], "watched": [[1, -1], [2, 2]], "shown": [[3, 4], [-1, -1]]}
    x = {name: np.array(value) for name, value in x.items()}
    np.testing.assert_allclose(numpy(one(x)), numpy(other(x)), rtol=0, atol=1e-6)


def test_every_section_has_both_sides() -> None:
    assert len(REST) == 7
    assert all(len(SECTIONS[name]) == 2 for name in REST)
    assert keras.config.backend() == "tensorflow"
