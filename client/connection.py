"""One client of a cluster, by table entry: its session, its connections, its threads, and the rows that it keeps."""

# What callers give is checked, although it has a type.
# pyright: reportUnnecessaryIsInstance=false

from __future__ import annotations

import logging
import os
import random
import threading
import time
import weakref
from collections.abc import Callable, Collection, Iterable, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeVar

import numpy as np

from ..proto import codec, methods
from ..proto import rowloom_pb2 as pb
from ..proto.errors import InvalidRequest, TableNotFound
from ..proto.jit import compiled_s
from ..proto.layout import Layout
from ..proto.optimizers import checked_rate
from ..proto.security.credentials import NOTHING, Credentials
from ..proto.spec import TableEntry, check_name
from .background import Background
from .cache.cached_pulls import CachedPulls
from .cache.row_cache import HotRows
from .calls import operations
from .calls.bag_requests import Shares
from .calls.control import ask, fetch_layout, look_for_standbys
from .calls.listing import hottest_ids, list_ids
from .calls.operation import Operation
from .calls.session import Session
from .carriers.transport import Transport, drive
from .finding.addresses import as_addresses, as_timeout_s
from .finding.seeking import Find, Seeker
from .finding.waiting import announced
from .hottest import Hottest
from .lookups.bags import Bags
from .lookups.pooling import factors
from .nearest.here import is_here
from .nearest.reading import ReadFrom
from .spans import CallSpans, as_traces_a_second
from .untraced import untraced

log = logging.getLogger(__name__)
T = TypeVar("T")
_NOTHING: AbstractContextManager[None] = nullcontext()


