"""Whether this machine could hold all rows that a config allows: those of every id."""

from __future__ import annotations

from ...server.rows.limits import Limit
from ..config.config import DeployConfig
from ..config.memory import Memory, in_bytes
from ..config.sections import MAX_SHARDS
from ..config.words import counted
from .diagnosis import Diagnosis, warning


def every_id(config: DeployConfig, needed: Memory, there: Limit) -> Diagnosis | None:
    """A warning if there is not memory for every id; None: there is, or that is not known.

    Rows take memory when they are first pushed, so a config is no fault for it: most tables are never full.

    Args:
        config: whose shards are all here; with Ray one of them is looked at, as if it were here.
        needed: what each of them needs.
        there: what this machine has.
    """
    if config.launcher != "local" and config.ray.memory_per_shard is not None:
        return None  # its nodes have that much, and `needed.warning` goes by it
    a_shard = sum(table.bound_bytes or 0 for table in needed.tables)
    whole = a_shard * config.shards * (1 + config.replicas)
    here = whole if config.launcher == "local" else a_shard
    if here <= there.bytes:
        return None
    each = f", {in_bytes(a_shard)} in each of {counted(config.shards, 'shard')}" if config.shards > 1 else ""
    standbys = ", and as much in its standby" if config.replicas else ""
    enough = f", enough for {_percent(there.bytes / whole)} of that" if config.launcher == "local" else ""
    found = (
        f"with every id pushed rows take {in_bytes(whole)}{each}{standbys}; {there.what} is "
        f"{in_bytes(there.bytes)}{enough}"
    )
    return warning("memory of rows", found, _ways(-(-whole // there.bytes), config.shards))


def _ways(machines: int, shards: int) -> str:
    """What helps where so many such machines would be needed."""
    if machines > MAX_SHARDS:
        return (
            f"all of it would take {machines:,} such machines, and a cluster has at most {MAX_SHARDS:,} shards: fewer "
            "ids, or fewer columns; it matters once that many are pushed"
        )
    even = -(-shards // machines) * machines  # as many shards on each
    return (
        f"{machines:,} such machines (`launcher: ray`, `shards: {min(even, MAX_SHARDS)}`), fewer ids, or fewer "
        "columns; it matters once that many are pushed"
    )


def _percent(share: float) -> str:
    """Of what is less than all."""
    if share < 1e-5:
        return "less than 0.001 %"
    return f"{100 * share:.2g} %" if share < 0.1 else f"{int(100 * share)} %"
