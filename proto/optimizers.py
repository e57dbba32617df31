"""What a push does to a row: optimizers, learning-rate schedules, constraints. Frozen values that check themselves.

Names and defaults are those of the library that each comes from. `mode` says what a push means for the rows that it
does not name: with "lazy" they stay as they are; with "dense" they move as if they had been given a gradient of
zeros, which is what the library does that keeps the whole table in one dense array.
"""

# What callers give is checked, although it has a type.
# pyright: reportUnnecessaryIsInstance=false

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from .errors import InvalidRequest
from .recipes import MAX_NUMBER, MAX_WHOLE, MIN_NUMBER, Recipe, is_number, is_whole, shown

# Columns that hold the step up to which a row is up to date: two floats, so that it is exact beyond 2**24.
STEP_COLUMNS = 2


# -------------------------------------------------------------------------------------------------------- schedules


@dataclass(frozen=True)
class Schedule(Recipe, family=True):
    """A learning rate that follows the table's step: the first push has step 0, as in Keras."""

    def _require_steps(self, argument: str) -> None:
        value = getattr(self, argument)
        self.require(is_whole(value) and value > 0, argument, "a whole number above 0")
        self.require(value <= MAX_WHOLE, argument, "at most 2**53")


@dataclass(frozen=True)
class Exponential(Schedule):
    """`lr * decay_rate ** (step / decay_steps)`, as `keras.optimizers.schedules.ExponentialDecay`.

    staircase: the exponent is rounded down.
    """

    lr: float = 1e-3
    decay_steps: int = 1000
    decay_rate: float = 0.96
    staircase: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(is_number(self.lr) and self.lr >= 0, "lr", "finite and at least 0")
        self._require_steps("decay_steps")
        self.require(is_number(self.decay_rate) and 0 < self.decay_rate <= 1, "decay_rate", "in (0, 1]")
        self.require(isinstance(self.staircase, bool), "staircase", "True or False")


@dataclass(frozen=True)
class Cosine(Schedule):
    """From lr down to alpha * lr along half a cosine, as `keras.optimizers.schedules.CosineDecay`."""

    lr: float = 1e-3
    decay_steps: int = 1000
    alpha: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(is_number(self.lr) and self.lr >= 0, "lr", "finite and at least 0")
        self._require_steps("decay_steps")
        self.require(is_number(self.alpha) and 0 <= self.alpha <= 1, "alpha", "in [0, 1]")


@dataclass(frozen=True)
class WarmUp(Schedule):
    """In `steps` equal steps from `start` to the first rate of `after`, then `after`, whose step 0 is then."""

    steps: int = 1000
    after: float | Schedule = 1e-3
    start: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require_steps("steps")
        good = isinstance(self.after, Schedule) and not isinstance(self.after, WarmUp)
        good = good or (is_number(self.after) and self.after >= 0)  # type: ignore[operator]
        self.require(good, "after", "a rate of at least 0, Exponential or Cosine")  # pyright: ignore[reportUnknownArgumentType]
        self.require(is_number(self.start) and self.start >= 0, "start", "finite and at least 0")


def checked_rate(lr: object, table: str) -> float:
    """A learning rate that is set for a table, as Python's float. Raises InvalidRequest."""
    if not is_number(lr) or lr < 0:  # type: ignore[operator]
        limit = f"at least 0 and at most {MAX_NUMBER:.8g}, which is what float32 holds"
        raise InvalidRequest(f"lr must be finite, {limit}; got {shown(lr)} (table {table!r})")
    return float(lr)  # type: ignore[arg-type]


# ------------------------------------------------------------------------------------------------------- constraint


@dataclass(frozen=True)
class Constraint(Recipe):
    """What one push may do to a row at most.

    Args:
        clip_norm: a row's gradient (duplicates summed) is scaled down to this Euclidean norm. None: as it is.
        low: weights below are set to it, after each update of the row. None: no bound.
        high: weights above are set to it, likewise.
    """

    clip_norm: float | None = None
    low: float | None = None
    high: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        norm = self.clip_norm
        self.require(norm is None or (is_number(norm) and norm > 0), "clip_norm", "None or above 0")
        self.require(self.low is None or is_number(self.low), "low", "None or finite")
        good = self.high is None or (is_number(self.high) and (self.low is None or self.high >= self.low))
        self.require(good, "high", f"None, or finite and at least low={self.low}")


# ------------------------------------------------------------------------------------------------------- optimizers


