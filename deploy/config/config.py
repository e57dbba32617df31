"""The deploy config: what a cluster is to be, checked whole, with every fault named at once."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, InstanceOf, ValidationError

from ...proto.security.credentials import is_loopback
from ...proto.spec import TableSpec
from .endpoints import MAX_PORT, advertised_faults, host_faults, ray_faults
from .faults import ABSENT, Fault, InvalidConfig, invalid, on_lines
from .home import expanded
from .quotas import QuotasConfig
from .refused import as_typed, fault_of, texts_as_keys, without
from .runtime_env import environment_faults
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
from .security import WAYS_OUT, SecurityConfig, security_faults
from .storage_url import ELSEWHERE, dies_with_its_process, holds_password, masked, storage_folder
from .tables import table_to_mapping, tables_from_list
from .yaml_text import YamlText


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
    read = YamlText(text, str(path))
    try:
        config = parse({} if read.value is None else read.value, str(path), Path(path).parent)
        _check_lasts(config.storage, str(path))
    except InvalidConfig as e:
        raise on_lines(e, str(path), read.line_of, read.twice) from None
    if read.twice:
        raise invalid(str(path), read.twice)
    if config.storage is None or "://" in config.storage:
        return config
    # What runs and what is asked later are compared, perhaps from another folder: both must be the same words.
    storage = os.path.abspath(Path(path).parent / expanded(config.storage))
    return config.model_copy(update={"storage": storage})


def _check_lasts(storage: str | None, source: str) -> None:
    """Raise InvalidConfig for a storage that only one process would see: the servers of a file's config are several."""
    if dies_with_its_process(storage):
        problem = f"is memory of one process, which no other sees and which ends with it: {ELSEWHERE}"
        raise invalid(source, [Fault("storage", storage, problem)])


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
    tables = tables_from_list(value.get("tables"), faults)  # pyright: ignore[reportUnknownMemberType, reportUnknownArgumentType]
    refused: list[Fault] = []
    given = texts_as_keys(value, refused) | {"tables": ()}  # pyright: ignore[reportUnknownArgumentType]
    config = _sections(given, refused)
    paths = {fault.path for fault in refused}
    own = [fault for fault in refused if not any(fault.path.startswith(f"{path}.") for path in paths)]
    if (
        "durability" not in given
        and config.launcher == "local"
        and storage_folder(config.storage) is not None
    ):
        config = config.model_copy(update={"durability": "process"})
    together = _together(config, running=running)
    if "ray" in given and config.launcher != "ray":
        problem = f"is not read with launcher: {config.launcher}; add `launcher: ray`, or leave `ray` out"
        together.append((("launcher",), [Fault("ray", ABSENT, problem)]))
    faults = own + faults + [as_typed(fault, given) for fault in _sound(together, own)]
    if faults:
        raise invalid(source, faults)
    if config.security != SecurityConfig():
        config = config.model_copy(update={"security": config.security.below(folder)})
    return config.model_copy(update={"tables": tuple(tables)})


def _sections(given: dict[str, Any], faults: list[Fault]) -> DeployConfig:
    """The config but for its tables. What is refused of it becomes faults, and is as if it was left out."""
    refused = False
    while True:
        try:
            return DeployConfig.model_validate(given)
        except ValidationError as e:
            errors = e.errors(include_url=False)
            if not refused:  # what then misses something was looked at before
                faults += [fault_of(error, given, DeployConfig) for error in errors]
            refused, given = True, without(given, errors)


def _sound(together: list[tuple[tuple[str, ...], list[Fault]]], own: list[Fault]) -> list[Fault]:
    """The faults of several keys of which none was refused itself, or is one that was mistyped."""
    unknown = {path for fault in own for path in (fault.path, fault.nearest) if isinstance(path, str)}
    found = [faults for keys, faults in together if not any(_touches(key, unknown) for key in keys)]
    return [fault for faults in found for fault in faults if fault.path not in unknown]


def _touches(key: str, paths: set[str]) -> bool:
    """Whether one of the paths is that key, stands in it, or has it in it."""
    return any(key == path or key.startswith(f"{path}.") or path.startswith(f"{key}.") for path in paths)


