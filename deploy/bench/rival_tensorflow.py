"""TensorFlow's parameter servers, as its session mode runs them: variables split by `mod`, Adagrad where they lie."""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from typing import Any

import numpy as np

from ...proto.errors import InvalidRequest
from ..launch.processes import end_with_stdin, python
from .rival import Rival

QUIET = {"TF_CPP_MIN_LOG_LEVEL": "3", "TF_ENABLE_ONEDNN_OPTS": "0", "CUDA_VISIBLE_DEVICES": "-1"}


class TensorFlow(Rival):
    """One variable for each server, looked up after `tf.unique`, so that no row travels twice; a step is one run.

    The trainer is a task of the same cluster, as a worker is. Calls are made by callables, which cost less than
    `Session.run`.
    """

    name = "tensorflow"
    takes_crews = True

    def _start(self) -> None:
        os.environ.update(QUIET)
        tf = _tensorflow()
        self.version = tf.__version__
        rank, addresses = self.crew.rank, [f"127.0.0.1:{port}" for port in self.crew.ports]
        tasks = {"ps": addresses[: self.servers], "worker": addresses[self.servers :]}
        command = python("-m", "rowloom.deploy.bench.rival_tensorflow", json.dumps(tasks))
        if rank == 0:
            for server in [self._serve([*command, str(i)]) for i in range(self.servers)]:
                server.first_line()
        worker = tf.compat.v1.train.Server(tasks, job_name="worker", task_index=rank)
        # Trainers know the servers, not each other.
        filters = tf.compat.v1.ConfigProto(device_filters=["/job:ps", f"/job:worker/task:{rank}"])
        session = tf.compat.v1.Session(worker.target, graph=tf.Graph(), config=filters)
        self._stack.callback(session.close)
        with session.graph.as_default(), tf.device(f"/job:worker/task:{rank}"):
            self._build(tf, session)

    def _build(self, tf: Any, session: Any) -> None:
        v1 = tf.compat.v1
        shards = [self._shard(tf, i) for i in range(self.servers)]
        ids, grads = v1.placeholder(tf.int64, [None]), v1.placeholder(tf.float32, [None, self.dim])
        distinct, place = tf.unique(ids)
        rows = tf.gather(v1.nn.embedding_lookup(shards, distinct, partition_strategy="mod"), place)
        adagrad = v1.train.AdagradOptimizer(learning_rate=0.05)

        def apply(after: Any) -> Any:
            with tf.control_dependencies(after):
                arrived = tf.identity(grads)
            slices = tf.gradients(rows, shards, grad_ys=arrived)
            return adagrad.apply_gradients(list(zip(slices, shards, strict=True)))

        push, step = apply([]), apply([rows])
        missing = v1.report_uninitialized_variables()
        if self.crew.rank == 0:
            session.run(v1.global_variables_initializer())
        while len(session.run(missing)):
            time.sleep(0.05)
        self._pull = session.make_callable(rows, feed_list=[ids])
        self._push = session.make_callable(push, feed_list=[ids, grads])
        self._step = session.make_callable([rows, step], feed_list=[ids, grads])

    def _shard(self, tf: Any, index: int) -> Any:
        shape = [(self.rows - index + self.servers - 1) // self.servers, self.dim]
        with tf.device(f"/job:ps/task:{index}"):
            return tf.compat.v1.get_variable(
                f"rows{index}", shape, initializer=tf.compat.v1.ones_initializer(), use_resource=True
            )

    def pull(self, ids: np.ndarray) -> np.ndarray:
        """As `Rival.pull`."""
        return self._pull(ids)

    def push(self, ids: np.ndarray, grads: np.ndarray) -> None:
        """As `Rival.push`."""
        self._push(ids, grads)

    def step(self, ids: np.ndarray, grads: np.ndarray) -> np.ndarray:
        """As `Rival.step`, in one run of the session."""
        return self._step(ids, grads)[0]


def _tensorflow() -> Any:
    try:
        import tensorflow as tf
    except ImportError as e:
        raise InvalidRequest(
            "TensorFlow is not installed here: pip install 'rowloom[bench]', or pip install tensorflow-cpu"
        ) from e
    tf.compat.v1.logging.set_verbosity(tf.compat.v1.logging.ERROR)
    return tf


def main() -> None:
    """`python -m rowloom.deploy.bench.rival_tensorflow TASKS INDEX`: one parameter server, until stdin closes."""
    tasks, index = json.loads(sys.argv[1]), int(sys.argv[2])
    server = _tensorflow().compat.v1.train.Server(tasks, job_name="ps", task_index=index)
    threading.Thread(target=server.join, daemon=True).start()
    sys.stdout.write("up\n")
    sys.stdout.flush()
    end_with_stdin()


if __name__ == "__main__":
    main()
