"""A client: pull and push over all shards. Route, send, assemble."""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import numpy as np

from ..proto import codec
from ..proto import rowloom_pb2 as pb
from ..proto.errors import InvalidRequest, TableNotFound
from ..proto.layout import Layout
from ..proto.spec import TableEntry, TableSpec
from .background import Background
from .cache.cached_pulls import CachedPulls
from .cache.row_cache import HotRows
from .calls import bag_operations, operations
from .calls.control import ask, fetch_layout, statistics
from .calls.direct import Direct
from .calls.session import Operation, Session
from .carriers.transport import Transport, drive
from .lookup.bags import Bags
from .prefetching import Prefetch
from .table import Table, copied

COORDINATOR = "/rowloom.v1.Coordinator/"


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

    Args:
        address: "host:port" of the coordinator or of any shard, or several of them.
        token: None; servers of this version ask for none.
        tls: None; servers of this version speak plain text: keep them on a private network.
        timeout_s: how long any call may take.
        carrier: how rows travel. "auto": shared memory to shards on this machine, plain sockets to others, gRPC where
            neither can be had. "tcp": no shared memory. "grpc": nothing else.
        cache: which pulled rows the client may keep, and for how long; None: none.

    Returns:
        A client that has found the cluster.

    Raises:
        Unavailable: nobody answers there within `timeout_s`.
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
    addresses = [address] if isinstance(address, str) else list(address)
    client = Client(addresses, timeout_s=timeout_s, carrier=carrier, cache=cache)
    client.refresh()
    return client


