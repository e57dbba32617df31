"""Which pushes were applied: per client and origin, a low-water mark and the numbers above it.

Why it is so. What must hold: a request of a push is applied once, through retries and through changes of the layout. It
is named by its origin (the layout epoch and the shard it was first meant for) and a number. The shard of an origin is
the only one that records names of it, and it applies a request whole or not at all; whoever takes over its rows
inherits its records. So a name is recorded exactly where all rows of the request have been changed, and merging
ledgers is a union.
Rejected: the result of each push, kept until its client has it: the reply of a duplicate is a single bit. Rejected: a
time after which names are forgotten: a client that slept longer would be applied twice. What is forgotten is what the
client says is finished, and beyond MAX_CLIENTS the client that was silent longest; it is then taken for a new one, so
take that up again (refuse, instead of forget) if clusters have that many trainers.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from ..proto import rowloom_pb2 as pb
from ..proto.codec import PartName
from ..proto.errors import InvalidRequest, Overloaded

MAX_CLIENTS = 20_000  # beyond it the client that was silent longest is forgotten; about 1 kB each
MAX_WINDOW = 65_536  # requests of one client and origin that are applied but not yet known to be finished

Origin = tuple[int, int]


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
    """What a shard knows of one client."""

    epoch: int
    windows: dict[Origin, Window] = field(default_factory=dict[Origin, Window])
    # table number -> (number of the client's latest push to it, the step that this push was)
    steps: dict[int, tuple[int, int]] = field(default_factory=dict[int, tuple[int, int]])


class Ledger:
    """The clients of one shard. Callers hold the shard's lock."""

    def __init__(self) -> None:
        self._clients: OrderedDict[int, KnownClient] = OrderedDict()

    def __len__(self) -> int:
        return len(self._clients)

    def has(self, client_id: int, client_epoch: int, names: Sequence[PartName]) -> bool:
        """Whether a request was applied under any of its names.

        Raises:
            InvalidRequest: the request has no name, or a newer epoch of the client has been seen.
            Overloaded: too many requests of this client are unfinished.
        """
        if not names or any(name.seq < 1 for name in names):
            raise InvalidRequest("a push needs names, numbered from 1")
        client = self._clients.get(client_id)
        if client is None or client_epoch > client.epoch:
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

    def record(
        self, client_id: int, client_epoch: int, name: PartName, low_water: int = 0, oldest_epoch: int = 0
    ) -> None:
        """Note that a request was applied. `low_water` and `oldest_epoch` as in PushRequest.

        The name comes last: where memory is wanting, there is no record of it.
        """
        client = self._client(client_id, client_epoch)
        window = client.windows.get((name.epoch, name.shard))
        if window is None:
            window = client.windows[name.epoch, name.shard] = Window()
        window.advance(low_water)
        if len(client.windows) > 1 or name.epoch < oldest_epoch:
            client.windows = {o: w for o, w in client.windows.items() if o[0] >= oldest_epoch}
        if name.seq > window.low_water:
            window.applied.add(name.seq)

    def step_of(self, client_id: int, push: int, table: int, last: int) -> int:
        """What `step` will return, before anything is counted. last: the table's latest step."""
        client = self._clients.get(client_id)
        seen, step = client.steps.get(table, (0, 0)) if client else (0, 0)
        return last + 1 if push > seen else step

    def step(self, client_id: int, client_epoch: int, push: int, table: int, count: Callable[[], int]) -> int:
        """The table's step of push number `push` of a client; `count` makes the next one when the push is new."""
        client = self._client(client_id, client_epoch)
        seen, step = client.steps.get(table, (0, 0))
        if push > seen:
            step = count()
            client.steps[table] = (push, step)
        return step

    def forget_table(self, table: int) -> None:
        """The table was dropped."""
        for client in self._clients.values():
            client.steps.pop(table, None)

    def _client(self, client_id: int, client_epoch: int) -> KnownClient:
        client = self._clients.get(client_id)
        if client is None or client.epoch < client_epoch:
            # Push numbers go on through epochs, so `steps` stays.
            client = KnownClient(client_epoch, steps=client.steps if client else {})
            self._clients[client_id] = client
        self._clients.move_to_end(client_id)
        if len(self._clients) > MAX_CLIENTS:
            self._clients.popitem(last=False)
        return client

    # ------------------------------------------------------------------------------------------ to another shard

    def to_message(self) -> pb.ReadLedgerReply:
        """Everything, as the message."""
        return pb.ReadLedgerReply(
            clients=[
                pb.LedgerClient(
                    client_id=client_id,
                    client_epoch=client.epoch,
                    origins=[
                        pb.LedgerOrigin(epoch=e, shard=s, low_water=w.low_water, applied=sorted(w.applied))
                        for (e, s), w in client.windows.items()
                    ],
                    steps=[pb.LedgerStep(table=t, push=p, step=n) for t, (p, n) in client.steps.items()],
                )
                for client_id, client in self._clients.items()
            ]
        )

    def merge(self, message: pb.ReadLedgerReply) -> None:
        """Take over what another shard knows. In any order, any number of times."""
        for theirs in message.clients:
            mine = self._clients.get(theirs.client_id)
            if mine is not None and mine.epoch > theirs.client_epoch:
                continue
            mine = self._client(theirs.client_id, theirs.client_epoch)
            for origin in theirs.origins:
                window = mine.windows.setdefault((origin.epoch, origin.shard), Window())
                window.merge(Window(origin.low_water, set(origin.applied)))
            for step in theirs.steps:
                if step.push >= mine.steps.get(step.table, (0, 0))[0]:
                    mine.steps[step.table] = (step.push, step.step)


def merged_step(table: int, sources: Sequence[tuple[int, pb.ReadLedgerReply]]) -> int:
    """The step of a table whose rows come from several shards.

    A step counts the pushes that a shard has seen, and shards may differ by the pushes that are under way, one a
    client. So it is the size of the union: the step of any one source, plus the pushes that only others saw.

    Args:
        table: its number.
        sources: per shard, its step of the table and its ledger.
    """
    latest: dict[int, int] = {}
    known: list[dict[int, int]] = []
    for _, ledger in sources:
        mine = {c.client_id: s.push for c in ledger.clients for s in c.steps if s.table == table}
        known.append(mine)
        for client, push in mine.items():
            latest[client] = max(push, latest.get(client, 0))
    return max(
        (
            step + sum(push > mine.get(client, 0) for client, push in latest.items())
            for (step, _), mine in zip(sources, known, strict=True)
        ),
        default=0,
    )
