"""Commands about the nodes of a cluster: drain and undrain."""

from __future__ import annotations

from typing import Annotated

import typer

from ..cli_options import Address, AsJson, Home, Name, check_serving, cluster, interrupted
from ..config.words import standbys_of
from ..terminal import show, stage

NodeName = Annotated[str, typer.Argument(help="Its address, its name, or the beginning of its id.")]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command()(drain)
    app.command()(undrain)


def drain(
    node: NodeName, name: Name = None, address: Address = None, home: Home = None, as_json: AsJson = False
) -> None:
    """Take everything off a node of Ray, while trainers go on. Shards start elsewhere, and so does the coordinator.

    Standbys that are there end, and others are made on other nodes, if there is one that their shard is not on.
    Nothing is started there any more, until `rowloom undrain`. Refused, with nothing changed, if the others have no
    room. A node that Ray gives notice of, as before it is preempted, is left by itself.
    """
    from ..operate.moves import handed_over, pace
    from ..operate.status import summary

    title = f"draining {node}"
    with cluster(name, address, home) as (remote, now, options), stage(title, as_json, unit="rows") as moving:
        check_serving(summary(now), "nothing was changed", options=options)
        again = f"it goes on by itself; `rowloom drain {node}{options}` waits for it"
        with interrupted(lambda: again):
            done = remote.drain(node, lambda reply: moving.reach(reply.rows, reply.rows_total, pace(reply)))
    told = handed_over(done.move) if done.HasField("move") else "no shard was there"
    if done.standbys:
        told += (
            f"; {standbys_of(done.standbys)} ended there, and others are made where there is room: `rowloom "
            f"status{options}` says when they are in step"
        )
    leaves = "; the coordinator goes elsewhere now" if done.coordinator else ""
    show(
        as_json,
        {
            "node": done.node,
            "address": done.address,
            "shards": list(done.shards),
            "standbys": list(done.standbys),
            "coordinator": done.coordinator,
            "rows": done.move.rows,
            "pause_s": round(done.move.pause_s, 4),
            "seconds": round(done.move.seconds, 4),
        },
        f"{done.address} ({done.node[:8]}) is drained: {told}{leaves}. `rowloom undrain {done.node[:8]}{options}` lets "
        "it be used again",
    )


def undrain(
    node: NodeName, name: Name = None, address: Address = None, home: Home = None, as_json: AsJson = False
) -> None:
    """Let a node be used again that was drained. Nothing moves back by itself."""
    with cluster(name, address, home) as (remote, _, _):
        done = remote.undrain(node)
    show(
        as_json,
        {"node": done.node, "address": done.address},
        f"{done.address} ({done.node[:8]}) may be used again: new shards may go there, nothing moves back by itself",
    )
