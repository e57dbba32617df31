"""The deploy config: what a cluster is to be, checked whole, with every fault named at once."""

from __future__ import annotations

import difflib
import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import yaml
from pydantic import BaseModel, Field, InstanceOf, ValidationError
from pydantic_core import ErrorDetails

from ...proto.errors import InvalidRequest
from ...proto.security.credentials import is_loopback
from ...proto.spec import TableSpec
from .endpoints import MAX_PORT, endpoint_faults, near_port
from .launchers import LAUNCHERS
from .quotas import QuotasConfig
from .sections import (
    MAX_SHARDS,
    Autoscale,
    LauncherName,
    Limits,
    LogConfig,
    MetricsConfig,
    Name,
    RayConfig,
    Section,
    SnapshotSchedule,
    StandbyConfig,
    Storage,
    TracingConfig,
    Whole,
)
from .security import SecurityConfig, security_faults
from .tables import Fault, table_to_mapping, tables_from_list

MAX_VALUES = 100_000  # of a config file, its aliases written out


class InvalidConfig(InvalidRequest):
    """A deploy config that cannot be used. `faults` lists everything that is wrong with it."""

    exit_code = 2  # of the command line: wrong use

    def __init__(self, message: str = "", *, faults: tuple[Fault, ...] = (), **data: Any) -> None:
        super().__init__(message, **data)
        self.faults = faults


