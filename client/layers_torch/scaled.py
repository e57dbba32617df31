"""GradScaler: which one steps an optimizer, told from who calls, because neither it nor the optimizer says so."""

# The framework's types are unknown where it is not installed, and mostly so where it is.
# pyright: reportUnknownParameterType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import inspect
from collections.abc import Iterable
from typing import Any

import torch  # pyright: ignore[reportMissingImports]

from ...proto.errors import InvalidRequest

# Before 2.3 torch.amp has none; the other's subclasses torch's own.
_GradScaler: Any = getattr(torch.amp, "GradScaler", None) or torch.cuda.amp.GradScaler


def check_scaler(optimizer: Any, layers: Iterable[Any]) -> None:
    """Before an optimizer steps: whoever scaled the loss must be who layers were told of.

    Raises:
        InvalidRequest: a GradScaler steps the optimizer that `push_on_step` was not given.
    """
    stepping = _stepping(optimizer)
    if stepping is None:
        return
    for gradients in (layer.gradients for layer in layers):
        given = gradients.scaler
        known = given is stepping or not (given is None or isinstance(given, _GradScaler))
        if not known and not gradients.dropped:  # else nothing is pushed: it may be frozen
            raise InvalidRequest(
                f"a GradScaler of scale {stepping.get_scale():g} steps the optimizer, and push_on_step was not "
                f"given it: rows of table {gradients.tables[0].name!r} would get gradients with that in them; call "
                "push_on_step(optimizer, model, scaler=scaler)"
            )


def _stepping(optimizer: Any) -> Any:
    """The GradScaler in whose `step` an optimizer steps now, or None; one that is not enabled scales nothing."""
    frame = inspect.currentframe()
    while frame is not None:
        if frame.f_code is _GradScaler.step.__code__:
            found, steps = frame.f_locals["self"], frame.f_locals["optimizer"]
            if steps is optimizer and found.is_enabled():
                return found
        frame = frame.f_back
    return None
