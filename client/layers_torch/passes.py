"""When gradients of PyTorch layers are pushed: at the end of each backward pass, or when an optimizer steps."""

# The framework's types are unknown where it is not installed, and mostly so where it is.
# pyright: reportUnknownParameterType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportUnknownLambdaType=false, reportUntypedBaseClass=false, reportUntypedFunctionDecorator=false
# pyright: reportUntypedClassDecorator=false, reportPrivateUsage=false

from __future__ import annotations

import functools
import gc
import threading
import types
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from copy import deepcopy
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch  # pyright: ignore[reportMissingImports]

from ...proto.errors import InvalidRequest
from ..layers.together import push_together
from ..refusals import NotSupported
from ..untraced import untraced
from .prefetched import forget
from .ranks import Given, check_scale, check_whole, push_of_ranks, ranks_here
from .scaled import check_scaler
from .wrapped import Wrapped, wrapped_here

if TYPE_CHECKING:
    from ..table import Table

# Which of a layer's tables, ids [U] int64, gradients [U, width] float32.
Piece = tuple[int, np.ndarray, np.ndarray]
# What the rates of a layer's tables began with, as `FollowedRate.begun`.
Begun = dict[str, list[float]]
_T = TypeVar("_T")
# Before 2.4, any `torch.compile` takes the hooks of PyTorch's own optimizers off, also for steps that are not compiled.
_HOOKS_STAY = tuple(map(int, torch.__version__.split(".")[:2])) >= (2, 4)

# The lock covers the passes and what every Gradients holds: the engine runs backward on a thread per device.
_lock = threading.Lock()


class _Pass:
    """A backward pass. The engine alone keeps it, as what to call at its end: one that fails is gone.

    A reentrant checkpoint has a backward pass within that of the model. What it brings waits for the end of the outer
    one: other checkpoints are looked up again until then, and must find the rows that the forward pass found.

    Args:
        outer: the pass that this one is within, or None.

    Attributes:
        held: whose gradients it has brought.
        thread: on which layers are called in it, as checkpoints do, until it ends; else None.
    """

    def __init__(self, outer: _Pass | None) -> None:
        self.held: list[tuple[Gradients, Sequence[Piece]]] = []
        self.thread: int | None = None
        self._outer = outer

    @untraced
    def __call__(self) -> None:
        with _lock:
            self.thread = None
            if self._outer is not None and self._outer.thread is not None:
                self._outer.held += self.held
                self.held = []
            wrapped = any(gradients.wrapped is not None for gradients, _ in self.held)
        if wrapped:  # after the wrapper: in the same order on every rank, and it knows what it still awaits
            torch.autograd.Variable._execution_engine.queue_callback(lambda: _after_wrappers(self))
        else:
            _close(self)


# By the engine's number, which grows. Its lock is `_lock`.
_passes: weakref.WeakValueDictionary[int, _Pass] = weakref.WeakValueDictionary()


def _this_pass() -> _Pass:
    """The backward pass that this is called in."""
    task = torch._C._current_graph_task_id()
    found = _passes.get(task)
    if found is None:
        here = threading.get_ident()
        around = {number: one for number, one in _passes.items() if one.thread == here}
        found = _passes[task] = _Pass(around[max(around)] if around else None)
        torch.autograd.Variable._execution_engine.queue_callback(found)
    return found


def called_here() -> None:
    """A layer is called: if in a backward pass, those that begin on this thread until that ends are within it."""
    if torch._C._current_graph_task_id() != -1:
        with _lock:
            _this_pass().thread = threading.get_ident()


