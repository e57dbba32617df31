"""Clusters on Ray: which Ray a config means, and whole clusters of actors on it.

The functions of a `ClusterLauncher` are at the end.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import os
import time
from collections.abc import Generator
from typing import Any

from ...proto.atomic_file import write_atomic
from ...proto.errors import InvalidRequest, RowloomError, Unavailable
from ...proto.security.credentials import from_environment
from ..config.config import DeployConfig
from ..config.words import to_a_port
from ..coordinator_actor import CoordinatorActor
from ..launch.cluster_folder import config_in
from ..launch.keeping import any_logs
from ..launch.ray_actors import (
    GET_TIMEOUT_S,
    actors_of,
    coordinator_options,
    end_actor,
    groups_of,
    remove_group,
)
from ..launch.ray_arguments import packed
from ..launch.ray_room import check_room, resources_of_nodes, waits_for_node, waits_for_room
from ..launch.ray_seats import leave
from ..launch.ray_session import (
    NAMESPACE,
    answers,
    attach,
    attached,
    attached_to,
    ray_module,
    reason,
)
from ..requests.handlers import NOTHING_KEPT
from ..snapshots.kept import kept_by
from . import local_ray
from .directory import ClusterDirectory, Record, shown_to
from .launchers import RESTORE_S, Restore, Tell
from .left import check_goes_on, check_own_storage, forget, is_kept, placed, unreadable
from .remote import Remote

log = logging.getLogger(__name__)
LOOK_S = 1.0  # between two looks at what a start waits for
AGAIN_S = 0.2  # between two looks for a coordinator that Ray starts anew
SHORT_S = 3.0  # for a coordinator that is up, or is not


def up_ray(config: DeployConfig, tell: Tell = lambda text: None, restore: Restore | None = None) -> str:
    """Start a cluster on the Ray that this process is attached to; without one, attach to `ray.address` first.

    Args:
        config: of the cluster.
        tell: told what is waited for, if Ray has no room.
        restore: what it begins with.

    Returns:
        The coordinator's address.

    Raises:
        InvalidRequest: a cluster of that name runs there; the message says what differs from this config.
        InvalidConfig: its storage is another cluster's.
        Unavailable: there was no room, or a server did not start; nothing is left.
    """
    ray = ray_module() if attached_to() else attach(config.ray.address)
    running = find_ray(config.name)
    if running is not None:
        raise InvalidRequest(
            f"cluster {config.name!r} runs already, at {running}: `rowloom apply` changes it, `rowloom down` ends it"
        )
    left = actors_of(config.name)
    if f"{config.name}/mover" in left:
        raise Unavailable(f"the coordinator of {config.name!r} is just moving to another node: try again")
    if left:
        raise InvalidRequest(
            f"{len(left)} actors of a cluster {config.name!r} without a coordinator are left, maybe with rows: "
            f"`rowloom down --name {config.name}` ends them; with --keep, what is in logs stays"
        )
    check_own_storage(config)
    try:
        return _awaited(_start(ray, config, restore), config, tell, restore)
    except BaseException as e:
        down_ray(config.name, keep=config.durability != "memory")  # it may have gone on from logs
        if isinstance(e, ray.exceptions.RayError):
            why = reason(e)
            raise Unavailable(
                f"cluster {config.name!r} did not start: {why}{to_a_port(config.port, why)}"
            ) from e
        raise


def _start(ray: Any, config: DeployConfig, restore: Restore | None) -> Any:
    """The coordinator's actor. It starts the shards, and answers when they serve."""
    options = coordinator_options(config)
    url = restore.url if restore is not None else None
    return ray.remote(CoordinatorActor).options(**options).remote(packed(config), url, _kept_here(config))


def _kept_here(config: DeployConfig) -> str:
    """The cluster that can go on from logs, as far as this machine sees the storage."""
    with contextlib.suppress(RowloomError):  # the coordinator says what is wrong with it
        return kept_by(config.storage)
    return ""


