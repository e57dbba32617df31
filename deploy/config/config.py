"""The deploy config: what a cluster is to be, checked whole, with every fault named at once."""

from __future__ import annotations

import difflib
import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import fsspec
import yaml
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    InstanceOf,
    ValidationError,
)
from pydantic_core import ErrorDetails, PydanticCustomError

from ...proto.errors import InvalidRequest
from ...proto.spec import NAME, NAME_RULE, TableSpec
from .endpoints import MAX_PORT, endpoint_faults, near_port
from .launchers import LAUNCHERS
from .tables import Fault, table_to_mapping, tables_from_list

MAX_SHARDS = 1024
MAX_VALUES = 100_000  # of a config file, its aliases written out
_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
_UNITS |= {f"{k}iB": 2 ** (10 * (i + 1)) for i, k in enumerate("KMGT")}  # pyright: ignore[reportConstantRedefinition]


class InvalidConfig(InvalidRequest):
    """A deploy config that cannot be used. `faults` lists everything that is wrong with it."""

    exit_code = 2  # of the command line: wrong use

    def __init__(self, message: str = "", *, faults: tuple[Fault, ...] = (), **data: Any) -> None:
        super().__init__(message, **data)
        self.faults = faults


# -------------------------------------------------------------------------------------------- kinds of values


def _whole(value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, int | float) or value != int(value):
        raise PydanticCustomError("whole", "must be a whole number")
    return int(value)


def _number(value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise PydanticCustomError("number", "must be a number")
    return float(value)


def _bytes(value: Any) -> Any:
    """Bytes from `8GiB`, `500 MB` or a number."""
    match = re.fullmatch(r"\s*([0-9]*\.?[0-9]+)\s*([KMGT]?i?B?)\s*", str(value))
    if isinstance(value, bool) or not match or match[2] not in _UNITS:
        raise PydanticCustomError("size", "must be bytes, as 8GiB, 500MB or a number")
    return int(float(match[1]) * _UNITS[match[2]])


def _name(value: Any) -> Any:
    if not isinstance(value, str) or not NAME.fullmatch(value):
        raise PydanticCustomError("name", f"must be {NAME_RULE}")  # type: ignore[arg-type]  # no template
    return value


def _launcher(value: Any) -> Any:
    if not isinstance(value, str) or value not in LAUNCHERS:
        raise PydanticCustomError("launcher", "must be {known}", {"known": " or ".join(LAUNCHERS)})
    return value


def _storage(value: Any) -> Any:
    protocol, colon, _ = str(value).partition("://")
    known = fsspec.available_protocols()
    if colon and protocol.partition("::")[0] not in known:
        raise PydanticCustomError(
            "storage", "must be a folder or a URL such as file:///var/lib/rowloom or s3://bucket"
        )
    return value


Whole = Annotated[int, BeforeValidator(_whole)]
Number = Annotated[float, BeforeValidator(_number)]
Size = Annotated[int, BeforeValidator(_bytes)]


# ------------------------------------------------------------------------------------------------- the config


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True)


class RayConfig(_Section):
    """Where on Ray the shards go. Only read with `launcher: ray`."""

    address: str = "auto"
    """`auto`: the cluster that Ray finds, or a local one; `local`: always a local one; or `host:port`."""
    placement: Literal["SPREAD", "PACK", "STRICT_SPREAD", "STRICT_PACK"] = "SPREAD"
    num_cpus_per_shard: Number = Field(default=1.0, gt=0, le=4096)
    memory_per_shard: Size | None = Field(default=None, ge=1)
    """Bytes that Ray sets aside for a shard."""
    resources: dict[str, Number] = Field(default_factory=dict)
    """More that a shard's node must have, as `{ps_node: 1}`."""


class Limits(_Section):
    """How long things may take."""

    start_timeout_s: Number = Field(default=120.0, gt=0, le=86400)
    """A shard server that is not up by then has failed."""
    stop_grace_s: Number = Field(default=5.0, ge=0, le=3600)
    """Calls under way get this long when a server stops."""


