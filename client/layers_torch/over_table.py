"""What the PyTorch layers share: a table in place of the weight."""

# The framework's types are unknown where it is not installed, and mostly so where it is.
# pyright: reportUnknownParameterType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportUnknownLambdaType=false, reportUntypedBaseClass=false, reportUntypedFunctionDecorator=false
# pyright: reportUntypedClassDecorator=false, reportPrivateUsage=false

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch  # pyright: ignore[reportMissingImports]

from ...proto.errors import InvalidRequest
from ..calls.routing import distinct_of
from ..refusals import WrongAssertion, WrongType
from .passes import Gradients, trains

if TYPE_CHECKING:
    from ..table import Table


class _Batch(NamedTuple):
    """What a backward pass must know of the forward one.

    Attributes:
        ids: [U] int64, distinct.
        padding: which of them is padding, or None.
        counts: [U], how often each was there, if that matters.
        argmax_only: leave rows of zeros out.
    """

    ids: np.ndarray
    padding: int | None
    counts: np.ndarray | None
    argmax_only: bool


class OverTable(torch.nn.Module):
    """What both layers share: a table in place of the weight."""

    # Set when the first layer is made: PyTorch's compiler takes seconds to import.
    _untraced: Callable[..., Any] | None = None
    _out_of_range: type[InvalidRequest]

    def __init__(
        self,
        table: Table,
        padding_idx: int | None,
        max_norm: float | None,
        norm_type: float,
        grad_scale: float,
    ) -> None:
        super().__init__()
        if not hasattr(table, "spec"):
            raise WrongType(
                f"table must be a Table, as client.table(name) gives it, got {table!r}; "
                f"{type(self).__name__}.create makes one"
            )
        if max_norm is not None and not max_norm > 0:
            raise InvalidRequest(f"max_norm must be above 0, got {max_norm}")
        self.num_embeddings = table.spec.num_embeddings
        self.embedding_dim = table.spec.dim
        self.padding_idx = from_start(padding_idx, self.num_embeddings)
        self.max_norm, self.norm_type = max_norm, norm_type
        self.gradients = Gradients(table, float(grad_scale))
        self.anchor = torch.nn.Parameter(torch.zeros(()), requires_grad=not table.spec.frozen)
        _find_compiler()

    @property
    def table(self) -> Table:
        """Where the rows are."""
        return self.gradients.table

    def __getattr__(self, name: str) -> Any:
        if name == "weight":
            raise AttributeError(f"the rows are in {self.table!r}: layer.table.pull(ids) reads them")
        return super().__getattr__(name)

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        _find_compiler()

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """As the class says. `torch.compile` steps out of the compiled program here."""
        assert OverTable._untraced is not None
        return OverTable._untraced(self, *args, **kwargs)

    def looked_up(self, *args: Any, **kwargs: Any) -> Any:
        """`forward`, seen by no compiler."""
        raise NotImplementedError

    def freeze(self, freeze: bool) -> Any:
        """Push nothing from now on, or push again. Returns the layer."""
        self.anchor.requires_grad_(not (freeze or self.table.spec.frozen))
        return self

    # ----------------------------------------------------------------------------------------------------------- rows

    def rows(
        self, ids: Any, *, by_frequency: bool = False, argmax_only: bool = False
    ) -> tuple[Any, Any, int | None]:
        """The rows of a batch of ids, each once.

        Args:
            ids: integers of any shape.
            by_frequency: a row's gradient is divided by how often its id is there.
            argmax_only: rows whose gradient is zeros are not pushed.

        Returns:
            (which row each id has, of the ids' shape; [U, width] rows; which of them is padding, or None).
        """
        flat = ids.detach().to("cpu", torch.int64).reshape(-1).numpy()
        self._check_range(flat)
        distinct, inverse = distinct_of(flat)
        if self.max_norm is not None and len(distinct):
            self.table.renorm(distinct, self.max_norm, self.norm_type)
        found = np.flatnonzero(distinct == self.padding_idx) if self.padding_idx is not None else []
        place = int(found[0]) if len(found) else None
        if torch.is_grad_enabled() and self.anchor.requires_grad:
            counts = np.bincount(inverse, minlength=len(distinct)) if by_frequency else None
            rows = _Pulled.apply(self.anchor, self, _Batch(distinct, place, counts, argmax_only))
        else:
            rows = self._pull(distinct)
        return torch.from_numpy(inverse).to(rows.device).reshape(ids.shape), rows, place

    def _pull(self, distinct: np.ndarray) -> Any:
        """[U, width] on the anchor's device, float32, or float64 for a layer of doubles."""
        width = self.table.spec.width
        pulled = self.table.pull(distinct) if len(distinct) else np.zeros((0, width), np.float32)
        dtype = torch.float64 if self.anchor.dtype == torch.float64 else torch.float32
        return torch.from_numpy(np.ascontiguousarray(pulled).reshape(-1, width)).to(self.anchor.device, dtype)

    def _hold(self, batch: _Batch, upstream: Any) -> None:
        """Keep the gradients of a backward pass. Padding has none, not even one of zeros."""
        grads = upstream.detach().to("cpu", torch.float32).numpy()
        if batch.counts is not None:
            grads = grads / batch.counts.astype(np.float32)[:, None]
        keep = grads.any(axis=1) if batch.argmax_only else np.ones(len(batch.ids), bool)
        if batch.padding is not None:
            keep[batch.padding] = False
        self.gradients.hold(batch.ids[keep], grads[keep], anew=self.anchor.grad is None)

    def _check_range(self, flat: np.ndarray) -> None:
        limit = self.table.spec.id_limit
        if len(flat) and (flat.min() < 0 or flat.max() >= limit):
            bad = flat[(flat < 0) | (flat >= limit)][0]
            raise self._out_of_range(
                f"input: expected 0 <= id < num_embeddings = {limit} (table {self.table.name!r}), got {bad}"
            )

    # ---------------------------------------------------------------------------------------------------- state dicts

    def get_extra_state(self) -> dict[str, Any]:
        """Where the table is, not its rows."""
        address = getattr(getattr(self.table, "client", None), "address", None)
        return self._described() | ({"address": address} if address else {})

    def _described(self) -> dict[str, Any]:
        spec = self.table.spec
        return {
            "table": spec.name,
            "num_embeddings": spec.num_embeddings,
            "row_shape": list(spec.row_shape),
        }

    def set_extra_state(self, state: Any) -> None:
        """Checks that the table is the one that the state names; its cluster may have moved. Raises InvalidRequest."""
        mine = self._described()
        wrong = [f"{k}: {state.get(k)!r} there, {v!r} here" for k, v in mine.items() if state.get(k) != v]
        if wrong:
            raise InvalidRequest(f"the state is of a layer over another table ({'; '.join(wrong)})")

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
        if prefix + "weight" in state_dict:
            error_msgs.append(
                f"{prefix}weight: rows are not loaded from a state dict; import them into table "
                f"{self.table.name!r}, or make the layer with from_pretrained"
            )
            return
        lists = (missing_keys, unexpected_keys, error_msgs)
        super()._load_from_state_dict(state_dict, prefix, local_metadata, strict, *lists)
        missing_keys[:] = [key for key in missing_keys if key != prefix + "anchor"]


