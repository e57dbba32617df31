"""Where a cluster is and how long a call may take, as callers say it. Pure."""

# What callers give is checked, although it has a type.
# pyright: reportUnnecessaryIsInstance=false

from __future__ import annotations

import re
from collections.abc import Iterable

from ...proto.errors import InvalidRequest
from ...proto.recipes import is_number, shown, shown_address

MAX_TIMEOUT_S = 1e9  # 30 years; what operating systems can wait for ends not far above
_ADDRESS = re.compile(r"(?:\[[0-9A-Fa-f:.]+(?:%\w+)?\]|[A-Za-z0-9._-]+):([0-9]{1,5})")


def as_addresses(value: object) -> tuple[str, ...]:
    """One address, or several, each once. Raises InvalidRequest for anything that is no "host:port"."""
    several: list[object] = [value]
    if isinstance(value, Iterable) and not isinstance(value, str | bytes):
        several = list(value)  # pyright: ignore[reportUnknownArgumentType]
    addresses: dict[str, None] = {}
    for one in several:
        found = _ADDRESS.fullmatch(one) if isinstance(one, str) else None
        if isinstance(one, str) and found is not None and 0 < int(found[1]) < 1 << 16:
            addresses[one] = None
        else:
            among = "" if one is value else f" (among {', '.join(map(shown_address, several))})"
            raise InvalidRequest(
                f'address must be "host:port" with a port of 1 to 65535, and "[host]:port" for an IPv6 host; '
                f"got {shown_address(one)}{among}"
            )
    if not several:
        raise InvalidRequest('address must be "host:port", or several of them; got none')
    return tuple(addresses)


def as_timeout_s(value: object) -> float:
    """Seconds that a call may take. Raises InvalidRequest."""
    if not is_number(value) or not 0 < value <= MAX_TIMEOUT_S:  # type: ignore[operator]
        raise InvalidRequest(f"timeout_s must be above 0 and at most {MAX_TIMEOUT_S:g}, got {shown(value)}")
    return float(value)  # type: ignore[arg-type]
