"""What a table is: `TableSpec`, and the optimizers, initializers and schedules it names. Frozen values that check themselves."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from numbers import Integral, Real
from typing import Any, ClassVar, Literal, TypeVar

from . import rowloom_pb2 as pb
from .errors import InvalidRequest

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
MAX_WIDTH = 4096
WIRES = ("float32", "bfloat16", "float16", "int8")

MAX_SEED = 2**53  # Numbers travel as doubles, which are exact up to here.

R = TypeVar("R", bound="Recipe")


def _finite(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)


def _whole(value: object) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)


@dataclass(frozen=True)
class Recipe:
    """A frozen value with a name and arguments that can travel: the base of optimizers, initializers, schedules."""

    kinds: ClassVar[dict[str, type[Recipe]]] = {}

    def __init_subclass__(cls) -> None:
        if not cls.__name__.startswith("_"):
            Recipe.kinds[cls.__name__] = cls

    def _require(self, condition: bool, argument: str, what: str) -> None:
        if not condition:
            value = getattr(self, argument)
            raise InvalidRequest(f"{type(self).__name__}: {argument} must be {what}, got {value!r}")

    def _require_seed(self, seed: object) -> None:
        self._require(_whole(seed) and 0 <= seed <= MAX_SEED, "seed", "a whole number in [0, 2**53]")  # type: ignore[operator]

    def to_message(self) -> pb.Recipe:
        """As the message."""
        message = pb.Recipe(name=type(self).__name__)
        for f in dataclasses.fields(self):
            value = getattr(self, f.name)
            if value is None:
                continue
            if isinstance(value, Recipe):
                message.recipes[f.name].CopyFrom(value.to_message())
            elif isinstance(value, str):
                message.words[f.name] = value
            elif isinstance(value, tuple):
                for i, item in enumerate(value):
                    message.numbers[f"{f.name}.{i}"] = item
            else:
                message.numbers[f.name] = value
        return message

    @staticmethod
    def from_message(message: pb.Recipe) -> Recipe:
        """From the message. Raises InvalidRequest for a name or an argument that does not exist."""
        cls = Recipe.kinds.get(message.name)
        if cls is None:
            raise InvalidRequest(f"unknown recipe {message.name!r}; known: {', '.join(sorted(Recipe.kinds))}")
        arguments: dict[str, Any] = {k: Recipe.from_message(v) for k, v in message.recipes.items()}
        arguments.update(message.words)
        tuples: dict[str, dict[int, float]] = {}
        for key, value in message.numbers.items():
            name, dot, index = key.partition(".")
            if dot:
                if not index.isdecimal():
                    raise InvalidRequest(f"{message.name} has no argument {key!r}")
                tuples.setdefault(name, {})[int(index)] = value
            else:
                arguments[key] = value
        arguments.update({k: tuple(v[i] for i in sorted(v)) for k, v in tuples.items()})
        known = {f.name: f for f in dataclasses.fields(cls)}
        for name in list(arguments):
            if name not in known:
                raise InvalidRequest(f"{message.name} has no argument {name!r}; it has: {', '.join(known)}")
            value, kind = arguments[name], str(known[name].type)
            if isinstance(value, float) and value.is_integer() and kind in ("bool", "int", "int | None"):
                arguments[name] = bool(value) if kind == "bool" else int(value)
        return cls(**arguments)

    @classmethod
    def from_mapping(cls: type[R], value: Mapping[str, Any]) -> R:
        """From `{"adagrad": {"lr": 0.05}}` or `{"name": "Adagrad", "lr": 0.05}`, as configs write it."""
        arguments = dict(value)
        if "name" in arguments:
            name = str(arguments.pop("name"))
        elif len(arguments) == 1:
            name, arguments = next(iter(arguments.items()))
            arguments = dict(arguments or {})
        else:
            raise InvalidRequest(f"write it as {{name: ..., arguments}}, got {value!r}")
        family = {k.lower(): v for k, v in Recipe.kinds.items() if issubclass(v, cls)}
        found = family.get(name.lower())
        if found is None:
            known = ", ".join(sorted(v.__name__ for v in family.values()))
            raise InvalidRequest(f"unknown {cls.__name__.lower()} {name!r}; known: {known}")
        names = [f.name for f in dataclasses.fields(found)]
        for argument in arguments:
            if argument not in names:
                raise InvalidRequest(f"{found.__name__} has no argument {argument!r}; it has: {', '.join(names)}")
        arguments = {k: tuple(v) if isinstance(v, list) else v for k, v in arguments.items()}
        return found(**arguments)


# ---------------------------------------------------------------------------------------------------- initializers


@dataclass(frozen=True)
class Initializer(Recipe):
    """The first value of a row: a pure function of (seed, table, id, column)."""


@dataclass(frozen=True)
class Zeros(Initializer):
    """All zeros."""


@dataclass(frozen=True)
class Constant(Initializer):
    """One value everywhere."""

    value: float = 0.0

    def __post_init__(self) -> None:
        self._require(_finite(self.value), "value", "finite")


@dataclass(frozen=True)
class Uniform(Initializer):
    """Uniform in [low, high)."""

    low: float = -0.05
    high: float = 0.05
    seed: int = 0

    def __post_init__(self) -> None:
        self._require_seed(self.seed)
        self._require(_finite(self.low), "low", "finite")
        self._require(_finite(self.high) and self.high >= self.low, "high", f"finite and at least low={self.low}")


@dataclass(frozen=True)
class Normal(Initializer):
    """Normal with the given mean and standard deviation."""

    mean: float = 0.0
    std: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        self._require_seed(self.seed)
        self._require(_finite(self.mean), "mean", "finite")
        self._require(_finite(self.std) and self.std >= 0, "std", "at least 0")


@dataclass(frozen=True)
class TruncatedNormal(Initializer):
    """Normal, but only values within two standard deviations of the mean, as `tf.random.truncated_normal`."""

    mean: float = 0.0
    std: float = 1.0
    seed: int = 0

    __post_init__ = Normal.__post_init__


@dataclass(frozen=True)
class TwoSided(Initializer):
    """Magnitude uniform in [low, high), either sign with equal odds: rows that do not start near zero."""

    low: float = 0.0
    high: float = 0.05
    seed: int = 0

    def __post_init__(self) -> None:
        self._require_seed(self.seed)
        self._require(_finite(self.low) and self.low >= 0, "low", "at least 0")
        self._require(_finite(self.high) and self.high >= self.low, "high", f"finite and at least low={self.low}")


# ------------------------------------------------------------------------------------------------------- optimizers


@dataclass(frozen=True)
class Optimizer(Recipe):
    """How a shard turns a gradient into new weights. `lr` can change at run time: `table.set_lr`."""

    lr: float = 1e-3

    @property
    def counts_steps(self) -> bool:
        """Whether every push to the table counts as a step of it, on every shard."""
        return False

    def slot_widths(self, width: int) -> list[int]:
        """Columns of each slot that the optimizer keeps beside a row of `width` columns."""
        return []

    def __post_init__(self) -> None:
        self._require(_finite(self.lr) and self.lr >= 0, "lr", "finite and at least 0")


@dataclass(frozen=True)
class SGD(Optimizer):
    """`w -= lr * g`, as `torch.optim.SGD`."""

    lr: float = 1e-3
    momentum: float = 0.0
    nesterov: bool = False
    weight_decay: float = 0.0

    def slot_widths(self, width: int) -> list[int]:
        """The momentum buffer."""
        return [width] if self.momentum else []

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require(_finite(self.momentum) and 0 <= self.momentum < 1, "momentum", "in [0, 1)")
        self._require(isinstance(self.nesterov, bool), "nesterov", "True or False")
        self._require(not self.nesterov or self.momentum > 0, "nesterov", "False without momentum")
        self._require(_finite(self.weight_decay) and self.weight_decay >= 0, "weight_decay", "at least 0")


@dataclass(frozen=True)
class Adagrad(Optimizer):
    """`G += g*g; w -= lr * g / (sqrt(G) + eps)`, as `torch.optim.Adagrad`."""

    lr: float = 1e-2
    eps: float = 1e-10
    initial_accumulator: float = 0.0

    def slot_widths(self, width: int) -> list[int]:
        """The sum of squares."""
        return [width]

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require(_finite(self.eps) and self.eps >= 0, "eps", "at least 0")
        self._require(
            _finite(self.initial_accumulator) and self.initial_accumulator >= 0,
            "initial_accumulator",
            "at least 0",
        )


@dataclass(frozen=True)
class Adam(Optimizer):
    """Touched rows only, one step count for the table, as `torch.optim.SparseAdam`."""

    lr: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8

    @property
    def counts_steps(self) -> bool:
        """Bias correction needs the step."""
        return True

    def slot_widths(self, width: int) -> list[int]:
        """The moments."""
        return [width, width]

    def __post_init__(self) -> None:
        super().__post_init__()
        good = isinstance(self.betas, tuple) and len(self.betas) == 2
        good = good and all(_finite(b) and 0 <= b < 1 for b in self.betas)
        self._require(good, "betas", "two numbers in [0, 1)")
        self._require(_finite(self.eps) and self.eps >= 0, "eps", "at least 0")


# ------------------------------------------------------------------------------------------------------------ table


@dataclass(frozen=True)
class TableSpec:
    """A named matrix of rows.

    Args:
        name: letters, digits, `.`, `_`, `-`; at most 128.
        num_embeddings: V; ids are in [0, V). None: any id in [0, 2**63).
        dim: columns of a row, 1 to 4096, or the shape of a row, such as (2, 5) or ().
        partition: "mod" or "div"; how ids are dealt to shards.
        initializer: what a row is before its first push.
        optimizer: what a push does to a row.
        hash_ids: split by a hash of the id; for ids that share factors. Only with "mod".
        frozen: pushes are refused.
        metadata: strings for the user; kept, not interpreted.

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
    metadata: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not NAME.fullmatch(self.name):
            raise InvalidRequest(
                f"table name must be 1 to 128 letters, digits, '.', '_' or '-', not starting with a sign; got {self.name!r}"
            )
        self._check_size()
        if self.partition not in ("mod", "div"):
            raise self._wrong("partition", '"mod" or "div"', self.partition)
        if self.partition == "div" and self.num_embeddings is None:
            raise self._wrong("partition", '"mod" for a table of open-ended ids', self.partition)
        if self.hash_ids and self.partition != "mod":
            raise self._wrong("hash_ids", 'False unless partition is "mod"', self.hash_ids)
        if not isinstance(self.optimizer, Optimizer):
            raise self._wrong("optimizer", "an optimizer such as Adagrad(lr=0.05)", self.optimizer)
        if not isinstance(self.initializer, Initializer):
            raise self._wrong("initializer", "an initializer such as Normal(std=0.01)", self.initializer)
        if not all(isinstance(word, str) for pair in self.metadata.items() for word in pair):
            raise self._wrong("metadata", "strings by strings", self.metadata)
        if self.dtype != "float32":
            raise self._wrong("dtype", '"float32"', self.dtype)

    def _check_size(self) -> None:
        v = self.num_embeddings
        if v is not None and (not _whole(v) or not 0 <= v <= 2**63 - 1):
            raise self._wrong("num_embeddings", "None or in [0, 2**63)", v)
        shape = self.dim if isinstance(self.dim, tuple | list) else (self.dim,)
        if any(not _whole(d) or d < 1 for d in shape):
            raise self._wrong("dim", "at least 1", self.dim)
        object.__setattr__(
            self, "dim", tuple(int(d) for d in shape) if isinstance(self.dim, tuple | list) else int(self.dim)
        )
        if self.width > MAX_WIDTH:
            raise self._wrong("dim", f"at most {MAX_WIDTH} columns", self.dim)

    def _wrong(self, argument: str, what: str, value: object) -> InvalidRequest:
        return InvalidRequest(f"{argument} must be {what}, got {value!r} (table {self.name!r})")

    @property
    def row_shape(self) -> tuple[int, ...]:
        """The shape of one row."""
        return self.dim if isinstance(self.dim, tuple) else (self.dim,)

    @property
    def width(self) -> int:
        """Columns of a row when it is laid flat."""
        return math.prod(self.row_shape)

    @property
    def id_limit(self) -> int:
        """Ids are in [0, id_limit)."""
        return 2**63 if self.num_embeddings is None else self.num_embeddings

    def differences(self, other: TableSpec) -> list[str]:
        """What differs, as `dim: 8 here, 16 there`; empty if nothing does."""
        pairs = [(f.name, getattr(self, f.name), getattr(other, f.name)) for f in dataclasses.fields(self)]
        return [f"{name}: {mine!r} here, {theirs!r} there" for name, mine, theirs in pairs if mine != theirs]

    def to_message(self) -> pb.TableSpec:
        """As the message."""
        return pb.TableSpec(
            name=self.name,
            num_embeddings=self.num_embeddings,
            row_shape=self.row_shape,
            dtype=self.dtype,
            partition=self.partition,
            hash_ids=self.hash_ids,
            optimizer=self.optimizer.to_message(),
            initializer=self.initializer.to_message(),
            frozen=self.frozen,
            metadata=dict(self.metadata),
        )

    @classmethod
    def from_message(cls, message: pb.TableSpec) -> TableSpec:
        """From the message; checks it."""
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
        )


@dataclass(frozen=True)
class TableEntry:
    """A table as the cluster knows it: the number that requests use, the spec, the learning rate set since."""

    number: int
    spec: TableSpec
    lr: float | None = None
    lr_version: int = 0

    @property
    def current_lr(self) -> float:
        """The learning rate in force."""
        return self.spec.optimizer.lr if self.lr is None else self.lr

    def to_message(self) -> pb.TableEntry:
        """As the message."""
        return pb.TableEntry(
            number=self.number, spec=self.spec.to_message(), lr=self.lr, lr_version=self.lr_version
        )

    @classmethod
    def from_message(cls, message: pb.TableEntry) -> TableEntry:
        """From the message."""
        lr = message.lr if message.HasField("lr") else None
        return cls(message.number, TableSpec.from_message(message.spec), lr, message.lr_version)
