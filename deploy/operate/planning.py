"""What a config would change or start, its memory, whether there is room for it, and how even it would be."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from ...proto import rowloom_pb2 as pb
from ...proto.errors import InvalidRequest, RowloomError, Unavailable
from ...server.rows.limits import total
from ..checks.diagnosis import Diagnosis, fault, warning
from ..checks.machine import not_listening
from ..checks.rows import every_id
from ..checks.starting import before_start
from ..checks.starting import refuse as refuse_faults
from ..config.changes import Change, beginning, diff, refuse, running_config
from ..config.config import DeployConfig
from ..config.memory import Memory, memory
from ..launch.local_room import check_room
from ..snapshots.earlier import passed_over
from .directory import ClusterDirectory
from .left import check_own_storage, shards_at_start, storage_away
from .skew import Seen, TableSkew, skew_of


@dataclass(frozen=True)
class Plan:
    """What `apply` would do, and the memory that each shard needs.

    Attributes:
        no_room: in words, that this machine has no room for the shards that would be started; empty if it has.
        skew: of each table whose ids were seen.
        problems: with the files and places that it needs, on this machine. Of a cluster that runs they are warnings.
        refusal: what `up` refuses it with beyond these, such as a storage that is another cluster's.
    """

    changes: list[Change]
    memory: Memory
    no_room: str = ""
    skew: list[TableSkew] = field(default_factory=list[TableSkew])
    problems: list[Diagnosis] = field(default_factory=list[Diagnosis])
    refusal: RowloomError | None = None

    @property
    def told(self) -> list[Diagnosis]:
        """All that is wrong with what it needs, to be shown."""
        return [*self.problems, *([fault("storage", str(self.refusal), "")] if self.refusal else [])]

    @property
    def refused(self) -> bool:
        """Whether any of it cannot be done."""
        return (
            bool(self.no_room)
            or not self.memory.fits
            or any(c.action == "refused" for c in self.changes)
            or any(one.state == "fault" for one in self.told)
        )

    def check(self) -> None:
        """Raise InvalidRequest, with all that is refused, if anything is; Unavailable: there is no room for it.

        What `up` refuses, is raised as it does that.
        """
        refuse(self.changes)
        if not self.memory.fits:
            raise InvalidRequest(f"nothing was changed: {self.memory.warning}")
        if self.no_room:
            raise Unavailable(f"{self.no_room}; nothing was changed")
        refuse_faults(self.problems, "`rowloom up` would start nothing")
        if self.refusal is not None:
            raise self.refusal


def plan(
    config: DeployConfig,
    status: pb.StatusReply | None,
    seen: Mapping[str, Seen] | None = None,
    directory: ClusterDirectory | None = None,
    *,
    file: str = "FILE",
) -> Plan:
    """From what runs to a config; without a cluster, what `up` would start.

    Args:
        config: what is wanted.
        status: of the cluster; None: there is none.
        seen: by table, the ids that its shards have seen.
        directory: that `up` would use; None: it is not looked at.
        file: with that config, for commands that are named.
    """
    if status is None:
        config = config.model_copy(update={"shards": shards_at_start(config)})
        found = [*before_start(config, directory), *not_listening(config)]
        if (left := passed_over(config.storage)) is not None:
            found.append(warning("snapshots", *left.before_start(file)))
        begun, refusal, needed = beginning(config), _refusal(config), memory(config, None)
        found += _too_many_rows(config, needed)
        return Plan(begun, needed, _no_room(config, None), problems=found, refusal=refusal)
    running = running_config(status)
    changes = diff(running, config, file)
    if all(change.action != "scale" for change in changes):  # a policy may have scaled it since
        config = config.model_copy(update={"shards": running.shards})
    specs = {spec.name: spec for spec in (*running.tables, *config.tables)}
    skew = [skew_of(specs[name], config.shards, one) for name, one in (seen or {}).items() if name in specs]
    moves = any(change.action in ("scale", "deal") for change in changes)
    needed, found = memory(config, status, moves=moves), list[Diagnosis]()
    if _runs_here(status):
        found = [replace(one, state="warning") for one in before_start(config)]
        found += _too_many_rows(config, needed)
    if directory is not None and (away := storage_away(status, directory)):
        found.append(warning("storage", away, "put it back: until then `apply` is refused"))
    return Plan(changes, needed, _no_room(config, status), skew, found)


def _too_many_rows(config: DeployConfig, needed: Memory) -> list[Diagnosis]:
    """A warning if the rows of every id would be more than the memory that there is."""
    found = every_id(config, needed, total())
    return [] if found is None else [found]


def _refusal(config: DeployConfig) -> RowloomError | None:
    """What `up` raises where nothing of that cluster is known."""
    try:
        check_own_storage(config)
    except RowloomError as e:
        return e
    return None


def _runs_here(status: pb.StatusReply) -> bool:
    return not {s.node for s in status.shards} - {socket.gethostname()}


def _copied(config: DeployConfig, before: DeployConfig, status: pb.StatusReply | None) -> int:
    """Bytes of the rows that exist and that standbys would hold which are not there yet."""
    if status is None or config.replicas <= before.replicas:
        return 0
    return sum(table.bytes for shard in status.shards for table in shard.statistics.tables)


def _no_room(config: DeployConfig, status: pb.StatusReply | None) -> str:
    """In words, that this machine has no room for more servers. Of other machines and of Ray that is not known here."""
    before = running_config(status) if status is not None else config.model_copy(update={"shards": 0})
    more = config.shards * (1 + config.replicas) - before.shards * (1 + before.replicas)
    if config.launcher != "local" or more <= 0 or (status is not None and not _runs_here(status)):
        return ""
    try:
        check_room(more, _copied(config, before, status))
    except Unavailable as e:
        return str(e)
    return ""
