"""Which cluster is to end: by its name, by an address, or the only one there is.

Why it is so. Whoever gives an address says whom they are with ROWLOOM_TOKEN_FILE and its like: they may be another one
than who started the cluster, on a machine that both use. So what is known here of the cluster says how it is ended, and
the environment whether that is allowed.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os

from ...proto.errors import Unavailable, cause
from ...proto.security.credentials import is_any_set
from ..launch.cluster_folder import config_of
from ..operate.clusters import found_running, locate, only_name, readable
from ..operate.directory import Addressed, ClusterDirectory, DamagedRecord, Record
from ..operate.launchers import Tell
from ..operate.left import is_kept, placed
from ..operate.left_shards import folder_of
from ..operate.remote import Remote, Unreachable

NOTHING_TO_END = "there is nothing to end here; --address ends one of another machine"


def locate_to_end(
    directory: ClusterDirectory,
    name: str | None = None,
    address: str | None = None,
    tell: Tell = lambda text: None,
) -> Record:
    """As `locate`; a damaged record is moved aside, and what of the cluster is found to run is meant.

    By address it is the cluster that answers there, with what is known of it here.

    Raises:
        NoSuchCluster.
        Unreachable: nothing of rowloom answers at the address.
    """
    if address is not None:
        return _at(address, directory)
    name = name or only_name(directory, NOTHING_TO_END)
    try:
        directory.get(name)
    except DamagedRecord:
        return readable(name, directory, tell) or _as_configured(name, directory)
    return locate(directory, name, otherwise=NOTHING_TO_END)


def to_forget(directory: ClusterDirectory, name: str) -> Record | None:
    """What is known of a cluster that is to be forgotten; of one with a damaged record, what of it is found to run."""
    try:
        return directory.get(name)
    except DamagedRecord:
        return found_running(name, directory)


def _as_configured(name: str, directory: ClusterDirectory) -> Record:
    """A cluster of which nothing runs and no record can be read: what it was started with says where its rows are."""
    config = config_of(folder_of(name, directory))
    if config is None:
        return Record(name, "local", "")
    record = Record(name, config.launcher, "", storage=placed(config.storage))
    if not is_kept(record):
        return record
    record = dataclasses.replace(record, kept=True)
    directory.put(record)  # who is asked whether that is meant may say no, or come again with --yes
    return record


def _at(address: str, directory: ClusterDirectory) -> Record:
    """The cluster whose coordinator answers at an address."""
    given = Record("", "", address)
    try:
        with Remote(address, credentials=given.credentials) as remote:
            status = remote.status()
    except Unavailable as e:
        raise Unreachable(
            f"no cluster answers at {address}: {cause(e)}. {_instead(address, directory)}"
        ) from e
    with contextlib.suppress(DamagedRecord):
        known = directory.get(status.name)
        if known is not None and known.address == address:
            return Addressed.of(known) if is_any_set(os.environ) else known
    return dataclasses.replace(given, name=status.name)


def _instead(address: str, directory: ClusterDirectory) -> str:
    """What can be done where no cluster answers."""
    if name := directory.at(address):
        return f"The coordinator of {name!r} was there: `rowloom down --name {name}` ends what is left of it"
    return "No cluster that is known here was there: `rowloom list` shows those. Nothing was ended"
