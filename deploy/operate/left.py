"""What a cluster that has ended left in its storage, by its record: whether rows are there, and its removal."""

from __future__ import annotations

import contextlib
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial

from ...proto import methods
from ...proto import rowloom_pb2 as pb
from ...proto.channel import Channels
from ...proto.errors import InvalidRequest, RowloomError, Unauthorized, Unavailable
from ...proto.layout import Layout
from ...proto.security.credentials import Credentials
from ..config.config import DeployConfig
from ..config.faults import InvalidConfig
from ..config.storage_url import storage_folder
from ..control.state import BadState, ClusterState
from ..snapshots.kept import forget_stored, has_kept, id_of_another, kept_by
from ..storage import StateFile
from .directory import ClusterDirectory, Record

ASK_S = 3.0  # what a server gets to say of which cluster it is
ASKED = 16  # servers, at the same time
HIDDEN = "?"  # no cluster is called so


def is_kept(record: Record) -> bool:
    """Whether `rowloom up` goes on from what a cluster has left. Not if that cannot be told, or another's is there."""
    there = _there(record)
    return there != "" and record.cluster_id in ("", there)


def other_layout(record: Record) -> str:
    """The id of another cluster whose layout is in a cluster's storage, as below its disk; empty: none is known of."""
    return id_of_another(StateFile(record.storage or None), record.cluster_id)


def _there(record: Record) -> str:
    """The id of the cluster that has its logs in a cluster's storage; empty: none, or that cannot be told."""
    with contextlib.suppress(RowloomError, OSError):
        return kept_by(record.storage or None)
    return ""


def unreadable(record: Record) -> str:
    """In words, why what a cluster's storage says of it cannot be read; empty: it can, or nothing is there."""
    try:
        StateFile(record.storage or None).load()
    except RowloomError as e:
        return str(e)
    return ""


def shards_at_start(config: DeployConfig) -> int:
    """How many shards `up` starts: as many as there were, where it goes on from logs, whatever the config says."""
    stored = None
    if storage_folder(config.storage) is not None:
        with contextlib.suppress(RowloomError, OSError):
            stored = _stored(config.storage) if has_kept(config.storage) else None
    return config.shards if stored is None or stored.layout is None else stored.layout.n


def forget(record: Record, layout: str) -> None:
    """Remove what a cluster that was ended has left, and nothing of another one that is there in its place.

    layout: the folder where its layout is kept. Raises Unavailable: it is still there, or some of it.
    """
    try:
        forget_stored(record.storage or None, layout, record.cluster_id)
    except (BadState, Unavailable, OSError) as e:
        raise Unavailable(
            f"{record.name!r} was ended, but what it has left is not: {e}; mend that, then `rowloom down --name "
            f"{record.name}` again, or with --forget, which leaves it there"
        ) from e


def placed(storage: str | None) -> str:
    """A storage as it is found from any folder; empty: there is none."""
    return storage if storage and "://" in storage else os.path.abspath(storage) if storage else ""


def lacks_logs(record: Record, config: DeployConfig | None) -> bool:
    """Whether a cluster of this machine had logs, and there are none in its storage: that may not be mounted.

    config: what the cluster was last started with, if that can be read.
    """
    had = record.kept or (bool(record.address) and config is not None and config.durability != "memory")
    return record.launcher == "local" and bool(record.storage) and had and not is_kept(record)


def not_there(record: Record) -> str:
    """In words, that a cluster's storage has no logs of it, or why that cannot be told."""
    if why := unreadable(record):
        return f"{why}."
    if other := other_layout(record):
        return (
            f"{record.storage} was the storage of {record.name!r}, cluster {record.cluster_id}, and has the layout of "
            f"another cluster now, {other}: is the right disk mounted?"
        )
    return (
        f"the rows of {record.name!r} are in logs in {record.storage}, and there are none now: is it mounted?"
    )


