"""What a new config would do to a running cluster."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

import yaml
from pydantic import BaseModel

from ...proto import rowloom_pb2 as pb
from ...proto.errors import InvalidRequest
from ...proto.spec import Dealing, Schedule, TableEntry, TableSpec
from .config import DeployConfig, from_json
from .faults import as_yaml
from .fixed import why_fixed
from .tables import plain, table_to_mapping
from .words import counted

BEGUN = (
    "{} more, and the memory of each shard once more; filled while trainers go on: `rowloom status` shows when "
    "they are in step"
)
APART = "; each on another node than its shard, or beside it where Ray has one node only"
ENDED = "the standbys end: from then on the rows of a shard end with its process"
ENDED_WITH_LOGS = (
    "the standbys end: from then on a shard whose process ends is read from its log, which takes longer"
)
# What a cluster that goes on from its logs takes from its file.
_READ_AT_START = (
    "host",
    "port",
    "advertise_host",
    "carrier",
    "log",
    "metrics",
    "tracing",
    "limits",
    "snapshots",
)


@dataclass(frozen=True)
class Change:
    """One difference between the cluster and a config.

    Attributes:
        path: where in the config.
        action: start, scale, deal (ids of a table anew), limit (what moves may take), autoscale, quotas, standbys,
            create, set_lr, upgrade; keep: nothing is done; refused: the config cannot be applied, `reason` says why.
        table: which table is made or changed. Its name may have dots, so `path` cannot say it.
    """

    path: str
    old: Any
    new: Any
    action: Literal[
        "start",
        "scale",
        "deal",
        "limit",
        "autoscale",
        "quotas",
        "standbys",
        "create",
        "set_lr",
        "upgrade",
        "keep",
        "refused",
    ]
    reason: str = ""
    table: str = ""

    def __str__(self) -> str:
        line = f"{self.path}: {worded(self.old)} -> {worded(self.new)}"
        if self.old is None:
            line = f"{self.path}: {worded(self.new)}"
        elif self.new is None and self.table:
            line = f"{self.path}: is there, and this config leaves it out"
        return f"{line} ({self.action}{': ' + self.reason if self.reason else ''})"


def worded(value: Any) -> str:
    """A value of a config for people, as it is written there; a table in a few words."""
    if value is None:
        return "none"
    if isinstance(value, dict) and "num_embeddings" in value:
        table = cast(dict[str, Any], value)
        count = table["num_embeddings"]
        ids = "any ids" if count is None else f"{count:,} ids"
        optimizer, partition = worded(table["optimizer"]), table["partition"]
        return f"a table of {ids}, dim {worded(table['dim'])}, optimizer {optimizer}, {partition}"
    if isinstance(value, dict | list):
        return yaml.safe_dump(value, default_flow_style=True, sort_keys=False, width=10_000).strip()
    return as_yaml(value)


# -------------------------------------------------------------------------------------------------------- difference


def running_config(status: pb.StatusReply) -> DeployConfig:
    """The config that a cluster amounts to now: scalings, tables and learning rates since its start included."""
    config = from_json(status.config)
    tables = tuple(_as_it_runs(TableEntry.from_message(entry)) for entry in status.tables)
    return config.model_copy(update={"shards": len(status.layout.shards), "tables": tables})


def _as_it_runs(entry: TableEntry) -> TableSpec:
    optimizer = dataclasses.replace(entry.spec.optimizer, lr=entry.current_lr)
    return dataclasses.replace(entry.spec, optimizer=optimizer)


def beginning(config: DeployConfig) -> list[Change]:
    """What `up` starts where nothing runs."""
    tables = [
        Change(f"tables.{s.name}", None, table_to_mapping(s), "create", table=s.name) for s in config.tables
    ]
    return [Change("shards", None, config.shards, "start"), *tables]


def diff(old: DeployConfig, new: DeployConfig, file: str = "FILE") -> list[Change]:
    """What differs, and what `apply` would do about each. file: with the new one, for commands that are named."""
    at_start = _READ_AT_START if _goes_on(old, new) else ()
    fixed, read_anew = (
        why_fixed(old.name, file, storage=old.storage is not None, logs=logs) for logs in (False, True)
    )
    changes = [*_count_changes(old, new), *_policy_changes(old, new), *_quota_changes(old, new)]
    changes += _standby_changes(old, new)
    changes += [
        change
        for path in DeployConfig.model_fields
        if path not in ("tables", "shards", "autoscale", "quotas", "replicas", "standby")
        for change in _plain_changes(
            path, getattr(old, path), getattr(new, path), read_anew if path in at_start else fixed
        )
    ]
    mine, theirs = {s.name: s for s in old.tables}, {s.name: s for s in new.tables}
    for name, spec in theirs.items():
        if name not in mine:
            changes.append(Change(f"tables.{name}", None, table_to_mapping(spec), "create", table=name))
        else:
            changes += _table_changes(mine[name], spec)
    if old.replicas:
        changes = [_durable_as_before(change) for change in changes]
    return changes + [_left_out(spec, old.name) for name, spec in mine.items() if name not in theirs]


def _durable_as_before(change: Change) -> Change:
    """A file that says no `durability` means logs, where they have a place; with standbys it once meant none."""
    if change.path != "durability" or change.old != "memory":
        return change
    return dataclasses.replace(
        change, reason=f"`durability: memory` in the file leaves it as it is; else it is {change.reason}"
    )


def _left_out(spec: TableSpec, cluster: str) -> Change:
    """A table that is there, and that a new config does not name."""
    stays = f"it stays with its rows; `rowloom drop {spec.name} --name {cluster}` removes it"
    return Change(f"tables.{spec.name}", table_to_mapping(spec), None, "keep", stays, table=spec.name)


def _goes_on(old: DeployConfig, new: DeployConfig) -> bool:
    """Whether `down --keep` of one, and `up` of the other, keep the rows."""
    same = old.storage == new.storage and old.launcher == new.launcher and old.name == new.name
    return same and "memory" not in (old.durability, new.durability)


def differing(status: pb.StatusReply, config: DeployConfig, file: str = "FILE") -> list[Change]:
    """What of a cluster that runs is not as a config has it. file: as `diff` takes it."""
    return [change for change in diff(running_config(status), config, file) if change.action != "keep"]


def _count_changes(old: DeployConfig, new: DeployConfig) -> list[Change]:
    if old.shards == new.shards:
        return []
    policy = new.autoscale
    if policy is None or not policy.min <= old.shards <= policy.max:
        return [Change("shards", old.shards, new.shards, "scale")]
    reason = f"`autoscale` decides, from {policy.min} to {policy.max}; `rowloom scale` changes it by hand"
    return [Change("shards", old.shards, new.shards, "keep", reason)]


def _policy_changes(old: DeployConfig, new: DeployConfig) -> list[Change]:
    if old.autoscale == new.autoscale:
        return []
    was, is_now = (one and one.model_dump(exclude_defaults=True) for one in (old.autoscale, new.autoscale))
    return [Change("autoscale", was, is_now, "autoscale")]


def _quota_changes(old: DeployConfig, new: DeployConfig) -> list[Change]:
    if old.quotas == new.quotas:
        return []
    was, is_now = (one.model_dump(exclude_none=True) for one in (old.quotas, new.quotas))
    return [Change("quotas", was, is_now, "quotas")]


def _standby_changes(old: DeployConfig, new: DeployConfig) -> list[Change]:
    changes: list[Change] = []
    if old.replicas != new.replicas:
        reason = BEGUN.format(counted(new.shards, "process", "processes"))
        if new.launcher == "ray":
            reason += APART
        if old.replicas > new.replicas:
            reason = ENDED if old.durability == "memory" else ENDED_WITH_LOGS
        changes.append(Change("replicas", old.replicas, new.replicas, "standbys", reason))
    for key in type(old.standby).model_fields:
        was, is_now = getattr(old.standby, key), getattr(new.standby, key)
        if was != is_now:
            changes.append(Change(f"standby.{key}", was, is_now, "standbys"))
    return changes


def _plain_changes(path: str, old: Any, new: Any, fixed: str) -> list[Change]:
    if old == new:
        return []
    if isinstance(old, BaseModel) and isinstance(new, BaseModel):
        parts = [(f"{path}.{key}", getattr(old, key), getattr(new, key)) for key in type(old).model_fields]  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]
        return [change for part in parts for change in _plain_changes(*part, fixed)]
    if path == "name":
        return [
            Change(
                path, old, new, "refused", "that is another cluster: `rowloom up` starts it beside this one"
            )
        ]
    if path == "limits.max_extra_memory":
        return [Change(path, old, new, "limit")]
    if path == "ray.runtime_env":
        return [Change(path, old, new, "upgrade")]
    return [Change(path, old, new, "refused", fixed)]


def _table_changes(old: TableSpec, new: TableSpec) -> list[Change]:
    path = f"tables.{new.name}"
    changes: list[Change] = []
    if type(old.optimizer) is type(new.optimizer) and old.optimizer.lr != new.optimizer.lr:
        values = plain(old.optimizer.lr), plain(new.optimizer.lr)
        if isinstance(new.optimizer.lr, Schedule):
            reason = "a schedule is taken when a table is made; give a number, or another table"
            changes.append(Change(f"{path}.optimizer.lr", *values, "refused", reason))
        else:
            changes.append(Change(f"{path}.optimizer.lr", *values, "set_lr", table=new.name))
        new = dataclasses.replace(new, optimizer=dataclasses.replace(new.optimizer, lr=old.optimizer.lr))
    mine, theirs = old.dealing._asdict(), new.dealing._asdict()
    changes += [
        Change(f"{path}.{k}", mine[k], theirs[k], "deal", table=new.name)
        for k in mine
        if mine[k] != theirs[k]
    ]
    mine, theirs = table_to_mapping(old), table_to_mapping(new)
    reason = (
        "fixed while the table exists: take another name, or `rowloom drop` it first, which loses its rows"
    )
    changes += [
        Change(f"{path}.{k}", mine[k], theirs[k], "refused", reason)
        for k in mine
        if k not in Dealing._fields and mine[k] != theirs[k]
    ]
    return changes


def compared(changes: Sequence[Change], file: str) -> list[str]:
    """Of each change what runs, and what a file says, for people."""
    runs = {c.path: "run" if c.path == "shards" and c.old != 1 else "runs" for c in changes}
    return [f"{c.path}: {worded(c.old)} {runs[c.path]}, {file} says {worded(c.new)}" for c in changes]


def ways_out(changes: Sequence[Change], file: str) -> str:
    """In words, what can be done where a cluster runs with another config than a file says.

    Args:
        changes: that differ, at least one.
        file: with the config, for commands.
    """
    short = [f"`{c.path}: {worded(c.old)}`" for c in changes if isinstance(c.old, int | float | str)]
    runs = f" ({', '.join(short)})" if len(short) == len(changes) else ""
    edit = f"edit {file} so that it says what runs{runs}"
    reasons: dict[str, list[str]] = {}
    for change in changes:
        if change.action == "refused":
            reasons.setdefault(change.reason, []).append(change.path)
    if reasons:
        why = ". ".join(f"{', '.join(paths)}: {reason}" for reason, paths in reasons.items())
        return f"Either {edit}; or start the cluster anew, because `rowloom apply` cannot change all of that. {why}"
    done = ", ".join(f"{c.path}: {worded(c.old)} -> {worded(c.new)}" for c in changes)
    return f"Either {edit}; or `rowloom apply {file}` brings the cluster to what the file says ({done})"


def refuse(changes: Sequence[Change]) -> None:
    """Raise InvalidRequest if any of the changes cannot be made."""
    bad: list[str] = []
    first: dict[str, str] = {}  # by reason: of several the first has it all
    for c in changes:
        if c.action == "refused":
            why = f"as {first[c.reason]}" if c.reason in first else c.reason
            first.setdefault(c.reason, c.path)
            bad.append(f"{c.path}: {worded(c.old)} -> {worded(c.new)}: {why}")
    if bad:
        raise InvalidRequest("this config cannot be applied, nothing was changed:\n  " + "\n  ".join(bad))
