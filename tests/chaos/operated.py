"""The cluster of a chaos run as its operator has it: `rowloom up`, and again whenever its coordinator has ended."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path

from rowloom.client import RowloomError
from rowloom.deploy.config.config import DeployConfig
from rowloom.deploy.operate.clusters import down, up
from rowloom.deploy.operate.directory import ClusterDirectory
from rowloom.deploy.operate.remote import Remote
from rowloom.proto import rowloom_pb2 as pb

HEALTHY_S = 120.0  # until shards run, or serve, once nothing is done to them any more


class OperatedCluster:
    """It runs, or is about to.

    Args:
        config: of it. Its port is fixed, or trainers would not find a coordinator that starts anew.
        home: where the operator's machine remembers it.
    """

    def __init__(self, config: DeployConfig, home: Path) -> None:
        self._config = config
        self._directory = ClusterDirectory(home)
        self.ups = 0
        self.up()

    @property
    def address(self) -> str:
        """Of the coordinator."""
        return self._record.address

    @property
    def coordinator(self) -> int:
        """The pid of its process."""
        return self._record.pid

    def up(self) -> None:
        """As whoever supervises it does. Raises RowloomError: it did not start."""
        self._record = up(self._config, self._directory).record
        self.ups += 1

    def down(self, *, keep: bool) -> None:
        """End it. keep: its logs stay, for whoever looks for what went wrong."""
        down(self._record, self._directory, keep=keep)

    def remote(self) -> Remote:
        """To be closed."""
        return Remote(self.address, timeout_s=5.0)

    def shards(self) -> list[pb.ShardStatus]:
        """As the coordinator sees them; none if it does not answer."""
        with contextlib.suppress(RowloomError), self.remote() as remote:
            return list(remote.status().shards)
        return []

    def pids(self) -> list[int]:
        """Of the shards that run, as soon as there is one. Raises TimeoutError."""
        until = time.monotonic() + HEALTHY_S
        while not (pids := [shard.pid for shard in self.shards() if shard.pid]):
            if time.monotonic() > until:
                raise TimeoutError(f"the coordinator has named no shard that runs for {HEALTHY_S:g} s")
            time.sleep(0.05)
        return pids

    def until_healthy(self) -> None:
        """Raises TimeoutError: a shard does not serve."""
        until = time.monotonic() + HEALTHY_S
        while set(healths := [shard.health for shard in self.shards()]) != {"serving"}:
            if time.monotonic() > until:
                raise TimeoutError(f"{HEALTHY_S:g} s after the last fault its shards are {healths}")
            time.sleep(0.1)