def not_removed(record: Record, config: DeployConfig | None) -> str:
    """In words, what a `down` cannot remove, because it is not where it was; empty: nothing that is known of.

    config: what the cluster was last started with, if that can be read.
    """
    if not lacks_logs(record, config) or unreadable(record):  # then who ends it says so
        return ""
    if other := other_layout(record):
        there = f", which has the layout of another cluster, {other}, of which nothing was removed."
    else:
        there = ", so they could not be removed: was it moved, or is it not mounted?"
    return (
        f"its logs, with its rows, are not in {record.storage}{there} Wherever they are, they stay: when they are back "
        "there, `rowloom up` with its config goes on from them, and another `rowloom down` removes them"
    )


def storage_away(status: pb.StatusReply, directory: ClusterDirectory) -> str:
    """In words, that the storage of a cluster which runs on this machine is not where it was; empty: it is there.

    Its processes have files open there, so they do not notice when it is moved.
    """
    record = None
    with contextlib.suppress(RowloomError):
        record = directory.get(status.name)
    if record is None or record.launcher != "local" or not record.storage:
        return ""
    if record.address != status.layout.coordinator:  # another one of that name
        return ""
    try:
        StateFile(record.storage).load()
    except BadState as e:
        return f"{e.fault}. The cluster serves on, and its next change, as `rowloom snapshot`, writes it anew"
    except RowloomError:
        pass
    record = replace(record, cluster_id=status.layout.cluster_id)
    logs = status.durability != "memory"
    other = other_layout(record)
    if is_kept(record) if logs else _stored(record.storage) is not None and not other:
        return ""
    what = "logs, with its rows, are" if logs else "layout is"
    found = f", but the layout of another cluster, {other}" if other else ""
    return (
        f"the storage of {record.name!r} is not where it was: its {what} not in {record.storage}{found}. Was that "
        "moved, or is it not mounted? The cluster serves on, and nothing that changes it is done before you put it "
        "back; nor is a process started again that ends meanwhile"
    )


def check_there(record: Record, config: DeployConfig | None) -> None:
    """Raise InvalidRequest if an `up` would begin at initial values only because logs are not where they were."""
    _check_own(record)
    if lacks_logs(record, config):
        raise InvalidRequest(
            f"{not_there(record)} Nothing was started. With its rows there again, `rowloom up` goes on. If they are "
            f"gone for good, `rowloom down --name {record.name}` clears it, and `rowloom up` with its config then "
            "begins at initial values"
        )


def _check_own(record: Record) -> None:
    """Raise InvalidRequest if an `up` would go on with the rows of another cluster of that name, or nobody can say."""
    if why := unreadable(record):
        raise InvalidRequest(f"{why}. Nothing was started")
    if _there(record) and not is_kept(record):
        raise InvalidRequest(
            f"{not_there(record)} Nothing was started. With that mounted, or put back, `rowloom up` goes on with its "
            f"rows. If the other cluster is meant: `rowloom down --forget --name {record.name}`, which removes "
            "nothing, then `rowloom up` with its config goes on with that one"
        )


def check_goes_on(config: DeployConfig, record: Record | None, *, ended: bool = False) -> None:
    """Raise InvalidRequest if there are rows of a cluster of that name, and this one would begin without them.

    They may be in another storage, which nobody would remember then, or not where they were, or another cluster's.

    Args:
        config: of the cluster that is to be started.
        record: of that name.
        ended: nothing of it runs, though it was not brought down.
    """
    if record is None or not (record.kept or ended):
        return
    _check_own(record)
    if record.kept:
        check_there(record, None)
    if not is_kept(record):
        return
    asked, there = (os.path.realpath(storage_folder(s) or "") for s in (config.storage, record.storage))
    if storage_folder(config.storage) is None or asked != there:
        other = f"with storage {config.storage}" if config.storage else "without a `storage`"
        raise InvalidRequest(
            f"the rows of cluster {config.name!r} are {'kept' if record.kept else 'in logs'} in {record.storage}, and "
            f"it would be started {other}; nothing was started. Give this one another `name`. `rowloom up --name "
            f"{config.name}` goes on from those rows, `rowloom down --name {config.name}` removes them, and with "
            f"--forget leaves them. {elsewhere(config.name, record.storage)}"
        )


