"""Standbys of a cluster that runs: made, ended, or kept in another way."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable

from ...proto.errors import RowloomError
from ..config.config import DeployConfig, replicas_of
from ..config.sections import StandbyConfig
from ..control.coordinator import Coordinator
from ..control.effects import Program
from .rules import StandbyRules
from .standbys import Standbys


def rules_of(standby: StandbyConfig) -> StandbyRules:
    """How standbys are kept."""
    return StandbyRules(waits=standby.mode == "sync", after_s=standby.after)


def set_replicas(
    coordinator: Coordinator,
    standbys: Standbys,
    wanted: DeployConfig,
    on_stored: Callable[[DeployConfig], None] = lambda wanted: None,
) -> Program:
    """Let shards have other standbys, or none: stored first, then done as far as it goes; `keep` does the rest.

    Args:
        coordinator: of a cluster that is up.
        standbys: that it keeps.
        wanted: the config with them.
        on_stored: called with it, as soon as that is so.

    Raises:
        RowloomError: it could not be stored; all is as before.
    """
    yield from coordinator.commit(dataclasses.replace(coordinator.state, replicas=replicas_of(wanted)))
    on_stored(wanted)
    rules = dataclasses.replace(rules_of(wanted.standby), lease_s=standbys.rules.lease_s)
    standbys.rules, standbys.wanted = rules, bool(wanted.replicas)
    with contextlib.suppress(RowloomError):
        yield from standbys.settle()
