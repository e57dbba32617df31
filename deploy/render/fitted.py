"""The config as it is in the pods: the same cluster, with paths, ports and resources that exist there."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, cast

from ...proto.security.credentials import is_loopback
from ...proto.spec import TableSpec
from ..config.config import DeployConfig, parse
from ..config.endpoints import WILDCARDS
from ..config.faults import ABSENT, Fault, invalid
from ..config.security import WAYS_OUT, SecurityConfig
from ..config.storage_url import storage_folder
from ..config.tables import table_to_mapping
from .options import Options
from .sizes import Sizes

CONFIG_AT = "/etc/rowloom/config"
SECURITY_AT = "/etc/rowloom/security"
STORAGE_AT = "/var/lib/rowloom"  # the volume; each cluster has a folder of its own there
PORT = 7400  # of the coordinator, where the config leaves it free
# Of the head's pod: those that its container names, and those that KubeRay has Ray listen on.
RAY_PORTS = {"gcs-server": 6379, "dashboard": 8265, "client": 10001}
OTHER_RAY_PORTS = {"metrics-export": 8080, "dashboard-agent": 52365}
SHARD_SEAT, COORDINATOR_SEAT = "rowloom_shard", "rowloom_coordinator"
# What a file of `security` is called in the Secret and in the pods.
FILES = {
    "ca": "ca.pem",
    "cert": "server.pem",
    "key": "server.key",
    "client_ca": "client-ca.pem",
    "tokens": "tokens.yaml",
    "token": "cluster.token",
}
LONGEST_NAME = 40  # so that the names that KubeRay makes of it are still names
_NAME = re.compile(r"[a-z]([a-z0-9-]*[a-z0-9])?")


@dataclass(frozen=True)
class Fitted:
    """A config for pods.

    Attributes:
        config: as servers in pods read it.
        files: of `security`: path here, by what each is called in the Secret.
        changed: in words, what is not as in the file.
    """

    config: DeployConfig
    files: dict[str, str]
    changed: tuple[str, ...]


def check_fits(config: DeployConfig, options: Options) -> None:
    """Raises InvalidConfig: such a cluster cannot be on Kubernetes; every fault is named."""
    faults = [*_place_faults(config), *_storage_faults(config, options), *_security_faults(config)]
    faults += _port_faults(config)
    if options.scrape_config and (config.metrics.port is None or is_loopback(config.metrics.host)):
        problem = "is read within the pod only, and --scrape-config is for a Prometheus elsewhere: 0.0.0.0"
        faults.append(Fault("metrics.host", config.metrics.host, problem))
    if faults:
        raise invalid("on Kubernetes the config", faults)


def fitted(config: DeployConfig, options: Options, sizes: Sizes) -> Fitted:
    """A config that `check_fits` takes, as pods read it."""
    security, files = _security(config.security)
    ray = config.ray
    update: dict[str, Any] = {
        "ray.address": "auto",
        "ray.memory_per_shard": sizes.shard_bytes,
        "ray.resources": ray.resources or {SHARD_SEAT: 1.0},
        "ray.coordinator_resources": ray.coordinator_resources or {COORDINATOR_SEAT: 1.0},
        "port": config.port or PORT,
        "storage": f"{STORAGE_AT}/{config.name}"
        if storage_folder(config.storage) is not None
        else config.storage,
        "security": security,
    }
    changed = tuple(
        f"{path}: {_said(value)} in place of {_said(_at(config, path))}"
        for path, value in update.items()
        if path != "security" and value != _at(config, path)
    )
    of_ray = {path.partition(".")[2]: value for path, value in update.items() if path.startswith("ray.")}
    rest = {path: value for path, value in update.items() if not path.startswith("ray.")}
    made = config.model_copy(update={**rest, "ray": ray.model_copy(update=of_ray)})
    return Fitted(parse(made.to_mapping(), "the config of the pods"), files, changed)


def written(config: DeployConfig) -> dict[str, Any]:
    """A config as a mapping without what is as it would be anyway."""
    usual = DeployConfig(launcher=config.launcher).to_mapping() | {"security": SecurityConfig().model_dump()}
    found = _beyond(config.to_mapping(), usual)
    found["tables"] = [_table(spec) for spec in config.tables]
    return {"name": config.name, "shards": config.shards, "launcher": config.launcher} | found


def _table(spec: TableSpec) -> dict[str, Any]:
    usual = table_to_mapping(TableSpec(spec.name))
    return {k: v for k, v in table_to_mapping(spec).items() if k in ("name", "dim") or v != usual[k]}


def _beyond(value: dict[str, Any], usual: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, one in value.items():
        other = usual.get(key)
        if isinstance(one, dict) and isinstance(other, dict):
            inner = _beyond(one, other)  # pyright: ignore[reportUnknownArgumentType]
            if inner:
                found[key] = inner
        elif one != other:
            found[key] = {k: v for k, v in one.items() if v is not None} if isinstance(one, dict) else one  # pyright: ignore[reportUnknownVariableType]
    return found


def _place_faults(config: DeployConfig) -> list[Fault]:
    faults: list[Fault] = []
    if config.launcher != "ray":
        problem = "starts processes of one machine: on Kubernetes shards are Ray's, `launcher: ray`"
        faults.append(Fault("launcher", config.launcher, problem))
    if not _NAME.fullmatch(config.name) or len(config.name) > LONGEST_NAME:
        problem = (
            f"must be lower-case letters, digits and -, begin with a letter, and have at most {LONGEST_NAME} of them, "
            "as it becomes the name of pods and services"
        )
        faults.append(Fault("name", config.name, problem))
    if config.host is not None and config.host not in WILDCARDS:
        problem = "is an address of one machine; each pod has its own, known when it starts: leave `host` out"
        faults.append(Fault("host", config.host, problem))
    if config.advertise_host is not None and "/" not in config.advertise_host:
        problem = "is the name of one machine, and there are several pods: leave it out, or name a network"
        faults.append(Fault("advertise_host", config.advertise_host, problem))
    return faults


def _port_faults(config: DeployConfig) -> list[Fault]:
    """Two things on one port: the second fails to listen, and of equal ports a RayCluster keeps none."""
    faults: list[Fault] = []
    taken = {port: name for name, port in (RAY_PORTS | OTHER_RAY_PORTS).items()}
    coordinator, metrics = config.port or PORT, config.metrics.port
    if coordinator in taken:
        problem = f"is where Ray's {taken[coordinator]} listens on the head, beside the coordinator"
        faults.append(Fault("port", coordinator, problem, PORT))
    if metrics == 0:
        faults.append(
            Fault("metrics.port", 0, "takes a free port, and a Service needs one that is known", 9400)
        )
    elif metrics in taken or metrics == coordinator:
        who = f"Ray's {taken[metrics]}" if metrics in taken else "the coordinator"
        faults.append(Fault("metrics.port", metrics, f"is where {who} listens on the head", 9400))
    return faults


def _storage_faults(config: DeployConfig, options: Options) -> list[Fault]:
    if storage_folder(config.storage) is not None:
        if options.storage_class or options.claim:
            return []
        problem = (
            "is a folder of this machine, which no pod sees: --storage-class NAME makes a volume that all pods share "
            "(its class must offer ReadWriteMany, as NFS, CephFS, EFS and Filestore do), --claim NAME takes one that "
            "is there"
        )
        if config.durability == "memory":
            problem += "; or take an object store, as s3://bucket/ads"
        return [Fault("storage", config.storage, problem)]
    if options.storage_class or options.claim:
        given = "--storage-class" if options.storage_class else "--claim"
        problem = (
            f"does not need {given}: it is no folder"
            if config.storage
            else f"is missing, and {given} is given"
        )
        return [Fault("storage", config.storage, f"{problem}; `storage: /var/lib/rowloom` uses the volume")]
    return []


def _security_faults(config: DeployConfig) -> list[Fault]:
    security = config.security
    if not security.cert and not security.insecure:
        problem = f"is missing: pods listen for others, who could read and change every table: {WAYS_OUT}"
        return [Fault("security", ABSENT, problem)]
    if security.cert and not security.server_name:
        problem = (
            "is missing: the addresses of pods are known when they start, so the certificate must be for a name that "
            f"all servers share: `rowloom secure init DIR --host {config.name}.internal` and `server_name: "
            f"{config.name}.internal`"
        )
        return [Fault("security.server_name", ABSENT, problem)]
    return []


def _security(security: SecurityConfig) -> tuple[SecurityConfig, dict[str, str]]:
    """The section with paths in the pods, and where each file is here."""
    given = {name: getattr(security, name) for name in FILES if getattr(security, name)}
    there = {name: f"{SECURITY_AT}/{FILES[name]}" for name in given}
    return security.model_copy(update=there), {FILES[name]: path for name, path in given.items()}


def _at(config: DeployConfig, path: str) -> Any:
    value: Any = config
    for name in path.split("."):
        value = getattr(value, name)
    return value


def _said(value: Any) -> str:
    if isinstance(value, dict):
        amounts = cast("dict[str, float]", value)
        return "{" + ", ".join(f"{name}: {amount:g}" for name, amount in amounts.items()) + "}"
    return "none" if value is None else str(value)
