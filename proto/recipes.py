"""Frozen values with a name and arguments that can travel; and the initializers, the first kind of them."""

# What callers give is checked, although it has a type.
# pyright: reportUnnecessaryIsInstance=false

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any, ClassVar, TypeVar

import numpy as np

from . import rowloom_pb2 as pb
from .errors import InvalidRequest

MAX_WHOLE = MAX_SEED = 2**53  # Numbers travel as doubles, which are exact up to here.
MAX_NUMBER = float(np.finfo(np.float32).max)  # Shards compute in float32: beyond it, rows would be infinite.
MIN_NUMBER = float(np.finfo(np.float32).tiny)  # Below it, a number loses digits in float32, and then is 0.
# The farthest that `Normal` goes from its mean, in standard deviations: its random numbers have 32 bits.
_FARTHEST = 6.4

R = TypeVar("R", bound="Recipe")


def is_number(value: object) -> bool:
    """Whether it is a finite number, which float32 can hold, and no bool."""
    value = plain(value)  # numpy's small floats would take the limit for one of their own
    return isinstance(value, Real) and not isinstance(value, bool) and abs(value) <= MAX_NUMBER  # type: ignore[operator]


def is_whole(value: object) -> bool:
    """Whether it is a whole number, and no bool."""
    return isinstance(value, Integral) and not isinstance(value, bool)


def plain(value: Any) -> Any:
    """Python's own bool, int or float for one of numpy's, also in a tuple; anything else as it is."""
    if isinstance(value, np.bool_ | np.integer | np.floating):
        return value.item()  # pyright: ignore[reportUnknownVariableType]
    return tuple(map(plain, value)) if isinstance(value, tuple) else value  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]


def shown(value: object) -> str:
    """A value in a message: not too long, however long it is itself."""
    if isinstance(value, int) and abs(value) >= 10**40:
        return f"a whole number of {value.bit_length()} bits"
    text = repr(value)
    return text if len(text) <= 200 else f"{text[:200]}..."


def shown_address(value: object) -> str:
    """As `shown`, without what may be a secret in it: what stands before an `@`, and behind a `?`."""
    if isinstance(value, str):
        value = re.sub(r"\?.*", "?...", re.sub(r"[^/]*@", "...@", value))
    return shown(value)


@dataclass(frozen=True)
class Recipe:
    """A frozen value with a name and arguments that can travel: the base of optimizers, initializers, schedules."""

    kinds: ClassVar[dict[str, type[Recipe]]] = {}

    def __init_subclass__(cls, *, family: bool = False) -> None:
        """family: only a base of others, as `Optimizer` is of all optimizers; it can be neither named nor made."""
        cls._is_family = family or cls.__name__.startswith("_")
        if not cls._is_family:
            Recipe.kinds[cls.__name__] = cls

    _is_family: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self._is_family:
            name = type(self).__name__
            known = ", ".join(sorted(k for k, v in Recipe.kinds.items() if issubclass(v, type(self))))
            raise InvalidRequest(
                f"{name} is what several have in common and none by itself; take one of: {known}"
            )
        for f in dataclasses.fields(self):
            object.__setattr__(self, f.name, plain(getattr(self, f.name)))

    def require(self, condition: bool, argument: str, what: str) -> None:
        """Raise InvalidRequest, which says what the argument must be, unless the condition holds."""
        if condition:
            return
        value = getattr(self, argument)
        if isinstance(value, Real) and not isinstance(value, bool) and MAX_NUMBER < abs(value) < np.inf:  # type: ignore[operator]
            what += f", and no more than float32 holds, {MAX_NUMBER:.8g}"
        raise InvalidRequest(f"{type(self).__name__}: {argument} must be {what}, got {shown(value)}")

    def _require_seed(self, seed: object) -> None:
        self.require(is_whole(seed) and 0 <= seed <= MAX_SEED, "seed", "a whole number in [0, 2**53]")  # type: ignore[operator]

    def _require_range(self, low: float, high: float) -> None:
        self.require(is_number(low), "low", "finite")
        self.require(is_number(high) and high >= low, "high", f"finite and at least low={low}")

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
        recipes = {k: Recipe.from_message(v) for k, v in message.recipes.items()}
        numbers, tuples = _numbers(message)
        arguments: dict[str, Any] = {}
        for some in (recipes, message.words, numbers, tuples):
            twice = sorted(arguments.keys() & some.keys())
            if twice:
                raise InvalidRequest(f"{message.name}: argument {twice[0]!r} comes twice")
            arguments.update(some)
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


def _numbers(message: pb.Recipe) -> tuple[dict[str, float], dict[str, tuple[float, ...]]]:
    """Arguments that are numbers, and those that are tuples of them, as `betas.0` and `betas.1`."""
    numbers: dict[str, float] = {}
    pieces: dict[str, dict[str, float]] = {}
    for key, value in message.numbers.items():
        name, dot, place = key.partition(".")
        if dot:
            pieces.setdefault(name, {})[place] = value
        else:
            numbers[key] = value
    tuples: dict[str, tuple[float, ...]] = {}
    for name, some in pieces.items():
        places = [str(k) for k in range(len(some))]
        if some.keys() != set(places):
            wrong = sorted(some.keys() - set(places))[0]
            raise InvalidRequest(f"{message.name} has no argument {shown(f'{name}.{wrong}')}")
        tuples[name] = tuple(some[place] for place in places)
    return numbers, tuples


def _argument(value: Any) -> Any:
    if isinstance(value, Mapping):
        return Recipe.from_mapping(value)  # pyright: ignore[reportUnknownArgumentType]
    return tuple(value) if isinstance(value, list) else value  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]


# ---------------------------------------------------------------------------------------------------- initializers


@dataclass(frozen=True)
class Initializer(Recipe, family=True):
    """The first value of a row: a pure function of (seed, table, id, column)."""


@dataclass(frozen=True)
class Zeros(Initializer):
    """All zeros."""


@dataclass(frozen=True)
class Constant(Initializer):
    """One value everywhere."""

    value: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(is_number(self.value), "value", "finite")


@dataclass(frozen=True)
class Uniform(Initializer):
    """Uniform in [low, high)."""

    low: float = -0.05
    high: float = 0.05
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require_seed(self.seed)
        self._require_range(self.low, self.high)


@dataclass(frozen=True)
class Normal(Initializer):
    """Normal with the given mean and standard deviation."""

    mean: float = 0.0
    std: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require_seed(self.seed)
        _require_normal(self)


@dataclass(frozen=True)
class TruncatedNormal(Initializer):
    """Normal, but only values within two standard deviations of the mean, as `tf.random.truncated_normal`."""

    mean: float = 0.0
    std: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require_seed(self.seed)
        _require_normal(self)


def _require_normal(drawn: Normal | TruncatedNormal) -> None:
    mean, std = drawn.mean, drawn.std
    drawn.require(is_number(mean), "mean", "finite")
    drawn.require(is_number(std) and std >= 0, "std", "at least 0")
    limit = (MAX_NUMBER - abs(mean)) / _FARTHEST
    drawn.require(std <= limit, "std", f"at most {limit:.8g}, so that float32 holds what is drawn")


@dataclass(frozen=True)
class TwoSided(Initializer):
    """Magnitude uniform in [low, high), either sign with equal odds: rows that do not start near zero."""

    low: float = 0.0
    high: float = 0.05
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require_seed(self.seed)
        self.require(is_number(self.low) and self.low >= 0, "low", "at least 0")
        self._require_range(self.low, self.high)
