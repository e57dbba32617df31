"""The cluster that the demo trains on: started, scaled and ended as its user would, through a deploy config."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Protocol

from ...proto.errors import RowloomError
from ..config.config import load
from ..config.launchers import LAUNCHERS, check_launcher
from ..embedded import local_cluster
from ..operate.applying import apply
from ..operate.clusters import down, reach, up
from ..operate.directory import ClusterDirectory, Record

EMBEDDED = "embedded"  # in threads of this process, without a config
LAUNCHERS_OF_DEMO = (*LAUNCHERS, EMBEDDED)
CONFIG = """\
name: {name}
shards: {shards}                       # change it, and `rowloom apply` moves every row to its new owner
launcher: {launcher}
storage: {storage}
"""
RAY = "ray: {address: local, num_cpus_per_shard: 0.5}\n"


class DemoCluster(Protocol):
    """A running cluster."""

    @property
    def address(self) -> str:
        """Of its coordinator."""
        ...

    def scale(self, shards: int) -> float:
        """Change the number of shards. Returns the seconds for which pushes waited."""
        ...

    def close(self) -> None:
        """End it; no error if it has ended."""
        ...


class DeployedCluster:
    """A cluster made from a deploy.yaml: `rowloom up`, and for another number of shards an edit and `rowloom apply`.

    Args:
        launcher: "ray", on a Ray of its own, or "local".
        shards: how many to begin with.
        folder: for the config, the layout and the logs; nothing is kept elsewhere.

    Raises:
        Unavailable: it did not start; nothing is left running.
    """

    def __init__(self, launcher: str, shards: int, folder: Path) -> None:
        self._directory = ClusterDirectory(folder / "home")
        self._file = folder / "deploy.yaml"
        self._shards = shards
        text = CONFIG.format(
            name=f"demo-{os.getpid()}",
            shards=shards,
            launcher=launcher,
            storage=(folder / "layout").as_uri(),
        )
        self._file.write_text(text + RAY if launcher == "ray" else text)
        self._record: Record | None = up(load(self._file), self._directory).record
        self.address = self._record.address

    def scale(self, shards: int) -> float:
        """As `DemoCluster`: one line of the file changes, and it is applied."""
        assert self._record is not None
        text = self._file.read_text()
        self._file.write_text(text.replace(f"shards: {self._shards}", f"shards: {shards}", 1))
        self._shards = shards
        remote, status = reach(self._record, self._directory)
        with remote:
            _, scaled = apply(load(self._file), remote, status)
        if scaled is None:
            raise RowloomError(f"the deploy config asks for {shards} shards, and applying it changed nothing")
        return scaled.pause_s

    def close(self) -> None:
        """As `DemoCluster`."""
        if self._record is not None:
            down(self._record, self._directory)
            self._record = None


def open_cluster(launcher: str, shards: int, folder: Path) -> DemoCluster:
    """Start a cluster.

    Args:
        launcher: one of LAUNCHERS_OF_DEMO.
        shards: how many.
        folder: for the config, the layout and the logs.

    Raises:
        InvalidRequest: there is no such launcher, or what it needs is not installed.
        Unavailable: it did not start.
    """
    check_launcher(launcher, LAUNCHERS_OF_DEMO)
    return local_cluster(shards) if launcher == EMBEDDED else DeployedCluster(launcher, shards, folder)
