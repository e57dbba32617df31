"""Keras layers over tables: `Embedding`, and `SharedEmbeddings` for features that share one table.

For Keras 3 on TensorFlow and on PyTorch (`tf.keras` of TensorFlow 2.16 and later is Keras 3). The rows live on the
shards and the table's own optimizer trains them, so the model's optimizer does not see them: what it sees is one
number per layer, the anchor, which is always 0 and which makes the framework ask for a gradient. Loss scaling would
scale the pushed gradients too, so a trained layer refuses float16; bfloat16 needs no scaling.
"""

# The framework's types are unknown where it is not installed, and mostly so where it is.
# pyright: reportUnknownParameterType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportUnknownLambdaType=false, reportUntypedBaseClass=false, reportUntypedFunctionDecorator=false
# pyright: reportUntypedClassDecorator=false, reportPrivateUsage=false

from __future__ import annotations

import contextlib
import contextvars
import importlib
from collections.abc import Generator, Mapping
from typing import TYPE_CHECKING, Any

import keras  # pyright: ignore[reportMissingImports]

from ...proto.errors import InvalidRequest
from ..backward import Backward

if TYPE_CHECKING:
    from ..client import Client
    from ..table import Table

# Keras types what its operations return as "a tensor or None"; they never return None.
ops: Any = keras.ops
COMBINERS = ("sum", "mean", "sqrtn")
_BACKENDS = ("tensorflow", "torch")
_client: contextvars.ContextVar[Client | None] = contextvars.ContextVar("rowloom_client", default=None)


@contextlib.contextmanager
def tables_of(client: Client) -> Generator[None]:
    """Inside, saved models and cloned layers find their tables by name in this client.

    Example:
        >>> with tables_of(client):
        ...     model = keras.models.load_model("model.keras")
    """
    token = _client.set(client)
    try:
        yield
    finally:
        _client.reset(token)


class _OverTable(keras.layers.Layer):
    """A layer whose weights are a table."""

    _negative = True  # ids below 0 are missing ones

    def __init__(self, table: Table, **kwargs: Any) -> None:
        name = keras.config.backend()
        if name not in _BACKENDS:
            raise InvalidRequest(
                f"the Keras layers run on {' and '.join(_BACKENDS)}, not on {name!r}; layers_jax is for JAX"
            )
        if not hasattr(table, "spec"):
            raise InvalidRequest(f"table must be a Table, as client.table(name) gives it; got {table!r}")
        kwargs.setdefault("trainable", not table.spec.frozen)
        super().__init__(**kwargs)
        self.table = table
        self.autocast = False
        self.supports_jit = False  # a pull leaves the program; XLA and torch.compile cannot follow
        self._glue = importlib.import_module(f".{name}_backend", __package__)
        self._lookup = self._glue.Lookup(Backward(table, negative=self._negative))

    def build(self, input_shape: Any = None) -> None:
        """Makes the anchor."""
        del input_shape
        if self.trainable and self.compute_dtype == "float16":
            raise InvalidRequest(
                f"layer {self.name!r}: float16 needs loss scaling, which would scale what is pushed; use "
                "mixed_bfloat16, or dtype='float32' for this layer and compile(auto_scale_loss=False)"
            )
        self.anchor = self.add_weight(name="anchor", shape=(), initializer="zeros", dtype="float32")
        self.built = True

    def get_config(self) -> dict[str, Any]:
        """Where the table is, not its rows."""
        return {**super().get_config(), "table": self.table.name}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Any:
        """The layer again. Raises InvalidRequest outside of `tables_of`."""
        client = _client.get()
        if client is None:
            raise InvalidRequest(
                f"table {config['table']!r} is on a cluster: load inside `with tables_of(client):`"
            )
        return cls(**{**config, "table": client.table(config["table"])})


