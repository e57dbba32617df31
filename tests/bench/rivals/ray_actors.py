"""Ray actors that hold numpy rows; large arrays travel through Ray's object store, in shared memory."""

import logging
import os

import numpy as np
from rivals.numpy_shard import Shard, Split, rows_of

from rowloom.client import InvalidRequest
from rowloom.deploy.bench.rival import Rival


class RayActors(Rival):
    """A local Ray with one actor for each server; the trainer takes duplicates out and sums their gradients."""

    name = "ray"

    def _start(self) -> None:
        try:
            import ray
        except ImportError as e:
            raise InvalidRequest("Ray is not installed here: pip install 'rowloom[ray]'") from e
        self.version, self._ray = ray.__version__, ray
        # The driver's own environment and no packaging of this folder.
        ray.init(
            address="local",
            num_cpus=self.servers,
            include_dashboard=False,
            logging_level=logging.ERROR,
            log_to_driver=False,
            runtime_env={"env_vars": {"PYTHONPATH": os.path.dirname(os.path.dirname(__file__))}},
        )
        self._stack.callback(ray.shutdown)
        actor = ray.remote(num_cpus=1)(_Actor)
        self._actors = [
            actor.remote(rows_of(s, self.servers, self.rows), self.dim) for s in range(self.servers)
        ]
        self._pids = ray.get([actor.pid.remote() for actor in self._actors])

    def pull(self, ids: np.ndarray) -> np.ndarray:
        split = Split(ids, self.servers)
        calls = [actor.pull.remote(at) for actor, at in zip(self._actors, split.at, strict=True)]
        return split.rows(self._ray.get(calls))

    def push(self, ids: np.ndarray, grads: np.ndarray) -> None:
        split = Split(ids, self.servers)
        parts = zip(self._actors, split.at, split.grads(grads), strict=True)
        self._ray.get([actor.push.remote(at, part) for actor, at, part in parts])


class _Actor(Shard):
    def pid(self) -> int:
        return os.getpid()
