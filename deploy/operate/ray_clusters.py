"""Clusters on Ray: which Ray a config means, and whole clusters of actors on it."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Generator
from typing import Any

from ...proto.errors import InvalidRequest, RowloomError, Unavailable
from ..config.config import DeployConfig
from ..coordinator_actor import CoordinatorActor
from ..launch.ray_actors import GET_TIMEOUT_S, THREADS, actors_of, end_actor, groups_of, remove_group
from ..launch.ray_session import NAMESPACE, attach, attached, attached_to, ray_module, reason
from . import local_ray
from .directory import ClusterDirectory, Record

log = logging.getLogger(__name__)


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
    left = actors_of(config.name)
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
        end_actor(ray, coordinator, lambda actor: actor.stop.remote())
    except RowloomError as e:
        log.warning("%s", e)
    for actor in actors_of(name):
        end_actor(ray, actor, None)
    for group, _, _ in groups_of(name):
        remove_group(group)


# ------------------------------------------------------------------------------------------ on the Ray that is meant


def up_or_found(config: DeployConfig, directory: ClusterDirectory) -> tuple[Record, bool]:
    """Start a cluster on the Ray that a config means, unless it runs there. Returns it, and whether it ran already.

    Raises:
        Unavailable: it did not start; a Ray that was started for it has ended.
    """
    with on_ray(config, directory) as ray_address:
        found = find_ray(config.name)
        address = found or up_ray(config)
        record = Record(config.name, "ray", address, ray=ray_address, storage=config.storage or "")
        directory.put(record)
        return record, found is not None


@contextlib.contextmanager
def on_ray(config: DeployConfig, directory: ClusterDirectory) -> Generator[str]:
    """Attached to the Ray that a config means; yields its address. One that had to be started ends if this fails."""
    address = attached_to() if config.ray.address == "auto" else None
    address = address or local_ray.choose(config.ray.address, directory)
    began = None
    if address is None:
        began = local_ray.start(config, directory)
        address = began.address
    try:
        with attached(address, token=local_ray.wants_token(address, directory)):
            yield address
    except BaseException:
        if began is not None:
            local_ray.stop(began, directory)
        raise


@contextlib.contextmanager
def on_known_ray(address: str, directory: ClusterDirectory) -> Generator[None]:
    """Attached to a Ray that runs already."""
    with attached(address, token=local_ray.wants_token(address, directory)):
        yield


def find_on_this_machine(name: str, directory: ClusterDirectory) -> Record | None:
    """A cluster that someone else started on the Ray of this machine."""
    ray = local_ray.choose("auto", directory)
    if ray is None:
        return None
    with contextlib.suppress(RowloomError), on_known_ray(ray, directory):
        address = find_ray(name)
        return Record(name, "ray", address, ray=ray) if address else None
    return None


def find_again(record: Record, directory: ClusterDirectory) -> str | None:
    """Where a cluster's coordinator is now: Ray may have started it anew elsewhere. None: nowhere."""
    with on_known_ray(record.ray, directory):
        return find_ray(record.name)


def down_with_its_ray(record: Record, directory: ClusterDirectory) -> None:
    """End a cluster, and a Ray of our own with the last one on it. No error if that Ray has ended.

    Raises:
        Unavailable: its Ray does not answer.
    """
    own = local_ray.find(directory)
    if own is None and local_ray.is_own(record.ray):
        return  # that Ray has ended, and everything on it
    if not local_ray.listens(record.ray):
        raise Unavailable(
            f"the Ray of {record.name!r} at {record.ray} does not answer: try again when it does, or, if it is "
            f"gone for good, `rowloom down --name {record.name} --forget`"
        )
    with on_known_ray(record.ray, directory):
        down_ray(record.name)
        left = clusters()
    if own is not None and own.address == record.ray and not left:
        local_ray.stop(own, directory)
