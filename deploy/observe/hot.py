"""Which ids each table is asked for most, straight from the shards: they are data of users, so it takes a right."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ...client.hottest import Hottest, merged
from ...proto.errors import RowloomError, TableNotFound
from ...proto.security.credentials import Credentials
from ..operate.reader import Reader


def hottest_of(
    address: str, credentials: Credentials, tables: Iterable[str], limit: int
) -> dict[str, Hottest | RowloomError]:
    """By table, its hottest ids; or the error that says why they are not known.

    Args:
        address: of the coordinator.
        credentials: what it and the shards are shown.
        tables: names of tables that exist.
        limit: how many ids at most, of each.

    Raises:
        RowloomError: the coordinator does not answer.
    """
    found: dict[str, Hottest | RowloomError] = {}
    with Reader(address, credentials) as reader:
        for name in tables:
            try:
                found[name] = merged(reader.hottest(reader.tables[name], limit), limit)
            except KeyError:
                found[name] = TableNotFound(f"table {name!r} was dropped")
            except RowloomError as e:
                found[name] = e
    return found


def as_json(found: Hottest | RowloomError) -> dict[str, Any]:
    """As commands print it with --json."""
    if isinstance(found, RowloomError):
        return {"ids": [], "sampled_ids": 0, "error": None, "unknown": str(found)}
    rows = zip(found.ids.tolist(), found.shares.tolist(), found.shards.tolist(), strict=True)
    ids = [{"id": row_id, "share": round(share, 6), "shard": shard} for row_id, share, shard in rows]
    return {"ids": ids, "sampled_ids": found.sampled, "error": round(found.error, 6), "unknown": None}
