"""Putting shards and trainers together: clusters on this machine, clusters on Ray, the deploy config."""

from __future__ import annotations as _annotations

TYPE_CHECKING = False  # that of `typing`, which takes longer to import than Ctrl-C at a command should wait
if TYPE_CHECKING:
    from typing import Any as _Any

    from .addresses import address_of
    from .config.config import DeployConfig, load
    from .embedded import LocalCluster, local_cluster

    __version__: str
del TYPE_CHECKING

__all__ = ["DeployConfig", "LocalCluster", "address_of", "load", "local_cluster"]

_HOMES = {
    "DeployConfig": "config.config",
    "load": "config.config",
    "LocalCluster": "embedded",
    "local_cluster": "embedded",
    "address_of": "addresses",
}


def __getattr__(name: str) -> _Any:
    # Imported when first named: the command line starts in a fraction of the time.
    import importlib as _importlib

    if name == "__version__":
        return _importlib.import_module("importlib.metadata").version("rowloom")
    if name in _HOMES:
        return getattr(_importlib.import_module(f".{_HOMES[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