class DeployConfig(Section):
    """A cluster as its owner wants it."""

    name: Name = "default"
    shards: Whole = Field(default=1, ge=1, le=MAX_SHARDS)
    launcher: LauncherName = "local"
    ray: RayConfig = Field(default=RayConfig())
    storage: Storage = Field(default=None, min_length=1)
    """Any fsspec URL; where the layout is kept. None: nowhere."""
    durability: Literal["memory", "process", "interval", "disk"] = "memory"
    """What has happened to a push when it is acknowledged: nothing; written; written, and synced soon; synced.

    `parse` takes `process` where none is given and logs have a place: `launcher: local` with a folder as `storage`.
    """
    replicas: Whole = Field(default=0, ge=0, le=1)
    """Beside each shard so many more servers, standbys, that have all that it has."""
    standby: StandbyConfig = Field(default=StandbyConfig())
    snapshots: SnapshotSchedule = Field(default=SnapshotSchedule())
    autoscale: Autoscale | None = None
    """None: as many shards as `shards` says. Else that is how many there are at first."""
    carrier: Literal["auto", "grpc"] = "auto"
    host: str | None = Field(default=None, min_length=1)
    """Interface that servers listen on. None: 127.0.0.1, and on Ray the address that Ray has for the node."""
    port: Whole = Field(default=0, ge=0, le=MAX_PORT)
    """The coordinator's port; 0 takes a free one. Shards always take free ones."""
    advertise_host: str | None = Field(default=None, min_length=1)
    """What others call the machine. On Ray also a network, as 10.1.0.0/16, in which each node has an address."""
    limits: Limits = Field(default=Limits())
    security: SecurityConfig = Field(default=SecurityConfig())
    quotas: QuotasConfig = Field(default=QuotasConfig())
    metrics: MetricsConfig = Field(default=MetricsConfig())
    log: LogConfig = Field(default=LogConfig())
    tracing: TracingConfig = Field(default=TracingConfig())
    tables: tuple[InstanceOf[TableSpec], ...] = ()

    def to_mapping(self) -> dict[str, Any]:
        """Everything that has an effect, defaults included, as plain values that `parse` takes."""
        unread = {"tables"} if self.launcher == "ray" else {"tables", "ray"}
        if self.security == SecurityConfig():
            unread.add("security")
        if self.quotas == QuotasConfig():
            unread.add("quotas")
        data = self.model_dump(exclude=unread)
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
    """Read a YAML file. Relative paths in it begin at its folder, and are seen from anywhere in what is returned.

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
    config = parse({} if value is None else value, str(path), Path(path).parent)
    if config.storage is None or "://" in config.storage:
        return config
    # What runs and what is asked later are compared, perhaps from another folder: both must be the same words.
    storage = os.path.abspath(Path(path).parent / Path(config.storage).expanduser())
    return config.model_copy(update={"storage": storage})


def parse(
    value: Any, source: str = "deploy config", folder: Path = Path(), *, running: bool = False
) -> DeployConfig:
    """Check a mapping, as YAML or JSON gives it.

    Args:
        value: the mapping.
        source: what it is called in messages.
        folder: where relative paths of `security` begin.
        running: of a cluster that runs, which may have been scaled by hand beyond what `autoscale` says.

    Raises:
        InvalidConfig: anything in it is wrong; `faults` holds each: its path, its value, what is nearest.
    """
    if not isinstance(value, Mapping):
        raise invalid(source, [Fault("", value, "must be a mapping such as {name: ads, shards: 4}")])
    faults: list[Fault] = []
    tables = tables_from_list(value.get("tables"), faults)
    try:
        config = DeployConfig.model_validate(dict(value) | {"tables": ()})  # pyright: ignore[reportUnknownArgumentType]
    except ValidationError as e:
        own = [_fault(error) for error in e.errors(include_url=False)]
        raise invalid(source, own + faults) from None
    if (
        "durability" not in value
        and not config.replicas
        and config.launcher == "local"
        and _has_folder(config.storage)
    ):
        config = config.model_copy(update={"durability": "process"})
    faults += endpoint_faults(config.launcher, config.host, config.advertise_host, config.ray.address)
    listens_on = None if faults else _listens_on(config)
    faults += (
        _standby_faults(config) + _durability_faults(config) + _autoscale_faults(config, running=running)
    )
    faults += security_faults(config.security, listens_on)
    faults += _metrics_faults(config) + _quota_faults(config)
    if config.security != SecurityConfig():
        config = config.model_copy(update={"security": config.security.below(folder)})
    if "ray" in value and config.launcher != "ray":
        problem = f"is not read with launcher: {config.launcher}; add `launcher: ray`, or leave `ray` out"
        faults.append(Fault("ray", value["ray"], problem))
    if faults:
        raise invalid(source, faults)
    return config.model_copy(update={"tables": tuple(tables)})


def _durability_faults(config: DeployConfig) -> list[Fault]:
    """Whether there is a place for what is acknowledged, and for snapshots."""
    if config.snapshots.every is not None and config.storage is None:
        return [Fault("snapshots.every", config.snapshots.every, "needs `storage:`, where snapshots go")]
    if config.durability == "memory":
        return []
    path, value = "durability", config.durability
    if config.storage is None:
        return [Fault(path, value, "needs `storage:`, a folder that outlives the servers")]
    if not _has_folder(config.storage):
        where = "that all nodes of Ray share" if config.launcher == "ray" else "of this machine"
        problem = f"needs a folder {where} as `storage:`, where logs are synced; got {config.storage}"
        return [Fault(path, value, problem)]
    return []


def _standby_faults(config: DeployConfig) -> list[Fault]:
    """Whether standbys go with the rest."""
    if not config.replicas:
        return []
    faults: list[Fault] = []
    if config.durability != "memory":
        problem = "needs `durability: memory`: a server has a standby or a log, not both yet"
        faults.append(Fault("replicas", config.replicas, f"{problem}; got {config.durability}"))
    if config.launcher == "ray":
        problem = "needs `launcher: local`: standbys are not yet placed on nodes of Ray"
        faults.append(Fault("replicas", config.replicas, problem))
    return faults


def _autoscale_faults(config: DeployConfig, *, running: bool) -> list[Fault]:
    """Whether there is something to scale by, and a count within its bounds."""
    policy = config.autoscale
    if policy is None:
        return []
    faults: list[Fault] = []
    if policy.min > policy.max:
        faults.append(Fault("autoscale.min", policy.min, f"must be at most autoscale.max, {policy.max}"))
    elif not running and not policy.min <= config.shards <= policy.max:
        bounds = f"must be in [{policy.min}, {policy.max}], as `autoscale` says"
        faults.append(Fault("shards", config.shards, bounds))
    if policy.target_bytes_per_shard is None and policy.target_qps_per_shard is None:
        what = "needs target_bytes_per_shard, target_qps_per_shard, or both"
        faults.append(Fault("autoscale", policy.model_dump(exclude_defaults=True), what))
    return faults


def _metrics_faults(config: DeployConfig) -> list[Fault]:
    """Whether metrics go to others only where their owner has said that it is a private network."""
    host = config.metrics.host
    if config.metrics.port is None or is_loopback(host) or config.security.insecure:
        return []
    problem = (
        "is for others, and metrics are offered in plain text to whoever asks: let an agent or a proxy on the machine "
        "read them at 127.0.0.1"
    )
    if not config.security.cert:
        problem += "; or say `security: {insecure: true}`, on a network that is private"
    return [Fault("metrics.host", host, problem)]


def _quota_faults(config: DeployConfig) -> list[Fault]:
    """Whether there are principals that have quotas."""
    if config.quotas == QuotasConfig() or config.security.tokens:
        return []
    problem = "needs `security.tokens`: without principals nobody knows who has created a table or who calls"
    return [Fault("quotas", config.quotas.model_dump(exclude_defaults=True), problem)]


def _listens_on(config: DeployConfig) -> str | None:
    """The interface of servers; None: on Ray each node has its own, known there."""
    return config.host or (None if config.launcher == "ray" else "127.0.0.1")


def _has_folder(storage: str | None) -> bool:
    """Whether it is a folder of the machine, where logs can be synced."""
    return storage is not None and ("://" not in storage or storage.startswith("file://"))


def policy_from(text: str) -> Autoscale | None:
    """The policy that `autoscale` says, as JSON. Raises InvalidConfig."""
    try:
        value = json.loads(text)
    except ValueError as e:
        raise InvalidConfig(f"the policy of autoscale is no JSON: {e}") from None
    return parse({"autoscale": value}, "autoscale", running=True).autoscale


def quotas_from(text: str) -> QuotasConfig:
    """What `quotas` says, as JSON. Raises InvalidConfig."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as e:
        raise InvalidConfig(f"the quotas are no JSON: {e}") from None
    # It is asked elsewhere whether there are principals.
    someone = {"tokens": "tokens.yaml", "token": "token"}
    return parse({"quotas": value, "security": someone}, "quotas", running=True).quotas