class Connection:
    """What `Client` and `Table` share: calls by table entry, made by many threads at once.

    After a fork, the child gets connections and a name of its own.

    Attributes:
        timeout_s: how long any call may take. Time that pushes wait because rows move does not count, nor what it takes
            to compile kernels, once on a machine.
        read_only: whether every call that would change something is refused.
    """

    def __init__(
        self,
        addresses: str | Sequence[str],
        *,
        timeout_s: float = 60.0,
        carrier: str = "auto",
        cache: HotRows | None = None,
        read_only: bool = False,
        frozen: Iterable[str] = (),
        credentials: Credentials = NOTHING,
        tracing: bool | float = False,
        find: Find | None = None,
        read_from: str = "primary",
        max_staleness_s: float | None = None,
    ) -> None:
        self._addresses = as_addresses(addresses)
        self._find = find
        self.timeout_s = as_timeout_s(timeout_s)
        if not isinstance(cache, HotRows | None):
            raise InvalidRequest(
                f"cache must be None or such as HotRows(100_000, max_age_s=5.0), got {cache!r}"
            )
        if not isinstance(read_only, bool):
            raise InvalidRequest(f"read_only must be True or False, got {read_only!r}")
        self.read_only = read_only
        self._frozen = set(frozen)  # names of tables
        self._limits = cache
        self._carrier = carrier
        self._credentials = credentials
        traces = as_traces_a_second(tracing)
        self._spans = CallSpans(traces) if traces else None
        self._read_from = ReadFrom.of(read_from, max_staleness_s)
        self._transport = Transport(carrier, credentials)
        self._closed = False
        self._start(None)

    def _start(self, layout: Layout | None) -> None:
        """Everything that belongs to one process."""
        self._pid = os.getpid()
        system = random.SystemRandom()
        seed = system.getrandbits(63)
        self._session = Session(
            self._addresses,
            system.getrandbits(63) | 1,
            random.Random(seed),
            time.monotonic,
            threading.Lock(),
            self._transport.sizes,
        )
        self._session.outages.tell = log.log
        me = weakref.ref(self)  # or the session would keep who owns it
        self._session.compiled_s = lambda deadline: compiled_s(
            deadline - (owner.timeout_s if (owner := me()) else 0)
        )
        if self._find is not None:
            self._session.lost = Seeker(self._find, self._session.found).seek
        self._session.layout = layout
        self._session.nearest = self._read_from.nearest(self._session.rng, is_here)
        self._background = Background()
        self._hot = None if self._limits is None else CachedPulls(self._limits, time.monotonic)
        self._release = weakref.finalize(self, _release, self._pid, self._transport, self._background)
        self._release.atexit = False  # an interpreter that ends closes everything by itself

    @property
    def address(self) -> str:
        """Where the cluster is: its coordinator's host:port, or what the client was given if it knows none."""
        layout = self._session.layout
        return layout.coordinator if layout and layout.coordinator else self._addresses[0]

    def close(self) -> None:
        """Finish what runs in the background and close the connections."""
        if self._pid == os.getpid():
            self._background.close()
        self._release.detach()
        self._transport.close()
        self._closed = True

    # ------------------------------------------------------------------------------------------------------ driving

    def _live(self) -> Session:
        if self._closed:  # before a fork, perhaps: then it is closed in the child as well
            raise InvalidRequest("this client is closed: connect again")
        if self._pid != os.getpid():
            self._release.detach()  # what the parent has is the parent's to close
            self._start(self._session.layout)
        return self._session

    def _writable(self, pushed: Sequence[tuple[Any, ...]] = ()) -> Session:
        """As `_live`, for calls that change something. pushed: (entry, ...) of tables that get gradients."""
        if self.read_only:
            raise InvalidRequest(
                "this client is read-only: connect without read_only=True to change anything"
            )
        for entry, *_ in pushed if self._frozen else ():
            if entry.spec.name in self._frozen:
                raise InvalidRequest(
                    f"table {entry.spec.name!r} is frozen in this client: it takes no gradients until thaw() "
                    "(assign works)"
                )
        return self._live()

    # --------------------------------------------------------------------------------------------------- frozen here

    def is_frozen(self, name: str) -> bool:
        """Whether this client pushes no gradients to a table, although others may."""
        return self.read_only or name in self._frozen

    def freeze(self, name: str) -> None:
        """Push no gradients to a table from now on: what `Table.freeze` calls."""
        self._frozen.add(name)

    def thaw(self, name: str) -> None:
        """Push gradients again: what `Table.thaw` calls."""
        self._frozen.discard(name)

    # ------------------------------------------------------------------------------------------------------ driving

    @untraced
    def _run(self, operation: Operation, about: Sequence[tuple[Any, ...]] = ()) -> Any:
        """Drive an operation. about: what it has to do with, each a tuple that begins with a table's entry."""
        try:
            if self._spans is not None:
                return self._spans.drive(operation, self._transport.open(), about)
            return drive(operation, self._transport.open())
        except TableNotFound as e:
            if not about:
                raise
            raise self._session.gone([one[0] for one in about]) from e

    def _deadline(self) -> float:
        return time.monotonic() + self.timeout_s

    def refresh(self) -> None:
        """Fetch the layout and the list of tables. Raises Unavailable."""
        session = self._live()
        asked = fetch_layout(session, self._deadline())
        self._run(announced(asked, ", ".join(self._addresses), self.timeout_s, session.clock))

    @untraced
    def entry(self, name: str) -> TableEntry:
        """The entry of the table of that name, asked for if it is not known. Raises TableNotFound, InvalidRequest."""
        session = self._live()
        check_name(name)
        if name not in session.entries:
            self.refresh()
        entry = session.entries.get(name)
        if entry is None:
            known = ", ".join(sorted(session.entries)) or "none"
            raise TableNotFound(f"no table {name!r}; there are: {known}")
        return entry

    def newest(self, entry: TableEntry) -> TableEntry:
        """The entry as this client knows it now: its rate, or how ids are dealt, may have changed."""
        known, layout = self._session.entries.get(entry.spec.name), self._session.layout
        if known is not None and known.number == entry.number and known.lr_version > entry.lr_version:
            entry = known
        return entry if layout is None else entry.dealt(entry.dealing_by(layout.dealt))

    def list_entry_ids(self, entry: TableEntry, without: Collection[int] = ()) -> np.ndarray:
        """What `Table.ids` calls. without: shards whose rows are left out, for they do not serve."""
        return self._run(list_ids(self._live(), entry, self._deadline(), without), [(entry,)])

    def hottest_entry_ids(self, entry: TableEntry, limit: int) -> Hottest:
        """What `Table.hottest` calls."""
        return self._run(hottest_ids(self._live(), entry, limit, self._deadline()), [(entry,)])

    def set_entry_lr(self, name: str, lr: float) -> TableEntry:
        """What `Table.set_lr` calls. Returns the entry as it is then."""
        session = self._writable()
        request = pb.AdjustTableRequest(name=check_name(name), lr=checked_rate(lr, name))
        self._run(ask(session, methods.SET_LEARNING_RATE, request, self._deadline()))
        if self._hot is not None:
            self._hot.clear(name)
        self.refresh()
        return self.entry(name)

    # ---------------------------------------------------------------------------------------------- rows, by entry

    @untraced
    def pull_entries(
        self, wanted: Sequence[tuple[TableEntry, Any]], wire: str | None = None
    ) -> list[np.ndarray]:
        """`pull`, by table entry instead of name: what `Table.pull` calls."""
        session = self._reading()
        # Kept rows travelled as their table's spec says.
        if self._hot is None or any(wire not in (None, entry.spec.wire) for entry, _ in wanted):
            return self._run(operations.pull(session, wanted, self._deadline(), wire), wanted)

        def fetch(some: Sequence[tuple[TableEntry, Any]]) -> list[np.ndarray]:
            return self._run(operations.pull(session, some, self._deadline(), wire), wanted)

        return self._hot.pull(wanted, session.layout.epoch if session.layout else 0, fetch)

    def _reading(self) -> Session:
        """As `_live`, for pulls. Now and then somebody asks which standbys there are: no pull waits for that."""
        session = self._live()
        if session.nearest is not None and session.nearest.is_due(session.clock()):
            self._background.pull(self._look_for_standbys)
        return session

    def _look_for_standbys(self) -> None:
        self._run(look_for_standbys(self._session, self._deadline()))

    @untraced
    def push_entries(
        self,
        given: Sequence[tuple[TableEntry, Any, Any]],
        kind: int = codec.GRADIENTS,
        wire: str | None = None,
    ) -> None:
        """`push` or `assign`, by table entry instead of name: what `Table.push` calls."""
        session = self._writable(given if kind == codec.GRADIENTS else ())
        with self._changing(given):
            self._run(operations.push(session, given, self._deadline(), kind, wire), given)

    @untraced
    def step_entries(
        self,
        given: Sequence[tuple[TableEntry, Any, Any]],
        wanted: Sequence[tuple[TableEntry, Any]],
        wire: str | None = None,
    ) -> list[np.ndarray]:
        """`step`, by table entry instead of name: what `Table.step` calls."""
        session = self._writable(given)
        with self._changing(given):
            operation = operations.step(session, given, wanted, self._deadline(), wire)
            return self._run(operation, (*given, *wanted))

    @untraced
    def renorm_entry(self, entry: TableEntry, ids: Any, max_norm: Any, norm_type: Any) -> None:
        """What `Table.renorm` calls."""
        session, given = self._writable(), [(entry, ids)]
        with self._changing(given):
            operation = operations.renorm(session, entry, ids, max_norm, norm_type, self._deadline())
            self._run(operation, given)

    @untraced
    def pull_entry_bags(self, entry: TableEntry, bags: Bags, combiner: str) -> np.ndarray:
        """What `Table.pull_bags` calls."""
        session = self._reading()
        shares = Shares(bags.segments, factors(bags, combiner))
        operation = operations.pull_bags(session, entry, bags.ids, shares, bags.shape, self._deadline())
        return self._run(operation, [(entry, bags.ids)])

    @untraced
    def push_entry_bags(self, entry: TableEntry, bags: Bags, grads: Any, combiner: str) -> None:
        """What `Table.push_bags` calls."""
        given = [(entry, bags.ids)]
        session = self._writable(given)
        with self._changing(given):
            shares, deadline = Shares(bags.segments, factors(bags, combiner)), self._deadline()
            operation = operations.push_bags(session, entry, bags.ids, shares, bags.shape, grads, deadline)
            self._run(operation, given)

    def _changing(self, given: Sequence[tuple[Any, ...]]) -> AbstractContextManager[None]:
        """Around every call that changes rows of (table, ids, ...): kept ones are dropped when it ends."""
        if self._hot is None:
            return _NOTHING
        return self._hot.changing([(entry, ids) for entry, ids, *_ in given])

    def later(self, call: Callable[..., T], *args: Any) -> Future[T]:
        """Run a pull in the background."""
        self._live()
        return self._background.pull(call if self._spans is None else self._spans.kept(call), *args)

    def later_in_order(self, call: Callable[..., T], *args: Any) -> Future[T]:
        """Run a push in the background, after those before it."""
        self._live()
        return self._background.push(call if self._spans is None else self._spans.kept(call), *args)


def _release(pid: int, transport: Transport, background: Background) -> None:
    """A client was let go without `close`.

    Runs wherever the last reference was dropped, which may be a thread of the client's own: it waits for nothing.
    """
    if pid == os.getpid():
        background.release()
        transport.close()
