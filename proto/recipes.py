"""Frozen values with a name and arguments that can travel; and the initializers, the first kind of them."""

# What callers give is checked, although it has a type.
# pyright: reportUnnecessaryIsInstance=false

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any, ClassVar, TypeVar

from . import rowloom_pb2 as pb
from .errors import InvalidRequest

MAX_SEED = 2**53  # Numbers travel as doubles, which are exact up to here.

R = TypeVar("R", bound="Recipe")


def is_finite(value: object) -> bool:
    """Whether it is a finite number, and no bool."""
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)


def is_whole(value: object) -> bool:
    """Whether it is a whole number, and no bool."""
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
        self._require(is_whole(seed) and 0 <= seed <= MAX_SEED, "seed", "a whole number in [0, 2**53]")  # type: ignore[operator]

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
                for i, item in enumerate(value):  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]
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
                raise InvalidRequest(
                    f"{found.__name__} has no argument {argument!r}; it has: {', '.join(names)}"
                )
        return found(**{k: _argument(v) for k, v in arguments.items()})


def _argument(value: Any) -> Any:
    if isinstance(value, Mapping):
        return Recipe.from_mapping(value)  # pyright: ignore[reportUnknownArgumentType]
    return tuple(value) if isinstance(value, list) else value  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]


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
        self._require(is_finite(self.value), "value", "finite")


@dataclass(frozen=True)
class Uniform(Initializer):
    """Uniform in [low, high)."""

    low: float = -0.05
    high: float = 0.05
    seed: int = 0

    def __post_init__(self) -> None:
        self._require_seed(self.seed)
        self._require(is_finite(self.low), "low", "finite")
        self._require(
            is_finite(self.high) and self.high >= self.low, "high", f"finite and at least low={self.low}"
        )


@dataclass(frozen=True)
class Normal(Initializer):
    """Normal with the given mean and standard deviation."""

    mean: float = 0.0
    std: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        self._require_seed(self.seed)
        self._require(is_finite(self.mean), "mean", "finite")
        self._require(is_finite(self.std) and self.std >= 0, "std", "at least 0")


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
        self._require(is_finite(self.low) and self.low >= 0, "low", "at least 0")
        self._require(
            is_finite(self.high) and self.high >= self.low, "high", f"finite and at least low={self.low}"
        )
