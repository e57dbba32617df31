"""What a table is: `TableSpec`, and the recipes that it names. Frozen values that check themselves."""

# What callers give is checked, although it has a type.
# pyright: reportUnnecessaryIsInstance=false

from __future__ import annotations

import dataclasses
import functools
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from google.protobuf import json_format

from . import rowloom_pb2 as pb
from .errors import InvalidRequest
from .optimizers import (
    FTRL,
    SGD,
    Adadelta,
    Adagrad,
    Adam,
    AdamW,
    Constraint,
    Cosine,
    Exponential,
    Optimizer,
    RMSprop,
    RowwiseAdagrad,
    Schedule,
    WarmUp,
    checked_rate,
)
from .recipes import (
    MAX_SEED,
    Constant,
    Initializer,
    Normal,
    Recipe,
    TruncatedNormal,
    TwoSided,
    Uniform,
    Zeros,
    is_whole,
    plain,
    shown,
)

__all__ = [
    "FTRL",
    "MAX_AXES",
    "MAX_METADATA_BYTES",
    "MAX_SEED",
    "MAX_SPEC_BYTES",
    "MAX_WIDTH",
    "NAME",
    "NAME_RULE",
    "SGD",
    "WIRES",
    "Adadelta",
    "Adagrad",
    "Adam",
    "AdamW",
    "Constant",
    "Constraint",
    "Cosine",
    "Dealing",
    "Exponential",
    "Initializer",
    "Normal",
    "Optimizer",
    "RMSprop",
    "Recipe",
    "RowwiseAdagrad",
    "Schedule",
    "TableEntry",
    "TableSpec",
    "TruncatedNormal",
    "TwoSided",
    "Uniform",
    "WarmUp",
    "Zeros",
    "check_name",
    "cut_short",
]

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
NAME_RULE = "1 to 128 letters, digits, '.', '_' or '-', not starting with a sign"
MAX_WIDTH = 4096
MAX_AXES = 16  # of a row
MAX_SPEC_BYTES = 256 << 10  # as a message, for the same reason as of metadata
MAX_METADATA_BYTES = 128 << 10  # of one table: all its specs go to every client that connects
WIRES = ("float32", "bfloat16", "float16", "int8")


def check_name(name: object) -> str:
    """The name of a table, if it is one. Raises InvalidRequest."""
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise InvalidRequest(f"table name must be {NAME_RULE}; got {shown(name)}")
    return name


class Dealing(NamedTuple):
    """How a table's ids are dealt to shards: as the arguments of `TableSpec` say."""

    partition: Literal["mod", "div"]
    hash_ids: bool = False

    def to_message(self, table: int = 0) -> pb.Dealing:
        """As the message. table: whose it is, where that has to be said."""
        return pb.Dealing(table=table, partition=self.partition, hash_ids=self.hash_ids)

    @classmethod
    def from_message(cls, message: pb.Dealing | pb.TableDealing) -> Dealing:
        """From the message; whether a table can be dealt so, `TableSpec` says."""
        return cls(message.partition, message.hash_ids)  # type: ignore[arg-type]


