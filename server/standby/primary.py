"""What a shard does for its standby: fills it, and tells it of every change since."""

from __future__ import annotations

from crc32c import crc32c

from ...proto import rowloom_pb2 as pb
from ...proto.codec import Push
from ...proto.errors import InvalidRequest, RetryLater, Unavailable, WrongLayout
from ...proto.framing import joined, message_of
from ...proto.layout import dealings
from .. import states
from ..call import Answer, Call, Fed, WaitFor
from ..durable.records import Kind
from ..holder import Holder
from ..moving.outgoing import read_pass
from ..shard import Shard
from .feed import REPLY_BYTES, Feed

POLL_S = 0.25  # after so long a question is answered also if nothing has changed
LEASE_RETRY_S = 0.05


def set_standby(host: Holder, request: pb.SetStandbyRequest) -> None:
    """The coordinator says who the standby is. Raises WrongLayout."""
    host.take_turn(request.cluster_id, request.turn)
    shard = host.shard
    if shard is None or shard.layout.epoch != request.epoch:
        raise WrongLayout(f"this server is no shard of epoch {request.epoch}")
    feed, another = host.feed, host.standby[0] != request.standby
    if feed is not None and feed.waits and (another or not request.waits) and not (another and request.ended):
        _end_reads(host, feed, for_good=True)
    if another:
        host.end_feed()
    if request.HasField("replicated"):
        host.process.replicated = request.replicated
    host.standby = request.standby, request.waits, request.lease_s
    if host.feed is not None:
        host.feed.waits = request.waits


def freeze(host: Holder, request: pb.FreezeRequest) -> pb.FreezeReply:
    """As `Holder.freeze`. Raises RetryLater: the standby may answer pulls yet, and others are about to do so."""
    reply = host.freeze(request)
    if request.on and host.feed is not None:
        _end_reads(host, host.feed, for_good=False)
    return reply


def _end_reads(host: Holder, feed: Feed, *, for_good: bool) -> None:
    left_s = feed.end_reads(host.process.now(), for_good=for_good)
    if left_s:
        raise RetryLater("the standby may answer pulls yet", retry_after_s=min(left_s, LEASE_RETRY_S))


def attach(host: Holder, request: pb.AttachRequest) -> pb.AttachReply:
    """See AttachRequest.

    Raises:
        InvalidRequest: who asks is not the standby, or follows already.
        RetryLater: too much has changed for one answer.
        TableNotFound, Unavailable, StateLost: as `read_pass`.
    """
    shard = host.serving()
    shard.check(request.header)
    incarnation, waits, lease_s = host.standby
    if not incarnation or request.standby != incarnation:
        raise InvalidRequest(f"server {request.standby:016x} is not the standby of shard {shard.index}")
    if host.feed is not None and host.feed.begun:
        raise InvalidRequest(f"shard {shard.index} is followed already")
    if host.attached[0] == incarnation and request.feed <= host.attached[1]:
        # A copy that was late: what was kept for its feed since is not in this answer, and would be forgotten.
        raise InvalidRequest(f"shard {shard.index} has begun this feed, or a later one, before")
    limit = request.limit_bytes
    rows = _all_that_changed(shard, request)
    reply = pb.AttachReply(
        rows=rows, ledger=shard.ledger.read(), tables=[entry.to_message() for entry in shard.entries()]
    )
    reply.ledger.shard = shard.index
    if host.journal is not None:
        reply.lsn, reply.log_end = host.journal.lsn, host.journal.end
        reply.unlogged = bool(host.journal.error)
    if reply.ByteSize() > limit:
        raise RetryLater(f"what changed is more than {limit} bytes: another pass first", retry_after_s=0.0)
    host.attached = incarnation, request.feed
    reply_bytes = min(REPLY_BYTES, 8 * host.process.block_bytes)
    host.feed = Feed(request.feed, waits=waits, lease_s=lease_s, reply_bytes=reply_bytes)
    return reply


def _all_that_changed(shard: Shard, request: pb.AttachRequest) -> pb.ReadPassReply:
    """A last pass in one answer: the caller's lock is held, so nothing changes meanwhile."""
    layout = shard.layout
    asked = pb.ReadPassRequest(
        header=request.header,
        tables=request.tables,
        new_n=layout.n,
        new_index=shard.index,
        since=request.since,
        limit_bytes=request.limit_bytes,
        dealt=dealings(layout.dealt),
    )
    whole = pb.ReadPassReply()
    while True:
        reply = pb.ReadPassReply.FromString(joined(read_pass(shard, asked, frozen=True).encode()))
        moved = [*whole.tables, *reply.tables]
        whole.CopyFrom(reply)
        del whole.tables[:]
        whole.tables.extend(moved)
        if reply.done:
            return whole
        if whole.ByteSize() > request.limit_bytes:
            raise RetryLater("too much has changed for one answer: another pass first", retry_after_s=0.0)
        asked.generation, asked.last, asked.at, asked.cursor = reply.generation, True, reply.at, reply.cursor


