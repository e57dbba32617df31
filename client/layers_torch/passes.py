"""When gradients of PyTorch layers are pushed: at the end of each backward pass, or when an optimizer steps."""

# The framework's types are unknown where it is not installed, and mostly so where it is.
# pyright: reportUnknownParameterType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportUnknownLambdaType=false, reportUntypedBaseClass=false, reportUntypedFunctionDecorator=false
# pyright: reportUntypedClassDecorator=false, reportPrivateUsage=false

from __future__ import annotations

import threading
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch  # pyright: ignore[reportMissingImports]

from ...proto.errors import InvalidRequest

if TYPE_CHECKING:
    from ..table import Table

# A backward pass that failed half-way never ends; no more of such are remembered.
_KEPT = 64

# The lock covers the passes and what every Gradients holds: the engine runs backward on a thread per device.
_lock = threading.Lock()
_passes: dict[int, list[tuple[Gradients, np.ndarray, np.ndarray]]] = {}


class Gradients:
    """What one layer has to push.

    Args:
        table: where to.

    Attributes:
        scale: what is pushed is multiplied by it; 1 / world size makes the sum over all ranks a mean.
        at_step: wait for an optimizer's step instead of the end of the backward pass.
    """

    def __init__(self, table: Table, scale: float) -> None:
        self.table = table
        self.scale = scale
        self.at_step = False
        self._held: list[tuple[np.ndarray, np.ndarray]] = []

    def __deepcopy__(self, memo: dict[int, Any]) -> Gradients:
        # A copied layer trains the same table, over the same connection.
        copy = Gradients(self.table, self.scale)
        copy.at_step = self.at_step
        return copy

    def hold(self, ids: np.ndarray, grads: np.ndarray, *, anew: bool) -> None:
        """Keep gradients until this backward pass ends. Only from within one.

        Args:
            ids: [U] int64.
            grads: [U, width] float32. Kept, not copied.
            anew: what waits for a step was dropped (`zero_grad`).
        """
        task = torch._C._current_graph_task_id()
        with _lock:
            if anew:
                self._held.clear()
            first = task not in _passes
            _passes.setdefault(task, []).append((self, ids, grads))
            while len(_passes) > _KEPT:
                del _passes[next(iter(_passes))]
        if first:
            torch.autograd.Variable._execution_engine.queue_callback(lambda: _end(task))

    def take(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """What waits for a step; then nothing does."""
        with _lock:
            held, self._held = self._held, []
        return held


def trains(node: Any) -> bool:
    """Whether this pass adds to grads, as `backward` does; `torch.autograd.grad` hands them out and trains nothing.

    Asked of the engine, and not told by a hook on the anchor: copies and conversions of a layer get another one.

    Args:
        node: a `torch.autograd.Function` in its backward, whose first input is the anchor.
    """
    anchor = node.next_functions[0][0]
    try:
        return anchor is not None and torch._C._will_engine_execute_node(anchor)
    except RuntimeError:  # its answer for a leaf whose gradient `torch.autograd.grad` was asked for
        return False


def _end(task: int) -> None:
    """A backward pass is over: push what does not wait for a step."""
    with _lock:
        held = _passes.pop(task, [])
        for gradients, ids, grads in held:
            if gradients.at_step:
                gradients._held.append((ids, grads))
    _push((g.table, ids, grads, g.scale) for g, ids, grads in held if not g.at_step)


def _push(given: Iterable[tuple[Table, np.ndarray, np.ndarray, float]]) -> None:
    """One push for all: a table that is named several times takes one step, and each shard gets one request."""
    tables: dict[tuple[int, str], Table] = {}
    pieces: dict[tuple[int, str], list[tuple[np.ndarray, np.ndarray]]] = {}
    for table, ids, grads, scale in given:
        # A batch of padding only is a step of torch's optimizers, and so of the table's.
        if len(ids) or table.spec.optimizer.counts_steps:
            key = (id(table.client), table.name)
            tables[key] = table
            pieces.setdefault(key, []).append((ids, grads if scale == 1.0 else grads * np.float32(scale)))
    entries: dict[int, list[tuple[Any, np.ndarray, np.ndarray]]] = {}
    for key, some in pieces.items():
        ids = np.concatenate([ids for ids, _ in some])
        grads = np.concatenate([g for _, g in some]).reshape(len(ids), *tables[key].spec.row_shape)
        entries.setdefault(key[0], []).append((tables[key].entry, ids, grads))
    clients = {id(table.client): table.client for table in tables.values()}
    for number, some in entries.items():
        clients[number].push_entries(some)


def push_on_step(optimizer: Any, model: Any, *, scaler: Any = None) -> Any:
    """Push when an optimizer steps, not after each backward pass.

    From then on the layers' gradients behave like those of parameters: they add up over several backward passes
    (gradient accumulation), `optimizer.step()` applies them, `zero_grad()` drops them, and a step that a
    `torch.amp.GradScaler` skips is skipped for the tables too.

    Args:
        optimizer: of the model's dense part; made of `model.parameters()`, among which each layer has its anchor.
        model: a module; all layers in it whose anchor this optimizer has.
        scaler: the GradScaler, so that gradients are divided by its scale before they are pushed.

    Returns:
        A handle whose `.remove()` ends it.

    Raises:
        InvalidRequest: the optimizer has no anchor of a layer in the model.

    Example:
        >>> optimizer = torch.optim.Adam(model.parameters())
        >>> push_on_step(optimizer, model)
        >>> for part in batch.chunk(4):
        ...     (loss(model(part)) / 4).backward()
        >>> optimizer.step()          # one push, one step of the tables' optimizers
        >>> optimizer.zero_grad()
    """
    known = {id(p) for group in optimizer.param_groups for p in group["params"]}
    layers = [m for m in model.modules() if isinstance(getattr(m, "gradients", None), Gradients)]
    layers = [layer for layer in layers if id(layer.anchor) in known]
    if not layers:
        raise InvalidRequest(
            "the optimizer has no layer's anchor: make it of all of model.parameters(), and give the same model here"
        )
    for layer in layers:
        layer.gradients.at_step = True

    def after(optimizer: Any, args: Any, kwargs: Any) -> None:
        del args, kwargs
        _push(list(_ready(optimizer, layers, scaler)))

    hook = optimizer.register_step_post_hook(after)
    return _Handle(hook, layers)


def _ready(
    optimizer: Any, layers: list[Any], scaler: Any
) -> Iterable[tuple[Table, np.ndarray, np.ndarray, float]]:
    """What a step pushes."""
    # Fused optimizers are called with what GradScaler found, and skip the step themselves.
    found = getattr(optimizer, "found_inf", None)
    skipped = found is not None and bool(found > 0)
    scale = 1.0 if scaler is None else 1.0 / float(scaler.get_scale())
    for layer in layers:
        dropped = skipped or layer.anchor.grad is None
        for ids, grads in layer.gradients.take():
            if not dropped:
                yield layer.table, ids, grads, scale * layer.gradients.scale


class _Handle:
    """What `push_on_step` returns."""

    def __init__(self, hook: Any, layers: list[Any]) -> None:
        self._hook, self._layers = hook, layers

    def remove(self) -> None:
        """Push after each backward pass again; what waits is dropped."""
        self._hook.remove()
        for layer in self._layers:
            layer.gradients.at_step = False
            layer.gradients.take()
