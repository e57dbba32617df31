"""Rows that a lookup reads: one table or array, or several that partition one, as TensorFlow's `params` do."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...proto.errors import InvalidRequest
from ...proto.partition import local_of, shard_of
from ..inputs import as_array
from ..refusals import WrongType


class Sharded:
    """Tables, arrays or both, read as one. Ids of shard p are called `local` there, as the strategy says.

    Args:
        params: a table or an array, or a list of such: their rows have the same shape and type.
        strategy: "mod" or "div"; of no matter for a single one.

    Attributes:
        shards: the tables and arrays.
        row_shape: of one row.
        dtype: of the rows; tables have float32.

    Raises:
        InvalidRequest: no params, an unknown strategy, rows that differ in shape; also a TypeError if they differ in
            type or hold no numbers.
    """

    def __init__(self, params: Any, strategy: str = "mod") -> None:
        if params is None or (isinstance(params, list | tuple) and not params):
            raise InvalidRequest(
                f"params must be a table, an array or a list of at least one, got {params!r}"
            )
        given = list(params) if isinstance(params, list | tuple) else [params]  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]
        self.shards: list[Any] = [p if is_table(p) else as_array(p, "params") for p in given]  # pyright: ignore[reportUnknownVariableType]
        if len(self.shards) > 1 and strategy not in ("mod", "div"):
            raise InvalidRequest(f'partition_strategy must be "mod" or "div", got {strategy!r}')
        self._strategy: Any = strategy
        self.row_shape, self.dtype = self._common()
        self._sizes = [p.spec.num_embeddings if is_table(p) else len(p) for p in self.shards]
        self._total = None if None in self._sizes else sum(s for s in self._sizes if s is not None)
        if len(self.shards) > 1 and strategy == "div" and self._total is None:
            raise InvalidRequest('partition_strategy must be "mod" for tables of open-ended ids, got "div"')

    def _common(self) -> tuple[tuple[int, ...], np.dtype]:
        shapes: list[tuple[int, ...]] = []
        dtypes: list[np.dtype] = []
        for p in self.shards:
            if not is_table(p) and p.ndim == 0:
                raise InvalidRequest(f"params must have at least one axis, got the number {p}")
            shapes.append(p.spec.row_shape if is_table(p) else p.shape[1:])
            dtypes.append(np.dtype(np.float32) if is_table(p) else p.dtype)
        if len(set(shapes)) > 1:
            raise InvalidRequest(f"params must have rows of one shape, got {shapes}")
        if len(set(dtypes)) > 1:
            raise WrongType(f"params must have one type, got {[str(d) for d in dtypes]}")
        if dtypes[0].kind not in "fiu" and dtypes[0].name != "bfloat16":
            raise WrongType(f"params must be numbers, got {dtypes[0]}")
        return shapes[0], dtypes[0]

    def gather(self, ids: np.ndarray) -> np.ndarray:
        """Rows of ids. ids: [U] int64. Returns [U] + row_shape. Raises InvalidRequest for an id without a row."""
        parts = self._split(ids)
        if len(self.shards) == 1:
            return self._read(0, ids)
        out = np.empty((len(ids), *self.row_shape), self.dtype)
        for p, (chosen, local) in enumerate(parts):
            if len(chosen):
                out[chosen] = self._read(p, local)
        return out

    def split(self, ids: np.ndarray, grads: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
        """Rows or gradients by shard: (local ids, values) of each. ids: [U] int64, values: [U] + row_shape."""
        return [(local, grads[chosen]) for chosen, local in self._split(ids)]

    def _read(self, shard: int, local: np.ndarray) -> np.ndarray:
        source = self.shards[shard]
        return source.pull(local) if is_table(source) else np.take(source, local, axis=0)

    def _split(self, ids: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
        """(places in ids, local ids) of each shard."""
        n = len(self.shards)
        self._check(ids, self._total)
        if n == 1:
            return [(np.arange(len(ids)), ids)]
        owners = shard_of(ids, n, self._strategy, self._total)
        locals_ = local_of(ids, n, self._strategy, self._total)
        parts: list[tuple[np.ndarray, np.ndarray]] = []
        for p, size in enumerate(self._sizes):
            chosen = np.flatnonzero(owners == p)
            if size is not None and (locals_[chosen] >= size).any():
                k = int(chosen[(locals_[chosen] >= size).argmax()])
                raise InvalidRequest(
                    f"ids[{k}] is {ids[k]}: row {locals_[k]} of params[{p}], which has {size} rows; "
                    f"the sizes do not fit partition_strategy {self._strategy!r}"
                )
            parts.append((chosen, locals_[chosen]))
        return parts

    def _check(self, ids: np.ndarray, limit: int | None) -> None:
        bad = (ids < 0) if limit is None else (ids < 0) | (ids >= limit)
        if bad.any():
            end = "2**63" if limit is None else limit
            k = int(bad.argmax())
            raise InvalidRequest(f"ids must be in [0, {end}), ids[{k}] is {ids[k]}")


def is_table(params: Any) -> bool:
    """Whether it is a table of a cluster, or behaves as one."""
    return hasattr(params, "pull") and hasattr(params, "spec")
