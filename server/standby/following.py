"""A standby: filled by its primary's rows, then fed with its primary's changes, until it takes its place.

    pass 0 ─▶ pass k: what changed since ─▶ attach: the last pass, the ledger ─▶ follow, follow, ... ─▶ take over
       ▲──────────────── whatever fails ────────────────┘                            └─ fails: for good

Why it is so. What must hold: a standby that is in step has every change that its primary acknowledged, and can say so
without asking anybody. A change is done again as a log's record is, by the same code, and leaves what it left there:
the primary says what its change made of its last row, and a standby for which it comes out otherwise fails.
What fails before the first question (`follow`) is tried anew with an empty shard: the primary waits for nobody yet.
What fails afterwards fails for good, though filling it again would do: the coordinator may have stored that this server
can take the place, and must hear, and store, that it cannot before the primary acknowledges anything without it.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any

from crc32c import crc32c

from ...proto import methods
from ...proto import rowloom_pb2 as pb
from ...proto.errors import Rerouted, RetryLater, RowloomError, StateLost, Unavailable
from ...proto.layout import Layout
from ...proto.spec import TableEntry
from ..durable.records import Head, LoggedRecord
from ..durable.replay import Replay
from ..moving.outgoing import BLOCK_BYTES
from ..moving.receive import Ask, Pause, PeerCall, Receive
from ..shard import Shard
from .log_place import LogPlace
from .reading import Freshness

FILL_PAUSE_S = 0.1  # before it is tried anew
ASK_PAUSE_S = 0.02  # before a question is repeated that was not answered
# What the primary gets to answer one: at first, and at most, where it answered none of them.
ANSWER_S = (1.0, 8.0)
# What one answer may hold that ends the filling: pushes wait while it is made. First, and where rows change so fast
# that passes do not become shorter. Twice in a row the same, then four times as much.
FIRST_BYTES, MOST_BYTES = 4 << 20, 48 << 20
Run = Generator[Ask, Any, None]
FILLING, IN_STEP, FAILED = "filling", "in step", "failed"


class Following:
    """The shard that a standby holds, and how it is kept like its primary's.

    Args:
        layout: of the primary.
        index: of the shard.
        incarnation: of this server.
        lease_s: as in StandByRequest.
        make: an empty shard with some tables.
        clock: in seconds.
        number: a random one, each time.
        take_quotas: told the quotas of principals, as JSON, when they are others.
        block_bytes: of rows, in one answer.

    Attributes:
        shard: as far as it is filled.
        error: why it will never take its primary's place, or why it is not filled yet.
        failed: it never will.
        position: changes of the feed that it has.
        end: that there were, when the primary was last heard of.
        heard_s: when that was.
        behind_since_s: when it last had all that there were.
        stopped: it asks no more, because it is to take its primary's place.
        freshness: how old its rows may be, of one that is in step.
        quotas: of principals, as JSON, as its primary has them.
        place: in the shard's log, if there is one.
    """

    def __init__(
        self,
        layout: Layout,
        index: int,
        incarnation: int,
        lease_s: float,
        *,
        make: Callable[[list[pb.TableEntry]], Shard],
        clock: Callable[[], float],
        number: Callable[[], int],
        take_quotas: Callable[[str], object] = lambda text: None,
        block_bytes: int = BLOCK_BYTES,
    ) -> None:
        self.layout, self.index, self.lease_s = layout, index, lease_s
        self._incarnation, self._make, self._clock, self._number = incarnation, make, clock, number
        self._block_bytes, self._take_quotas = block_bytes, take_quotas
        self.shard: Shard | None = None
        self.error = ""
        self.failed = self.stopped = False
        self.position = self.end = 0
        self.heard_s = self.behind_since_s = 0.0
        self.place = LogPlace()
        self._feed = self._heard = 0
        self._answer_s = ANSWER_S[0]
        self.freshness = Freshness(clock)
        self.quotas = ""
        self._begun_at: int | None = None  # the end when the primary began to wait for this standby

    @property
    def primary(self) -> str:
        """Where it is."""
        return self.layout.shards[self.index].address

    @property
    def in_step(self) -> bool:
        """Whether it has all that its primary acknowledged, as far as that waits for it."""
        return not self.failed and self._begun_at is not None and self.position >= self._begun_at

    @property
    def word(self) -> str:
        """How it is, for people and the coordinator."""
        return FAILED if self.failed else IN_STEP if self.in_step else FILLING

    def follows(self, layout: Layout, index: int) -> bool:
        """Whether it is what a layout has as that shard."""
        mine = self.layout.epoch, self.index, self.layout.shards[self.index]
        return mine == (layout.epoch, index, layout.shards[index])

    def stop(self) -> None:
        """Ask no more: from now on the primary hears nothing, and so acknowledges nothing."""
        self.stopped = True

    def fail(self, error: Exception) -> None:
        """It will never be its primary's successor."""
        self.failed, self.error = True, f"{type(error).__name__}: {error}"

    def shard_to_serve(self, *, ended: bool) -> Shard:
        """The shard, once nobody else serves it. ended: that is certain.

        Raises:
            StateLost: it is not what the primary's was.
            RetryLater: the primary may serve yet.
        """
        if not self.in_step or self.shard is None:
            raise StateLost(f"this standby of shard {self.index} is not in step: {self.error or self.word}")
        self.stop()
        left_s = self.heard_s + self.lease_s - self._clock()
        if left_s > 0 and not ended:
            raise RetryLater("the server before may serve yet", retry_after_s=left_s)
        return self.shard

    def take(self, run: Run, outcome: bytes | RowloomError | None) -> Ask | None:
        """Give `run` what came of what it asked. Returns what it asks next; None: it has failed."""
        try:
            return run.throw(outcome) if isinstance(outcome, RowloomError) else run.send(outcome)
        except Exception as e:  # whatever it is, this server must not take its primary's place
            self.fail(e)
            return None

    def run(self) -> Run:
        """Yields what to ask, is sent the reply bytes, or what the call raised. Never ends by itself."""
        while True:
            try:
                yield from self._fill()
                yield from self._begin()
                break
            except RowloomError as e:
                if self._begun_at is not None:
                    raise
                self.error = f"it could not be filled: {e}"
            self.shard = None
            yield Pause(FILL_PAUSE_S)
        self.error = ""
        while True:
            yield from self._next()

    # ------------------------------------------------------------------------------------------------------- filling

    def _call(
        self,
        method: str,
        request: pb.ReadPassRequest | pb.AttachRequest | pb.FollowRequest,
        timeout_s: float = 10.0,
    ) -> PeerCall:
        request.header.CopyFrom(self.layout.header(self.index))
        return PeerCall(self.primary, method, request.SerializeToString(), timeout_s)

    def _fill(self) -> Run:
        """Until all is here and the feed begins. Raises RowloomError: it has to begin anew."""
        listed = pb.ListTablesReply.FromString(
            (yield PeerCall(self.primary, methods.LIST_TABLES, pb.ListTablesRequest().SerializeToString()))
        )
        entries = list(listed.tables)
        shard = self.shard = self._make(entries)
        receive = Receive(self.layout, shard, self._clock, self._block_bytes, only=self.index)
        since, limit, tries = 0, FIRST_BYTES, 0
        while True:
            reply = pb.ReadPassReply()
            while not reply.done:
                asked = receive.next_block(self.index, since, reply)
                reply = receive.rows_came((yield self._call(methods.READ_PASS, asked)))
            since = reply.generation
            try:
                yield from self._attach(receive, entries, since, limit)
                return
            except RetryLater as e:
                self.error = str(e)
            tries += 1
            if not tries % 2:
                limit = min(MOST_BYTES, 4 * limit)

    def _attach(self, receive: Receive, entries: list[pb.TableEntry], since: int, limit: int) -> Run:
        """Raises RetryLater: too much had changed."""
        self._feed = self._feed + 1 if self._feed else self._number()
        asked = pb.AttachRequest(
            standby=self._incarnation,
            feed=self._feed,
            tables=receive.tables,
            since=since,
            limit_bytes=limit,
        )
        reply = pb.AttachReply.FromString((yield self._call(methods.ATTACH, asked)))
        if _by_number(reply.tables) != _by_number(entries):
            raise Unavailable("tables were made, dropped or changed while it was filled")
        receive.rows_came(reply.rows.SerializeToString())
        receive.ledger_came(reply.ledger.SerializeToString())
        if not receive.done:
            raise Unavailable("the ledger did not come whole")
        self.position = self.end = self._heard = 0
        self.place = LogPlace(reply.lsn, reply.log_end, unlogged=reply.unlogged)

    # ------------------------------------------------------------------------------------------------------ following

    def _begin(self) -> Run:
        """The first question: from it on the primary waits for this one. Raises InvalidRequest: there is no feed."""
        assert self.shard is not None
        self._replay = Replay(self.shard)
        while self._begun_at is None:
            yield from self._next()

    def _next(self) -> Run:
        asked = pb.FollowRequest(
            feed=self._feed,
            position=self.position,
            heard=self._heard,
            reads=self.freshness.is_wanted,
            quotas=crc32c(self.quotas.encode()),
        )
        self.freshness.asks()
        try:
            reply = pb.FollowReply.FromString((yield self._call(methods.FOLLOW, asked, self._answer_s)))
        except RowloomError as e:
            # Where there was an answer before, the primary may be gone: who is in step stays so.
            if self._begun_at is None and not isinstance(e, Rerouted | Unavailable):
                raise
            self._answer_s = min(ANSWER_S[1], 2 * self._answer_s)
            yield Pause(ASK_PAUSE_S)
            return
        self._answer_s = ANSWER_S[0]
        self._came(reply)

    def _came(self, reply: pb.FollowReply) -> None:
        """Do again what the primary did. Raises LogCorrupt: that came out otherwise."""
        now = self._clock()
        if self._begun_at is None:
            self._begun_at = reply.end
        for record in reply.records:
            payload = record.payload
            head = Head(*(record.kind, len(payload), self.position + 1, 0, 0, record.rows_after, record.fold))
            self._replay.redo(LoggedRecord(head, memoryview(payload)))
            self.position += 1
            self.place.came(record, payload)
        self.place.safe(reply.log_safe)
        self.end, self._heard, self.heard_s = reply.end, reply.number, now
        if self.position >= reply.end:
            self.behind_since_s = now
        self.freshness.came(reply, self.position)
        if reply.HasField("quotas"):
            self.quotas = reply.quotas
            self._take_quotas(reply.quotas)

    def health(self, reply: pb.HealthReply) -> None:
        """What the coordinator asks about it."""
        reply.standby, reply.standby_error = self.word, self.error
        reply.standby_rows = self.shard.rows if self.shard is not None else 0
        reply.standby_behind = self.end - self.position
        if self.in_step:
            reply.standby_behind_s = max(0.0, self._clock() - self.behind_since_s)
            reply.standby_unheard_s = max(0.0, self._clock() - self.heard_s)


def _by_number(entries: list[pb.TableEntry] | object) -> dict[int, TableEntry]:
    return {entry.number: TableEntry.from_message(entry) for entry in entries}  # type: ignore[attr-defined]
