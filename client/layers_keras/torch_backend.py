"""The Keras layers on PyTorch."""

# The framework's types are unknown where it is not installed, and mostly so where it is.
# pyright: reportUnknownParameterType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportUnknownLambdaType=false, reportUntypedBaseClass=false, reportUntypedFunctionDecorator=false
# pyright: reportUntypedClassDecorator=false, reportPrivateUsage=false

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch  # pyright: ignore[reportMissingImports]

from ..backward import Backward
from ..layers_torch.passes import trains


class Lookup:
    """Differentiable pulls that share one push in each backward pass. Arguments as on TensorFlow."""

    def __init__(self, backward: Backward) -> None:
        self._backward = backward
        self._row_shape = backward.table.spec.row_shape
        self._queued: dict[int, int] = {}

    def __call__(self, anchor: Any, ids: Sequence[Any], *, train: bool) -> list[Any]:
        """Rows of several tensors of ids, with one pull; see the class of the same name for TensorFlow."""
        weight = anchor.value
        flat = torch.cat([i.detach().to(torch.int64).reshape(-1) for i in ids])
        if not train or not torch.is_grad_enabled():
            rows = self._pull(flat, weight.device)
        else:
            rows = _Pulled.apply(weight, flat, self)
        sizes = [i.numel() for i in ids]
        parts = rows.split(sizes)
        return [part.reshape(*i.shape, *self._row_shape) for part, i in zip(parts, ids, strict=True)]

    def _pull(self, flat: Any, device: Any) -> Any:
        return torch.from_numpy(self._backward.pull(flat.cpu().numpy())).to(device)

    def _hold(self, flat: Any, upstream: Any) -> None:
        """Keeps gradients, and asks the engine to push when this backward pass is over."""
        task = torch._C._current_graph_task_id()
        if task not in self._queued:
            self._queued[task] = self._backward.open()
            torch.autograd.Variable._execution_engine.queue_callback(lambda: self._push(task))
        grads = upstream.detach().float().cpu().numpy()
        self._backward.hold(self._queued[task], flat.cpu().numpy(), grads)

    def _push(self, task: int) -> None:
        self._backward.push(self._queued.pop(task))


class _Pulled(torch.autograd.Function):
    """A pull whose gradient goes to the table; the anchor, a parameter that is always 0, makes the engine come by."""

    @staticmethod
    def forward(ctx: Any, anchor: Any, flat: Any, lookup: Lookup) -> Any:
        ctx.save_for_backward(flat)
        ctx.lookup = lookup
        return lookup._pull(flat, anchor.device)

    @staticmethod
    def backward(ctx: Any, *upstream: Any) -> Any:
        (flat,) = ctx.saved_tensors
        if trains(ctx):
            ctx.lookup._hold(flat, upstream[0])
        return torch.zeros((), device=upstream[0].device), None, None


def dense(inputs: Any) -> Any:
    """Ids as they are; torch's sparse tensors are made dense."""
    return inputs.to_dense() if inputs.is_sparse else inputs


def flat_values(inputs: Any) -> tuple[Any, Callable[[Any], Any]]:
    """Ids as they are: Keras has no ragged tensors here."""
    return inputs, lambda rows: rows


def padded(inputs: Any, fill: Any) -> Any:
    """Bags as they are: Keras has no ragged tensors here."""
    del fill
    return np.asarray(inputs) if isinstance(inputs, list) else inputs
