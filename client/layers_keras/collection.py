"""All embeddings of a Keras model as one layer: one pull and one push for all tables of a step."""

# The framework's types are unknown where it is not installed, and mostly so where it is.
# pyright: reportUnknownParameterType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportUnknownLambdaType=false, reportUntypedBaseClass=false, reportUntypedFunctionDecorator=false
# pyright: reportUntypedClassDecorator=false, reportPrivateUsage=false

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import keras  # pyright: ignore[reportMissingImports]

from ..layers.configs import (
    EmbeddingBagConfig,
    EmbeddingConfig,
    check_client,
    check_configs,
    features_of,
    slots_of,
)
from .bags import bag_of, combined, ops, without
from .over_tables import OverTables
from .scope import client_of

if TYPE_CHECKING:
    from ..client import Client


class _Collection(OverTables):
    """What both collections share.

    Attributes:
        embedding_names: of the result's rows, in their order: table by table, each by its features.
    """

    _config: type[EmbeddingConfig]

    def __init__(
        self, client: Client, tables: Sequence[Any], clipnorm: float | None = None, **kwargs: Any
    ) -> None:
        check_client(client)
        configs = check_configs(tables, self._config)
        slots = slots_of(configs)
        super().__init__([config.table(client) for config in configs], slots, clipnorm, **kwargs)
        self.configs = configs
        self.embedding_names = tuple(slot.name for slot in slots)

    def call(self, features: Mapping[str, Any]) -> Any:
        """As the class says."""
        return self.answer(features)

    def get_config(self) -> dict[str, Any]:
        """Where the tables are, not their rows: what is there says its own optimizer and initializer."""
        return {**super().get_config(), "tables": [config.saved() for config in self.configs]}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Any:
        """The layer again. Raises InvalidRequest outside of `tables_of`, TableNotFound for a table that is gone."""
        saved = config["tables"]
        client = client_of(saved[0]["name"])
        for one in saved:  # a new table would have none of the rows that were trained
            client.table(one["name"])
        known: dict[str, Any] = {**config, "tables": [cls._config(**one) for one in saved], "client": client}
        return cls(**known)


@keras.saving.register_keras_serializable(package="rowloom")
class EmbeddingCollection(_Collection):
    """`keras.layers.Embedding` for many features at once, in TorchRec's words: one pull, one push for all.

    Rows of the tables of `tables` are looked up, those of all features with one request to each shard; the backward
    pass pushes all gradients together, and a table that several features use takes one step. Ids may repeat.

    Args:
        client: of the cluster that has the tables; those that it lacks are made.
        tables: of `EmbeddingConfig`.
        clipnorm: as for `Embedding`, of each table by itself.
        **kwargs: `name`, `dtype`, `trainable`, as every Keras layer. A frozen table beside others is not trained.
            `rows_in_weights`: as for `Embedding`, of every table.

    Call with:
        features: a dict of feature -> ids, as `Embedding` takes them; other keys are left alone.

    Returns a dict of feature -> rows, ids.shape + (embedding_dim,), of the layer's compute type. A feature of several
    tables has "feature@table" for each.

    Raises:
        InvalidRequest: tables that are no such list or differ from those that are there; a feature that is missing; and
            as `Embedding`.

    Example:
        >>> embed = EmbeddingCollection(client, [
        ...     EmbeddingConfig(num_embeddings=1000, embedding_dim=16, name="items", feature_names=["seen", "shown"]),
        ...     EmbeddingConfig(num_embeddings=200, embedding_dim=8, name="users", feature_names=["user"]),
        ... ])
        >>> inputs = {name: keras.Input((), dtype="int64", name=name) for name in ("seen", "shown", "user")}
        >>> x = keras.layers.Concatenate()(list(embed(inputs).values()))
    """

    _config = EmbeddingConfig
    _negative = False

    def read(self, inputs: Any) -> tuple[list[Any], Any]:
        """The ids of each slot, and the way back to a ragged tensor for each."""
        values = features_of(inputs, self._slots, self.configs)
        given = [self._glue.flat_values(self._glue.dense(one)) for one in values]
        return [ids for ids, _ in given], [back for _, back in given]

    def made(self, rows: Sequence[Any], rest: Any) -> dict[str, Any]:
        """As the class says."""
        return {
            slot.name: back(ops.cast(some, self.compute_dtype))
            for slot, back, some in zip(self._slots, rest, rows, strict=True)
        }

    def compute_output_spec(self, features: Any, *_: Any, **__: Any) -> Any:
        """What a symbolic call returns; pulls nothing."""
        values = features_of(features, self._slots, self.configs)
        return {slot.name: self._spec(slot.table, ids) for slot, ids in zip(self._slots, values, strict=True)}

    def _spec(self, table: int, ids: Any) -> Any:
        ragged = {"ragged": True} if getattr(ids, "ragged", False) else {}
        shape = (*ids.shape, self.configs[table].embedding_dim)
        return keras.KerasTensor(shape, dtype=self.compute_dtype, **ragged)


