"""The rows of a table as Keras meets them among the weights of a layer: to be got and set, or refused."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from ...proto.errors import InvalidRequest

if TYPE_CHECKING:
    from ...proto.spec import TableSpec
    from ..table import Table

MOST_BYTES = 256 << 20  # of rows that may be weights: `get_weights` holds them all
_BLOCK_VALUES = 1 << 20  # in one pull or assign


def fits(spec: TableSpec) -> bool:
    """Whether all rows of such a table may be held in this process."""
    return spec.num_embeddings is not None and 4 * spec.num_embeddings * spec.width <= MOST_BYTES


class RowsWeight:
    """All rows of a table, in the list of a layer's weights. No variable: the optimizer and programs never see it.

    Args:
        table: whose.
        layer: the layer's name.
        whole: rows are got and set; else both are refused, because the weights beside them would be half a model.
    """

    trainable, name, dtype = False, "rows", "float32"

    def __init__(self, table: Table, layer: str, whole: bool) -> None:
        spec = table.spec
        if whole and not fits(spec):
            size = (
                "open-ended" if spec.num_embeddings is None else f"{spec.num_embeddings} x {spec.row_shape}"
            )
            raise InvalidRequest(
                f"layer {layer!r}: table {table.name!r} is {size}, and rows_in_weights takes at most {MOST_BYTES} "
                "bytes: leave it out, and use save_checkpoint"
            )
        self._table, self._layer, self._whole = table, layer, whole
        self.path = f"{layer}/{table.name}/rows"
        self.shape = ((spec.num_embeddings or 0) if whole else 0, *spec.row_shape)

    def numpy(self) -> np.ndarray:
        """[V, *row_shape] float32. Raises InvalidRequest, or as `Table.pull`."""
        if not self._whole:
            raise self._refusal()
        if not self.shape[0]:
            return np.zeros(self.shape, np.float32)
        return np.concatenate([self._table.pull(ids) for ids in self._blocks()])

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """As TensorBoard and .h5 files read weights: none where they are refused."""
        del copy
        rows = self.numpy() if self._whole else np.zeros(self.shape, np.float32)
        return rows if dtype is None else rows.astype(dtype)

    def assign(self, value: Any) -> None:
        """Rows that differ are assigned; slots stay. Raises InvalidRequest, or as `Table.assign`."""
        if not self._whole:
            raise self._refusal()
        rows = np.ascontiguousarray(value, np.float32)
        if rows.shape != self.shape:
            raise InvalidRequest(
                f"layer {self._layer!r}: rows of {rows.shape} for table {self._table.name!r} of {self.shape}"
            )
        for ids in self._blocks():
            wanted, there = rows[ids], np.ascontiguousarray(self._table.pull(ids), np.float32)
            differ = (wanted.view(np.uint32) != there.view(np.uint32)).reshape(len(ids), -1).any(axis=1)
            if differ.any():
                self._table.assign(ids[differ], wanted[differ])

    def _blocks(self) -> Iterator[np.ndarray]:
        """All ids, some at a time."""
        step = max(1, _BLOCK_VALUES // max(1, self._table.spec.width))
        for begin in range(0, self.shape[0], step):
            yield np.arange(begin, min(begin + step, self.shape[0]))

    def _refusal(self) -> InvalidRequest:
        return InvalidRequest(
            f"layer {self._layer!r}: the rows of table {self._table.name!r} are not among the weights, so weights that "
            "are put back later (EarlyStopping does it) would meet rows of another moment, half a model: give the "
            "layer rows_in_weights=True if the table is small, or keep checkpoints with save_checkpoint. For the other "
            "weights alone: `with tables_of(client, as_they_are=True)`"
        )
