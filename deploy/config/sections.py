"""The sections of a deploy config, and the kinds of values in them."""

from __future__ import annotations

import contextlib
import math
import re
from typing import Annotated, Any, Literal

import fsspec
from pydantic import (
    BaseModel,
    BeforeValidator,
    ByteSize,
    ConfigDict,
    Field,
    StrictBool,
    TypeAdapter,
    WithJsonSchema,
)
from pydantic_core import PydanticCustomError

from ...proto.spec import NAME, NAME_RULE
from .endpoints import MAX_PORT
from .launchers import LAUNCHERS
from .words import TIME, seconds_of

MAX_SHARDS = 1024
# Stricter than pydantic, which passes over what follows a unit, and takes bits.
_SIZE = re.compile(r"\s*[0-9]*\.?[0-9]+\s*(([KMGT]i?)?B)?\s*")
_SIZES = TypeAdapter(ByteSize)


# -------------------------------------------------------------------------------------------- kinds of values


def _whole(value: Any) -> Any:
    whole = not isinstance(value, bool) and (
        isinstance(value, int) or (isinstance(value, float) and value.is_integer())
    )
    if not whole:
        raise PydanticCustomError("whole", "must be a whole number")
    return int(value)


def _number(value: Any) -> Any:
    if not isinstance(value, bool) and isinstance(value, int | float):
        with contextlib.suppress(OverflowError):  # of what no float holds
            if math.isfinite(value):
                return float(value)
    raise PydanticCustomError("number", "must be a number")


def _bytes(value: Any) -> Any:
    """Bytes from `8GiB`, `500 MB` or a number."""
    if isinstance(value, bool) or not _SIZE.fullmatch(str(value)):
        raise PydanticCustomError("size", "must be bytes, as 8GiB, 500MB or a number")
    return int(_SIZES.validate_python(str(value)))


def _time(value: Any) -> Any:
    """Seconds from `10m`, `1.5h` or a number."""
    found = seconds_of(value) if isinstance(value, str) else value
    if isinstance(found, bool) or not isinstance(found, int | float) or not 1 <= found <= 366 * 86400:
        raise PydanticCustomError(
            "time", "must be a time of 1 s to 366 d, as 90s, 10m, 1h or a number of seconds"
        )
    return float(found)


def _name(value: Any) -> Any:
    if isinstance(value, bool | int | float):
        rule = f"{NAME_RULE}, and this is no text: write it in quotes"
        raise PydanticCustomError("name", f"must be {rule}")  # type: ignore[arg-type]  # no template
    if not isinstance(value, str) or not NAME.fullmatch(value):
        raise PydanticCustomError("name", f"must be {NAME_RULE}")  # type: ignore[arg-type]  # no template
    return value


def _launcher(value: Any) -> Any:
    if not isinstance(value, str) or value not in LAUNCHERS:
        raise PydanticCustomError("launcher", "must be {known}", {"known": " or ".join(LAUNCHERS)})
    return value


_ONE_SLASH = re.compile(r"([A-Za-z][A-Za-z0-9+]+):/(?!/)")


def _storage(value: Any) -> Any:
    protocol, colon, path = str(value).partition("://")
    protocol = protocol.partition("::")[0]
    if colon and protocol not in fsspec.available_protocols():
        raise PydanticCustomError(
            "storage",
            "must be a folder or a URL such as file:///var/lib/rowloom or s3://bucket, and {protocol}:// is no store "
            "that is known",
            {"protocol": protocol},
        )
    if colon and (not path.strip() or (protocol == "file" and not path.startswith("/"))):
        raise PydanticCustomError(
            "storage",
            "must name a place, such as {example}, behind {protocol}://",
            {
                "protocol": protocol,
                "example": f"/{path or 'var/lib/rowloom'}" if protocol == "file" else "bucket/folder",
            },
        )
    if one_slash := _ONE_SLASH.match(str(value)):
        raise PydanticCustomError("storage", "needs two slashes: {protocol}://", {"protocol": one_slash[1]})
    if isinstance(value, str) and value and not value.strip():
        raise PydanticCustomError("storage", "must be a folder or a URL, and is blank")
    return value


Whole = Annotated[int, BeforeValidator(_whole)]
Number = Annotated[float, BeforeValidator(_number)]
# What editors are told, where it is more than the type: see schema.py.
Size = Annotated[
    int,
    BeforeValidator(_bytes),
    WithJsonSchema({"type": ["integer", "string"], "pattern": f"^{_SIZE.pattern}$", "minimum": 1}),
]
Time = Annotated[
    float,
    BeforeValidator(_time),
    WithJsonSchema(
        {"type": ["number", "string"], "pattern": TIME.pattern, "minimum": 1, "maximum": 366 * 86400}
    ),
]
Name = Annotated[
    str, BeforeValidator(_name), WithJsonSchema({"type": "string", "pattern": f"^{NAME.pattern}$"})
]
Storage = Annotated[str | None, BeforeValidator(_storage)]
RuntimeEnv = Annotated[dict[str, Any], WithJsonSchema({"type": "object"})]
LauncherName = Annotated[str, BeforeValidator(_launcher), WithJsonSchema({"enum": list(LAUNCHERS)})]