@dataclass(frozen=True)
class TableSpec:
    """A named matrix of rows.

    Args:
        name: letters, digits, `.`, `_`, `-`; at most 128.
        num_embeddings: V; ids are in [0, V). None: any id in [0, 2**63).
        dim: columns of a row, 1 to 4096, or the shape of a row, of at most 16 axes, such as (2, 5) or ().
        partition: "mod" or "div"; how ids are dealt to shards.
        initializer: what a row is before its first push; Uniform(-0.05, 0.05) as in Keras. torch's is Normal().
        optimizer: what a push does to a row; SGD() with torch's defaults.
        hash_ids: split by a hash of the id; for ids that share factors. Only with "mod".
        frozen: pushes are refused.
        constraint: what a push may do to a row at most: clipped gradients, bounded weights. None: anything.
        wire: how rows and gradients travel, unless a call says otherwise: "float32" (exact), or rounded as "bfloat16",
            "float16" or "int8"; see docs/wire.md. At rest they are of `dtype`.
        metadata: strings for the user; kept, not interpreted. At most 128 KiB in all, as UTF-8.

    Raises:
        InvalidRequest: an argument is out of range; the message names it.

    Example:
        >>> TableSpec("users", num_embeddings=1000, dim=8, optimizer=Adagrad(lr=0.05)).width
        8
    """

    name: str
    num_embeddings: int | None = None
    dim: int | tuple[int, ...] = 64
    partition: Literal["mod", "div"] = "mod"
    optimizer: Optimizer = field(default_factory=SGD)
    initializer: Initializer = field(default_factory=Uniform)
    hash_ids: bool = False
    dtype: str = "float32"
    frozen: bool = False
    metadata: Mapping[str, str] = field(default_factory=dict[str, str])
    constraint: Constraint | None = None
    wire: Literal["float32", "bfloat16", "float16", "int8"] = "float32"

    def __post_init__(self) -> None:
        check_name(self.name)
        for argument in ("num_embeddings", "hash_ids", "frozen"):
            object.__setattr__(self, argument, plain(getattr(self, argument)))
        self._check_size()
        if self.partition not in ("mod", "div"):
            raise self._wrong("partition", '"mod" or "div"', self.partition)
        if self.partition == "div" and self.num_embeddings is None:
            raise self._wrong("partition", '"mod" for a table of open-ended ids', self.partition)
        for argument in ("hash_ids", "frozen"):
            if not isinstance(getattr(self, argument), bool):
                raise self._wrong(argument, "True or False", getattr(self, argument))
        if self.hash_ids and self.partition != "mod":
            raise self._wrong("hash_ids", 'False unless partition is "mod"', self.hash_ids)
        if not isinstance(self.optimizer, Optimizer):
            raise self._wrong("optimizer", "an optimizer such as Adagrad(lr=0.05)", self.optimizer)
        if not isinstance(self.initializer, Initializer):
            raise self._wrong("initializer", "an initializer such as Normal(std=0.01)", self.initializer)
        if not isinstance(self.constraint, Constraint | None):
            raise self._wrong("constraint", "None or such as Constraint(clip_norm=1.0)", self.constraint)
        if not isinstance(self.metadata, Mapping):
            raise self._wrong("metadata", "strings by strings", self.metadata)
        if not all(_is_text(word) for pair in self.metadata.items() for word in pair):
            raise self._wrong("metadata", "strings by strings, without lone surrogates", self.metadata)
        size = sum(len(word.encode()) for pair in self.metadata.items() for word in pair)
        if size > MAX_METADATA_BYTES:
            what = f"at most {MAX_METADATA_BYTES} bytes in all (put what is longer into a file, and its path here)"
            raise InvalidRequest(f"metadata must be {what}, got {size} bytes (table {self.name!r})")
        if self.dtype != "float32":
            raise self._wrong("dtype", '"float32"', self.dtype)
        if self.wire not in WIRES:
            raise self._wrong("wire", f"one of {', '.join(WIRES)}", self.wire)

    def _check_size(self) -> None:
        v = self.num_embeddings
        if v is not None and (not is_whole(v) or not 0 <= v <= 2**63 - 1):
            raise self._wrong("num_embeddings", "None or in [0, 2**63)", v)
        shape = self.dim if isinstance(self.dim, tuple | list) else (self.dim,)
        if len(shape) > MAX_AXES:
            raise _too_many_axes(len(shape), self.name)
        if any(not is_whole(d) or d < 1 for d in shape):
            raise self._wrong("dim", "at least 1", self.dim)
        object.__setattr__(
            self, "dim", tuple(int(d) for d in shape) if isinstance(self.dim, tuple | list) else int(self.dim)
        )
        if self.width > MAX_WIDTH:
            raise self._wrong("dim", f"at most {MAX_WIDTH} columns", self.dim)

    def _wrong(self, argument: str, what: str, value: object) -> InvalidRequest:
        return InvalidRequest(f"{argument} must be {what}, got {shown(value)} (table {self.name!r})")

    @functools.cached_property
    def row_shape(self) -> tuple[int, ...]:
        """The shape of one row."""
        return self.dim if isinstance(self.dim, tuple) else (self.dim,)

    @functools.cached_property
    def width(self) -> int:
        """Columns of a row when it is laid flat."""
        return math.prod(self.row_shape)

    @functools.cached_property
    def id_limit(self) -> int:
        """Ids are in [0, id_limit)."""
        return 2**63 if self.num_embeddings is None else self.num_embeddings

    @functools.cached_property
    def dealing(self) -> Dealing:
        """How its ids are dealt to shards."""
        return Dealing(self.partition, self.hash_ids)

    def dealt(self, dealing: Dealing) -> TableSpec:
        """The same with its ids dealt otherwise. Raises InvalidRequest: they cannot be."""
        return self if dealing == self.dealing else dataclasses.replace(self, **dealing._asdict())

    def differences(self, other: TableSpec) -> list[str]:
        """What differs, as `dim: 8 here, 16 there`; empty if nothing does."""
        pairs = [(f.name, getattr(self, f.name), getattr(other, f.name)) for f in dataclasses.fields(self)]
        return [
            f"{name}: {cut_short(mine)} here, {cut_short(theirs)} there"
            for name, mine, theirs in pairs
            if mine != theirs
        ]

    def to_message(self) -> pb.TableSpec:
        """As the message. Raises InvalidRequest: it is too long, as with very many entries of metadata."""
        message = pb.TableSpec(
            name=self.name,
            num_embeddings=self.num_embeddings,
            row_shape=self.row_shape,
            dtype=self.dtype,
            partition=self.partition,
            hash_ids=self.hash_ids,
            optimizer=self.optimizer.to_message(),
            initializer=self.initializer.to_message(),
            frozen=self.frozen,
            constraint=None if self.constraint is None else self.constraint.to_message(),
            metadata=dict(self.metadata),
            wire=self.wire,
        )
        _check_bytes(message.ByteSize(), self.name)
        return message

    @classmethod
    def from_message(cls, message: pb.TableSpec) -> TableSpec:
        """From the message; checks it, its size first: whoever sent it may mean to keep us busy."""
        if len(message.row_shape) > MAX_AXES:
            raise _too_many_axes(len(message.row_shape), message.name)
        _check_bytes(message.ByteSize(), message.name)
        shape = tuple(message.row_shape)
        return cls(
            name=message.name,
            num_embeddings=message.num_embeddings if message.HasField("num_embeddings") else None,
            dim=shape[0] if len(shape) == 1 else shape,
            partition=message.partition,  # type: ignore[arg-type]  # checked in __post_init__
            optimizer=Recipe.from_message(message.optimizer),  # type: ignore[arg-type]
            initializer=Recipe.from_message(message.initializer),  # type: ignore[arg-type]
            hash_ids=message.hash_ids,
            dtype=message.dtype,
            frozen=message.frozen,
            metadata=dict(message.metadata),
            constraint=Recipe.from_message(message.constraint) if message.HasField("constraint") else None,  # type: ignore[arg-type]
            wire=message.wire or "float32",  # type: ignore[arg-type]
        )


