"""What Keras layers over tables share: their anchor, what they refuse, and where a saved one finds its tables."""

# The framework's types are unknown where it is not installed, and mostly so where it is.
# pyright: reportUnknownParameterType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportUnknownLambdaType=false, reportUntypedBaseClass=false, reportUntypedFunctionDecorator=false
# pyright: reportUntypedClassDecorator=false, reportPrivateUsage=false

from __future__ import annotations

import contextlib
import contextvars
import importlib
from collections.abc import Generator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import keras  # pyright: ignore[reportMissingImports]
import numpy as np

from ...proto.errors import InvalidRequest
from ..inputs import as_array
from ..layers.backward import Backward
from ..layers.configs import Slot
from .rates import Rates
from .rows import RowsWeight
from .scope import scope
from .watch import Watch, check_optimizer

if TYPE_CHECKING:
    from ..table import Table

_BACKENDS = ("tensorflow", "torch")
_ALONE = Slot("", "", 0, None)
_ROWS, _MOMENT = "rows", "moment"  # in a file of weights


class Use(NamedTuple):
    """One call of a layer, as a lookup needs it.

    Attributes:
        anchor: the layer's Keras variable.
        ids: tensors of any integer type and shape.
        train: whether a gradient is pushed.
        rates: the layer's.
        optimizer: whose rate is told to `rates` before a push; None: nobody knows one.
    """

    anchor: Any
    ids: Sequence[Any]
    train: bool
    rates: Rates
    optimizer: Any