def environment_from(text: str) -> dict[str, Any]:
    """The environment that `ray.runtime_env` says, as JSON. Raises InvalidConfig."""
    try:
        value = json.loads(text)
    except ValueError as e:
        raise InvalidConfig(f"the runtime environment is no JSON: {e}") from None
    given = {"launcher": "ray", "ray": {"runtime_env": value}}
    return parse(given, "runtime_env", running=True).ray.runtime_env


def from_json(text: str) -> DeployConfig:
    """Back from `DeployConfig.to_json`, also of versions that wrote defaults for `ray` whatever the launcher was."""
    value = json.loads(text)
    if value.get("launcher") != "ray":
        value.pop("ray", None)
    return parse(value, running=True)


# ----------------------------------------------------------------------------------------------------- faults


def invalid(source: str, faults: list[Fault]) -> InvalidConfig:
    """The error that names every fault. source: what the config is called."""
    lines = [str(fault) for fault in faults]
    head = f"{source}: " if len(lines) == 1 else f"{source} has {len(lines)} faults:\n  "
    return InvalidConfig(head + "\n  ".join(lines), faults=tuple(faults))


_SECTIONS = {
    "ray": RayConfig,
    "limits": Limits,
    "snapshots": SnapshotSchedule,
    "standby": StandbyConfig,
    "autoscale": Autoscale,
    "security": SecurityConfig,
    "quotas": QuotasConfig,
    "metrics": MetricsConfig,
    "log": LogConfig,
    "tracing": TracingConfig,
}
_KEYS_BELOW = {key: f"{name}.{key}" for name, section in _SECTIONS.items() for key in section.model_fields}
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
        if str(part) not in section.model_fields:  # the name of a principal
            continue
        annotation = section.model_fields[str(part)].annotation
        for one in (annotation, *get_args(annotation)):  # a section, or one that may be left out
            # On Python 3.10 dict[str, X] says of itself that it is a type.
            if isinstance(one, type) and get_origin(one) is None and issubclass(one, BaseModel):
                section = one
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