class DeployConfig(_Section):
    """A cluster as its owner wants it."""

    name: Annotated[str, BeforeValidator(_name)] = "default"
    shards: Whole = Field(default=1, ge=1, le=MAX_SHARDS)
    launcher: Annotated[str, BeforeValidator(_launcher)] = "local"
    ray: RayConfig = Field(default=RayConfig())
    storage: Annotated[str | None, BeforeValidator(_storage)] = Field(default=None, min_length=1)
    """Any fsspec URL; where the layout is kept. None: nowhere."""
    durability: Literal["memory", "process", "interval", "disk"] = "memory"
    """What has happened to a push when it is acknowledged: nothing; written; written, and synced soon; synced."""
    carrier: Literal["auto", "grpc"] = "auto"
    host: str | None = Field(default=None, min_length=1)
    """Interface that servers listen on. None: 127.0.0.1, and on Ray the address that Ray has for the node."""
    port: Whole = Field(default=0, ge=0, le=MAX_PORT)
    """The coordinator's port; 0 takes a free one. Shards always take free ones."""
    advertise_host: str | None = Field(default=None, min_length=1)
    """What others call the machine. On Ray also a network, as 10.1.0.0/16, in which each node has an address."""
    limits: Limits = Field(default=Limits())
    tables: tuple[InstanceOf[TableSpec], ...] = ()

    def to_mapping(self) -> dict[str, Any]:
        """Everything, defaults included, as plain values that `parse` takes."""
        data = self.model_dump(exclude={"tables"})
        return data | {"tables": [table_to_mapping(spec) for spec in self.tables]}

    @property
    def sets_nothing(self) -> bool:
        """Whether the file that it was read from sets no key, as an empty one: all that it says are defaults."""
        return not self.tables and self.model_fields_set <= {"tables"}

    def to_json(self) -> str:
        """As JSON, keys sorted: equal configs give equal text."""
        return json.dumps(self.to_mapping(), sort_keys=True)

    @property
    def hash(self) -> str:
        """12 hex digits that stand for the whole config, in whatever order its tables are."""
        ordered = self.model_copy(update={"tables": tuple(sorted(self.tables, key=lambda spec: spec.name))})
        return hashlib.sha256(ordered.to_json().encode()).hexdigest()[:12]


def load(path: str | Path) -> DeployConfig:
    """Read a YAML file.

    Raises:
        InvalidConfig: it cannot be read, or anything in it is wrong; the message lists every fault.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as e:
        reason = e.strerror if isinstance(e, OSError) else "it is not UTF-8 text"
        raise InvalidConfig(f"cannot read the deploy config {str(path)!r}: {reason}") from None
    try:
        value = yaml.load(text, _Loader)
    except RecursionError:
        raise InvalidConfig(f"{path}: it is nested too deep") from None
    except yaml.MarkedYAMLError as e:
        where = f"line {e.problem_mark.line + 1}: " if e.problem_mark else ""
        raise InvalidConfig(f"{path}: {where}{e.problem or e.context}") from None
    except yaml.reader.ReaderError as e:
        raise InvalidConfig(
            f"{path}: it is not text: character {e.position + 1} is {chr(e.character)!r}"
        ) from None
    except yaml.YAMLError as e:
        raise InvalidConfig(f"{path}: {e}") from None
    return parse({} if value is None else value, source=str(path))


def parse(value: Any, source: str = "deploy config") -> DeployConfig:
    """Check a mapping, as YAML or JSON gives it.

    Raises:
        InvalidConfig: anything in it is wrong; `faults` holds each: its path, its value, what is nearest.
    """
    if not isinstance(value, Mapping):
        raise _invalid(source, [Fault("", value, "must be a mapping such as {name: ads, shards: 4}")])
    faults: list[Fault] = []
    tables = tables_from_list(value.get("tables"), faults)
    try:
        config = DeployConfig.model_validate(dict(value) | {"tables": ()})  # pyright: ignore[reportUnknownArgumentType]
    except ValidationError as e:
        own = [_fault(error) for error in e.errors(include_url=False)]
        raise _invalid(source, own + faults) from None
    faults += endpoint_faults(config.launcher, config.host, config.advertise_host, config.ray.address)
    faults += _durability_faults(config)
    if faults:
        raise _invalid(source, faults)
    return config.model_copy(update={"tables": tuple(tables)})


def _durability_faults(config: DeployConfig) -> list[Fault]:
    """Whether there is a place for what is acknowledged."""
    if config.durability == "memory":
        return []
    path, value = "durability", config.durability
    if config.launcher == "ray":
        return [Fault(path, value, "must be memory with launcher: ray, in this version", "memory")]
    if config.storage is None:
        return [Fault(path, value, "needs `storage:`, a folder that outlives the servers")]
    if "://" in config.storage and not config.storage.startswith("file://"):
        problem = f"needs a folder of this machine as `storage:`, where logs are synced; got {config.storage}"
        return [Fault(path, value, problem)]
    return []


def from_json(text: str) -> DeployConfig:
    """Back from `DeployConfig.to_json`."""
    return parse(json.loads(text))


# ----------------------------------------------------------------------------------------------------- faults


def _invalid(source: str, faults: list[Fault]) -> InvalidConfig:
    lines = [str(fault) for fault in faults]
    head = f"{source}: " if len(lines) == 1 else f"{source} has {len(lines)} faults:\n  "
    return InvalidConfig(head + "\n  ".join(lines), faults=tuple(faults))


_KEYS_BELOW = {
    key: f"{name}.{key}"
    for name, section in (("ray", RayConfig), ("limits", Limits))
    for key in section.model_fields
}
_BOUNDS = {
    "greater_than_equal": ("ge", "at least"),
    "greater_than": ("gt", "more than"),
    "less_than_equal": ("le", "at most"),
}


def _fault(error: ErrorDetails) -> Fault:
    """One of pydantic's errors in our words."""
    location, value, context = error["loc"], error["input"], error.get("ctx", {})
    path = ".".join(str(part) for part in location)
    if error["type"] == "extra_forbidden":
        return _unknown_key(path, value, location)
    if error["type"] == "literal_error":
        field = _section_at(location[:-1]).model_fields[str(location[-1])]
        choices = [str(choice) for choice in get_args(field.annotation)]
        near = difflib.get_close_matches(str(value).lower(), [c.lower() for c in choices], 1, 0.3)
        nearest = next((c for c in choices if near and c.lower() == near[0]), None)
        return Fault(path, value, f"must be {' or '.join(choices)}", nearest)
    if error["type"] == "launcher":
        near = difflib.get_close_matches(str(value).lower(), LAUNCHERS, 1, 0.3)
        return Fault(path, value, error["msg"], near[0] if near else None)
    if path == "port" and error["type"] in ("whole", "greater_than_equal", "less_than_equal"):
        bounds = f"must be a whole number of 0 to {MAX_PORT}"
        return Fault(path, value, bounds, near_port(value))
    if error["type"] == "whole" and isinstance(value, str) and re.fullmatch("[0-9]+", value):
        return Fault(path, value, error["msg"], int(value))
    if error["type"] in _BOUNDS:
        key, words = _BOUNDS[error["type"]]
        bound = context[key]
        return Fault(path, value, f"must be {words} {bound:g}", bound if key != "gt" else None)
    if error["type"] in ("model_type", "dict_type"):
        return Fault(path, value, "must be a mapping")
    if error["type"] in ("string_type", "string_too_short"):
        return Fault(path, value, "must be a text that is not empty")
    return Fault(path, value, error["msg"][0].lower() + error["msg"][1:])


