"""What a coordinator must not forget, as one value."""

from __future__ import annotations

import base64
import dataclasses
import types
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, cast, get_args, get_origin, get_type_hints

from google.protobuf import json_format

from ...proto import rowloom_pb2 as pb
from ...proto.errors import InvalidRequest, RowloomError, SnapshotCorrupt, version_fault
from ...proto.layout import Layout, ShardAddress
from ...proto.snapshots.checked_json import canonical, digest_of, parsed, require
from ...proto.spec import TableEntry, TableSpec
from ..config.words import shards_named
from ..launch.launcher import Launched

FORMAT = 1
MAX_TABLES_BYTES = 16 << 20  # of all entries, as messages


GONE = -1
_WAYS_OUT = (
    "It says which shards, tables and logs are the cluster's, so nothing goes on without it; what lies beside it is as "
    "it was. Put back a whole copy of it, if there is one (nobody can edit it: it has a digest of what it says). "
    "Else begin with the newest snapshot, and by --until with what its logs have since, under another `name` and "
    "`storage`: `rowloom snapshots` with this storage, then `rowloom restore URL CONFIG --until TIME`"
)


class BadState(RowloomError):
    """The state of a cluster cannot be had from its file.

    Attributes:
        fault: the file, and what is wrong with it, without what there is to do.
    """

    def __init__(self, fault: str, ways_out: str = "") -> None:
        super().__init__(f"{fault}. {ways_out}" if ways_out else fault)
        self.fault = fault


@dataclass(frozen=True)
class KnownSnapshot:
    """A snapshot that was committed.

    Attributes:
        id: its name.
        url: its folder.
        epoch: of the layout.
        lsns: by shard, the last record of the log that is in it; GONE: of a log that is no more.
        created_s: when, in seconds since 1970.
        rows: that existed.
        bytes: that were written.
        automatic: it only keeps logs short.
        scheduled: it was taken with a number of those to keep.
        parent: id of the one that it was made upon; empty: it is whole by itself.
        digest: of its manifest.
    """

    id: str
    url: str
    epoch: int
    lsns: list[int]
    created_s: float
    rows: int
    bytes: int
    automatic: bool = False
    scheduled: bool = False
    parent: str = ""
    digest: str = ""

    @property
    def removable(self) -> bool:
        """Whether it goes when it is needed no more; else it is its owner's."""
        return self.automatic or self.scheduled

    def without(self, shard: int) -> KnownSnapshot:
        """The same, when a shard has a new log, whose numbers have nothing to do with those of the old one."""
        return dataclasses.replace(self, lsns=[GONE if i == shard else n for i, n in enumerate(self.lsns)])


@dataclass(frozen=True)
class RestoredSnapshot:
    """The snapshot that a cluster began with. It may be gone since.

    Attributes:
        id: its name.
        url: its folder, then.
        rows: that it held.
        bytes: that were written for it.
        parent: id of the snapshot that it was made upon; empty: it was whole by itself.
        extra: what a trainer had kept with it, as `encode_extra`.
        seconds: that restoring it took.
        incarnations: of the servers that began with it, by shard. What they count began then, too.
        epoch: that the cluster began with; 0: not known. By it moves since are known.
    """

    id: str
    url: str
    rows: int
    bytes: int
    parent: str = ""
    extra: bytes = b""
    seconds: float = 0.0
    incarnations: Sequence[int] = ()
    epoch: int = 0


@dataclass(frozen=True)
class Standby:
    """A server that has, or will have, what the server of a shard has.

    Attributes:
        key: the launcher's.
        address, incarnation: of it.
        primary: incarnation of the server that it follows.
        epoch: of the layout.
        in_step: it has all that its primary acknowledges, which waits for it until the opposite is stored.
    """

    key: int
    address: str
    incarnation: int
    primary: int
    epoch: int
    in_step: bool = False


