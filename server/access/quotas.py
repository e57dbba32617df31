"""Quotas: how much a principal may have. Pure values; what counts against them is in `owned` and `in_flight`.

Why it is so. What must hold: nobody has more than its quota, whatever shards do, and no shard asks another one. So a
quota of rows or bytes is dealt to the shards in equal shares, and each holds to its own. All together never have more
than the quota (but for rounding up); a principal whose rows are dealt unevenly is refused before it has all of it, and
the refusal says so. Rejected: that the coordinator sums what shards report and deals anew. Between two reports a
principal could have several times its quota, and a shard would have to ask before it takes a push. Take that up again
if tables are often uneven.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, cast

from ...proto.errors import InvalidRequest

KINDS = ("rows", "bytes", "tables", "calls")
WHO = "an operator raises it: `quotas` in the deploy config, then `rowloom apply`"


@dataclass(frozen=True)
class Quota:
    """What one principal may have. None: no bound.

    Attributes:
        rows: that exist, in all tables that it has created.
        bytes: of these rows: weights, slots and id.
        tables: that it has created.
        calls: under way at once, to one server.
    """

    rows: int | None = None
    bytes: int | None = None
    tables: int | None = None
    calls: int | None = None


@dataclass(frozen=True)
class Quotas:
    """Those of all principals.

    Attributes:
        default: of who is not named.
        principals: by name; what these leave out has no bound.
        text: what they were made of, as JSON.
    """

    default: Quota = Quota()
    principals: Mapping[str, Quota] = field(default_factory=dict[str, Quota])
    text: str = field(default="", compare=False)

    def of(self, principal: str) -> Quota:
        """Those of a principal. Empty: the cluster's own tables, and who asks no principal: no bound."""
        return self.principals.get(principal, self.default) if principal else Quota()

    @cached_property
    def bound_rows(self) -> bool:
        """Whether any of them is of rows or bytes. Kept: each push asks."""
        return any(
            q.rows is not None or q.bytes is not None for q in (self.default, *self.principals.values())
        )

    @classmethod
    def from_json(cls, text: str) -> Quotas:
        """From JSON, as `quotas` in the deploy config; an empty text: there are none. Raises InvalidRequest."""
        try:
            said = cast(dict[str, Any], json.loads(text) if text else {})
            named = cast(dict[str, Any], said.get("principals", {}))
            principals = {name: _quota(one) for name, one in named.items()}
            return cls(_quota(said.get("default", {})), principals, text)
        except (ValueError, TypeError, AttributeError, RecursionError) as e:
            raise InvalidRequest(f"these are no quotas: {e}") from None


def _quota(said: Any) -> Quota:
    for kind, most in dict(said).items():
        if kind not in KINDS or not (most is None or (type(most) is int and most >= 0)):
            raise ValueError(f"{kind}: {most!r} is none: {', '.join(KINDS)} are whole numbers of at least 0")
    return Quota(**cast(dict[str, int | None], said))


def share(quota: int, shards: int) -> int:
    """What one of so many shards may have of a quota."""
    return -(-quota // shards)
