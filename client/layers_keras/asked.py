"""Whether a tape was asked for the gradient of a layer's anchor: found out on the stack, as TensorFlow tells nobody.

Why it is so. A tape runs the gradient functions of all that it watched, and then drops what was not asked for; a
program keeps every call back into Python. So a layer's gradient function also runs in
`tape.gradient(loss, dense.trainable_variables)`, where no weight of the layer would be trained. The frames of the tapes
that run it know better. Rejected: a call back that TensorFlow leaves out where nothing needs its result. Loops that do
not use the anchors' gradients would train nothing, and eager ones have no program to leave it out of.
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


def asked(uses: Sequence[Use]) -> list[bool]:
    """Of each use, whether its anchor's gradient was asked for; to be called by a gradient function.

    True where nobody can know: in a program under a tape outside of it, as its backward pass is traced without that
    tape. TensorFlow makes such programs itself of branches and loops under a tape that is persistent or in another one.

    Raises:
        InvalidRequest: a jacobian, or a gradient that another tape records.
    """
    frames = list(_frames())
    handles = {id(use.anchor): use.anchor.value.handle for use in uses}
    wanted = {
        key: all(any(one is handle for one in frame.f_locals.get("sources", [handle])) for frame in frames)
        for key, handle in handles.items()
    }
    found = [use.train and wanted[id(use.anchor)] for use in uses]
    if frames and any(found):
        _refuse_several(frames[0], uses)
    if len(frames) == 1 and any(found):  # else it computes a part again, for the tape around it
        _refuse_second(
            frames[0], [handles[id(use.anchor)] for use, one in zip(uses, found, strict=True) if one], uses
        )
    return found


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
    outer = frame.f_back and frame.f_back.f_back
    if outer is not None and (outer.f_code.co_name, outer.f_globals.get("__name__")) == _ELEMENT:
        raise InvalidRequest(
            f"a jacobian with respect to the variables of the layer over {_names(uses)} would be a push for each of "
            "its rows: leave the layer's variables out of its sources, or use gradient, of a sum"
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


def _of_tensorflow() -> tuple[Any, Callable[[list[Any]], bool] | None]:
    """The code whose frames know the sources, and what says whether a tape records tensors; None: there is none."""
    try:
        from tensorflow.python.eager import imperative_grad, record  # pyright: ignore[reportMissingImports]
    except ImportError:  # then every gradient counts as asked for
        return None, None
    return imperative_grad.imperative_grad.__code__, record.should_record_backprop


_ASKS, _records = _of_tensorflow()
