"""Quotas of principals that change while a cluster runs."""

from __future__ import annotations

import dataclasses

from ...proto.errors import Rerouted, Unavailable
from .coordinator import Coordinator
from .effects import Program


def set_quotas(coordinator: Coordinator, quotas: str, limit_s: float) -> Program:
    """Let principals have other quotas, on every shard: with Adopt, by which a server that starts hears of them too.

    Args:
        coordinator: of a cluster that is up.
        quotas: as JSON.
        limit_s: for the shards to take them.

    Raises:
        Unavailable: shards have not taken them; they are recorded, and `converge` goes on to tell the others.
        RowloomError: they could not be stored; all is as before.
    """
    yield from coordinator.commit(dataclasses.replace(coordinator.state, quotas=quotas))
    coordinator.quotas = quotas
    outcomes = yield from coordinator.adopt(limit_s)
    # One that has lost its rows serves nobody.
    late = [str(i) for i, outcome in enumerate(outcomes) if isinstance(outcome, Rerouted | Unavailable)]
    if late:
        raise Unavailable(
            f"the quotas are recorded; shards {', '.join(late)} have not taken them yet. It is repeated until every "
            "shard has taken them, which `rowloom status` tells"
        )
