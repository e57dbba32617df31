"""A PyTorch data loader whose batches come with their rows."""

# What callers give is checked, although it has a type.
# pyright: reportUnnecessaryIsInstance=false

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch  # pyright: ignore[reportMissingImports]

from ...proto.errors import InvalidRequest
from ..inputs import snapshot
from ..prefetching import Prefetch, Started
from .prefetched import Ahead, offered, pull_ahead

if TYPE_CHECKING:
    from ..client import Client


class PrefetchLoader:
    """`for batch, rows in PrefetchLoader(...)`: a DataLoader's batches, each with the rows of its ids.

    While one batch is trained, the rows of the next ones are pulled, one request to each shard for all tables. Rows are
    as they were when they were pulled: of up to `depth` steps before, see `Table.prefetch`. Workers of the loader never
    see the client.

    In the loop, layers over these tables find their rows there, as inside of `prefetched`: the first of the examples
    needs no more than a model of such layers. `prefetched` itself has the rows of this very step.

    Args:
        loader: a `torch.utils.data.DataLoader`, or any iterable of batches. Each loop over this reads it anew.
        client: of the cluster that has the tables.
        ids: table name -> where its ids are in a batch: a key, a position, or a function of the batch. Or one function
            of the batch that gives table name -> ids.
        depth: how many batches ahead.
        wire: as for `Table.pull`.

    Each round of a loop gives:
        (batch, rows): the loader's batch, and table name -> rows, a float32 tensor of ids.shape + row_shape on the CPU,
        which is no part of any graph and belongs to the caller.

    Raises:
        InvalidRequest: an argument is wrong; in the loop, what the loader and `Client.pull` raise, at their batch.

    Example:
        >>> loader = PrefetchLoader(DataLoader(data, 4096), client, {"users": "user", "items": "item"})
        >>> for batch, _ in loader:
        ...     loss(model(batch), batch["label"]).backward()

        >>> loader = PrefetchLoader(DataLoader(data, 4096, num_workers=2), client, {"users": "user", "items": "item"})
        >>> for batch, rows in loader:
        ...     users, items = rows["users"].requires_grad_(), rows["items"].requires_grad_()
        ...     loss(users, items, batch["label"]).backward()
        ...     client.push({"users": (batch["user"], users.grad), "items": (batch["item"], items.grad)})
    """

    def __init__(
        self,
        loader: Iterable[Any],
        client: Client,
        ids: Mapping[str, Any] | Callable[[Any], Mapping[str, Any]],
        *,
        depth: int = 2,
        wire: str | None = None,
    ) -> None:
        if not callable(ids) and not (isinstance(ids, Mapping) and ids):
            raise InvalidRequest(
                f"ids must be a function of the batch, or say where each table's ids are, got {ids!r}"
            )
        self.loader, self.client, self.ids = loader, client, ids
        self.depth, self.wire = depth, wire
        self._prefetch()  # refuses a wrong depth now rather than in the loop

    def __len__(self) -> int:
        return len(self.loader)  # type: ignore[arg-type]  # raises what the loader raises

    def __iter__(self) -> Iterator[tuple[Any, dict[str, Any]]]:
        with self._prefetch() as batches:
            for batch, (rows, ahead) in batches:
                with offered(self.client, ahead):
                    yield batch, rows

    def _prefetch(self) -> Prefetch:
        return Prefetch(self.loader, self._start, self.depth)

    def _start(self, batch: Any) -> Started:
        wanted = {name: snapshot(some, "ids") for name, some in self._ids_of(batch).items()}
        return batch, self.client.later(self._rows, wanted)

    def _ids_of(self, batch: Any) -> Mapping[str, Any]:
        if callable(self.ids):
            return self.ids(batch)
        return {name: at(batch) if callable(at) else batch[at] for name, at in self.ids.items()}

    def _rows(self, wanted: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Ahead]]:
        ahead = pull_ahead(self.client, wanted, self.wire)
        return {name: torch.from_numpy(one.copied(wanted[name].shape)) for name, one in ahead.items()}, ahead
