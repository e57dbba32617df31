"""Rows split over servers by `mod`, in plain numpy: what a team would write around a framework's remote calls."""

import numpy as np

LR, FLOOR = 0.05, 1e-7


class Shard:
    """Rows and Adagrad slots of one server, [V, dim] float32 each."""

    def __init__(self, rows: int, dim: int) -> None:
        self._rows = np.ones((rows, dim), np.float32)
        self._sums = np.full((rows, dim), 0.1, np.float32)

    def pull(self, at: np.ndarray) -> np.ndarray:
        """Rows [N, dim] at [N] int64."""
        # clip: raise, the default, is slower.
        return self._rows.take(at, axis=0, mode="clip")

    def push(self, at: np.ndarray, grads: np.ndarray) -> None:
        """Apply gradients [N, dim] at [N] int64, all different."""
        sums = self._sums.take(at, axis=0, mode="clip")
        sums += grads * grads
        self._sums[at] = sums
        np.sqrt(sums, out=sums)
        sums += np.float32(FLOOR)
        self._rows[at] -= np.float32(LR) * grads / sums


def rows_of(shard: int, shards: int, rows: int) -> int:
    """How many of [0, rows) a shard has under `mod`."""
    return (rows - shard + shards - 1) // shards


class Split:
    """Distinct ids of a batch, by shard.

    Args:
        ids: [N] int64, may repeat.
        shards: S.

    Attributes:
        at: for each shard, places [M] int64 of its distinct rows in its table.
    """

    def __init__(self, ids: np.ndarray, shards: int) -> None:
        distinct, self._inverse = np.unique(ids, return_inverse=True)
        self._n = len(distinct)
        self._mine = [np.flatnonzero(distinct % shards == s) for s in range(shards)]
        self.at = [distinct[mine] // shards for mine in self._mine]

    def rows(self, parts: list[np.ndarray]) -> np.ndarray:
        """Rows [N, dim] in the order of the ids, from each shard's rows [M, dim]."""
        rows = np.empty((self._n, parts[0].shape[1]), np.float32)
        for mine, part in zip(self._mine, parts, strict=True):
            rows[mine] = part
        return rows.take(self._inverse, axis=0, mode="clip")

    def grads(self, grads: np.ndarray) -> list[np.ndarray]:
        """Each shard's gradients [M, dim], equal ids summed, from [N, dim]."""
        order = np.argsort(self._inverse, kind="stable")
        starts = np.searchsorted(self._inverse[order], np.arange(self._n))
        sums = np.add.reduceat(grads.take(order, axis=0, mode="clip"), starts, axis=0)
        return [sums[mine] for mine in self._mine]
