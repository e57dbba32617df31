"""Which snapshot the next one is made upon, and which are needed no more. Decides; no I/O.

Why it is so. What must hold: no snapshot that is kept, and no log, loses what it is made upon. So the state lists,
beside those that logs go on from, all that may be removed one day and all that any of these was made upon.
A log must not depend on one file of a snapshot: should that be damaged, another snapshot and more of the log give
everything. So two snapshots count as two only if they have no file in common.
An increment costs whoever reads it one more pass for each that it was made upon, and all of them must be whole. So a
chain ends when it has grown by half, or has so many; then comes one that is whole by itself.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from .state import KnownSnapshot

MAX_CHAIN = 16  # snapshots, the whole one included


def lineage(known: Sequence[KnownSnapshot], one: KnownSnapshot) -> list[KnownSnapshot]:
    """Those that a snapshot was made upon and itself, oldest first; empty if one of them is not known."""
    by_id = {other.id: other for other in known}
    found = [one]
    while found[0].parent:
        above = by_id.get(found[0].parent)
        if above is None or above in found:
            return []
        found.insert(0, above)
    return found


def parent_of_next(known: Sequence[KnownSnapshot], epoch: int) -> KnownSnapshot | None:
    """The one that the next snapshot is made upon; None: it is to be whole by itself.

    Args:
        known: those that were made, newest last.
        epoch: of the layout: another one has other shards, which do not know what has changed.
    """
    if not known or known[-1].epoch != epoch or not known[-1].digest:
        return None
    base, *increments = lineage(known, known[-1]) or [known[-1]]
    if base.parent or 1 + len(increments) >= MAX_CHAIN:
        return None
    return None if 2 * sum(one.bytes for one in increments) >= base.bytes else known[-1]


def recovery_points(known: Sequence[KnownSnapshot], epoch: int) -> list[KnownSnapshot]:
    """The snapshots of an epoch that its shards may go on from; its logs must reach back to the first of them.

    The newest one, last, and before it the newest one that has no file in common with it. Fewer, if there are none.
    """
    mine = [one for one in known if one.epoch == epoch and lineage(known, one)]
    if not mine:
        return []
    base = lineage(known, mine[-1])[0]
    return [*[one for one in mine if lineage(known, one)[0] != base][-1:], mine[-1]]


def listed(known: Sequence[KnownSnapshot]) -> list[KnownSnapshot]:
    """Those of them that the state goes on to list."""
    wanted = {one.id for one in _needed_by_logs(known)} | {one.id for one in known if one.removable}
    return [one for one in known if one.id in _with_lineage(known, wanted)]


def disposable(known: Sequence[KnownSnapshot], keep: int) -> list[KnownSnapshot]:
    """Those that may be removed, the newest first: what is made upon another one goes before it.

    Others that are not in `known` may be made upon them; the caller looks.

    Args:
        known: as the state lists them, newest last.
        keep: how many of those that were taken with a number to keep are kept.
    """
    scheduled = [one for one in known if one.scheduled]
    wanted = {one.id for one in _needed_by_logs(known)}
    wanted |= {one.id for one in known if not one.removable}
    wanted |= {one.id for one in (scheduled[-keep:] if keep else scheduled)}
    needed = _with_lineage(known, wanted)
    return [one for one in reversed(known) if one.id not in needed]


def _needed_by_logs(known: Sequence[KnownSnapshot]) -> list[KnownSnapshot]:
    return [*recovery_points(known, known[-1].epoch), known[-1]] if known else []


def _with_lineage(known: Sequence[KnownSnapshot], ids: Collection[str]) -> set[str]:
    """Ids of these, and of all that they were made upon, as far as those are known."""
    parents = {one.id: one.parent for one in known}
    needed: set[str] = set()
    for id in ids:
        while id in parents and id not in needed:
            needed.add(id)
            id = parents[id]
    return needed