@dataclass
class ClusterState:
    """The layout, the tables, which launcher key each shard has, and what was begun and does not hold yet.

    A change is begun by storing it; then servers are told, as often as it takes. So no failure can leave half of the
    shards with a table, a learning rate or a server that nobody remembers.

    Attributes:
        layout: the newest committed layout; None before the cluster is up.
        keys: by shard index, the launcher's key of its server.
        tables: by name.
        next_key, next_table: never used before.
        term: counts coordinators of this cluster; turns of a later one are higher.
        serial: counts the states of the cluster; with `term` it says which one was read back.
        making: tables by name that some shards may have; clients do not know them yet.
        dropping: numbers of tables that some shards may still have.
        changing: names of tables whose learning rate some shards may not have heard of.
        snapshots: the last ones, all that may be removed one day, and all that any of these was made upon; newest last.
        surplus: launcher keys of servers that may run and are no shard: started too early, or left over.
        beginning: the id under which a cluster is being restored, whose shards may have logs already; empty: none is.
        restored: what the cluster began with; None: with nothing.
        autoscale: the policy that was applied since it was started, as JSON; None: that of its config.
        quotas: of principals, as they were applied since, as JSON; None: those of its config.
        max_extra_bytes: what moves may take, as it was applied since; 0: no bound; None: as its config says.
        replicas: of each shard and how they are kept, as it was applied since, as JSON; None: as its config says.
        drained: ids of nodes on which nothing is started any more.
        runtime_env: the environment that was applied since it was started, as JSON; None: that of its config.
        standbys: by shard index. One whose primary is not the layout's is none any more.
    """

    name: str
    layout: Layout | None = None
    keys: list[int] = field(default_factory=list[int])
    tables: dict[str, TableEntry] = field(default_factory=dict[str, TableEntry])
    next_key: int = 0
    next_table: int = 1
    term: int = 0
    serial: int = 0
    making: dict[str, TableEntry] = field(default_factory=dict[str, TableEntry])
    dropping: list[int] = field(default_factory=list[int])
    changing: list[str] = field(default_factory=list[str])
    surplus: list[int] = field(default_factory=list[int])
    snapshots: list[KnownSnapshot] = field(default_factory=list[KnownSnapshot])
    beginning: str = ""
    restored: RestoredSnapshot | None = None
    autoscale: str | None = None
    quotas: str | None = None
    max_extra_bytes: int | None = None
    replicas: str | None = None
    drained: list[str] = field(default_factory=list[str])
    runtime_env: str | None = None
    standbys: dict[int, Standby] = field(default_factory=dict[int, Standby])

    def standby_in_step(self, index: int) -> Standby | None:
        """Who can take the place of a shard's server without losing anything that it acknowledged."""
        standby = self.standbys.get(index)
        if standby is None or not standby.in_step or self.layout is None:
            return None
        shard = self.layout.shards[index]
        return standby if (standby.primary, standby.epoch) == (shard.incarnation, self.layout.epoch) else None

    def found(self, servers: Sequence[Launched | None]) -> tuple[ShardAddress, ...]:
        """The shards, where their servers are now. One that came back empty is not the shard if a standby has its rows.

        servers: by shard; None: not known.
        """
        assert self.layout is not None
        return tuple(
            old
            if new is None or (new.incarnation != old.incarnation and self.standby_in_step(old.index))
            else ShardAddress(old.index, new.address, new.incarnation)
            for old, new in zip(self.layout.shards, servers, strict=True)
        )

    @property
    def server_keys(self) -> list[int]:
        """Of the servers of all shards, and of their standbys."""
        return [*self.keys, *(standby.key for standby in self.standbys.values())]

    @property
    def unfinished(self) -> bool:
        """Whether something was begun that does not hold yet."""
        return bool(self.making or self.dropping or self.changing or self.surplus)

    def waiting(self, untold: Sequence[int] = (), *, expected: bool = False) -> list[str]:
        """What was begun and does not hold yet, each in words.

        untold: shards that have not heard of the layout since it, a server or the coordinator was new.
        expected: servers that are no shard are meant to be there: they take a place, follow, or get rows.
        """
        said = [f"table {name!r} is not on every shard yet" for name in self.making]
        said += [f"lr of table {name!r} has not reached every shard yet" for name in self.changing]
        said += [f"table number {number} was dropped, and not by every shard yet" for number in self.dropping]
        if self.surplus and not expected:
            said.append(
                "there are more servers than shards, left by a change that was broken off: they will be ended"
            )
        if untold:
            have, them = ("has", "it") if len(untold) == 1 else ("have", "them")
            said.append(
                f"{shards_named(untold)} {have} yet to be told the layout, and pushes to {them} may wait until then. "
                "The coordinator tries again by itself: nothing is to be done for that. A shard that does not serve is "
                "told when it is back, or made anew"
            )
        return said

    def owned_by(self, principal: str) -> list[str]:
        """Names of the tables that a principal has created, also of those that are not made yet."""
        return [e.spec.name for e in (*self.tables.values(), *self.making.values()) if e.owner == principal]

    def with_begun(self, specs: Sequence[TableSpec], owner: str = "") -> ClusterState:
        """The state in which these tables are begun, too.

        owner: the principal who creates them; empty: they are the cluster's own.

        Raises:
            InvalidRequest: there would be more tables than every client can be told of.
        """
        begun = [TableEntry(number, spec, owner=owner) for number, spec in enumerate(specs, self.next_table)]
        self._check_room(begun)
        making = {**self.making, **{entry.spec.name: entry for entry in begun}}
        return dataclasses.replace(self, making=making, next_table=self.next_table + len(begun))

    def _check_room(self, begun: Sequence[TableEntry]) -> None:
        there = [*self.tables.values(), *self.making.values()]
        size = sum(one.told_bytes for one in there)
        for count, entry in enumerate(begun, len(there) + 1):
            size += entry.told_bytes
            if size > MAX_TABLES_BYTES:
                raise InvalidRequest(
                    f"with table {entry.spec.name!r} the specs of all {count} tables would be {size} bytes; every "
                    f"client is told all of them: at most {MAX_TABLES_BYTES}. Make fewer tables, or with less metadata"
                )

    def to_json(self) -> str:
        """As JSON, with a digest of all else.

        Sorted: in which order a message tells its maps, nobody promises. Without spaces: with them it takes twice as
        long, and each change of a cluster waits for it.
        """
        content = self._content()
        return canonical({**content, "digest": digest_of(content)})

    def _content(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "name": self.name,
            "layout": json_format.MessageToDict(self.layout.to_message()) if self.layout else None,
            "keys": self.keys,
            "tables": [entry.as_json for entry in self.tables.values()],
            "next_key": self.next_key,
            "next_table": self.next_table,
            "term": self.term,
            "serial": self.serial,
            "making": [entry.as_json for entry in self.making.values()],
            "dropping": self.dropping,
            "changing": self.changing,
            "surplus": self.surplus,
            "snapshots": [dataclasses.asdict(one) for one in self.snapshots],
            "beginning": self.beginning,
            "restored": self.restored and _plain(self.restored),
            "autoscale": self.autoscale,
            "quotas": self.quotas,
            "max_extra_bytes": self.max_extra_bytes,
            "replicas": self.replicas,
            "drained": self.drained,
            "runtime_env": self.runtime_env,
            "standbys": {str(index): dataclasses.asdict(one) for index, one in self.standbys.items()},
        }

    @classmethod
    def from_json(cls, text: str, where: str = "the cluster's state file") -> ClusterState:
        """From JSON.

        Args:
            text: of the file.
            where: the file, for messages.

        Raises:
            BadState: it is damaged, or of a version that this one does not read.
        """
        try:
            data = parsed(text.encode(), where)
        except SnapshotCorrupt as e:
            raise BadState(str(e), _WAYS_OUT) from None
        if fault := version_fault(where, data.get("format"), FORMAT):
            raise BadState(fault)
        try:
            state = cls._of(data)
            state._check()
        except KeyError as e:
            raise BadState(f"{where} is damaged: {e} is missing", _WAYS_OUT) from None
        except (ValueError, TypeError, AttributeError, json_format.ParseError, RowloomError) as e:
            raise BadState(f"{where} is damaged: {e}", _WAYS_OUT) from e
        return state

    @classmethod
    def _of(cls, data: dict[str, Any]) -> ClusterState:
        # States that were written before there was a digest have none.
        if (digest := data.pop("digest", None)) is not None and digest != digest_of(data):
            raise ValueError("it was changed after it was written: its digest is not that of its content")
        layout = data["layout"] and Layout.from_message(json_format.ParseDict(data["layout"], pb.Layout()))
        return cls(
            name=data["name"],
            layout=layout,
            keys=list(data["keys"]),
            tables=_entries(data["tables"]),
            next_key=data["next_key"],
            next_table=data["next_table"],
            term=data["term"],
            # States that were written before there were these have none.
            serial=data.get("serial", 0),
            making=_entries(data.get("making", [])),
            dropping=list(data.get("dropping", [])),
            changing=list(data.get("changing", [])),
            surplus=list(data.get("surplus", [])),
            snapshots=[KnownSnapshot(**one) for one in data.get("snapshots", [])],
            beginning=data.get("beginning", ""),
            restored=_restored(data.get("restored")),
            autoscale=data.get("autoscale"),
            quotas=data.get("quotas"),
            max_extra_bytes=data.get("max_extra_bytes"),
            replicas=data.get("replicas"),
            drained=list(data.get("drained", [])),
            runtime_env=data.get("runtime_env"),
            standbys={int(index): Standby(**one) for index, one in data.get("standbys", {}).items()},
        )

    def _check(self) -> None:
        """Whether it means something. Raises SnapshotCorrupt, ValueError."""
        for name, hint in get_type_hints(type(self)).items():
            if not _fits(value := getattr(self, name), hint):
                raise ValueError(f"{name} is {str(value)[:100]}")
        layout = self.layout
        for id in (self.beginning, layout.cluster_id if layout is not None else ""):
            if "/" in id or id in (".", ".."):  # it is the name of a folder, which goes with the cluster
                raise ValueError(f"{id[:100]!r} is no id of a cluster")
        if layout is not None:
            require(
                [s.index for s in layout.shards] == list(range(layout.n)),
                "its shards are not numbered from 0 on",
            )
            require(len(self.keys) == layout.n, f"it has {len(self.keys)} keys for {layout.n} shards")
            require(
                set(self.standbys) <= set(range(layout.n)), "it has a standby of a shard that there is not"
            )
        keys = [*self.server_keys, *self.surplus]
        require(len(set(self.server_keys)) == len(self.server_keys), "two servers have one key")
        require(max(keys, default=-1) < self.next_key, f"next_key {self.next_key} is used already")
        numbers = [entry.number for entry in (*self.tables.values(), *self.making.values())]
        require(len(set(numbers)) == len(numbers), "two tables have one number")
        require(
            max([0, *numbers, *self.dropping]) < self.next_table,
            f"next_table {self.next_table} is used already",
        )


