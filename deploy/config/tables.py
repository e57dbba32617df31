"""Tables as a deploy config writes them: a list of mappings, to and from `TableSpec`."""

# What YAML holds has no types.
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping
from types import UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from ...proto.errors import InvalidRequest
from ...proto.spec import Constraint, Initializer, Optimizer, Recipe, Schedule, TableSpec
from .faults import ABSENT, Fault, below, near, number_in

T = TypeVar("T")
_EXAMPLES: dict[type[Recipe], str] = {
    Optimizer: "an optimizer, as {adagrad: {lr: 0.05}}",
    Initializer: "an initializer, as {normal: {std: 0.01}}",
    Schedule: "a schedule, as {cosine: {lr: 0.1, decay_steps: 1000}}",
    Constraint: "a constraint, as {clip_norm: 1.0}",
}

OTHERWISE = {"learning_rate": "lr"}  # what Keras calls it, which is like none of our keys


def tables_from_list(value: Any, faults: list[Fault]) -> list[TableSpec]:
    """The specs; what is wrong is appended to `faults`."""
    if value is None:
        return []
    if not isinstance(value, list | tuple):
        faults.append(Fault("tables", value, "must be a list of tables, as [{name: users, dim: 64}]"))
        return []
    specs = [_table(item, f"tables[{i}]", faults) for i, item in enumerate(value)]
    seen: dict[str, int] = {}
    for i, item in enumerate(value):  # also where another thing is wrong with it
        name = item.get("name") if isinstance(item, Mapping) else getattr(item, "name", None)
        if isinstance(name, str) and seen.setdefault(name, i) != i:
            faults.append(Fault(f"tables[{i}].name", name, f"is the name of tables[{seen[name]}] too"))
    return [spec for spec in specs if spec is not None]


def table_to_mapping(spec: TableSpec) -> dict[str, Any]:
    """As plain values that `tables_from_list` takes; every argument is written out."""
    return {f.name: plain(getattr(spec, f.name)) for f in dataclasses.fields(spec)}


