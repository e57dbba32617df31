"""What a shard server is told on the command line."""

from __future__ import annotations

import argparse

from ..durable.log import Mode
from ..durable.writer import INTERVAL_S
from ..metrics.log_lines import FORMATS, LEVELS


def parsed(argv: list[str] | None) -> argparse.Namespace:
    """The arguments, checked; ends the process where they are wrong. argv: None: those of this process."""
    parser = argparse.ArgumentParser(description="One rowloom shard server.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--advertise")
    parser.add_argument("--carrier", choices=["auto", "grpc"], default="auto")
    parser.add_argument("--durability", choices=[mode.value for mode in Mode], default=Mode.MEMORY.value)
    parser.add_argument("--log-folder", help="where pushes are kept, unless durability is memory")
    parser.add_argument("--snapshots", default="", help="folder or URL where snapshots are kept")
    parser.add_argument("--sync-interval-s", type=float, default=INTERVAL_S, help="with durability interval")
    parser.add_argument("--security", default="{}", help="paths, as `ServerSecurity.to_json` writes them")
    parser.add_argument("--metrics-host", default="127.0.0.1")
    parser.add_argument("--metrics-port", type=int, help="where metrics are offered over HTTP; 0: a free one")
    parser.add_argument("--log-file", help="where this process says what happens to it")
    parser.add_argument("--log-level", choices=LEVELS, default="info")
    parser.add_argument("--log-format", choices=FORMATS, default="logfmt")
    parser.add_argument("--tracing", default="", help="URL that spans of traced calls go to, over OTLP")
    parser.add_argument("--replicated", action="store_true", help="shards have standbys")
    parser.add_argument("--until-stdin-closes", action="store_true", help="end with the parent process")
    parser.add_argument("--stop-grace-s", type=float, default=1.0, help="what calls under way then get")
    args = parser.parse_args(argv)
    if args.durability != Mode.MEMORY.value and not args.log_folder:
        parser.error(f"--durability {args.durability} needs --log-folder")
    return args
