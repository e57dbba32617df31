"""Shards and coordinator as Ray actors.

Ray places, restarts and finds; rows never ride on it. Every actor is detached and named in the namespace `rowloom`:
`NAME/coordinator` and `NAME/shard-KEY`. Shards that start together share a placement group, `rowloom/NAME/FIRST-LAST`,
whose name says which keys it holds, so that whoever comes later can find and remove it.
"""

from __future__ import annotations

import contextlib
import ipaddress
import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from ...proto.errors import InvalidRequest, RowloomError, Unavailable
from ..config.config import WILDCARDS, DeployConfig, from_json
from ..storage import StateFile
from .launcher import Launched
from .ray_session import NAMESPACE, attach, attached_to, ray_module, reason
from .ray_storage import storage_of

log = logging.getLogger(__name__)
THREADS = 4  # of an actor: a long call must not hide the short ones
GET_TIMEOUT_S = 20.0
NAME_FREE_S = 20.0


# ------------------------------------------------------------------------------------------------------- the actors


def _interface(config: DeployConfig) -> tuple[str, str]:
    """Where a server on this node listens, and what others call it."""
    import ray

    node = ray.util.get_node_ip_address()
    named = config.host if config.host and config.host not in WILDCARDS else node
    return config.host or node, _advertised(config.advertise_host, named)


def _advertised(wanted: str | None, default: str) -> str:
    """`advertise_host`: a name or an address, or a network in which this node has an address."""
    if wanted is None:
        return default
    try:
        network = ipaddress.ip_network(wanted)
    except ValueError:
        return wanted
    if network.num_addresses == 1:
        return wanted
    mine = {str(info[4][0]) for info in socket.getaddrinfo(socket.gethostname(), None, socket.AF_INET)} | {
        default
    }
    inside = sorted(str(a) for a in mine if ipaddress.ip_address(a) in network)
    if not inside:
        raise InvalidRequest(
            f"advertise_host: this node has no address in {wanted}; it has {', '.join(sorted(mine))}"
        )  # type: ignore[arg-type]
    return inside[0]


class ShardActor:
    """One shard server. Ray runs the constructor again after a crash: the server then comes back empty and says so."""

    def __init__(self, config_json: str) -> None:
        from ...proto.allocator import keep_freed_memory
        from ...server.serve import Server

        keep_freed_memory()
        config = from_json(config_json)
        host, advertise = _interface(config)
        self._server = Server(host, advertise=advertise, carrier=config.carrier)
        self._server.start()

    def info(self) -> tuple[str, int, str, int]:
        """(address, incarnation, node, pid)."""
        return self._server.address, self._server.incarnation, _node(), os.getpid()

    def stop(self, grace_s: float) -> None:
        """Answer what is under way and close the port."""
        self._server.stop(grace_s)


class CoordinatorActor:
    """The coordinator. Ray runs the constructor again after a crash: it then takes up the cluster from storage."""

    def __init__(self, config_json: str) -> None:
        import ray

        from ..coordinator_server import CoordinatorServer

        self._config = config = from_json(config_json)
        host, advertise = _interface(config)
        self._storage = config.storage or storage_of(config.name)
        self._launcher = RayLauncher(config)
        self._server = CoordinatorServer(
            config, self._launcher, host=host, port=config.port, advertise=advertise, storage=self._storage
        )
        if ray.get_runtime_context().was_current_actor_reconstructed:
            stored = StateFile(self._storage).load()
            self._launcher.keep(stored.keys if stored is not None else [])
            self._server.take_up()
        else:
            self._server.start()
        threading.Thread(target=self._end_with_server, name="rowloom-end", daemon=True).start()

    def _end_with_server(self) -> None:
        """Someone who knows no Ray may end the cluster by a call to the server: the actor must go with it."""
        self._server.wait()
        until = time.monotonic() + NAME_FREE_S
        while self._launcher.keys() and time.monotonic() < until:
            time.sleep(0.1)
        StateFile(self._storage).clear()
        time.sleep(1.0)  # for the answers under way
        _end_actor(self._launcher.ray, f"{self._config.name}/coordinator", None)

    def info(self) -> tuple[str, str, int]:
        """(address, hash of the config that it was started with, pid)."""
        return self._server.address, self._server.config.hash, os.getpid()

    def stop(self) -> None:
        """End the shards, their placement groups, and the server."""
        self._server.stop()


def _node() -> str:
    import ray

    return f"{ray.util.get_node_ip_address()} ({ray.get_runtime_context().get_node_id()[:8]})"


# -------------------------------------------------------------------------------------------------------- launching


