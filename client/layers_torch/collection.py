"""All embeddings of a model as one module, in TorchRec's words: one pull and one push for all tables of a step."""

# The framework's types are unknown where it is not installed, and mostly so where it is.
# pyright: reportUnknownParameterType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportUnknownLambdaType=false, reportUntypedBaseClass=false, reportUntypedFunctionDecorator=false
# pyright: reportUntypedClassDecorator=false, reportPrivateUsage=false

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch  # pyright: ignore[reportMissingImports]

from ...proto.errors import InvalidRequest
from ..calls.routing import distinct_of
from ..layers.configs import (
    EmbeddingBagConfig,
    EmbeddingConfig,
    Slot,
    check_client,
    check_configs,
    features_of,
    slots_of,
)
from ..layers.together import pull_together
from ..refusals import WrongInput, WrongType
from .anchored import Anchored, anchor_gradient, as_numpy, as_tensor, described, once_differentiable, own_ids
from .bags import check_bags, check_tensor, pooled, with_padding
from .passes import Piece, trains
from .prefetched import row_of_each_ahead

if TYPE_CHECKING:
    from ..client import Client


_EMPTY = np.empty(0, np.float32)


class _Bag(NamedTuple):
    """A feature of a batch: ids, where bags begin (None: in rows of two axes), weights (None: 1)."""

    ids: Any
    offsets: Any
    weights: Any


class _Collection(Anchored):
    """What both collections share.

    Attributes:
        embedding_names: of the result's rows, in their order: table by table, each by its features.
    """

    _config: type[EmbeddingConfig]

    def __init__(self, client: Client, tables: Sequence[Any], grad_scale: float) -> None:
        check_client(client)
        self.configs = check_configs(tables, self._config)
        super().__init__([config.table(client) for config in self.configs], grad_scale)
        self._slots = slots_of(self.configs)
        self.embedding_names = tuple(slot.name for slot in self._slots)

    def extra_repr(self) -> str:
        """What `print(model)` shows: a line for each table."""
        return "\n".join(_shown(config) for config in self.configs)

    def _described(self) -> dict[str, Any]:
        return {"tables": [described(table) for table in self.gradients.tables]}

    def _pulled(self, ids: Sequence[np.ndarray]) -> list[Any]:
        """Rows of each slot's ids, ids.shape + [width] tensors whose gradients are pushed; one pull. ids: int64."""
        if torch.is_grad_enabled() and self.anchor.requires_grad:
            return list(_PulledTables.apply(self.anchor, self, ids))
        return self._pull(ids)

    def _pull(self, given: Sequence[np.ndarray]) -> list[Any]:
        tables = [self.gradients.tables[slot.table] for slot in self._slots]
        ids = [some.reshape(-1) for some in given]
        rows: list[Any] = [row_of_each_ahead(table, some) for table, some in zip(tables, ids, strict=True)]
        missing = [place for place, some in enumerate(rows) if some is None]
        found = pull_together([(tables[place], ids[place]) for place in missing])
        for place, some in zip(missing, found, strict=True):
            rows[place] = some
        # In their shape already: views that PyTorch keeps track of cost as much as the rows themselves.
        anchor = self.anchor
        return [
            as_tensor(some.reshape(*one.shape, some.shape[1]), anchor)
            for one, some in zip(given, rows, strict=True)
        ]

    def _counted(self, ids: Sequence[np.ndarray], grads: Sequence[np.ndarray | None]) -> list[Piece]:
        """What is to be pushed of a backward pass's gradients, [N, width] float32 of each slot; padding has none."""
        pieces: list[Piece] = []
        for slot, given, rows in zip(self._slots, ids, grads, strict=True):
            if rows is None or self.gradients.tables[slot.table].spec.frozen:
                continue
            some = given.reshape(-1)
            if slot.padding is not None:
                keep = some != slot.padding
                if not keep.all():
                    some, rows = some[keep], rows[keep]
            pieces.append((slot.table, some, rows))
        return pieces