# ------------------------------------------------------------------------------------------------- the config


class Section(BaseModel):
    """Keys that stand together; an unknown one is refused."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, arbitrary_types_allowed=True, use_attribute_docstrings=True
    )


class RayConfig(Section):
    """Where on Ray the shards go. Refused beside another launcher, which would not read it."""

    address: str = "auto"
    """`auto`: the cluster that Ray finds, or a local one; `local`: always a local one; or `host:port`."""
    placement: Literal["SPREAD", "PACK", "STRICT_SPREAD", "STRICT_PACK"] = "SPREAD"
    num_cpus_per_shard: Number = Field(default=1.0, gt=0, le=4096)
    memory_per_shard: Size | None = Field(default=None, ge=1)
    """Bytes that Ray sets aside for a shard."""
    resources: dict[str, Number] = Field(default_factory=dict)
    """More that a shard's node must have, as `{ps_node: 1}`."""
    coordinator_resources: dict[str, Number] = Field(default_factory=dict)
    """What the coordinator's node must have, as `{head: 1}`; it takes no CPU that Ray counts. Empty: any node."""
    label_selector: dict[str, str] = Field(default_factory=dict)
    """Labels that a shard's node must have, as `{pool: ps}`, `{ray.io/accelerator-type: "!in(A100,H100)"}`."""
    runtime_env: RuntimeEnv = Field(default_factory=dict)
    """What Ray makes for the servers before it starts them: packages, environment variables, an image."""
    niceness: Whole | None = Field(default=None, ge=0, le=19)
    """Of the shards' processes. None: what Ray gives its actors, which is 15 where nobody says otherwise."""


class Limits(Section):
    """What things may take."""

    start_timeout_s: Number = Field(default=120.0, gt=0, le=86400)
    """A shard server that is not up by then has failed."""
    stop_grace_s: Number = Field(default=5.0, ge=0, le=3600)
    """Calls under way get this long when a server stops."""
    max_extra_memory: Size | None = Field(default=None, ge=1)
    """Bytes that rows that move may take of all shards together, beside those that serve. None: no bound."""


class SnapshotSchedule(Section):
    """Snapshots that the cluster takes by itself."""

    every: Time | None = None
    """Seconds. None: only when somebody asks."""
    keep: Whole = Field(default=10, ge=1, le=100_000)
    """Of these, so many stay. Those that somebody asked for are never removed."""


class StandbyConfig(Section):
    """How the standby of each shard is kept; read with `replicas: 1`."""

    mode: Literal["sync", "async"] = "sync"
    """A push is acknowledged when the standby has it, too; or before, and the last ones may be lost with a server."""
    after: Time = 5.0
    """Seconds for which a server whose process has not ended for certain may be silent before it is given up."""


class Autoscale(Section):
    """How many shards the cluster takes for what they hold and do; see `deploy/control/autoscaling.py`."""

    min: Whole = Field(default=1, ge=1, le=MAX_SHARDS)
    max: Whole = Field(ge=1, le=MAX_SHARDS)
    target_bytes_per_shard: Size | None = Field(default=None, ge=1)
    """Of rows, with slots and index."""
    target_qps_per_shard: Number | None = Field(default=None, gt=0)
    """Rows a second, pulled and pushed."""
    cooldown: Time = 600.0
    """Seconds after a change in which there is no other one, and for which fewer shards must have been enough."""
    dry_run: StrictBool = False
    """Only say, in `status` and in the log, what would be done."""


class MetricsConfig(Section):
    """Where each process of the cluster offers its metrics, over HTTP and to whoever asks."""

    port: Whole | None = Field(default=None, ge=0, le=MAX_PORT)
    """The coordinator's; shards take free ones. 0: a free one, too. None: no process offers any."""
    host: str = Field(default="127.0.0.1", min_length=1)
    """Interface that all of them listen on."""


class TracingConfig(Section):
    """Where shards send spans of the calls that clients trace."""

    otlp_endpoint: str | None = Field(default=None, pattern=r"^https?://[^\s/]+(/\S*)?$")
    """URL of an OpenTelemetry collector that takes OTLP over HTTP. None: no spans."""


class LogConfig(Section):
    """What the processes of the cluster log."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["logfmt", "json"] = "logfmt"
