"""The nodes of a Ray: what it knows of them, which it takes away, and how to keep bundles off some of them.

Ray takes a node away with a notice: its autoscaler does, when one is idle or will be preempted, or `ray drain-node`.
From then on it starts nothing there, and what runs there goes on until the node ends.
"""

# What Ray knows of nodes that drain has no public name.
# pyright: reportPrivateUsage=false

from __future__ import annotations

import inspect
from collections.abc import Collection, Mapping, Sequence
from typing import Any, cast

from ...proto.errors import InvalidRequest
from .nodes import Node

NODE_ID = "ray.io/node-id"  # the label that Ray gives every node


def nodes_of_ray(*, ended: bool = False) -> list[Node]:
    """Those that are alive; ended: also those that Ray has had."""
    import ray

    draining, free = _draining(), _free()
    return [
        Node(
            node["NodeID"],
            node["NodeManagerAddress"],
            node.get("NodeName", ""),
            node["NodeID"] in draining,
            free.get(node["NodeID"], {}),
            node.get("Labels", {}),
            node["Resources"],
            node["Alive"],
        )
        for node in cast(Any, ray).nodes()
        if node["Alive"] or ended
    ]


def _draining() -> Collection[str]:
    from ray._private import state

    ask = getattr(cast(Any, state).state, "get_draining_nodes", None)  # none: a version without
    return ask() if ask is not None else ()


def _free() -> dict[str, dict[str, float]]:
    from ray._private import state

    return cast(Any, state).available_resources_per_node()


def selector(labels: Mapping[str, str], avoided: Collection[str]) -> dict[str, str]:
    """The labels that a node must have: those of the config, and not the id of one that is avoided."""
    away = {NODE_ID: f"!in({','.join(sorted(avoided))})"} if avoided else {}
    return {**labels, **away}


def selects(wanted: Mapping[str, str], count: int) -> dict[str, Any]:
    """The arguments of a placement group of `count` bundles whose nodes must have labels; none if they need not.

    Raises:
        InvalidRequest: this version of Ray cannot say that of bundles.
    """
    from ray.util.placement_group import placement_group

    if not wanted:
        return {}
    check_can_select(list(inspect.signature(placement_group).parameters))
    return {"bundle_label_selector": [dict(wanted)] * count}


def check_can_select(parameters: Sequence[str]) -> None:
    """Raises InvalidRequest. parameters: of what makes a placement group."""
    if "bundle_label_selector" not in parameters:
        import ray

        raise InvalidRequest(
            f"Ray {ray.__version__} cannot keep shards off nodes by their labels, which `ray.label_selector`, "
            "`replicas: 1` and `rowloom drain` need: use Ray 2.50 or newer, or ray.resources"
        )