class EmbeddingCollection(_Collection):
    """`torch.nn.Embedding` for many features at once, as TorchRec's class of this name: one pull, one push for all.

    Rows of the tables of `tables` are looked up, those of all features with one request to each shard; the backward
    pass pushes all gradients together. When it pushes is as for `Embedding`; a table that several features use takes
    one step. Ids may repeat.

    Args:
        client: of the cluster that has the tables; those that it lacks are made.
        tables: of `EmbeddingConfig`.
        grad_scale: what is pushed is multiplied by it.

    Call with:
        features: a dict of feature -> ids, int32 or int64 tensors of any shape; other keys are left alone.

    Returns a dict of feature -> rows, ids.shape + [embedding_dim], of the anchor's type and device. A feature of
    several tables has "feature@table" for each.

    Raises:
        InvalidRequest: tables that are no such list or differ from those that are there; a feature that is missing, or
            an id that its table does not have.

    Example:
        >>> embed = EmbeddingCollection(client, [
        ...     EmbeddingConfig(num_embeddings=1000, embedding_dim=16, name="items", feature_names=["seen", "shown"]),
        ...     EmbeddingConfig(num_embeddings=200, embedding_dim=8, name="users", feature_names=["user"]),
        ... ])
        >>> pair = torch.tensor([5, 6])
        >>> embed({"seen": pair.reshape(1, 2), "shown": pair, "user": pair})["seen"].shape
        torch.Size([1, 2, 16])
    """

    _config = EmbeddingConfig

    def __init__(self, client: Client, tables: Sequence[EmbeddingConfig], *, grad_scale: float = 1.0) -> None:
        super().__init__(client, tables, grad_scale)

    def looked_up(self, features: Mapping[str, Any]) -> dict[str, Any]:
        """As the class says."""
        given = features_of(features, self._slots, self.configs)
        rows = self._pulled([_ids(ids, slot) for ids, slot in zip(given, self._slots, strict=True)])
        dtype = self.anchor.dtype
        return {slot.name: some.to(dtype) for slot, some in zip(self._slots, rows, strict=True)}


class EmbeddingBagCollection(_Collection):
    """`torch.nn.EmbeddingBag` for many features at once, as TorchRec's class of this name: one pull, one push for all.

    As `EmbeddingCollection`, with the rows of each bag pooled; bags are as in `EmbeddingBag`.

    Args:
        client: as there.
        tables: of `EmbeddingBagConfig`.
        as_dict: give a dict instead of one tensor.
        include_last_offset: offsets end with the length of the ids.
        grad_scale: as there.

    Call with:
        features: a dict of feature -> ids [B, K]; or (ids [N], offsets); or (ids, offsets, weights) with weights of the
            ids' shape and offsets None for [B, K]. A mean with weights is that of `EmbeddingBag`.

    Returns [B, sum of embedding_dim], features in the order of `embedding_names`; with `as_dict` a dict of them,
    [B, dim] each. Of the anchor's type and device.

    Raises:
        InvalidRequest: as there; or features of several B, without `as_dict`.

    Example:
        >>> bags = EmbeddingBagCollection(client, [
        ...     EmbeddingBagConfig(num_embeddings=99, embedding_dim=16, name="items", feature_names=["seen"]),
        ...     EmbeddingBagConfig(num_embeddings=9, embedding_dim=4, name="kinds", feature_names=["kind"]),
        ... ])
        >>> seen = torch.tensor([1, 2, 3]), torch.tensor([0, 2])        # [1, 2] and [3]
        >>> bags({"seen": seen, "kind": torch.tensor([[1], [8]])}).shape
        torch.Size([2, 20])
    """

    _config = EmbeddingBagConfig

    def __init__(
        self,
        client: Client,
        tables: Sequence[EmbeddingBagConfig],
        *,
        as_dict: bool = False,
        include_last_offset: bool = False,
        grad_scale: float = 1.0,
    ) -> None:
        super().__init__(client, tables, grad_scale)
        self.as_dict, self.include_last_offset = as_dict, include_last_offset

    def looked_up(self, features: Mapping[str, Any]) -> Any:
        """As the class says."""
        values = features_of(features, self._slots, self.configs)
        given = [self._bag(value, slot) for value, slot in zip(values, self._slots, strict=True)]
        flat = [_ids(bag.ids, slot).reshape(-1) for bag, slot in zip(given, self._slots, strict=True)]
        alone = [_alone(bag, slot) for bag, slot in zip(given, self._slots, strict=True)]
        # Bags of one id are the rows themselves; of others each row comes once.
        found = [(some, None) if one else distinct_of(some) for some, one in zip(flat, alone, strict=True)]
        rows = self._pulled([ids for ids, _ in found])
        out = [
            some.to(self.anchor.dtype) if inverse is None else self._pooled(slot, bag, ids, inverse, some)
            for slot, bag, (ids, inverse), some in zip(self._slots, given, found, rows, strict=True)
        ]
        if self.as_dict:
            return dict(zip(self.embedding_names, out, strict=True))
        sizes = {name: len(one) for name, one in zip(self.embedding_names, out, strict=True)}
        if len(set(sizes.values())) > 1:
            raise InvalidRequest(
                f"features must have the same number of bags, got {sizes}; or give as_dict=True"
            )
        return torch.cat(out, 1)

    def _bag(self, value: Any, slot: Slot) -> _Bag:
        parts = value if isinstance(value, tuple | list) else (value,)
        if not 1 <= len(parts) <= 3:
            raise WrongType(
                f"feature {slot.feature!r} must be ids, (ids, offsets) or (ids, offsets, weights)"
            )
        bag = _Bag(*parts, *[None] * (3 - len(parts)))
        for what, part in (("offsets", bag.offsets), ("weights", bag.weights)):
            if part is not None:
                check_tensor(part, f"{what} of feature {slot.feature!r}")
        check_bags(
            bag.ids, bag.offsets, bag.weights, self.configs[slot.table].pooling, self.include_last_offset
        )
        return bag

    def _pooled(self, slot: Slot, bag: _Bag, ids: np.ndarray, inverse: np.ndarray, rows: Any) -> Any:
        place = None
        if slot.padding is not None:
            found = np.flatnonzero(ids == slot.padding)
            rows, place = (rows, int(found[0])) if len(found) else with_padding(rows)
        return pooled(
            rows,
            torch.from_numpy(inverse).to(rows.device).reshape(bag.ids.shape),
            bag.offsets,
            bag.weights,
            mode=self.configs[slot.table].pooling,
            include_last_offset=self.include_last_offset,
            padding_idx=place,
            dtype=self.anchor.dtype,
        )