class Gradients:
    """What one layer has to push.

    Args:
        tables: where to.

    Attributes:
        scale: what is pushed is multiplied by it; 1 / world size makes the sum over all ranks a mean.
        at_step: wait for an optimizer's step instead of the end of the backward pass.
        parameter: the anchor as that optimizer has it: with fully sharded models, not the one of the backward pass.
        scaler: the GradScaler that scaled what waits, or None.
        mesh: of the processes that `fully_shard` shares the anchor out over, or None.
        ranks: the process group of those who push together what there is to push, or None.
        wrapped: the DistributedDataParallel model that the layer is in, or None.
        unbound: of a copy, which waits for the step of an optimizer that has not been told of it.
        rates: of the tables, which are set before each push (`rates.py`). None: they stay.
        loaded_rates: what those were of which a state dict was made, as `FollowedRate.begun`, until others are bound.
    """

    def __init__(self, tables: Sequence[Table], scale: float) -> None:
        self.tables = tuple(tables)
        self.scale = scale
        self.at_step = self.unbound = False
        self.parameter: Any = None
        self.scaler: Any = None
        self.mesh: Any = None
        self.ranks: Any = None
        self.wrapped: Wrapped | None = None
        self.rates: Any = None
        self.loaded_rates: Begun | None = None
        self._held: list[Piece] = []

    def __deepcopy__(self, memo: dict[int, Any]) -> Gradients:
        # A copied layer trains the same tables, over the same connection.
        copy = Gradients(self.tables, self.scale)
        copy.at_step = copy.unbound = self.at_step
        copy.parameter, copy.scaler = deepcopy(self.parameter, memo), self.scaler
        copy.rates, copy.loaded_rates = self.rates, self.loaded_rates
        return copy

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.unbound = self.at_step

    def meet_ranks(self, anchor: Any) -> None:
        """In a forward pass: find out who else trains the model. Raises InvalidRequest. anchor: of the layer."""
        if not torch.is_grad_enabled():  # an evaluation between a forward pass and its backward one
            return
        check_whole(anchor)
        self.wrapped = wrapped_here(self) or self.wrapped
        ranks = ranks_here(self.mesh) if self.wrapped is None else self.wrapped.group()
        if ranks is not None:
            check_scale(self.scale, ranks)
        if self.wrapped is None:  # else the backward pass tells
            self.ranks = ranks

    def follow_wrapper(self) -> None:
        """At the end of a backward pass: push together if the wrapper averages in this pass what parameters get."""
        if self.wrapped is None:
            return
        ranks = self.wrapped.group()
        if ranks is not None or not self.at_step:  # what waits is averaged if any of its passes was
            self.ranks = ranks

    def hold(self, pieces: Sequence[Piece]) -> None:
        """Keep gradients until this backward pass ends. Only from within one. Arrays are kept, not copied.

        Raises InvalidRequest: nothing would ever push them.
        """
        if self.unbound:
            raise InvalidRequest(
                f"a copy of a layer over table {self.tables[0].name!r}, which pushes when an optimizer steps, has no "
                "optimizer yet, and its gradients would be lost: call push_on_step(optimizer, model) for the copy"
            )
        with _lock:
            if self.dropped:
                self._held.clear()
            _this_pass().held.append((self, pieces))

    @property
    def begun_rates(self) -> Begun | None:
        """What the tables' rates began with, if they follow another one."""
        return self.loaded_rates if self.rates is None else self.rates.begun

    def go_on(self, begun: Begun) -> None:
        """Training goes on in which the tables' rates began so."""
        if self.rates is None:
            self.loaded_rates = begun
        else:
            self.rates.go_on(begun)

    @property
    def dropped(self) -> bool:
        """Whether what waits for a step is of no use any more (`zero_grad`)."""
        return self.parameter is None or self.parameter.grad is None

    @property
    def factor(self) -> float:
        """What waits for a step, times this, is what is pushed."""
        return self.scale if self.scaler is None else self.scale / float(self.scaler.get_scale())

    def waiting(self) -> list[Piece]:
        """What waits for a step, and goes on waiting."""
        with _lock:
            return [] if self.dropped else list(self._held)

    def scale_waiting(self, by: float) -> None:
        """Multiply what waits for a step; what is not finite becomes NaN, which the push refuses by name."""
        with _lock, np.errstate(invalid="ignore"):
            self._held = [(k, ids, grads * np.float32(by)) for k, ids, grads in self._held]

    def hurry(self) -> None:
        """What the backward pass that this is called in has brought waits for a step now: the optimizer steps in it."""
        with _lock:
            now = _passes.get(torch._C._current_graph_task_id())
            if now is not None and self.at_step:
                self._held += [piece for one, pieces in now.held if one is self for piece in pieces]
                now.held = [one for one in now.held if one[0] is not self]

    def take(self) -> list[Piece]:
        """What waits for a step; then nothing does."""
        with _lock:
            held, self._held = self._held, []
            if self.wrapped is not None:
                self.ranks = None
        return held


# The optimizer whose step pushes for a layer. Not kept in the layer: its copies and pickles have none yet.
_steps: weakref.WeakKeyDictionary[Gradients, Callable[[], Any]] = weakref.WeakKeyDictionary()


