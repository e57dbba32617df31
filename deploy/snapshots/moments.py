"""Points in time, as people write them."""

from __future__ import annotations

import re
from datetime import datetime, timezone

from ...proto.errors import InvalidRequest
from ...server.durable.point import Point
from ..config.words import seconds_of

_POSITION = re.compile(r"[0-9]{1,19}(,[0-9]{1,19})*")


def point_of(text: str, now_s: float) -> Point:
    """A point from `2026-11-28T07:15:00Z`, from `10m` (ago), or from `812,790` (a record of each shard).

    Args:
        text: as above.
        now_s: the time, in seconds since 1970.

    Raises:
        InvalidRequest: it is none of them, or lies in the future.
    """
    if _POSITION.fullmatch(text):
        return Point(lsns=tuple(map(int, text.split(","))))
    ago = seconds_of(text)
    before_s = int(now_s - ago) if ago else _second_of(text)
    if before_s > now_s:
        raise InvalidRequest(f"{text!r} lies in the future: it is {in_words(now_s)} now")
    return Point(before_s=before_s)


def _second_of(text: str) -> int:
    try:
        # Before Python 3.11 a Z is not read.
        when = datetime.fromisoformat(re.sub(r"[zZ]$", "+00:00", text.strip()))
    except ValueError:
        raise InvalidRequest(
            f"{text!r} is no point in time: say one like 2026-11-28T07:15:00Z, how long ago, like 10m, or the last "
            "record of each shard, like 812,790"
        ) from None
    if when.tzinfo is None:
        raise InvalidRequest(f"{text!r} does not say in which zone: end it with Z for UTC, or like +02:00")
    if when.microsecond:
        raise InvalidRequest(f"{text!r}: logs know whole seconds")
    return int(when.timestamp())


def in_words(seconds: float) -> str:
    """A time in seconds since 1970, as `point_of` reads it. Parts of a second are left out."""
    return datetime.fromtimestamp(int(seconds), timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
