"""What the shards of a config ask of a Ray, what is there, and what they wait for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

from ...proto.errors import Unavailable
from ..config.config import DeployConfig
from ..config.memory import in_bytes
from ..config.words import counted

Resources = Mapping[str, float]


def bundle_of(config: DeployConfig) -> dict[str, float]:
    """What Ray sets aside for one shard."""
    options = config.ray
    memory = {"memory": float(options.memory_per_shard)} if options.memory_per_shard else {}
    return {"CPU": options.num_cpus_per_shard, **options.resources, **memory}


def capacity(config: DeployConfig, nodes: Sequence[Resources]) -> int:
    """How many shards fit on nodes that hold nothing else, placed as the config says.

    nodes: what each has in all.
    """
    each = _each(config, nodes)
    if config.ray.placement == "STRICT_PACK":
        return max(each, default=0)
    return sum(1 for n in each if n) if config.ray.placement == "STRICT_SPREAD" else sum(each)


def _capacity(config: DeployConfig, nodes: Sequence[Resources]) -> int:
    """How many servers fit, however they are placed."""
    return sum(_each(config, nodes))


def _each(config: DeployConfig, nodes: Sequence[Resources]) -> list[int]:
    """How many servers fit on each node."""
    bundle, all_of_them = bundle_of(config), config.shards * (1 + config.replicas)
    return [
        min((int(node.get(k, 0.0) / v) for k, v in bundle.items() if v), default=all_of_them)
        for node in nodes
    ]


def asked(config: DeployConfig, *, standbys: bool = False) -> str:
    """In words, what all shards ask for. standbys: and their standbys."""
    bundle, more = bundle_of(config), config.replicas if standbys else 0
    total = {k: v * config.shards * (1 + more) for k, v in bundle.items()}
    what = counted(config.shards, "shard") + (f" and {counted(config.shards, 'standby')}" if more else "")
    return f"{what} of {_words(bundle)} each ({config.ray.placement}), {_words(total)} in all"


def _words(resources: Resources, like: Resources | None = None) -> str:
    shown = {k: resources.get(k, 0.0) for k in (like or resources)}
    return ", ".join(f"{k} {in_bytes(int(v)) if k == 'memory' else f'{v:g}'}" for k, v in shown.items())


def resources_of_nodes() -> list[Resources]:
    """What each node has that is alive."""
    import ray

    return [node["Resources"] for node in cast(Any, ray).nodes() if node["Alive"]]


def waits_for_node(config: DeployConfig, nodes: Sequence[Resources]) -> str:
    """In words, that no node could hold the coordinator, were it empty; empty if one could.

    nodes: what each has in all.
    """
    wanted = config.ray.coordinator_resources
    if not wanted or any(all(node.get(k, 0.0) >= v for k, v in wanted.items()) for node in nodes):
        return ""
    return (
        f"no node of Ray has what the coordinator needs, ray.coordinator_resources {_words(wanted)}: start one with it "
        "(`ray start --resources`), or ask for less"
    )


def check_room(config: DeployConfig) -> None:
    """Raises Unavailable if the nodes that are there could not hold all servers, were they empty."""
    nodes = resources_of_nodes()
    nowhere = waits_for_node(config, nodes)
    if nowhere:
        raise Unavailable(nowhere)
    fitting, wanted = capacity(config, nodes), config.shards
    if config.replicas:  # on the one node that our own Ray has they are beside their shards
        fitting, wanted = _capacity(config, nodes), wanted * (1 + config.replicas)
    if fitting < wanted:
        asks = asked(config, standbys=True)
        raise Unavailable(f"there is no room for {asks}: {_shortage(config, fitting, nodes)}. {LESS}")


LESS = (
    "Ask for less (shards, ray.memory_per_shard, ray.num_cpus_per_shard, ray.resources, ray.placement), "
    "or use more or larger nodes"
)


def _shortage(config: DeployConfig, fitting: int, nodes: Sequence[Resources]) -> str:
    bundle = bundle_of(config)
    there = "; ".join(_words(node, bundle) for node in nodes[:8]) or "none"
    return f"{fitting} fit; the {len(nodes)} nodes have {there}"


def waits_for_room(config: DeployConfig) -> str:
    """In words, what the start of a cluster waits for; empty if it is not for room."""
    import ray
    from ray.util.placement_group import placement_group_table  # pyright: ignore[reportUnknownVariableType]

    prefix = f"rowloom/{config.name}/"
    groups = cast(Any, placement_group_table)().values()
    if not any(g["name"].startswith(prefix) and g["state"] == "PENDING" for g in groups):
        return ""
    nodes, free = resources_of_nodes(), cast(Any, ray).available_resources()
    fitting = capacity(config, nodes)
    fits = f"free now: {_words(free, bundle_of(config))}"
    never = f"more than there is even when all is free: {_shortage(config, fitting, nodes)}"
    return (
        f"waiting for room on Ray, at most {config.limits.start_timeout_s:g} s (limits.start_timeout_s): asked are "
        f"{asked(config)}; {fits if fitting >= config.shards else never}"
    )
