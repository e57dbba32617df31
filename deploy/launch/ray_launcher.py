"""Shards as Ray actors. Ray places, restarts and finds them; rows never ride on it."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from ...proto.errors import Unavailable
from ...server.metrics.log_lines import name_process
from ..config.config import DeployConfig
from ..config.words import counted
from ..nodes.nodes import Node, check_fits
from ..nodes.ray_nodes import nodes_of_keys, nodes_of_ray, selector, selects
from .keeping import logs_of, snapshots_of
from .launcher import Launched, ServerProcess
from .niceness import be_as_nice
from .observed import begin_log_of, metrics_of
from .ray_actors import (
    GET_TIMEOUT_S,
    THREADS,
    actors_of,
    asking,
    end_actor,
    group_name,
    groups_of,
    interface,
    node_here,
    process_of,
    remove_group,
)
from .ray_arguments import packed_for_shard, unpacked
from .ray_room import bundle_of
from .ray_session import NAMESPACE, ray_module, reason
from .shared_folder import Token, check_token, token_in

BEYOND_S = 2.0  # that a server may take to say that it has stopped, beyond the grace of its calls


class ShardActor:
    """One shard server. Ray runs the constructor again after a crash: the server then comes back empty and says so.

    With logs it waits to hear which shard it is, and reads its rows.
    """

    def __init__(self, given: bytes | str) -> None:
        from ...proto.allocator import give_back_freed_memory, keep_freed_memory
        from ...proto.jit import without_blas
        from ...server.metrics import hot_ids
        from ...server.serve import Server

        keep_freed_memory()
        without_blas()
        config = unpacked(given)
        be_as_nice(config.ray.niceness, node_here())
        host, advertise = interface(config)
        snapshots = snapshots_of(config.storage) if config.storage is not None else ""
        logs = logs_of(config)
        self._server = Server(
            *(host, 0, advertise, config.carrier, logs, snapshots, config.security.settings()),
            metrics=metrics_of(config),
            log_file=begin_log_of(config, "server"),
            on_name=name_process,
            tracing=config.tracing.otlp_endpoint or "",
        )
        with hot_ids.compiled_after():
            self._server.start()
        threading.Thread(target=give_back_freed_memory, args=(self._server.wait,), daemon=True).start()

    def info(self) -> tuple[str, int, str, int]:
        """(address, incarnation, node, pid)."""
        return self._server.address, self._server.incarnation, node_here(), os.getpid()

    def check_shared(self, token: Token) -> None:
        """As `check_token`, on the node of this actor."""
        check_token(token, node_here())

    def stop(self, grace_s: float) -> None:
        """Answer what is under way and close the port."""
        self._server.stop(grace_s)


class RayLauncher:
    """Shard servers as detached actors. Used inside the coordinator's actor, or in any process attached to Ray."""

    def __init__(self, config: DeployConfig) -> None:
        self._config = config
        self.replicated = False  # standbys are not yet placed on nodes
        self._avoided: Collection[str] = ()
        self._runtime_env: Mapping[str, object] = config.ray.runtime_env
        self.ray = ray_module()

    def reserve(self, keys: Sequence[int]) -> None:
        """As `Launcher`: a placement group with a bundle for each."""
        if not keys:
            return
        from ray.util.placement_group import placement_group, remove_placement_group

        bundle, options = bundle_of(self._config), self._config.ray
        group = placement_group(
            [dict(bundle) for _ in keys],
            strategy=options.placement,
            name=group_name(self._config.name, keys[0], keys[-1]),
            lifetime="detached",
            **selects(selector(options.label_selector, self._avoided), len(keys)),
        )
        if not group.wait(self._config.limits.start_timeout_s):
            free = self.ray.available_resources()
            remove_placement_group(group)
            raise Unavailable(
                f"Ray has no room for {counted(len(keys), 'shard')} of {bundle} each ({options.placement}) within "
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
                runtime_env=dict(self._runtime_env) or None,
                scheduling_strategy=PlacementGroupSchedulingStrategy(group, index),
            )
            .remote(packed_for_shard(self._config))
        )
        launched = self._info(actor, self._config.limits.start_timeout_s)
        self._check_shared(actor)
        return launched

    def _check_shared(self, actor: Any) -> None:
        """That a server's node has the folder of the logs. Raises Unavailable: it has not."""
        logs = logs_of(self._config)
        if logs is None:
            return
        with token_in(logs.root) as token:
            try:
                self.ray.get(actor.check_shared.remote(token), timeout=GET_TIMEOUT_S)
            except self.ray.exceptions.RayError as e:
                raise Unavailable(f"rows cannot be kept: {reason(e)}") from e

    def _place(self, key: int) -> tuple[Any, int]:
        from ray.util.placement_group import get_placement_group

        for name, first, last in groups_of(self._config.name):
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
        except (ValueError, Unavailable):
            return None  # no actor of that name, or it does not answer: it may be restarting

    def look(self, key: int) -> ServerProcess:
        """As `Launcher`: an actor that Ray has, and that does not answer, is what Ray says of it."""
        name = f"{self._config.name}/shard-{key}"
        try:
            actor = self.ray.get_actor(name, NAMESPACE)
        except ValueError:  # Ray starts a shard again as long as it has its name
            return ServerProcess("ended")
        except Exception:  # Ray itself does not answer, in many ways
            return ServerProcess("unknown")
        try:
            found = self._info(actor, 2.0)
        except Unavailable:
            return process_of(actor)
        return ServerProcess("running", found.node, found.pid)

    def stop(self, key: int, grace_s: float) -> None:
        """As `Launcher`."""
        name = f"{self._config.name}/shard-{key}"
        end_actor(self.ray, name, lambda actor: actor.stop.remote(grace_s), grace_s + BEYOND_S)
        self._remove_empty_groups()

    def close(self) -> None:
        """As `Launcher`: every shard of this cluster, whoever started it. Calls under way get their grace."""
        grace_s = self._config.limits.stop_grace_s
        asked: list[Any] = []
        for key in self.keys():
            with contextlib.suppress(ValueError):  # it has ended meanwhile
                actor = self.ray.get_actor(f"{self._config.name}/shard-{key}", NAMESPACE)
                asked.append(actor.stop.remote(grace_s))
        if asked:
            self.ray.wait(asked, num_returns=len(asked), timeout=grace_s + BEYOND_S)
        self.keep([])

    def keep(self, keys: Sequence[int]) -> None:
        """End the servers under all other keys: what a coordinator left that ended in the middle of a change."""
        for key in sorted(self.keys() - set(keys)):
            end_actor(self.ray, f"{self._config.name}/shard-{key}", None)
        self._remove_empty_groups()

    def keys(self) -> set[int]:
        """Keys of the servers that exist."""
        return {int(n.rpartition("-")[2]) for n in actors_of(self._config.name) if "/shard-" in n}

    # ------------------------------------------------------------------------------------------------- as `Nodes`

    def nodes(self) -> list[Node]:
        """As `Nodes`."""
        with asking():
            return nodes_of_ray()

    def where(self, keys: Sequence[int]) -> dict[int, str]:
        """As `Nodes`."""
        with asking():
            return {key: node for key, node in nodes_of_keys(self._config.name).items() if key in keys}

    def here(self) -> str:
        """As `Nodes`."""
        return str(self.ray.get_runtime_context().get_node_id())

    def check_room(self, count: int, without: Collection[str]) -> None:
        """As `Nodes`. Labels that the config wants are looked at where they are plain values."""
        wanted = self._config.ray.label_selector
        plain = {
            name: value for name, value in wanted.items() if not value.startswith("!") and "(" not in value
        }
        others = [
            node
            for node in self.nodes()
            if node.id not in without and all(node.labels.get(k) == v for k, v in plain.items())
        ]
        check_fits(count, bundle_of(self._config), others)

    def avoid(self, ids: Collection[str]) -> None:
        """As `Nodes`."""
        selects(selector({}, ids), 1)
        self._avoided = tuple(ids)

    def use(self, runtime_env: Mapping[str, object]) -> None:
        """As `Nodes`."""
        self._runtime_env = dict(runtime_env)

    def _remove_empty_groups(self) -> None:
        left = self.keys()
        for name, first, last in groups_of(self._config.name):
            if not left & set(range(first, last + 1)):
                remove_group(name)
