"""What a made-up server does to receive rows: what `rowloom.server.receiving` does with threads, in virtual time."""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING

from simulation.logs import NodeLog
from simulation.world import Outcome

from rowloom.proto.errors import PushUnresolved, Rerouted, RowloomError, Unavailable
from rowloom.server.holder import Incoming
from rowloom.server.moving.receive import PEER_ATTEMPTS, Ask, Pause, PeerCall, kind_of, peer_pause_s

if TYPE_CHECKING:
    from simulation.shards import ShardNode

Run = Generator[Ask, bytes, None]


class Receiving:
    """One receive: a stream for each old shard, side by side."""

    def __init__(self, node: ShardNode, incoming: Incoming) -> None:
        self._node, self._incoming = node, incoming
        self._left = len(incoming.receive.streams)
        self._end = 0  # of what was noted in the log

    def start(self) -> None:
        for stream in self._incoming.receive.streams:
            self._step(stream.run(), None, None)

    def _step(self, run: Run, call: PeerCall | None, reply: bytes | None) -> None:
        """Give a stream the reply to a call."""
        incoming, node = self._incoming, self._node
        if node.host.incoming is not incoming or incoming.error:
            self._ended()
            return
        wants: Ask | None = None
        try:
            wants = run.send(reply)  # type: ignore[arg-type]
        except StopIteration:
            pass
        except Exception as e:  # as the shell does
            self._failed(e)
            return
        journal = incoming.journal
        if journal is None or call is None:
            self._go_on(run, wants)
            return
        assert isinstance(journal, NodeLog)
        if node.ends_at("received all" if incoming.receive.done else "received a piece"):
            return
        try:
            self._end = journal.note(kind_of(call), reply)  # type: ignore[arg-type]
        except PushUnresolved as e:
            self._failed(e)
            return

        def written(error: PushUnresolved | None) -> None:
            if error is not None:
                self._failed(error)
            else:
                self._go_on(run, wants)

        journal.write_later(journal.take(), written)

    def _go_on(self, run: Run, wants: Ask | None) -> None:
        if wants is None:
            self._ended()
        elif isinstance(wants, Pause):
            self._node.at(wants.seconds, self._step, run, None, None)
        else:
            self._ask(run, wants, 0)

    def _ask(self, run: Run, call: PeerCall, attempt: int) -> None:
        node, host = self._node, self._node.host

        def ended(outcome: Outcome) -> None:
            node.run(host, answered, outcome)

        def answered(outcome: Outcome) -> None:
            if not isinstance(outcome, RowloomError):
                self._step(run, call, outcome)
            elif isinstance(outcome, Unavailable | Rerouted) and attempt < PEER_ATTEMPTS - 1:
                node.at(peer_pause_s(attempt), self._ask, run, call, attempt + 1)
            else:
                self._failed(outcome)

        node.world.post(call.address, call.method, call.data, 5.0, ended, node.address)

    def _failed(self, error: Exception) -> None:
        self._incoming.error = self._incoming.error or f"{type(error).__name__}: {error}"
        self._ended()

    def _ended(self) -> None:
        """A stream is driven no more."""
        self._left -= 1
        if self._left:
            return
        journal = self._incoming.journal
        if self._incoming.receive.done and isinstance(journal, NodeLog):
            journal.wait_later(self._end, self._over)
        else:
            self._over(None)

    def _over(self, error: PushUnresolved | None) -> None:
        incoming = self._incoming
        self._node.received(incoming, f"{type(error).__name__}: {error}" if error else incoming.error)
