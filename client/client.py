"""A client of a cluster, by table name: what a trainer does with it."""

# What callers give is checked, although it has a type.
# pyright: reportUnnecessaryIsInstance=false

from __future__ import annotations

import hashlib
import random
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from functools import partial
from typing import Any

import numpy as np

from ..proto import methods
from ..proto import rowloom_pb2 as pb
from ..proto.errors import InvalidRequest
from ..proto.snapshots.extra import decode_extra, encode_extra
from ..proto.spec import TableEntry, TableSpec, check_name
from .calls import operations
from .calls.control import ask, statistics, take_snapshot
from .connection import Connection
from .inputs import snapshot
from .listing import Listing, public_names, screen
from .prefetching import Prefetch, copied
from .snapshots import Snapshot
from .table import Table
from .untraced import untraced
from .vocabulary import Vocabulary


class Client(Connection):
    """One trainer's connection to a cluster; made by `connect`.

    Thread-safe. Pushes of one client are applied in the order in which they were called: a push waits for the one
    before it. Pulls run side by side. After a fork, the child gets connections and a name of its own; a pickled client
    connects again where it is unpickled.

    Attributes:
        timeout_s: how long any call may take. Time that pushes wait because rows move does not count.
        read_only: whether every call that would change something is refused.
        last_snapshot: path of the last snapshot that this client took, or that `load_checkpoint` loaded; None: neither.

    Example:
        >>> client["users"].pull([3, 4])
        >>> "users" in client, list(client)
    """

    last_snapshot: str | None = None

    def __init__(self, addresses: str | Sequence[str], **options: Any) -> None:
        super().__init__(addresses, **options)
        self.__doc__ = _SCREEN  # what `help(client)` says

    def __dir__(self) -> list[str]:
        return sorted([*public_names(Client), *_OF_CONNECTIONS])

    def __repr__(self) -> str:
        layout = self._session.layout
        where = f"{layout.n} shards, epoch {layout.epoch}" if layout else "not connected yet"
        return f"<Client {','.join(self._addresses)} {where}>"

    def __reduce__(self):
        addresses = tuple(dict.fromkeys([self.address, *self._addresses]))
        options: dict[str, Any] = {
            "timeout_s": self.timeout_s,
            "carrier": self._carrier,
            "cache": self._limits,
            "credentials": self._credentials,
            "tracing": self._spans.per_second if self._spans else False,
            "find": self._find,
            "read_from": self._read_from.word,
            "max_staleness_s": self._read_from.max_staleness_s,
        }
        return (
            _reopen,
            (addresses, {**options, "read_only": self.read_only, "frozen": sorted(self._frozen)}),
        )

    @property
    def durability(self) -> str:
        """What a push survives that has returned.

        "memory": nothing, it ends with its shard's process. "process": that. "interval", "disk": a loss of power too,
        but for the last 0.1 s with "interval".
        """
        if not self._session.durability:
            self.refresh()
        return self._session.durability

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    # ---------------------------------------------------------------------------------------------------- pull, push

    @untraced
    def pull(self, ids: Mapping[str, Any], *, wire: str | None = None) -> dict[str, np.ndarray]:
        """Rows of several tables, one request to each shard; one for each wire type if tables differ in that.

        Args:
            ids: table name -> ids, as for `Table.pull`.
            wire: as for `Table.pull`, for all of them.

        Returns:
            table name -> rows, ids.shape + row_shape float32.

        Raises:
            as `Table.pull`.
        """
        wanted = [(self.table(name).entry, some) for name, some in ids.items()]
        return dict(zip(ids, self.pull_entries(wanted, wire), strict=True))

    @untraced
    def push(self, grads: Mapping[str, tuple[Any, Any]], *, wire: str | None = None) -> None:
        """Apply gradients to several tables, one request to each shard; on each shard all tables change, or none.

        Tables of different wire types go in a request for each type.

        Args:
            grads: table name -> (ids, gradients), as for `Table.push`.
            wire: as for `Table.push`, for all of them.

        Raises:
            as `Table.push`.
        """
        given = [(self.table(name).entry, *operations.pair_of(name, pair)) for name, pair in grads.items()]
        self.push_entries(given, wire=wire)

    @untraced
    def step(
        self, grads: Mapping[str, tuple[Any, Any]], ids: Mapping[str, Any], *, wire: str | None = None
    ) -> dict[str, np.ndarray]:
        """`push`, then `pull`, in one call to each shard: for trainers that fetch the next batch ahead.

        Args:
            grads: what to push: table name -> (ids, gradients), as for `Table.push`.
            ids: what to pull: table name -> ids, as for `Table.pull`. The rows are as the push left them.
            wire: as for `pull` and `push`, both ways.

        Returns:
            table name -> rows, ids.shape + row_shape float32.

        Raises:
            as `Table.push` and `Table.pull`. Both are checked before anything changes; if a shard fails in between, the
            push may have been applied, at most once.

        Example:
            >>> from rowloom.client import SGD, TableSpec, Zeros
            >>> from rowloom.deploy import local_cluster
            >>> with local_cluster(shards=2) as cluster, cluster.connect() as client:
            ...     spec = TableSpec("users", 10, dim=1, optimizer=SGD(lr=1.0), initializer=Zeros())
            ...     _ = client.create_table(spec)
            ...     client.step({"users": ([3], [[1.0]])}, {"users": [3, 4]})["users"]
            array([[-1.],
                   [ 0.]], dtype=float32)
        """
        given = [(self.table(name).entry, *operations.pair_of(name, pair)) for name, pair in grads.items()]
        wanted = [(self.table(name).entry, some) for name, some in ids.items()]
        return dict(zip(ids, self.step_entries(given, wanted, wire), strict=True))

    @untraced
    def pull_async(self, ids: Mapping[str, Any], *, wire: str | None = None) -> Future[dict[str, np.ndarray]]:
        """`pull` in the background. ids are copied, as by `Table.pull_async`."""
        own = {name: snapshot(some, "ids") for name, some in ids.items()}
        return self.later(partial(self.pull, own, wire=wire))

    @untraced
    def push_async(self, grads: Mapping[str, tuple[Any, Any]], *, wire: str | None = None) -> Future[None]:
        """`push` in the background, after the pushes started before it. All is copied, as by `Table.push_async`."""
        own: dict[str, tuple[Any, Any]] = {}
        for name, pair in grads.items():
            some, values = operations.pair_of(name, pair)
            own[name] = snapshot(some, "ids"), snapshot(values, "grads")
        return self.later_in_order(partial(self.push, own, wire=wire))

    def prefetch(
        self, ids: Iterable[Mapping[str, Any]], depth: int = 2, *, wire: str | None = None
    ) -> Prefetch:
        """`Table.prefetch` for several tables at once, one request to each shard for a batch.

        Args:
            ids: batches of table name -> ids.
            depth: how many batches ahead, at least 1.
            wire: as for `pull`.

        Returns:
            An iterator of (table name -> ids, table name -> rows).

        Raises:
            as `Table.prefetch`.
        """

        def start(some: Mapping[str, Any]) -> tuple[Any, Future[Any]]:
            own = {name: copied(batch) for name, batch in some.items()}
            return own, self.later(partial(self.pull, own, wire=wire))

        return Prefetch(ids, start, depth)

    # -------------------------------------------------------------------------------------------------------- tables

    def create_table(self, spec: TableSpec) -> Table:
        """Make a table on every shard; the table that is there if it has the same spec.

        A table whose learning rate was set since, or whose ids are dealt otherwise since (`rowloom apply` with another
        `partition`), is the same table for what it was made with and for what is so now.

        Raises:
            TableExists: a table of that name has another spec.
            Unavailable: the coordinator or a shard did not answer.
        """
        if not isinstance(spec, TableSpec):
            raise InvalidRequest(f"spec must be a TableSpec, got {type(spec).__name__}")
        session = self._writable()
        request = pb.DefineTableRequest(spec=spec.to_message())
        reply = self._run(ask(session, methods.CREATE_TABLE, request, self._deadline()))
        entry = session.keep(TableEntry.from_message(pb.DefineTableReply.FromString(reply).table))
        if session.layout is not None and session.layout.spec_of(entry) is not entry.spec:
            self.refresh()  # its ids were dealt anew since this client has heard of a layout
        return Table(self, entry)

    def table(self, name: str) -> Table:
        """The table of that name. Raises TableNotFound, with the names that are nearest."""
        return Table(self, self.entry(name))

    def __getitem__(self, name: str) -> Table:
        return self.table(name)

    def __contains__(self, name: object) -> bool:
        return name in list(self)

    def __iter__(self) -> Iterator[str]:
        return (table.name for table in self.tables())

    def _ipython_key_completions_(self) -> list[str]:
        return list(self)

    def tables(self) -> list[Table]:
        """All tables, by name; a terminal with rich and a notebook show them as a table."""
        self.refresh()
        return Listing(Table(self, entry) for _, entry in sorted(self._session.entries.items()))

    def from_pretrained(self, source: Any, name: str, **options: Any) -> Table:
        """Make a table of rows that exist: an array, or a file of the kinds that `rowloom.client.files` reads.

        Args:
            source: [N, ...] array, or a path, or a URL. A file larger than memory works.
            name: what the table will be called.
            options: as `rowloom.client.files.from_pretrained`: freeze (True by default, as in torch), optimizer,
                partition, format, tensor, vocabulary, progress.

        Raises:
            InvalidRequest: the source is no matrix of finite numbers.
            TableExists: there is a table of that name.

        Warns:
            UserWarning: a file's words are too many for the table's metadata; this handle has them, as `.vocabulary`.
        """
        from .files.transfer import from_pretrained

        done = from_pretrained(self, source, name, **options)
        table = self.table(name)
        if done.vocabulary is not None and Vocabulary.of(table) is None:
            table.vocabulary = done.vocabulary
            if options.get("vocabulary") is None:
                warnings.warn(
                    f"the {len(done.vocabulary)} words of {source} are too many for the metadata of table {name!r}: "
                    "this handle alone has them, as .vocabulary; .vocabulary.save(path) keeps them",
                    stacklevel=2,
                )
        return table

    def drop_table(self, name: str) -> None:
        """Drop a table and its rows on every shard. Raises InvalidRequest, TableNotFound, Unavailable."""
        session = self._writable()
        request = pb.RemoveTableRequest(name=check_name(name))
        self._run(ask(session, methods.DROP_TABLE, request, self._deadline()))
        session.entries.pop(name, None)
        if self._hot is not None:
            self._hot.forget(name)

    def set_lr(self, name: str, lr: float) -> TableEntry:
        """Change a table's learning rate. Raises InvalidRequest, TableNotFound, Unavailable."""
        return self.set_entry_lr(name, lr)

    def snapshot(self, extra: Mapping[str, Any] | None = None, *, full: bool = False) -> Snapshot:
        """Take a snapshot of the whole cluster while trainers go on: rows, slots, steps, and who pushed what.

        Every push that was acknowledged before the call is in it. `timeout_s` does not limit how long it takes: only
        how long the coordinator may be silent, or busy with another change.

        Args:
            extra: what is kept with it, as the step and the dense part of a model: a dict of str to int, float, bool,
                str, None, bytes, numpy arrays or more such dicts; 16 MiB at most. It comes back to the bit.
            full: it is whole by itself; else it may be made upon the one before, and have only what has changed since.

        Returns:
            What was taken; `path` is where it is, for `open_snapshot`.

        Raises:
            InvalidRequest: `extra` holds what is not kept, or the cluster has no `storage`.
            Unavailable: there is none: the storage failed, a shard or the coordinator does not answer.
        """
        session = self._writable()
        key = random.SystemRandom().getrandbits(63) | 1
        request = pb.TakeSnapshotRequest(key=key, extra=encode_extra(extra), full=full)
        reply = self._run(take_snapshot(session, request, self.timeout_s))
        self.last_snapshot = reply.url
        return Snapshot(
            id=reply.id,
            path=reply.url,
            seconds=reply.seconds,
            pause_s=reply.pause_s,
            rows=reply.rows,
            bytes=reply.bytes,
            parent=reply.parent or None,
            extra=dict(extra or {}),
        )

    @property
    def restored(self) -> Snapshot | None:
        """The snapshot that the cluster began with (`rowloom restore`), with its `extra`; None: it began without one.

        A trainer goes on from there: its own step and the dense part of its model are in `extra` if it put them there.
        `seconds` is what restoring took, `pause_s` is 0; what was at `path` may be gone since. Asked for each time.

        Raises:
            Unavailable: the coordinator does not answer.
        """
        reply = self._describe_restored()
        if not reply.id:
            return None
        return Snapshot(
            id=reply.id,
            path=reply.url,
            seconds=reply.seconds,
            pause_s=0.0,
            rows=reply.rows,
            bytes=reply.bytes,
            parent=reply.parent or None,
            extra=decode_extra(reply.extra, f"extra of {reply.id}"),
        )

    def pushes_since_restored(self) -> int | None:
        """How many requests have changed rows since the cluster began with its snapshot, those of all trainers.

        None: nobody knows, because a shard's server was started again since, which counts anew, or the cluster was
        scaled down, or more than once, so that a server which has counted may be gone; or it began with none.

        Raises:
            Unavailable: a shard or the coordinator does not answer.
        """
        restored = self._describe_restored()
        began, pushes = list(restored.incarnations), self._pushes()
        assert self._session.layout is not None
        moves = self._session.layout.epoch - restored.epoch
        # By one move shards are added, or none is: nobody has gone. In two, some that counted may have come and gone.
        known = bool(began) and list(pushes)[: len(began)] == began and moves in (0, 1)
        return sum(pushes.values()) if known else None

    def moment(self) -> str:
        """A name of the rows as they are now: the same again only while no row of any table has changed.

        Another one also after a shard's server was started or rows moved to another. Raises Unavailable.
        """
        pushes = self._pushes()
        assert self._session.layout is not None
        layout = self._session.layout  # with its epoch: a shard that has counted may have gone by moves
        told = f"{layout.cluster_id} {layout.epoch} {sorted(pushes.items())}"
        return hashlib.sha256(told.encode()).hexdigest()

    def _describe_restored(self) -> pb.DescribeRestoredReply:
        session = self._live()
        data = self._run(
            ask(session, methods.DESCRIBE_RESTORED, pb.DescribeRestoredRequest(), self._deadline())
        )
        return pb.DescribeRestoredReply.FromString(bytes(data))

    def _pushes(self) -> dict[int, int]:
        """By incarnation of each shard, in their order, how many requests have changed rows there."""
        self.refresh()
        counted = {shard["index"]: shard["pushes"] for shard in self.statistics()}
        layout = self._session.layout
        assert layout is not None
        return {shard.incarnation: counted[shard.index] for shard in layout.shards}

    def statistics(self) -> list[dict[str, Any]]:
        """Counters of every shard: rows, bytes, pulls, pushes, resident_bytes, cpu_s and more. Raises Unavailable.

        Pulls that standbys answer are not among them, but in `rowloom status`; those that the shard's process has
        answered when it was a standby itself are `standby_pulls`, `standby_pulled_rows` and `standby_refused`.

        `tables` has those of each table: rows, bytes, step, pulls, pulled_rows, pushes, pushed_rows, duplicates,
        rejected, sampled_ids, hottest_share, hottest_10_share; see docs/metrics.md.
        """
        return self._run(statistics(self._live(), self._deadline()))

    def cache_statistics(self) -> dict[str, dict[str, Any]]:
        """What the cache of this client did: table name -> hits, misses, hit_rate, rows and bytes.

        Hits and misses count each distinct id of a pull once. Empty without a cache, and for tables not pulled yet.
        """
        self._live()
        return {} if self._hot is None else self._hot.statistics()


def _reopen(addresses: tuple[str, ...], options: dict[str, Any]) -> Client:
    return Client(addresses, **options)


_OF_CONNECTIONS = {
    "address": "Where the cluster is.",
    "close": "Finish what runs in the background and close the connections.",
    "read_only": "Whether every call that would change something is refused.",
    "refresh": "Fetch the layout and the list of tables.",
    "timeout_s": "How long any call may take.",
}
_SCREEN = screen(Client, _OF_CONNECTIONS)
