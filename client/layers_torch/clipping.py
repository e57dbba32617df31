"""Gradients of a whole model clipped by their norm, those of tables among them."""

# The framework's types are unknown where it is not installed, and mostly so where it is.
# pyright: reportUnknownParameterType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportUnknownLambdaType=false, reportUntypedBaseClass=false, reportUntypedFunctionDecorator=false
# pyright: reportUntypedClassDecorator=false, reportPrivateUsage=false

from __future__ import annotations

from collections.abc import Hashable, Iterable
from typing import Any

import numpy as np
import torch  # pyright: ignore[reportMissingImports]

from ...proto.errors import InvalidRequest
from ..layers.together import key_of
from ..lookups.pooling import sum_by_id
from ..refusals import NotSupported
from ..untraced import untraced
from .passes import by_ranks, layers_of
from .ranks import Given, Plain, at_first, averaged


@untraced
def clip_grad_norm_(
    model: Any, max_norm: float, norm_type: float = 2.0, error_if_nonfinite: bool = False
) -> Any:
    """`torch.nn.utils.clip_grad_norm_` for a model with layers over tables: rows count, and are clipped, as weights.

    torch's own sees the dense part only, because the rows' gradients are no parameter's. Call this one between
    `backward` and the step of an optimizer that `push_on_step` was told of; with a GradScaler, after `unscale_`.
    The ranks of a DistributedDataParallel model clip by one norm, that of one process with the whole batch: every rank
    calls it, and rows' gradients are gathered once more than for the push.

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
    # An anchor's is 0, or NaN where a row's is not finite: the rows' own say which, as torch's would.
    anchors = {id(layer.anchor) for layer in layers}
    counted = [p.grad for p in model.parameters() if p.grad is not None and id(p) not in anchors]
    norms = [torch.linalg.vector_norm(grad.detach().float(), norm_type).cpu() for grad in counted]
    total = _with_rows(norms, layers, norm_type)
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


def _with_rows(norms: list[Any], layers: list[Any], norm_type: float) -> Any:
    """The norm of the dense part and of all that is to be pushed, the same on each rank. norms: of the dense part."""
    groups = by_ranks(layers, lambda layer: layer.gradients.ranks)
    for ranks, some in sorted(groups, key=lambda one: one[0] is not None):  # what a rank has alone first
        given = _waiting(some)
        if ranks is None:
            pieces = ((key_of(table), ids, grads * np.float32(by)) for table, ids, grads, by in given)
            norms = norms + _norms(pieces, norm_type)
        else:
            norms = [_of_ranks(norms, given, ranks, norm_type)]
    return _total(norms, norm_type)


def _of_ranks(norms: list[Any], given: list[Given], ranks: Any, norm_type: float) -> Any:
    """The norm of these and of what all ranks push; not of the latter alone: all are to have one to the last bit."""

    def whole(pieces: list[Plain]) -> float:
        return float(_total(norms + _norms(pieces, norm_type), norm_type))

    return torch.tensor(at_first(averaged(given, ranks), whole, ranks))


def _waiting(layers: list[Any]) -> list[Given]:
    """What this process would push."""
    return [
        (layer.gradients.tables[k], ids, grads, layer.gradients.factor)
        for layer in layers
        for k, ids, grads in layer.gradients.waiting()
        if not layer.gradients.tables[k].spec.frozen  # since its layer was made: nothing is pushed
    ]


def _norms(pieces: Iterable[tuple[Hashable, np.ndarray, np.ndarray]], norm_type: float) -> list[Any]:
    """Of what each table would be pushed, the gradients of an id summed. pieces: (which table, ids, gradients)."""
    tables: dict[Hashable, list[tuple[np.ndarray, np.ndarray]]] = {}
    for key, ids, grads in pieces:
        if len(ids):  # of nothing there is no largest one, which is the norm of order inf
            tables.setdefault(key, []).append((ids, grads))
    sums = [
        sum_by_id(np.concatenate([ids for ids, _ in some]), np.concatenate([grads for _, grads in some]))
        for some in tables.values()
    ]
    return [torch.linalg.vector_norm(torch.from_numpy(rows), norm_type) for rows in sums]


def _total(norms: list[Any], norm_type: float) -> Any:
    return torch.linalg.vector_norm(torch.stack(norms), norm_type) if norms else torch.zeros(())