def trains(node: Any) -> bool:
    """Whether this pass adds to grads, as `backward` does; `torch.autograd.grad` hands them out and trains nothing.

    Asked of the engine, and not told by a hook on the anchor: copies and conversions of a layer get another one.
    An anchor that was frozen since the forward pass takes no gradient, as a weight.

    Args:
        node: a `torch.autograd.Function` in its backward, whose first input is the anchor.

    Raises:
        NotImplementedError: in compiled autograd, which puts another in the place of the node, and never says when its
            pass ends: no rows would be trained.
    """
    anchor = node.next_functions[0][0]
    if not getattr(getattr(anchor, "variable", None), "requires_grad", True):
        return False
    if not isinstance(node, torch.autograd.function.BackwardCFunction):
        raise NotSupported(
            "a layer over a table in a backward pass of compiled autograd: its rows would not be trained; leave "
            "torch._dynamo.config.compiled_autograd and torch._dynamo.compiled_autograd off (torch.compile works)"
        )
    try:
        return anchor is not None and torch._C._will_engine_execute_node(anchor)
    except RuntimeError:  # its answer for a leaf whose gradient `torch.autograd.grad` was asked for
        return False


@untraced
def _after_wrappers(done: _Pass) -> None:
    held = list(done.held)
    for gradients, _ in held:
        gradients.follow_wrapper()
    try:
        _close(done)
    finally:
        for wrapped in {id(g.wrapped): g.wrapped for g, _ in held if g.wrapped is not None}.values():
            wrapped.passed()


def _close(done: _Pass) -> None:
    """Push what does not wait for a step."""
    with _lock:
        held, done.held = done.held, []
        for gradients, pieces in held:
            if gradients.at_step:
                gradients._held.extend(pieces)
    now = [(g, pieces) for g, pieces in held if not g.at_step]
    for ranks, some in by_ranks(now, lambda one: one[0].ranks):
        given = ((g.tables[k], ids, grads, g.scale) for g, pieces in some for k, ids, grads in pieces)
        _follow(g for g, _ in some)
        _push(given, ranks, [table for g, _ in some for table in g.tables])


def by_ranks(some: Iterable[_T], ranks_of: Callable[[_T], Any]) -> list[tuple[Any, list[_T]]]:
    """Grouped by who pushes them together: (process group or None, those)."""
    groups: dict[int, tuple[Any, list[_T]]] = {}
    for one in some:
        groups.setdefault(id(ranks_of(one)), (ranks_of(one), []))[1].append(one)
    return list(groups.values())


def _follow(gradients: Iterable[Gradients]) -> None:
    """Set the learning rates that are to be in force for a push."""
    for one in gradients:
        if one.rates is not None:
            one.rates.follow()


def _push(given: Iterable[Given], ranks: Any, tables: Sequence[Table]) -> None:
    """One push for all.

    Args:
        given: what is to be pushed.
        ranks: the process group that pushes together, or None.
        tables: of the layers.
    """
    all_of = list(given)
    pushed = [table for table, _, _, _ in all_of]
    try:
        if ranks is None:
            push_together(
                (t, ids, rows if by == 1.0 else rows * np.float32(by)) for t, ids, rows, by in all_of
            )
        else:
            pushed += push_of_ranks(all_of, tables, ranks)
    finally:
        forget(pushed)


def layers_of(model: Any) -> list[Any]:
    """The layers over tables in a module."""
    return [m for m in model.modules() if isinstance(getattr(m, "gradients", None), Gradients)]


def push_on_step(optimizer: Any, model: Any, *, scaler: Any = None) -> Any:
    """Push when an optimizer steps, not after each backward pass.

    From then on the layers' gradients behave like those of parameters: they add up over several backward passes
    (gradient accumulation), `optimizer.step()` applies them, each once, `zero_grad()` drops them, and a step that a
    `torch.amp.GradScaler` skips is skipped for the tables too. Rows ascend where the optimizer has `maximize=True` for
    the anchor. Only gradients that the model, or your own loop, makes zeros in place
    (`model.zero_grad(set_to_none=False)`) are not seen to be dropped: use the optimizer's `zero_grad`.

    Args:
        optimizer: of the model's dense part; made of `model.parameters()`, among which each layer has its anchor.
        model: a module; all layers in it whose anchor this optimizer has.
        scaler: the GradScaler, so that gradients are divided by its scale before they are pushed.

    Returns:
        A handle whose `.remove()` ends it.

    Raises:
        InvalidRequest: the optimizer has no anchor of a layer in the model; or another one has been told of a layer:
            what the first to step pushes, the second would not have. Also from `scaler.step(optimizer)`, before
            anything is changed: of a GradScaler that was not given here.

    Example:
        >>> optimizer = torch.optim.Adam(model.parameters())
        >>> push_on_step(optimizer, model)
        >>> for part in batch.chunk(4):
        ...     (loss(model(part)) / 4).backward()
        >>> optimizer.step()          # one push, one step of the tables' optimizers
        >>> optimizer.zero_grad()
    """
    known = {id(p) for group in optimizer.param_groups for p in group["params"]}
    layers = [layer for layer in layers_of(model) if id(layer.anchor) in known]
    if not layers:
        raise InvalidRequest(
            "the optimizer has no layer's anchor: make it of all of model.parameters(), and give the same model here"
        )
    _check_free(layers, optimizer)
    for layer in layers:
        gradients = layer.gradients
        gradients.at_step, gradients.parameter, gradients.scaler = True, layer.anchor, scaler
        gradients.unbound = False
        _steps[gradients] = weakref.ref(optimizer)

    @untraced
    def before(optimizer: Any, args: Any, kwargs: Any) -> None:
        del args, kwargs
        check_scaler(optimizer, layers)

    @untraced
    def after(optimizer: Any, args: Any, kwargs: Any) -> None:
        del args, kwargs
        for ranks, some in by_ranks(layers, lambda layer: layer.gradients.ranks):
            tables = [table for layer in some for table in layer.gradients.tables]
            _follow(layer.gradients for layer in some)
            _push(_ready(optimizer, some), ranks, tables)

    hooks = _hooked(optimizer, before, after)
    _drop_with(optimizer, layers)
    return _Handle(hooks, layers)


