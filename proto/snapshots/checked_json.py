"""JSON from a file that may be damaged: whatever is wrong with it is SnapshotCorrupt."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from typing import Any, NoReturn, TypeVar, cast

from ..errors import SnapshotCorrupt

MAX_JSON_BYTES = 256 << 20  # a manifest of some 25 TB
_MOST_SAID = 500
_T = TypeVar("_T")


def require(good: object, message: str) -> None:
    """Raise SnapshotCorrupt unless it is good."""
    if not good:
        raise SnapshotCorrupt(_shortened(message))


def _shortened(message: str) -> str:
    """The beginning of what quotes a file, which may be long."""
    return message if len(message) <= _MOST_SAID else f"{message[:_MOST_SAID]} ..."


def parsed(data: bytes, where: str) -> dict[str, Any]:
    """The object that a file holds; where: the file. Raises SnapshotCorrupt."""
    try:
        content = json.loads(data.decode("ascii"), parse_constant=_no_constant)
    except (ValueError, RecursionError) as e:
        raise SnapshotCorrupt(f"{where} is damaged: it is no JSON: {e}") from None
    if not isinstance(content, dict):
        raise SnapshotCorrupt(f"{where} is damaged: it holds {type(content).__name__}, not an object")
    return cast(dict[str, Any], content)


def canonical(content: Mapping[str, Any]) -> str:
    """Content as JSON with sorted keys and without spaces."""
    return json.dumps(content, sort_keys=True, separators=(",", ":"))


def digest_of(content: Mapping[str, Any]) -> str:
    """SHA-256 of content, however it is laid out in a file."""
    return hashlib.sha256(canonical(content).encode()).hexdigest()


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number")


def take(content: Any, key: str, kind: type[_T]) -> _T:
    """A value of exactly that type: JSON's true is no number here, and whole ones have 64 bits."""
    if not isinstance(content, dict) or key not in content:
        raise SnapshotCorrupt(f"{key} is missing")
    value = cast(dict[str, Any], content)[key]
    if type(value) is not kind:
        raise SnapshotCorrupt(f"{key} is {str(value)[:50]!r}")
    if isinstance(value, int) and not -(1 << 63) <= value < 1 << 64:
        raise SnapshotCorrupt(f"{key} is no number of 64 bits: {str(value)[:50]}")
    return value


def take_all(content: Any, key: str, make: Callable[[Any], _T]) -> tuple[_T, ...]:
    """A list, each entry made by `make`. Raises SnapshotCorrupt."""
    return tuple(make(value) for value in cast(list[Any], take(content, key, list)))
