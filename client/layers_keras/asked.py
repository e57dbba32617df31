"""Whether a tape was asked for the gradient of a layer's anchor: found out on the stack, as TensorFlow tells nobody.

Why it is so. A tape runs the gradient functions of all that it watched, and then drops what was not asked for; a
program keeps every call back into Python. So a layer's gradient function also runs in
`tape.gradient(loss, dense.trainable_variables)`, where no weight of the layer would be trained. The frames of the tapes
that run it know better. Rejected: a call back that TensorFlow leaves out where nothing needs its result. Loops that do
not use the anchors' gradients would train nothing, and eager ones have no program to leave it out of.

The same frames show what cannot be pushed right: gradients for each element, of forward mode, or in a vectorized map.
"""

# The framework's types are unknown where it is not installed, and mostly so where it is.
# pyright: reportUnknownParameterType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportUnknownLambdaType=false, reportUntypedBaseClass=false, reportUntypedFunctionDecorator=false
# pyright: reportUntypedClassDecorator=false, reportPrivateUsage=false

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import tensorflow as tf  # pyright: ignore[reportMissingImports]

from ...proto.errors import InvalidRequest

if TYPE_CHECKING:
    from .over_tables import Use

# What is inside of these traces a program, which may be run for several tapes later.
_TRACERS = "tensorflow.python.eager.polymorphic_function"
# What `jacobian` and `batch_jacobian` call for each element, and where it is.
_ELEMENT = ("loop_fn", "tensorflow.python.eager.backprop")
# What `vectorized_map` is made of, and `jacobian` too; and where it is.
_AT_ONCE = ("_pfor_impl", "tensorflow.python.ops.parallel_for.control_flow_ops")
# Through it the forward pass tells tapes what it did, and accumulators.
_RECORDS = ("record_operation", "tensorflow.python.eager.record")


def asked(uses: Sequence[Use]) -> list[bool]:
    """Of each use, whether its anchor's gradient was asked for; to be called by a gradient function.

    True where nobody can know: in a program under a tape outside of it, as its backward pass is traced without that
    tape. TensorFlow makes such programs itself of branches and loops under a tape that is persistent or in another one.

    Raises:
        InvalidRequest: a jacobian, a gradient that another tape records, or one of forward mode.
    """
    frames = list(_frames())
    handles = {id(use.anchor): use.anchor.value.handle for use in uses}
    wanted = {
        key: all(any(one is handle for one in frame.f_locals.get("sources", [handle])) for frame in frames)
        for key, handle in handles.items()
    }
    found = [use.train and wanted[id(use.anchor)] for use in uses]
    if any(found):
        if frames:
            _refuse_several(frames[0], uses)
        else:
            _refuse_forward(uses)
    if len(frames) == 1 and any(found):  # else it computes a part again, for the tape around it
        _refuse_second(
            frames[0], [handles[id(use.anchor)] for use, one in zip(uses, found, strict=True) if one], uses
        )
    return found


def refuse_vectorized(uses: Sequence[Use]) -> None:
    """Raises InvalidRequest for a lookup in `tf.vectorized_map` under a tape, which would lose its gradient unseen."""
    if tf.executing_eagerly() or not _tapes():
        return
    for frame in _outwards(sys._getframe(1)):
        if frame.f_code is _ASKS:  # a tape computes a part again: `asked` judges it
            return
        if _is(frame, _AT_ONCE):
            raise InvalidRequest(
                f"tf.vectorized_map of the layer over {_names(uses)} under a tape: TensorFlow drops the gradient of "
                "what it cannot vectorize, and nothing would be pushed; call the layer once, with all ids, before it "
                "(TimeDistributed has no use for one: it takes ids of any shape); or use tf.map_fn, which in a "
                "tf.function is a push for each element"
            )


def _outwards(frame: Any) -> Iterator[Any]:
    while frame is not None:
        yield frame
        frame = frame.f_back


def _is(frame: Any, what: tuple[str, str]) -> bool:
    return (frame.f_code.co_name, frame.f_globals.get("__name__")) == what


def _frames() -> Iterator[Any]:
    """Of the tapes that compute gradients now, the innermost first; of one program, if it is traced."""
    traced = not tf.executing_eagerly()
    frame: Any = sys._getframe(2)
    while frame is not None:
        if frame.f_code is _ASKS:
            yield frame
        if traced and str(frame.f_globals.get("__name__", "")).startswith(_TRACERS):
            return
        frame = frame.f_back


def _refuse_several(frame: Any, uses: Sequence[Use]) -> None:
    """Raises InvalidRequest where a tape is asked for a gradient for each element of a target."""
    for outer in _outwards(frame):
        if _is(outer, _ELEMENT) or _is(outer, _AT_ONCE):
            raise InvalidRequest(
                f"a jacobian with respect to the variables of the layer over {_names(uses)} would be a push for each "
                "of its rows, and so would gradients in tf.vectorized_map: leave the layer's variables out of the "
                "sources, or use gradient, of a sum"
            )


def _refuse_forward(uses: Sequence[Use]) -> None:
    """Raises InvalidRequest where a gradient function is run while the forward pass is recorded."""
    if any(_is(frame, _RECORDS) for frame in _outwards(sys._getframe(2))):
        raise InvalidRequest(
            f"tf.autodiff.ForwardAccumulator with respect to the variables of the layer over {_names(uses)}: pushes "
            "have no forward mode; leave the layer's variables out of its primals"
        )


def _refuse_second(frame: Any, handles: Sequence[Any], uses: Sequence[Use]) -> None:
    """Raises InvalidRequest where another tape records what this one computes."""
    tape = frame.f_back and frame.f_back.f_locals.get("self")
    if _records is None or not isinstance(tape, tf.GradientTape) or tape._recording:
        return
    if _records(list(handles)):
        raise InvalidRequest(
            f"the gradient of the layer over {_names(uses)} was asked for while another tape records, and pushes "
            "cannot be differentiated again: leave the layer's variables out of the inner tape's sources, the outer "
            "tape trains them; or, if it is no gradient of a gradient, ask outside of the other tape's `with`"
        )


def _names(uses: Sequence[Use]) -> str:
    return "table " + ", ".join(sorted({repr(name) for use in uses for name in use.rates.names}))


def _of_tensorflow() -> tuple[Any, Callable[[list[Any]], bool] | None, Callable[[], bool]]:
    """The code whose frames know the sources; what says whether a tape records tensors; whether there is any tape."""
    try:
        from tensorflow.python.eager import imperative_grad, record  # pyright: ignore[reportMissingImports]
    except ImportError:  # then every gradient counts as asked for
        return None, None, lambda: True
    return (
        imperative_grad.imperative_grad.__code__,
        record.should_record_backprop,
        record.could_possibly_record,
    )


_ASKS, _records, _tapes = _of_tensorflow()