def _check_free(layers: list[Any], optimizer: Any) -> None:
    """Raise InvalidRequest if another optimizer, which is still there, pushes for a layer when it steps."""

    def taken() -> list[Any]:
        told = [(layer, _steps.get(layer.gradients, lambda: None)()) for layer in layers]
        return [layer for layer, other in told if other is not None and other is not optimizer]

    if taken():
        gc.collect()  # one that nobody has any more may be there, held by its own `zero_grad`
    for layer in taken():
        raise InvalidRequest(
            f"another optimizer pushes the gradients of table {layer.gradients.tables[0].name!r} when it steps, and a "
            "step of this one would find none: give the layer to one optimizer, or call remove() of what the first "
            "push_on_step returned"
        )


def _hooked(optimizer: Any, before: Callable[..., None], after: Callable[..., None]) -> list[Any]:
    """Have an optimizer call these around each step. Returns handles with `remove`."""
    if _HOOKS_STAY:
        return [optimizer.register_step_pre_hook(before), optimizer.register_step_post_hook(after)]
    step, hooks = optimizer.step, OrderedDict[int, Any]()
    handle = torch.utils.hooks.RemovableHandle(hooks)
    hooks[handle.id] = after

    @functools.wraps(step)
    def stepped(self: Any, *args: Any, **kwargs: Any) -> Any:
        if not hooks:
            return step(*args, **kwargs)
        before(self, args, kwargs)
        done = step(*args, **kwargs)
        after(self, args, kwargs)
        return done

    optimizer.step = types.MethodType(stepped, optimizer)
    return [handle]


def _drop_with(optimizer: Any, layers: Iterable[Any]) -> None:
    """Let the optimizer's `zero_grad` drop what waits; `dropped` sees only gradients that are gone, not zeros."""
    zero_grad = optimizer.zero_grad

    @untraced
    def drop() -> None:
        for layer in layers:
            layer.gradients.take()

    @functools.wraps(zero_grad)
    def zeroed(*args: Any, **kwargs: Any) -> None:
        zero_grad(*args, **kwargs)
        drop()

    optimizer.zero_grad = zeroed


def _ready(optimizer: Any, layers: list[Any]) -> Iterable[Given]:
    """What a step pushes."""
    # Fused optimizers are called with what GradScaler found, and skip the step themselves.
    found = getattr(optimizer, "found_inf", None)
    skipped = found is not None and bool(found > 0)
    ascends = {id(p) for group in optimizer.param_groups if group.get("maximize") for p in group["params"]}
    for layer in layers:
        layer.gradients.hurry()
        dropped, factor = skipped or layer.gradients.dropped, layer.gradients.factor
        if id(layer.gradients.parameter) in ascends:
            factor = -factor
        for k, ids, grads in layer.gradients.take():
            if not dropped:
                yield layer.gradients.tables[k], ids, grads, factor


class _Handle:
    """What `push_on_step` returns."""

    def __init__(self, hooks: list[Any], layers: list[Any]) -> None:
        self._hooks, self._layers = hooks, layers

    def remove(self) -> None:
        """Push after each backward pass again; what waits is dropped."""
        for hook in self._hooks:
            hook.remove()
        for layer in self._layers:
            gradients = layer.gradients
            gradients.take()
            _steps.pop(gradients, None)
            gradients.at_step, gradients.parameter, gradients.scaler = False, None, None
            gradients.unbound = False
