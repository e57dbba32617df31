"""`python -m rowloom.deploy.coordinator_process`: the coordinator of a cluster of processes on this machine."""

from __future__ import annotations

import argparse
import json
import logging
import os
import signal
import sys
import threading
from functools import partial
from pathlib import Path

from ..proto.allocator import give_back_freed_memory
from ..proto.errors import in_words
from .atomic_file import write_atomic
from .config.config import DeployConfig, InvalidConfig, from_json
from .coordinator_server import CoordinatorServer
from .launch.keeping import has_logs
from .launch.local_launcher import ProcessLauncher
from .storage import StateFile

log = logging.getLogger(__name__)


def main(argv: list[str] | None = None) -> None:
    """Start the cluster, say so in the ready file, and stay until it is ended by a call or SIGTERM."""
    parser = argparse.ArgumentParser(description="The coordinator of a rowloom cluster on this machine.")
    parser.add_argument(
        "--config-json", required=True, help="the deploy config, as `DeployConfig.to_json` writes it"
    )
    parser.add_argument("--ready-file", required=True, help="written when the cluster is up")
    args = parser.parse_args(argv)
    config = from_json(Path(args.config_json).read_text())
    ready = Path(args.ready_file)
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    try:
        goes_on = _is_kept(config)
        server = CoordinatorServer(
            config,
            ProcessLauncher(config),
            host=config.host or "127.0.0.1",
            port=config.port,
            advertise=config.advertise_host,
        )
        # Who only ends the process has not said that the rows may go.
        stop = partial(server.stop, keep=config.durability != "memory")
        signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=stop).start())  # pyright: ignore[reportUnknownArgumentType, reportUnknownLambdaType]
        if goes_on:
            server.take_up()
        else:
            server.start()
    except Exception as e:
        write_atomic(ready, json.dumps({"error": in_words(e)}))
        log.exception("the cluster did not start")
        sys.exit(1)
    write_atomic(ready, json.dumps({"address": server.address, "pid": os.getpid()}))
    give_back_freed_memory(server.wait)


def _is_kept(config: DeployConfig) -> bool:
    """Whether there is a cluster to go on with. Raises InvalidConfig: there is, and its rows would be passed over."""
    stored = StateFile(config.storage).load()
    layout = stored.layout if stored is not None else None
    kept = layout is not None and has_logs(config.storage, layout.cluster_id)
    if kept and config.durability == "memory":
        raise InvalidConfig(
            f"the storage {config.storage} holds the logs of a cluster {config.name!r} that can go on: say the "
            f"`durability` that it had, or end it for good: `rowloom down --name {config.name}`"
        )
    return kept


if __name__ == "__main__":
    main()
