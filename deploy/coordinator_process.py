"""`python -m rowloom.deploy.coordinator_process`: the coordinator of a cluster of processes on this machine.

Its shards outlive it. It may end at any moment and be started again with the same options, by `rowloom up` or by what
supervises it: it then takes over the shards that run, and where there are logs starts those again that do not. Only
one may run: a second would take turns that the first one takes, too.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import gc
import json
import logging
import os
import signal
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import IO

from ..proto.allocator import give_back_freed_memory
from ..proto.atomic_file import write_atomic
from ..proto.errors import SnapshotCorrupt, Unavailable, in_words
from ..server.metrics.log_lines import stamp
from .config.config import from_json
from .coordinator_server import CoordinatorServer
from .launch.cluster_folder import (
    coordinator_log_in,
    launcher_in,
    left_shards,
    lock_in,
    note_begin,
    storage_of,
)
from .launch.observed import begin_log_of
from .launch.processes import POLL_S
from .snapshots.kept import goes_on
from .storage import StateFile

log = logging.getLogger(__name__)
PROGRESS_S = 0.5  # between two words on how far a restore is
ENDING_S = 10.0  # for the coordinator before to be gone


def main(argv: list[str] | None = None) -> None:
    """Start the cluster or take it up, say so in the ready file, and stay until it is ended by a call.

    SIGTERM ends this process only, as any other end of it does.
    """
    parser = argparse.ArgumentParser(description="The coordinator of a rowloom cluster on this machine.")
    parser.add_argument(
        "--config-json", required=True, help="the deploy config, as `DeployConfig.to_json` writes it"
    )
    parser.add_argument("--ready-file", required=True, help="written when the cluster is up")
    parser.add_argument("--restore", help="folder of a snapshot that the cluster begins with")
    args = parser.parse_args(argv)
    config = from_json(Path(args.config_json).read_text())
    ready = Path(args.ready_file)
    folder = ready.parent
    began = stamp(time.time())
    log_file = begin_log_of(config, "coordinator", coordinator_log_in(folder))
    try:
        held = _alone(folder)  # as long as this process lives
        file = StateFile(storage_of(config, folder))
        launcher = launcher_in(config, folder)
        left, _ = left_shards(folder, file)
        if left and args.restore is not None:
            raise Unavailable(f"{len(left)} shards of this cluster run: a restore makes a new one")
        kept = bool(left) or (args.restore is None and goes_on(config))
        if not kept:
            note_begin(folder, began)
        launcher.keep([server.key for server in left])
        server = CoordinatorServer(
            config,
            launcher,
            host=config.host or "127.0.0.1",
            port=config.port,
            advertise=config.advertise_host,
            storage=storage_of(config, folder),
            log_file=log_file,
        )
        signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=server.leave).start())  # pyright: ignore[reportUnknownArgumentType, reportUnknownLambdaType]
        if args.restore is not None:
            server.restore(args.restore, _Progress(ready))
        elif kept:
            server.take_up()
        else:
            server.start()
    except Exception as e:
        write_atomic(ready, json.dumps({"error": in_words(e), "corrupt": isinstance(e, SnapshotCorrupt)}))
        log.exception("the cluster did not start")
        traceback.print_exc()  # for whoever started it
        sys.exit(1)
    up = {"address": server.address, "pid": os.getpid(), "took_over": len(left)}
    write_atomic(ready, json.dumps(up | {"cluster_id": server.coordinator.layout.cluster_id}))
    give_back_freed_memory(server.wait)
    held.close()
    gc.freeze()  # or the interpreter looks through all of it once more, for a third of a second, before it ends


def _alone(folder: Path) -> IO[str]:
    """Held by the coordinator of a cluster, and let go by its end. Raises Unavailable: another one runs.

    One that was killed is waited for: its threads hold its files, and its port, for a moment after it is gone.
    """
    held = open(lock_in(folder), "a")  # noqa: SIM115  # as long as the process lives
    until = time.monotonic() + ENDING_S
    while True:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= until:
                held.close()
                raise Unavailable(f"another coordinator of this cluster runs: it holds {held.name}") from None
            time.sleep(POLL_S)
        else:
            return held


class _Progress:
    """Says in the ready file how far a restore is: nobody can ask a coordinator that is not up."""

    def __init__(self, ready: Path) -> None:
        self._ready, self._next_s = ready, 0.0

    def __call__(self, rows: int, total: int) -> None:
        now = time.monotonic()
        if now >= self._next_s:
            self._next_s = now + PROGRESS_S
            with contextlib.suppress(OSError):  # it is of no consequence
                write_atomic(self._ready, json.dumps({"restored_rows": rows, "rows": total}))


if __name__ == "__main__":
    main()
