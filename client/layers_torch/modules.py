"""PyTorch layers over tables: `Embedding` and `EmbeddingBag`, with a table in place of the weight.

The forward pass pulls each distinct row once, and PyTorch's own functions do the rest on those rows: gathering,
pooling, padding, their gradients. The backward pass pushes. The table's optimizer trains the rows; the model's
optimizer does not see them. What it sees is one number per layer, the anchor, which is always 0: it makes autograd
come by, says which device and type the output has, and freezes the layer when it needs no gradient, as a weight would.

When the push happens: at the end of each backward pass, one push for all layers; or, after `push_on_step`, when the
optimizer steps. Use that for gradient accumulation, and with a `GradScaler`: a gradient that is pushed by `backward` is
pushed as it comes, with the scaler's factor in it.

DistributedDataParallel and `fully_shard`: the ranks train a table as one process with the whole batch would, whatever
its optimizer: what they push is gathered, averaged as they average the gradients of the dense part, and pushed once
(`ranks.py`).
"""

# The framework's types are unknown where it is not installed, and mostly so where it is.
# pyright: reportUnknownParameterType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportUnknownLambdaType=false, reportUntypedBaseClass=false, reportUntypedFunctionDecorator=false
# pyright: reportUntypedClassDecorator=false, reportPrivateUsage=false

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import numpy as np
import torch  # pyright: ignore[reportMissingImports]
import torch.nn.functional as F  # noqa: N812  # pyright: ignore[reportMissingImports]

from ...proto.errors import InvalidRequest, RowloomError, TableExists, TableNotFound
from ...proto.spec import SGD, Initializer, Normal, Optimizer, TableSpec
from ..inputs import as_array
from ..layers.configs import from_start
from ..refusals import WrongAssertion, WrongIndex, WrongInput
from .bags import check_bags, check_tensor, pooled, with_padding
from .loader import PrefetchLoader
from .over_table import OverTable
from .passes import push_on_step

if TYPE_CHECKING:
    from ..client import Client
    from ..table import Table

__all__ = ["Embedding", "EmbeddingBag", "PrefetchLoader", "push_on_step"]

_ASSIGNED_VALUES = 1 << 20  # values in one assign


class Embedding(OverTable):
    """`torch.nn.Embedding` with a table in place of the weight.

    Args:
        table: rows of any shape.
        padding_idx: this id's row is returned as it is and gets no gradient; negative counts from the end.
        max_norm: at each lookup, in training or not, rows longer than this are scaled down to it **in the table**.
        norm_type: p of that norm.
        scale_grad_by_freq: an id's gradient is divided by how often it is in the batch.
        sparse: of no effect: what is pushed are always the rows of the batch only.
        grad_scale: what is pushed is multiplied by it.

    With a `GradScaler`, call `push_on_step(optimizer, model, scaler=scaler)` first: `backward` pushes scaled gradients.

    Call with:
        input: int32 or int64 of any shape.

    Returns input.shape + row_shape, of the anchor's type (`layer.half()`) and device.

    Raises:
        AssertionError: padding_idx is out of range.
        IndexError: an id that the table does not have.
        RuntimeError: ids of another type.
        TypeError: ids that are no tensor.
        All of these are InvalidRequest too.

    Example:
        >>> embed = Embedding(client.table("users"), padding_idx=0)
        >>> embed(torch.tensor([[1, 2], [3, 0]])).sum().backward()    # pulls 4 rows, pushes to 3
    """

    _out_of_range = WrongIndex

    def __init__(
        self,
        table: Table,
        padding_idx: int | None = None,
        max_norm: float | None = None,
        norm_type: float = 2.0,
        scale_grad_by_freq: bool = False,
        sparse: bool = False,
        *,
        grad_scale: float = 1.0,
    ) -> None:
        super().__init__(table, padding_idx, max_norm, norm_type, grad_scale)
        self.scale_grad_by_freq, self.sparse = scale_grad_by_freq, sparse

    def looked_up(self, input: Any) -> Any:
        """As the class says."""
        check_tensor(input, "input")
        if input.dtype not in (torch.int64, torch.int32):
            raise WrongInput(f"input must be int64 or int32, got {input.dtype}")
        anchor = self.anchor
        if anchor.device.type == "cpu" and self.max_norm is None and not self.scale_grad_by_freq:
            out = self.row_of_each(input, anchor)
            return out if out.dtype == anchor.dtype else out.to(anchor.dtype)
        # To a GPU each row goes once.
        inverse, rows, place = self.rows(input, by_frequency=self.scale_grad_by_freq)
        return F.embedding(inverse, rows, place).reshape(*input.shape, *self.row_shape).to(anchor.dtype)

    def extra_repr(self) -> str:
        """What `print(model)` shows."""
        return _described(self, padding_idx=None, max_norm=None, norm_type=2.0, scale_grad_by_freq=False)

    @classmethod
    def create(
        cls,
        client: Client,
        name: str,
        num_embeddings: int,
        embedding_dim: int,
        padding_idx: int | None = None,
        *,
        optimizer: Optimizer | None = None,
        initializer: Initializer | None = None,
        **kwargs: Any,
    ) -> Embedding:
        """A layer over a new table, as `torch.nn.Embedding(num_embeddings, embedding_dim)`; or over the one there is.

        Args:
            client: where to make it.
            name: the table's; one of the same spec is used as it is, rows and all.
            num_embeddings: V.
            embedding_dim: columns.
            padding_idx: a new table's row of this id is zeros.
            optimizer: the table's (default SGD).
            initializer: of the other rows (default Normal(0, 1), as torch).
            **kwargs: as for the class.

        Raises:
            TableExists: there is a table of that name with another spec.
        """
        table = _created(client, name, num_embeddings, embedding_dim, padding_idx, optimizer, initializer)
        return cls(table, padding_idx, **kwargs)

    @classmethod
    def from_pretrained(
        cls,
        embeddings: Any,
        freeze: bool = True,
        padding_idx: int | None = None,
        max_norm: float | None = None,
        norm_type: float = 2.0,
        scale_grad_by_freq: bool = False,
        sparse: bool = False,
        *,
        client: Client | None = None,
        name: str | None = None,
        optimizer: Optimizer | None = None,
        grad_scale: float = 1.0,
    ) -> Embedding:
        """A layer over rows that exist already.

        Args:
            embeddings: a table; or [V, dim], a tensor or array, copied into a new table.
            freeze: the layer pushes nothing; a new table refuses pushes.
            padding_idx: as for the class, like all that follows; the row is not made zeros.
            max_norm: scales rows of a frozen table, too.
            norm_type: p of that norm.
            scale_grad_by_freq: see the class.
            sparse: see the class.
            client: where to make the new table.
            name: the new table's.
            optimizer: the new table's (default SGD).
            grad_scale: see the class.

        Raises:
            AssertionError: embeddings are no matrix.
            TableExists: there is a table of that name: give it as `embeddings`.
        """
        table = _pretrained(embeddings, freeze, client, name, optimizer)
        layer = cls(
            table, padding_idx, max_norm, norm_type, scale_grad_by_freq, sparse, grad_scale=grad_scale
        )
        return layer.freeze(freeze)