class OverTables(keras.layers.Layer):
    """A layer whose weights are tables.

    Args:
        tables: of one client.
        slots: as for `Backward`.
        clipnorm: as for `Embedding`, of each table.
        rows_in_weights: as for `Embedding`, of each table.
        gradient_accumulation_steps: as for `Embedding`.
        **kwargs: as every Keras layer.
    """

    _negative = True  # ids below 0 are missing ones

    def __init__(
        self,
        tables: Sequence[Table],
        slots: Sequence[Slot] | None = None,
        clipnorm: float | None = None,
        rows_in_weights: bool = False,
        gradient_accumulation_steps: int | None = None,
        **kwargs: Any,
    ) -> None:
        name = keras.config.backend()
        if name not in _BACKENDS:
            raise InvalidRequest(
                f"the Keras layers run on {' and '.join(_BACKENDS)}, not on {name!r}; layers_jax is for JAX"
            )
        if clipnorm is not None and not clipnorm > 0:
            raise InvalidRequest(f"clipnorm must be above 0, got {clipnorm}")
        if gradient_accumulation_steps is not None and not gradient_accumulation_steps >= 1:
            raise InvalidRequest(
                f"gradient_accumulation_steps must be at least 1, got {gradient_accumulation_steps}"
            )
        kwargs.setdefault("trainable", not all(table.spec.frozen for table in tables))
        super().__init__(**kwargs)
        self.clipnorm, self.rows_in_weights = clipnorm, rows_in_weights
        self.gradient_accumulation_steps = gradient_accumulation_steps
        self._tables, self._slots = tuple(tables), tuple(slots or ())
        self._rows = tuple(RowsWeight(table, self.name, rows_in_weights) for table in self._tables)
        self.autocast = False
        self.supports_jit = False  # a pull leaves the program; XLA and torch.compile cannot follow
        self._glue = importlib.import_module(f".{name}_backend", __package__)
        self.rates = Rates(self.name, self._tables)
        how: Any = {
            "negative": self._negative,
            "clipnorm": clipnorm,
            "every": gradient_accumulation_steps or 1,
        }
        self._lookup = self._glue.Lookup(Backward(self._tables, slots, **how))

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """As the class says. Keras would drop a numpy array's mask before `call` sees it."""
        _refuse_masked(args)
        return super().__call__(*args, **kwargs)

    def answer(self, inputs: Any) -> Any:
        """What a call with these inputs returns."""
        ids, rest = self.read(inputs)
        return self.made(self.looked_up(ids), rest)

    def read(self, inputs: Any) -> tuple[list[Any], Any]:
        """What a call looks up: a tensor of ids for each of its places; and what `made` needs besides the rows."""
        raise NotImplementedError

    def made(self, rows: Sequence[Any], rest: Any) -> Any:
        """What a call returns, of the rows of each place, ids.shape + row_shape float32."""
        raise NotImplementedError

    def looked_up(self, ids: list[Any]) -> Any:
        """Rows of each of the tensors of ids. Raises InvalidRequest for a model whose optimizer clips."""
        given = _given.get()
        if given is not None and given[0] is self:
            return given[1]
        return self._lookup([self.use(ids)])[0]

    def use(self, ids: list[Any]) -> Use:
        """A call with these ids, in the model that is running. Raises as `looked_up`."""
        if not self.trainable:
            return Use(self.anchor, ids, False, self.rates, None)
        optimizer = self._optimizer()
        check_optimizer(optimizer, self)
        return Use(self.anchor, ids, True, self.rates, self.rates.met(optimizer))

    def slots_of(self, inputs: Any) -> list[Slot]:
        """What stands behind each tensor of ids of a call with these inputs."""
        return list(self._slots) if self._slots else [_ALONE] * self._places(inputs)

    def _places(self, inputs: Any) -> int:
        """How many tensors of ids these inputs have."""
        del inputs
        return 1

    @property
    def tables(self) -> tuple[Table, ...]:
        """Where the rows are."""
        return self._tables

    @property
    def negative(self) -> bool:
        """Whether ids below 0 are missing ones."""
        return self._negative

    def _optimizer(self) -> Any:
        """That of the model that trains now; None in `evaluate`, `predict` and loops of one's own."""
        context = getattr(self, "_get_call_context", lambda: None)()
        if getattr(context, "training", None) is False:  # evaluate and predict
            return None
        return getattr(getattr(context, "entry_layer", None), "optimizer", None)

    def build(self, input_shape: Any = None) -> None:
        """Makes the anchor."""
        del input_shape
        if self.trainable and self.compute_dtype == "float16":
            raise InvalidRequest(
                f"layer {self.name!r}: float16 needs loss scaling, which would scale what is pushed; use "
                "mixed_bfloat16, or dtype='float32' for this layer and compile(auto_scale_loss=False)"
            )
        self.anchor = self.add_weight(
            name="anchor", shape=(), initializer="zeros", dtype="float32", constraint=Watch(self)
        )
        self.built = True

    def get_config(self) -> dict[str, Any]:
        """How the layer was made, but for its tables."""
        mine = {
            "clipnorm": self.clipnorm,
            "rows_in_weights": self.rows_in_weights,
            "gradient_accumulation_steps": self.gradient_accumulation_steps,
        }
        return {**super().get_config(), **mine}

    # ---------------------------------------------------------------------------------------------- weights and rows

    @property
    def weights(self) -> list[Any]:
        """The anchor, and what stands for the rows of each table: see `rows_in_weights`."""
        if scope().as_they_are:
            return list(super().weights)
        rows = zip(self._tables, self._rows, strict=True)
        return [
            *super().weights,
            *(some for table, some in rows if self.rows_in_weights or not table.spec.frozen),
        ]

    def save_own_variables(self, store: Any) -> None:
        """The rows, or which moment they were of when the file was written."""
        super().save_own_variables(store)
        if not self.rows_in_weights:
            store[_MOMENT] = self._moment()
        elif not scope().as_they_are:
            for place, rows in enumerate(self._rows):
                store[_key(place)] = rows.numpy()

    def load_own_variables(self, store: Any) -> None:
        """Brings the rows back. Raises InvalidRequest if they are not in the file, and have changed since."""
        found = {key: store[key] for key in store.keys()}  # noqa: SIM118  (Keras' own store has no iterator)
        moment = found.pop(_MOMENT, None)
        rows = [found.pop(_key(place), None) for place in range(len(self._rows))]
        if scope().as_they_are:
            super().load_own_variables(found)
            return
        for table, some in zip(self._tables, rows, strict=True):
            self._check_loaded(table, some, moment)
        super().load_own_variables(found)
        for weight, some in zip(self._rows, rows, strict=True):
            if some is not None:
                weight.assign(np.asarray(some))

    def _check_loaded(self, table: Table, rows: Any, moment: Any) -> None:
        """Whether weights and rows are of one moment then. Raises InvalidRequest."""
        name = f"layer {self.name!r}: the file"
        alone = "for the other weights alone, load inside `with tables_of(client, as_they_are=True)`"
        if rows is not None and not self.rows_in_weights:
            raise InvalidRequest(
                f"{name} has the rows of table {table.name!r}: give the layer rows_in_weights=True; {alone}"
            )
        if rows is None and self.rows_in_weights:
            raise InvalidRequest(f"{name} has no rows of table {table.name!r}, and rows_in_weights; {alone}")
        if rows is not None or table.spec.frozen:
            return
        if moment is None or not np.array_equal(np.asarray(moment), self._moment()):
            raise InvalidRequest(
                f"{name} has no rows of table {table.name!r}, and rows of its cluster may have changed since it was "
                "written: its weights and the rows of now would be half a model. Keep both with save_checkpoint, or "
                f"with rows_in_weights=True if the table is small; {alone}"
            )

    def _moment(self) -> np.ndarray:
        """[32] uint8: a name of the cluster's rows as they are now; zeros for tables without a cluster."""
        told = getattr(getattr(self._tables[0], "client", None), "moment", None)
        return (
            np.zeros(32, np.uint8) if told is None else np.frombuffer(bytes.fromhex(told()), np.uint8).copy()
        )


_given: contextvars.ContextVar[tuple[OverTables, Sequence[Any]] | None] = contextvars.ContextVar(
    "rowloom_given", default=None
)


@contextlib.contextmanager
def rows_given(layer: OverTables, rows: Sequence[Any]) -> Generator[None]:
    """Inside, a call of this layer has these rows, of each of its places, and pulls none."""
    token = _given.set((layer, rows))
    try:
        yield
    finally:
        _given.reset(token)


def _key(place: int) -> str:
    """What the rows of a table are called in a file of weights."""
    return f"{_ROWS}_{place}" if place else _ROWS


def _refuse_masked(value: Any) -> None:
    """Raises InvalidRequest for masked entries of arrays in dicts and lists."""
    if isinstance(value, Mapping):
        value = tuple(value.values())
    if isinstance(value, list | tuple):
        for one in value:
            _refuse_masked(one)
    elif isinstance(value, np.ma.MaskedArray):
        as_array(value, "ids")
