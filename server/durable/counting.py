"""Which records of a cluster's logs count at a point in time. Pure.

Why it is so. What must hold: what is restored has each push whole, on all of its shards, or not at all. A point in time
lies between two records of each log, and a push whose shares are in several logs may have some before it and some
behind. It counts if all of its shares lie before: then the last of them decides when the push was made. If one is
behind, or was never made because its client died, the others are left out, and what came after them on their shards is
done again without them. The result is what a cluster would be that had received those pushes only, in the same order.
Rejected: to move each log's end back until no push lies across it. Pushes of many trainers overlap all the time, so
each one that is moved past brings the next one, and there may be no such place for a long while.
A change of tables is one of the cluster, which shards hear of one by one: it counts as soon as one of them has made it.
The others make it at the end, where nothing comes after it. So a table that a push needs is there in any case.
Where two tables have one name, the later one counts: it was made when the other one had been dropped.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import NamedTuple

from ...proto import rowloom_pb2 as pb
from ...proto.codec import Push, Step
from .records import Kind, LoggedRecord

PushName = tuple[int, int]  # its client's id, and its number


class TableChange(NamedTuple):
    """A change of a table, as all shards hear of it.

    Attributes:
        kind: CREATE, DROP or SET_LR.
        table: its number.
        version: of the learning rate.
        name: of a table that is made.
    """

    kind: Kind
    table: int
    version: int = 0
    name: str = ""


@dataclass(frozen=True)
class ShardPart:
    """What counts of one shard's log.

    Attributes:
        end: the last record before the point.
        left_out: records up to there that do not count.
        missed: payloads of changes that only others have made, by kind, to be made at the end.
    """

    end: int
    left_out: Collection[int]
    missed: Sequence[tuple[Kind, bytes]]


class Counting:
    """Goes through the records of all shards before a point, and says which of them count.

    Args:
        ends: for each shard, the last record of its log that is in the snapshot.
        begun: pushes of which only a part is in the snapshot, and which part.
        names: the tables of the snapshot: number -> name.

    Attributes:
        pushes: that were whole.
    """

    def __init__(
        self, ends: Sequence[int], begun: Mapping[PushName, Fraction], names: Mapping[int, str]
    ) -> None:
        self.pushes = 0
        self._ends = list(ends)
        self._open: dict[PushName, tuple[Fraction, list[tuple[int, int]]]] = {
            name: (share, []) for name, share in begun.items()
        }
        self._names = dict(names)
        self._changes: dict[TableChange, bytes] = {}
        self._made: list[set[TableChange]] = [set() for _ in ends]

    def add(self, shard: int, record: LoggedRecord) -> None:
        """The next record of a shard's log. Shards come in any order."""
        head, payload = record
        self._ends[shard] = head.lsn
        kind = Kind(head.kind)
        if kind in (Kind.PUSH, Kind.STEP):
            self._share(shard, head.lsn, pushed(kind, payload))
        elif kind in (Kind.CREATE, Kind.DROP, Kind.SET_LR):
            change = _change(kind, bytes(payload))
            self._changes.setdefault(change, bytes(payload))
            self._made[shard].add(change)
        # Of the other kinds a log has none behind a snapshot; who does them again says so.

    def _share(self, shard: int, lsn: int, push: Push) -> None:
        if push.parts <= 1:
            self.pushes += 1
            return
        name = push.client_id, push.push
        share, places = self._open.pop(name, (Fraction(0), []))
        share += Fraction(1, push.parts)
        if share < 1:
            self._open[name] = share, [*places, (shard, lsn)]
        else:
            self.pushes += 1

    @property
    def left_out(self) -> int:
        """Pushes that have a record before the point, and not all of them."""
        return sum(bool(places) for _, places in self._open.values())

    def parts(self) -> list[ShardPart]:
        """What counts, of each shard, when all records were added."""
        left_out: list[set[int]] = [set() for _ in self._ends]
        for _, places in self._open.values():
            for shard, lsn in places:
                left_out[shard].add(lsn)
        dropped = self._dropped()
        parts: list[ShardPart] = []
        for end, out, made in zip(self._ends, left_out, self._made, strict=True):
            missed = [one for one in self._changes if one not in made]
            later = [one for one in missed if one.kind is not Kind.DROP and one.table not in dropped]
            later.sort(
                key=lambda one: (one.kind, one.table, one.version)
            )  # tables are made before their rates change
            payloads = [(one.kind, self._changes[one]) for one in later]
            payloads += [
                (Kind.DROP, _drop(number)) for number in sorted(dropped)
            ]  # one that is gone is no error
            parts.append(ShardPart(end, out, payloads))
        return parts

    def _dropped(self) -> set[int]:
        dropped = {one.table for one in self._changes if one.kind is Kind.DROP}
        names = self._names | {one.table: one.name for one in self._changes if one.kind is Kind.CREATE}
        newest: dict[str, int] = {}
        for number in sorted(names):
            newest[names[number]] = number
        return dropped | {number for number, name in names.items() if newest[name] != number}


def pushed(kind: Kind, payload: memoryview) -> Push:
    """The push of a record of kind PUSH or STEP. Raises InvalidRequest."""
    # Acknowledged, maybe by a version that let in more tables than this one would: nothing of it is too much.
    most = len(payload)
    return Push.decode(payload, most) if kind is Kind.PUSH else Step.decode(payload, most).push


def _change(kind: Kind, payload: bytes) -> TableChange:
    if kind is Kind.CREATE:
        entry = pb.TableEntry.FromString(payload)
        return TableChange(kind, entry.number, name=entry.spec.name)
    if kind is Kind.DROP:
        return TableChange(kind, pb.DropTableRequest.FromString(payload).table)
    request = pb.SetLearningRateRequest.FromString(payload)
    return TableChange(kind, request.table, request.version)


def _drop(number: int) -> bytes:
    return pb.DropTableRequest(table=number).SerializeToString()
