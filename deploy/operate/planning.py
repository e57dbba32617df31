"""What a config would change or start, the memory that it takes, and whether there is room for it."""

from __future__ import annotations

import socket
from dataclasses import dataclass

from ...proto import rowloom_pb2 as pb
from ...proto.errors import Unavailable
from ..config.changes import Change, beginning, diff, refuse, running_config
from ..config.config import DeployConfig
from ..config.memory import Memory, memory
from ..launch.local_room import check_room


@dataclass(frozen=True)
class Plan:
    """What `apply` would do, and the memory that each shard needs.

    Attributes:
        no_room: in words, that this machine has no room for the shards that would be started; empty if it has.
    """

    changes: list[Change]
    memory: Memory
    no_room: str = ""

    @property
    def refused(self) -> bool:
        """Whether any of it cannot be done."""
        return bool(self.no_room) or any(c.action == "refused" for c in self.changes)

    def check(self) -> None:
        """Raise InvalidRequest, with all that is refused, if anything is; Unavailable: there is no room for it."""
        refuse(self.changes)
        if self.no_room:
            raise Unavailable(f"{self.no_room}; nothing was changed")


def plan(config: DeployConfig, status: pb.StatusReply | None) -> Plan:
    """From what runs to a config; without a cluster, what `up` would start."""
    if status is None:
        return Plan(beginning(config), memory(config, None), _no_room(config, None))
    running = running_config(status)
    changes = diff(running, config)
    if all(change.action != "scale" for change in changes):  # a policy may have scaled it since
        config = config.model_copy(update={"shards": running.shards})
    return Plan(changes, memory(config, status), _no_room(config, status))


def _no_room(config: DeployConfig, status: pb.StatusReply | None) -> str:
    """In words, that this machine has no room for more shards. Of other machines and of Ray that is not known here."""
    running = list(status.shards) if status is not None else []
    more = config.shards - len(running)
    if config.launcher != "local" or more <= 0 or {s.node for s in running} - {socket.gethostname()}:
        return ""
    try:
        check_room(more)
    except Unavailable as e:
        return str(e)
    return ""
