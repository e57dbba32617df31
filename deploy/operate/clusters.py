"""What the command line does, as functions: start, find, compare, change and end clusters."""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import time
from dataclasses import dataclass

from ...proto import rowloom_pb2 as pb
from ...proto.errors import InvalidRequest, RowloomError, Unavailable, cause
from ..config.changes import compared, differing, ways_out
from ..config.config import DeployConfig
from ..config.launchers import LAUNCHERS
from ..launch.cluster_folder import config_of
from ..launch.processes import is_running, is_stopped, wait_for_end
from ..snapshots.earlier import EarlierSnapshots, passed_over
from ..snapshots.resuming import and_checkpoint
from .directory import Addressed, ClusterDirectory, DamagedRecord, Record
from .launchers import Tell, launcher_of
from .left import check_goes_on, check_not_live, is_kept, lacks_logs, not_there, placed, unreadable
from .left_shards import folder_of, serving_on, unknown_in_words, unread_in_words, up_of
from .remote import Remote, Unreachable
from .status import not_serving, summary

UP_WAIT_S = 60.0  # for another command that starts or ends a cluster of that name
DOWN_WAIT_S = 10.0
RETRY_S = 0.2
BUSY_S = 10.0  # for a coordinator whose process lives to answer: a busy machine takes seconds to connect


class NoSuchCluster(InvalidRequest):
    """None of that name is known, or several are and none was named."""

    exit_code = 4


# ---------------------------------------------------------------------------------------------------------------- up


@dataclass(frozen=True)
class Up:
    """A cluster that runs.

    Attributes:
        record: of it.
        status: what it says of itself; None: it was started with initial values, so that nothing can be lost.
        started: it had to be started.
        taken_over: its shards ran without a coordinator, and have a new one.
        replaced: it was started in place of one that had ended by itself, whose rows are lost.
        passed_over: snapshots that its storage has, where it was started with initial values nevertheless.
    """

    record: Record
    status: pb.StatusReply | None
    started: bool = False
    taken_over: bool = False
    replaced: bool = False
    passed_over: EarlierSnapshots | None = None

    @property
    def shards(self) -> int | None:
        """How many it has, where that may be another number than the config says: it was not begun with that."""
        return None if self.status is None else len(self.status.layout.shards)


def up(
    config: DeployConfig,
    directory: ClusterDirectory,
    tell: Tell = lambda text: None,
    *,
    file: str | None = "FILE",
) -> Up:
    """Start a cluster, unless it runs already with that very config.

    Args:
        config: of the cluster.
        directory: that is to know it.
        tell: what is waited for, while it is.
        file: with that config, for messages. None: it is the config that the cluster had, so that what it runs with
            now is what was made of that since, and is fine.

    Raises:
        InvalidRequest: one of that name runs with another config; the message says what differs. Or the files of
            `security` cannot be used.
        Unavailable: it did not start, as where its storage cannot be used; nothing is left running.
    """
    from ..checks.starting import check_start  # with fsspec, which commands that only look do not wait for

    check_start(config, tell, directory, places=not may_run(config.name, directory))
    with directory.lock(config.name, UP_WAIT_S, tell):
        record = readable(config.name, directory, tell)
        check_goes_on(config, record)
        if record is not None and record.launcher != config.launcher:
            if launcher_of(record.launcher).runs(record, directory):
                return _same(record, config, directory, file)
            check_goes_on(config, record, ended=True)
            directory.remove(config.name)  # the machine was started anew, or someone killed it
        kept = record is not None and is_kept(record)
        replaced = record is not None and bool(record.address) and not kept
        went_on = kept or is_kept(Record(config.name, config.launcher, "", storage=placed(config.storage)))
        launcher = launcher_of(config.launcher)
        ran = record.pid if record is not None else 0
        left = passed_over(config.storage)
        record, found = launcher.up(config, directory, tell)
        if found and not (ran and record.pid != ran):
            try:
                return _same(record, config, directory, file)
            except Unavailable:
                if not record.pid or is_running(record.pid, record.started):
                    raise
            # It was about to end: that of a killed process takes a while.
            record, found = launcher.up(config, directory, tell)
        if not found and not went_on:
            return Up(record, None, started=True, replaced=replaced, passed_over=left)
        # Shards that went on from their logs may have lost them: the status tells.
        status = _as_before(record, config, directory, tell, file)
        return Up(record, status, started=not found, taken_over=found)


def may_run(name: str, directory: ClusterDirectory) -> bool:
    """Whether something of a cluster may run on this machine, so that it is found, or taken over, and not started."""
    local = launcher_of("local")
    with contextlib.suppress(RowloomError):  # whoever needs the record says what is wrong with it
        record = directory.get(name)
        return (
            local.runs(record, directory) if record is not None else local.find(name, directory) is not None
        )
    return True


