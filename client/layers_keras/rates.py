"""What tables have of a Keras optimizer: its learning rate, if they are bound to it."""

# The framework's types are unknown where it is not installed, and mostly so where it is.
# pyright: reportUnknownParameterType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportUnknownLambdaType=false, reportUntypedBaseClass=false, reportUntypedFunctionDecorator=false
# pyright: reportUntypedClassDecorator=false, reportPrivateUsage=false

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import keras  # pyright: ignore[reportMissingImports]
import numpy as np

from ...proto.errors import InvalidRequest
from ..layers.rates import FollowedRate
from .watch import check_optimizer, inner

if TYPE_CHECKING:
    from ..table import Table


class Rates:
    """How the rates of a layer's tables stand to the optimizer of the model that the layer is in.

    Args:
        layer: its name.
        tables: its tables.

    Attributes:
        optimizer: that the tables follow (`bind_lr`), or None.
        names: of the tables.
    """

    def __init__(self, layer: str, tables: Sequence[Table]) -> None:
        self._layer, self._tables = layer, tuple(tables)
        self.names = tuple(table.name for table in tables)
        self.optimizer: Any = None
        self._followed: FollowedRate | None = None
        self._seen: tuple[Any, float] | None = None  # an optimizer that is not followed, and its rate
        self._warned = False
        # Of a checkpoint that was loaded: its optimizer if that is known, and what the next binding begins with.
        self._kept: tuple[Any, Mapping[str, Sequence[float]]] | None = None

    @property
    def begun(self) -> dict[str, list[float]]:
        """What a checkpoint must have of the rates; empty if they follow none."""
        return {} if self._followed is None else self._followed.begun

    def bound(self, optimizer: Any) -> FollowedRate:
        """How the tables would follow this one. Raises as `bind_lr`."""
        kept = self._kept
        known = kept is not None and kept[0] in (None, optimizer)
        return FollowedRate(self._tables, _first(optimizer), kept[1] if kept is not None and known else None)

    def follow(self, optimizer: Any, followed: FollowedRate) -> None:
        """From now on the tables follow this one."""
        self.optimizer, self._followed, self._kept = optimizer, followed, None

    def resume(self, optimizer: Any, begun: Mapping[str, Sequence[float]]) -> None:
        """The tables were restored, and so was the optimizer: its rate and theirs may be lowered already.

        Args:
            optimizer: that of the model; None: it has none.
            begun: what `begun` was, of at least these tables, or of none if they followed none.
        """
        if all(name in begun for name in self.names):
            self._kept = inner(optimizer), begun
        if self.optimizer is not None and (self._kept is not None or _first(self.optimizer) > 0):
            self.follow(self.optimizer, self.bound(self.optimizer))

    def met(self, optimizer: Any) -> Any:
        """Whose rate is to be told before each push; None: nobody's is known.

        Args:
            optimizer: that of the model that trains now, or None.

        Raises:
            InvalidRequest: the tables follow another one.
        """
        optimizer = inner(optimizer)
        if self.optimizer is None or optimizer is None:
            return self.optimizer or optimizer
        if self.optimizer is not optimizer:
            raise InvalidRequest(
                f"layer {self._layer!r}: {self._names()} follows another optimizer than the one that trains the model "
                "now: call bind_lr(model.optimizer, model) again after compile"
            )
        return optimizer

    def tell(self, optimizer: Any, rate: float) -> None:
        """What the rate is, just before a push.

        Args:
            optimizer: whose; as `met` gave it when the program was traced.
            rate: ignored for None.

        Raises:
            InvalidRequest: the program does not know the optimizer that the tables follow; and as `Table.set_lr`.
        """
        if self._followed is not None:
            if optimizer is not self.optimizer:
                raise InvalidRequest(
                    f"layer {self._layer!r}: this program was traced before bind_lr, so it does not tell "
                    f"{self._names()} the learning rate: make a new tf.function"
                )
            self._followed(rate)
        elif optimizer is not None:
            self._watch(optimizer, rate)

    def _watch(self, optimizer: Any, rate: float) -> None:
        """Says once that a rate has changed and the tables' have not."""
        before = self._seen[1] if self._seen is not None and self._seen[0] is optimizer else rate
        self._seen = optimizer, rate
        own = [table for table in self._tables if isinstance(table.spec.optimizer.lr, int | float)]
        if rate == before or self._warned or not own:
            return
        self._warned = True
        warnings.warn(
            f"layer {self._layer!r}: the optimizer's learning rate went from {before:g} to {rate:g}, and "
            f"{self._names()} still trains with lr={own[0].spec.optimizer.lr:g}: bind_lr(optimizer, model) "
            "lets it follow",
            stacklevel=2,
        )

    def _names(self) -> str:
        return "table " + ", ".join(repr(table.name) for table in self._tables)


def bind_lr(optimizer: Any, model: Any) -> None:
    """Let the learning rates of a model's tables follow its optimizer's, as callbacks and schedules change it.

    A table keeps its own rate while the optimizer has the one that it begins with; when the optimizer has a part of
    that, the table has the same part of its own. What it begins with: of a schedule its `warmup_target` or
    `initial_learning_rate`, else the rate now. It is read in each step, before the push, and set on all shards when it
    has changed: a few milliseconds. LearningRateScheduler and ReduceLROnPlateau cost nothing, a schedule that changes
    with each step that much.

    Call it after `compile`, and again after each further one; in a loop of one's own before its `tf.function` is
    traced. Before `load_checkpoint` or after it is the same: what was bound goes on from there. What such a loop's
    optimizer does that tables would not see is refused here too, before anything is pushed.

    Args:
        optimizer: of the model's dense part.
        model: or a layer; all layers over tables in it.

    Raises:
        InvalidRequest: the model has no layer over tables, the rate is 0 to begin with, a table has a schedule of its
            own; or the optimizer clips, or accumulates gradients, and a layer does not say what holds for its tables;
            or it scales the loss.

    Example:
        >>> model.compile("adam", "mse")
        >>> bind_lr(model.optimizer, model)
        >>> model.fit(x, y, callbacks=[keras.callbacks.ReduceLROnPlateau()])
    """
    layers = layers_of(model)
    if not layers:
        raise InvalidRequest("the model has no layer over a table, so there is no rate to bind")
    for layer in layers:
        if layer.trainable:
            check_optimizer(optimizer, layer)
    follow = [(layer, layer.rates.bound(optimizer)) for layer in layers]
    for layer, followed in follow:
        layer.rates.follow(optimizer, followed)
    if hasattr(model, "train_function"):
        model.train_function = None  # `fit` traces it again, with the rate in it


def layers_of(model: Any) -> list[Any]:
    """The layers over tables in a model, or in a layer."""
    return [one for one in model._flatten_layers() if isinstance(getattr(one, "rates", None), Rates)]


def _first(optimizer: Any) -> float:
    """The rate that an optimizer's schedule begins from, also one that warms up from 0."""
    try:
        config = optimizer.get_config().get("learning_rate")
    except NotImplementedError:  # a schedule that nobody can save
        config = None
    known = config.get("config", {}) if isinstance(config, dict) else {}
    for name in ("warmup_target", "initial_learning_rate"):
        if known.get(name):
            return float(np.float32(known[name]))  # as the optimizer has it
    return float(np.asarray(keras.ops.convert_to_numpy(optimizer.learning_rate)))
