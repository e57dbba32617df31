"""The Keras layers on PyTorch."""

# The framework's types are unknown where it is not installed, and mostly so where it is.
# pyright: reportUnknownParameterType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportUnknownLambdaType=false, reportUntypedBaseClass=false, reportUntypedFunctionDecorator=false
# pyright: reportUntypedClassDecorator=false, reportPrivateUsage=false

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import keras  # pyright: ignore[reportMissingImports]
import numpy as np
import torch  # pyright: ignore[reportMissingImports]

from ...proto.errors import InvalidRequest
from ..layers.backward import Backward, whole_ids
from ..layers_torch.anchored import as_numpy, once_differentiable
from ..layers_torch.passes import trains
from ..untraced import untraced

if TYPE_CHECKING:
    from .over_tables import Use


class Lookup:
    """Differentiable pulls that share one push in each backward pass. Arguments as on TensorFlow."""

    def __init__(self, backward: Backward) -> None:
        self._backward = backward
        self._queued: dict[int, tuple[int, dict[int, Use]]] = {}

    @untraced
    def __call__(self, uses: Sequence[Use]) -> list[list[Any]]:
        """Rows of all ids of all uses, with one pull; see the class of the same name for TensorFlow."""
        refuse_export()
        # Copied: the caller may fill a tensor with the next batch before the backward pass.
        flats = [[np.array(whole(i.detach()).cpu().numpy()).reshape(-1) for i in use.ids] for use in uses]
        pulled = iter(self._backward.pull([some for mine in flats for some in mine]))
        found, first = [], 0
        for use, mine in zip(uses, flats, strict=True):
            weight = use.anchor.value
            rows = [_as_tensor(next(pulled), weight.device) for _ in mine]
            if use.train and torch.is_grad_enabled():
                rows = _Pulled.apply(weight, rows, (mine, first, use), self)
            shapes = [tuple(i.shape) for i in use.ids]
            found.append([some.reshape(*to, *some.shape[1:]) for some, to in zip(rows, shapes, strict=True)])
            first += len(mine)
        return found

    def _hold(self, held: tuple[list[np.ndarray], int, Use], upstreams: Sequence[Any]) -> None:
        """Keeps gradients, and asks the engine to push when this backward pass is over."""
        flats, first, use = held
        task = torch._C._current_graph_task_id()
        if task not in self._queued:
            self._queued[task] = (self._backward.open(), {})
            torch.autograd.Variable._execution_engine.queue_callback(lambda: self._push(task))
        number, told = self._queued[task]
        told[id(use.rates)] = use
        grads = [None if up is None else as_numpy(up) for up in upstreams]
        self._backward.hold(number, flats, grads, first, first)

    @untraced
    def _push(self, task: int) -> None:
        number, told = self._queued.pop(task)
        for use in told.values():
            use.rates.tell(use.optimizer, _rate_of(use.optimizer))
        self._backward.push(number)


class _Pulled(torch.autograd.Function):
    """Rows whose gradient goes to the table; the anchor, a parameter that is always 0, makes the engine come by."""

    @staticmethod
    def forward(ctx: Any, anchor: Any, rows: Sequence[Any], held: Any, lookup: Lookup) -> Any:
        ctx.held = (held, lookup)
        ctx.device = anchor.device
        ctx.set_materialize_grads(False)  # what no loss depends on is not trained
        return tuple(rows)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *upstreams: Any) -> Any:
        held, lookup = ctx.held
        if trains(ctx):
            lookup._hold(held, upstreams)
        return torch.zeros((), device=ctx.device), None, None, None


def _as_tensor(rows: np.ndarray, device: Any) -> Any:
    return torch.from_numpy(np.ascontiguousarray(rows)).to(device)


def _rate_of(optimizer: Any) -> float:
    """The learning rate in force; 0 where there is no optimizer."""
    return (
        0.0 if optimizer is None else float(np.asarray(keras.ops.convert_to_numpy(optimizer.learning_rate)))
    )


def refuse_export() -> None:
    """Raises InvalidRequest where torch writes a program down: rows of now would be in it as those of every batch."""
    exporting = getattr(torch.compiler, "is_exporting", lambda: False)  # of torch 2.7
    if exporting() or torch.onnx.is_in_onnx_export() or torch.jit.is_tracing():  # pyright: ignore[reportPrivateImportUsage]
        raise InvalidRequest(
            "a layer over a table cannot be exported on the torch backend: its rows are on shards, and the program "
            "would have those of one batch. KERAS_BACKEND=tensorflow has model.export, or put the rows into a "
            "keras.layers.Embedding first: layer.set_weights([table.pull(range(n))])"
        )


def whole(ids: Any) -> Any:
    """As int64; of types that hold more than int64 not by a cast, which makes ids of NaN. Raises InvalidRequest."""
    ids = torch.as_tensor(ids)
    if not (ids.is_floating_point() or ids.dtype == torch.uint64):
        return ids.to(torch.int64)
    wide = ids.double() if ids.is_floating_point() else ids
    return torch.from_numpy(np.asarray(whole_ids(wide.detach().cpu().numpy()))).to(ids.device)


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
