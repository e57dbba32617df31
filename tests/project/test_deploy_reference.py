"""docs/deploy.md says every key of the deploy config, with its default and whether it can be changed; docs/operate.md
every command and exit code."""

import dataclasses
import re
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from pydantic import BaseModel

from rowloom.client import SGD, Adagrad, Constraint, TableSpec, Uniform
from rowloom.deploy.config.changes import diff
from rowloom.deploy.config.config import DeployConfig, parse
from rowloom.deploy.config.tables import plain

DOCS = Path(__file__).parents[2] / "docs"
REFERENCE = (DOCS / "deploy.md").read_text(encoding="utf-8")
OPERATE = (DOCS / "operate.md").read_text(encoding="utf-8")


def rows() -> dict[str, list[str]]:
    """The cells of the tables of keys, by key."""
    cells = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in REFERENCE.splitlines()
        if line[:3] == "| `"
    ]
    return {row[0].strip("`"): row[1:] for row in cells}


def keys_of(model: type[BaseModel], prefix: str = "") -> dict[str, Any]:
    """Every key of the config that is no section, with its default."""
    found: dict[str, Any] = {}
    for name, field in model.model_fields.items():
        sections = [t for t in (field.annotation, *get_args(field.annotation)) if is_section(t)]
        default = ... if field.is_required() else field.get_default(call_default_factory=True)
        found |= keys_of(sections[0], f"{prefix}{name}.") if sections else {prefix + name: default}
    return found


def is_section(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)


def keys() -> dict[str, Any]:
    spec = TableSpec("x")
    table = {f"tables[].{f.name}": getattr(spec, f.name) for f in dataclasses.fields(TableSpec)}
    return keys_of(DeployConfig) | table | {"tables[].name": ...}


def test_every_key_is_there_and_none_that_is_not():
    assert set(rows()) == set(keys())


@pytest.mark.parametrize("key", sorted(keys()))
def test_every_default_is_the_one_that_holds(key):
    default = keys()[key]
    said = rows()[key][1].strip("`")
    if default is ...:
        assert said == "required"
    elif default is None:
        assert said == "none"
    elif isinstance(default, SGD | Uniform):
        assert said == type(default).__name__.lower()
    else:
        value = plain(default)
        assert yaml.safe_load(said) == value, said
        assert str(said) == str(value).lower() or isinstance(value, str | list | dict)


OTHER = {
    "name": "b",
    "shards": 3,
    "launcher": "ray",
    "storage": "/x",
    "carrier": "grpc",
    "host": "127.0.0.2",
    "port": 7400,
    "advertise_host": "x",
    "ray.address": "local",
    "ray.placement": "PACK",
    "ray.num_cpus_per_shard": 2.0,
    "ray.memory_per_shard": 1,
    "ray.resources": {"a": 1.0},
    "ray.coordinator_resources": {"a": 1.0},
    "ray.label_selector": {"pool": "ps"},
    "ray.runtime_env": {"pip": ["rowloom"]},
    "ray.niceness": 5,
    "replicas": 1,
    "standby.mode": "async",
    "standby.after": "9s",
    "snapshots.every": "10m",
    "snapshots.keep": 3,
    "autoscale.min": 2,
    "autoscale.max": 9,
    "autoscale.target_bytes_per_shard": 1,
    "autoscale.target_qps_per_shard": 2.0,
    "autoscale.cooldown": "5m",
    "autoscale.dry_run": True,
    "security.ca": "x",
    "security.cert": "x",
    "security.key": "x",
    "security.mutual": True,
    "security.client_ca": "x",
    "security.server_name": "x",
    "security.tokens": "x",
    "security.token": "x",
    "security.insecure": True,
    "quotas.default.rows": 1000,
    "quotas.default.bytes": "1GiB",
    "quotas.default.tables": 3,
    "quotas.default.calls": 4,
    "quotas.principals.rows": 1000,
    "quotas.principals.bytes": "1GiB",
    "quotas.principals.tables": 3,
    "quotas.principals.calls": 4,
    "limits.start_timeout_s": 1.0,
    "limits.stop_grace_s": 1.0,
    "limits.max_extra_memory": 1 << 30,
    "metrics.port": 9400,
    "metrics.host": "0.0.0.0",
    "tracing.otlp_endpoint": "http://127.0.0.1:4318/v1/traces",
    "log.level": "debug",
    "log.format": "json",
    "tables": [TableSpec("b")],
}
OTHER_TABLE = {
    "num_embeddings": 10,
    "dim": 8,
    "partition": "div",
    "optimizer": SGD(lr=0.5),
    "initializer": Uniform(seed=1),
    "hash_ids": True,
    "frozen": True,
    "metadata": {"a": "b"},
    "wire": "int8",
    "constraint": Constraint(clip_norm=1.0),
}