def _awaited(actor: Any, config: DeployConfig, tell: Tell, restore: Restore | None) -> str:
    """The coordinator's address, when it is up; says meanwhile for which room it waits."""
    ray: Any = ray_module()
    answer, told, waited = actor.info.remote(), "", False
    # A restore takes as long as its storage does, and ends by itself when nothing goes on.
    allowed_s = config.limits.start_timeout_s * 2 if restore is None else RESTORE_S
    until = time.monotonic() + allowed_s
    while not ray.wait([answer], timeout=LOOK_S)[0]:
        room = waits_for_room(config)
        if room and not waited:
            # The coordinator's process is up only now; it ends its wait for room by itself.
            until, waited = time.monotonic() + allowed_s, True
        wanted = waits_for_node(config, resources_of_nodes()) or room
        if wanted and wanted != told:
            tell(wanted)
            told = wanted
        if time.monotonic() >= until:
            raise Unavailable(
                f"cluster {config.name!r} did not start within {_bound(config, restore, allowed_s)}: "
                f"{told or 'its coordinator does not answer yet'}"
            )
    address, _, _ = ray.get(answer)
    return address


def _bound(config: DeployConfig, restore: Restore | None, allowed_s: float) -> str:
    """In words, for how long a start may take, and what that follows from."""
    if restore is None:
        return f"{allowed_s:g} s (limits.start_timeout_s is {config.limits.start_timeout_s:g})"
    return f"{allowed_s:.0f} s, which is the most that a restore may take, whatever the config says"


def find_ray(name: str, timeout_s: float = GET_TIMEOUT_S) -> str | None:
    """The coordinator's address of a cluster on this Ray, or None if there is none.

    Raises:
        Unavailable: it does not answer; it may be starting.
    """
    ray = ray_module()
    try:
        actor = ray.get_actor(f"{name}/coordinator", NAMESPACE)
        address, _, _ = ray.get(actor.info.remote(), timeout=timeout_s)
        return address
    except (ValueError, ray.exceptions.RayActorError):
        return None
    except ray.exceptions.RayError as e:
        raise Unavailable(
            f"the coordinator of {name!r} is on Ray and does not answer within {timeout_s:g} s: it is starting, or it "
            f"hangs; `rowloom down --name {name}` ends it, and with --keep leaves its logs ({reason(e)})"
        ) from e


def clusters() -> list[str]:
    """Names of the clusters on this Ray."""
    import ray

    listed: Any = ray.util.list_named_actors(all_namespaces=True)
    names = [a["name"] for a in listed if a["namespace"] == NAMESPACE]
    return sorted(name.removesuffix("/coordinator") for name in names if name.endswith("/coordinator"))


def down_ray(name: str, *, keep: bool = False) -> None:
    """End a cluster: its actors and placement groups. No error if there is none. keep: what is in logs stays there."""
    ray = ray_module()
    coordinator = f"{name}/coordinator"
    with contextlib.suppress(RowloomError):
        end_actor(ray, f"{name}/mover", None)  # before it starts another coordinator
    try:
        end_actor(ray, coordinator, lambda actor: actor.stop.remote(keep))
    except RowloomError as e:
        log.warning("%s", e)
    for actor in actors_of(name):
        end_actor(ray, actor, None)
    for group, _, _ in groups_of(name):
        remove_group(group)
    leave(name, [])


def offer(config: DeployConfig, directory: ClusterDirectory) -> None:
    """Give a cluster the environment of a config, which it is then told to take.

    Raises:
        Unavailable: its Ray, or its coordinator there, does not answer.
    """
    record = directory.get(config.name)
    address = record.ray if record is not None else local_ray.choose(config.ray.address, directory)
    if not address:
        raise Unavailable(
            f"no Ray is known of {config.name!r}, which its environment goes through: set ray.address"
        )
    with on_known_ray(address, directory):
        ray = ray_module()
        try:
            actor = ray.get_actor(f"{config.name}/coordinator", NAMESPACE)
            ray.get(actor.offer.remote(json.dumps(config.ray.runtime_env)), timeout=GET_TIMEOUT_S)
        except (ValueError, ray.exceptions.RayError) as e:
            raise Unavailable(
                f"the coordinator of {config.name!r} on Ray takes no environment: {reason(e)}"
            ) from e