def elsewhere(name: str, storage: str) -> str:
    """In words, how a cluster of which nothing runs goes on from elsewhere, as where its disk is full."""
    return (
        f"To go on from them elsewhere, as on a disk with room: `cp -a {storage} FOLDER`, `rowloom down --forget "
        f"--name {name}`, then `rowloom up` with `storage: FOLDER`"
    )


def check_storage(record: Record, config: DeployConfig | None) -> None:
    """Raise InvalidRequest if what is at a cluster's storage is not its own, of a cluster that does not answer.

    config: what it was last started with, if that can be read.
    """
    if lacks_logs(record, config) or other_layout(record):
        found = not_there(record)
    elif record.launcher == "local" and record.address and record.storage and _stored(record.storage) is None:
        found = f"the layout of {record.name!r} is not in {record.storage}: is it mounted?"
    else:
        return
    raise InvalidRequest(
        f"{found} What it has there is not known before that is back; `rowloom snapshots {record.storage}` lists what "
        "is there now"
    )


def check_own_storage(config: DeployConfig) -> None:
    """Whether a cluster may be started there, of which nothing runs that is known here.

    Raises:
        InvalidConfig: another one has its layout there, so that the `down` of one would remove the other's logs; or one
            of that name runs, started from elsewhere; or what is there is damaged.
    """
    try:
        stored = StateFile(config.storage).load()
    except BadState as e:
        raise InvalidConfig(f"{e}. Nothing was started") from None
    except RowloomError:  # the coordinator says why
        stored = None
    if stored is not None and stored.name != config.name and (stored.layout or stored.beginning):
        raise InvalidConfig(
            f"the storage {config.storage} is that of cluster {stored.name!r}, which runs or can go on, and "
            f"{config.name!r} would write over its layout and its logs; nothing was started. Say another "
            f"`storage`, or end {stored.name!r} first, whose rows are lost then: `rowloom down --name {stored.name}`; "
            "if no cluster of that name is known here, `rowloom up` with its config makes it known"
        )
    _check_silent(stored, config.storage, config.security.settings().credentials())


def check_not_live(storage: str | None, credentials: Credentials) -> None:
    """Raise InvalidConfig if a cluster runs whose layout is there, by whoever started it.

    credentials: what its servers are shown. One that refuses them answers all the same, so it counts.
    """
    _check_silent(_stored(storage), storage, credentials)


def _check_silent(stored: ClusterState | None, storage: str | None, credentials: Credentials) -> None:
    """As `check_not_live`, by what the storage says."""
    layout = stored.layout if stored is not None else None
    if stored is None or layout is None or (address := _answering(layout, credentials)) is None:
        return
    raise InvalidConfig(
        f"the storage {storage} is that of cluster {stored.name!r}, which runs and is not known here: it answers at "
        f"{address}. Nothing was changed: two of them would write over each other's layout and logs. Use it by "
        f"--address {layout.coordinator or address}, or with the --home from which it was started: with either, "
        "`rowloom down` ends it. Or say another `storage`"
    )


def _stored(storage: str | None) -> ClusterState | None:
    """What a storage says of its cluster. None also where it cannot be read: the coordinator says why."""
    with contextlib.suppress(RowloomError):
        return StateFile(storage).load()
    return None


def _answering(layout: Layout, credentials: Credentials) -> str | None:
    """Where a server of a cluster answers; None: nowhere. Its coordinator and its shards are asked side by side."""
    addresses = [*([layout.coordinator] if layout.coordinator else []), *(s.address for s in layout.shards)]
    with Channels(credentials) as channels, ThreadPoolExecutor(min(ASKED, len(addresses))) as askers:
        ids = list(askers.map(partial(_cluster_at, channels), addresses))
    return next((a for a, id in zip(addresses, ids, strict=True) if id in (layout.cluster_id, HIDDEN)), None)


def _cluster_at(channels: Channels, address: str) -> str:
    """The id of the cluster whose server answers at an address; HIDDEN: it says it to others only; empty: none does."""
    try:
        data = channels.call(address, methods.HEALTH, pb.HealthRequest().SerializeToString(), ASK_S)
    except Unauthorized:
        return HIDDEN
    except RowloomError:
        return ""
    return pb.HealthReply.FromString(data).cluster_id
