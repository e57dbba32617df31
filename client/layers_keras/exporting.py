"""Rows inside of an exported TensorFlow program, which has no servers to ask."""

# The framework's types are unknown where it is not installed, and mostly so where it is.
# pyright: reportUnknownParameterType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportUnknownLambdaType=false, reportUntypedBaseClass=false, reportUntypedFunctionDecorator=false
# pyright: reportUntypedClassDecorator=false, reportPrivateUsage=false

from __future__ import annotations

import sys
import weakref
from typing import TYPE_CHECKING, Any

import tensorflow as tf  # pyright: ignore[reportMissingImports]

from ...proto.errors import InvalidRequest
from .rows import MOST_BYTES, RowsWeight, fits

if TYPE_CHECKING:
    from ..table import Table

# What writes programs down: `model.export` and `keras.export.ExportArchive`; `tf.saved_model.save`.
_WRITERS = ("keras.src.export.", "tensorflow.python.saved_model.save")

_MOST_TOGETHER = 1 << 30  # bytes of rows in one program: protocol buffers end at 2 GiB

# Rows by table, of each graph that is traced.
_rows: weakref.WeakKeyDictionary[Any, dict[tuple[int, str], Any]] = weakref.WeakKeyDictionary()


def exporting() -> bool:
    """Whether the program that is traced now will be saved.

    Asked of the stack, at each trace: neither Keras nor TensorFlow tells a layer in any other way, and a program with a
    call back into this process in it is saved without a word and fails where it is loaded.
    """
    if tf.executing_eagerly():
        return False
    frame: Any = sys._getframe()
    while frame is not None:
        if str(frame.f_globals.get("__name__", "")).startswith(_WRITERS):
            return True
        frame = frame.f_back
    return False


def baked(table: Table, ids: Any, missing: bool) -> Any:
    """Rows of ids, [N] + row_shape float32, from a copy of the table in the program: as it is now.

    Args:
        table: whose.
        ids: [N] int64 tensor.
        missing: negative ids have rows of zeros; else they end the program, as ids that the table lacks do.

    Raises:
        InvalidRequest: the table is too large, or has no last id.
    """
    graph = tf.compat.v1.get_default_graph()
    known = _rows.setdefault(graph, {})
    key = (id(table.client), table.name)
    if key not in known:
        known[key] = _copied(table)
        _check_together(known)
    limit = table.spec.num_embeddings
    there = tf.logical_and(ids >= 0, ids < limit)
    allowed = tf.logical_or(there, ids < 0) if missing else there
    message = f"an id is not one of table {table.name!r}, which has ids in [0, {limit})"
    with tf.control_dependencies([tf.debugging.Assert(tf.reduce_all(allowed), [message, ids])]):
        found = tf.gather(known[key], tf.where(there, ids, 0))
    shape = [-1, *[1] * len(table.spec.row_shape)]
    return tf.where(tf.reshape(there, shape), found, 0.0) if missing else found


def _copied(table: Table) -> Any:
    if not fits(table.spec):
        raise InvalidRequest(
            f"table {table.name!r} is {table.spec.num_embeddings or 'open-ended'} x {table.spec.row_shape}, and an "
            f"exported model holds at most {MOST_BYTES} bytes of a table: serve with a client of the cluster "
            "(connect(address, read_only=True, cache=HotRows(...)), and load_model inside tables_of(client)), or "
            "export the layers behind it as a model of their own, which is given rows"
        )
    rows = RowsWeight(table, table.name, whole=True).numpy()
    with tf.init_scope():  # one copy for all traces of the program, and not in each of their graphs
        return tf.constant(rows)


def _check_together(rows: dict[tuple[int, str], Any]) -> None:
    size = sum(some.shape.num_elements() * 4 for some in rows.values())
    if size > _MOST_TOGETHER:
        raise InvalidRequest(
            f"tables {', '.join(repr(name) for _, name in rows)} have {size} bytes of rows together, and an "
            f"exported model holds at most {_MOST_TOGETHER}: serve with a client of the cluster"
        )


def whole_in_program(ids: Any) -> Any:
    """Numbers as int64 ids, cut off behind the point; what int64 does not hold ends the program.

    Args:
        ids: a tensor of float64 or uint64.
    """
    if ids.dtype == tf.uint64:
        fine = ids <= tf.constant(2**63 - 1, tf.uint64)
    else:
        fine = tf.logical_and(ids < 2.0**63, ids >= -(2.0**63))  # false for NaN
    told = "ids are whole numbers below 2**63"
    with tf.control_dependencies([tf.debugging.Assert(tf.reduce_all(fine), [told, ids])]):
        return tf.cast(tf.identity(ids), tf.int64)