class RayLauncher:
    """Shard servers as detached actors. Used inside the coordinator's actor, or in any process attached to Ray."""

    def __init__(self, config: DeployConfig) -> None:
        self._config = config
        self.ray = ray_module()

    def reserve(self, keys: Sequence[int]) -> None:
        """As `Launcher`: a placement group with a bundle for each."""
        if not keys:
            return
        from ray.util.placement_group import placement_group, remove_placement_group

        options = self._config.ray
        bundle = {"CPU": options.num_cpus_per_shard, **options.resources}
        if options.memory_per_shard:
            bundle["memory"] = options.memory_per_shard
        group = placement_group(
            [dict(bundle) for _ in keys],
            strategy=options.placement,
            name=_group_name(self._config.name, keys[0], keys[-1]),
            lifetime="detached",
        )
        if not group.wait(self._config.limits.start_timeout_s):
            free = self.ray.available_resources()
            remove_placement_group(group)
            raise Unavailable(
                f"Ray has no room for {len(keys)} shards of {bundle} each ({options.placement}) within "
                f"{self._config.limits.start_timeout_s} s; free now: CPU {free.get('CPU', 0)}, "
                f"memory {free.get('memory', 0):.0f}. "
                "Add nodes, or ask for less: ray.num_cpus_per_shard, ray.memory_per_shard, ray.placement"
            )

    def start(self, key: int) -> Launched:
        """As `Launcher`."""
        from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

        group, index = self._place(key)
        options = self._config.ray
        actor = (
            self.ray.remote(ShardActor)
            .options(
                name=f"{self._config.name}/shard-{key}",
                namespace=NAMESPACE,
                lifetime="detached",
                max_restarts=-1,
                max_task_retries=0,
                max_concurrency=THREADS,
                num_cpus=options.num_cpus_per_shard,
                memory=options.memory_per_shard,
                resources=options.resources or None,
                scheduling_strategy=PlacementGroupSchedulingStrategy(group, index),
            )
            .remote(self._config.to_json())
        )
        return self._info(actor, self._config.limits.start_timeout_s)

    def _place(self, key: int) -> tuple[Any, int]:
        from ray.util.placement_group import get_placement_group

        for name, first, last in _groups(self._config.name):
            if first <= key <= last:
                return get_placement_group(name), key - first
        raise Unavailable(f"no placement group holds shard server {key}")

    def _info(self, actor: Any, timeout_s: float) -> Launched:
        try:
            return Launched(*self.ray.get(actor.info.remote(), timeout=timeout_s))
        except self.ray.exceptions.RayError as e:
            raise Unavailable(f"a shard server did not start: {reason(e)}") from e

    def find(self, key: int) -> Launched | None:
        """As `Launcher`."""
        try:
            actor = self.ray.get_actor(f"{self._config.name}/shard-{key}", NAMESPACE)
            return self._info(actor, 2.0)
        except (
            ValueError,
            Unavailable,
        ):  # no actor of that name, or it does not answer: it may be restarting
            return None

    def stop(self, key: int, grace_s: float) -> None:
        """As `Launcher`."""
        _end_actor(self.ray, f"{self._config.name}/shard-{key}", lambda actor: actor.stop.remote(grace_s))
        self._remove_empty_groups()

    def close(self) -> None:
        """As `Launcher`: every shard of this cluster, whoever started it."""
        self.keep([])

    def keep(self, keys: Sequence[int]) -> None:
        """End the servers under all other keys: what a coordinator left that ended in the middle of a change."""
        for key in sorted(self.keys() - set(keys)):
            _end_actor(self.ray, f"{self._config.name}/shard-{key}", None)
        self._remove_empty_groups()

    def keys(self) -> set[int]:
        """Keys of the servers that exist."""
        return {int(n.rpartition("-")[2]) for n in _actors(self._config.name) if "/shard-" in n}

    def _remove_empty_groups(self) -> None:
        left = self.keys()
        for name, first, last in _groups(self._config.name):
            if not left & set(range(first, last + 1)):
                _remove_group(name)


def _group_name(cluster: str, first: int, last: int) -> str:
    return f"rowloom/{cluster}/{first}-{last}"


def _groups(cluster: str) -> list[tuple[str, int, int]]:
    """(name, first key, last key) of the placement groups of a cluster that are not removed."""
    from ray.util.placement_group import placement_group_table

    found = []
    for group in placement_group_table().values():
        prefix, _, keys = group["name"].rpartition("/")
        if prefix == f"rowloom/{cluster}" and group["state"] != "REMOVED":
            first, _, last = keys.partition("-")
            found.append((group["name"], int(first), int(last)))
    return found