def changed(key: str) -> tuple[DeployConfig, DeployConfig]:
    """Two configs that differ in that key only."""
    if key.startswith("tables[]."):
        old = TableSpec("t", 20)
        new = dataclasses.replace(
            old, **{key.removeprefix("tables[]."): OTHER_TABLE[key.removeprefix("tables[].")]}
        )
        return parse({"tables": [old]}), parse({"tables": [new]})
    section, dot, name = key.partition(".")
    if section == "security" and name != "insecure":
        return secured(name)
    if section == "quotas":
        whose, _, what = name.partition(".")
        quota = {what: OTHER[key]}
        with_tokens = {"security": {"tokens": "/tokens", "token": "/token"}}
        quotas = {whose: {"ann": quota} if whose == "principals" else quota}
        return parse(with_tokens), parse(with_tokens | {"quotas": quotas})
    policy = {"max": 8, "target_qps_per_shard": 1.0}
    base: dict[str, Any] = {
        "snapshots": {"storage": "/x"},
        "ray": {"launcher": "ray"},
        "autoscale": {"shards": 2, "autoscale": policy},
    }.get(section, {})
    other = {section: {**base.get(section, {}), name: OTHER[key]}} if dot else {key: OTHER[key]}
    return parse(base), parse(base | other)


def secured(name: str) -> tuple[DeployConfig, DeployConfig]:
    """Two that differ in one key of `security`, each with what that key needs beside it."""
    files = {key: f"/{key}" for key in ("ca", "cert", "key", "client_ca", "tokens", "token")}
    whole = files | {"mutual": True, "server_name": "a"}
    other = {"mutual": False, "server_name": "b"}.get(name, "/other")
    if name == "mutual":
        whole.pop("client_ca")
    return parse({"security": whole}), parse({"security": whole | {name: other}})


def test_of_every_key_it_is_tried_whether_it_is_live():
    tried = {*OTHER, *(f"tables[].{name}" for name in OTHER_TABLE)}
    one_value = {"durability", "tables[].dtype"}
    assert tried | one_value | {"tables[].name"} == set(keys())


@pytest.mark.parametrize("key", [*OTHER, *(f"tables[].{name}" for name in OTHER_TABLE)])
def test_what_is_called_live_is_applied_and_what_is_called_fixed_is_refused(key):
    actions = {change.action for change in diff(*changed(key))}
    assert actions
    assert rows()[key][2] == ("fixed" if "refused" in actions else "live")


def test_of_an_optimizer_only_the_learning_rate_is_live():
    old = parse({"tables": [TableSpec("t", 20, optimizer=Adagrad(lr=0.1))]})
    new = parse({"tables": [TableSpec("t", 20, optimizer=Adagrad(lr=0.1, eps=1e-3))]})
    assert [c.action for c in diff(old, new)] == ["refused"]


def test_the_examples_are_accepted():
    for text in re.findall(r"^```yaml\n(.*?)^```$", REFERENCE, re.MULTILINE | re.DOTALL):
        assert parse(yaml.safe_load(text)).tables


def test_every_command_is_in_the_manual_with_what_it_prints():
    from rowloom.deploy.cli import app

    commands = {c.name or str(c.callback.__name__) for c in app.registered_commands if c.callback}
    said = set(re.findall(r"`rowloom ([a-z-]+)[^|]*` \|", OPERATE)) | {"bench", "demo"}
    assert said == commands


def test_the_exit_codes_are_those_of_the_help():
    from rowloom.deploy.cli import app

    in_help = re.findall(r"^  (\d+) ", app.info.help or "", re.MULTILINE)
    assert re.findall(r"^\| (\d+) \|", OPERATE, re.MULTILINE) == in_help
