"""A server that holds nothing becomes a standby, and later the shard's server."""

from __future__ import annotations

from functools import partial

from ...proto import rowloom_pb2 as pb
from ...proto.errors import InvalidRequest, RetryLater, StateLost
from .. import states
from ..access.quotas import Quotas
from ..durable.extents import Owner
from ..durable.succession import Succession
from ..holder import RECOVERING_RETRY_S, Holder, check_size, layout_of
from ..metrics.counters import Counters
from ..shard import Shard
from .following import Following


def stand_by(host: Holder, request: pb.StandByRequest) -> None:
    """Become the standby of a shard. The same again is no error. Raises InvalidRequest: it is something else."""
    layout = layout_of(request.layout, request.index)
    host.take_turn(layout.cluster_id, request.turn)
    following, process = host.following, host.process
    if following is not None and following.follows(layout, request.index):
        return
    if not isinstance(host.state, states.Waiting):
        raise InvalidRequest("only a server that holds nothing yet becomes a standby")
    host.following = Following(
        layout,
        request.index,
        process.incarnation,
        request.lease_s,
        make=partial(host.new_shard, layout, request.index),
        clock=process.now,
        number=process.number,
        take_quotas=partial(_take_quotas, host),
        block_bytes=process.block_bytes,
    )
    host.become(states.Standing(layout, request.index))
    host.tasks.append(host.following)


def _take_quotas(host: Holder, text: str) -> None:
    """Callers have the same quotas here as at the primary."""
    host.quotas = host.process.in_flight.quotas = Quotas.from_json(text)


def readable(host: Holder, header: pb.Header) -> Shard:
    """What a standby answers a pull from. Raises RetryLater: who asks wants no such answer, or rows may be too old."""
    following, reads = host.following, host.process.reads
    if following is None or not header.HasField("max_staleness_s"):
        return host.serving()
    if not following.in_step or following.shard is None:
        raise RetryLater(f"this standby is {following.word}", retry_after_s=RECOVERING_RETRY_S)
    try:
        following.freshness.check(header.max_staleness_s)
    except RetryLater:
        reads.refused += 1
        raise
    return following.shard


def tell_health(host: Holder, reply: pb.HealthReply) -> None:
    """How a standby is."""
    if host.following is not None:
        host.following.health(reply)
        reply.standby_pulls, reply.standby_refused = host.process.reads.pulls, host.process.reads.refused


def observe(host: Holder, reply: pb.StatisticsReply) -> None:
    """What this process was asked for as a standby."""
    reads = host.process.reads
    reply.standby_pulls, reply.standby_pulled_rows, reply.standby_refused = (
        reads.pulls,
        reads.rows,
        reads.refused,
    )


def adopt(host: Holder, request: pb.AdoptRequest) -> None:
    """As `Holder.adopt`, also of a standby."""
    if isinstance(host.state, states.Standing):
        take_over(host, request)
    else:
        host.adopt(request)


def take_over(host: Holder, request: pb.AdoptRequest) -> None:
    """A standby becomes the shard's server, as the coordinator has stored.

    Raises:
        InvalidRequest: the layout gives this place to another server.
        StateLost, RetryLater: as `Following.shard_to_serve`. RetryLater too while it takes the shard's log, which it
            gets when nobody else has it: so it serves when the server before serves no more.
    """
    layout, following = layout_of(request.layout, 0 if request.retire else request.index), host.following
    host.take_turn(layout.cluster_id, request.turn)
    assert following is not None
    if request.retire or not host.is_named(layout, request.index):
        raise InvalidRequest(
            "this server is a standby: it takes the place that the layout gives it, no other"
        )
    if (layout.epoch, request.index) != (following.layout.epoch, following.index):
        raise StateLost(
            f"this server stands by for shard {following.index} of epoch {following.layout.epoch}"
        )
    logged = host.process.journals is not None
    shard = following.shard_to_serve(ended=request.ended or logged)
    check_size(shard, layout)
    shard.layout, shard.counters = layout, Counters()
    host.set_quotas(request)
    host.following = None
    if not logged:
        host.become(states.Serving(shard))
        return
    owner = Owner(layout.cluster_id, layout.epoch, request.index)
    make = partial(host.new_shard, layout, request.index, ())
    snapshots = [host.process.snapshot_url(id) for id in request.snapshots]
    host.become(states.Recovering(layout, request.index))
    host.tasks.append(Succession(owner, shard, following.place, make, snapshots))
    raise RetryLater("this standby takes the log of its shard", retry_after_s=RECOVERING_RETRY_S)