def _fits(value: Any, hint: Any) -> bool:
    """Whether a value that was read has the type of its field; what a message was read into is sure of its own."""
    of, parts = get_origin(hint), get_args(hint)
    if of is types.UnionType:
        return any(_fits(value, one) for one in parts)
    if of in (list, Sequence):
        return isinstance(value, list | tuple) and all(_fits(one, parts[0]) for one in cast(list[Any], value))
    if of is dict:
        items = cast(dict[Any, Any], value).items() if isinstance(value, dict) else [(None, None)]
        return all(_fits(k, parts[0]) and _fits(v, parts[1]) for k, v in items)
    if hint in (KnownSnapshot, RestoredSnapshot, Standby):
        fields = get_type_hints(hint).items()
        return isinstance(value, hint) and all(_fits(getattr(value, name), one) for name, one in fields)
    return type(value) is hint or (hint is float and type(value) is int)


def _entries(messages: list[dict[str, Any]]) -> dict[str, TableEntry]:
    entries = [TableEntry.from_message(json_format.ParseDict(m, pb.TableEntry())) for m in messages]
    found = {e.spec.name: e for e in entries}
    require(len(found) == len(entries), "two tables have one name")
    return found


def _plain(restored: RestoredSnapshot) -> dict[str, Any]:
    return {**dataclasses.asdict(restored), "extra": base64.b64encode(restored.extra).decode()}


def _restored(data: dict[str, Any] | None) -> RestoredSnapshot | None:
    if data is None:
        return None
    extra: Any = base64.b64decode(data["extra"], validate=True)
    began: Any = tuple(data.get("incarnations", ()))
    return RestoredSnapshot(**{**data, "extra": extra, "incarnations": began})
