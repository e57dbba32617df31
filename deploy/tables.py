"""Tables as a deploy config writes them: a list of mappings, to and from `TableSpec`."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ..proto.errors import InvalidRequest
from ..proto.spec import Initializer, Optimizer, Recipe, TableSpec

_CHOICES = {"partition": ("mod", "div"), "dtype": ("float32",)}
_TYPES: dict[str, tuple[tuple[type, ...], str]] = {
    "num_embeddings": ((int, type(None)), "a whole number, or left out for open-ended ids"),
    "hash_ids": ((bool,), "true or false"),
    "frozen": ((bool,), "true or false"),
    "metadata": ((Mapping,), "a mapping of texts"),
}
_FAMILIES: dict[str, type[Recipe]] = {"optimizer": Optimizer, "initializer": Initializer}


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong: where, what stands there, what would be right, and what was probably meant."""

    path: str
    value: Any
    problem: str
    nearest: Any = None
    known: tuple[str, ...] = ()

    def __str__(self) -> str:
        text = repr(self.value)
        text = text if len(text) <= 80 else text[:77] + "..."
        where = f"{self.path}: " if self.path else ""
        hint = f"; did you mean {self.nearest!r}?" if self.nearest is not None else ""
        choices = f"; known: {', '.join(self.known)}" if self.known and not hint else ""
        return f"{where}{self.problem}, got {text}{hint}{choices}"


def tables_from_list(value: Any, faults: list[Fault]) -> list[TableSpec]:
    """The specs; what is wrong is appended to `faults`."""
    if value is None:
        return []
    if not isinstance(value, list | tuple):
        faults.append(Fault("tables", value, "must be a list of tables"))
        return []
    specs = [_table(item, f"tables[{i}]", faults) for i, item in enumerate(value)]
    seen: dict[str, int] = {}
    for i, spec in enumerate(specs):
        if spec is not None and spec.name in seen:
            faults.append(
                Fault(f"tables[{i}].name", spec.name, f"is the name of tables[{seen[spec.name]}] too")
            )
        elif spec is not None:
            seen[spec.name] = i
    return [spec for spec in specs if spec is not None]


def table_to_mapping(spec: TableSpec) -> dict[str, Any]:
    """As plain values that `tables_from_list` takes; every argument is written out."""
    return {f.name: _plain(getattr(spec, f.name)) for f in dataclasses.fields(spec)}


