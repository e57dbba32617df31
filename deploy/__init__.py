"""Putting shards and trainers together: clusters on this machine, clusters on Ray, the deploy config."""

import importlib as _importlib
import typing as _typing

if _typing.TYPE_CHECKING:
    from .addresses import address_of
    from .config.config import DeployConfig, load
    from .embedded import LocalCluster, local_cluster

    __version__: str

__all__ = ["DeployConfig", "LocalCluster", "address_of", "load", "local_cluster"]

_HOMES = {
    "DeployConfig": "config.config",
    "load": "config.config",
    "LocalCluster": "embedded",
    "local_cluster": "embedded",
    "address_of": "addresses",
}


def __getattr__(name: str) -> _typing.Any:
    # Imported when first named: the command line starts in a fraction of the time.
    if name == "__version__":
        return _importlib.import_module("importlib.metadata").version("rowloom")
    if name in _HOMES:
        return getattr(_importlib.import_module(f".{_HOMES[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