def _as_before(
    record: Record, config: DeployConfig, directory: ClusterDirectory, tell: Tell, file: str | None
) -> pb.StatusReply:
    """The status of a cluster that goes on as it was: that it was scaled since its file was written is no failure."""
    remote, status = reach(record, directory)
    remote.close()
    if file and (changes := differing(status, config, file)):
        what = ", ".join(compared(changes, file))
        tell(
            f"{record.name!r} runs as before, with another config: {what}; `rowloom apply {file}` changes it"
        )
    return status


def readable(name: str, directory: ClusterDirectory, tell: Tell) -> Record | None:
    """The record of a cluster; if it is damaged, one made of what is found to run."""
    try:
        return directory.get(name)
    except DamagedRecord as e:
        aside = directory.set_aside(name)
        tell(f"the record of {name!r} was damaged ({e.why}) and is now {aside}")
        found = found_running(name, directory)
        if found is not None:
            directory.put(found)
        return found


def _same(record: Record, config: DeployConfig, directory: ClusterDirectory, file: str | None) -> Up:
    """A cluster that runs, if it runs with that config."""
    if not record.address:
        raise InvalidRequest(
            f"a `rowloom up` of {record.name!r} with launcher {record.launcher} was interrupted, and part of it runs: "
            f"`rowloom down --name {record.name}` ends it"
        )
    remote, status = reach(record, directory)
    remote.close()
    if file and (changes := differing(status, config, file)):
        raise InvalidRequest(
            f"cluster {config.name!r} runs already, with another config; nothing was changed:\n  "
            + "\n  ".join(compared(changes, file))
            + f"\n{ways_out(changes, file)}"
            + "".join(f"\n{bad}" for bad in not_serving(summary(status)).values())
        )
    return Up(record, status)


# --------------------------------------------------------------------------------------------------------------- find


STARTS_ONE = "`rowloom up` starts one; or give --address"


def locate(
    directory: ClusterDirectory,
    name: str | None = None,
    address: str | None = None,
    *,
    otherwise: str = STARTS_ONE,
) -> Record:
    """The cluster that is meant: by address, by name (also one that others started), or the only one there is.

    otherwise: in words, what can be done if none of that name is known.

    Raises:
        NoSuchCluster: there is none of that name, or more than one to choose from; the message names them.
        DamagedRecord: what is known of it cannot be read.
    """
    if address is not None:
        return Record(name or "", "", address)
    name = name or only_name(directory, otherwise)
    unasked: list[str] = []
    record = known(directory, name, unasked)
    if record is None:
        names = directory.names()
        near = difflib.get_close_matches(name, names, 1, 0.6)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        there = ", ".join(names) or "none"
        raise NoSuchCluster(
            f"no cluster {name!r} is known on this machine{hint} (known in {directory.home}: {there}): {otherwise}"
            + "".join(f"; {reason}" for reason in unasked)
        )
    return record


def config_as_it_was(directory: ClusterDirectory, name: str) -> DeployConfig:
    """What a cluster that is known here was started with last, its storage as it is found from any folder.

    Raises:
        NoSuchCluster: none of that name is known here.
        DamagedRecord: what is known of it cannot be read.
        InvalidRequest: its config is not known here; it takes the file.
    """
    record = locate(directory, name, otherwise="`rowloom up FILE` starts it, with FILE its deploy config")
    config = config_of(folder_of(name, directory))
    if config is None:
        raise InvalidRequest(f"the config of cluster {name!r} is not known here: `rowloom up FILE` starts it")
    return config.model_copy(update={"storage": record.storage or config.storage})


def forget(directory: ClusterDirectory, name: str | None) -> str:
    """Remove the record of a cluster, also one that is damaged; nothing is ended. Returns its name.

    Raises:
        NoSuchCluster: none of that name is on record.
        Unavailable: `up` or `down` of it run.
    """
    name = name or only_name(directory)
    with directory.lock(name, 0.0):
        names = directory.names()
        if name not in names:
            there = ", ".join(names) or "none"
            raise NoSuchCluster(
                f"no cluster {name!r} is known on this machine (known in {directory.home}: {there}): nothing was "
                "forgotten"
            )
        try:
            directory.get(name)
        except DamagedRecord:
            directory.set_aside(name)
        else:
            directory.remove(name)
    return name


def only_name(directory: ClusterDirectory, otherwise: str = STARTS_ONE) -> str:
    """The name of the only cluster that is known here. Raises NoSuchCluster.

    otherwise: in words, what can be done if there is none.
    """
    if len(meant := directory.meant()) == 1:
        return meant[0]
    names = directory.names()
    if not names:
        raise NoSuchCluster(f"no cluster is known here, in {directory.home}: {otherwise}")
    raise NoSuchCluster(f"several clusters are known here: say which with --name: {', '.join(names)}")