def check_keeps(name: str) -> None:
    """Raise InvalidRequest if a cluster says that its rows are in no logs. One that does not answer has what it has."""
    ray = ray_module()
    try:
        keeps = ray.get(ray.get_actor(f"{name}/coordinator", NAMESPACE).keeps.remote(), timeout=SHORT_S)
    except (ValueError, ray.exceptions.RayError):
        return
    if not keeps:
        raise InvalidRequest(NOTHING_KEPT)


# ------------------------------------------------------------------------------------------ as a `ClusterLauncher`


def up(
    config: DeployConfig, directory: ClusterDirectory, tell: Tell, restore: Restore | None = None
) -> tuple[Record, bool]:
    """As `ClusterLauncher`: on the Ray that the config means; one of our own is started if there is none.

    Raises:
        Unavailable: it did not start; a Ray that was started for it has ended.
    """
    known = directory.get(config.name)
    if known is None:
        directory.put(Record(config.name, "ray", ""))
    try:
        with _on_ray(config, directory) as ray_address:
            return _up_on(ray_address, known, config, directory, tell, restore)
    except BaseException:
        record = directory.get(config.name)
        if (
            record is not None and not record.address and not record.ray and not record.kept
        ):  # it reached no Ray
            directory.remove(config.name)
        raise


def _up_on(
    ray_address: str,
    known: Record | None,
    config: DeployConfig,
    directory: ClusterDirectory,
    tell: Tell,
    restore: Restore | None,
) -> tuple[Record, bool]:
    """known: what was on record before."""
    interrupted = known is not None and not known.address and known.ray != ""
    if known is not None and known.address and known.ray != ray_address and _is_up(known):
        return known, True  # on another Ray than the config means: whoever called compares
    if interrupted and known is not None and known.ray != ray_address:
        raise InvalidRequest(
            f"a `rowloom up` of {config.name!r} on the Ray at {known.ray} was interrupted, and part may be there: "
            f"`rowloom down --name {config.name}` ends it; this config means the Ray at {ray_address}"
        )
    found = _up_nevertheless(config) if interrupted else find_ray(config.name)
    if found is None:
        check_goes_on(config, known, ended=True)
    record = Record(
        config.name,
        "ray",
        found or "",
        ray=ray_address,
        storage=placed(config.storage),
        **shown_to(config),
        cluster_id=known.cluster_id if known is not None and is_kept(known) else "",
    )
    if found is not None:
        record = dataclasses.replace(record, cluster_id=_id_of(record))
    directory.put(record)  # before it is started
    if found is not None:
        return record, True
    with directory.usable():
        write_atomic(config_in(directory.folder(config.name)), config.to_json())  # for one that is kept
    try:
        if local_ray.is_own(ray_address):  # nobody adds nodes to it
            check_room(config)
        record = dataclasses.replace(record, address=up_ray(config, tell, restore))
        record = dataclasses.replace(record, cluster_id=_id_of(record))
    except BaseException:
        if _nothing_is_left(config.name):
            if is_kept(record):  # by an earlier one
                directory.put(record.as_kept())
            else:
                directory.remove(config.name)
        raise
    directory.put(record)
    return record, False


def _id_of(record: Record) -> str:
    """Of a cluster that came up; empty: it does not say."""
    with contextlib.suppress(RowloomError), Remote(record.address, SHORT_S, record.credentials) as remote:
        return remote.cluster
    return ""


def _is_up(record: Record) -> bool:
    with contextlib.suppress(RowloomError), Remote(record.address, SHORT_S, record.credentials) as remote:
        return remote.status().name == record.name
    return False


def _up_nevertheless(config: DeployConfig) -> str | None:
    """Where a cluster is whose `up` was interrupted; what is left of one that did not come up is ended."""
    with contextlib.suppress(Unavailable):
        found = find_ray(config.name, SHORT_S)
        if found is not None:
            return found
    down_ray(config.name, keep=config.durability != "memory")
    return None


