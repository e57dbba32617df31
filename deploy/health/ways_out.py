"""What can be done about shards that do not serve, in words."""

from __future__ import annotations

import errno
import os
from typing import Any

from ..config.memory import in_bytes
from ..config.words import listed, shards_named
from ..operate.status import AGAIN, GOOD, PULLS_ONLY, living, lost, without_server
from ..snapshots.room import to_go_on
from ..standby.shown import IN_STEP

FULL = os.strerror(errno.ENOSPC)
_BY_ITSELF = (
    ": it is started again by itself and reads them. Nothing is to be done; look again in some seconds. If it stays "
    "dead, the log of the cluster says why"
)
_AWAY = ", which is not where it was: put the storage back, and it is started again by itself and reads them"


def ways_out(state: dict[str, Any], options: str = "") -> str:
    """In words, what can be done about the shards that do not serve; empty if all do.

    Args:
        state: a `summary`, with `storage_away` where that was looked at.
        options: of commands that mean this cluster, such as " --name ads".
    """
    bad = [s for s in state["shards"] if s["health"] not in GOOD]
    still = [s for s in bad if s["health"] == "stopped"]
    full = [s for s in bad if s["health"] == PULLS_ONLY]
    logs = state["durability"] != "memory"
    unread = [s for s in bad if s["health"] in AGAIN and s.get("unread")]
    stays, away = [s for s in bad if s.get("stays_dead")], bool(state.get("storage_away"))
    again = [s for s in bad if s["health"] in AGAIN or (s["health"] == "dead" and logs)]
    gone = lost(state)
    followed = [s for s in without_server(state) if s not in (*gone, *stays)]
    said = "".join(
        f". The process of shard {s['index']} stands still (as by SIGSTOP) and holds its rows: `kill -CONT {s['pid']}` "
        f"on {s['node']} lets it go on"
        for s in still
    )
    for s in followed:
        knows = (
            "has its rows and takes"
            if s["standby"]["state"] == IN_STEP
            else "has not answered yet, and may take"
        )
        said += f". The standby of shard {s['index']} {knows} its place by itself: look again in some seconds"
    if full:
        said += (
            ". A shard whose log failed has all its rows and takes no pushes: make room on its disk, or mend that. The "
            "cluster then takes a snapshot, and pushes go on, by themselves. Where there is little room it takes a "
            "second one before, and cuts the logs that both have: room for "
            "all of that is about "
            f"{in_bytes(to_go_on(sum(s['bytes'] for s in state['shards']), len(state['shards']), snapshots=2))}"
            ". A fast trainer may fill that once more before logs are cut; then pushes go on by themselves, too"
        ) + _what_keeps_back([s for s in bad if s not in full])
    if unread:
        said += (
            ". A shard that cannot read its log yet tries it again each second, and nothing of it is known to be lost: "
            "look at its disk, and mend what is said of that"
        )
    if stays:
        said += _not_started(stays, "log" if logs else "standby")
    if any(s not in (*unread, *stays) for s in again):
        said += ". A shard that is dead, or starts anew, has its rows in its log" + (
            _AWAY if away else _BY_ITSELF
        )
    if any(s not in (*still, *full, *stays, *again, *followed, *gone) for s in bad):
        said += _silent(state, options)
    return said + (_without_rows(state, [s["index"] for s in gone], options) if gone else "")


def _not_started(stays: list[dict[str, Any]], place: str) -> str:
    """In words, what can be done about shards whose processes ended, and that nobody could bring back.

    place: where their rows are.
    """
    full = any(FULL in s["stays_dead"] for s in stays)
    return (
        f". A shard that cannot be started again yet has its rows in its {place}, and nothing of it is known to be "
        f"lost; {'make room on the disk that is named, or ' if full else ''}mend what is said of it: it is tried again "
        "each second, by itself"
    )


def _without_rows(state: dict[str, Any], gone: list[int], options: str) -> str:
    """In words, what can be done about shards that have no rows. gone: their indexes."""
    from ..snapshots.usable import restore_in_words  # with fsspec, which not every status waits for

    one, restore = len(gone) == 1, restore_in_words(state)
    said, stays = ". What a lost or dead shard held is gone", ""
    if state["durability"] != "memory":
        held = f"what {'it' if one else 'they'} held is gone"
        but = ", but for what a restore brings back" if "rowloom restore" in restore else ""
        said = f"{_put_back(state, gone, options)}. Without such a copy {held}{but}"
        logs = listed([f"`shard-{index}.lost-1`" for index in gone])
        stays = f"; what there is of the old {'log' if one else 'logs'} stays beside, as {logs} or with the next number"
    accept = " ".join(f"--accept-loss {index}" for index in gone)
    others = ", and leaves the others as they are" if len(gone) < len(state["shards"]) else ""
    saves = f"`rowloom export TABLE FILE --partial{options}` saves the rows of the other shards"
    ways = [
        saves if living(state) else "",
        restore,
        f"`rowloom recover {accept}{options}` makes {'it' if one else 'them'} anew, from initial values{others}{stays}",
        f"`rowloom down{options}`, then `rowloom up` with its config, starts all anew, and all rows are lost",
    ]
    return f"{said}. The ways out:" + "".join(f"\n- {way}" for way in ways if way)


def _put_back(state: dict[str, Any], gone: list[int], options: str) -> str:
    """In words, how shards whose logs cannot be read have their rows again. gone: their indexes."""
    one = len(gone) == 1
    more = listed([f"`rowloom logs {index}{options}`" for index in gone])
    folder = f"logs/{state['cluster_id']}/epoch-{state['epoch']}"
    folders = listed([f"{folder}/shard-{index}" for index in gone])
    return (
        f". {shards_named(gone).capitalize()} could not read {'its log' if one else 'their logs'}: {more} "
        f"{'says' if one else 'say'} more. Whoever has a whole copy of the files loses no row: `rowloom down --keep"
        f"{options}`, put them back into {folders} of the storage, then {_up(state, options)}"
    )


def _up(state: dict[str, Any], options: str) -> str:
    """The command that goes on with a cluster that was kept. Of one given by address nothing may be known here."""
    named = state["name"] and "--address" not in options
    return f"`rowloom up --name {state['name']}`" if named else "`rowloom up` with its config"


def _silent(state: dict[str, Any], options: str) -> str:
    """In words, what can be done about shards that did not answer, and are not known to have lost anything."""
    keep = f", or `rowloom down --keep{options}`, then {_up(state, options)}, goes on from the logs and loses nothing"
    return (
        ". A shard that is unreachable did not answer in time: it may be busy, or stand still, and no rows of it are "
        f"known to be lost. Look again in a moment: `rowloom status{options}`. If it stays so, `rowloom logs{options}` "
        f"says why{keep if state['durability'] != 'memory' else ''}"
    )


def _what_keeps_back(others: list[dict[str, Any]]) -> str:
    """In words, the shards without which there is no snapshot, so that no log that failed goes on."""
    if not others:
        return ""
    who = ", ".join(f"shard {s['index']} is {s['health']}" for s in others)
    return f": not while {who}, because every shard has its part in a snapshot"