def _unknown_key(path: str, value: Any, location: tuple[int | str, ...]) -> Fault:
    """A key that is none: a typo of one of its section, or one that stands in the wrong section."""
    *above, key = location
    own = list(_section_at(tuple(above)).model_fields)
    elsewhere = {name: name for name in DeployConfig.model_fields} if above else _KEYS_BELOW
    other = difflib.get_close_matches(str(key), elsewhere, 1, 0.75)
    near = difflib.get_close_matches(str(key), own, 1, 0.75 if other else 0.5)
    if near or not other:
        return Fault(path, value, "is no key here", near[0] if near else None, tuple(own))
    problem = f"is no key of {above[0]}, but one of the cluster" if above else "is no key here"
    if other[0] == "address":  # of what, is not known
        problem += " (where servers listen are `host` and `port`)"
    return Fault(path, value, problem, elsewhere[other[0]])


def _section_at(location: tuple[int | str, ...]) -> type[BaseModel]:
    section: type[BaseModel] = DeployConfig
    for part in location:
        annotation = section.model_fields[str(part)].annotation
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            section = annotation
    return section


# ------------------------------------------------------------------------------------------------------- YAML


class _Loader(yaml.SafeLoader):
    """YAML that refuses a key written twice, and aliases of aliases that grow without bound; 1e-3 is a number."""

    def get_single_node(self) -> yaml.Node | None:
        node = super().get_single_node()
        if node is not None and _size(node, {}) > MAX_VALUES:
            raise yaml.constructor.ConstructorError(
                None, None, f"aliases make more than {MAX_VALUES:,} values of it", node.start_mark
            )
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key in self._keys(node):
            if key.value in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"key {key.value!r} is written twice", key.start_mark
                )
            seen.add(key.value)
        return super().construct_mapping(node, deep)

    @staticmethod
    def _keys(node: yaml.MappingNode) -> Iterator[yaml.ScalarNode]:
        return (key for key, _ in node.value if isinstance(key, yaml.ScalarNode))


def _size(node: yaml.Node, sizes: dict[int, float]) -> float:
    """Values in a node with all its aliases written out; infinite if it contains itself."""
    if id(node) not in sizes:
        sizes[id(node)] = float("inf")  # as long as it is being counted
        parts = [node.value] if isinstance(node, yaml.ScalarNode) else node.value
        flat = [part for pair in parts for part in pair] if isinstance(node, yaml.MappingNode) else parts
        inner = [part for part in flat if isinstance(part, yaml.Node)]
        sizes[id(node)] = 1 + sum(_size(part, sizes) for part in inner)
    return sizes[id(node)]


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?[0-9][0-9_]*(\.[0-9]*)?[eE][-+]?[0-9]+$"),
    list("-+0123456789"),
)
