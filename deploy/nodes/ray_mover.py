"""The coordinator's actor goes to another node, or is started anew in another environment.

An actor cannot start its own successor, which needs its name. So a small actor of its own does it: it ends the old one,
whose shards go on, waits until the name is free, starts the new one, and ends itself. Ray starts it again if it crashes
meanwhile, and it goes on where it was.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from typing import Any

from ...proto.errors import RowloomError
from ..config.config import DeployConfig
from ..launch.ray_actors import coordinator_options, end_actor
from ..launch.ray_arguments import packed, unpacked
from ..launch.ray_session import NAMESPACE, ray_module
from .ray_nodes import selector

log = logging.getLogger(__name__)
LEAVE_S = 30.0  # for the old one to answer what is under way


def begin_to_move(coordinator: type[Any], config: DeployConfig, avoided: Sequence[str]) -> None:
    """Let the coordinator of this process move. Returns at once.

    Args:
        coordinator: the class of its actor.
        config: of the cluster, as it is now.
        avoided: ids of nodes where it does not go.
    """
    ray: Any = ray_module()
    name = f"{config.name}/mover"
    end_actor(ray, name, None)  # of an earlier one that did not come to its end
    old = ray.get_actor(f"{config.name}/coordinator", NAMESPACE)
    options: dict[str, Any] = {"name": name, "namespace": NAMESPACE, "num_cpus": 0, "lifetime": "detached"}
    options |= {"max_restarts": -1, "max_task_retries": 0, **_away(avoided)}
    mover = ray.remote(CoordinatorMover).options(**options)
    mover.remote(coordinator, packed(config), list(avoided), old._actor_id.hex())


def _away(avoided: Sequence[str]) -> dict[str, Any]:
    return {"label_selector": selector({}, avoided)} if avoided else {}


class CoordinatorMover:
    """The small actor.

    Args:
        coordinator: the class of the coordinator's actor.
        config: of the cluster, as it is now, packed.
        avoided: ids of nodes where the new coordinator does not go.
        old: the id of the actor that leaves.
    """

    def __init__(self, coordinator: type[Any], config: bytes | str, avoided: list[str], old: str) -> None:
        self._coordinator = coordinator
        self._config, self._avoided, self._old = unpacked(config), avoided, old
        threading.Thread(target=self._run, name="rowloom-mover", daemon=True).start()

    def _run(self) -> None:
        ray: Any = ray_module()
        name = self._config.name
        try:
            self._end_old(ray)
            self._start_new(ray)
        except Exception:
            log.exception("the coordinator of %s could not be moved", name)
        try:
            end_actor(ray, f"{name}/mover", None)  # this one
        except RowloomError as e:
            log.warning("%s", e)

    def _end_old(self, ray: Any) -> None:
        name = f"{self._config.name}/coordinator"
        try:
            there = ray.get_actor(name, NAMESPACE)
        except ValueError:
            return
        if there._actor_id.hex() == self._old:
            end_actor(ray, name, lambda actor: actor.leave.remote(), LEAVE_S)

    def _start_new(self, ray: Any) -> None:
        options = coordinator_options(self._config)
        limit_s = 2 * self._config.limits.start_timeout_s
        for where in (_away(self._avoided), {}):  # rather on a node that is avoided than nowhere
            try:
                ray.get_actor(options["name"], NAMESPACE)
                return
            except ValueError:
                pass
            actor = ray.remote(self._coordinator).options(**options, **where)
            started = actor.remote(packed(self._config), None, "", True)
            try:
                ray.get(started.info.remote(), timeout=limit_s)
                return
            except ray.exceptions.RayError:
                log.exception(
                    "the coordinator of %s did not start; trying without a choice of node", options["name"]
                )
                if not where:
                    raise
                end_actor(ray, options["name"], None)
