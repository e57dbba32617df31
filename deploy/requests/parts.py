"""What a running coordinator is made of, and the config that it runs by, which changes while it runs."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ...proto.security.credentials import Credentials
from ...server.access.in_flight import CallsInFlight
from ..config.config import DeployConfig, policy_from, quotas_from, replicas_of, with_replicas
from ..config.quotas import QuotasConfig
from ..config.sections import Autoscale
from ..control.coordinator import Coordinator
from ..control.state import ClusterState
from ..launch.keeping import has_logs
from ..launch.launcher import Launcher
from ..nodes.draining import Draining
from ..nodes.nodes import Nodes
from ..performer import Performer
from ..scaling import Autoscaling, Scalings
from ..snapshots.snapshots import Snapshots
from ..standby.changing import rules_of, set_replicas
from ..standby.standbys import Standbys
from ..storage import StateFile, not_there
from ..watcher import Watcher


class Parts:
    """The parts of one coordinator; nothing of it runs before `begin`.

    Args:
        config: what the cluster is to be.
        launcher: starts its shard servers.
        file: where the layout is kept.
        address: of the coordinator.
        in_flight: counts the calls that it is asked, and holds their quotas.
        credentials: what shards are shown.
        nodes: of the launcher; None: it has only this machine.
        leave: ends this coordinator and starts another one that takes the cluster up, not on these nodes.

    Attributes:
        config: what the cluster is to be now.
        coordinator: decides; another one when a cluster is taken up, and so are `standbys`.
        revives: shards that died come back with the rows that are in their logs.
    """

    def __init__(
        self,
        config: DeployConfig,
        launcher: Launcher,
        file: StateFile,
        *,
        address: str,
        in_flight: CallsInFlight,
        credentials: Credentials,
        nodes: Nodes | None,
        leave: Callable[[Sequence[str]], None],
    ) -> None:
        self.config = config
        self.revives = config.durability != "memory"
        self._address, self._in_flight, self._launcher = address, in_flight, launcher
        self.decide(ClusterState(config.name))
        self.performer = Performer(file, launcher, config.limits.stop_grace_s, credentials)
        self._file = file
        self.scalings = Scalings(
            self._current, self.performer, self._scaled, self.most_extra, self.check_there
        )
        self.draining = Draining(
            self._current,
            self.performer,
            self.scalings,
            nodes,
            limit_s=config.limits.start_timeout_s,
            environment=lambda: self.config.ray.runtime_env,
            renewed=self._renewed,
            leave=leave,
            standbys=lambda: self.standbys,
        )
        self.snapshots = Snapshots(
            self._current,
            self.performer,
            config.storage,
            config.snapshots,
            check_there=self.check_there,
        )
        self.watcher = Watcher(
            self._current,
            self.performer,
            launcher,
            file,
            revives=self.revives,
            on_look=self._looked,
            standbys=lambda: self.standbys if self.standbys.kept else None,
        )
        self.autoscaling = Autoscaling(self.scalings, self.watcher.statuses)

    def decide(self, state: ClusterState) -> None:
        """Have a coordinator that goes on from this state."""
        made = Coordinator(state, time.monotonic, random.SystemRandom(), self._address, revives=self.revives)
        if state.replicas is None and state.standbys and not self.config.replicas:
            # Taken up with a file that was edited meanwhile: what runs goes on as it was, until somebody applies that.
            state.replicas = replicas_of(self.config.model_copy(update={"replicas": 1}))
        if state.replicas is not None:
            self.config = with_replicas(self.config, state.replicas)
        self._launcher.replicated = bool(self.config.replicas)
        self.standbys = Standbys(made, rules_of(self.config.standby), wanted=bool(self.config.replicas))
        made.quotas = self.quote(self.config.quotas if state.quotas is None else quotas_from(state.quotas))
        self.coordinator = made

    def begin(self) -> None:
        """Look at the cluster from now on, by what was changed before this process."""
        state = self.coordinator.state
        self.follow(self.config.autoscale if state.autoscale is None else policy_from(state.autoscale))
        if state.max_extra_bytes is not None:
            self.bound(state.max_extra_bytes)
        self.snapshots.find_earlier()

    def _current(self) -> Coordinator:
        return self.coordinator

    def check_there(self) -> None:
        """Raise NotStored if the storage is not where it was: what is begun now would be made anew at its path."""
        self._file.check_there()
        storage, id = self.config.storage, self.coordinator.layout.cluster_id
        if (
            self.revives and storage and not has_logs(storage, id)
        ):  # as a coordinator without a layout there sees it
            raise not_there(f"the cluster's logs, with its rows, are not in {storage}")

    def most_extra(self) -> int:
        """Bytes that rows may take while they move; 0: as many as they need."""
        return self.config.limits.max_extra_memory or 0

    def _looked(self, log_bytes: int, failed: bool) -> None:
        self.snapshots.look(log_bytes, failed)
        self.autoscaling.look()

    # --------------------------------------------------------------------------------- the config, from now on

    def bound(self, max_extra_bytes: int) -> None:
        """Rows that move may take so much."""
        limits = self.config.limits.model_copy(update={"max_extra_memory": max_extra_bytes or None})
        self.config = self.config.model_copy(update={"limits": limits})

    def quote(self, quotas: QuotasConfig) -> str:
        """Principals have these quotas; returns them as JSON."""
        self.config = self.config.model_copy(update={"quotas": quotas})
        self._in_flight.quotas = quotas.values()
        return quotas.to_json()

    def follow(self, policy: Autoscale | None) -> None:
        """Scale by this policy; None: by none."""
        self.config = self.config.model_copy(update={"autoscale": policy})
        self.autoscaling.follow(policy)

    def replicate(self, replicas: str) -> None:
        """Shards have so many standbys, kept so, also after a restart; what `SetReplicas` asks for, as JSON.

        Raises:
            InvalidConfig: standbys do not go with the rest.
            Unavailable: there is no room for them; nothing was changed.
            RetryLater: something else changes.
        """
        wanted = with_replicas(self.config, replicas)
        if replicas_of(wanted) == replicas_of(self.config):
            return
        with self.performer.alone("other standbys"):
            if wanted.replicas > self.config.replicas:
                self._launcher.check_standbys(self.coordinator.state.keys)
            self.performer.run(set_replicas(self.coordinator, self.standbys, wanted, self._replicated))

    def _replicated(self, wanted: DeployConfig) -> None:
        """This is stored, and so it is from now on."""
        changes = {"replicas": wanted.replicas, "standby": wanted.standby}
        self.config = self.config.model_copy(update=changes)
        self._launcher.replicated = bool(wanted.replicas)

    def _renewed(self, env: Mapping[str, Any]) -> None:
        ray = self.config.ray.model_copy(update={"runtime_env": dict(env)})
        self.config = self.config.model_copy(update={"ray": ray})

    def _scaled(self, shards: int) -> None:
        self.config = self.config.model_copy(update={"shards": shards})
