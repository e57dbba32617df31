"""Modules whose rows are elsewhere: their anchor, when they push, and what a state dict has of them."""

# The framework's types are unknown where it is not installed, and mostly so where it is.
# pyright: reportUnknownParameterType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportUnknownLambdaType=false, reportUntypedBaseClass=false, reportUntypedFunctionDecorator=false
# pyright: reportUntypedClassDecorator=false, reportPrivateUsage=false

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch  # pyright: ignore[reportMissingImports]
from torch.fx import _symbolic_trace  # pyright: ignore[reportMissingImports]

from ...proto.errors import InvalidRequest
from ..inputs import LARGEST, largest
from ..refusals import NotSupported, WrongInput
from ..untraced import untraced
from .passes import Gradients, called_here

if TYPE_CHECKING:
    from ..table import Table

_STATE_BYTES = 1024
_NO_PROGRAM = (
    "a layer over a table cannot be traced, scripted or exported: the program would give the rows of the example for "
    "all other ids; look the rows up outside, and trace or export the dense part alone"
)
_is_exporting: Callable[[], bool] = getattr(torch.compiler, "is_exporting", lambda: False)  # of torch 2.7


class Anchored(torch.nn.Module):
    """What layers over tables share.

    Args:
        tables: where the rows are.
        grad_scale: what is pushed is multiplied by it.
    """

    def __init__(self, tables: Sequence[Table], grad_scale: float) -> None:
        super().__init__()
        self.gradients = Gradients(tables, float(grad_scale))
        # One axis, because FSDP cannot share out a parameter that has none.
        self.anchor = torch.nn.Parameter(torch.zeros(1), requires_grad=self._trainable)

    @property
    def _trainable(self) -> bool:
        return not all(table.spec.frozen for table in self.gradients.tables)

    def __setattr__(self, name: str, value: Any) -> None:
        """`fully_shard` sets the anchor to a part of it, and to all of it in a pass: the part says who else has one."""
        super().__setattr__(name, value)
        if name == "anchor" and hasattr(value, "device_mesh"):
            self.gradients.mesh = value.device_mesh

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """As the class says. `torch.compile` steps out of the compiled program here.

        Raises NotImplementedError where a program is traced, scripted or exported: of it the rows are no part.
        """
        if torch.jit.is_tracing() or _is_exporting():  # pyright: ignore[reportPrivateImportUsage]
            raise NotSupported(_NO_PROGRAM)
        return _call(self, *args, **kwargs)

    def __prepare_scriptable__(self) -> Any:
        """What `torch.jit.script` asks first, of each module in a model."""
        raise NotSupported(_NO_PROGRAM)

    def looked_up(self, *args: Any, **kwargs: Any) -> Any:
        """`forward`, seen by no compiler."""
        raise NotImplementedError

    def freeze(self, freeze: bool) -> Any:
        """Push nothing from now on, or push again. Returns the layer."""
        self.anchor.requires_grad_(self._trainable and not freeze)
        return self

    # ---------------------------------------------------------------------------------------------------- state dicts

    def get_extra_state(self) -> Any:
        """Where the table is, not its rows: a uint8 tensor of JSON, because safetensors keeps tensors only.

        With it the last snapshot that has its rows, if the client took or loaded one.
        """
        client = getattr(self.gradients.tables[0], "client", None)
        found = {
            "address": getattr(client, "address", None),
            "snapshot": getattr(client, "last_snapshot", None),
        }
        state = self._described() | {k: v for k, v in found.items() if v}
        # Of the same size wherever the cluster is, bound or not: distributed checkpoints are read into what is there.
        size = len(json.dumps(state)) + sum(len(table.name) + 80 for table in self.gradients.tables)
        if (rates := self.gradients.begun_rates) is not None:
            state["rates"] = rates
        text = json.dumps(state).encode().ljust(-(-size // _STATE_BYTES) * _STATE_BYTES)
        return torch.from_numpy(np.frombuffer(text, np.uint8).copy())

    def _described(self) -> dict[str, Any]:
        """What of a state must be the same where it is loaded."""
        raise NotImplementedError

    def set_extra_state(self, state: Any) -> None:
        """Checks that the table is the one that the state names; its cluster may have moved. Raises InvalidRequest."""
        there, mine = _read_state(state), self._described()
        wrong = [f"{k}: {there.get(k)!r} there, {v!r} here" for k, v in mine.items() if there.get(k) != v]
        if wrong:
            raise InvalidRequest(f"the state is of a layer over another table ({'; '.join(wrong)})")
        if (rates := there.get("rates")) is not None:
            if not _are_rates(rates, [table.name for table in self.gradients.tables]):
                raise InvalidRequest(f"the state of a layer over a table has rates {rates!r}: it is damaged")
            self.gradients.go_on(rates)

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        del destination[prefix + "anchor"]

    def _load_from_state_dict(
        self,
        state_dict: Any,
        prefix: str,
        local_metadata: Any,
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        rows = [key for key in state_dict if key.startswith(prefix) and key.endswith("weight")]
        if rows:
            names = ", ".join(repr(table.name) for table in self.gradients.tables)
            error_msgs.append(
                f"{rows[0]}: rows are not loaded from a state dict; import them into table {names}, or make the "
                "layer with from_pretrained"
            )
            return
        lists = (missing_keys, unexpected_keys, error_msgs)
        super()._load_from_state_dict(state_dict, prefix, local_metadata, strict, *lists)
        missing_keys[:] = [key for key in missing_keys if key != prefix + "anchor"]


def as_tensor(rows: np.ndarray, anchor: Any) -> Any:
    """Rows on a layer's device, float32, or float64 for one of doubles. rows: float32; anchor: the layer's."""
    tensor = torch.from_numpy(np.ascontiguousarray(rows))
    device, dtype = anchor.device, anchor.dtype
    if device.type == "cpu" and dtype != torch.float64:  # to ask torch costs as much as the rows
        return tensor
    return tensor.to(device, torch.float64 if dtype == torch.float64 else torch.float32)


def as_numpy(upstream: Any) -> np.ndarray:
    """What a backward pass brings, float32; the very memory, where it can be."""
    return (upstream if upstream.dtype == torch.float32 else upstream.to(torch.float32)).numpy(force=True)


def own_ids(ids: Any) -> np.ndarray:
    """A copy of ids, int64, of their shape: the caller may fill the tensor with the next batch before backward.

    Raises RuntimeError for tensors without numbers.
    """
    try:
        # Without `force`, which detaches: to a transform of torch.func that is an operation on what it follows.
        plain = ids.numpy() if ids.device.type == "cpu" else ids.numpy(force=True)
    except (RuntimeError, NotImplementedError, TypeError) as e:
        raise WrongInput(
            f"ids must be numbers that a layer over a table can send, got {type(ids).__name__} on {ids.device}: "
            "nothing inside of a transform of torch.func (look rows up outside), on a meta device or nested (of a "
            f"jagged batch, give an EmbeddingBag the values and offsets): {e}"
        ) from e
    return np.array(plain, np.int64, order="C")


def once_differentiable(backward: Callable[..., Any]) -> Callable[..., Any]:
    """As torch's own, which takes 3 us at each node of a graph: only where gradients of gradients may be asked for."""
    careful = torch.autograd.function.once_differentiable(backward)

    @untraced
    @functools.wraps(backward)
    def either(ctx: Any, *upstreams: Any) -> Any:
        return careful(ctx, *upstreams) if torch.is_grad_enabled() else backward(ctx, *upstreams)

    return either


def described(table: Table) -> dict[str, Any]:
    """What says that it is the same table."""
    spec = table.spec
    return {"table": spec.name, "num_embeddings": spec.num_embeddings, "row_shape": list(spec.row_shape)}


def anchor_gradient(like: tuple[Any, Any, Any], upstreams: Iterable[np.ndarray]) -> Any:
    """0; or NaN, if a gradient is not finite: it must show where GradScaler and clip_grad_norm_ look.

    Args:
        like: shape, device and type.
        upstreams: float32.
    """
    shape, device, dtype = like
    finite = all(largest(np.ascontiguousarray(one)) <= LARGEST for one in upstreams)
    return torch.full(shape, 0.0 if finite else float("nan"), device=device, dtype=dtype)


def _read_state(state: Any) -> dict[str, Any]:
    """What `get_extra_state` gave, or a dict. Raises InvalidRequest."""
    if isinstance(state, torch.Tensor) and state.dtype == torch.uint8:
        try:
            state = json.loads(state.cpu().numpy().tobytes())
        except (ValueError, RecursionError) as e:
            raise InvalidRequest(f"the state of a layer over a table is damaged: {e}") from e
    if not isinstance(state, dict):
        raise InvalidRequest(
            f"the state of a layer over a table must be what state_dict() gave, got {state!r}"
        )
    return state


def _are_rates(value: Any, names: Sequence[str]) -> bool:
    """Whether it is what `FollowedRate.begun` gave, of these tables."""
    return (
        isinstance(value, dict)
        and set(value) == set(names)
        and all(isinstance(pair, list) and len(pair) == 2 for pair in value.values())
        and all(isinstance(rate, int | float) and rate > 0 for pair in value.values() for rate in pair)
    )


@untraced
def _call(layer: Any, *args: Any, **kwargs: Any) -> Any:
    if _symbolic_trace._is_fx_tracing_flag:  # `make_fx` too; the function that says so warns
        raise NotSupported(_NO_PROGRAM)
    layer.gradients.meet_ranks(layer.anchor)
    called_here()
    return layer.looked_up(*args, **kwargs)
