"""The Keras layers on TensorFlow: eager and inside `tf.function`."""

# The framework's types are unknown where it is not installed, and mostly so where it is.
# pyright: reportUnknownParameterType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportUnknownLambdaType=false, reportUntypedBaseClass=false, reportUntypedFunctionDecorator=false
# pyright: reportUntypedClassDecorator=false, reportPrivateUsage=false

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf  # pyright: ignore[reportMissingImports]

from ..backward import Backward


class Lookup:
    """Differentiable pulls that share one push in each backward pass.

    TensorFlow asks for gradients of variables only, and a table is none; so every pull depends on an anchor, a scalar
    variable that is always 0. Between the anchor and the pulls stands a gate: the tape adds up what comes from all
    pulls before it goes on to the gate, and that is the moment to push.

    Args:
        backward: gathers the gradients.
    """

    def __init__(self, backward: Backward) -> None:
        self._backward = backward
        self._row_shape = backward.table.spec.row_shape
        self._gate: tuple[Any, Any, Any] | None = None
        self._uses = 0  # of this gate

    def __call__(self, anchor: Any, ids: Sequence[Any], *, train: bool) -> list[Any]:
        """Rows of several tensors of ids, with one pull.

        Args:
            anchor: the Keras variable.
            ids: tensors of any integer type and shape; negative ids have rows of zeros and no gradient.
            train: whether a gradient is pushed.

        Returns:
            For each the rows, float32, ids.shape + row_shape.
        """
        flat = tf.concat([tf.reshape(tf.cast(i, tf.int64), [-1]) for i in ids], 0)
        rows = self._differentiable(anchor.value, flat) if train else self._pull(flat)
        parts = tf.split(rows, [tf.size(i) for i in ids]) if len(ids) > 1 else [rows]
        shaped = []
        for part, i in zip(parts, ids, strict=True):
            one = tf.reshape(part, tf.concat([tf.shape(i), np.array(self._row_shape, np.int32)], 0))
            one.set_shape([*i.shape, *self._row_shape])
            shaped.append(one)
        return shaped

    def _differentiable(self, variable: Any, flat: Any) -> Any:
        gate, number = self._opened(tf.convert_to_tensor(variable))
        self._uses += 1
        place = np.array(self._uses, np.int64)

        @tf.custom_gradient
        def pulled(gate: Any, flat: Any) -> Any:
            def grad(upstream: Any) -> Any:
                zero = self._call(self._hold, [number, flat, upstream, tf.constant(place)], tf.float32)
                return tf.ensure_shape(zero, []), None

            del gate
            return self._pull(flat), grad

        return pulled(gate, flat)

    def _opened(self, anchor: Any) -> tuple[Any, Any]:
        """The gate that this graph and this tape share, and the number of the pass."""
        graph = None if tf.executing_eagerly() else tf.compat.v1.get_default_graph()
        if self._gate is not None and _recorded is not None:
            its_graph, gate, number = self._gate
            # One that another tape made would be invisible to the tape that is recording now.
            if (its_graph() if its_graph else None) is graph and _recorded(gate) == _recorded(anchor):
                return gate, number
        self._uses = 0
        number = self._call(self._open, [], tf.int64)

        @tf.custom_gradient
        def gated(anchor: Any) -> Any:
            def grad(upstream: Any) -> Any:
                return tf.ensure_shape(self._call(self._push, [number, upstream], tf.float32), [])

            return tf.identity(anchor), grad

        gate = gated(anchor)
        self._gate = (weakref.ref(graph) if graph is not None else None, gate, number)
        return gate, number

    def _pull(self, flat: Any) -> Any:
        rows = self._call(self._backward.pull, [flat], tf.float32)
        return tf.ensure_shape(rows, [None, *self._row_shape])

    def _call(self, function: Callable[..., Any], tensors: list[Any], dtype: Any) -> Any:
        if tf.executing_eagerly():  # directly, so that errors arrive as they are
            return tf.constant(function(*(t.numpy() for t in tensors)), dtype)
        return tf.numpy_function(function, tensors, dtype)

    def _open(self) -> np.ndarray:
        return np.array(self._backward.open(), np.int64)

    def _hold(
        self, number: np.ndarray, flat: np.ndarray, upstream: np.ndarray, place: np.ndarray
    ) -> np.ndarray:
        self._backward.hold(int(number), flat, upstream, int(place))
        return np.zeros((), np.float32)

    def _push(self, number: np.ndarray, upstream: np.ndarray) -> np.ndarray:
        # `upstream` is the sum of what every `_hold` of this pass returned: they are all done.
        self._backward.push(int(number))
        return np.zeros((), np.float32)


def dense(inputs: Any) -> Any:
    """Sparse ids as dense ones: positions without a value have id 0."""
    return tf.sparse.to_dense(inputs) if isinstance(inputs, tf.SparseTensor) else inputs


def flat_values(inputs: Any) -> tuple[Any, Callable[[Any], Any]]:
    """The ids of a ragged tensor without its raggedness, and the way back for their rows; others as they are."""
    if isinstance(inputs, tf.RaggedTensor):
        return inputs.flat_values, inputs.with_flat_values
    return inputs, lambda rows: rows


def padded(inputs: Any, fill: Any) -> Any:
    """Ragged or sparse bags as a matrix: positions without a value hold `fill`."""
    if isinstance(inputs, tf.RaggedTensor):
        return inputs.to_tensor(default_value=tf.cast(fill, inputs.dtype))
    if isinstance(inputs, tf.SparseTensor):
        return tf.sparse.to_dense(inputs, default_value=tf.cast(fill, inputs.dtype))
    return inputs


def _find_recorded() -> Callable[[Any], bool] | None:
    try:
        from tensorflow.python.eager import record  # pyright: ignore[reportMissingImports]
    except ImportError:  # then each use of a layer pushes by itself
        return None
    return lambda tensor: record.should_record_backprop([tensor])


_recorded = _find_recorded()
