"""What is wrong with a deploy config: one `Fault` each, in the words of its file, and the error that lists them all."""

# What YAML holds has no types.
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import dataclasses
import difflib
import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ...proto.errors import InvalidRequest

ABSENT: Any = object()
"""The value of a fault where nothing stands."""
MAX_SHOWN = 80  # characters of a value in a message
_MAX_ITEMS, _MAX_DEPTH = 20, 5  # of a value that are written out: aliases make much of little
_PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_./-]*")
_WORDS = ("true", "false", "null", "yes", "no", "on", "off")  # that would be no text without quotes


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong: where, what stands there, what would be right, and what was probably meant.

    Attributes:
        path: of the key, as `tables[0].dim`; empty: the whole config.
        value: what stands there, or ABSENT.
        problem: what would be right.
        nearest: what was probably meant.
        known: what there is to choose from; said if nothing is near.
        line: of the file, from 1 on; None: not known.
    """

    path: str
    value: Any
    problem: str
    nearest: Any = None
    known: tuple[str, ...] = ()
    line: int | None = None

    def __str__(self) -> str:
        text = "nothing (null)" if self.value is None else as_yaml(self.value)
        text = text if len(text) <= MAX_SHOWN else text[: MAX_SHOWN - 3] + "..."
        where = f"{self.path}: " if self.path else ""
        hint = f"; did you mean {as_yaml(self.nearest)}?" if self.nearest is not None else ""
        choices = f"; known: {', '.join(self.known)}" if self.known and not hint else ""
        got = "" if self.value is ABSENT else f", got {text}"
        return f"{where}{self.problem}{got}{hint}{choices}"


class InvalidConfig(InvalidRequest):
    """A deploy config that cannot be used. `faults` lists everything that is wrong with it."""

    exit_code = 2  # of the command line: wrong use

    def __init__(self, message: str = "", *, faults: tuple[Fault, ...] = (), **data: Any) -> None:
        super().__init__(message, **data)
        self.faults = faults


def invalid(source: str, faults: Iterable[Fault]) -> InvalidConfig:
    """The error that names every fault, in the order of their lines. source: what the config is called."""
    ordered = sorted(faults, key=lambda fault: (fault.line is None, fault.line))
    lines = [f"line {fault.line}: {fault}" if fault.line is not None else str(fault) for fault in ordered]
    head = f"{source}: " if len(lines) == 1 else f"{source} has {len(lines)} faults:\n  "
    return InvalidConfig(head + "\n  ".join(lines), faults=tuple(ordered))


def near(value: Any, choices: Iterable[str]) -> str | None:
    """What a text was probably meant to be; None: it is none, or like no choice."""
    if not isinstance(value, str):
        return None
    by_lower = {choice.lower(): choice for choice in choices}
    text = value.lower()
    longer = [one for one in by_lower if len(one) >= 3 and text.startswith(one)]
    longer += [one for one in by_lower if len(text) >= 3 and one.startswith(text)]
    found = difflib.get_close_matches(text, by_lower, 1, 0.65) or longer
    return by_lower[found[0]] if found else None


def below(path: str, key: Any) -> str:
    """The path of a key of what is at `path`."""
    name = key if isinstance(key, str) else as_yaml(key)
    return f"{path}.{name}" if path else name


def as_yaml(value: Any, depth: int = 0) -> str:
    """A value as a deploy config may write it, in one line; what is long or deep in it is left out.

    A text stands in quotes by itself, and within a list or a mapping where it needs them.
    """
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, float):
        special = {"inf": ".inf", "-inf": "-.inf", "nan": ".nan"}
        return special.get(repr(value), repr(value))
    if isinstance(value, int):
        return _whole(value)
    if isinstance(value, str):
        return _text(value, quoted=depth == 0)
    if isinstance(value, Mapping | list | tuple | set | frozenset) and depth >= _MAX_DEPTH:
        return "..."
    if isinstance(value, Mapping):
        pairs = list(value.items())
        items = [f"{as_yaml(k, depth + 1)}: {as_yaml(v, depth + 1)}" for k, v in pairs[:_MAX_ITEMS]]
        return f"{{{_joined(items, len(pairs))}}}"
    if isinstance(value, list | tuple | set | frozenset):
        items = [as_yaml(item, depth + 1) for item in list(value)[:_MAX_ITEMS]]
        return f"[{_joined(items, len(value))}]"
    if isinstance(value, bytes):
        return "binary data"
    return _text(str(value), quoted=depth == 0)


def _whole(value: int) -> str:
    if abs(value) < 10**40:
        return str(value)
    return repr(float(value)) if value.bit_length() < 1024 else f"a whole number of {value.bit_length()} bits"


def number_in(value: Any) -> float | None:
    """The number that a text is; None: it is no text, or none."""
    if not isinstance(value, str):
        return None
    try:
        number = float(value)
    except ValueError:
        return None
    return (int(number) if number.is_integer() else number) if math.isfinite(number) else None


def _joined(items: list[str], count: int) -> str:
    return ", ".join([*items, "..."] if count > len(items) else items)


def _text(value: str, *, quoted: bool) -> str:
    if not quoted and _PLAIN.fullmatch(value) and value.lower() not in _WORDS:
        return value
    if value.isprintable() and "'" not in value:
        return f"'{value}'"
    return json.dumps(value, ensure_ascii=not value.isprintable())


def on_lines(error: InvalidConfig, source: str, line_of: Any, twice: Iterable[Fault] = ()) -> InvalidConfig:
    """The same error, its faults with the lines that they are on.

    Args:
        error: of which each fault gets its line.
        source: what the config is called.
        line_of: of a path; None: not known.
        twice: faults of keys that are written twice, which have their lines.
    """
    if not error.faults:
        return error
    found = [dataclasses.replace(fault, line=line_of(fault.path)) for fault in error.faults]
    return invalid(source, [*found, *twice])
