"""The clusters that are known here, and in a word how each is."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from itertools import repeat
from typing import TYPE_CHECKING, Any

from ...proto.errors import RowloomError
from ..config.launchers import LAUNCHERS
from .directory import ClusterDirectory, DamagedRecord, Record
from .launchers import launcher_of
from .remote import Remote
from .status import grid, summary

if TYPE_CHECKING:
    from rich.console import RenderableType

ASK_S = 3.0  # what each gets to answer
ASKERS = 16


def listed(directory: ClusterDirectory) -> list[dict[str, Any]]:
    """Name, launcher, address, shards and state of each, in order of their names; all are asked at once.

    The states: healthy; not healthy (a shard does not serve); starting; interrupted (its `up` was); ended (its
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
        state, shards = _state(record, directory)
    return {
        "name": name,
        "launcher": record.launcher or None,
        "address": record.address or None,
        "shards": shards,
        "state": state,
    }


def _state(record: Record, directory: ClusterDirectory) -> tuple[str, int | None]:
    if not record.address:
        return "starting" if directory.is_locked(record.name) else "interrupted", None
    if record.pid and record.launcher in LAUNCHERS and not launcher_of(record.launcher).runs(record):
        return "ended", None
    try:
        with Remote(record.address, ASK_S) as remote:
            state = summary(remote.status())
    except RowloomError:
        return "silent", None
    if state["name"] != record.name:  # another one has its port
        return "silent", None
    return "healthy" if state["healthy"] else "not healthy", len(state["shards"])


def render_list(found: list[dict[str, Any]]) -> RenderableType:
    """`listed` as a table."""
    from rich.text import Text

    if not found:
        return Text("no cluster is known here: `rowloom up` starts one")
    table = grid("cluster", "state", ">shards", "launcher", "coordinator")
    for one in found:
        colour = {"healthy": "green", "starting": "yellow"}.get(one["state"], "bold red")
        shards = "" if one["shards"] is None else str(one["shards"])
        table.add_row(
            one["name"], Text(one["state"], colour), shards, one["launcher"] or "", one["address"] or ""
        )
    return table
