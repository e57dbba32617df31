"""The deploy config as a JSON schema, by which editors complete and check `deploy.yaml`.

It is made of what reads a config: the sections of pydantic, and the annotations of `TableSpec` and its recipes. It says
which keys there are and of what kind; what depends on several keys, and ranges of a recipe's arguments, `parse` checks.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from ...proto.spec import NAME, Recipe, TableSpec
from .config import DeployConfig
from .tables import kinds_of

DRAFT = "https://json-schema.org/draft/2020-12/schema"
Schema = dict[str, Any]
_PLAIN: dict[Any, Schema] = {
    float: {"type": "number"},
    int: {"type": "integer"},
    bool: {"type": "boolean"},
    str: {"type": "string"},
    Mapping: {"type": "object", "additionalProperties": {"type": "string"}},
    type(None): {"type": "null"},
}
# Of two keys, as `parse` has it.
_TOGETHER: list[Schema] = [
    {
        "if": {"required": ["ray"]},
        "then": {"required": ["launcher"], "properties": {"launcher": {"const": "ray"}}},
    },
    {
        "if": {"required": ["durability"], "properties": {"durability": {"not": {"const": "memory"}}}},
        "then": {"required": ["storage"]},
    },
]


def schema() -> Schema:
    """Of a whole config, as JSON Schema 2020-12."""
    made = DeployConfig.model_json_schema()
    recipes: dict[str, Schema] = {}
    table = _arguments(TableSpec, recipes)
    table["properties"]["name"] = {"type": "string", "pattern": f"^{NAME.pattern}$"}
    defs = (
        made.pop("$defs") | {TableSpec.__name__: table} | recipes
    )  # what pydantic makes of a table takes no short forms
    return {"$schema": DRAFT, **made, "allOf": _TOGETHER, "$defs": defs}


def _arguments(cls: type[Any], recipes: dict[str, Schema]) -> Schema:
    """The arguments of a dataclass. recipes: the families of recipes that they name are put there."""
    hints, fields = get_type_hints(cls), dataclasses.fields(cls)
    missing = dataclasses.MISSING
    required = [f.name for f in fields if f.default is missing and f.default_factory is missing]
    made: Schema = {
        "type": "object",
        "properties": {f.name: _of(hints[f.name], recipes) for f in fields},
        "additionalProperties": False,
    }
    return made | ({"required": required} if required else {})


def _of(hint: Any, recipes: dict[str, Schema]) -> Schema:
    """What an annotation allows."""
    options = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    found: list[Schema] = []
    for option in options:
        kind = get_origin(option) or option
        if kind is Literal:
            found.append({"enum": list(get_args(option))})
        elif kind is tuple:
            found.append({"type": "array", "items": _of(get_args(option)[0], recipes)})
        elif kind in _PLAIN:
            found.append(_PLAIN[kind])
        else:
            found.append(_recipe(kind, recipes))
    return found[0] if len(found) == 1 else {"anyOf": found}


def _recipe(family: type[Recipe], recipes: dict[str, Schema]) -> Schema:
    """A recipe of a family, in each of the ways in which a config may write it."""
    name = family.__name__
    if name not in recipes:
        recipes[name] = {}  # a schedule may have one in it
        classes = kinds_of(family).items()
        kinds = {spelt: _arguments(cls, recipes) for kind, cls in classes for spelt in (kind, cls.__name__)}
        recipes[name] = _any_of(kinds) if kinds else _arguments(family, recipes)
    return {"$ref": f"#/$defs/{name}"}


def _any_of(kinds: dict[str, Schema]) -> Schema:
    """`adagrad`, `{adagrad: {lr: 0.05}}` or `{name: adagrad, lr: 0.05}`. kinds: the arguments of each, by name."""
    alone = [kind for kind, arguments in kinds.items() if "required" not in arguments]
    keyed: list[Schema] = [
        {
            "type": "object",
            "properties": {
                kind: arguments if kind not in alone else {"anyOf": [arguments, {"type": "null"}]}
            },
            "required": [kind],
            "additionalProperties": False,
        }
        for kind, arguments in kinds.items()
    ]
    named: list[Schema] = [
        arguments
        | {
            "properties": {"name": {"const": kind}} | arguments["properties"],
            "required": ["name", *arguments.get("required", [])],
        }
        for kind, arguments in kinds.items()
    ]
    return {"anyOf": [{"enum": alone}, *keyed, *named]}