def _remove_group(name: str) -> None:
    from ray.util.placement_group import get_placement_group, remove_placement_group

    with contextlib.suppress(ValueError):  # someone else removed it
        remove_placement_group(get_placement_group(name))


def _actors(cluster: str) -> list[str]:
    """Names of the live actors of a cluster."""
    import ray

    listed: Any = ray.util.list_named_actors(all_namespaces=True)
    return [a["name"] for a in listed if a["namespace"] == NAMESPACE and a["name"].startswith(f"{cluster}/")]


def _end_actor(ray: Any, name: str, ask: Callable[[Any], Any] | None) -> None:
    """Ask it to stop, kill it, and wait until its name is free. No error if there is none."""
    try:
        actor = ray.get_actor(name, NAMESPACE)
    except ValueError:
        return
    if ask is not None:
        with contextlib.suppress(ray.exceptions.RayError):
            ray.get(ask(actor), timeout=GET_TIMEOUT_S)
    ray.kill(actor, no_restart=True)
    until = time.monotonic() + NAME_FREE_S
    while time.monotonic() < until:
        try:
            ray.get_actor(name, NAMESPACE)
        except ValueError:
            return
        time.sleep(0.02)
    raise Unavailable(f"Ray did not end actor {name!r} within {NAME_FREE_S} s")


# ----------------------------------------------------------------------------------------------------- whole clusters


def up_ray(config: DeployConfig) -> str:
    """Start a cluster on the Ray that this process is attached to; without one, attach to `ray.address` first.

    Returns:
        The coordinator's address.

    Raises:
        InvalidRequest: a cluster of that name runs there; the message says what differs from this config.
        Unavailable: there was no room, or a server did not start.
    """
    ray = ray_module() if attached_to() else attach(config.ray.address)
    running = find_ray(config.name)
    if running is not None:
        raise InvalidRequest(
            f"cluster {config.name!r} runs already, at {running}: `rowloom apply` changes it, `rowloom down` ends it"
        )
    left = _actors(config.name)
    if left:
        raise InvalidRequest(
            f"{len(left)} actors of a cluster {config.name!r} without a coordinator are left, maybe with rows: "
            f"`rowloom down --name {config.name}` ends them"
        )
    actor = (
        ray.remote(CoordinatorActor)
        .options(
            name=f"{config.name}/coordinator",
            namespace=NAMESPACE,
            lifetime="detached",
            max_restarts=-1,
            max_task_retries=0,
            max_concurrency=THREADS,
            num_cpus=0,
        )
        .remote(config.to_json())
    )
    try:
        address, _, _ = ray.get(actor.info.remote(), timeout=config.limits.start_timeout_s * 2)
        return address
    except ray.exceptions.RayError as e:
        down_ray(config.name)
        raise Unavailable(f"cluster {config.name!r} did not start: {reason(e)}") from e


def find_ray(name: str) -> str | None:
    """The coordinator's address of a cluster on this Ray, or None if there is none."""
    ray = ray_module()
    try:
        actor = ray.get_actor(f"{name}/coordinator", NAMESPACE)
        address, _, _ = ray.get(actor.info.remote(), timeout=GET_TIMEOUT_S)
        return address
    except (ValueError, ray.exceptions.RayActorError):
        return None
    except ray.exceptions.RayError as e:
        raise Unavailable(f"the coordinator of {name!r} does not answer: {reason(e)}") from e


def address_of(name: str) -> str:
    """The address of a cluster by its name, for `connect`. Attaches to the machine's Ray if this process has none.

    Raises:
        Unavailable: no such cluster runs there; the message names those that do.
    """
    attach("auto")
    address = find_ray(name)
    if address is None:
        others = ", ".join(clusters()) or "none"
        raise Unavailable(f"no cluster {name!r} runs on this Ray; there are: {others}")
    return address


def clusters() -> list[str]:
    """Names of the clusters on this Ray."""
    import ray

    listed: Any = ray.util.list_named_actors(all_namespaces=True)
    names = [a["name"] for a in listed if a["namespace"] == NAMESPACE]
    return sorted(name.removesuffix("/coordinator") for name in names if name.endswith("/coordinator"))


def down_ray(name: str) -> None:
    """End a cluster: its actors and placement groups. No error if there is none."""
    ray = ray_module()
    coordinator = f"{name}/coordinator"
    try:
        _end_actor(ray, coordinator, lambda actor: actor.stop.remote())
    except RowloomError as e:
        log.warning("%s", e)
    for actor in _actors(name):
        _end_actor(ray, actor, None)
    for group, _, _ in _groups(name):
        _remove_group(group)