class _Pulled(torch.autograd.Function):
    """Distinct rows whose gradient goes to the table; the anchor makes the engine come by."""

    @staticmethod
    def forward(ctx: Any, anchor: Any, layer: Any, batch: _Batch) -> Any:
        ctx.held = (layer, batch)
        ctx.anchor = (anchor.device, anchor.dtype)
        return layer._pull(batch.ids)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *upstreams: Any) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        (upstream,) = upstreams
        layer, batch = ctx.held
        if trains(ctx):
            layer._hold(batch, upstream)
        device, dtype = ctx.anchor
        # What is not finite must show where GradScaler and clip_grad_norm_(error_if_nonfinite=True) look.
        value = 0.0 if bool(torch.isfinite(upstream).all()) else float("nan")
        return torch.full((), value, device=device, dtype=dtype), None, None


def _find_compiler() -> None:
    if OverTable._untraced is None:
        OverTable._untraced = staticmethod(torch.compiler.disable(_call))


def _call(layer: Any, *args: Any, **kwargs: Any) -> Any:
    return layer.looked_up(*args, **kwargs)


def check_tensor(value: Any, what: str) -> None:
    """Raises InvalidRequest, also a TypeError, if it is no tensor."""
    if not isinstance(value, torch.Tensor):
        raise WrongType(f"{what} must be a tensor, got {type(value).__name__}")


def from_start(padding_idx: int | None, num_embeddings: int | None) -> int | None:
    """padding_idx counted from the start. Raises AssertionError."""
    if padding_idx is None:
        return None
    limit = 2**63 if num_embeddings is None else num_embeddings
    if (num_embeddings is None and padding_idx < 0) or not -limit <= padding_idx < max(limit, 1):
        raise WrongAssertion(
            f"padding_idx must be within num_embeddings = {num_embeddings}, got {padding_idx}"
        )
    return padding_idx + limit if padding_idx < 0 else padding_idx
