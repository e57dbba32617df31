"""The messages of `PullBags` to bytes and back, framed by hand as those in `codec` are."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from . import codec, framing
from . import rowloom_pb2 as pb
from .codec import FLOAT32, Buffer, PullReply

I32 = np.dtype("<i4")
_I64 = np.dtype("<i8")
_F32 = np.dtype("<f4")

# The reply is framed as a PullReply is: sums in place of rows.
PullBagsReply = PullReply


@dataclass
class Entries:
    """Ids of one table with the bag of each.

    Attributes:
        table: its number.
        ids: [N] int64.
        bags: [N] integers; int32 when decoded.
        factors: [N] float32, or None for all 1.
    """

    table: int
    ids: np.ndarray
    bags: np.ndarray
    factors: np.ndarray | None = None


@dataclass
class PullBags:
    """A PullBagsRequest."""

    header: pb.Header
    tables: list[Entries]
    wire: int = FLOAT32

    def encode(self) -> list[Buffer]:
        """As buffers."""
        out = framing.framed(1, [self.header.SerializeToString()])
        for table in self.tables:
            out += framing.framed(2, _encoded(table))
        return [*out, framing.scalar(3, self.wire)]

    @classmethod
    def decode(cls, data: bytes | memoryview) -> PullBags:
        """From bytes; arrays are views. Raises InvalidRequest."""
        header, wire = pb.Header(), FLOAT32
        tables: list[Entries] = []
        for number, value in framing.fields(memoryview(data)):
            if number == 1:
                header = codec.header_of(value)
            elif number == 2:
                if len(tables) == framing.MOST_TABLES:
                    raise framing.too_many_tables(framing.MOST_TABLES)
                tables.append(_decoded(framing.submessage(value)))
            elif number == 3:
                wire = codec.wire_of_field(value)
        return cls(header, tables, wire)


def _encoded(table: Entries) -> list[Buffer]:
    out = [framing.scalar(1, table.table), *framing.framed(2, [framing.raw(table.ids, _I64)])]
    out += framing.framed(3, [framing.raw(table.bags, I32)])
    if table.factors is not None:
        out += framing.framed(4, [framing.raw(table.factors, _F32)])
    return out


def _decoded(data: memoryview) -> Entries:
    table = Entries(0, np.empty(0, _I64), np.empty(0, I32))
    for number, item in framing.fields(data, framing.MOST_TABLE_FIELDS):
        if number == 1:
            table.table = codec.table_of_field(item)
        elif number == 2:
            table.ids = framing.array_of(item, _I64, "ids")
        elif number == 3:
            table.bags = framing.array_of(item, I32, "bags")
        elif number == 4:
            table.factors = framing.array_of(item, _F32, "factors")
    return table
