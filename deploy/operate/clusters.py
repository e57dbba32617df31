"""What the command line does, as functions: start, find, compare, change and end clusters."""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
from collections.abc import Callable
from dataclasses import dataclass

from ...proto import rowloom_pb2 as pb
from ...proto.errors import InvalidRequest, RowloomError, Unavailable
from ..config.changes import Change, diff, refuse, running_config
from ..config.config import DeployConfig
from ..config.memory import Memory, memory
from ..launch.processes import is_running, wait_for_end
from .directory import ClusterDirectory, Record
from .remote import Remote

OnProgress = Callable[[int, int], None]


class NoSuchCluster(InvalidRequest):
    """None of that name is known, or several are and none was named."""

    exit_code = 4


# ---------------------------------------------------------------------------------------------------------------- up


@dataclass(frozen=True)
class Up:
    """A cluster that runs; `started` says whether it had to be started."""

    record: Record
    started: bool


def up(config: DeployConfig, directory: ClusterDirectory) -> Up:
    """Start a cluster, unless it runs already with that very config.

    Raises:
        InvalidRequest: one of that name runs with another config; the message says what differs.
        Unavailable: it did not start; nothing is left running.
    """
    with directory.lock(config.name):
        running = _on_this_machine(config, directory)
        if running is not None:
            return _same(running, config)
        if config.launcher == "local":
            from .local_clusters import up_local

            return Up(up_local(config, directory), started=True)
        from .ray_clusters import up_or_found

        record, found = up_or_found(config, directory)
        return _same(record, config) if found else Up(record, started=True)


def _on_this_machine(config: DeployConfig, directory: ClusterDirectory) -> Record | None:
    """A cluster of that name that was started from here without Ray, or with it if the config is without."""
    record = directory.get(config.name)
    if record is None or (record.launcher == "ray" and config.launcher == "ray"):
        return None
    if is_running(record.pid, record.started) if record.pid else _answers(record.address):
        return record
    directory.remove(config.name)  # the machine was started anew, or someone killed it
    return None


def _answers(address: str) -> bool:
    with contextlib.suppress(RowloomError), Remote(address, timeout_s=3.0) as remote:
        remote.status()
        return True
    return False


def _same(record: Record, config: DeployConfig) -> Up:
    """A cluster that runs, if it runs with that config."""
    with Remote(record.address) as remote:
        changes = [c for c in diff(running_config(remote.status()), config) if c.action != "keep"]
    if changes:
        raise InvalidRequest(
            f"cluster {config.name!r} runs already, with another config; nothing was changed:\n  "
            + "\n  ".join(f"{c.path}: {c.old!r} runs, {c.new!r} asked" for c in changes)
            + "\n`rowloom apply` changes what can be changed, `rowloom down` ends the cluster"
        )
    return Up(record, started=False)


# --------------------------------------------------------------------------------------------------------------- find


def locate(directory: ClusterDirectory, name: str | None = None, address: str | None = None) -> Record:
    """The cluster that is meant: by address, by name (also one on the machine's Ray), or the only one there is.

    Raises:
        NoSuchCluster: there is none of that name, or more than one to choose from; the message names them.
    """
    if address is not None:
        return Record(name or "", "", address)
    names = directory.names()
    if name is None and len(names) == 1:
        name = names[0]
    if name is None:
        there = f"say which with --name: {', '.join(names)}" if names else "`rowloom up` starts one"
        raise NoSuchCluster(f"{'several clusters are' if names else 'no cluster is'} known here: {there}")
    record = known(directory, name)
    if record is None:
        near = difflib.get_close_matches(name, names, 1, 0.5)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        there = ", ".join(names) or "none"
        raise NoSuchCluster(
            f"no cluster {name!r} is known on this machine{hint} (known: {there}); or give --address"
        )
    return record