def _plain(value: Any) -> Any:
    if isinstance(value, Recipe):
        arguments = {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
        return {type(value).__name__.lower(): arguments}
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return dict(value) if isinstance(value, Mapping) else value


def _table(value: Any, path: str, faults: list[Fault]) -> TableSpec | None:
    if isinstance(value, TableSpec):
        return value
    if not isinstance(value, Mapping):
        faults.append(Fault(path, value, "must be a mapping such as {name: users, dim: 64}"))
        return None
    before = len(faults)
    names = [f.name for f in dataclasses.fields(TableSpec)]
    arguments = _known(value, names, path, faults)
    if "name" not in arguments:
        faults.append(Fault(f"{path}.name", None, "is required"))
    for key, family in _FAMILIES.items():
        if key in arguments:
            recipe = _recipe(family, arguments.pop(key), f"{path}.{key}", faults)
            if recipe is not None:
                arguments[key] = recipe
    arguments = {k: _from_yaml(v, integral=k in ("num_embeddings", "dim")) for k, v in arguments.items()}
    for key, (wanted, words) in _TYPES.items():
        if key in arguments and not _is(arguments[key], wanted):
            faults.append(Fault(f"{path}.{key}", arguments.pop(key), f"must be {words}"))
    # What a lone argument is tried beside: `div` needs an id range, and every table a name.
    usual = {"name": "table", "num_embeddings": 1}
    spec = _build(TableSpec, arguments, usual, path, faults)
    return spec if len(faults) == before else None


def _known(value: Mapping, names: list[str], path: str, faults: list[Fault]) -> dict[str, Any]:
    """What of a mapping has a known key; the rest becomes faults."""
    for key in value:
        if key not in names:
            near = difflib.get_close_matches(str(key), names, 1, 0.5)
            nearest = near[0] if near else None
            faults.append(Fault(f"{path}.{key}", value[key], "is no key here", nearest, tuple(names)))
    return {str(k): v for k, v in value.items() if k in names}


def _recipe(family: type[Recipe], value: Any, path: str, faults: list[Fault]) -> Recipe | None:
    """From `adagrad`, `{adagrad: {lr: 0.05}}` or `{name: adagrad, lr: 0.05}`."""
    if isinstance(value, family):
        return value
    kind = family.__name__.lower()
    if isinstance(value, str):
        name, arguments = value, {}
    elif isinstance(value, Mapping) and "name" in value:
        name, arguments = value["name"], {k: v for k, v in value.items() if k != "name"}
    elif isinstance(value, Mapping) and len(value) == 1:
        name, arguments = next(iter(value.items()))
        path = f"{path}.{name}"
    else:
        faults.append(
            Fault(path, value, f"must be a mapping with one {kind}, such as {{name: {{argument: value}}}}")
        )
        return None
    kinds = {
        k.lower(): cls
        for k, cls in sorted(Recipe.kinds.items())
        if issubclass(cls, family) and cls is not family
    }
    found = kinds.get(str(name).lower())
    if found is None:
        near = difflib.get_close_matches(str(name).lower(), list(kinds), 1, 0.5)
        faults.append(Fault(path, name, f"is no {kind}", near[0] if near else None, tuple(kinds)))
        return None
    if arguments is not None and not isinstance(arguments, Mapping):
        faults.append(Fault(path, arguments, "must be a mapping of arguments"))
        return None
    return _recipe_of(found, arguments or {}, path, faults)


def _recipe_of(found: type[Recipe], value: Mapping, path: str, faults: list[Fault]) -> Recipe | None:
    before = len(faults)
    types = {f.name: str(f.type) for f in dataclasses.fields(found)}
    arguments = _known(value, list(types), path, faults)
    for name, argument in list(arguments.items()):
        arguments[name] = argument = _from_yaml(argument, integral=types[name] == "int")
        wanted = {"float": (int, float), "int": (int,), "bool": (bool,), "str": (str,)}.get(types[name])
        if wanted is not None and not _is(argument, wanted):
            words = {"float": "a number", "int": "a whole number", "bool": "true or false", "str": "a text"}
            faults.append(Fault(f"{path}.{name}", arguments.pop(name), f"must be {words[types[name]]}"))
    recipe = _build(found, arguments, {}, path, faults)
    return recipe if len(faults) == before else None


def _is(value: Any, wanted: tuple[type, ...]) -> bool:
    """isinstance, but true and false are no numbers."""
    return isinstance(value, wanted) and (bool in wanted or not isinstance(value, bool))


def _from_yaml(value: Any, *, integral: bool) -> Any:
    """YAML's lists as tuples, and 1e9 as the whole number that it is."""
    if isinstance(value, list):
        return tuple(_from_yaml(item, integral=integral) for item in value)
    if integral and isinstance(value, float) and value.is_integer():
        return int(value)
    return value


def _build(
    make: Callable[..., Any], arguments: dict[str, Any], usual: dict[str, Any], path: str, faults: list[Fault]
) -> Any:
    """`make(**arguments)`; when it refuses, each argument is tried alone, so that every bad one is named."""
    try:
        return make(**(usual | arguments if "name" not in arguments else arguments))
    except (InvalidRequest, TypeError, ValueError, OverflowError) as e:
        whole = e
    before = len(faults)
    for name, value in arguments.items():
        try:
            make(**(usual | {name: value}))
        except (InvalidRequest, TypeError, ValueError, OverflowError) as e:
            near = difflib.get_close_matches(str(value).lower(), _CHOICES.get(name, ()), 1, 0.3)
            faults.append(Fault(f"{path}.{name}", value, _reason(e, name, value), near[0] if near else None))
    if len(faults) == before:
        name = _culprit(make, arguments)
        where = f"{path}.{name}" if name else path
        faults.append(Fault(where, arguments.get(name, arguments), _reason(whole, name, None)))
    return None


def _culprit(make: Callable[..., Any], arguments: dict[str, Any]) -> str:
    """The argument without which the rest would do; "" if there is none."""
    for name in arguments:
        try:
            make(**{k: v for k, v in arguments.items() if k != name})
        except (InvalidRequest, TypeError, ValueError, OverflowError):
            continue
        return name
    return ""


def _reason(error: Exception, name: str, value: Any) -> str:
    """Why, without what `Fault` says already."""
    text = str(error).partition(" (table ")[0].partition("; got ")[0].partition(", got ")[0]
    return text[text.find(f"{name} must be") + len(name) + 1 :] if f"{name} must be" in text else text
