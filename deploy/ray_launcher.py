"""Shards and coordinator as Ray actors. The only file that imports ray.

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
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from ..proto.errors import InvalidRequest, RowloomError, Unavailable
from .config import DeployConfig, from_json
from .launcher import Launched

if TYPE_CHECKING:
    from types import ModuleType

log = logging.getLogger(__name__)
NAMESPACE = "rowloom"
THREADS = 4  # of an actor: a long call must not hide the short ones
GET_TIMEOUT_S = 20.0
NAME_FREE_S = 20.0


def _ray() -> ModuleType:
    try:
        import ray
    except ImportError as e:
        raise InvalidRequest("launcher: ray needs Ray: pip install 'rowloom[ray]'") from e
    return ray


def attach(address: str, *, token: bool = False) -> Any:
    """Connect this process to a Ray cluster, unless it is connected. Returns the ray module.

    Args:
        address: "auto" or host:port.
        token: show this user's token there, as Ray does by itself for "auto" only.

    Raises:
        Unavailable: no Ray answers there.
        InvalidRequest: Ray is not installed; or this process is connected to another Ray.
    """
    if token and "RAY_AUTH_MODE" not in os.environ:
        os.environ["RAY_AUTH_MODE"] = "token"  # before the import, which reads it
        if "ray" in sys.modules:
            _read_environment_again()
    ray = _ray()
    if ray.is_initialized():
        here = attached_to()
        if address not in ("auto", here):
            raise InvalidRequest(
                f"this process is attached to the Ray at {here}, not to the one at {address}"
            )
        return ray
    try:
        ray.init(
            address=address,
            namespace=NAMESPACE,
            log_to_driver=False,
            logging_level=logging.ERROR,
            configure_logging=False,
        )
    except (ConnectionError, RuntimeError) as e:
        raise Unavailable(
            f"no Ray cluster answers at {address!r}: start one (`ray start --head`), or set ray.address "
            f"to 'local' for one on this machine ({e})"
        ) from e
    return ray


def _read_environment_again() -> None:
    """Ray reads its settings once, when it is imported."""
    with contextlib.suppress(ImportError, AttributeError):  # versions without tokens
        from ray._raylet import Config  # type: ignore[attr-defined]

        Config.initialize("")


def attached_to() -> str | None:
    """host:port of the Ray that this process is attached to, or None."""
    ray = sys.modules.get("ray")
    return ray.get_runtime_context().gcs_address if ray is not None and ray.is_initialized() else None


@contextlib.contextmanager
def attached(address: str, *, token: bool = False) -> Iterator[None]:
    """Attached to a Ray; detached at the end, unless this process was attached before."""
    before = attached_to()
    attach(address, token=token)
    try:
        yield
    finally:
        if before is None:
            detach()


def detach() -> None:
    """Disconnect this process from Ray."""
    _ray().shutdown()


# ------------------------------------------------------------------------------------------------------- the actors


def _interface(config: DeployConfig) -> tuple[str, str]:
    """Where a server on this node listens, and what others call it."""
    import ray

    node = ray.util.get_node_ip_address()
    return config.host or node, _advertised(config.advertise_host, config.host or node)


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
        from ..server.allocator import keep_freed_memory
        from ..server.serve import Server

        keep_freed_memory()
        host, advertise = _interface(from_json(config_json))
        self._server = Server(host, advertise=advertise)
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

        from .runner import CoordinatorServer

        config = from_json(config_json)
        host, advertise = _interface(config)
        storage = config.storage or default_storage(config.name)
        self._server = CoordinatorServer(
            config, RayLauncher(config), host=host, port=config.port, advertise=advertise, storage=storage
        )
        if ray.get_runtime_context().was_current_actor_reconstructed:
            self._server.take_up()
        else:
            self._server.start()

    def info(self) -> tuple[str, str, int]:
        """(address, hash of the config that it was started with, pid)."""
        return self._server.address, self._server.config.hash, os.getpid()

    def stop(self) -> None:
        """End the shards, their placement groups, and the server."""
        self._server.stop()


def default_storage(name: str) -> str:
    """Where a cluster's layout is kept when its config does not say: in the home folder of the coordinator's node."""
    return f"file://{os.path.expanduser('~')}/.rowloom/state/{name}"


def _node() -> str:
    import ray

    return f"{ray.util.get_node_ip_address()} ({ray.get_runtime_context().get_node_id()[:8]})"


# -------------------------------------------------------------------------------------------------------- launching


class RayLauncher:
    """Shard servers as detached actors. Used inside the coordinator's actor, or in any process attached to Ray."""

    def __init__(self, config: DeployConfig) -> None:
        self._config = config
        self._ray = _ray()

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
            free = self._ray.available_resources()
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
            self._ray.remote(ShardActor)
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
            return Launched(*self._ray.get(actor.info.remote(), timeout=timeout_s))
        except self._ray.exceptions.RayError as e:
            raise Unavailable(f"a shard server did not start: {_first_line(e)}") from e

    def find(self, key: int) -> Launched | None:
        """As `Launcher`."""
        try:
            actor = self._ray.get_actor(f"{self._config.name}/shard-{key}", NAMESPACE)
            return self._info(actor, 2.0)
        except (
            ValueError,
            Unavailable,
        ):  # no actor of that name, or it does not answer: it may be restarting
            return None

    def stop(self, key: int, grace_s: float) -> None:
        """As `Launcher`."""
        _end_actor(self._ray, f"{self._config.name}/shard-{key}", lambda actor: actor.stop.remote(grace_s))
        self._remove_empty_groups()

    def close(self) -> None:
        """As `Launcher`: every shard of this cluster, whoever started it."""
        for name in _actors(self._config.name):
            if "/shard-" in name:
                _end_actor(self._ray, name, None)
        self._remove_empty_groups()

    def _remove_empty_groups(self) -> None:
        left = {int(n.rpartition("-")[2]) for n in _actors(self._config.name) if "/shard-" in n}
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