def plain(value: Any) -> Any:
    """Recipes and tuples as the mappings and lists that a config has."""
    if isinstance(value, Recipe):
        arguments = {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
        return {type(value).__name__.lower(): arguments} if kinds_of(type(value).__bases__[0]) else arguments
    if isinstance(value, tuple):
        return [plain(item) for item in value]
    return dict(value) if isinstance(value, Mapping) else value


def _table(value: Any, path: str, faults: list[Fault]) -> TableSpec | None:
    if isinstance(value, TableSpec):
        return value
    if not isinstance(value, Mapping):
        faults.append(Fault(path, value, "must be a mapping such as {name: users, dim: 64}"))
        return None
    if "name" not in value:
        faults.append(Fault(f"{path}.name", ABSENT, "is required"))
    # What a lone argument is tried beside: `div` needs an id range, and every table a name.
    return _made(TableSpec, value, {"name": "table", "num_embeddings": 1}, path, faults)


def _made(
    cls: type[T], value: Mapping[Any, Any], usual: dict[str, Any], path: str, faults: list[Fault]
) -> T | None:
    """`cls(**value)`, for one of the dataclasses that say in their annotations what they take."""
    before = len(faults)
    hints = get_type_hints(cls)
    arguments = _known(value, [f.name for f in dataclasses.fields(cls)], path, faults)  # type: ignore[arg-type]
    for name in list(arguments):
        found = len(faults)
        arguments[name] = _value(hints[name], arguments[name], f"{path}.{name}", faults)
        if len(faults) > found:
            del arguments[name]
    made = _build(cls, arguments, usual, path, faults)
    return made if len(faults) == before else None


_WORDS: dict[Any, str] = {
    float: "a number",
    int: "a whole number",
    bool: "true or false",
    str: "a text",
    tuple: "a list",
    Mapping: "a mapping",
    type(None): "left out",
}


def _value(hint: Any, value: Any, path: str, faults: list[Fault]) -> Any:
    """What YAML says, as the annotation wants it; else a fault."""
    options = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    kinds = [get_origin(option) or option for option in options]
    if isinstance(value, list):
        value = tuple(int(item) if _is_integral(item) else item for item in value)
    if int in kinds and _is_integral(value):  # 1e9 is a whole number
        value = int(value)
    for option, kind in zip(options, kinds, strict=True):
        if kind is Literal:
            return _choice(get_args(option), value, path, faults)
        if isinstance(kind, type) and issubclass(kind, Recipe):
            named = isinstance(value, str) and (len(kinds) == 1 or near(value, kinds_of(kind)) is not None)
            if named or isinstance(value, Mapping | kind):
                return _recipe(kind, value, path, faults, _wanted(kinds))
        elif _is(value, kind):
            return value
    faults.append(Fault(path, value, _wanted(kinds), number_in(value) if float in kinds else None))
    return None


def _wanted(kinds: list[Any]) -> str:
    """In words, what may stand there."""
    return f"must be {' or '.join(_WORDS.get(kind) or _EXAMPLES[kind] for kind in kinds)}"


def _is(value: Any, kind: Any) -> bool:
    """isinstance, but whole numbers are numbers, and true and false are none."""
    if isinstance(value, bool):
        return kind is bool
    return isinstance(value, (int, float) if kind is float else kind)


def _is_integral(value: Any) -> bool:
    return isinstance(value, float) and value.is_integer()


def _choice(choices: tuple[str, ...], value: Any, path: str, faults: list[Fault]) -> Any:
    if value not in choices:
        faults.append(Fault(path, value, f"must be {' or '.join(choices)}", near(value, choices)))
    return value


def _known(value: Mapping[Any, Any], names: list[str], path: str, faults: list[Fault]) -> dict[str, Any]:
    """What of a mapping has a known key; the rest becomes faults."""
    for key in value:
        if key not in names:
            problem = "is no key here" if names else "is no key here, where nothing is to be said"
            meant = OTHERWISE.get(key)
            meant = meant if meant in names else near(key, names)
            faults.append(Fault(below(path, key), ABSENT, problem, meant, tuple(names)))
    return {str(k): v for k, v in value.items() if k in names}


def _recipe(family: type[Recipe], value: Any, path: str, faults: list[Fault], wanted: str) -> Recipe | None:
    """From `adagrad`, `{adagrad: {lr: 0.05}}` or `{name: adagrad, lr: 0.05}`; of a family of one, its arguments."""
    if isinstance(value, family):
        return value
    kinds, kind = kinds_of(family), family.__name__.lower()
    if isinstance(value, str):
        name, arguments = value, {}
    elif not kinds:
        return _made(family, value, {}, path, faults)
    elif "name" in value:
        name, arguments = value["name"], {k: v for k, v in value.items() if k != "name"}
    elif len(value) == 1:
        name, arguments = next(iter(value.items()))
        path = below(path, name)
    else:
        faults.append(Fault(path, value, wanted))
        return None
    found = kinds.get(name.lower()) if isinstance(name, str) else None
    if found is None:
        faults.append(Fault(path, name, f"is no {kind}", near(name, kinds), tuple(kinds)))
        return None
    if arguments is not None and not isinstance(arguments, Mapping):
        keys = ", ".join(f.name for f in dataclasses.fields(found))
        faults.append(Fault(path, arguments, f"must be a mapping of arguments: any of {keys}"))
        return None
    return _made(found, arguments or {}, {}, path, faults)


def kinds_of(family: type) -> dict[str, type[Recipe]]:
    """The members of a family of recipes by their names in lower case; none for Recipe itself."""
    if family is Recipe:
        return {}
    members = sorted(Recipe.kinds.items())
    return {name.lower(): cls for name, cls in members if issubclass(cls, family) and cls is not family}


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
            faults.append(Fault(f"{path}.{name}", value, _reason(e, name)))
    if len(faults) == before:
        name = _culprit(make, arguments)
        where = f"{path}.{name}" if name else path
        faults.append(Fault(where, arguments.get(name, arguments), _reason(whole, name)))
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


def _reason(error: Exception, name: str) -> str:
    """Why, in words of YAML, and without what `Fault` says already."""
    text = str(error).partition(" (table ")[0].partition("; got ")[0].partition(", got ")[0]
    text = text[text.find(f"{name} must be") + len(name) + 1 :] if f"{name} must be" in text else text
    for pattern, words in _IN_YAML:
        text = pattern.sub(words, text)
    return text


# What Python's callers are told, as a config has it.
_IN_YAML: list[tuple[re.Pattern[str], str | Callable[[re.Match[str]], str]]] = [
    (re.compile(rf"^({'|'.join(Recipe.kinds)}): "), ""),
    (re.compile(rf"\b({'|'.join(Recipe.kinds)})\b"), lambda found: found[1].lower()),
    (re.compile(r"\bNone\b"), "left out"),
    (re.compile(r"\b(True|False)\b"), lambda found: found[1].lower()),
    (re.compile(r"\[0, 2\*\*([0-9]+)\)"), lambda found: f"0 to {2 ** int(found[1]) - 1}"),
    (re.compile(r"2\*\*([0-9]+)"), lambda found: str(2 ** int(found[1]))),
    (re.compile(r"least (low|high)=left out"), r"least \1"),
    (re.compile(r"^must be (.*)least (low|high)=([^\s,]+)"), r"must be \1least \2, which is \3"),
    (re.compile(r"least (low|high)=([^\s,]+)"), r"least \1"),
]