@dataclass(frozen=True)
class Optimizer(Recipe, family=True):
    """How a shard turns a gradient into new weights.

    `lr` is a number, or a `Schedule` that shards compute from the table's step; `table.set_lr` replaces either.
    In a dense mode with weight decay, rows that were never pushed then count as decayed at the new rate from the start.
    """

    lr: float | Schedule = 1e-3

    @property
    def counts_steps(self) -> bool:
        """Whether every push to the table counts as a step of it, on every shard."""
        return isinstance(self.lr, Schedule) or self.dense

    @property
    def dense(self) -> bool:
        """Whether a push changes rows (or their slots) that it does not name."""
        return False

    def slot_widths(self, width: int) -> list[int]:
        """Columns of each slot that the optimizer keeps beside a row of `width` columns."""
        return []

    def __post_init__(self) -> None:
        super().__post_init__()
        good = isinstance(self.lr, Schedule) or (is_number(self.lr) and self.lr >= 0)
        self.require(good, "lr", "finite and at least 0")

    def _require_nonnegative(self, *arguments: str) -> None:
        for argument in arguments:
            value = getattr(self, argument)
            self.require(is_number(value) and value >= 0, argument, "at least 0")

    def _require_fraction(self, *arguments: str) -> None:
        for argument in arguments:
            value = getattr(self, argument)
            self.require(is_number(value) and 0 <= value < 1, argument, "in [0, 1)")

    def _require_mode(self, *modes: str) -> None:
        choice = " or ".join(f'"{mode}"' for mode in modes)
        self.require(getattr(self, "mode") in modes, "mode", choice)  # noqa: B009  # not every optimizer has one


@dataclass(frozen=True)
class SGD(Optimizer):
    """`w -= lr * g`, as `torch.optim.SGD`.

    mode: "lazy", or "dense": momentum and weight decay go on for every row at every push, as in torch.
    """

    lr: float | Schedule = 1e-3
    momentum: float = 0.0
    nesterov: bool = False
    weight_decay: float = 0.0
    mode: Literal["lazy", "dense"] = "lazy"

    @property
    def dense(self) -> bool:
        """Without momentum and weight decay, rows without a gradient stay where they are in either mode."""
        return self.mode == "dense" and (self.momentum > 0 or self.weight_decay > 0)

    def slot_widths(self, width: int) -> list[int]:
        """The momentum buffer; for dense, the step."""
        return [width] * (self.momentum > 0) + [STEP_COLUMNS] * self.dense

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require_fraction("momentum")
        self.require(isinstance(self.nesterov, bool), "nesterov", "True or False")
        self.require(not self.nesterov or self.momentum > 0, "nesterov", "False without momentum")
        self._require_nonnegative("weight_decay")
        self._require_mode("lazy", "dense")


@dataclass(frozen=True)
class Adagrad(Optimizer):
    """`G += g*g; w -= lr / (1 + (step - 1) * lr_decay) * g / (sqrt(G) + eps)`, as `torch.optim.Adagrad`.

    TensorFlow's starts with initial_accumulator=0.1, and has eps=0 (v1) or eps=1e-7 (v2, Keras).
    """

    lr: float | Schedule = 1e-2
    eps: float = 1e-10
    initial_accumulator: float = 0.0
    lr_decay: float = 0.0

    @property
    def counts_steps(self) -> bool:
        """The decay of the rate needs the step."""
        return super().counts_steps or self.lr_decay > 0

    def slot_widths(self, width: int) -> list[int]:
        """The sum of squares."""
        return [width]

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require_nonnegative("eps", "initial_accumulator", "lr_decay")


@dataclass(frozen=True)
class RowwiseAdagrad(Optimizer):
    """`G += mean(g*g); w -= lr * g / (sqrt(G) + eps)`: one number a row, as `torchrec.optim.RowWiseAdagrad`."""

    lr: float | Schedule = 1e-2
    eps: float = 1e-10
    initial_accumulator: float = 0.0

    def slot_widths(self, width: int) -> list[int]:
        """The sum of mean squares."""
        return [1]

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require_nonnegative("eps", "initial_accumulator")


@dataclass(frozen=True)
class _Moments(Optimizer):
    """What Adam and AdamW share."""

    lr: float | Schedule = 1e-3
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8

    @property
    def dense(self) -> bool:
        """As the mode says."""
        return getattr(self, "mode") == "dense"  # noqa: B009

    @property
    def counts_steps(self) -> bool:
        """Bias correction needs the step, unless each row counts its own."""
        return getattr(self, "mode") != "row" or isinstance(self.lr, Schedule)  # noqa: B009

    def slot_widths(self, width: int) -> list[int]:
        """The moments; for dense, the step that the row has reached; for row, how often it was pushed."""
        more = {"lazy": [], "dense": [STEP_COLUMNS], "row": [1]}
        return [width, width, *more[getattr(self, "mode")]]  # noqa: B009

    def __post_init__(self) -> None:
        super().__post_init__()
        good = isinstance(self.betas, tuple) and len(self.betas) == 2
        good = good and all(is_number(b) and 0 <= b < 1 for b in self.betas)
        self.require(good, "betas", "two numbers in [0, 1)")
        self._require_nonnegative("eps")
        self._require_mode("lazy", "dense", "row")
        good = not self.dense or self.eps >= MIN_NUMBER
        self.require(good, "eps", f'above 0 with mode="dense", and at least {MIN_NUMBER:.3g}')


