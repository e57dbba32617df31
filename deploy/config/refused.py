"""What pydantic refuses of a deploy config, in our words."""

# What YAML holds has no types.
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false, reportUnknownMemberType=false

from __future__ import annotations

import dataclasses
import difflib
import re
from collections.abc import Mapping
from typing import Any, get_args, get_origin

from pydantic import BaseModel
from pydantic_core import ErrorDetails

from .endpoints import MAX_PORT, near_port
from .faults import ABSENT, Fault, below, near, number_in
from .launchers import LAUNCHERS

_BOUNDS = {
    "greater_than_equal": ("ge", "at least"),
    "greater_than": ("gt", "more than"),
    "less_than_equal": ("le", "at most"),
}
_LIKE_A_SIZE = re.compile(r"\s*([0-9]*\.?[0-9]+)\s*([KMGTkmgt])([Ii]?)[Bb]?\s*")
Location = tuple[int | str, ...]
_DEPTH = 3  # of sections in one another, as `quotas.principals.NAME`


def texts_as_keys(
    value: Mapping[Any, Any], faults: list[Fault], path: str = "", depth: int = _DEPTH
) -> dict[str, Any]:
    """A mapping without keys that are no text, in it and in the sections below; they become faults."""
    kept: dict[str, Any] = {}
    for key, item in value.items():
        if not isinstance(key, str):
            faults.append(
                Fault(
                    below(path, key),
                    ABSENT,
                    "is no text, as each key must be: write it in quotes (on, off, yes and no, too)",
                )
            )
        else:
            inner = isinstance(item, Mapping) and depth
            kept[key] = texts_as_keys(item, faults, below(path, key), depth - 1) if inner else item
    return kept


def without(value: dict[str, Any], errors: list[ErrorDetails]) -> dict[str, Any]:
    """A mapping without what was refused of it: the rest can be looked at as a whole."""
    for error in errors:
        location = error["loc"][:-1] if error["type"] == "missing" else error["loc"]
        value = _dropped(value, [part for part in location if part != "[key]"])
    return value


def _dropped(value: dict[str, Any], location: list[int | str]) -> dict[str, Any]:
    first, rest = str(location[0]) if location else "", location[1:]
    if rest and isinstance(value.get(first), Mapping):
        return value | {first: _dropped(dict(value[first]), rest)}
    return {key: item for key, item in value.items() if key != first}


def fault_of(error: ErrorDetails, given: Mapping[str, Any], root: type[BaseModel]) -> Fault:
    """One of pydantic's errors. given: the mapping that was checked. root: the class of the whole."""
    location, kind = tuple(part for part in error["loc"] if part != "[key]"), error["type"]
    value = _at(given, location, error["input"])  # as it was written: not what it was taken for
    path = ".".join(str(part) for part in location)
    if kind == "extra_forbidden":
        return _unknown_key(path, location, root)
    if kind == "missing":
        return Fault(path, ABSENT, "is required")
    if path == "port" and kind in ("whole", *_BOUNDS):
        return Fault(path, value, f"must be a whole number of 0 to {MAX_PORT}", near_port(value))
    if kind in ("literal_error", "launcher"):
        field = section_at(location[:-1], root).model_fields[str(location[-1])]
        choices = list(LAUNCHERS) if kind == "launcher" else [str(one) for one in get_args(field.annotation)]
        return Fault(path, value, f"must be {' or '.join(choices)}", near(value, choices))
    if kind in ("whole", "number"):
        meant = number_in(value)
        return Fault(path, value, error["msg"], meant if kind == "number" or isinstance(meant, int) else None)
    if kind == "size":
        return Fault(path, value, error["msg"], near_size(value))
    if kind == "name" and type(value) is int and value.bit_length() < 64:
        return Fault(path, value, error["msg"], str(value))
    if kind in _BOUNDS:
        key, words = _BOUNDS[kind]
        bound = error.get("ctx", {})[key]
        return Fault(path, value, f"must be {words} {bound if isinstance(bound, int) else f'{bound:g}'}")
    return Fault(path, value, _must(kind, location, root) or error["msg"])


def near_size(value: Any) -> str | None:
    """What a size was probably meant to be: 5GB for 5gb, 5G or 5m; None: it is like none."""
    found = _LIKE_A_SIZE.fullmatch(value) if isinstance(value, str) else None
    return f"{found[1]}{found[2].upper()}{found[3].lower()}B" if found else None


def as_typed(fault: Fault, given: Mapping[str, Any]) -> Fault:
    """The same fault, its value as it was written: 10m, and not the seconds that it was taken for."""
    if fault.value is ABSENT:
        return fault
    typed = _at(given, tuple(fault.path.split(".")), fault.value)
    return fault if isinstance(typed, list | dict) else dataclasses.replace(fault, value=typed)


def _must(kind: str, location: Location, root: type[BaseModel]) -> str:
    """What would be right, of the kinds of errors that pydantic has words of its own for; empty: of another kind."""
    if kind == "model_type":
        keys = ", ".join(section_at(location, root).model_fields)
        return f"must be a mapping with any of {keys}, or left out"
    if kind == "dict_type":
        return "must be a mapping"
    if kind == "bool_type":
        return "must be true or false"
    if kind == "string_pattern_mismatch":
        return "must be a URL of http or https, as http://collector:4318"
    return "must be a text that is not empty" if kind in ("string_type", "string_too_short") else ""


def _at(given: Mapping[str, Any], location: Location, otherwise: Any) -> Any:
    found: Any = given
    for part in location:
        if not isinstance(found, Mapping) or part not in found:
            return otherwise
        found = found[part]
    return found


def _unknown_key(path: str, location: Location, root: type[BaseModel]) -> Fault:
    """A key that is none: a typo of one of its section, or one that stands in the wrong section."""
    *above, key = location
    own = list(section_at(tuple(above), root).model_fields)
    elsewhere = {name: name for name in root.model_fields} if above else _keys_below(root)
    other = difflib.get_close_matches(str(key), elsewhere, 1, 0.75)
    closer = difflib.get_close_matches(str(key).lower(), own, 1, 0.75)
    if closer or not other:
        return Fault(path, ABSENT, "is no key here", near(key, own), tuple(own))
    problem = f"is no key of {above[0]}, but one of the cluster" if above else "is no key here"
    if other[0] == "address":  # of what, is not known
        problem += " (where servers listen are `host` and `port`)"
    return Fault(path, ABSENT, problem, elsewhere[other[0]])


def _keys_below(root: type[BaseModel]) -> dict[str, str]:
    """Where each key of a section stands, by its name."""
    sections = {name: section_at((name,), root) for name in root.model_fields}
    return {
        key: f"{name}.{key}"
        for name, section in sections.items()
        if section is not root
        for key in section.model_fields
    }


def section_at(location: Location, root: type[BaseModel]) -> type[BaseModel]:
    """The class of the section that a location is in."""
    section = root
    for part in location:
        if str(part) not in section.model_fields:  # the name of a principal
            continue
        annotation = section.model_fields[str(part)].annotation
        for one in (annotation, *get_args(annotation)):  # a section, or one that may be left out
            # On Python 3.10 dict[str, X] says of itself that it is a type.
            if isinstance(one, type) and get_origin(one) is None and issubclass(one, BaseModel):
                section = one
    return section
