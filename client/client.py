"""A client of a cluster, by table name: `connect`, and what a trainer does with the result."""

# What callers give is checked, although it has a type.
# pyright: reportUnnecessaryIsInstance=false

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future
from functools import partial
from typing import Any

import numpy as np

from ..proto import methods
from ..proto import rowloom_pb2 as pb
from ..proto.errors import InvalidRequest
from ..proto.spec import TableEntry, TableSpec, check_name
from .cache.row_cache import HotRows
from .calls import operations
from .calls.control import ask, statistics
from .connection import Connection
from .inputs import snapshot
from .prefetching import Prefetch, copied
from .table import Table
from .vocabulary import Vocabulary


def connect(
    address: str | Sequence[str],
    *,
    token: str | None = None,
    tls: Any = None,
    timeout_s: float = 60.0,
    carrier: str = "auto",
    cache: HotRows | None = None,
) -> Client:
    """A client of the cluster at an address.

    It waits for a cluster that is not up yet, also where connections are refused: a trainer may be started before its
    cluster. After two seconds it says so in the log, as a warning.

    Args:
        address: "host:port" of the coordinator or of any shard, or several of them.
        token: None; servers of this version ask for none.
        tls: None; servers of this version speak plain text: keep them on a private network.
        timeout_s: how long any call may take, this one included.
        carrier: how rows travel. "auto": shared memory to shards on this machine, plain sockets to others, gRPC where
            neither can be had. "tcp": no shared memory. "grpc": nothing else.
        cache: which pulled rows the client may keep, and for how long; None: none.

    Returns:
        A client that has found the cluster.

    Raises:
        Unavailable: nobody answers there within `timeout_s`; the message has what each address answered last.
        InvalidRequest: an argument is wrong.

    Example:
        >>> from rowloom.client import connect
        >>> connect("127.0.0.1:1", timeout_s=0.2)
        Traceback (most recent call last):
        rowloom.proto.errors.Unavailable: no rowloom cluster answered at 127.0.0.1:1 ...
    """
    for name, value in (("token", token), ("tls", tls)):
        if value is not None:
            raise InvalidRequest(
                f"{name}: this version has no {name} support; leave it out and keep the network private"
            )
    client = Client(address, timeout_s=timeout_s, carrier=carrier, cache=cache)
    client.refresh()
    return client


class Client(Connection):
    """One trainer's connection to a cluster; made by `connect`.

    Thread-safe. Pushes of one client are applied in the order in which they were called: a push waits for the one
    before it. Pulls run side by side. After a fork, the child gets connections and a name of its own; a pickled client
    connects again where it is unpickled.

    Attributes:
        timeout_s: how long any call may take. Time that pushes wait because rows move does not count.
    """

    def __repr__(self) -> str:
        layout = self._session.layout
        where = f"{layout.n} shards, epoch {layout.epoch}" if layout else "not connected yet"
        return f"<Client {','.join(self._addresses)} {where}>"

    def __reduce__(self):
        addresses = tuple(dict.fromkeys([self.address, *self._addresses]))
        return (_reopen, (addresses, self.timeout_s, self._carrier, self._limits))

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    # ---------------------------------------------------------------------------------------------------- pull, push

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

    def pull_async(self, ids: Mapping[str, Any], *, wire: str | None = None) -> Future[dict[str, np.ndarray]]:
        """`pull` in the background. ids are copied, as by `Table.pull_async`."""
        own = {name: snapshot(some, "ids") for name, some in ids.items()}
        return self.later(partial(self.pull, own, wire=wire))

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

        Raises:
            TableExists: a table of that name has another spec.
            Unavailable: the coordinator or a shard did not answer.
        """
        if not isinstance(spec, TableSpec):
            raise InvalidRequest(f"spec must be a TableSpec, got {type(spec).__name__}")
        session = self._live()
        request = pb.DefineTableRequest(spec=spec.to_message())
        reply = self._run(ask(session, methods.CREATE_TABLE, request, self._deadline()))
        return Table(self, session.keep(TableEntry.from_message(pb.DefineTableReply.FromString(reply).table)))

    def table(self, name: str) -> Table:
        """The table of that name. Raises TableNotFound, with the names that are nearest."""
        return Table(self, self.entry(name))

    def tables(self) -> list[Table]:
        """All tables, by name."""
        self.refresh()
        return [Table(self, entry) for _, entry in sorted(self._session.entries.items())]

    def from_pretrained(self, source: Any, name: str, **options: Any) -> Table:
        """Make a table of rows that exist: an array, or a file of the kinds that `rowloom.client.files` reads.

        Args:
            source: [N, ...] array, or a path. A file larger than memory works.
            name: what the table will be called.
            options: as `rowloom.client.files.from_pretrained`: freeze (True by default, as in torch), optimizer,
                partition, format, tensor, vocabulary, progress.

        Raises:
            InvalidRequest: the source is no matrix of finite numbers.
            TableExists: there is a table of that name.

        Warns:
            UserWarning: a file's words are too many for the table's metadata.
        """
        from .files.transfer import from_pretrained

        done = from_pretrained(self, source, name, **options)
        table = self.table(name)
        if done.vocabulary is not None and options.get("vocabulary") is None and Vocabulary.of(table) is None:
            warnings.warn(
                f"the {len(done.vocabulary)} words of {source} are too many for the metadata of table {name!r}: "
                "rowloom.client.files.from_pretrained returns them too, as .vocabulary, which has .save(path)",
                stacklevel=2,
            )
        return table

    def drop_table(self, name: str) -> None:
        """Drop a table and its rows on every shard. Raises InvalidRequest, TableNotFound, Unavailable."""
        session = self._live()
        request = pb.RemoveTableRequest(name=check_name(name))
        self._run(ask(session, methods.DROP_TABLE, request, self._deadline()))
        session.entries.pop(name, None)
        if self._hot is not None:
            self._hot.forget(name)

    def set_lr(self, name: str, lr: float) -> TableEntry:
        """Change a table's learning rate. Raises InvalidRequest, TableNotFound, Unavailable."""
        return self.set_entry_lr(name, lr)

    def statistics(self) -> list[dict[str, Any]]:
        """Counters of every shard: rows, bytes, pulls, pushes, resident_bytes, cpu_s and more. Raises Unavailable."""
        return self._run(statistics(self._live(), self._deadline()))

    def cache_statistics(self) -> dict[str, dict[str, Any]]:
        """What the cache of this client did: table name -> hits, misses, hit_rate, rows and bytes.

        Hits and misses count each distinct id of a pull once. Empty without a cache, and for tables not pulled yet.
        """
        self._live()
        return {} if self._hot is None else self._hot.statistics()


def _reopen(addresses: tuple[str, ...], timeout_s: float, carrier: str, cache: HotRows | None) -> Client:
    return Client(addresses, timeout_s=timeout_s, carrier=carrier, cache=cache)
