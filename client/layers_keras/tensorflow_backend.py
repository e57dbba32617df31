"""The Keras layers on TensorFlow: eager and inside `tf.function`."""

# The framework's types are unknown where it is not installed, and mostly so where it is.
# pyright: reportUnknownParameterType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportUnknownLambdaType=false, reportUntypedBaseClass=false, reportUntypedFunctionDecorator=false
# pyright: reportUntypedClassDecorator=false, reportPrivateUsage=false

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import tensorflow as tf  # pyright: ignore[reportMissingImports]

from ...proto.errors import InvalidRequest
from ..layers.backward import Backward, whole_ids
from .asked import asked, refuse_vectorized
from .exporting import baked, exporting, whole_in_program

if TYPE_CHECKING:
    from .over_tables import Use


class Lookup:
    """Differentiable pulls that share one push in each backward pass.

    TensorFlow asks for gradients of variables only, and a table is none; so every pull depends on an anchor of each
    layer, a scalar variable that is always 0. Between the anchors and the pulls stands a gate: the tape adds up what
    comes from all pulls before it goes on to the gate, and that is the moment to push. What is not asked for is
    not pushed (`asked`).

    Args:
        backward: gathers the gradients.
    """

    def __init__(self, backward: Backward) -> None:
        self._backward = backward
        self._pass: _Pass | None = None

    def __call__(self, uses: Sequence[Use]) -> list[list[Any]]:
        """Rows of all ids of all uses, with one pull.

        Args:
            uses: together, one tensor of ids for each slot of `backward`, if it has slots. Negative ids, where they are
                not refused, have rows of zeros and no gradient.

        Returns:
            For each use, of each of its tensors, the rows, float32, ids.shape + row_shape.
        """
        ids = [one for use in uses for one in use.ids]
        flats = [tf.reshape(whole(i), [-1]) for i in ids]
        rows = self._baked(flats) if exporting() else None
        if rows is None:
            trains = any(use.train for use in uses)
            rows = self._differentiable(uses, flats) if trains else self._pull(flats)[1:]
        shaped = []
        for place, (some, i) in enumerate(zip(rows, ids, strict=True)):
            row_shape = self._row_shape(place)
            one = tf.reshape(some, tf.concat([tf.shape(i), np.array(row_shape, np.int32)], 0))
            one.set_shape([*i.shape, *row_shape])
            shaped.append(one)
        return list(_dealt(shaped, uses))

    def _differentiable(self, uses: Sequence[Use], flats: list[Any]) -> list[Any]:
        refuse_vectorized(uses)
        passed = self._opened([use for use in uses if use.train])
        passed.uses += 1
        at = tf.constant(passed.uses, tf.int64)
        replicas = _replicas()

        @tf.custom_gradient
        def pulled(gate: Any, *flats: Any) -> Any:
            def grad(*upstreams: Any) -> Any:
                there = [one for use, one in zip(uses, asked(uses), strict=True) for _ in use.ids]
                if not any(there):
                    return tf.zeros(()), *[None] * len(flats)
                if replicas > 1:
                    raise _of_one_replica(uses, replicas)
                # A pass with one pull pushes at once; several meet at the gate.
                push = passed.rates if passed.uses == 1 else None
                now = [] if push is None else [_rate_of(optimizer) for _, optimizer in push]
                given = [tf.convert_to_tensor(one) for one in upstreams]
                marks = given.pop() if len(flats) > 1 else tf.ones(1)
                given.append(marks if all(there) else marks * tf.constant(there, tf.float32))
                hold = functools.partial(self._hold, push)
                zero = _call(hold, [passed.number, at, *given, *flats, *now], tf.float32)
                return tf.ensure_shape(zero, []), *[None] * len(flats)

            del gate
            number, *rows = self._pull(list(flats))
            passed.number = number if passed.number is None else passed.number
            # One place alone needs no mark: its gradient is there, or nobody asks for it.
            return (*rows, tf.zeros(len(flats))) if len(flats) > 1 else rows[0], grad

        if len(flats) == 1:
            return [pulled(passed.gate, *flats)]
        *rows, marks = pulled(passed.gate, *flats)
        return [_marked(some, marks, place) for place, some in enumerate(rows)]

    def _opened(self, uses: Sequence[Use]) -> _Pass:
        """The pass that this graph and this tape share."""
        each = list({id(use.anchor): use for use in uses}.values())
        anchors = [tf.convert_to_tensor(use.anchor.value) for use in each]
        rates = list({id(use.rates): (use.rates, use.optimizer) for use in uses}.values())
        graph = None if tf.executing_eagerly() else tf.compat.v1.get_default_graph()
        last = self._pass
        if last is not None and last.of(graph, rates) and _same_tape(last.gate, anchors[0]):
            return last
        passed = _Pass(graph, rates)
        push = functools.partial(self._push, rates)

        @tf.custom_gradient
        def gated(*anchors: Any) -> Any:
            def grad(upstream: Any) -> Any:
                zero = upstream
                if passed.uses > 1 and any(asked(each)):
                    # Read here, where the optimizer has not stepped yet.
                    now = [_rate_of(optimizer) for _, optimizer in rates]
                    zero = _call(push, [passed.number, upstream, *now], tf.float32)
                zero = tf.ensure_shape(zero, [])
                return zero if len(anchors) == 1 else [zero] * len(anchors)

            return tf.identity(tf.add_n(list(anchors))), grad

        passed.gate = gated(*anchors)
        self._pass = passed
        return passed

    def _row_shape(self, place: int) -> tuple[int, ...]:
        return self._backward.tables[self._backward.table(place)].spec.row_shape

    def _baked(self, flats: list[Any]) -> list[Any]:
        """Rows that a program without servers finds in itself."""
        tables = [self._backward.tables[self._backward.table(place)] for place in range(len(flats))]
        missing = [self._backward.missing(place) for place in range(len(flats))]
        return [baked(*one) for one in zip(tables, flats, missing, strict=True)]

    def _pull(self, flats: list[Any]) -> list[Any]:
        """The number of a new pass, and the rows of each place."""

        def pull(*ids: np.ndarray) -> list[np.ndarray]:
            return [np.array(self._backward.open(), np.int64), *self._backward.pull(ids)]

        number, *rows = _call(pull, flats, [tf.int64, *[tf.float32] * len(flats)])
        return [number, *(tf.ensure_shape(some, [None, *self._row_shape(k)]) for k, some in enumerate(rows))]

    def _hold(
        self, push: list[tuple[Any, Any]] | None, number: np.ndarray, at: np.ndarray, *given: np.ndarray
    ) -> np.ndarray:
        """Keeps gradients; with `push`, whom to tell rates, pushes them too."""
        now = given[len(given) - len(push or ()) :]
        given = given[: len(given) - len(now)]
        count = len(given) // 2
        upstreams, marks, flats = given[:count], given[count], given[count + 1 :]
        grads = [one if mark else None for one, mark in zip(upstreams, marks, strict=True)]
        self._backward.hold(int(number), flats, grads, int(at))
        zero = np.zeros((), np.float32)
        return zero if push is None else self._push(push, number, zero, *now)

    def _push(
        self, rates: list[tuple[Any, Any]], number: np.ndarray, upstream: np.ndarray, *now: np.ndarray
    ) -> np.ndarray:
        # `upstream` is the sum of what every `_hold` of this pass returned: they are all done.
        for (told, optimizer), rate in zip(rates, now, strict=True):
            told.tell(optimizer, float(rate))
        self._backward.push(int(number))
        return np.zeros((), np.float32)


