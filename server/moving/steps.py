"""The steps of tables whose rows come from several shards. Pure.

A step counts the pushes that a shard has seen, and shards may differ by the pushes that are under way, one a client. So
it is the size of the union: the step of any one source, plus the pushes that only others saw. A client makes one push
after the other; so who has seen its push 5 has seen, or will never see, what there was of push 4.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from ...proto import rowloom_pb2 as pb

# A client's latest push that counted a step: its number, and the tables, rising uint32.
Latest = tuple[int, bytes]
_NONE: Latest = (0, b"")
_U32 = np.dtype("<u4")


def latest_pushes(piece: pb.ReadLedgerReply) -> Iterator[tuple[int, Latest]]:
    """Client id -> its latest push, of a piece of a source's ledger."""
    for client in piece.clients:
        if client.push:
            yield client.client_id, (client.push, np.array(client.step_tables, _U32).tobytes())


def lacking(sources: Sequence[Mapping[int, Latest]]) -> list[Counter[int]]:
    """For each source: table number -> how many pushes under way only others have counted.

    Args:
        sources: for each, client id -> its latest push.
    """
    out: list[Counter[int]] = [Counter() for _ in sources]
    for client in set[int]().union(*sources):
        theirs = [source.get(client, _NONE) for source in sources]
        if theirs.count(theirs[0]) == len(theirs):
            continue
        seen = [(push, frozenset(np.frombuffer(tables, _U32).tolist())) for push, tables in theirs]
        latest: dict[int, int] = {}
        for push, tables in seen:
            latest.update((table, max(push, latest.get(table, 0))) for table in tables)
        for (push, tables), missed in zip(seen, out, strict=True):
            missed.update(
                t for t, last in latest.items() if push < last or (push == last and t not in tables)
            )
    return out
