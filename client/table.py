"""A table as a trainer holds it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from concurrent.futures import Future
from functools import partial
from typing import Any, NoReturn

import numpy as np

from ..proto import codec
from ..proto.errors import InvalidRequest
from ..proto.recipes import is_whole
from ..proto.spec import TableEntry, TableSpec
from .connection import Connection
from .hottest import MOST_HOT, Hottest
from .inputs import as_range, snapshot
from .listing import public_names, screen
from .lookups.bags import bags_in
from .prefetching import Prefetch, copied
from .untraced import untraced
from .vocabulary import Vocabulary


class Table:
    """A handle to one table of a cluster. Thread-safe; pickles to one that connects again.

    Attributes:
        spec: what the table is, with the learning rate in force.
        client: the client that it came from.
        vocabulary: the words of its ids, or None: those of its metadata, or what was set here.

    Example:
        >>> from rowloom.client import TableSpec, SGD, Zeros
        >>> from rowloom.deploy import local_cluster
        >>> with local_cluster(shards=2) as cluster, cluster.connect() as client:
        ...     users = client.create_table(TableSpec("users", 10, dim=2, optimizer=SGD(lr=1.0), initializer=Zeros()))
        ...     users.push([3, 3], [[1, 0], [1, 0]])
        ...     users.pull([3, 4])
        array([[-2.,  0.],
               [ 0.,  0.]], dtype=float32)
    """

    def __init__(self, client: Connection, entry: TableEntry) -> None:
        self.client = client
        self._entry = entry
        self._vocabulary: Vocabulary | None = None
        self.__doc__ = _SCREEN  # what `help(table)` says

    def __repr__(self) -> str:
        s = self.spec
        return f"<Table {s.name!r} {s.num_embeddings or 'open-ended'} x {s.row_shape} {s.partition} {s.optimizer}>"

    def __reduce__(self):
        return (_reopen, (self.client, self._entry, self._vocabulary))

    def __dir__(self) -> list[str]:
        return sorted({*public_names(Table), "client"} - {"entry"})

    @property
    def spec(self) -> TableSpec:
        """What the table is, with the learning rate in force, as far as this client has been told.

        `spec.frozen` also says that this client pushes nothing to it: after `freeze`, or because it is read-only.
        """
        spec = self.client.newest(self._entry).current_spec
        if spec.frozen or not self.client.is_frozen(spec.name):
            return spec
        return dataclasses.replace(spec, frozen=True)

    @property
    def name(self) -> str:
        """Its name."""
        return self._entry.spec.name

    @property
    def shape(self) -> tuple[int | None, ...]:
        """(ids, *row_shape); None for ids without end, as frameworks write a dimension that nobody knows."""
        return (self._entry.spec.num_embeddings, *self._entry.spec.row_shape)

    @property
    def vocabulary(self) -> Vocabulary | None:
        """The words of its ids, or None: those of its metadata, or what was set on this handle."""
        return Vocabulary.of(self._entry.spec) if self._vocabulary is None else self._vocabulary

    @vocabulary.setter
    def vocabulary(self, words: Vocabulary) -> None:
        words.check(self._entry.spec)
        self._vocabulary = words

    def __len__(self) -> int:
        """How many ids there are, as of an array; it says nothing of how many rows are in memory: `len(table.ids())`.

        Raises TypeError for open-ended ids, which have no number.
        """
        if self._entry.spec.num_embeddings is None:
            raise TypeError(
                f"table {self.name!r} has open-ended ids, so it has no length; len(table.ids()) rows of it exist"
            )
        return self._entry.spec.num_embeddings

    def __bool__(self) -> bool:
        return True  # a table is something, also one without ids

    def __getitem__(self, ids: Any) -> np.ndarray:
        """`pull` of an id, an array or a list of ids, or a slice of them. An id is no place: -1 is refused."""
        if isinstance(ids, tuple):
            raise InvalidRequest(f"one index, the ids: table[ids][..., columns]; got {len(ids)}")  # pyright: ignore[reportUnknownArgumentType]
        return self.pull(as_range(ids, self._entry.spec) if type(ids) is slice else ids)

    def __iter__(self) -> NoReturn:
        raise TypeError(
            f"a loop over the rows of table {self.name!r} would be a call for each: pull many at once"
        )

    def __array__(self, *_: Any, **__: Any) -> NoReturn:
        raise TypeError(
            f"table {self.name!r} is on its shards: table[:] pulls all rows, table.export(path) keeps them"
        )

    @property
    def entry(self) -> TableEntry:
        """The table as the cluster knows it."""
        return self._entry

    def pull(self, ids: Any, *, wire: str | None = None) -> np.ndarray:
        """Rows of ids, in the order of the ids.

        Args:
            ids: integers of any shape and integer type; arrays, lists, scalars, CPU tensors. May repeat. Not modified.
            wire: how the rows travel: "float32", "bfloat16", "float16" or "int8"; None: as the table's spec says. Of
                "float32" they are exact, else rounded, see docs/wire.md.

        Returns:
            ids.shape + row_shape, float32.

        Raises:
            InvalidRequest: an id is out of range or no integer; a row has a value that `wire` cannot carry.
            TableNotFound: the table was dropped.
            StateLost: a shard lost its rows, or is dead for good; the message names it.
            Unavailable: a shard did not answer within the client's timeout.
        """
        return self.client.pull_entries([(self._entry, ids)], wire)[0]

    def push(self, ids: Any, grads: Any, *, wire: str | None = None) -> None:
        """Apply the optimizer to rows. Returns when every shard has acked; each gradient counts exactly once.

        Args:
            ids: as for `pull`; gradients of the same id are summed, in order, in float32.
            grads: ids.shape + row_shape, finite numbers.
            wire: how the sums travel, as for `pull`; rounded after they were summed.

        Raises:
            InvalidRequest: wrong ids, shape, type, NaN/infinity, or a sum that `wire` cannot carry; nothing changed.
            TableNotFound, StateLost, Unavailable: nothing changed.
            PushUnresolved: some shard did not answer in time; applied at most once: do not push it again.
        """
        self.client.push_entries([(self._entry, ids, grads)], wire=wire)

    def step(self, ids: Any, grads: Any, next_ids: Any, *, wire: str | None = None) -> np.ndarray:
        """`push(ids, grads)`, then `pull(next_ids)`, in one call to each shard; see `Client.step`."""
        return self.client.step_entries([(self._entry, ids, grads)], [(self._entry, next_ids)], wire)[0]

    @untraced
    def pull_bags(
        self, ids: Any, offsets: Any = None, *, combiner: str = "sum", weights: Any = None
    ) -> np.ndarray:
        """Rows of ids combined by bag, on the shards: one sum of each bag travels from each shard, in place of rows.

        Every shard adds up its own rows, and the client adds these sums in the order of the shards. So the last bits
        depend on how many shards there are, and on where a bag is cut when there is more than about 4 MB for a shard.
        Where bits must not depend on that, pull the rows and combine them here: `lookup_sparse` and the layers do.

        Args:
            ids: Ragged or SparseIds, or TensorFlow's own; an array [..., L], L ids in each bag; or [N] with offsets.
            offsets: [B] integers, where each bag of ids [N] begins, as `torch.nn.EmbeddingBag` has them.
            combiner: "sum" is the sum of w * row; "mean" divides it by the sum of w; "sqrtn" by the root of the sum of
                w squared. Divided by 0 is 0. Factors w / size and sums are float32.
            weights: w of each id, of the kind and shape of ids; None for 1.

        Returns:
            [B] + row_shape float32 ([...] + row_shape for ids of more axes); a bag without ids is zeros.

        Raises:
            as `pull`; InvalidRequest also for an unknown combiner, offsets or weights that do not fit.
        """
        return self.client.pull_entry_bags(self._entry, bags_in(ids, offsets, weights), combiner)

    @untraced
    def push_bags(
        self,
        ids: Any,
        offsets: Any,
        grads: Any,
        *,
        combiner: str = "sum",
        weights: Any = None,
    ) -> None:
        """Apply the gradients of `pull_bags`: one for each bag travels, and the shards work out those of the ids.

        As pushing factor * grads[bag] for each id, in their order: bit for bit, on any number of shards, and exactly
        once. The weights themselves get no gradient.

        Args:
            ids: as there.
            offsets: as there; None where there are none.
            grads: [B] + row_shape, as `pull_bags` returns it; finite numbers.
            combiner: as there.
            weights: as there.

        Raises:
            as `push` and `pull_bags`.
        """
        self.client.push_entry_bags(self._entry, bags_in(ids, offsets, weights), grads, combiner)

    @untraced
    def pull_async(self, ids: Any, *, wire: str | None = None) -> Future[np.ndarray]:
        """`pull` in the background; `.result()` gives the rows. ids are copied, whatever holds them."""
        return self.client.later(partial(self.pull, snapshot(ids, "ids"), wire=wire))

    @untraced
    def push_async(self, ids: Any, grads: Any, *, wire: str | None = None) -> Future[None]:
        """`push` in the background, after the pushes that were started before it.

        ids and grads are copied, whatever holds them. What is no array is refused at once, everything else is raised by
        `.result()`.
        """
        own = snapshot(ids, "ids"), snapshot(grads, "grads")
        return self.client.later_in_order(partial(self.push, *own, wire=wire))

    def prefetch(self, ids: Iterable[Any], depth: int = 2, *, wire: str | None = None) -> Prefetch:
        """Pull the rows of coming batches while this one is trained.

        Rows are as of the moment when they were pulled. A push made after that is not in them, so rows may be up to
        `depth` pushes of this loop behind; with `pull` they never are. Order, duplicates and shapes are as for `pull`.

        Args:
            ids: batches of ids, each as for `pull`; read in the caller's thread, never more than `depth` ahead.
            depth: how many batches ahead, at least 1. Memory holds the rows of this many.
            wire: as for `pull`.

        Returns:
            An iterator of (ids, rows), in order; ids as the source gave them, arrays and tensors copied. Close it, or
            use `with`, to leave a loop early.

        Raises:
            InvalidRequest: depth is below 1; ids is not iterable. In the loop, at the batch that it belongs to: what
            the source raises, and what `pull` raises.

        Example:
            >>> with users.prefetch(batches) as prefetched:
            ...     for ids, rows in prefetched:
            ...         users.push(ids, gradients_of(rows))
        """

        def start(some: Any) -> tuple[Any, Future[Any]]:
            own = copied(some)
            return own, self.client.later(partial(self.pull, own, wire=wire))

        return Prefetch(ids, start, depth)

    def assign(self, ids: Any, rows: Any) -> None:
        """Overwrite rows, exactly; the optimizer's slots stay. Of duplicate ids the last counts.

        Arguments and errors as `push`.
        """
        self.client.push_entries([(self._entry, ids, rows)], codec.ASSIGN)

    def renorm(self, ids: Any, max_norm: float, norm_type: float = 2.0) -> None:
        """Scale rows whose norm exceeds max_norm down to it, in the table, as `torch.nn.Embedding(max_norm=...)` does.

        Args:
            ids: as for `pull`; each distinct id once.
            max_norm: above 0.
            norm_type: p of the p-norm, above 0; inf works.

        Raises:
            as `push`.
        """
        self.client.renorm_entry(self._entry, ids, max_norm, norm_type)

    def export(self, path: Any, **options: Any) -> int:
        """Write the rows to a file, block by block; how is told by its suffix.

        Args:
            path: .npy, .safetensors, .pt, .parquet, .txt and more: see `rowloom.client.files`.
            options: as `rowloom.client.files.export_table`: format, tensor, ids, vocabulary, progress.

        Returns:
            Rows written.

        Raises:
            InvalidRequest: an option is wrong; an open-ended table without ids.
        """
        from .files.transfer import export_table

        return export_table(self, path, **options)

    def ids(self) -> np.ndarray:
        """Ids of the rows that exist: those that were ever pushed to or assigned. Others have their initial value.

        `table.export(path, ids=table.ids())` writes only what was trained.

        Returns:
            [M] int64, ascending. Of pushes that are made meanwhile, some may be missing.

        Raises:
            TableNotFound, StateLost, Unavailable: as `pull`.
        """
        return self.client.list_entry_ids(self._entry)

    def hottest(self, limit: int = 10) -> Hottest:
        """The ids that are pulled and pushed most, by all clients, since the rows came to their shards.

        What was hot long ago fades: a shard halves its counts after each 2**30 ids of a table. It counts those of 100
        tables, the first that are used.

        Args:
            limit: how many at most, from 1 to 1,024.

        Returns:
            A Hottest: ids [K] int64, hottest first, shares [K] float64, and how sure that is.

        Raises:
            InvalidRequest: limit is out of range.
            PermissionDenied: without the right to pull from the table, or to administer it.
            TableNotFound, StateLost, Unavailable: as `pull`.
        """
        if not is_whole(limit) or not 1 <= limit <= MOST_HOT:
            raise InvalidRequest(f"limit must be a whole number from 1 to {MOST_HOT}, got {limit!r}")
        return self.client.hottest_entry_ids(self._entry, int(limit))

    def freeze(self) -> None:
        """Push no gradients to it from this client, until `thaw`: as `requires_grad=False`, `trainable=False`.

        It holds for all handles of the client, and for its layers, which then train nothing here; other clients still
        train it. Pushes are refused; `assign`, `set_lr` and `pull` work. `TableSpec(frozen=True)` is for all clients.
        """
        self.client.freeze(self.name)

    def thaw(self) -> None:
        """Undo `freeze`. Raises InvalidRequest: it is frozen for all clients, or the client is read-only."""
        if self._entry.spec.frozen:
            raise InvalidRequest(
                f"table {self.name!r} was made frozen, for all clients; to train it, make one with freeze=False"
            )
        if self.client.read_only:
            raise InvalidRequest("this client is read-only: connect without read_only=True to push")
        self.client.thaw(self.name)

    def set_lr(self, lr: float) -> None:
        """Change the learning rate on every shard. Raises InvalidRequest, TableNotFound, Unavailable."""
        self._entry = self.client.set_entry_lr(self.name, lr)


def _reopen(client: Connection, entry: TableEntry, vocabulary: Vocabulary | None) -> Table:
    table = Table(client, entry)
    table._vocabulary = vocabulary  # pyright: ignore[reportPrivateUsage]
    return table


_SCREEN = screen(Table, {"client": "The client that it came from."})