def known(directory: ClusterDirectory, name: str, unasked: list[str] | None = None) -> Record | None:
    """A cluster by its name: one that was started from here, or that is found to run here; None if there is none.

    unasked: what could not be asked, and why, is added here.
    """
    return directory.get(name) or found_running(name, directory, unasked)


def found_running(name: str, directory: ClusterDirectory, unasked: list[str] | None = None) -> Record | None:
    """What runs of a cluster of that name, whatever is on record. unasked: gets why a launcher could not be asked."""
    for launcher in LAUNCHERS:
        try:
            record = launcher_of(launcher).find(name, directory)
        except RowloomError as e:
            if unasked is not None:
                unasked.append(str(e))
        else:
            if record is not None:
                return record
    return None


def reach(
    record: Record, directory: ClusterDirectory, timeout_s: float = 15.0
) -> tuple[Remote, pb.StatusReply]:
    """A connection to a cluster's coordinator, and its status. Close the connection.

    A coordinator that was started anew elsewhere is looked up again, and remembered.

    Raises:
        Unreachable: it does not answer; the message says what was asked, and what to do.
    """
    until = time.monotonic() + BUSY_S
    while True:
        try:
            return _asked(record, timeout_s)
        except Unavailable as e:
            address, why = _elsewhere(record, directory)
            if address is not None and address != record.address:
                break
            if not _is_at_work(record) or time.monotonic() >= until:
                raise _unreachable(record, directory, f"{cause(e)}{why}") from e
        time.sleep(RETRY_S)
    moved = dataclasses.replace(record, address=address)
    found = _asked(moved, timeout_s)
    moved = dataclasses.replace(moved, cluster_id=found[1].layout.cluster_id)
    with contextlib.suppress(OSError):  # it is looked up again the next time
        directory.put(moved)
    return found


def _is_at_work(record: Record) -> bool:
    """Whether the coordinator's process is known to live, and not to stand still."""
    return is_running(record.pid, record.started) and not is_stopped(record.pid)


def _asked(record: Record, timeout_s: float) -> tuple[Remote, pb.StatusReply]:
    if not record.address:
        raise Unavailable("it is not up")
    remote = Remote(record.address, timeout_s, record.credentials)
    try:
        status = remote.status()
        if record.launcher and status.name != record.name:  # it ended, and another got its port
            raise Unavailable(f"what answers there is cluster {status.name!r}")
    except BaseException:
        remote.close()
        raise
    return remote, status


def _elsewhere(record: Record, directory: ClusterDirectory) -> tuple[str | None, str]:
    """Where else the coordinator is, and in words why that is not known."""
    if not record.launcher:
        return None, ""
    try:
        return launcher_of(record.launcher).find_again(record, directory), ""
    except RowloomError as e:
        return None, f"; {e}"


def _unreachable(record: Record, directory: ClusterDirectory, why: str) -> Unreachable:
    what = f"cluster {record.name!r}" if record.name else "the coordinator"
    option = directory.option(record.name)
    if record.kept:
        if why := unreadable(record):
            return Unreachable(f"{what} is down; {why}")
        if lacks_logs(record, None):
            return Unreachable(
                f"{what} is down; {not_there(record)} With its rows there again, `rowloom up --name {record.name}` "
                f"goes on; if they are gone for good, `rowloom down{option}` forgets it"
            )
        return Unreachable(
            f"{what} is down, and its rows are kept in {record.storage}: `rowloom up --name {record.name}`, or `up` "
            f"with its config, goes on from them; `rowloom down{option}` removes them"
            f"{and_checkpoint(record.storage, option)}"
        )
    if record.launcher and not record.address:
        if directory.is_locked(record.name):
            why = unread_in_words(record.name, directory)
            return Unreachable(
                f"{what} is being started: {f'{why}: ' if why else ''}try again when its `rowloom up` has ended"
            )
        if _is_at_work(record):
            return Unreachable(
                f"{what} is being started: its `rowloom up` was interrupted, and its coordinator, process "
                f"{record.pid}, goes on: try again in some seconds; `rowloom down{option}` ends it"
            )
        return Unreachable(
            f"{what} is not up: its `rowloom up` was interrupted. `rowloom down{option}` ends what is left of it, "
            "`rowloom up` with its config starts it anew"
        )
    # One that was killed closes its port a moment before it is gone.
    ended = record.launcher == "local" and wait_for_end(record.pid, record.started, 0.5)
    if ended:
        left = serving_on(record.name, directory)
        if left is not None:
            return Unreachable(
                f"the coordinator of {what} has ended; {left.words()}. {up_of(record.name, directory)} starts a new "
                f"coordinator, which takes them over; `rowloom down{option}` ends them, and asks before rows are lost"
            )
    if ended and record.pid:
        if unknown := unknown_in_words(record, directory):
            return Unreachable(f"the coordinator of {what} has ended; {unknown}")
        if is_kept(record):
            return Unreachable(
                f"{what} has ended, not by a command of this home; its rows are in its logs: "
                f"{up_of(record.name, directory)} goes on from them{and_checkpoint(record.storage, option)}"
            )
        if why := unreadable(record):
            return Unreachable(f"{what} ended by itself; {why}")
        if lacks_logs(record, config_of(folder_of(record.name, directory))):
            return Unreachable(
                f"{what} ended by itself; {not_there(record)} With them {up_of(record.name, directory)} goes on; "
                f"if they are gone for good, `rowloom down{option}` clears it"
            )
        return Unreachable(
            f"{what} ended by itself, and its rows are lost: `rowloom down{option}` clears it, `rowloom up` with its "
            "config starts it anew"
        )
    if record.pid and is_stopped(record.pid):
        why = "its process stands still (as by SIGSTOP)"  # whatever else was met follows from it
    return Unreachable(f"{what} at {record.address} does not answer: {why}{_ways_on(record, directory)}")


