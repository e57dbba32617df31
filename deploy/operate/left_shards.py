"""Shards on this machine that run on without their coordinator: how they are, what they hold, what can be done."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...proto import methods
from ...proto import rowloom_pb2 as pb
from ...proto.errors import RowloomError
from ...proto.security.credentials import NOTHING
from ..config.config import DeployConfig
from ..config.words import counted, shards_named
from ..control.state import BadState
from ..launch.cluster_folder import StrangeShards, config_of, left_shards, shards_in, storage_of
from ..storage import StateFile
from .directory import ClusterDirectory, DamagedRecord, Record
from .left import other_layout
from .remote import Remote
from .status import GOOD

ASK_S = 3.0  # what a shard gets to answer
ASKERS = 16


@dataclass(frozen=True)
class LeftShards:
    """Those of a cluster that run and that a new coordinator would take over.

    Attributes:
        addresses: of those, at least one.
        config: what the cluster was started with; None: that cannot be read.
        ended: indexes of the shards whose processes have ended too, and of which no standby has the rows.
        followed: of those that have ended, and whose standby runs and was in step.
        shards: how many the cluster has.
    """

    addresses: list[str]
    config: DeployConfig | None
    ended: Sequence[int] = ()
    followed: Sequence[int] = ()
    shards: int = 0

    def words(self) -> str:
        """How they are. Asks them."""
        asked = self._ask(methods.HEALTH, pb.HealthRequest(), pb.HealthReply)
        serving = sum(reply is not None and reply.state in GOOD for reply in asked)
        running = (
            self.shards - len(self.ended) - len(self.followed)
        )  # not of `asked`: others, as standbys, run too
        shards, whole = counted(running, "shard"), counted(self.shards, "shard")
        some = f"{serving} of its {whole} {_serve(serving)}"
        if self.followed:
            has = f"of {shards_named(self.followed)}, whose process has ended, the standby has the rows"
            some += f"; {has}, and takes the place when there is a coordinator"
        if self.ended:
            which = f"{'shards' if len(self.ended) > 1 else 'shard'} {', '.join(map(str, self.ended))}"
            fate = "ITS ROWS ARE LOST" if len(self.ended) == 1 else "THEIR ROWS ARE LOST"
            if self.config is not None and self.config.durability != "memory":
                fate = "a new coordinator starts what has ended again, from its log"
            return f"{some}; the process of {which} has ended, and {fate}"
        if self.followed:
            return some
        if serving == running:
            return f"its {shards} {_serve(serving)}, and no row of theirs is lost"
        return f"{serving} of its {shards} that run serve"

    def unread(self) -> str:
        """Why one cannot be read from its log, and is tried again; empty: none says so. Asks them."""
        asked = self._ask(methods.HEALTH, pb.HealthRequest(), pb.HealthReply)
        return next((reply.unread for reply in asked if reply is not None and reply.unread), "")

    def rows(self) -> int | None:
        """How many rows they hold; None: one does not say. Asks them."""
        replies = self._ask(methods.STATISTICS, pb.StatisticsRequest(), pb.StatisticsReply)
        if any(reply is None for reply in replies):
            return None
        return sum(table.rows for reply in replies if reply is not None for table in reply.tables)

    def _ask(self, method: str, request: Any, reply: type[Any]) -> list[Any]:
        """What each answers; None for one that does not."""
        shown = self.config.security.settings().credentials() if self.config is not None else NOTHING

        def ask(address: str) -> Any:
            with contextlib.suppress(RowloomError), Remote(address, ASK_S, shown) as remote:
                return reply.FromString(remote.call(method, request.SerializeToString()))
            return None

        with ThreadPoolExecutor(min(ASKERS, len(self.addresses))) as askers:
            return list(askers.map(ask, self.addresses))


def _serve(shards: int) -> str:
    return f"{'serves' if shards == 1 else 'serve'} pulls and pushes"


def folder_of(name: str, directory: ClusterDirectory) -> Path:
    """A cluster's own folder, which need not be there."""
    return directory.home / "clusters" / name