def _together(config: DeployConfig, *, running: bool) -> list[tuple[tuple[str, ...], list[Fault]]]:
    """What of several keys does not go together: the keys that are looked at, and what is wrong with them.

    What one of them says is not known where it was refused itself.
    """
    place = ("host", "launcher", "advertise_host")
    at_fault = advertised_faults(config.launcher, config.host, config.advertise_host)
    host_fault = host_faults(config.host)
    listens_on = None if host_fault else _listens_on(config)
    durable = ("durability", "storage", "launcher", "snapshots.every")
    return [
        (("host",), host_fault),
        (place, at_fault),
        (("ray.address",), ray_faults(config.ray.address)),
        (("ray.runtime_env",), environment_faults(config.ray.runtime_env)),
        (durable, _durability_faults(config)),
        (("storage",), [] if running else _password_faults("storage", config.storage)),
        (
            ("tracing.otlp_endpoint",),
            [] if running else _password_faults("tracing.otlp_endpoint", config.tracing.otlp_endpoint),
        ),
        (("autoscale.min", "autoscale.max"), _bounds_faults(config)),
        (("autoscale.min", "autoscale.max", "shards"), [] if running else _count_faults(config)),
        (("autoscale.target_bytes_per_shard", "autoscale.target_qps_per_shard"), _target_faults(config)),
        (("security", *place), security_faults(config.security, listens_on)),
        (("metrics", "security"), _metrics_faults(config)),
        (("quotas", "security"), _quota_faults(config)),
    ]


def _durability_faults(config: DeployConfig) -> list[Fault]:
    """Whether there is a place for what is acknowledged, and for snapshots."""
    if config.snapshots.every is not None and config.storage is None:
        return [Fault("snapshots.every", config.snapshots.every, "needs `storage:`, where snapshots go")]
    if config.durability == "memory":
        return []
    path, value = "durability", config.durability
    if config.storage is None:
        return [Fault(path, value, "needs `storage:`, a folder that outlives the servers")]
    if storage_folder(config.storage) is None:
        where = "that all nodes of Ray share" if config.launcher == "ray" else "of this machine"
        problem = f"needs a folder {where} as `storage:`, where logs are synced, which {masked(config.storage)} is not"
        return [Fault(path, value, problem)]
    return []


def _password_faults(path: str, url: str | None) -> list[Fault]:
    """Whether a URL has a password in it. It is not shown again."""
    if not holds_password(url):
        return []
    instead = (
        "the environment of servers, as OTEL_EXPORTER_OTLP_HEADERS"
        if path.startswith("tracing")
        else "the environment of servers or a file that its library reads, as AWS_SECRET_ACCESS_KEY or ~/.aws"
    )
    problem = f"is {masked(url)}, and a password there is seen in the status, records and Ray: put it into {instead}"
    return [Fault(path, ABSENT, problem)]


def _bounds_faults(config: DeployConfig) -> list[Fault]:
    """Whether there is a count within the bounds of `autoscale`."""
    policy = config.autoscale
    if policy is None or policy.min <= policy.max:
        return []
    return [Fault("autoscale.min", policy.min, f"must be at most autoscale.max, {policy.max}")]


def _count_faults(config: DeployConfig) -> list[Fault]:
    """Whether the first count of shards is within the bounds."""
    policy = config.autoscale
    if policy is None or policy.min > policy.max or policy.min <= config.shards <= policy.max:
        return []
    return [Fault("shards", config.shards, f"must be in [{policy.min}, {policy.max}], as `autoscale` says")]


def _target_faults(config: DeployConfig) -> list[Fault]:
    """Whether there is something to scale by."""
    policy = config.autoscale
    if policy is None or policy.target_bytes_per_shard or policy.target_qps_per_shard:
        return []
    what = "needs target_bytes_per_shard, target_qps_per_shard, or both"
    return [Fault("autoscale", policy.model_dump(exclude_defaults=True), what)]


def _metrics_faults(config: DeployConfig) -> list[Fault]:
    """Whether metrics go to others under TLS, or where their owner has said that it is a private network."""
    host, security = config.metrics.host, config.security
    if config.metrics.port is None or is_loopback(host) or security.cert:
        return []
    if security.tokens:
        problem = (
            "is for others, who could read in plain text the tokens that whoever reads metrics shows: needs "
            "`security: {cert, key, ca}`"
        )
        return [Fault("metrics.host", host, problem)]
    if security.insecure:
        return []
    problem = f"is for others, and without TLS metrics go in plain text to whoever asks: {WAYS_OUT}"
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


def with_replicas(config: DeployConfig, text: str) -> DeployConfig:
    """A cluster's config with other standbys.

    Args:
        config: of a cluster that runs.
        text: what `replicas` and `standby` say, as JSON.

    Raises:
        InvalidConfig: it is no such thing.
    """
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as e:
        raise InvalidConfig(f"the replicas are no JSON: {e}") from None
    read = parse(value, "replicas", running=True)
    return config.model_copy(update={"replicas": read.replicas, "standby": read.standby})


def replicas_of(config: DeployConfig) -> str:
    """What `with_replicas` reads."""
    return json.dumps({"replicas": config.replicas, "standby": config.standby.model_dump()}, sort_keys=True)


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