class EmbeddingBag(OverTable):
    """`torch.nn.EmbeddingBag` with a table in place of the weight.

    Args:
        table: rows that are vectors.
        max_norm: as `Embedding`.
        norm_type: as `Embedding`.
        scale_grad_by_freq: as `Embedding`; not with "max".
        mode: "sum", "mean" or "max" of the rows of a bag; zeros for an empty one.
        sparse: of no effect, and not with "max".
        include_last_offset: offsets end with the length of the input.
        padding_idx: this id is left out, and gets no gradient; a mean does not count it.
        grad_scale: as `Embedding`.

    Call with:
        input: [B, N] ids: B bags; or [N] ids in bags that start at `offsets`.
        offsets: [B] integers (with include_last_offset: [B + 1]), the first one 0; with [N] ids only.
        per_sample_weights: of the input's shape and the layer's type, gradients and all: rows are multiplied by
            them; with "sum", and unlike in torch with "mean": the weighted sum over the number of ids in the bag.

    Returns [B, dim], of the anchor's type and device.

    Raises:
        AssertionError: padding_idx is out of range.
        ValueError: an unknown mode, "max" with scale_grad_by_freq or sparse, shapes that do not fit.
        NotImplementedError: per_sample_weights with "max".
        RuntimeError: an id that the table does not have, ids that are no integers, weights of another type.
    """

    _out_of_range = WrongInput

    def __init__(
        self,
        table: Table,
        max_norm: float | None = None,
        norm_type: float = 2.0,
        scale_grad_by_freq: bool = False,
        mode: str = "mean",
        sparse: bool = False,
        include_last_offset: bool = False,
        padding_idx: int | None = None,
        *,
        grad_scale: float = 1.0,
    ) -> None:
        super().__init__(table, padding_idx, max_norm, norm_type, grad_scale)
        if mode not in ("sum", "mean", "max"):
            raise InvalidRequest(f"mode must be one of sum, mean or max, got {mode!r}")
        for argument, value in (("scale_grad_by_freq", scale_grad_by_freq), ("sparse", sparse)):
            if mode == "max" and value:
                raise InvalidRequest(f'{argument} must be False with mode="max", got {value!r}')
        if len(table.spec.row_shape) != 1:
            raise InvalidRequest(f"table {table.name!r} has rows of {table.spec.row_shape}, not vectors")
        self.scale_grad_by_freq, self.mode, self.sparse = scale_grad_by_freq, mode, sparse
        self.include_last_offset = include_last_offset

    def looked_up(self, input: Any, offsets: Any = None, per_sample_weights: Any = None) -> Any:
        """As the class says."""
        check_bags(input, offsets, per_sample_weights, self.mode, self.include_last_offset)
        how = {"by_frequency": self.scale_grad_by_freq, "argmax_only": self.mode == "max"}
        inverse, rows, place = self.rows(input, **how)
        if self.padding_idx is not None and place is None:
            rows, place = with_padding(rows)
        return pooled(
            rows,
            inverse,
            offsets,
            per_sample_weights,
            mode=self.mode,
            include_last_offset=self.include_last_offset,
            padding_idx=place,
            dtype=self.anchor.dtype,
        )

    def extra_repr(self) -> str:
        """What `print(model)` shows."""
        shown = _described(self, max_norm=None, norm_type=2.0, scale_grad_by_freq=False, padding_idx=None)
        return f"{shown}, mode={self.mode!r}"

    @classmethod
    def create(
        cls,
        client: Client,
        name: str,
        num_embeddings: int,
        embedding_dim: int,
        *,
        padding_idx: int | None = None,
        optimizer: Optimizer | None = None,
        initializer: Initializer | None = None,
        **kwargs: Any,
    ) -> EmbeddingBag:
        """A layer over a new table, or the one there is. See `Embedding.create`."""
        table = _created(client, name, num_embeddings, embedding_dim, padding_idx, optimizer, initializer)
        return cls(table, padding_idx=padding_idx, **kwargs)

    @classmethod
    def from_pretrained(
        cls,
        embeddings: Any,
        freeze: bool = True,
        max_norm: float | None = None,
        norm_type: float = 2.0,
        scale_grad_by_freq: bool = False,
        mode: str = "mean",
        sparse: bool = False,
        include_last_offset: bool = False,
        padding_idx: int | None = None,
        *,
        client: Client | None = None,
        name: str | None = None,
        optimizer: Optimizer | None = None,
        grad_scale: float = 1.0,
    ) -> EmbeddingBag:
        """A layer over rows that exist already. See `Embedding.from_pretrained`."""
        table = _pretrained(embeddings, freeze, client, name, optimizer)
        layer = cls(
            table,
            max_norm,
            norm_type,
            scale_grad_by_freq,
            mode,
            sparse,
            include_last_offset,
            padding_idx,
            grad_scale=grad_scale,
        )
        return layer.freeze(freeze)