@dataclass(frozen=True)
class Adam(_Moments):
    """`m += (1-b1)(g-m); v += (1-b2)(g*g-v); w -= lr sqrt(1-b2^t)/(1-b1^t) m / (sqrt(v)+eps)`.

    mode: "lazy": touched rows, one step count t for the table, as `torch.optim.SparseAdam`; "dense": every row moves
    at every push, as in Keras (whose eps is 1e-7); "row": touched rows, and each row counts its own pushes.
    """

    mode: Literal["lazy", "dense", "row"] = "lazy"


@dataclass(frozen=True)
class AdamW(_Moments):
    """`w *= 1 - lr * weight_decay`, then Adam with `sqrt(v/(1-b2^t)) + eps` below, as `torch.optim.AdamW`.

    mode: "dense" is what torch does; "lazy" and "row" as `Adam`, with weights that decay when they are touched.
    A dense table whose weights decay pays for a row, when it is read, with every step that the row was not pushed.
    """

    weight_decay: float = 1e-2
    mode: Literal["lazy", "dense", "row"] = "lazy"

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require_nonnegative("weight_decay")


@dataclass(frozen=True)
class RMSprop(Optimizer):
    """`s = alpha s + (1-alpha) g*g; w -= lr * g / (sqrt(s) + eps)`, as `torch.optim.RMSprop`.

    With momentum: `buf = momentum * buf + g / (sqrt(s) + eps); w -= lr * buf`.
    mode: "lazy", or "dense": s and buf go on for every row at every push, as in torch.
    """

    lr: float | Schedule = 1e-2
    alpha: float = 0.99
    eps: float = 1e-8
    momentum: float = 0.0
    mode: Literal["lazy", "dense"] = "lazy"

    @property
    def dense(self) -> bool:
        """As the mode says."""
        return self.mode == "dense"

    def slot_widths(self, width: int) -> list[int]:
        """The mean of squares, the momentum buffer; for dense, the step."""
        return [width] + [width] * (self.momentum > 0) + [STEP_COLUMNS] * self.dense

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require_fraction("alpha", "momentum")
        self._require_nonnegative("eps")
        self._require_mode("lazy", "dense")


@dataclass(frozen=True)
class Adadelta(Optimizer):
    """`s = rho s + (1-rho) g*g; d = sqrt(a+eps)/sqrt(s+eps) g; a = rho a + (1-rho) d*d; w -= lr * d`, as torch.

    mode: "lazy", or "dense": s and a go on for every row at every push, as in `torch.optim.Adadelta`.
    """

    lr: float | Schedule = 1.0
    rho: float = 0.9
    eps: float = 1e-6
    mode: Literal["lazy", "dense"] = "lazy"

    @property
    def dense(self) -> bool:
        """As the mode says."""
        return self.mode == "dense"

    def slot_widths(self, width: int) -> list[int]:
        """The means of squared gradients and of squared steps; for dense, the step."""
        return [width, width] + [STEP_COLUMNS] * self.dense

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require_fraction("rho")
        self._require_nonnegative("eps")
        self._require_mode("lazy", "dense")


@dataclass(frozen=True)
class FTRL(Optimizer):
    """Follow the regularized leader, proximal, on touched rows, as TensorFlow and `keras.optimizers.Ftrl`.

    `n' = n + g*g; z += g + 2 l2_shrinkage w - (n'^-p - n^-p)/lr w` with p = lr_power, then
    `w = (clip(z, -l1, l1) - z) / (n'^-p/lr + 2 l2 + beta/lr)`. At a learning rate of 0 a push changes nothing,
    nor where the rate is so small, or g so large, that float32 cannot hold z or the divisor.
    """

    lr: float | Schedule = 1e-3
    lr_power: float = -0.5
    initial_accumulator: float = 0.1
    l1: float = 0.0
    l2: float = 0.0
    l2_shrinkage: float = 0.0
    beta: float = 0.0

    def slot_widths(self, width: int) -> list[int]:
        """The sum of squares n and the linear term z."""
        return [width, width]

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(is_number(self.lr_power) and -1 <= self.lr_power <= 0, "lr_power", "in [-1, 0]")
        self._require_nonnegative("initial_accumulator", "l1", "l2", "l2_shrinkage", "beta")
