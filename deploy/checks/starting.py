"""What keeps a cluster from starting here, or will soon: all of it at once, in the same words for whoever asks.

`plan` and `doctor` show it; `up` and `restore` refuse it before anything is started, so that nobody mends one thing
after another, each found by another start.
"""

from __future__ import annotations

import dataclasses
import importlib.util
from collections.abc import Callable, Iterator, Sequence

from ...proto.errors import RowloomError, Unavailable
from ..config.config import DeployConfig, InvalidConfig
from ..config.words import counted
from ..operate.directory import BadHome, ClusterDirectory
from . import places
from .diagnosis import Diagnosis, fault, warning, well

# Of an error that tells of one of these only.
_KINDS: dict[str, type[RowloomError]] = {"security": InvalidConfig, "home": BadHome}


def before_start(
    config: DeployConfig, directory: ClusterDirectory | None = None, *, written: bool = True
) -> list[Diagnosis]:
    """What is wrong with the files and places that a cluster of that config needs; nothing if all is well.

    directory: that is to know it, if its folder is looked at too.
    written: also where it writes.
    """
    found = [*package(config), *security(config)]
    if written:
        found += [*place(config), *([places.home(directory)] if directory is not None else [])]
    return [one for one in found if one.state != "ok"]


def check_start(
    config: DeployConfig,
    tell: Callable[[str], object],
    directory: ClusterDirectory | None = None,
    *,
    places: bool = True,
) -> None:
    """Look before anything is started.

    Args:
        config: of the cluster.
        tell: what should be known, and keeps nothing from starting.
        directory: as of `before_start`.
        places: also where it writes; False for one that may run already.

    Raises:
        InvalidConfig: a file of `security` cannot be used.
        BadHome: the folder that remembers clusters cannot be written.
        Unavailable: its storage cannot be used, or Ray is not installed; with all else that is wrong.
    """
    found = before_start(config, directory, written=places)
    for one in found:
        if one.state == "warning":
            tell(str(one))
    refuse(found, f"cluster {config.name!r} was not started")


def refuse(found: Sequence[Diagnosis], what: str) -> None:
    """Raise what `check_start` does if there is a fault, with all of them. what: was not done, in words."""
    faults = [one for one in found if one.state == "fault"]
    if not faults:
        return
    several = f", {counted(len(faults), 'fault')}:\n  "
    kinds = {_KINDS.get(one.name, Unavailable) for one in faults}
    kind = kinds.pop() if len(kinds) == 1 else Unavailable
    raise kind(what + (several if len(faults) > 1 else ": ") + "\n  ".join(map(str, faults)))


def package(config: DeployConfig) -> list[Diagnosis]:
    """The package that the launcher needs, if it is not installed."""
    if config.launcher != "ray" or importlib.util.find_spec("ray") is not None:
        return []
    return [fault("ray", "`launcher: ray` needs Ray, which is not installed", "pip install 'rowloom[ray]'")]


def security(config: DeployConfig) -> Iterator[Diagnosis]:
    """The files of `security`, one line for each thing that is wrong with them. Nothing where none are named."""
    if config.security.cert is None and config.security.tokens is None:
        return
    from ..secure.checks import (
        file_faults,
    )  # with cryptography, which commands that only look do not wait for

    told: list[str] = []
    faults = file_faults(config, told.append)
    yield from (
        fault("security", one, "`rowloom secure init` makes files that can be used") for one in faults
    )
    yield from (warning("security", one, "") for one in told)
    if not faults:
        yield well("security", "certificates, keys and tokens can be used, and belong together")


def place(config: DeployConfig) -> Iterator[Diagnosis]:
    """The storage; nothing where there is none."""
    yield from (_as_seen(one, config) for one in places.place(config))


def storage(config: DeployConfig) -> Iterator[Diagnosis]:
    """The same, that there is none, and how long a sync takes there."""
    yield from (_as_seen(one, config) for one in places.storage(config))


def _as_seen(one: Diagnosis, config: DeployConfig) -> Diagnosis:
    """With Ray, whose nodes write to the storage, what this machine sees of it keeps nothing from starting."""
    if one.state != "fault" or config.launcher != "ray":
        return one
    seen = f"{one.found}, as this machine sees it, and nodes of Ray write there"
    return dataclasses.replace(one, state="warning", found=seen)