def _described(layer: Any, **defaults: Any) -> str:
    """Arguments that are not the default, for a repr."""
    spec = layer.table.spec
    shown = [f"{spec.num_embeddings or 'open-ended'}, {spec.dim}, table={spec.name!r}"]
    shown += [f"{k}={getattr(layer, k)!r}" for k, v in defaults.items() if getattr(layer, k) != v]
    return ", ".join(shown)


def _created(
    client: Any,
    name: str,
    num_embeddings: int,
    embedding_dim: int,
    padding_idx: int | None,
    optimizer: Optimizer | None,
    initializer: Initializer | None,
) -> Any:
    spec = TableSpec(
        name,
        num_embeddings,
        embedding_dim,
        optimizer=SGD() if optimizer is None else optimizer,
        initializer=Normal() if initializer is None else initializer,
    )
    padding = from_start(padding_idx, num_embeddings)
    new = not _exists(client, name)
    table = client.create_table(spec)
    if new and padding is not None:
        table.assign([padding], np.zeros((1, *spec.row_shape), np.float32))
    return table


def _exists(client: Any, name: str) -> bool:
    try:
        client.table(name)
    except TableNotFound:
        return False
    return True


def _pretrained(
    embeddings: Any, freeze: bool, client: Any, name: str | None, optimizer: Optimizer | None
) -> Any:
    """The table itself, or a new one of these rows."""
    if hasattr(embeddings, "spec"):
        return embeddings
    if client is None or name is None:
        raise InvalidRequest("client and name must say where to make the table of these embeddings")
    if isinstance(embeddings, np.ma.MaskedArray):
        embeddings = as_array(embeddings, "embeddings")
    rows = torch.as_tensor(embeddings).detach().to("cpu", torch.float32)
    if rows.dim() != 2:
        raise WrongAssertion(f"embeddings must be 2-dimensional, got shape {tuple(rows.shape)}")
    if _exists(client, name):
        raise TableExists(f"table {name!r} is already there: give it as embeddings, or choose another name")
    spec = TableSpec(
        name, len(rows), rows.shape[1], optimizer=SGD() if optimizer is None else optimizer, frozen=freeze
    )
    table = client.create_table(spec)
    step = max(1, _ASSIGNED_VALUES // max(1, rows.shape[1]))
    try:
        for begin in range(0, len(rows), step):
            block = rows[begin : begin + step]
            table.assign(np.arange(begin, begin + len(block)), block.numpy())
    except BaseException:
        with contextlib.suppress(RowloomError):  # half a table would be in the way of the next try
            client.drop_table(name)
        raise
    return table