def _first_line(error: BaseException) -> str:
    lines = [line for line in str(error).strip().splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__


# ----------------------------------------------------------------------------------------------------- whole clusters


def up_ray(config: DeployConfig) -> str:
    """Start a cluster on the Ray that this process is attached to; without one, attach to `ray.address` first.

    Returns:
        The coordinator's address.

    Raises:
        InvalidRequest: a cluster of that name runs there; the message says what differs from this config.
        Unavailable: there was no room, or a server did not start.
    """
    ray = _ray() if attached_to() else attach(config.ray.address)
    running = find_ray(config.name)
    if running is not None:
        raise InvalidRequest(
            f"cluster {config.name!r} runs already, at {running}: `rowloom apply` changes it, `rowloom down` ends it"
        )
    for name in _actors(config.name):  # shards whose coordinator is gone
        _end_actor(ray, name, None)
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
        raise Unavailable(f"cluster {config.name!r} did not start: {_first_line(e)}") from e


def find_ray(name: str) -> str | None:
    """The coordinator's address of a cluster on this Ray, or None if there is none."""
    ray = _ray()
    try:
        actor = ray.get_actor(f"{name}/coordinator", NAMESPACE)
        address, _, _ = ray.get(actor.info.remote(), timeout=GET_TIMEOUT_S)
        return address
    except (ValueError, ray.exceptions.RayActorError):
        return None
    except ray.exceptions.RayError as e:
        raise Unavailable(f"the coordinator of {name!r} does not answer: {_first_line(e)}") from e


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
    ray = _ray()
    coordinator = f"{name}/coordinator"
    try:
        _end_actor(ray, coordinator, lambda actor: actor.stop.remote())
    except RowloomError as e:
        log.warning("%s", e)
    for actor in _actors(name):
        _end_actor(ray, actor, None)
    for group, _, _ in _groups(name):
        _remove_group(group)
