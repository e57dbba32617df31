"""Gradients of a whole model clipped by their norm, those of tables among them."""

# The framework's types are unknown where it is not installed, and mostly so where it is.
# pyright: reportUnknownParameterType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportUnknownLambdaType=false, reportUntypedBaseClass=false, reportUntypedFunctionDecorator=false
# pyright: reportUntypedClassDecorator=false, reportPrivateUsage=false

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch  # pyright: ignore[reportMissingImports]

from ...proto.errors import InvalidRequest
from ..lookups.pooling import sum_by_id
from ..refusals import NotSupported
from ..untraced import untraced
from .passes import layers_of

if TYPE_CHECKING:
    from ..table import Table


@untraced
def clip_grad_norm_(
    model: Any, max_norm: float, norm_type: float = 2.0, error_if_nonfinite: bool = False
) -> Any:
    """`torch.nn.utils.clip_grad_norm_` for a model with layers over tables: rows count, and are clipped, as weights.

    torch's own sees the dense part only, because the rows' gradients are no parameter's. Call this one between
    `backward` and the step of an optimizer that `push_on_step` was told of; with a GradScaler, after `unscale_`.
    Of several processes, each counts the rows that it looked up itself.

    Args:
        model: a module.
        max_norm: of all gradients together, at most.
        norm_type: p of the norm; inf works.
        error_if_nonfinite: raise RuntimeError for a norm that is NaN or infinite.

    Returns the norm as it was, a tensor.

    Raises:
        InvalidRequest: a layer pushes at the end of each backward pass, so its gradients are gone.
        NotImplementedError: a fully sharded model.

    Example:
        >>> push_on_step(optimizer, model)
        >>> loss(model(batch)).backward()
        >>> clip_grad_norm_(model, 1.0)
        >>> optimizer.step()
    """
    layers = layers_of(model)
    for layer in layers:
        if layer.anchor.requires_grad and not layer.gradients.at_step:
            names = ", ".join(repr(table.name) for table in layer.gradients.tables)
            raise InvalidRequest(
                f"the gradients of {names} are pushed at the end of each backward pass, before they can be clipped: "
                "call push_on_step(optimizer, model) before the first one"
            )
    grads = [p.grad for p in model.parameters() if p.grad is not None]
    if any(hasattr(grad, "full_tensor") for grad in grads):
        raise NotSupported(
            "clip_grad_norm_ counts the gradients of one process, and a fully sharded model has parts"
        )
    norms = [torch.linalg.vector_norm(grad.detach().float(), norm_type).cpu() for grad in grads]
    norms += [torch.linalg.vector_norm(torch.from_numpy(rows), norm_type) for rows in _sums(layers)]
    total = torch.linalg.vector_norm(torch.stack(norms), norm_type) if norms else torch.zeros(())
    if error_if_nonfinite and not bool(torch.isfinite(total)):
        raise RuntimeError(
            f"the norm of order {norm_type} of the gradients is {float(total)}: they cannot be clipped"
        )
    scale = float((max_norm / (total + 1e-6)).clamp(max=1.0))
    for grad in grads:
        grad.detach().mul_(scale)
    for layer in layers:
        layer.gradients.scale_waiting(scale)
    return total


def _sums(layers: list[Any]) -> list[np.ndarray]:
    """What each table would be pushed, the gradients of an id summed: [U, width] float32."""
    tables: dict[tuple[int, str], list[tuple[np.ndarray, np.ndarray]]] = {}
    for layer in layers:
        for k, ids, grads in layer.gradients.waiting():
            table: Table = layer.gradients.tables[k]
            if table.spec.frozen:  # since its layer was made: nothing is pushed
                continue
            pieces = tables.setdefault((id(table.client), table.name), [])
            pieces.append((ids, grads * np.float32(layer.gradients.factor)))
    return [
        sum_by_id(np.concatenate([ids for ids, _ in pieces]), np.concatenate([grads for _, grads in pieces]))
        for pieces in tables.values()
    ]