def _nothing_is_left(name: str) -> bool:
    with contextlib.suppress(Exception):  # Ray may have gone meanwhile, in many ways
        return not actors_of(name)
    return False


@contextlib.contextmanager
def _on_ray(config: DeployConfig, directory: ClusterDirectory) -> Generator[str]:
    """Attached to the Ray that a config means; yields its address. One that had to be started ends if this fails."""
    wanted, began = config.ray.address, None
    address = attached_to() if wanted == "auto" else None
    if address is None:
        with directory.lock(local_ray.LOCK, local_ray.START_TIMEOUT_S):
            if wanted in ("auto", "local"):
                local_ray.usable(directory)
            address = local_ray.choose(wanted, directory)
            if address is None:
                began = local_ray.start(config, directory)
                address = began.address
    try:
        with on_known_ray(address, directory):
            yield address
    except BaseException:
        if began is not None and not set(local_ray.users(began, directory)) - {config.name}:
            local_ray.stop(began, directory)
        raise


@contextlib.contextmanager
def on_known_ray(address: str, directory: ClusterDirectory) -> Generator[None]:
    """Attached to a Ray that runs already."""
    with attached(address, token=local_ray.token_of(address, directory)):
        yield


def runs(record: Record, directory: ClusterDirectory) -> bool:
    """As `ClusterLauncher`."""
    return bool(record.ray) and answers(record.ray)


def find(name: str, directory: ClusterDirectory) -> Record | None:
    """As `ClusterLauncher`: one that someone else started on the Ray of this machine."""
    ray = local_ray.choose("auto", directory)
    if ray is None:
        return None
    with on_known_ray(ray, directory):
        address = find_ray(name)
        shown: dict[str, Any] = dict(from_environment(os.environ, {}).paths())
        return Record(name, "ray", address, ray=ray, **shown) if address else None


def find_again(record: Record, directory: ClusterDirectory) -> str | None:
    """As `ClusterLauncher`: Ray may have started the coordinator anew elsewhere, or be at it."""
    if not record.ray:
        return None
    until = time.monotonic() + GET_TIMEOUT_S
    with on_known_ray(record.ray, directory):
        while True:
            address = find_ray(record.name)
            if address is not None or time.monotonic() >= until:
                return address
            if not {f"{record.name}/coordinator", f"{record.name}/mover"} & set(actors_of(record.name)):
                return None
            time.sleep(AGAIN_S)


def down(record: Record, directory: ClusterDirectory, *, keep: bool = False) -> None:
    """As `ClusterLauncher`: a Ray of our own ends with the last cluster on it.

    Raises:
        InvalidRequest: rows are to be kept, and are in no logs; nothing was ended.
        Unavailable: its Ray does not answer.
    """
    if not record.kept:
        _end(record, directory, keep=keep)
    damaged = any_logs(record.storage or None) and unreadable(record)
    # Its coordinator was killed, or hung, and could not remove them.
    if not keep and (is_kept(record) or damaged):
        forget(record, record.storage)


def _end(record: Record, directory: ClusterDirectory, *, keep: bool) -> None:
    own = local_ray.find(directory)
    ours = own is not None and record.ray in ("", own.address)
    if not ours and (not record.ray or local_ray.is_own(record.ray)):
        return  # that Ray has ended, and everything on it; or none was reached
    ray_address = own.address if own is not None and ours else record.ray
    left: list[str] = []
    if answers(ray_address):
        with on_known_ray(ray_address, directory):
            if keep:
                check_keeps(record.name)
            down_ray(record.name, keep=keep)
            left = clusters()
    elif not ours:
        raise Unavailable(
            f"the Ray of {record.name!r} at {record.ray} does not answer: try again when it "
            f"does, or, if it is gone for good, `rowloom down --name {record.name} --forget`, after which `rowloom up` "
            "on another Ray goes on from its logs, if it has some"
        )
    if own is not None and ours and not left and not set(local_ray.users(own, directory)) - {record.name}:
        local_ray.stop(own, directory)