def _ways_on(record: Record, directory: ClusterDirectory) -> str:
    """In words, what can be done about a coordinator that does not answer."""
    option, again = directory.option(record.name), up_of(record.name, directory)
    if not record.launcher:
        return _of_address(record.address, directory)
    still = ""
    if _is_at_work(record):
        return f"; its process {record.pid} is alive, and may be busy: try again"
    if record.pid and is_stopped(record.pid):
        still = (
            f": `kill -CONT {record.pid}` lets it go on, with all rows, or `kill -9 {record.pid}`, then {again}, "
            "starts another coordinator for its shards, which serve on"
        )
    if is_kept(record):
        # Without a coordinator the shards serve on; `down --keep` ends them.
        gone = f"; if it is gone for good, `rowloom down --keep{option}`, then {again}, go on from its logs"
        return still or gone
    return f"{still}; `rowloom down{option}` ends what is left of it, AND ALL ITS ROWS ARE LOST"


def _of_address(address: str, directory: ClusterDirectory) -> str:
    """The same, of one that was given by address."""
    if name := directory.at(address):
        return f". Cluster {name!r}, which is known here, was there: `rowloom status --name {name}` says more"
    return (
        ". `rowloom list` shows the clusters that are known on this machine; where it was started, `rowloom status` "
        "says the address of its coordinator"
    )


# --------------------------------------------------------------------------------------------------------------- down


def down(record: Record, directory: ClusterDirectory, *, keep: bool = False) -> str:
    """End a cluster and all that belongs to it: servers, actors, placement groups, a Ray that was started for it.

    Returns its name. No error if it is gone already. Raises Unavailable if something of it cannot be ended, and
    PermissionDenied if it was given by address, and whoever did may not.

    keep: rows that are in logs stay there, for an `up` that goes on, and it stays known. Raises InvalidRequest: there
    are none, and nothing was ended.
    """
    with directory.lock(record.name, DOWN_WAIT_S):
        if not record.launcher or isinstance(record, Addressed):
            _ask_to_end(record, keep)
        if record.launcher:
            if record.kept and not keep:
                check_not_live(record.storage, record.credentials)
            if keep:
                _check_keeps(record, directory)
            launcher_of(record.launcher).down(record, directory, keep=keep)
            if keep and record.storage:
                directory.put(dataclasses.replace(record, storage=placed(record.storage)).as_kept())
                return record.name
        directory.remove(record.name)
    return record.name


def _ask_to_end(record: Record, keep: bool) -> None:
    """Let a coordinator end its cluster. Raises PermissionDenied: whoever gave its address may not."""
    with Remote(record.address, credentials=record.credentials) as remote:
        remote.shutdown(keep=keep)
        if record.pid:
            wait_for_end(record.pid, record.started, record.stop_grace_s + DOWN_WAIT_S)


def _check_keeps(record: Record, directory: ClusterDirectory) -> None:
    """Raise InvalidRequest if nothing runs of a cluster and no rows of it are in logs. What runs says so by itself."""
    if record.launcher != "local" or is_kept(record) or serving_on(record.name, directory) is not None:
        return
    if lacks_logs(record, config_of(folder_of(record.name, directory))):
        raise InvalidRequest(f"{not_there(record)} Nothing was ended: put that back first")
    from ..requests.handlers import NOTHING_KEPT  # what the coordinator says, if there is one

    raise InvalidRequest(NOTHING_KEPT)
