"""Which pushes were applied: per client and origin, a low-water mark and the numbers above it.

Why it is so. What must hold: a request of a push is applied once, through retries and through changes of the layout. It
is named by its origin (the layout epoch and the shard it was first meant for) and a number. The shard of an origin is
the only one that records names of it, and it applies a request whole or not at all; whoever takes over its rows
inherits its records. So a name is recorded exactly where all rows of the request have been changed, and merging
ledgers is a union.
Rejected: the result of each push, kept until its client has it: the reply of a duplicate is a single bit. Rejected: a
time after which names are forgotten: a client that slept longer would be applied twice.
What is forgotten is what the client says is finished, and, where clients or their records are too many, those that were
silent longest. Whoever was forgotten like that is refused (`forgotten`), here and wherever these rows move to: nobody
can know whether its push is new or late.
Of steps only those of a client's latest push are kept. A client makes one push after the other, so by then no part of
an earlier one will be applied any more: the low-water mark has passed it.
How much of its latest push is here is kept too, for snapshots (`deploy/control/hold.py`): as a sum for each origin, not
as names, because whoever inherits an origin's records has the same sum or an earlier one, and a sum has one size.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import islice

from ..proto import rowloom_pb2 as pb
from ..proto.codec import PartName
from ..proto.errors import ClientForgotten, InvalidRequest, Overloaded
from .forgotten import BYTES, Forgotten
from .push_shares import Origin, PushShares, add_share, as_messages, from_messages, most_of

MAX_CLIENTS = 20_000  # beyond it the client that was silent longest is forgotten; about 1 kB each
MAX_ENTRIES = 2_000_000  # numbers and steps of all clients together; about 100 bytes each
MAX_WINDOW = 65_536  # requests of one client and origin that are applied but not yet known to be finished
MOST_EVICTED = 1000  # clients that were forgotten last, of whose latest push it is kept how much is here
PIECE_BYTES = 1 << 20  # of a ledger on its way to another shard


@dataclass
class Window:
    """Requests of one client and origin: everything up to `low_water` is finished, `applied` is done above it."""

    low_water: int = 0
    applied: set[int] = field(default_factory=set[int])

    def has(self, seq: int) -> bool:
        """Whether request `seq` must not be applied (again)."""
        return seq <= self.low_water or seq in self.applied

    def advance(self, low_water: int) -> None:
        """Forget what is finished."""
        if low_water > self.low_water:
            self.low_water = low_water
            self.applied = {seq for seq in self.applied if seq > low_water}

    def merge(self, other: Window) -> None:
        """Take over what another shard knows of the same origin."""
        self.applied |= other.applied
        self.advance(other.low_water)
        self.applied = {seq for seq in self.applied if seq > self.low_water}


@dataclass
class KnownClient:
    """What a shard knows of one client.

    Attributes:
        epoch: the client's own.
        windows: by origin.
        push: number of its latest push that counted a step.
        steps: table number -> the step that this push was.
        latest: number of its latest push of which something was applied.
        shares: how much of that one. None: it has no other parts.
    """

    epoch: int
    windows: dict[Origin, Window] = field(default_factory=dict[Origin, Window])
    push: int = 0
    steps: dict[int, int] = field(default_factory=dict[int, int])
    latest: int = 0
    shares: PushShares | None = None

    @property
    def entries(self) -> int:
        """How much there is to remember, in numbers and steps."""
        return len(self.steps) + sum([1 + len(window.applied) for window in self.windows.values()])

    def add_share(self, push: int, origin: Origin, parts: int) -> None:
        """One of `parts` equal shares of a push was applied."""
        if push < self.latest:  # its caller gave it up
            return
        if push > self.latest:
            self.latest, self.shares = push, {origin: (1, parts)} if parts > 1 else None
        elif parts > 1:
            self.shares = self.shares or {}
            add_share(self.shares, origin, parts)

    def merge_shares(self, push: int, shares: PushShares) -> None:
        """Take over what another shard knows of its latest push."""
        if push > self.latest:
            self.latest, self.shares = push, shares or None
        elif push == self.latest and shares:
            self.shares = most_of(self.shares or {}, shares)

    def begin(self, push: int) -> None:
        """Its latest push is that one, if it is a later one."""
        if push > self.push:
            self.push, self.steps = push, {}


class Ledger:
    """The clients of one shard. Callers hold the shard's lock.

    Args:
        max_clients, max_entries: how much is remembered.
    """

    def __init__(self, max_clients: int = MAX_CLIENTS, max_entries: int = MAX_ENTRIES) -> None:
        self.max_clients = max_clients
        self.max_entries = max_entries
        # By id, the one that was silent longest first.
        self._clients: OrderedDict[int, KnownClient] = OrderedDict()
        self._entries = 0  # of all clients
        self._forgotten = Forgotten()
        # A push may be under way when its client is forgotten here, and not elsewhere: the one that was so first.
        self._evicted: OrderedDict[int, tuple[int, PushShares]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._clients)

    def knows(self, client_id: int) -> bool:
        """Whether there is anything of a client."""
        return client_id in self._clients

    def has(self, client_id: int, client_epoch: int, names: Sequence[PartName]) -> bool:
        """Whether a request was applied under any of its names.

        Raises:
            InvalidRequest: the request has no name, or a newer epoch of the client has been seen.
            ClientForgotten: nobody can know.
            Overloaded: too many requests of this client are unfinished.
        """
        if not names or any(name.seq < 1 for name in names):
            raise InvalidRequest("a push needs names, numbered from 1")
        client = self._clients.get(client_id)
        if client is None:
            self._check_new(client_id)
            return False
        if client_epoch > client.epoch:
            return False
        if client_epoch < client.epoch:
            raise InvalidRequest(
                f"client epoch {client_epoch} has ended: the client came back as epoch {client.epoch}"
            )
        for name in names:
            window = client.windows.get((name.epoch, name.shard))
            if window is not None and window.has(name.seq):
                return True
            if window is not None and len(window.applied) >= MAX_WINDOW:
                raise Overloaded(f"more than {MAX_WINDOW} parts of this client are unfinished on this shard")
        return False

    def _check_new(self, client_id: int) -> None:
        if client_id in self._forgotten:
            raise ClientForgotten(
                f"this shard has forgotten client {client_id:016x}, because more clients pushed since than it can "
                f"remember ({self.max_clients}), so it cannot know whether it has this push already and has not "
                "applied it now. The client's next push goes on under a new name; a client of another make: connect "
                "again, or take another client_id"
            )

    def record(
        self,
        client_id: int,
        client_epoch: int,
        name: PartName,
        low_water: int = 0,
        oldest_epoch: int = 0,
        push: int = 0,
        parts: int = 0,
    ) -> None:
        """Note that a request was applied. `low_water`, `oldest_epoch`, `push` and `parts` as in PushRequest.

        The name comes last: where memory is wanting, there is no record of it.
        """
        client = self._client(client_id, client_epoch)
        window = client.windows.get((name.epoch, name.shard))
        if window is None:
            window = client.windows[name.epoch, name.shard] = Window()
            self._entries += 1
        before = len(window.applied)
        window.advance(low_water)
        self._entries += len(window.applied) - before
        if len(client.windows) > 1:
            self._forget_windows(client, oldest_epoch, window)
        if len(self._clients) > self.max_clients or self._entries > self.max_entries:
            self._trim()
        client.add_share(push, (name.epoch, name.shard), parts)
        if name.seq > window.low_water and name.seq not in window.applied:
            window.applied.add(name.seq)
            self._entries += 1

    def latest(self, admitted: Sequence[int] = ()) -> list[pb.LatestPush]:
        """The latest push of each client, and which of some clients are forgotten."""
        found = [
            pb.LatestPush(client_id=client_id, push=client.latest, shares=as_messages(client.shares))
            for client_id, client in self._clients.items()
        ]
        found += self._latest_evicted()
        known = self._clients.keys() | self._evicted.keys()
        gone = [one for one in admitted if one not in known and one in self._forgotten]
        return found + [pb.LatestPush(client_id=one, forgotten=True) for one in gone]

    def _forget_windows(self, client: KnownClient, oldest_epoch: int, kept: Window) -> None:
        """A client sends nothing of earlier epochs any more."""
        before = client.entries
        client.windows = {o: w for o, w in client.windows.items() if o[0] >= oldest_epoch or w is kept}
        self._entries += client.entries - before

    def step_of(self, client_id: int, push: int, table: int, last: int) -> int:
        """What `step` will return, before anything is counted. last: the table's latest step."""
        client = self._clients.get(client_id)
        if client is None or push > client.push:
            return last + 1
        return client.steps.get(table, last + 1 if push == client.push else last)

    def step(self, client_id: int, client_epoch: int, push: int, table: int, count: Callable[[], int]) -> int:
        """The table's step of push number `push` of a client; `count` makes the next one when the push is new.

        Returns:
            The step; 0 for a push before the client's latest one, where that did not count a step of the table.
        """
        client = self._client(client_id, client_epoch)
        before = len(client.steps)
        client.begin(push)
        if push == client.push and table not in client.steps:
            client.steps[table] = count()
        self._entries += len(client.steps) - before
        return client.steps.get(table, 0)

    def _latest_evicted(self) -> list[pb.LatestPush]:
        return [
            pb.LatestPush(client_id=client_id, push=push, shares=as_messages(shares))
            for client_id, (push, shares) in self._evicted.items()
        ]

    def forget_table(self, table: int) -> None:
        """The table was dropped."""
        for client in self._clients.values():
            if client.steps.pop(table, None) is not None:
                self._entries -= 1

    def _client(self, client_id: int, client_epoch: int) -> KnownClient:
        client = self._clients.get(client_id)
        if client is None:
            client = self._clients[client_id] = KnownClient(client_epoch)
        elif client.epoch < client_epoch:
            # Push numbers go on through epochs, so the steps stay.
            self._entries -= client.entries - len(client.steps)
            client.epoch, client.windows = client_epoch, {}
        self._clients.move_to_end(client_id)
        return client

    def _trim(self) -> None:
        """Forget clients where there are too many, or they have too many entries; never the one heard last."""
        while len(self._clients) > 1 and (
            len(self._clients) > self.max_clients or self._entries > self.max_entries
        ):
            client_id = next(iter(self._clients))
            self._forgotten.add(client_id)  # first, because it may find no memory
            self._drop(client_id)

    def _drop(self, client_id: int) -> None:
        client = self._clients.pop(client_id)
        self._entries -= client.entries
        if client.shares:
            self._evict(client_id, client.latest, client.shares)

    def _evict(self, client_id: int, push: int, shares: PushShares) -> None:
        known, some = self._evicted.get(client_id, (push, {}))
        if push >= known:
            self._evicted[client_id] = push, most_of(some, shares) if push == known else shares
        if len(self._evicted) > MOST_EVICTED:
            self._evicted.popitem(last=False)

    # ------------------------------------------------------------------------------------------ to another shard

    def read(self, cursor: int = 0, limit_bytes: int = 0) -> pb.ReadLedgerReply:
        """A piece of it, as the message. Pieces belong together as long as nothing is recorded.

        Args:
            cursor: 0 to start, then the `next` of the piece before.
            limit_bytes: about how much; 0: everything.
        """
        reply, size = pb.ReadLedgerReply(evicted=() if cursor else self._latest_evicted()), 0
        for client_id, client in islice(self._clients.items(), min(cursor, len(self)), None):
            message = _message(client_id, client)
            reply.clients.append(message)
            size += message.ByteSize()
            cursor += 1
            if limit_bytes and size >= limit_bytes:
                reply.next = cursor
                return reply
        if self._forgotten:
            # Behind the clients the cursor counts bytes of the filter.
            reply.forgotten_at = cursor - len(self)
            reply.forgotten = self._forgotten.read(reply.forgotten_at, limit_bytes or BYTES)
            end = reply.forgotten_at + len(reply.forgotten)
            reply.next = len(self) + end if end < BYTES else 0
        return reply

    def merge(self, piece: pb.ReadLedgerReply) -> None:
        """Take over what another shard knows. In any order, any number of times; when all is there, `settle`.

        Raises:
            InvalidRequest: it is no piece of a ledger.
        """
        if piece.forgotten:
            self._forgotten.merge(piece.forgotten, piece.forgotten_at)
        for one in piece.evicted:
            self._evict(one.client_id, one.push, from_messages(one.shares))
        for theirs in piece.clients:
            mine = self._clients.get(theirs.client_id)
            # One that was forgotten meanwhile must not come back with half of what was known of it.
            forgotten = mine is None and theirs.client_id in self._forgotten
            if forgotten or (mine is not None and mine.epoch > theirs.client_epoch):
                continue
            mine = self._client(theirs.client_id, theirs.client_epoch)
            before = mine.entries
            for origin in theirs.origins:
                window = mine.windows.setdefault((origin.epoch, origin.shard), Window())
                window.merge(Window(origin.low_water, set(origin.applied)))
            mine.begin(theirs.push)
            if theirs.push == mine.push:
                mine.steps.update(zip(theirs.step_tables, theirs.steps, strict=True))
            mine.merge_shares(theirs.latest, from_messages(theirs.shares))
            self._entries += mine.entries - before
            self._trim()

    def settle(self) -> None:
        """Everything has been merged: a client that any of the shards has forgotten is forgotten."""
        if self._forgotten:
            for client_id in [one for one in self._clients if one in self._forgotten]:
                self._drop(client_id)


def _message(client_id: int, client: KnownClient) -> pb.LedgerClient:
    tables = sorted(client.steps)
    return pb.LedgerClient(
        client_id=client_id,
        client_epoch=client.epoch,
        origins=[
            pb.LedgerOrigin(epoch=e, shard=s, low_water=w.low_water, applied=sorted(w.applied))
            for (e, s), w in client.windows.items()
        ],
        push=client.push,
        step_tables=tables,
        steps=[client.steps[table] for table in tables],
        latest=client.latest,
        shares=as_messages(client.shares),
    )
