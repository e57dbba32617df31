"""The clusters that are known here, and in a word how each is."""

from __future__ import annotations

import dataclasses
from concurrent.futures import ThreadPoolExecutor
from itertools import repeat
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...proto.errors import RowloomError
from ..launch.processes import is_running
from .directory import ClusterDirectory, DamagedRecord, Record
from .launchers import launcher_of
from .left import is_kept, unreadable
from .left_shards import running_unknown, serving_on
from .remote import Remote
from .status import grid, summary

if TYPE_CHECKING:
    from rich.console import RenderableType

ASK_S = 3.0  # what each gets to answer
ASKERS = 16
COLOURS = {"healthy": "green", "starting": "yellow", "no coordinator": "yellow", "kept": "cyan"}
AWAY = "kept, storage away"
UNREADABLE = "kept, state unreadable"


def listed(directory: ClusterDirectory) -> list[dict[str, Any]]:
    """Name, launcher, address, storage, shards and state of each, by name; all are asked at once.

    The states: healthy; not healthy (a shard does not serve); starting; interrupted (its `up` was); no coordinator
    (that has ended, and shards run); kept (it is down, and its rows are in its storage); kept, storage away (the same,
    and they are not there now); kept, state unreadable (what its storage says of it cannot be read); ended (its
    processes are gone); silent (its coordinator does not answer); damaged (its record cannot be read).
    """
    names = directory.names()
    with ThreadPoolExecutor(max(1, min(ASKERS, len(names)))) as askers:
        return list(askers.map(_one, names, repeat(directory)))


def _one(name: str, directory: ClusterDirectory) -> dict[str, Any]:
    try:
        record = directory.get(name) or Record(name, "", "")
    except DamagedRecord:
        record = Record(name, "", "")
        state, shards = "damaged", None
    else:
        record = _as_it_runs(record, directory)
        state, shards = _state(record, directory)
    return {
        "name": name,
        "launcher": record.launcher or None,
        "address": record.address or None,
        "storage": record.storage or None,
        "shards": shards,
        "state": state,
    }


def _as_it_runs(record: Record, directory: ClusterDirectory) -> Record:
    """A record with the address of a coordinator that came up when its `up` had ended already, and told nobody."""
    if record.address or record.kept or record.launcher != "local":
        return record
    return dataclasses.replace(record, address=launcher_of("local").find_again(record, directory) or "")


def _state(record: Record, directory: ClusterDirectory) -> tuple[str, int | None]:
    if record.kept:
        return "kept" if is_kept(record) else UNREADABLE if unreadable(record) else AWAY, None
    if not record.address:
        starts = directory.is_locked(record.name) or is_running(record.pid, record.started)
        return "starting" if starts else "interrupted", None
    if record.launcher == "local" and not is_running(record.pid, record.started):
        left = serving_on(record.name, directory)
        if left is not None:
            return "no coordinator", left.shards
        if record.pid:
            return "no coordinator" if running_unknown(record.name, directory) else "ended", None
    try:
        with Remote(record.address, ASK_S, record.credentials) as remote:
            state = summary(remote.status())
    except RowloomError:
        return "silent", None
    if state["name"] != record.name:  # another one has its port
        return "silent", None
    return "healthy" if state["healthy"] else "not healthy", len(state["shards"])


def render_list(found: list[dict[str, Any]], home: Path) -> RenderableType:
    """`listed` as a table. home: where was looked."""
    from rich.text import Text

    if not found:
        return Text(f"no cluster is known here, in {home}: `rowloom up` starts one")
    table = grid("cluster", "state", ">shards", "launcher", "coordinator", "storage")
    for one in found:
        colour = COLOURS.get(one["state"], "bold red")
        shards = "" if one["shards"] is None else str(one["shards"])
        words = (one[key] or "" for key in ("launcher", "address", "storage"))
        table.add_row(one["name"], Text(one["state"], colour), shards, *words)
    return table
