"""Gradients of the same id summed, where they are sent from and when they are sent: shards begin meanwhile. Pure."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ...proto import codec
from ...proto.cpu_prefetch import AHEAD, fetch
from ...proto.jit import kernel
from ..cores import SMALL_BYTES, in_pieces
from .routing import Route, places

_F32 = np.dtype("<f4")


@dataclass(eq=False)
class Sums:
    """The summed gradients of M of a batch's U distinct ids: in the batch's order, in float32.

    grads: [N, width] float32; must stay as they are until the push has ended.
    order, begins: as `Route.groups`.
    places: [M] int64, which of the U.
    """

    grads: np.ndarray
    order: np.ndarray
    begins: np.ndarray
    places: np.ndarray

    @classmethod
    def of(cls, grads: np.ndarray, route: Route) -> Sums:
        """All of a batch's."""
        return cls(grads, *route.groups, places(len(route.ids)))

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, some: np.ndarray | slice) -> Sums:
        """Those of some of the ids."""
        return Sums(self.grads, self.order, self.begins, self.places[some])

    @property
    def most(self) -> int:
        """How many gradients the largest group has."""
        return int(np.diff(self.begins).max(initial=0))

    def array(self) -> np.ndarray:
        """[M, width] float32."""
        out = np.empty((len(self), self.grads.shape[1]), np.float32)
        self._fill(out)
        return out

    def write(self, buffer: np.ndarray, wire: int) -> None:
        """As `Values.write`."""
        if wire == codec.FLOAT32:
            self._fill(buffer.view(_F32).reshape(len(self), self.grads.shape[1]))
        else:
            codec.write_rows(self.array(), wire, buffer)

    def _fill(self, out: np.ndarray) -> None:
        if out.nbytes < SMALL_BYTES:
            _sum_into(self.grads, self.order, self.begins, self.places, out)
            return

        def piece(begin: int, end: int) -> None:
            _sum_into(self.grads, self.order, self.begins, self.places[begin:end], out[begin:end])

        in_pieces(piece, len(self), out.nbytes)


def latest(rows: np.ndarray, order: np.ndarray, begins: np.ndarray) -> np.ndarray:
    """One row for each distinct id, [U, width] float32 by place: the last in the batch. Arguments as in Sums."""
    return rows[order[begins[1:] - 1]]


@kernel
def _sum_into(grads: np.ndarray, order: np.ndarray, begins: np.ndarray, places: np.ndarray, out: np.ndarray):
    width = grads.shape[1]
    for i in range(len(places)):
        first, end = begins[places[i]], begins[places[i] + 1]
        for x in range(first, end):
            # The next groups are mostly the next places, so this is right for all but the last of them.
            if x + AHEAD < len(order):
                fetch(grads, order[x + AHEAD])
            k = order[x]
            if x == first:
                for j in range(width):
                    out[i, j] = grads[k, j]
            else:
                for j in range(width):
                    out[i, j] += grads[k, j]
