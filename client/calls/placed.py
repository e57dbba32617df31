"""What a layout says of one table, worked out once: alive as long as its layout."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ...proto.framing import framed, joined
from ...proto.layout import Layout
from ...proto.owners import owners_of
from ...proto.spec import TableEntry


@dataclass(frozen=True)
class Placed:
    """A table under a layout.

    Attributes:
        entry, layout: of whom this is.
        owners: as `proto.owners` has it.
        everywhere: whether a push visits shards that have none of its ids.
    """

    entry: TableEntry
    layout: Layout
    owners: np.ndarray
    everywhere: bool

    @classmethod
    def of(cls, entry: TableEntry, layout: Layout) -> Placed:
        """Work it out."""
        return cls(
            entry, layout, owners_of(layout.spec_of(entry), layout.n), entry.spec.optimizer.counts_steps
        )


def heads_of(layout: Layout, max_staleness_s: float | None = None) -> list[np.ndarray]:
    """For each shard the bytes of a PullRequest up to its first table. max_staleness_s: as of `Layout.header`."""
    # Not views of the bytes: compiled code takes longer to recognize arrays that are not to be written to.
    headers = [layout.header(shard, max_staleness_s).SerializeToString() for shard in range(layout.n)]
    return [copied(joined(framed(1, [header]))) for header in headers]


def copied(data: bytes) -> np.ndarray:
    """A copy of bytes as an array, [N] uint8."""
    return np.frombuffer(bytearray(data), np.uint8)
