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

    def come_back(self) -> str:
        """Start a coordinator again that has ended, and again if it fails. Returns what was said, in words."""
        said = ""
        for _ in range(5):
            try:
                self.up()
            except RowloomError as e:
                said += f"; did not start: {e}"
            else:
                return said + "; up again"
        raise AssertionError(f"the coordinator does not come back{said}")

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

    def settled(self) -> tuple[pb.StatusReply | None, str]:
        """Its status if all shards serve and nothing is begun that is not finished; else None, and what is so."""
        try:
            with self.remote() as remote:
                status = remote.status()
        except RowloomError as e:
            return None, str(e)
        healths = [shard.health for shard in status.shards]
        if set(healths) == {"serving"} and not status.unfinished and not status.HasField("scaling"):
            return status, ""
        moving = status.scaling.state or "none"
        return None, f"shards are {healths}, unfinished is {list(status.unfinished)}, scaling: {moving}"

    def until_settled(self) -> pb.StatusReply:
        """As `settled`, as soon as it is. Raises TimeoutError, with what is so."""
        until = time.monotonic() + HEALTHY_S
        while (found := self.settled())[0] is None:
            if time.monotonic() > until:
                raise TimeoutError(f"{HEALTHY_S:g} s after the last fault: {found[1]}")
            time.sleep(0.1)
        return found[0]

    def until_healthy(self) -> None:
        """Raises TimeoutError: a shard does not serve."""
        until = time.monotonic() + HEALTHY_S
        while set(healths := [shard.health for shard in self.shards()]) != {"serving"}:
            if time.monotonic() > until:
                raise TimeoutError(f"{HEALTHY_S:g} s after the last fault its shards are {healths}")
            time.sleep(0.1)
