"""What principals have on one shard, against their shares of quotas: rows of the tables that they have created."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Sequence

import numpy as np

from ...proto import rowloom_pb2 as pb
from ...proto.errors import QuotaExceeded
from ..table import ShardTable
from .quotas import WHO, Quota, Quotas, share

Work = Sequence[tuple[ShardTable, np.ndarray, np.ndarray]]


class Owned:
    """The quotas that one shard holds to. Callers hold the shard's lock.

    A shard that is read from a log, or receives its rows from others, has none: what was acknowledged is never refused.

    Attributes:
        quotas: of all principals.
    """

    def __init__(self) -> None:
        self.quotas = Quotas()
        self.refused: Counter[tuple[str, str]] = Counter()

    def check(self, tables: Collection[ShardTable], work: Work, shards: int) -> None:
        """Whether the new rows of a push are within the quotas of whoever has created its tables.

        Args:
            tables: of the shard.
            work: table, ids of rows that come into being where they do not exist, and something else; for each table
                of the push.
            shards: how many there are.

        Raises:
            QuotaExceeded: they are not. Nothing has changed.
        """
        if not self.quotas.bound_rows:
            return
        for owner in {table.entry.owner for table, _, _ in work}:
            quota = self.quotas.of(owner)
            if quota.rows is None and quota.bytes is None:
                continue
            mine = [(table, ids) for table, ids, _ in work if table.entry.owner == owner]
            self._check(owner, quota, use(tables, owner), mine, shards)

    def _check(
        self,
        owner: str,
        quota: Quota,
        used: dict[str, int],
        mine: Sequence[tuple[ShardTable, np.ndarray]],
        shards: int,
    ) -> None:
        bounds = {what: q for what, q in (("rows", quota.rows), ("bytes", quota.bytes)) if q is not None}

        def over(counts: Sequence[int]) -> str:
            more = _more(mine, counts)
            return next((w for w, q in bounds.items() if used[w] + more[w] > share(q, shards)), "")

        if not over([len(ids) for _, ids in mine]):  # were all of them new; to look them up takes longer
            return
        counts = [table.count_new(ids) for table, ids in mine]
        what = over(counts)
        if not what or not any(
            counts
        ):  # beyond a quota that was lowered, rows that exist are changed as before
            return
        self.refused[owner, what] += 1
        quoted = bounds[what]
        dealt = f"; each of {shards} shards has an equal share" if shards > 1 else ""
        raise QuotaExceeded(
            f"{owner!r} has {used[what]} {what} on this shard, in tables that it has created, and the push would add "
            f"{_more(mine, counts)[what]}: its quota is {quoted} {what}, of which {share(quoted, shards)} may be "
            f"here{dealt}. Nothing changed here. Drop a table, or {WHO}"
        )

    def messages(self, tables: Collection[ShardTable], shards: int) -> Iterator[pb.QuotaUse]:
        """What each principal has here that has created a table."""
        for owner in sorted({table.entry.owner for table in tables} - {""}):
            quota, used = self.quotas.of(owner), use(tables, owner)
            for what, most in (("rows", quota.rows), ("bytes", quota.bytes)):
                yield pb.QuotaUse(
                    principal=owner,
                    what=what,
                    used=used[what],
                    limit=None if most is None else share(most, shards),
                    refused=self.refused[owner, what],
                )


def use(tables: Collection[ShardTable], owner: str) -> dict[str, int]:
    """Rows and bytes that a principal has here."""
    mine = [(table, len(table)) for table in tables if table.entry.owner == owner]
    return {"rows": sum(n for _, n in mine), "bytes": sum(n * table.row_bytes for table, n in mine)}


def _more(mine: Sequence[tuple[ShardTable, np.ndarray]], counts: Sequence[int]) -> dict[str, int]:
    pairs = zip(mine, counts, strict=True)
    return {"rows": sum(counts), "bytes": sum(n * table.row_bytes for (table, _), n in pairs)}