@keras.saving.register_keras_serializable(package="rowloom")
class Embedding(_OverTable):
    """`keras.layers.Embedding` with a table in place of the weights.

    The forward pass pulls; the backward pass pushes, once for all uses of the layer in it. The row of id 0 is looked
    up and trained also with `mask_zero`. A layer with `trainable = False`, and one over a frozen table, pushes nothing.

    Args:
        table: rows of any shape.
        mask_zero: id 0 is padding: `compute_mask` gives ids != 0.
        **kwargs: `name`, `dtype`, `trainable`, as every Keras layer.

    Call with:
        ids: numbers of any shape and type, read as int64; dense, sparse (positions without a value have id 0)
            or ragged.

    Returns ids.shape + row_shape, of the layer's compute type; ragged for ragged ids.

    Raises:
        InvalidRequest: an id that the table does not have; inside `tf.function` TensorFlow's InvalidArgumentError
            with the same message.

    Example:
        >>> items = client.create_table(TableSpec("items", 1_000_000, dim=32, optimizer=Adagrad(lr=0.1)))
        >>> embed = Embedding(items)
        >>> clicked, shown = embed(clicked_ids), embed(shown_ids)
    """

    _negative = False

    def __init__(self, table: Table, mask_zero: bool = False, **kwargs: Any) -> None:
        super().__init__(table, **kwargs)
        self.mask_zero = mask_zero
        self.supports_masking = mask_zero

    def call(self, inputs: Any) -> Any:
        """As the class says."""
        ids, back = self._glue.flat_values(self._glue.dense(inputs))
        (rows,) = self._lookup(self.anchor, [ids], train=self.trainable)
        return back(ops.cast(rows, self.compute_dtype))

    def compute_mask(self, inputs: Any, previous_mask: Any = None) -> Any:
        """Ids != 0 with `mask_zero`, else None."""
        del previous_mask
        return ops.not_equal(inputs, 0) if self.mask_zero else None

    def compute_output_shape(self, input_shape: Any) -> tuple[int | None, ...]:
        """The ids' shape and the row's."""
        return (*input_shape, *self.table.spec.row_shape)

    def compute_output_spec(self, inputs: Any, *_: Any, **__: Any) -> Any:
        """What a symbolic call returns; pulls nothing."""
        shape = self.compute_output_shape(inputs.shape)
        ragged = {"ragged": True} if getattr(inputs, "ragged", False) else {}
        return keras.KerasTensor(shape, dtype=self.compute_dtype, **ragged)

    def get_config(self) -> dict[str, Any]:
        """Where the table is, not its rows."""
        return {**super().get_config(), "mask_zero": self.mask_zero}