def _too_many_axes(axes: int, name: str) -> InvalidRequest:
    return InvalidRequest(
        f"dim must be a shape of at most {MAX_AXES} axes, got {axes} axes (table {shown(name)})"
    )


def _check_bytes(size: int, name: str) -> None:
    if size > MAX_SPEC_BYTES:
        raise InvalidRequest(
            f"the spec of a table must be at most {MAX_SPEC_BYTES} bytes as a message, got {size} bytes "
            f"(table {shown(name)})"
        )


def cut_short(value: object) -> str:
    """A value in an error, which travels in what little room a transport has for errors."""
    text = repr(value)
    return text if len(text) <= 200 else f"{text[:200]}... ({len(text)} characters)"


def _is_text(value: object) -> bool:
    """Whether it is a string that can be encoded: protobuf carries no lone surrogates."""
    return isinstance(value, str) and not any(0xD800 <= ord(c) <= 0xDFFF for c in value if not c.isascii())


@dataclass(frozen=True)
class TableEntry:
    """A table as the cluster knows it.

    Attributes:
        number: what requests use.
        spec: with the learning rate as it was made, and its ids dealt as they are now.
        lr: the learning rate set since.
        lr_version: counts the times it was set.
        made: how its ids were dealt when it was made; None: as now.
        owner: the principal who created it, whose quotas it counts in; empty: it is the cluster's own.
    """

    number: int
    spec: TableSpec
    lr: float | None = None
    lr_version: int = 0
    made: Dealing | None = None
    owner: str = ""

    def __post_init__(self) -> None:
        if self.lr is not None:
            checked_rate(self.lr, self.spec.name)

    @property
    def current_lr(self) -> float | Schedule:
        """The learning rate in force: what set_lr gave, else the optimizer's own."""
        return self.spec.optimizer.lr if self.lr is None else self.lr

    @functools.cached_property
    def current_spec(self) -> TableSpec:
        """The spec with the learning rate in force."""
        if self.lr is None:
            return self.spec
        return dataclasses.replace(self.spec, optimizer=dataclasses.replace(self.spec.optimizer, lr=self.lr))

    def is_made_by(self, spec: TableSpec) -> bool:
        """Whether a spec is this table's: with the rate and the dealing that it was made with, or those of now."""
        if self.made is not None and spec.dealing == self.made:
            spec = spec.dealt(self.spec.dealing)
        return spec in (self.spec, self.current_spec)

    def dealt(self, dealing: Dealing) -> TableEntry:
        """The same table with its ids dealt otherwise. Raises InvalidRequest: they cannot be."""
        made = self.made or self.spec.dealing
        made = None if dealing == made else made
        spec = self.spec.dealt(dealing)
        # Asked at every step of a layer, and hardly ever dealt otherwise.
        return (
            self
            if spec is self.spec and made == self.made
            else dataclasses.replace(self, spec=spec, made=made)
        )

    def dealing_by(self, dealt: Mapping[int, Dealing]) -> Dealing:
        """How a layout deals its ids.

        dealt: by table number, of all tables that it deals otherwise than they were made: `Layout.dealt`.
        """
        return dealt.get(self.number) or self.made or self.spec.dealing

    def to_message(self) -> pb.TableEntry:
        """As the message."""
        return pb.TableEntry(
            number=self.number,
            spec=self.spec.to_message(),
            lr=self.lr,
            lr_version=self.lr_version,
            made=self.made and self.made.to_message(),
            owner=self.owner,
        )

    @functools.cached_property
    def as_json(self) -> dict[str, Any]:
        """The message in JSON's words, not to be changed. Kept: each change of a cluster writes those of all tables."""
        return json_format.MessageToDict(self.to_message())

    @functools.cached_property
    def told_bytes(self) -> int:
        """Bytes of the message. Kept for the same reason."""
        return self.to_message().ByteSize()

    @classmethod
    def from_message(cls, message: pb.TableEntry) -> TableEntry:
        """From the message."""
        lr = message.lr if message.HasField("lr") else None
        made = Dealing.from_message(message.made) if message.HasField("made") else None
        spec = TableSpec.from_message(message.spec)
        return cls(message.number, spec, lr, message.lr_version, made, message.owner)