@keras.saving.register_keras_serializable(package="rowloom")
class EmbeddingBagCollection(_Collection):
    """`EmbeddingCollection` with the rows of each bag pooled. One pull, one push for all tables of a step.

    Bags are as in `SharedEmbeddings`: negative ids are missing, and so is `padding_idx`; a bag without ids is zeros.

    Args:
        client: as there.
        tables: of `EmbeddingBagConfig`. With weights w a "mean" is the weighted sum divided by the sum of w, as
            TensorFlow has it, and ids with a weight of 0 or less are missing.
        as_dict: give a dict instead of one tensor.
        clipnorm: as there.
        **kwargs: as there.

    Call with:
        features: a dict of feature -> ids, or of feature -> (ids, weights). ids are [batch, K] integers, ragged, or
            sparse; weights the same shape. Other keys are left alone.

    Returns [batch, sum of embedding_dim], features in the order of `embedding_names`; with `as_dict` a dict of them,
    [batch, dim] each. Of the layer's compute type.

    Raises:
        InvalidRequest: as there; ids that are no matrix.

    Example:
        >>> bags = EmbeddingBagCollection(client, [
        ...     EmbeddingBagConfig(num_embeddings=99, embedding_dim=16, name="items", feature_names=["seen"]),
        ...     EmbeddingBagConfig(num_embeddings=9, embedding_dim=4, name="kinds", feature_names=["kind"]),
        ... ])
        >>> bags({"seen": np.array([[1, 2], [3, -1]]), "kind": np.array([[1], [8]])}).shape
        (2, 20)
    """

    _config = EmbeddingBagConfig

    def __init__(
        self,
        client: Client,
        tables: Sequence[EmbeddingBagConfig],
        as_dict: bool = False,
        clipnorm: float | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(client, tables, clipnorm, **kwargs)
        self.as_dict = as_dict

    def read(self, inputs: Any) -> tuple[list[Any], Any]:
        """The ids of each slot, and their weights."""
        values = features_of(inputs, self._slots, self.configs)
        bags = [self._bag(place, value) for place, value in enumerate(values)]
        return [ids for ids, _ in bags], [weights for _, weights in bags]

    def made(self, rows: Sequence[Any], rest: Any) -> Any:
        """As the class says."""
        out = [
            ops.cast(combined(some, weights, self.configs[slot.table].pooling), self.compute_dtype)
            for slot, weights, some in zip(self._slots, rest, rows, strict=True)
        ]
        if self.as_dict:
            return dict(zip(self.embedding_names, out, strict=True))
        return ops.concatenate(out, axis=1)

    def _bag(self, place: int, value: Any) -> tuple[Any, Any]:
        slot = self._slots[place]
        every_weight = self.configs[slot.table].pooling == "sum"
        ids, weights = bag_of(self._glue, slot.feature, value, every_weight=every_weight)
        return (ids, weights) if slot.padding is None else without(ids, weights, slot.padding)

    def compute_output_spec(self, features: Any, *_: Any, **__: Any) -> Any:
        """What a symbolic call returns; pulls nothing."""
        values = features_of(features, self._slots, self.configs)
        counts = [(value[0] if isinstance(value, list | tuple) else value).shape[0] for value in values]
        dims = [self.configs[slot.table].embedding_dim for slot in self._slots]
        if not self.as_dict:
            return keras.KerasTensor((counts[0], sum(dims)), dtype=self.compute_dtype)
        shapes = zip(self.embedding_names, counts, dims, strict=True)
        return {name: keras.KerasTensor((n, dim), dtype=self.compute_dtype) for name, n, dim in shapes}

    def get_config(self) -> dict[str, Any]:
        """Where the tables are, not their rows."""
        return {**super().get_config(), "as_dict": self.as_dict}