def follow(host: Holder, call: Call) -> Answer:
    """What has changed since the standby asked before; soon, if nothing has.

    Raises:
        InvalidRequest: the feed of that name is no more: the standby has to begin anew.
        RetryLater: a question that was held up on its way until later ones had been answered.
    """
    request: pb.FollowRequest = message_of(pb.FollowRequest, memoryview(call.data))
    shard, feed, now = host.serving(), host.feed, host.process.now()
    shard.check(request.header)
    if feed is None or feed.name != request.feed or request.position > feed.end:
        raise InvalidRequest(f"shard {shard.index} has no such feed: the standby has to be filled anew")
    if request.position < feed.confirmed:
        raise RetryLater("a later question was answered before")
    feed.heard(request.heard)
    feed.confirm(request.position)
    changes = feed.since(request.position)
    reads = request.reads and feed.may_read(request.position) and isinstance(host.state, states.Serving)
    if not changes and feed.replied and not feed.is_news(now, reads=reads):
        call.not_before = call.not_before or now + POLL_S
        if now < call.not_before:
            later = RetryLater("nothing has changed", retry_after_s=LEASE_RETRY_S)
            return Answer(wait_for=WaitFor(call.not_before - now, later, again=True))
    held_s = now - (call.not_before - POLL_S) if call.not_before else 0.0
    reply = pb.FollowReply(number=feed.replies(now), end=feed.end, held_s=held_s, alone=not feed.waits)
    if reads:
        reply.reads_s = feed.let_read(now)
    if host.journal is not None:
        reply.log_safe = host.journal.safe
    if request.quotas != crc32c(host.quotas.text.encode()):
        reply.quotas = host.quotas.text
    for change in changes:
        reply.records.add(
            kind=change.kind,
            payload=bytes(change.payload),
            rows_after=change.rows_after,
            fold=change.fold,
            lsn=change.lsn,
            log_end=change.log_end,
        )
    return Answer([reply.SerializeToString()])


def check_lease(host: Holder) -> None:
    """Raise Unavailable if another server may have taken this one's place."""
    feed = host.feed
    if feed is not None and not feed.holds(host.process.now()):
        raise Unavailable(
            "this server has not heard of its standby for a while, which may have taken its place by now",
            retry_after_s=LEASE_RETRY_S,
        )


def kept(host: Holder, call: Call) -> bytes | memoryview:
    """A push's message. For a standby it outlives the call, in whose memory it lies: the copy is applied, too."""
    return call.data if host.feed is None else bytes(call.data)


def all_fed(host: Holder) -> Fed | None:
    """What the standby must have of a change of tables: in every mode, or a table would be lost with a server."""
    return Fed(host.feed, host.feed.end) if host.feed is not None else None


def fed(
    host: Holder,
    kind: Kind,
    data: bytes | memoryview,
    shard: Shard,
    push: Push,
    duplicate: bool,
    *,
    log_end: int,
) -> Fed | None:
    """Keep a push for the standby. Returns what its answer waits for.

    log_end: of its record in the log, the last one; 0: it is not in it.
    """
    feed = host.feed
    if feed is not None and feed.is_full and not feed.begun:  # who was filled has not come back
        feed = host.feed = None
    if feed is None:
        return None
    now = host.process.now()
    if duplicate:
        position = feed.end
    else:
        logged = logged_at(host, log_end)
        position = feed.note(kind, data, *shard.trace(push), now=now, logged=logged)
    return Fed(feed, position) if feed.waits else None


def fed_change(host: Holder, kind: Kind, payload: bytes, *, log_end: int) -> None:
    """Keep a change of a table for the standby. log_end: as of `fed`."""
    if host.feed is not None:
        host.feed.note(kind, payload, now=host.process.now(), logged=logged_at(host, log_end))


def logged_at(host: Holder, log_end: int) -> tuple[int, int]:
    """The last record of the log and its end, if that is the one that is meant."""
    return (host.journal.lsn, log_end) if host.journal is not None and log_end else (0, 0)


def observe(host: Holder, reply: pb.StatisticsReply) -> None:
    """How far the standby is behind, where there are any."""
    if not host.process.replicated and not host.standby[0]:
        return
    feed = host.feed
    reply.standby_follows = feed is not None and feed.begun
    if feed is not None:
        reply.standby_behind, reply.standby_behind_bytes = feed.end - feed.confirmed, feed.bytes
        reply.standby_behind_s = feed.behind_s(host.process.now())