class _Pass:
    """One forward and backward pass, in one graph and under one tape.

    Args:
        graph: that it is traced in; None when it runs eagerly.
        rates: of the layers, each with the optimizer whose rate it is told.

    Attributes:
        gate: what its pulls depend on.
        number: the pass, for `Backward`; a tensor. None before the first pull.
        uses: how many pulls it has.
    """

    def __init__(self, graph: Any, rates: list[tuple[Any, Any]]) -> None:
        self._graph = None if graph is None else weakref.ref(graph)
        self.rates = rates
        self.gate: Any = None
        self.number: Any = None
        self.uses = 0

    def of(self, graph: Any, rates: list[tuple[Any, Any]]) -> bool:
        """Whether it is this graph's, and these layers'."""
        mine = None if self._graph is None else self._graph()
        return mine is graph and _identities(self.rates) == _identities(rates)


def _replicas() -> int:
    """How many replicas of a `tf.distribute` strategy run what is running now; 1 outside of them."""
    context = tf.distribute.get_replica_context()
    return 1 if context is None else context.num_replicas_in_sync


def _of_one_replica(uses: Sequence[Use], replicas: int) -> InvalidRequest:
    names = ", ".join(sorted({repr(name) for use in uses for name in use.rates.names}))
    strategy = type(tf.distribute.get_strategy()).__name__
    return InvalidRequest(
        f"table {names}: {replicas} replicas of {strategy} would each push a step of their own for one batch, and pull "
        "what others pushed: train without a strategy, or with one replica (tf.distribute.OneDeviceStrategy); several "
        "trainers are processes that each connect and fit by themselves"
    )


