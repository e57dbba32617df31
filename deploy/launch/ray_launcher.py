"""Shards as Ray actors. Ray places, restarts and finds them; rows never ride on it."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Any, cast

from ...proto.errors import Unavailable
from ...server.metrics.log_lines import name_process
from ..config.config import DeployConfig
from ..config.words import counted
from ..nodes.apart import StandbyRoom, deal
from ..nodes.nodes import Node, check_fits, could_hold, free_of, in_words_of
from ..nodes.ray_nodes import NODE_ID, nodes_of_ray, selector, selects
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
    was_seen_to_end,
)
from .ray_arguments import packed_for_shard, unpacked
from .ray_room import bundle_of
from .ray_seats import ShardSeat, empty_seats, leave, nodes_of_keys, nodes_of_seats, seats_of, take
from .ray_session import NAMESPACE, ray_module, reason
from .shared_folder import Token, check_token, token_in

BEYOND_S = 2.0  # that a server may take to say that it has stopped, beyond the grace of its calls
ANSWER_S = 2.0  # that a server gets to say that it is there
SUSPECTED_S = (
    30.0  # no standby goes to a node where a server did not answer: Ray may not know yet that it has ended
)
AGAIN_ROOM_S = (
    10.0  # for servers that are asked for again and again: Ray's autoscaler must see that they wait
)
ROOM_S = 3.0  # for a standby to find room: while it is waited for, nothing else of the cluster changes
LOOK_S = 0.1  # between two looks for it


class ShardActor:
    """One shard server. Ray runs the constructor again after a crash: the server then comes back empty and says so.

    With logs it waits to hear which shard it is, and reads its rows.
    """

    def __init__(self, given: bytes | str, replicated: bool = False) -> None:
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
            replicated=replicated,
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


def _look_on_node(token: Token) -> None:
    """As `check_token`, on the node of the task that this is."""
    check_token(token, node_here())


class RayLauncher:
    """Shard servers as detached actors. Used inside the coordinator's actor, or in any process attached to Ray."""

    def __init__(self, config: DeployConfig) -> None:
        self._config = config
        self.replicated = bool(config.replicas)
        self._ids: dict[int, str] = {}  # by key, Ray's own name of an actor that was seen
        self._full = False  # there was no room for a standby the last time
        self._suspects: dict[str, float] = {}  # nodes where a server did not answer, until when that counts
        self._avoided: Collection[str] = ()
        self._runtime_env: Mapping[str, object] = config.ray.runtime_env
        self.ray = ray_module()

    def reserve(self, keys: Sequence[int], apart: Sequence[int] = (), *, patient: bool = True) -> None:
        """As `Launcher`: a placement group with a bundle for each; for a standby one of its own, or an empty seat.

        Who is not patient gets empty seats, too: of servers that have ended, and do not come back.
        """
        if not keys:
            return
        if apart:
            self._reserve_apart(keys, apart)
            return
        left = keys if patient or not self.replicated else self._seated(keys)
        if not left:
            return
        placement, wanted = (
            self._config.ray.placement,
            selector(self._config.ray.label_selector, self._avoided),
        )
        group = self._group(left, placement, wanted)
        self._await_room(
            group, left, self._config.limits.start_timeout_s if patient else AGAIN_ROOM_S, placement
        )

    def _seated(self, keys: Sequence[int]) -> Sequence[int]:
        """Give servers the seats that are empty, on different nodes as far as there are some. Returns who has none."""
        with asking():
            room = self._room(nodes_of_keys(self._config.name))
        usable, held = {node.id for node in room.nodes}, Counter(room.servers)
        empty = {seat: node for seat, node in room.empty.items() if node in usable}
        for at, key in enumerate(keys):
            if not empty:
                return keys[at:]
            seat = min(empty, key=lambda seat: (held[empty[seat]], seat))
            held[empty.pop(seat)] += 1
            take(self._config.name, key, seat)
        return []

    def _group(self, keys: Sequence[int], strategy: str, wanted: Mapping[str, str]) -> Any:
        """A placement group with a bundle for each, on nodes with these labels; it may have no room yet."""
        from ray.util.placement_group import placement_group

        return placement_group(
            [dict(bundle_of(self._config)) for _ in keys],
            strategy=strategy,
            name=group_name(self._config.name, keys[0], keys[-1]),
            lifetime="detached",
            **selects(wanted, len(keys)),
        )

    def _await_room(self, group: Any, keys: Sequence[int], limit_s: float, placement: str) -> None:
        from ray.util.placement_group import (
            placement_group_table,  # pyright: ignore[reportUnknownVariableType]
            remove_placement_group,
        )

        until = time.monotonic() + limit_s
        while not group.wait(1):
            if cast(Any, placement_group_table)(group)["state"] == "REMOVED":  # by `stop`, in another thread
                raise Unavailable("nobody waits for this room any more")
            if time.monotonic() >= until:
                break
        else:
            return
        remove_placement_group(group)
        bundle, nodes = bundle_of(self._config), self._labelled(self.nodes())
        free = free_of(bundle, [node for node in nodes if node.id not in self._avoided])
        raise Unavailable(
            f"Ray has no room for {counted(len(keys), 'shard')} of {in_words_of(bundle)} each ({placement}) within "
            f"{limit_s:g} s; free now: {free}. "
            "Add nodes, or ask for less: ray.num_cpus_per_shard, ray.memory_per_shard, ray.placement"
        )

    def check_standbys(self, keys: Sequence[int]) -> None:
        """As `Launcher`; with logs, also that the nodes where standbys would be see them."""
        dealt = self._dealt(keys)
        logs = logs_of(self._config)
        if logs is None:
            return
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        places = nodes_of_seats(self._config.name)
        nodes = {places[one] if isinstance(one, ShardSeat) else one for one in dealt}
        look, asked = self.ray.remote(_look_on_node), list[Any]()
        with token_in(logs.root) as token:
            for node in sorted(nodes):
                there = NodeAffinitySchedulingStrategy(node, soft=False)
                given = {"num_cpus": 0, "runtime_env": dict(self._runtime_env) or None, "max_retries": 0}
                asked.append(look.options(scheduling_strategy=there, **given).remote(token))
            self._shared(asked, standby=True)

    def _dealt(self, apart: Sequence[int]) -> list[ShardSeat | str]:
        """As `deal`, for standbys of the servers under these keys."""
        with asking():
            where = nodes_of_keys(self._config.name)
            lost = [key for key in apart if key not in where]
            if lost:
                raise Unavailable(
                    f"Ray has yet to say on which node shard server {lost[0]} is, so its standby waits"
                )
            room = self._room(where)
        return deal([where[key] for key in apart], room)

    def _room(self, where: Mapping[int, str]) -> StandbyRoom:
        """What there is for servers that may take empty seats. where: by key, the node of each server."""
        live = self.keys()
        servers = {key: node for key, node in where.items() if key in live}
        off = self._suspected(servers)
        bundle, nodes = bundle_of(self._config), self._labelled(nodes_of_ray(ended=True))
        return StandbyRoom(
            bundle,
            [n for n in nodes if n.alive and not n.draining and n.id not in (*self._avoided, *off)],
            sum(could_hold(bundle, node) for node in nodes),
            empty_seats(seats_of(self._config.name), nodes_of_seats(self._config.name), live),
            Counter(servers.values()),
        )

    def _reserve_apart(self, keys: Sequence[int], apart: Sequence[int]) -> None:
        until = time.monotonic() + (0.0 if self._full else ROOM_S)
        while True:  # what was freed just now is not known to be free at once
            try:
                dealt = self._dealt(apart)
                break
            except Unavailable:
                if time.monotonic() >= until:
                    self._full = True
                    raise
                time.sleep(LOOK_S)
        self._full = False
        groups: list[Any] = []
        for key, seat in zip(keys, dealt, strict=True):
            if isinstance(seat, ShardSeat):
                take(self._config.name, key, seat)
            else:
                groups.append(self._group([key], "PACK", {NODE_ID: seat}))
        for group in groups:
            self._await_room(group, [0], ROOM_S, "PACK")

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
                # With standbys the coordinator decides who serves: one that came back would be none of them.
                max_restarts=0 if self.replicated else -1,
                max_task_retries=0,
                max_concurrency=THREADS,
                num_cpus=options.num_cpus_per_shard,
                memory=options.memory_per_shard,
                resources=options.resources or None,
                runtime_env=dict(self._runtime_env) or None,
                scheduling_strategy=PlacementGroupSchedulingStrategy(group, index),
            )
            .remote(packed_for_shard(self._config), self.replicated)
        )
        self._ids[key] = actor._actor_id.hex()
        launched = self._info(actor, self._config.limits.start_timeout_s)
        logs = logs_of(self._config)
        if logs is not None:  # its node must have their folder
            with token_in(logs.root) as token:
                self._shared([actor.check_shared.remote(token)], standby=self.replicated)
        return launched

    def _shared(self, asked: Sequence[Any], *, standby: bool) -> None:
        """Raises Unavailable: one of these answers that its node does not share the folder of the logs."""
        try:
            self.ray.get(list(asked), timeout=GET_TIMEOUT_S)
        except self.ray.exceptions.RayError as e:
            more = "; a standby is on another node than its shard, whose log it takes" if standby else ""
            raise Unavailable(f"rows cannot be kept: {reason(e)}{more}") from e

    def _place(self, key: int) -> tuple[Any, int]:
        from ray.util.placement_group import get_placement_group

        seat = seats_of(self._config.name).get(key)
        if seat is None:
            raise Unavailable(f"no placement group holds shard server {key}")
        return get_placement_group(seat.group), seat.bundle

    def _info(self, actor: Any, timeout_s: float) -> Launched:
        try:
            return Launched(*self.ray.get(actor.info.remote(), timeout=timeout_s))
        except self.ray.exceptions.RayError as e:
            raise Unavailable(f"a shard server did not start: {reason(e)}") from e

    def find(self, key: int) -> Launched | None:
        """As `Launcher`."""
        try:
            actor = self.ray.get_actor(f"{self._config.name}/shard-{key}", NAMESPACE)
            return self._info(actor, ANSWER_S)
        except (ValueError, Unavailable):
            return None  # no actor of that name, or it does not answer: it may be restarting

    def look(self, key: int) -> ServerProcess:
        """As `Launcher`: an actor that Ray has, and that does not answer, is what Ray says of it."""
        name = f"{self._config.name}/shard-{key}"
        try:
            actor = self.ray.get_actor(name, NAMESPACE)
        except ValueError:  # Ray starts a shard again as long as it has its name
            return ServerProcess("ended", sure=was_seen_to_end(self._ids.get(key), name))
        except Exception:  # Ray itself does not answer, in many ways
            return ServerProcess("unknown")
        self._ids[key] = actor._actor_id.hex()
        try:
            found = self._info(actor, ANSWER_S)
        except Unavailable:
            known = process_of(actor, comes_back=not self.replicated)
            if known.state == "running":
                self._suspect(key)
            return known
        return ServerProcess("running", found.node, found.pid, incarnation=found.incarnation)

    def _suspect(self, key: int) -> None:
        """A server did not answer: its node may have ended, which Ray will know later."""
        with contextlib.suppress(Exception):  # Ray does not answer either
            node = nodes_of_keys(self._config.name).get(key)
            if node is not None:
                self._suspects[node] = time.monotonic() + SUSPECTED_S

    def _suspected(self, servers: Mapping[int, str]) -> list[str]:
        """Nodes that may have ended: a server that answers clears its own. servers: their nodes, by key."""
        now = time.monotonic()
        self._suspects = {node: until for node, until in list(self._suspects.items()) if now < until}
        for node in list(self._suspects):
            if any(self.find(key) is not None for key, there in servers.items() if there == node):
                self._suspects.pop(node, None)
        return list(self._suspects)

    def stop(self, key: int, grace_s: float) -> None:
        """As `Launcher`."""
        name = f"{self._config.name}/shard-{key}"
        # One that does not answer is not asked: until Ray takes its node for dead, that would take all of its grace.

        def ask(actor: Any) -> Any:
            return actor.stop.remote(grace_s)

        end_actor(self.ray, name, ask if self.find(key) is not None else None, grace_s + BEYOND_S)
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

    def may_part(self, keys: Sequence[int]) -> bool:
        """As `Nodes`."""
        with asking():
            where = nodes_of_keys(self._config.name)
        nodes = nodes_of_seats(self._config.name)
        try:
            dealt = self._dealt(keys)
        except Unavailable:
            return False
        seats = [nodes[one] if isinstance(one, ShardSeat) else one for one in dealt]
        return all(seat != where[key] for key, seat in zip(keys, seats, strict=True))

    def check_room(self, count: int, without: Collection[str]) -> None:
        """As `Nodes`. Labels that the config wants are looked at where they are plain values."""
        others = [node for node in self._labelled(self.nodes()) if node.id not in without]
        check_fits(count, bundle_of(self._config), others)

    def _labelled(self, nodes: Sequence[Node]) -> list[Node]:
        """Those with the labels that the config wants, where these are plain values."""
        wanted = self._config.ray.label_selector
        plain = {
            name: value for name, value in wanted.items() if not value.startswith("!") and "(" not in value
        }
        return [node for node in nodes if all(node.labels.get(k) == v for k, v in plain.items())]

    def avoid(self, ids: Collection[str]) -> None:
        """As `Nodes`."""
        selects(selector({}, ids), 1)
        self._avoided = tuple(ids)

    def use(self, runtime_env: Mapping[str, object]) -> None:
        """As `Nodes`."""
        self._runtime_env = dict(runtime_env)

    def _remove_empty_groups(self) -> None:
        left, seats = self.keys(), seats_of(self._config.name)
        held = {seats[key].group for key in left if key in seats}
        for name, _, _ in groups_of(self._config.name):
            if name not in held:
                remove_group(name)
        leave(self._config.name, left)
