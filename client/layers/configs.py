"""What a collection of embeddings is made of, in every framework: its tables, and the features that look ids up."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

import numpy as np

from ...proto.errors import InvalidRequest, TableNotFound
from ...proto.spec import Initializer, Optimizer, TableSpec, Uniform
from ..refusals import WrongAssertion, WrongType

_OF_A_NEW_TABLE = ("optimizer", "initializer")


@dataclass(frozen=True, kw_only=True)
class EmbeddingConfig:
    """One table of an `EmbeddingCollection`, in TorchRec's words; the same for PyTorch, Keras and JAX.

    Attributes:
        num_embeddings: V; None for open-ended ids.
        embedding_dim: columns.
        name: the table's.
        feature_names: whose ids are looked up in it.
        padding_idx: this id gets no gradient; its row is returned as it is, and left out of a bag.
        optimizer: of a table that is made here (None: SGD). Of one that is there it must be the same, if it is given.
        initializer: likewise (None: Uniform(-1 / sqrt(V), 1 / sqrt(V)) as in TorchRec; Uniform() for open-ended ids).

    Raises:
        InvalidRequest: no features, or one that is no string or there twice.
    """

    num_embeddings: int | None
    embedding_dim: int
    name: str
    feature_names: Sequence[str]
    padding_idx: int | None = None
    optimizer: Optimizer | None = None
    initializer: Initializer | None = None

    def __post_init__(self) -> None:
        names = self.feature_names
        if isinstance(names, str) or not names or not all(isinstance(n, str) for n in names):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise InvalidRequest(
                f"feature_names of table {self.name!r} must be a list of names, got {names!r}"
            )
        if len(set(names)) < len(names):
            raise InvalidRequest(f"feature_names of table {self.name!r} has a name twice: {list(names)}")
        object.__setattr__(self, "feature_names", tuple(names))

    def table(self, client: Any) -> Any:
        """The table of that name, made if it is not there. Raises InvalidRequest, TableExists if it is another one."""
        try:
            table = client.table(self.name)
        except TableNotFound:
            return self._made(client)
        if self.optimizer is not None or self.initializer is not None:
            return client.create_table(self._spec())
        there = table.spec.num_embeddings, tuple(table.spec.row_shape)
        if there != (self.num_embeddings, (self.embedding_dim,)):
            raise InvalidRequest(
                f"table {self.name!r} is there with num_embeddings={there[0]} and rows of {there[1]}, not with "
                f"num_embeddings={self.num_embeddings} and embedding_dim={self.embedding_dim}"
            )
        return table

    def saved(self) -> dict[str, Any]:
        """What a saved model keeps of it, to find the table by: arguments, as JSON has them."""
        kept = {one.name: getattr(self, one.name) for one in fields(self) if one.name not in _OF_A_NEW_TABLE}
        return kept | {"feature_names": list(self.feature_names)}

    def _made(self, client: Any) -> Any:
        """A new table, whose row of padding is zeros as in torch."""
        padding = from_start(self.padding_idx, self.num_embeddings)
        table = client.create_table(self._spec())
        if padding is not None:
            table.assign([padding], np.zeros((1, self.embedding_dim), np.float32))
        return table

    def _spec(self) -> TableSpec:
        how: dict[str, Any] = {"optimizer": self.optimizer, "initializer": self.initializer}
        if self.initializer is None and self.num_embeddings:
            bound = 1 / math.sqrt(self.num_embeddings)
            how["initializer"] = Uniform(-bound, bound)
        given = {argument: value for argument, value in how.items() if value is not None}
        return TableSpec(self.name, self.num_embeddings, self.embedding_dim, **given)


@dataclass(frozen=True, kw_only=True)
class EmbeddingBagConfig(EmbeddingConfig):
    """One table of an `EmbeddingBagCollection`: as `EmbeddingConfig`.

    Attributes:
        pooling: "sum" or "mean" of the rows of a bag; TorchRec's PoolingType too.

    Raises:
        InvalidRequest: another pooling.
    """

    pooling: str = "sum"

    def __post_init__(self) -> None:
        super().__post_init__()
        pooling = str(getattr(self.pooling, "value", self.pooling)).lower()
        if pooling not in ("sum", "mean"):
            raise InvalidRequest(
                f'pooling of table {self.name!r} must be "sum" or "mean", got {self.pooling!r}'
            )
        object.__setattr__(self, "pooling", pooling)


def check_configs(configs: Any, kind: type[EmbeddingConfig]) -> tuple[Any, ...]:
    """The configs of a collection. Raises InvalidRequest."""
    if not isinstance(configs, list | tuple) or not configs:
        raise InvalidRequest(f"tables must be a list of {kind.__name__}, got {configs!r}")
    for config in configs:  # pyright: ignore[reportUnknownVariableType]
        if not isinstance(config, kind):
            raise WrongType(f"tables must be a list of {kind.__name__}, it has a {type(config).__name__}")  # pyright: ignore[reportUnknownArgumentType]
    names = [config.name for config in configs]  # pyright: ignore[reportUnknownVariableType, reportUnknownMemberType]
    if len(set(names)) < len(names):  # pyright: ignore[reportUnknownArgumentType]
        raise InvalidRequest(f"tables has a name twice: {names}; give one table all of its feature_names")
    return tuple(configs)  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]


def from_start(padding_idx: int | None, num_embeddings: int | None) -> int | None:
    """padding_idx counted from the start. Raises AssertionError."""
    if padding_idx is None:
        return None
    limit = 2**63 if num_embeddings is None else num_embeddings
    if (num_embeddings is None and padding_idx < 0) or not -limit <= padding_idx < max(limit, 1):
        raise WrongAssertion(
            f"padding_idx must be within num_embeddings = {num_embeddings}, got {padding_idx}"
        )
    return padding_idx + limit if padding_idx < 0 else padding_idx


class Slot(NamedTuple):
    """One feature's use of one table.

    Attributes:
        name: of its rows in the result: the feature's, or "feature@table" if several tables have the feature.
        feature: whose ids.
        table: which table.
        padding: this id gets no gradient, or None.
    """

    name: str
    feature: str
    table: int
    padding: int | None


def slots_of(configs: Sequence[EmbeddingConfig]) -> tuple[Slot, ...]:
    """What looks ids up, in the order of the result: table by table, each by its features. Raises AssertionError."""
    features = [feature for config in configs for feature in config.feature_names]
    return tuple(
        Slot(
            f"{feature}@{config.name}" if features.count(feature) > 1 else feature,
            feature,
            k,
            from_start(config.padding_idx, config.num_embeddings),
        )
        for k, config in enumerate(configs)
        for feature in config.feature_names
    )


def features_of(features: Any, slots: Sequence[Slot], configs: Sequence[EmbeddingConfig]) -> list[Any]:
    """What a batch has for each slot; other keys are left alone. Raises InvalidRequest."""
    if not isinstance(features, Mapping):
        raise WrongType(f"features must be a dict of feature -> ids, got {type(features).__name__}")
    given: Mapping[Any, Any] = features  # pyright: ignore[reportUnknownVariableType]
    for slot in slots:
        if slot.feature not in given:
            raise InvalidRequest(
                f"features lack {slot.feature!r} of table {configs[slot.table].name!r}; they have "
                f"{', '.join(map(repr, given)) or 'none'}"
            )
    return [given[slot.feature] for slot in slots]


def check_client(client: Any) -> None:
    """Raises InvalidRequest, also a TypeError, if it is no Client."""
    if not hasattr(client, "pull_entries"):
        raise WrongType(f"client must be a Client, as connect(address) gives it, got {client!r}")
