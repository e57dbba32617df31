"""All embeddings of a JAX model at once: one pull and one push for all tables of a step."""

# The framework's types are unknown where it is not installed, and mostly so where it is.
# pyright: reportUnknownParameterType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportUnknownLambdaType=false, reportUntypedBaseClass=false, reportUntypedFunctionDecorator=false
# pyright: reportUntypedClassDecorator=false, reportPrivateUsage=false

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import jax.numpy as jnp  # pyright: ignore[reportMissingImports]

from ...proto.errors import InvalidRequest
from ..layers.backward import Backward
from ..layers.configs import (
    EmbeddingBagConfig,
    EmbeddingConfig,
    check_client,
    check_configs,
    features_of,
    slots_of,
)
from .bags import bag_of, combined
from .over_tables import OverTables, as_ids

if TYPE_CHECKING:
    from ..client import Client


class _Collection(OverTables):
    """What both collections share.

    Attributes:
        embedding_names: of the result's rows, in their order: table by table, each by its features.
    """

    _config: type[EmbeddingConfig]

    def __init__(self, client: Client, tables: Sequence[Any]) -> None:
        check_client(client)
        self.configs = check_configs(tables, self._config)
        self._slots = slots_of(self.configs)
        super().__init__(Backward([config.table(client) for config in self.configs], self._slots))
        self.embedding_names = tuple(slot.name for slot in self._slots)


class EmbeddingCollection(_Collection):
    """`Lookup` for many features at once, in TorchRec's words: one pull and one push for all tables of a step.

    What `Lookup` says of anchors, of callbacks and of a loss that calls it twice holds here too. A loss that leaves a
    feature out pushes zeros for it, as `jax.grad` gives zeros.

    Args:
        client: of the cluster that has the tables; those that it lacks are made.
        tables: of `EmbeddingConfig`.

    Attributes:
        embedding_names: of the result's rows, in their order: table by table, each by its features.

    Example:
        >>> embed = EmbeddingCollection(client, [
        ...     EmbeddingConfig(num_embeddings=1000, embedding_dim=16, name="items", feature_names=["seen", "shown"]),
        ...     EmbeddingConfig(num_embeddings=200, embedding_dim=16, name="users", feature_names=["user"]),
        ... ])
        >>> def loss(params, ids, labels):
        ...     rows = embed(ids, params["embed"])
        ...     return jnp.mean((jnp.sum(rows["user"] * rows["shown"], -1) - labels) ** 2)
        >>> value, grads = jax.jit(jax.value_and_grad(loss))({"embed": embed.anchor}, ids, labels)
    """

    _config = EmbeddingConfig

    def __call__(self, features: Mapping[str, Any], anchor: Any = None) -> dict[str, Any]:
        """Rows of the ids of every feature.

        Args:
            features: feature -> integers of any shape; other keys are left alone. Negative ids have rows of zeros and
                no gradient.
            anchor: the parameter to differentiate, or None for rows without a gradient.

        Returns:
            feature -> float32, ids.shape + (embedding_dim,). A feature of several tables has "feature@table" for each.

        Raises:
            InvalidRequest: a feature is missing; and as `Lookup`.
        """
        ids = [as_ids(one) for one in features_of(features, self._slots, self.configs)]
        return dict(zip(self.embedding_names, self._rows(ids, anchor), strict=True))


class EmbeddingBagCollection(_Collection):
    """`EmbeddingCollection` with the rows of each bag combined: `BagLookup` for many features, one pull and one push.

    Args:
        client: as there.
        tables: of `EmbeddingBagConfig`.
        as_dict: give a dict instead of one array.

    Attributes:
        embedding_names: as there.

    Example:
        >>> embed = EmbeddingBagCollection(client, [
        ...     EmbeddingBagConfig(num_embeddings=99, embedding_dim=16, name="items", feature_names=["seen"]),
        ...     EmbeddingBagConfig(num_embeddings=9, embedding_dim=4, name="kinds", feature_names=["kind"]),
        ... ])
        >>> seen = jnp.array([1, 2, 3]), jnp.array([0, 2])        # [1, 2] and [3]
        >>> embed({"seen": seen, "kind": jnp.array([[1], [8]])}).shape
        (2, 20)
    """

    _config = EmbeddingBagConfig

    def __init__(
        self, client: Client, tables: Sequence[EmbeddingBagConfig], *, as_dict: bool = False
    ) -> None:
        super().__init__(client, tables)
        self.as_dict = as_dict

    def __call__(self, features: Mapping[str, Any], anchor: Any = None) -> Any:
        """The rows of every feature's bags, each bag as one.

        Args:
            features: feature -> ids [..., K], or (ids [N], offsets [B]), or (ids, offsets, weights) with offsets None
                for ids [..., K]: what `BagLookup` takes, as a tuple. Other keys are left alone.
            anchor: the parameter to differentiate, or None for rows without a gradient.

        Returns:
            float32, [B, sum of embedding_dim], features in the order of `embedding_names`; with `as_dict` a dict of
            them, [B, dim] each.

        Raises:
            InvalidRequest: a feature is missing; features of several B, without `as_dict`; and as `BagLookup`.
        """
        given = features_of(features, self._slots, self.configs)
        bags = [
            bag_of(one, f"feature {slot.feature!r}") for one, slot in zip(given, self._slots, strict=True)
        ]
        rows = self._rows([bag.ids for bag in bags], anchor, [bag.offsets for bag in bags])
        out = {
            slot.name: combined(some, bag, self.configs[slot.table].pooling, slot.padding)
            for slot, bag, some in zip(self._slots, bags, rows, strict=True)
        }
        if self.as_dict:
            return out
        sizes = {name: one.shape[:-1] for name, one in out.items()}
        if len(set(sizes.values())) > 1:
            raise InvalidRequest(
                f"features must have the same number of bags, got {sizes}; or give as_dict=True"
            )
        return jnp.concatenate(list(out.values()), -1)