def _identities(pairs: list[tuple[Any, Any]]) -> list[tuple[int, int]]:
    return [(id(one), id(other)) for one, other in pairs]


def _dealt(rows: list[Any], uses: Sequence[Use]) -> Iterator[list[Any]]:
    """The rows of each use."""
    begin = 0
    for use in uses:
        mine = rows[begin : begin + len(use.ids)]
        begin += len(use.ids)
        # Without gradient where nothing is trained, as a weight that is frozen beside others.
        yield mine if use.train else [tf.stop_gradient(some) for some in mine]


def _rate_of(optimizer: Any) -> Any:
    """The learning rate in force, a scalar; 0 where there is no optimizer."""
    return (
        tf.zeros(())
        if optimizer is None
        else tf.cast(tf.convert_to_tensor(optimizer.learning_rate), tf.float32)
    )


def _marked(rows: Any, marks: Any, place: int) -> Any:
    """Rows as they are, whose gradient says that it is one.

    TensorFlow makes zeros of the gradients of results that nothing depends on. But what has no gradient is not trained:
    zeros would be a step of momentum. So the gradient of `marks` is 1 where there is a real one.
    """

    @tf.custom_gradient
    def marked(rows: Any, marks: Any) -> Any:
        def grad(upstream: Any) -> Any:
            return upstream, tf.one_hot(place, int(marks.shape[0]))

        return tf.identity(rows), grad

    return marked(rows, marks)


def _call(function: Callable[..., Any], tensors: list[Any], dtype: Any) -> Any:
    """What a function of arrays returns; `dtype` is a list if it returns one."""
    if tf.executing_eagerly():  # directly, so that errors arrive as they are
        found = function(*(t.numpy() for t in tensors))
        if isinstance(dtype, list):
            return [tf.constant(one, kind) for one, kind in zip(found, dtype, strict=True)]
        return tf.constant(found, dtype)
    return tf.numpy_function(function, tensors, dtype)


def whole(ids: Any) -> Any:
    """As int64; of types that hold more than int64 not by a cast, which makes ids of NaN. Raises InvalidRequest."""
    ids = tf.convert_to_tensor(ids)
    if not (ids.dtype.is_floating or ids.dtype == tf.uint64):
        return tf.cast(ids, tf.int64)
    wide = tf.cast(ids, tf.float64) if ids.dtype.is_floating else ids
    if exporting():
        return whole_in_program(wide)
    return tf.ensure_shape(_call(whole_ids, [wide], tf.int64), ids.shape)


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


def _same_tape(gate: Any, anchor: Any) -> bool:
    """Whether a gate is visible to the tape that is recording now, and not one that another tape made."""
    return _recorded is not None and _recorded(gate) == _recorded(anchor)
