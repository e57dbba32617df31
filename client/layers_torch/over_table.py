"""What the PyTorch layers over one table share: a table in place of the weight."""

# The framework's types are unknown where it is not installed, and mostly so where it is.
# pyright: reportUnknownParameterType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportUnknownLambdaType=false, reportUntypedBaseClass=false, reportUntypedFunctionDecorator=false
# pyright: reportUntypedClassDecorator=false, reportPrivateUsage=false

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch  # pyright: ignore[reportMissingImports]

from ...proto.errors import InvalidRequest
from ..calls.routing import distinct_of
from ..layers.configs import from_start
from ..refusals import WrongType
from .anchored import Anchored, anchor_gradient, as_numpy, as_tensor, described, once_differentiable, own_ids
from .passes import trains
from .prefetched import ahead_of, forget, row_of_each_ahead

if TYPE_CHECKING:
    from ..table import Table


class _Batch(NamedTuple):
    """What a backward pass must know of the forward one.

    Attributes:
        ids: [N] int64, of the rows that it has.
        shape: of the result.
        counts: [N], how often each id was there, if that matters.
        argmax_only: leave rows of zeros out.
    """

    ids: np.ndarray
    shape: tuple[int, ...]
    counts: np.ndarray | None = None
    argmax_only: bool = False


class OverTable(Anchored):
    """What both layers share: a table in place of the weight."""

    _out_of_range: type[InvalidRequest]

    def __init__(
        self,
        table: Table,
        padding_idx: int | None,
        max_norm: float | None,
        norm_type: float,
        grad_scale: float,
    ) -> None:
        if not hasattr(table, "spec"):
            raise WrongType(
                f"table must be a Table, as client.table(name) gives it, got {table!r}; "
                f"{type(self).__name__}.create makes one"
            )
        if max_norm is not None and not max_norm > 0:
            raise InvalidRequest(f"max_norm must be above 0, got {max_norm}")
        super().__init__([table], grad_scale)
        spec = table.spec  # not asked again at each step: what is taken of it never changes
        self.num_embeddings, self.embedding_dim = spec.num_embeddings, spec.dim
        self.row_shape, self._width = spec.row_shape, spec.width
        self.padding_idx = from_start(padding_idx, self.num_embeddings)
        self.max_norm, self.norm_type = max_norm, norm_type

    @property
    def table(self) -> Table:
        """Where the rows are."""
        return self.gradients.tables[0]

    def __getattr__(self, name: str) -> Any:
        if name == "weight":
            raise AttributeError(f"the rows are in {self.table!r}: layer.table.pull(ids) reads them")
        return super().__getattr__(name)

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
        flat = own_ids(ids).reshape(-1)
        distinct, inverse, pulled = self._ahead(flat)
        if self.max_norm is not None and len(distinct):
            self.table.renorm(distinct, self.max_norm, self.norm_type)
            forget([self.table])
        counts = np.bincount(inverse, minlength=len(distinct)) if by_frequency else None
        batch = _Batch(distinct, (len(distinct), self._width), counts, argmax_only)
        rows = self._rows_of(batch, self.anchor, pulled)
        return torch.from_numpy(inverse).to(rows.device).reshape(ids.shape), rows, self._place(distinct)

    def row_of_each(self, ids: Any, anchor: Any) -> Any:
        """A row for each id, ids.shape + row_shape: on a CPU cheaper than distinct ones that torch gathers.

        Args:
            ids: integers of any shape.
            anchor: the layer's; looking it up in a module costs as much as finding the rows.
        """
        flat = own_ids(ids).reshape(-1)
        pulled = row_of_each_ahead(self.table, flat)
        if pulled is None:  # else they are in range: they were pulled
            self._check_range(flat)
        # In their shape already: views that PyTorch keeps track of cost as much as the rows themselves.
        return self._rows_of(_Batch(flat, (*ids.shape, *self.row_shape)), anchor, pulled)

    def _rows_of(self, batch: _Batch, anchor: Any, pulled: np.ndarray | None) -> Any:
        """The batch's rows on the anchor's device, in the shape of the batch; their gradients are pushed.

        Args:
            batch: what to pull.
            anchor: the layer's.
            pulled: [N] + row_shape, if that is done.
        """
        if pulled is None:
            pulled = self.table.pull(batch.ids) if len(batch.ids) else np.zeros(0, np.float32)
        rows = pulled.reshape(batch.shape)
        if torch.is_grad_enabled() and anchor.requires_grad:
            return _Pulled.apply(anchor, self, batch, rows)
        return as_tensor(rows, anchor)

    def _place(self, distinct: np.ndarray) -> int | None:
        """Where padding stands, or None."""
        found = np.flatnonzero(distinct == self.padding_idx) if self.padding_idx is not None else []
        return int(found[0]) if len(found) else None

    def _ahead(self, flat: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        """Ids each once, where each stands, and their rows if they were pulled ahead. Raises if one is out of range."""
        # What renorms changes the table first.
        ahead = ahead_of(self.table) if self.max_norm is None else None
        found = (*distinct_of(flat), None) if ahead is None else ahead.of(flat)
        if found[2] is None:  # else they are in range: they were pulled
            self._check_range(flat)
        return found

    def _counted(self, batch: _Batch, grads: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """What is to be pushed: ids and rows of a backward pass's gradients, [N, width] float32.

        Padding has none, not even one of zeros; and nobody is told that it is not finite.
        """
        ids = batch.ids
        if batch.counts is not None:
            grads = grads / batch.counts.astype(np.float32)[:, None]
        keep: np.ndarray | None = np.asarray(grads.any(axis=1)) if batch.argmax_only else None
        if self.padding_idx is not None:
            there = ids != self.padding_idx
            keep = there if keep is None else keep & there
        # Copied: PyTorch may make the very memory the gradient of a parameter, which the next pass adds to.
        ids, rows = (ids, np.array(grads, order="C")) if keep is None else (ids[keep], grads[keep])
        return ids, rows

    def _described(self) -> dict[str, Any]:
        return described(self.table)

    def _check_range(self, flat: np.ndarray) -> None:
        limit = self.table.spec.id_limit
        if len(flat) and (flat.min() < 0 or flat.max() >= limit):
            bad = flat[(flat < 0) | (flat >= limit)][0]
            raise self._out_of_range(
                f"input: expected 0 <= id < num_embeddings = {limit} (table {self.table.name!r}), got {bad}"
            )


class _Pulled(torch.autograd.Function):
    """Rows whose gradient goes to the table; the anchor makes the engine come by."""

    @staticmethod
    def forward(ctx: Any, anchor: Any, layer: Any, batch: _Batch, rows: np.ndarray) -> Any:
        ctx.held = (layer, batch)
        ctx.anchor = (anchor.shape, anchor.device, anchor.dtype)
        return as_tensor(rows, anchor)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *upstreams: Any) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        layer, batch = ctx.held
        ids, rows = layer._counted(batch, as_numpy(upstreams[0]).reshape(-1, layer._width))
        if trains(ctx):
            layer.gradients.hold([(0, ids, rows)])
        return anchor_gradient(ctx.anchor, [rows]), None, None, None
