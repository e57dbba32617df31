"""Actors and placement groups by their names: who belongs to which cluster, and how they end.

Every actor is detached and named in the namespace `rowloom`: `NAME/coordinator` and `NAME/shard-KEY`. Shards that start
together share a placement group, `rowloom/NAME/FIRST-LAST`, whose name says which keys it holds, so that whoever comes
later can find and remove it.
"""

from __future__ import annotations

import contextlib
import ipaddress
import socket
import time
from collections.abc import Callable, Generator
from typing import Any, cast

from ...proto.errors import InvalidRequest, RowloomError, Unavailable
from ..config.config import DeployConfig
from ..config.endpoints import WILDCARDS
from .launcher import ServerProcess
from .ray_session import NAMESPACE

THREADS = 4  # of an actor: a long call must not hide the short ones
GET_TIMEOUT_S = 20.0
NAME_FREE_S = 20.0


def interface(config: DeployConfig) -> tuple[str, str]:
    """Where a server on this node listens, and what others call it."""
    import ray

    node: str = cast(Any, ray.util).get_node_ip_address()
    named = config.host if config.host and config.host not in WILDCARDS else node
    return config.host or node, advertised(config.advertise_host, named)


def advertised(wanted: str | None, default: str) -> str:
    """`advertise_host`: a name or an address, or a network in which this node has an address.

    Raises:
        InvalidRequest: this node has no address in that network.
    """
    if wanted is None:
        return default
    if "/" not in wanted:
        return wanted
    network = ipaddress.ip_network(wanted)
    infos = socket.getaddrinfo(socket.gethostname(), None, socket.AF_INET)
    mine = {str(info[4][0]) for info in infos} | {default}
    inside = sorted(a for a in mine if ipaddress.ip_address(a) in network)
    if not inside:
        raise InvalidRequest(
            f"advertise_host: this node has no address in {wanted}; it has {', '.join(sorted(mine))}"
        )
    return inside[0]


def node_here() -> str:
    """This node's address and the beginning of its id, for people."""
    import ray

    return f"{ray.util.get_node_ip_address()} ({ray.get_runtime_context().get_node_id()[:8]})"


def group_name(cluster: str, first: int, last: int) -> str:
    """Of the placement group of the shards under keys first to last."""
    return f"rowloom/{cluster}/{first}-{last}"


@contextlib.contextmanager
def asking() -> Generator[None]:
    """Around a question to Ray's head. Raises Unavailable: it does not answer, in whatever way."""
    try:
        yield
    except RowloomError:
        raise
    except Exception as e:
        raise Unavailable(f"Ray's head does not answer: {e}") from e


def groups_of(cluster: str) -> list[tuple[str, int, int]]:
    """(name, first key, last key) of the placement groups of a cluster that are not removed."""
    from ray.util.placement_group import placement_group_table  # pyright: ignore[reportUnknownVariableType]

    found: list[tuple[str, int, int]] = []
    for group in cast(Any, placement_group_table)().values():
        prefix, _, keys = group["name"].rpartition("/")
        if prefix == f"rowloom/{cluster}" and group["state"] != "REMOVED":
            first, _, last = keys.partition("-")
            found.append((group["name"], int(first), int(last)))
    return found


def remove_group(name: str) -> None:
    """Remove a placement group. No error if there is none."""
    from ray.util.placement_group import get_placement_group, remove_placement_group

    with contextlib.suppress(ValueError):  # someone else removed it
        remove_placement_group(get_placement_group(name))


def actors_of(cluster: str) -> list[str]:
    """Names of the live actors of a cluster."""
    import ray

    listed: Any = ray.util.list_named_actors(all_namespaces=True)
    return [a["name"] for a in listed if a["namespace"] == NAMESPACE and a["name"].startswith(f"{cluster}/")]


def coordinator_options(config: DeployConfig) -> dict[str, Any]:
    """Of a coordinator's actor."""
    options: dict[str, Any] = {"name": f"{config.name}/coordinator", "namespace": NAMESPACE, "num_cpus": 0}
    options["resources"] = config.ray.coordinator_resources or None
    if config.ray.runtime_env:
        options["runtime_env"] = dict(config.ray.runtime_env)
    return options | {
        "lifetime": "detached",
        "max_restarts": -1,
        "max_task_retries": 0,
        "max_concurrency": THREADS,
    }


def process_of(actor: Any, *, comes_back: bool = True) -> ServerProcess:
    """What Ray's head knows of the process of an actor that does not answer. Asks only the head.

    comes_back: one that Ray starts again is nobody's loss yet; else its process has ended.
    """
    try:
        from ray._private import state  # Ray's public way to ask needs its dashboard, which may not run

        info = cast(Any, state).actors(actor._actor_id.hex())
        if info["State"] == "DEAD" or (info["State"] == "RESTARTING" and not comes_back):
            return ServerProcess("ended", sure=_is_seen(info["DeathCause"]))
        if info["State"] != "ALIVE":  # it is being started again
            return ServerProcess("unknown")
        return ServerProcess("running", str(info["Address"]["IPAddress"]), int(info["Pid"]))
    except Exception:  # another version of Ray, or it does not answer
        return ServerProcess("unknown")


def was_seen_to_end(id: str | None, name: str) -> bool:
    """Whether the process of an actor that is no more is known to have ended, and not only given up with its node.

    Args:
        id: Ray's own name of it; None: it is looked for among all that Ray remembers.
        name: of it.
    """
    try:
        from ray._private import state  # Ray's public way to ask needs its dashboard, which may not run

        every: Any = cast(Any, state).actors(id) if id is not None else None
        known = [every] if every else [a for a in cast(Any, state).actors().values() if a["Name"] == name]
        causes = [one["DeathCause"] for one in known if one["State"] == "DEAD"]
        return bool(causes) and all(_is_seen(cause) for cause in causes)
    except Exception:  # another version of Ray, or it does not answer
        return False


def _is_seen(cause: Any) -> bool:
    """Whether the node of an actor has said that the process ended there."""
    if cause.HasField("oom_context"):
        return True
    died = cause.actor_died_error_context
    return bool(died.reason == died.WORKER_DIED)


def end_actor(
    ray: Any, name: str, ask: Callable[[Any], Any] | None, patience_s: float = GET_TIMEOUT_S
) -> None:
    """Ask it to stop, kill it after `patience_s` or its answer, and wait until its name is free.

    No error if there is none.
    """
    try:
        actor = ray.get_actor(name, NAMESPACE)
    except ValueError:
        return
    if ask is not None:
        with contextlib.suppress(ray.exceptions.RayError):
            ray.get(ask(actor), timeout=patience_s)
    ray.kill(actor, no_restart=True)
    until = time.monotonic() + NAME_FREE_S
    while time.monotonic() < until:
        try:
            ray.get_actor(name, NAMESPACE)
        except ValueError:
            return
        time.sleep(0.02)
    raise Unavailable(f"Ray did not end actor {name!r} within {NAME_FREE_S} s")
