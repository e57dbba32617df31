"""What a push carries for its ids: rows as they are, gradients still to be summed, gradients of bags. Pure."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np

from ...proto import codec


class Values(Protocol):
    """A row of float32 for each of M ids, made when and where it is sent."""

    def __len__(self) -> int:
        """M."""
        ...

    def __getitem__(self, some: Any) -> Values:
        """Those of some of the ids: a slice, or places [K]."""
        ...

    def array(self) -> np.ndarray:
        """[M, width] float32."""
        ...

    def write(self, buffer: np.ndarray, wire: int) -> None:
        """Fill a buffer of bytes with all of them, as `wire`; int8 has scales beside them and is not written so."""
        ...


class GivenRows:
    """Values that are there already: rows to assign; or nothing, [M, 0], for a renorm.

    rows: [M, width] float32.
    """

    def __init__(self, rows: np.ndarray) -> None:
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, some: Any) -> GivenRows:
        return GivenRows(self._rows[some])

    def array(self) -> np.ndarray:
        """As `Values.array`."""
        return self._rows

    def write(self, buffer: np.ndarray, wire: int) -> None:
        """As `Values.write`."""
        codec.write_rows(self._rows, wire, buffer)
