"""The section `quotas` of a deploy config: what principals may have."""

from __future__ import annotations

import json
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, WithJsonSchema
from pydantic_core import PydanticCustomError

from ...server.access.quotas import Quotas
from ...server.access.tokens import PRINCIPAL
from .sections import Section, Size, Whole

_MOST = 1 << 62


def _principal(value: Any) -> Any:
    if not isinstance(value, str) or not PRINCIPAL.fullmatch(value):
        raise PydanticCustomError(
            "principal",
            "must be a principal, as in the file of tokens: letters, digits, `.`, `_`, `@` and `-`",
        )
    return value


Principal = Annotated[
    str,
    BeforeValidator(_principal),
    WithJsonSchema({"type": "string", "pattern": f"^{PRINCIPAL.pattern}$"}),
]


class QuotaConfig(Section):
    """What one principal may have. None: no bound."""

    rows: Whole | None = Field(default=None, ge=0, le=_MOST)
    """That exist in all tables that it has created, of all shards together."""
    bytes: Size | None = Field(default=None, ge=0, le=_MOST)
    """Of these rows: weights, slots and id."""
    tables: Whole | None = Field(default=None, ge=0, le=_MOST)
    """That it has created."""
    calls: Whole | None = Field(default=None, ge=1, le=_MOST)
    """Under way at once, to one server."""


class QuotasConfig(Section):
    """What principals may have; see `server/access/quotas.py`."""

    default: QuotaConfig = Field(default=QuotaConfig())
    """Of each principal that `principals` does not name."""
    principals: dict[Principal, QuotaConfig] = Field(default_factory=dict)
    """By name, as in the file of tokens. Who is named has these only, not those of `default`."""

    def to_json(self) -> str:
        """As servers take it; keys sorted."""
        return json.dumps(self.model_dump(exclude_none=True), sort_keys=True)

    def values(self) -> Quotas:
        """As servers hold to them."""
        return Quotas.from_json(self.to_json())