@keras.saving.register_keras_serializable(package="rowloom")
class SharedEmbeddings(_OverTable):
    """Several features over one table, each example's ids combined: what `shared_embedding_columns` were for.

    As feature columns with the safe lookup: negative ids are missing; with "mean" and "sqrtn" so are ids with a
    weight of 0 or less ("sum" keeps them); an example without ids is zeros, or the row of `default_id`. One pull for
    all features, one push for all their gradients.

    Args:
        table: rows that are vectors.
        combiner: "sum", "mean" or "sqrtn", or a dict of feature -> combiner. With weights w: the weighted sum;
            divided by the sum of w; divided by the root of the sum of w squared.
        max_norm: longer rows are scaled to this length before they are combined; the table keeps them as they are.
        default_id: the id of examples without ids; None gives zeros.
        **kwargs: as every Keras layer.

    Call with:
        features: a dict of feature -> ids, or of feature -> (ids, weights). ids are [batch, K] integers, ragged, or
            sparse; weights the same shape.

    Returns a dict of feature -> [batch, dim], of the layer's compute type.

    Raises:
        InvalidRequest: an unknown combiner, rows that are no vectors, max_norm not above 0, ids that are no matrix.

    Example:
        >>> pooled = SharedEmbeddings(items, combiner="mean")({"watched": watched, "shown": shown})
        >>> x = keras.layers.Concatenate()([pooled["watched"], pooled["shown"]])
    """

    def __init__(
        self,
        table: Table,
        combiner: str | Mapping[str, str] = "mean",
        max_norm: float | None = None,
        default_id: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(table, **kwargs)
        if len(table.spec.row_shape) != 1:
            raise InvalidRequest(f"table {table.name!r} has rows of {table.spec.row_shape}, not vectors")
        self.combiner = combiner if isinstance(combiner, str) else dict(combiner)
        for one in [combiner] if isinstance(combiner, str) else combiner.values():
            if one not in COMBINERS:
                raise InvalidRequest(f"combiner must be one of {', '.join(COMBINERS)}, got {one!r}")
        if max_norm is not None and not max_norm > 0:
            raise InvalidRequest(f"max_norm must be above 0, got {max_norm}")
        self.max_norm, self.default_id = max_norm, default_id

    def call(self, features: Any) -> dict[str, Any]:
        """As the class says."""
        bags = {name: self._bag(name, value) for name, value in features.items()}
        rows = self._lookup(self.anchor, [ids for ids, _ in bags.values()], train=self.trainable)
        return {
            name: ops.cast(self._combined(self._combiner_of(name), row, weights), self.compute_dtype)
            for (name, (_, weights)), row in zip(bags.items(), rows, strict=True)
        }

    def _bag(self, name: str, value: Any) -> tuple[Any, Any]:
        """Ids [batch, K], -1 where there is none, and their weights, 0 where there is none."""
        ids, weights = value if isinstance(value, list | tuple) else (value, None)
        ids = ops.cast(self._glue.padded(ids, -1), "int64")
        if len(ids.shape) != 2:
            raise InvalidRequest(f"feature {name!r}: ids must be [batch, K], got shape {tuple(ids.shape)}")
        real = ids >= 0
        if weights is None:
            weights = ops.cast(real, "float32")
        else:
            weights = ops.cast(self._glue.padded(weights, 0), "float32")
            if self._combiner_of(name) != "sum":
                real = ops.logical_and(real, weights > 0)
            weights = ops.where(real, weights, 0.0)
        ids = ops.where(real, ids, -1)
        if self.default_id is not None:
            ids, weights = self._with_default(ids, weights, real)
        return ids, weights

    def _with_default(self, ids: Any, weights: Any, real: Any) -> tuple[Any, Any]:
        """One more column: the default id with weight 1 where an example has no ids."""
        empty = ops.logical_not(ops.any(real, axis=1, keepdims=True))
        extra = ops.where(empty, ops.cast(self.default_id, "int64"), ops.cast(-1, "int64"))
        return (
            ops.concatenate([ids, extra], axis=1),
            ops.concatenate([weights, ops.cast(empty, "float32")], axis=1),
        )

    def _combined(self, combiner: str, rows: Any, weights: Any) -> Any:
        """[batch, K, dim] and [batch, K] to [batch, dim]."""
        if self.max_norm is not None:
            squares = ops.sum(rows * rows, axis=-1, keepdims=True)
            # The gradient of a root at 0 is infinite; there the row is zeros and stays so.
            norm = ops.sqrt(ops.where(squares > 0, squares, 1.0))
            rows = rows * (self.max_norm / ops.maximum(norm, self.max_norm))
        total = ops.sum(rows * ops.expand_dims(weights, -1), axis=1)
        if combiner == "sum":
            return total
        if combiner == "mean":
            size = ops.sum(weights, axis=1, keepdims=True)
        else:
            squares = ops.sum(weights * weights, axis=1, keepdims=True)
            size = ops.sqrt(ops.where(squares > 0, squares, 1.0))
        return total / ops.where(size > 0, size, 1.0)

    def _combiner_of(self, name: str) -> str:
        if isinstance(self.combiner, str):
            return self.combiner
        if name not in self.combiner:
            raise InvalidRequest(f"no combiner for feature {name!r}; there are {sorted(self.combiner)}")
        return self.combiner[name]

    def compute_output_spec(self, features: Any, *_: Any, **__: Any) -> Any:
        """What a symbolic call returns; pulls nothing."""
        dim = self.table.spec.width

        def spec(value: Any) -> Any:
            ids = value[0] if isinstance(value, list | tuple) else value
            return keras.KerasTensor((ids.shape[0], dim), dtype=self.compute_dtype)

        return {name: spec(value) for name, value in features.items()}

    def get_config(self) -> dict[str, Any]:
        """Where the table is, not its rows."""
        mine = {"combiner": self.combiner, "max_norm": self.max_norm, "default_id": self.default_id}
        return {**super().get_config(), **mine}