class _PulledTables(torch.autograd.Function):
    """Rows of all slots, whose gradients go to the tables; the anchor makes the engine come by."""

    @staticmethod
    def forward(ctx: Any, anchor: Any, layer: Any, ids: Sequence[np.ndarray]) -> Any:
        ctx.held = (layer, ids)
        ctx.anchor = (anchor.shape, anchor.device, anchor.dtype)
        ctx.set_materialize_grads(False)  # what no loss depends on is not trained
        return tuple(layer._pull(ids))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *upstreams: Any) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        layer, ids = ctx.held
        whole, grads = _copied(upstreams)
        pieces = layer._counted(ids, grads)
        if trains(ctx):
            layer.gradients.hold(pieces)
        rows = [one for _, _, one in pieces]
        # Most often all counts, and is looked through at once.
        all_counts = sum(map(len, rows)) == sum(len(one) for one in grads if one is not None)
        return anchor_gradient(ctx.anchor, [whole] if all_counts else rows), None, None


def _copied(upstreams: Sequence[Any]) -> tuple[np.ndarray, list[np.ndarray | None]]:
    """Gradients in one piece of memory, which is looked through at once: (that, [N, width] of each slot), float32.

    Copied, because PyTorch may make the very memory the gradient of a parameter, which the next pass adds to.
    """
    flat = [_EMPTY if up is None else as_numpy(up).reshape(-1) for up in upstreams]
    whole, end = np.concatenate(flat), 0
    grads: list[np.ndarray | None] = []
    for up, one in zip(upstreams, flat, strict=True):
        begin, end = end, end + len(one)
        grads.append(None if up is None else whole[begin:end].reshape(-1, up.shape[-1]))
    return whole, grads


def _ids(ids: Any, slot: Slot) -> np.ndarray:
    """int64, of the same shape. Raises InvalidRequest for what are no ids."""
    check_tensor(ids, f"feature {slot.feature!r}")
    if ids.dtype not in (torch.int64, torch.int32):
        raise WrongInput(f"feature {slot.feature!r} must be int64 or int32, got {ids.dtype}")
    return own_ids(ids)


def _alone(bag: _Bag, slot: Slot) -> bool:
    """Whether each bag is one id that counts as it is."""
    one = bag.offsets is None and bag.ids.dim() == 2 and bag.ids.shape[1] == 1
    return one and bag.weights is None and slot.padding is None


def _shown(config: EmbeddingConfig) -> str:
    size = "open-ended" if config.num_embeddings is None else config.num_embeddings
    shown = f"{config.name!r}: {size}, {config.embedding_dim}, features={list(config.feature_names)}"
    if config.padding_idx is not None:
        shown += f", padding_idx={config.padding_idx}"
    return shown + (f", pooling={config.pooling!r}" if isinstance(config, EmbeddingBagConfig) else "")
