"""How much goes into one request: the tables of a call, cut by shard. Pure."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from ...proto.framing import MOST_TABLES

ID_BYTES = 8


@dataclass(frozen=True)
class RequestSizes:
    """Bytes of ids and rows in one request, and in its reply.

    Attributes:
        whole: of a shard's only request: what is no more than this is not cut.
        piece: of one of several, which follow each other closely: a shard works on one while the next one travels.
    """

    whole: int = 4 << 20
    piece: int = 4 << 20


Run = tuple[int, int, int]  # (number of a table in its call, begin, end): these of its ids


# A table of a call, as far as cutting is concerned: the n + 1 edges of the shards' ids; bytes of one row as it lies in
# memory; whether shards that own none of the ids have to hear of it.
Routed = tuple[Sequence[int], int, bool]


def cut(tables: Sequence[Routed], n: int, sizes: RequestSizes) -> list[tuple[int, list[Run]]]:
    """(shard, what goes to it) for each request of a call to n shards; in each, a table stands once at the most.

    Shards take turns, so that all of them start at once.
    """
    requests: list[tuple[int, list[Run]]] = []
    more: list[list[tuple[int, list[Run]]]] = []  # what does not fit into a shard's first request
    for shard in range(n):
        runs: list[Run] = []
        size = 0
        for k, (edges, row_bytes, everywhere) in enumerate(tables):
            begin, end = edges[shard], edges[shard + 1]
            if begin < end or everywhere:
                runs.append((k, begin, end))
                size += (end - begin) * (row_bytes + ID_BYTES)
        if not runs:
            continue
        if size > sizes.whole or len(runs) > MOST_TABLES:
            runs, *others = _pieces(runs, tables, sizes.piece)
            more.append([(shard, group) for group in others])
        requests.append((shard, runs))
    if more:
        turns = itertools.zip_longest(*more)
        requests += [found for turn in turns for found in turn if found is not None]
    return requests


def _pieces(runs: list[Run], tables: Sequence[Routed], most: int) -> list[list[Run]]:
    """Runs in groups of at most so many bytes, and as many tables as a shard takes; of a row that is larger, one."""
    groups: list[list[Run]] = []
    left = 0
    for table, begin, end in runs:
        size = tables[table][1] + ID_BYTES
        while begin < end or (begin == end and not _ends_with(groups, table)):
            full = not groups or len(groups[-1]) == MOST_TABLES
            if left < size or full or _ends_with(groups, table):
                groups.append([])
                left = max(most, size)
            stop = min(end, begin + left // size)
            groups[-1].append((table, begin, stop))
            left -= (stop - begin) * size
            begin = stop
    return groups


def _ends_with(groups: list[list[Run]], table: int) -> bool:
    """Whether a table is in the newest group; one that is in an older one too has gone on there."""
    return bool(groups) and groups[-1][-1][0] == table