def known(directory: ClusterDirectory, name: str) -> Record | None:
    """A cluster by its name: one that was started from here, or one on the machine's Ray; None if there is none."""
    found = directory.get(name)
    if found is None:
        from .ray_clusters import find_on_this_machine

        found = find_on_this_machine(name, directory)
    return found


def reach(record: Record, directory: ClusterDirectory) -> tuple[Remote, pb.StatusReply]:
    """A connection to a cluster's coordinator, and its status. Close the connection.

    A coordinator that Ray has restarted is looked up again, and remembered.

    Raises:
        Unavailable: it does not answer.
    """
    remote = Remote(record.address)
    try:
        return remote, remote.status()
    except Unavailable as e:
        remote.close()
        if record.ray:
            from .ray_clusters import find_again

            address = find_again(record, directory)
            if address is not None and address != record.address:
                directory.put(dataclasses.replace(record, address=address))
                return reach(dataclasses.replace(record, address=address, ray=""), directory)
        what = f"cluster {record.name!r}" if record.name else "the coordinator"
        # One that was killed closes its port a moment before it is gone.
        if record.pid and wait_for_end(record.pid, record.started, 0.5):
            raise Unavailable(
                f"{what} ended by itself: `rowloom down` clears it, `rowloom up` starts it anew"
            ) from e
        raise Unavailable(f"{what} at {record.address} does not answer: {e}") from e
    except BaseException:
        remote.close()
        raise


# ------------------------------------------------------------------------------------------------------------- change


@dataclass(frozen=True)
class Plan:
    """What `apply` would do, and the memory that each shard needs."""

    changes: list[Change]
    memory: Memory

    @property
    def refused(self) -> bool:
        """Whether any of it cannot be done."""
        return any(c.action == "refused" for c in self.changes)


def plan(config: DeployConfig, status: pb.StatusReply | None) -> Plan:
    """From what runs to a config; without a cluster, only the memory."""
    changes = diff(running_config(status), config) if status is not None else []
    return Plan(changes, memory(config, status))


def apply(
    config: DeployConfig, remote: Remote, status: pb.StatusReply, on_progress: OnProgress | None = None
) -> tuple[Plan, pb.ScaleReply | None]:
    """Bring a cluster to a config. Applying it again goes on where it was interrupted.

    Returns:
        What was done, and how the scaling went if there was one.

    Raises:
        InvalidRequest: part of it cannot be done; nothing was changed.
    """
    wanted = plan(config, status)
    refuse(wanted.changes)
    if not wanted.memory.fits:
        raise InvalidRequest(f"nothing was changed: {wanted.memory.warning}")
    specs = {spec.name: spec for spec in config.tables}
    scaled = None
    for change in wanted.changes:
        if change.action == "create":
            remote.create_table(specs[change.table])
        elif change.action == "set_lr":
            remote.set_lr(change.table, change.new)
    for change in wanted.changes:  # last, because it takes long
        if change.action == "scale":
            scaled = remote.scale(change.new, on_progress)
    return wanted, scaled


# --------------------------------------------------------------------------------------------------------------- down


def down(record: Record, directory: ClusterDirectory) -> str:
    """End a cluster and all that belongs to it: servers, actors, placement groups, a Ray that was started for it.

    Returns its name. No error if it is gone already. Raises Unavailable if something of it cannot be ended.
    """
    if record.launcher == "":
        record = _named(record, directory)
    with directory.lock(record.name):
        if record.launcher == "ray" and record.ray:
            from .ray_clusters import down_with_its_ray

            down_with_its_ray(record, directory)
        elif record.pid:
            from .local_clusters import down_local

            down_local(record)
        else:
            with Remote(record.address) as remote:
                remote.shutdown()
        directory.remove(record.name)
    return record.name


def _named(record: Record, directory: ClusterDirectory) -> Record:
    """What is known here of a cluster that was given by address."""
    with Remote(record.address) as remote:
        status = remote.status()
    known = directory.get(status.name)
    if known is not None and known.address == record.address:
        return known
    return dataclasses.replace(record, name=status.name, launcher=status.launcher)
