"""Models in DistributedDataParallel: which layers are in them, and which backward passes average the ranks' gradients.

The wrapper averages what its parameters get in the first backward pass after its own forward pass, whatever forward
pass that comes from, and nothing in a pass that it did not expect: the module used by itself. Tables follow it.

With `find_unused_parameters` or `static_graph` a rank may have no use for a layer that others use, and still all must
come to the gathering. So layers are told of the wrapper when it is made, not when it first calls them, and there any
parameter that gets a gradient has all layers of its model come.
"""

# The framework's types are unknown where it is not installed, and mostly so where it is.
# pyright: reportUnknownParameterType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportUnknownLambdaType=false, reportPrivateUsage=false

from __future__ import annotations

import weakref
from collections.abc import Sequence
from typing import Any, Protocol

import torch  # pyright: ignore[reportMissingImports]
import torch.distributed as dist  # pyright: ignore[reportMissingImports]

from ..refusals import NotSupported
from ..untraced import untraced

_is_compiling: Any = getattr(torch.compiler, "is_dynamo_compiling", None)
if _is_compiling is None:  # before 2.3
    _is_compiling = torch._utils.is_compiling  # pyright: ignore
_Wrapper = torch.nn.parallel.DistributedDataParallel


class _Gradients(Protocol):
    """What `passes.py` keeps of a layer."""

    wrapped: Wrapped | None

    def hold(self, pieces: Sequence[Any]) -> None: ...


class Wrapped:
    """A model in DistributedDataParallel.

    Attributes:
        layers: what each layer over a table in it has to push.
        expects: the next backward pass is one whose gradients the ranks average.
    """

    def __init__(self) -> None:
        self.layers: list[_Gradients] = []
        self.expects = False
        self._model: Any = None
        self._watches = False
        self._task: int | None = None

    def __reduce__(self) -> Any:
        # It hangs on the model as a hook; in a copy of the model, layers say where they are when they are called.
        return Wrapped, ()

    def add(self, gradients: _Gradients) -> None:
        """A layer is in the model."""
        if gradients.wrapped is not self:
            gradients.wrapped = self
            self.layers.append(gradients)

    @untraced
    def forwarded(self, model: Any, args: Any = None, output: Any = None) -> None:
        """The wrapper's forward pass; a hook on it."""
        del args, output
        if not torch.is_grad_enabled():
            return
        self._model, self.expects = weakref.ref(model), True
        if not self._watches and (model.find_unused_parameters or model.static_graph):
            self._watches = True
            for parameter in model.module.parameters():
                if parameter.requires_grad:
                    parameter.register_post_accumulate_grad_hook(self._come)

    @untraced
    def _come(self, parameter: Any) -> None:
        """In a backward pass: have every layer take part in it, once."""
        del parameter
        task = torch._C._current_graph_task_id()
        if self.expects and task != self._task:
            self._task = task
            for gradients in self.layers:
                gradients.hold([])

    def group(self) -> Any:
        """The process group whose gradients are averaged in this backward pass; None: nobody's, or one rank's."""
        model = self._model() if self.expects else None
        return None if model is None or dist.get_world_size(model.process_group) == 1 else model.process_group

    def passed(self) -> None:
        """A backward pass with layers of the model is over; the wrapper, too, has done what it does at the end."""
        model = self._model() if self.expects else None
        unfinished = getattr(model, "_check_reducer_finalized", lambda: None)
        try:
            unfinished()
        except RuntimeError:  # this pass had some of its parameters only: it awaits the others in another one
            return
        self.expects = False


_known: weakref.WeakKeyDictionary[Any, Wrapped] = weakref.WeakKeyDictionary()


def wrapped_here(gradients: _Gradients) -> Wrapped | None:
    """The wrapped model whose forward pass a layer is called in, or None.

    Raises:
        NotImplementedError: in `join()`, which has ranks without a batch do what the wrapper does, and no more.
    """
    model = _Wrapper._get_active_ddp_module() if dist.is_available() else None
    if model is None:
        return None
    joins = model._join_config
    if joins.enable and not joins.throw_on_early_termination:
        raise NotSupported(
            "a layer over a table in join() of DistributedDataParallel: ranks that have no batch left would not come "
            "to the push of the others; give each rank as many batches, or join(throw_on_early_termination=True)"
        )
    found = _wrapped_of(model)
    found.add(gradients)
    found.forwarded(model)  # not told by its hook, if it was found in this very pass
    return found


def _wrapped_of(model: Any) -> Wrapped:
    found = _known.get(model)
    if found is None:
        found = _known[model] = Wrapped()
        model.register_forward_hook(found.forwarded)
    return found


def _registered(module: Any, name: str, part: Any) -> None:
    """A module becomes a part of another: of a wrapper, perhaps."""
    # Asked first: compiled autograd traces a module of PyTorch's own coming to be, and cannot look into it.
    if _is_compiling():
        return
    if isinstance(module, _Wrapper) and name == "module":
        for layer in part.modules():
            gradients = getattr(layer, "gradients", None)
            if gradients is not None and hasattr(gradients, "meet_ranks"):
                _wrapped_of(module).add(gradients)


# A rank may never call a layer that others do: only where the wrapper is made, all ranks hear of all layers.
torch.nn.modules.module.register_module_module_registration_hook(_registered)
