"""When a shard answers those who will own its rows: a pass may wait for the moment at which pushes wait.

Why it is so. Pushes wait for the last pass, and only the old shard knows when they begin to. A new owner that asked all
the time would take the cores that trainers need; one that asked now and then would come late.
"""

from __future__ import annotations

from ...proto import rowloom_pb2 as pb
from ...proto.errors import RetryLater, Unavailable
from ...proto.framing import message_of
from .. import states
from ..call import GRPC, Answer, Call, WaitFor
from ..holder import Holder
from .outgoing import read_pass

MOST_WAIT_S = 1.0  # that a pass waits to begin, whatever is asked for


def give_pass(host: Holder, call: Call) -> Answer:
    """A block of a pass. Raises as `outgoing.read_pass`, `Holder.serving` and `Shard.check`."""
    request, shard = message_of(pb.ReadPassRequest, memoryview(call.data)), host.serving()
    shard.check(request.header)
    frozen = isinstance(host.state, states.Moving) and not host.state.admitted
    wait_s = 0.0 if request.generation else min(request.wait_s, MOST_WAIT_S)
    if wait_s and not frozen and call.caller.carrier != GRPC:  # of whose threads there are few
        now = host.process.now()
        call.not_before = call.not_before or now + wait_s
        if now < call.not_before:
            stopping = Unavailable("this server stops")
            return Answer(wait_for=WaitFor(call.not_before - now, stopping, again=True))
    block = read_pass(shard, request, frozen=frozen, space=call.space)
    if call.not_before:
        block.head.held_s = host.process.now() - (call.not_before - wait_s)
    call.placed = block.place()
    return Answer() if call.placed else Answer(block.encode())


def give_ledger(host: Holder, request: pb.ReadLedgerRequest) -> pb.ReadLedgerReply:
    """A piece of the ledger. Raises RetryLater while pushes go on; StateLost; as `Shard.check`."""
    shard = host.serving()
    shard.check(request.header)
    if not isinstance(host.state, states.Moving):
        raise RetryLater("a ledger is read while pushes wait: freeze first", retry_after_s=0.05)
    shard.check_whole()
    reply = shard.ledger.read(request.cursor, request.limit_bytes)
    reply.shard = shard.index
    return reply
