"""The quota on tables, which nobody but the coordinator can hold to."""

from __future__ import annotations

from ...proto.errors import QuotaExceeded
from ...server.access.quotas import WHO, Quotas
from .state import ClusterState


def check_tables(state: ClusterState, quotas: str, owner: str) -> None:
    """Whether a principal may create another table. Raises QuotaExceeded.

    quotas: as JSON.
    """
    most, mine = Quotas.from_json(quotas).of(owner).tables, state.owned_by(owner)
    if most is not None and len(mine) >= most:
        raise QuotaExceeded(
            f"{owner!r} has created {len(mine)} tables ({', '.join(sorted(mine)[:10])}), and its quota is {most} "
            f"tables: drop one, or {WHO}"
        )