class Client:
    """One trainer's connection to a cluster; made by `connect`.

    Thread-safe. Pushes of one client are applied in the order in which they were called: a push waits for the one
    before it. Pulls run side by side. After a fork, the child gets connections and a name of its own; a pickled client
    connects again where it is unpickled.

    Attributes:
        timeout_s: how long any call may take. Time that pushes wait because rows move does not count.
    """

    def __init__(
        self,
        addresses: Sequence[str],
        *,
        timeout_s: float = 60.0,
        carrier: str = "auto",
        cache: HotRows | None = None,
    ) -> None:
        if not addresses or not all(isinstance(a, str) and ":" in a for a in addresses):
            raise InvalidRequest(f'address must be "host:port", got {addresses!r}')
        if not timeout_s > 0:
            raise InvalidRequest(f"timeout_s must be above 0, got {timeout_s!r}")
        if not isinstance(cache, HotRows | None):
            raise InvalidRequest(
                f"cache must be None or such as HotRows(100_000, max_age_s=5.0), got {cache!r}"
            )
        self.timeout_s = timeout_s
        self._limits = cache
        self._addresses = tuple(addresses)
        self._carrier = carrier
        self._transport = Transport(carrier)
        self._direct = Direct(self._transport.lanes)
        self._start(None)

    def _start(self, layout: Layout | None) -> None:
        """Everything that belongs to one process."""
        self._pid = os.getpid()
        system = random.SystemRandom()
        seed = system.getrandbits(63)
        self._session = Session(
            self._addresses, system.getrandbits(63) | 1, random.Random(seed), time.monotonic, threading.Lock()
        )
        self._session.layout = layout
        self._push_turn = threading.Lock()
        self._background = Background()
        self._hot = None if self._limits is None else CachedPulls(self._limits, time.monotonic)
        self._closed = False

    def __repr__(self) -> str:
        layout = self._session.layout
        where = f"{layout.n} shards, epoch {layout.epoch}" if layout else "not connected yet"
        return f"<Client {','.join(self._addresses)} {where}>"

    @property
    def address(self) -> str:
        """Where the cluster is: its coordinator's host:port, or what the client was given if it knows none."""
        layout = self._session.layout
        return layout.coordinator if layout and layout.coordinator else self._addresses[0]

    def __reduce__(self):
        addresses = tuple(dict.fromkeys([self.address, *self._addresses]))
        return (_reopen, (addresses, self.timeout_s, self._carrier, self._limits))

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Finish what runs in the background and close the connections."""
        if self._pid == os.getpid():
            self._background.close()
        self._transport.close()
        self._closed = True

    # ------------------------------------------------------------------------------------------------------ driving

    def _live(self) -> Session:
        if self._pid != os.getpid():
            self._start(self._session.layout)
        if self._closed:
            raise InvalidRequest("this client is closed: connect again")
        return self._session

    def _run(self, operation: Operation) -> Any:
        return drive(operation, self._transport.open(), time.monotonic)

    def _deadline(self) -> float:
        return time.monotonic() + self.timeout_s

    def refresh(self) -> None:
        """Fetch the layout and the list of tables. Raises Unavailable."""
        session = self._live()
        self._run(fetch_layout(session, self._deadline()))

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
        """`pull` in the background."""
        own = {name: copied(some) for name, some in ids.items()}
        return self.later(partial(self.pull, own, wire=wire))

    def push_async(self, grads: Mapping[str, tuple[Any, Any]], *, wire: str | None = None) -> Future[None]:
        """`push` in the background, after the pushes that were started before it. Arrays are copied."""
        own = {name: tuple(map(copied, operations.pair_of(name, pair))) for name, pair in grads.items()}
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

        def start(some: Mapping[str, Any]) -> tuple[Any, Future]:
            own = {name: copied(batch) for name, batch in some.items()}
            return own, self.later(partial(self.pull, own, wire=wire))

        return Prefetch(ids, start, depth)

    def pull_entries(
        self, wanted: Sequence[tuple[TableEntry, Any]], wire: str | None = None
    ) -> list[np.ndarray]:
        """`pull`, by table entry instead of name: what `Table.pull` calls."""
        session = self._live()

        def fetch(some: Sequence[tuple[TableEntry, Any]]) -> list[np.ndarray]:
            deadline = self._deadline()
            rows = self._direct.pull(session, some, wire, deadline)
            return self._run(operations.pull(session, some, deadline, wire)) if rows is None else rows

        with session.naming([entry for entry, _ in wanted]):
            # Kept rows travelled as their table's spec says.
            if self._hot is None or any(wire not in (None, entry.spec.wire) for entry, _ in wanted):
                return fetch(wanted)
            return self._hot.pull(wanted, session.layout.epoch if session.layout else 0, fetch)

    def push_entries(
        self,
        given: Sequence[tuple[TableEntry, Any, Any]],
        kind: int = codec.GRADIENTS,
        wire: str | None = None,
    ) -> None:
        """`push` or `assign`, by table entry instead of name: what `Table.push` calls."""
        session = self._live()
        touched = [(entry, ids) for entry, ids, _ in given]
        with session.naming([entry for entry, _ in touched]), self._push_turn, self._changing(touched):
            deadline = self._deadline()
            outcome = None
            if kind == codec.GRADIENTS:
                outcome = self._direct.push(session, given, (), wire, deadline)
            if outcome is None:
                self._run(operations.push(session, given, deadline, kind, wire))
            elif outcome.left:
                self._run(operations.finish(session, outcome, (), deadline, wire))

    def step_entries(
        self,
        given: Sequence[tuple[TableEntry, Any, Any]],
        wanted: Sequence[tuple[TableEntry, Any]],
        wire: str | None = None,
    ) -> list[np.ndarray]:
        """`step`, by table entry instead of name: what `Table.step` calls."""
        session = self._live()
        entries = [entry for entry, *_ in (*given, *wanted)]
        touched = [(entry, ids) for entry, ids, _ in given]
        with session.naming(entries), self._push_turn, self._changing(touched):
            deadline = self._deadline()
            outcome = self._direct.push(session, given, wanted, wire, deadline)
            if outcome is None:
                return self._run(operations.step(session, given, wanted, deadline, wire))
            if outcome.rows is not None and not outcome.left:
                return outcome.rows
            return self._run(operations.finish(session, outcome, wanted, deadline, wire))

    def renorm_entry(self, entry: TableEntry, ids: Any, max_norm: float, norm_type: float) -> None:
        """What `Table.renorm` calls."""
        session = self._live()
        with session.naming([entry]), self._push_turn, self._changing([(entry, ids)]):
            self._run(operations.renorm(session, entry, ids, max_norm, norm_type, self._deadline()))

    def pull_entry_bags(self, entry: TableEntry, bags: Bags, combiner: str) -> np.ndarray:
        """What `Table.pull_bags` calls."""
        session = self._live()
        with session.naming([entry]):
            return self._run(bag_operations.pull_bags(session, entry, bags, combiner, self._deadline()))

    def push_entry_bags(self, entry: TableEntry, bags: Bags, grads: Any, combiner: str) -> None:
        """What `Table.push_bags` calls."""
        session = self._live()
        with session.naming([entry]), self._push_turn, self._changing([(entry, bags.ids)]):
            self._run(bag_operations.push_bags(session, entry, bags, grads, combiner, self._deadline()))

    def _changing(self, touched: Sequence[tuple[TableEntry, Any]]) -> AbstractContextManager[None]:
        """Around every call that changes rows: kept ones are dropped when it ends."""
        return nullcontext() if self._hot is None else self._hot.changing(touched)

    def later(self, call: Callable, *args: Any) -> Future:
        """Run a pull in the background."""
        self._live()
        return self._background.pull(call, *args)

    def later_in_order(self, call: Callable, *args: Any) -> Future:
        """Run a push in the background, after those before it."""
        self._live()
        return self._background.push(call, *args)

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
        request = pb.DefineTableRequest(spec=spec.to_message()).SerializeToString()
        reply = self._run(ask(session, COORDINATOR + "CreateTable", request, self._deadline()))
        return Table(self, session.keep(TableEntry.from_message(pb.DefineTableReply.FromString(reply).table)))

    def table(self, name: str) -> Table:
        """The table of that name. Raises TableNotFound, with the names that are nearest."""
        session = self._live()
        if name not in session.entries:
            self.refresh()
        entry = session.entries.get(name)
        if entry is None:
            known = ", ".join(sorted(session.entries)) or "none"
            raise TableNotFound(f"no table {name!r}; there are: {known}")
        return Table(self, entry)

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
            TableExists: a table of that name has another shape.
        """
        from .files.transfer import from_pretrained

        return from_pretrained(self, source, name, **options).table

    def drop_table(self, name: str) -> None:
        """Drop a table and its rows on every shard. Raises TableNotFound, Unavailable."""
        session = self._live()
        request = pb.RemoveTableRequest(name=name).SerializeToString()
        self._run(ask(session, COORDINATOR + "DropTable", request, self._deadline()))
        session.entries.pop(name, None)
        if self._hot is not None:
            self._hot.forget(name)

    def set_lr(self, name: str, lr: float) -> TableEntry:
        """Change a table's learning rate. Raises InvalidRequest, TableNotFound, Unavailable."""
        if not (isinstance(lr, int | float) and np.isfinite(lr) and lr >= 0):
            raise InvalidRequest(f"lr must be finite and at least 0, got {lr!r} (table {name!r})")
        session = self._live()
        request = pb.AdjustTableRequest(name=name, lr=lr).SerializeToString()
        self._run(ask(session, COORDINATOR + "SetLearningRate", request, self._deadline()))
        if self._hot is not None:
            self._hot.clear(name)
        self.refresh()
        return self.table(name).entry

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
