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

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import keras  # pyright: ignore[reportMissingImports]

from ...proto.errors import InvalidRequest
from .bags import COMBINERS, bag_of, combined, ops, with_default
from .over_tables import OverTables
from .scope import client_of

if TYPE_CHECKING:
    from ..table import Table


class _OverTable(OverTables):
    """A layer whose weights are one table."""

    def __init__(self, table: Table, **kwargs: Any) -> None:
        if not hasattr(table, "spec"):
            raise InvalidRequest(f"table must be a Table, as client.table(name) gives it; got {table!r}")
        super().__init__([table], **kwargs)
        self.table = table

    def get_config(self) -> dict[str, Any]:
        """Where the table is, not its rows."""
        return {**super().get_config(), "table": self.table.name}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Any:
        """The layer again. Raises InvalidRequest outside of `tables_of`."""
        known: dict[str, Any] = {**config, "table": client_of(config["table"]).table(config["table"])}
        return cls(**known)


@keras.saving.register_keras_serializable(package="rowloom")
class Embedding(_OverTable):
    """`keras.layers.Embedding` with a table in place of the weights.

    The forward pass pulls; the backward pass pushes, once for all uses of the layer in it; in a loop of a `tf.function`
    once for each turn. The row of id 0 is looked up and trained also with `mask_zero`. A layer with `trainable =
    False`, and one over a frozen table, pushes nothing.

    Args:
        table: rows of any shape.
        mask_zero: id 0 is padding: `compute_mask` gives ids != 0.
        **kwargs: `name`, `dtype`, `trainable`, as every Keras layer; and `clipnorm`: what a backward pass pushes is
            scaled down to this Euclidean norm, as an optimizer's `clipnorm` does it for a weight.
            `gradient_accumulation_steps`: of so many backward passes one push, of the mean of their gradients, as an
            optimizer of that argument has it for a weight; 1: each is pushed. `rows_in_weights`: see below.

    Rows and Keras' own ways to keep weights: with `rows_in_weights=True`, for a table of at most 256 MiB, all rows are
    among the weights. `get_weights`, `save`, `save_weights` and the callbacks that use them pull them; `set_weights`,
    `load_weights`, `load_model` and `EarlyStopping(restore_best_weights=True)` assign those that differ, **in the
    table**, for all who use it; the slots of its optimizer stay, as those of the model's optimizer do. Without it the
    rows are not among the weights, and what would make half a model is refused: `get_weights` and `set_weights`, and
    loading a file when rows have changed since it was written. `save_checkpoint` keeps tables of any size, slots and
    all.

    Call with:
        ids: numbers of any shape and type, read as int64; dense, sparse (positions without a value have id 0)
            or ragged.

    Returns ids.shape + row_shape, of the layer's compute type; ragged for ragged ids.

    Raises:
        InvalidRequest: an id that the table does not have, or that is no number below 2**63; inside `tf.function`
            TensorFlow's InvalidArgumentError with the same message. An optimizer that clips gradients (clipnorm,
            global_clipnorm, clipvalue) or accumulates them (gradient_accumulation_steps) while this layer has no such
            argument, or that scales the loss (loss_scale_factor, LossScaleOptimizer): in `fit` and in a `tf.function`
            before anything is pushed; in an eager loop of your own, unless `bind_lr` is called, at the end of its
            first step. Training under a `tf.distribute` strategy of several replicas. On TensorFlow, a call in
            `tf.vectorized_map` under a tape; a jacobian by the layer's variables.

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
        return self.answer(inputs)

    def read(self, inputs: Any) -> tuple[list[Any], Any]:
        """Its ids, and the way back to a ragged tensor."""
        ids, back = self._glue.flat_values(self._glue.dense(inputs))
        return [ids], back

    def made(self, rows: Sequence[Any], rest: Any) -> Any:
        """As the class says."""
        return rest(ops.cast(rows[0], self.compute_dtype))

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
        **kwargs: as `Embedding`.

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
        return self.answer(features)

    def read(self, inputs: Any) -> tuple[list[Any], Any]:
        """The ids of each feature, and their weights by its name."""
        bags = {name: self._bag(name, value) for name, value in inputs.items()}
        return [ids for ids, _ in bags.values()], {name: weights for name, (_, weights) in bags.items()}

    def made(self, rows: Sequence[Any], rest: Any) -> dict[str, Any]:
        """As the class says."""
        return {
            name: ops.cast(combined(row, weights, self._combiner_of(name), self.max_norm), self.compute_dtype)
            for (name, weights), row in zip(rest.items(), rows, strict=True)
        }

    def _places(self, inputs: Any) -> int:
        return len(inputs)

    def _bag(self, name: str, value: Any) -> tuple[Any, Any]:
        ids, weights = bag_of(self._glue, name, value, every_weight=self._combiner_of(name) == "sum")
        return (ids, weights) if self.default_id is None else with_default(ids, weights, self.default_id)

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