def up_of(name: str, directory: ClusterDirectory) -> str:
    """The command that starts a cluster again, for messages. Without a name it would start another one.

    A cluster that was brought down, and not kept, has left nothing that could be named.
    """
    known = name and config_of(folder_of(name, directory)) is not None
    return f"`rowloom up --name {name}`" if known else "`rowloom up` with its config"


def find_left(name: str, directory: ClusterDirectory) -> LeftShards | None:
    """The shards of a cluster that run, whether or not its coordinator does; None: there are none.

    Raises:
        StrangeShards: shards run, and their layout is not there.
        RowloomError: shards run, and it cannot be known what they are.
    """
    folder = folder_of(name, directory)
    servers = shards_in(folder)
    if not servers.running():
        return None
    config = config_of(folder)
    file = StateFile(_storage_of(name, directory, config, folder))
    _check_own(name, directory)
    left, stored = left_shards(folder, file)
    launched = [one for server in left if (one := servers.launched(server)) is not None]
    if not launched:
        return None
    addresses = [one.address for one in launched]
    if stored is None:
        return LeftShards(addresses, config, shards=len(addresses))
    keys = {server.key for server in left}
    ended = [k for k, key in enumerate(stored.keys) if key not in keys]
    followed = [k for k in ended if (one := stored.standby_in_step(k)) is not None and one.key in keys]
    return LeftShards(
        addresses, config, [k for k in ended if k not in followed], followed, shards=len(stored.keys)
    )


def _check_own(name: str, directory: ClusterDirectory) -> None:
    """Raise StrangeShards if the layout in its storage is another cluster's, whose servers may have the same keys."""
    record = None
    with contextlib.suppress(DamagedRecord):
        record = directory.get(name)
    if record is not None and (other := other_layout(record)):
        pids = ", ".join(map(str, running_unknown(name, directory)))
        raise StrangeShards(
            f"shard servers of cluster {record.cluster_id} run (processes {pids}), and {record.storage} has the layout "
            f"of another cluster, {other}: was the storage moved, or is it not mounted? End none of them: put it back, "
            f"then {up_of(name, directory)} takes them over, with all rows"
        )


def _storage_of(name: str, directory: ClusterDirectory, config: DeployConfig | None, folder: Path) -> str:
    """Where its layout is: by its config, or by its record where that cannot be read."""
    if config is None:
        with contextlib.suppress(RowloomError):
            record = directory.get(name)
            if record is not None and record.storage:
                return record.storage
    return storage_of(config, folder)


def running_unknown(name: str, directory: ClusterDirectory) -> list[int]:
    """Process numbers of a cluster's servers that run, of which nobody may know what they are."""
    with contextlib.suppress(RowloomError, OSError):
        return [server.pid for server in shards_in(folder_of(name, directory)).running()]
    return []


def unknown_in_words(record: Record, directory: ClusterDirectory) -> str:
    """What the servers of `running_unknown` are, if there are any, and what can be done; empty: there are none."""
    pids = running_unknown(record.name, directory)
    if not pids:
        return ""
    try:
        find_left(record.name, directory)
    except (StrangeShards, BadState) as e:
        return str(e)
    except RowloomError:
        pass
    return (
        f"servers of it run (processes {', '.join(map(str, pids))}), and what they serve cannot be read from "
        f"{record.storage or 'its folder'}: `rowloom up` with its config starts a new coordinator; if that is refused, "
        f"`rowloom down --keep{directory.option(record.name)}`, then `rowloom up` with its config, goes on from the "
        "logs, if it has any"
    )


def unread_in_words(name: str, directory: ClusterDirectory) -> str:
    """What a cluster that is being started waits for, if one of its shards cannot be read from its log; else empty."""
    folder = folder_of(name, directory)
    why = ""
    with contextlib.suppress(RowloomError, OSError):
        servers = shards_in(folder)
        launched = [one for server in servers.running() if (one := servers.launched(server)) is not None]
        if launched:
            why = LeftShards([one.address for one in launched], config_of(folder)).unread()
    return (
        f"a shard cannot be read from its log, and is tried again until that is mended: {why}" if why else ""
    )


def serving_on(name: str, directory: ClusterDirectory) -> LeftShards | None:
    """As `find_left`, for messages: what cannot be known is passed over."""
    with contextlib.suppress(RowloomError, OSError):
        return find_left(name, directory)
    return None
