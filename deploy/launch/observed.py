"""How a shard server is observed, its metrics, its spans and its log, as options of its command or of its process."""

from __future__ import annotations

from pathlib import Path

from ...server.metrics.log_lines import begin_log
from ..config.config import DeployConfig


def observing(config: DeployConfig, log_file: Path | None) -> list[str]:
    """Options of `rowloom.server.serve`. log_file: of its log; None: it has none of its own."""
    options: list[str] = []
    if config.metrics.port is not None:
        options += ["--metrics-host", config.metrics.host, "--metrics-port", "0"]
    if log_file is not None:
        options += ["--log-file", str(log_file.absolute())]
        options += ["--log-level", config.log.level, "--log-format", config.log.format]
    if config.tracing.otlp_endpoint is not None:
        options += ["--tracing", config.tracing.otlp_endpoint]
    return options


def metrics_of(config: DeployConfig, *, coordinator: bool = False) -> tuple[str, int] | None:
    """Host and port where a process offers its metrics; None: nowhere. Only the coordinator's port can be chosen."""
    port = config.metrics.port
    return None if port is None else (config.metrics.host, port if coordinator else 0)


def begin_log_of(config: DeployConfig, process: str, file: Path | None = None) -> str:
    """As `begin_log`, as a config wants it. file: none: where stderr goes."""
    return begin_log(
        process,
        level=config.log.level,
        format=config.log.format,
        file=str(file.absolute()) if file is not None else "",
    )
