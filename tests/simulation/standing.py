"""What a made-up standby does: what `rowloom.server.standby.thread` does with a thread, in virtual time."""

from __future__ import annotations

from typing import TYPE_CHECKING

from simulation.world import Outcome

from rowloom.server.moving.receive import Ask, Pause
from rowloom.server.standby.following import Following

if TYPE_CHECKING:
    from simulation.shards import ShardNode


class Standing:
    """One standby, as long as it follows."""

    def __init__(self, node: ShardNode, following: Following) -> None:
        self._node, self._following, self._host = node, following, node.host
        self._run = following.run()

    def start(self) -> None:
        self._want(next(self._run))

    def _want(self, wants: Ask) -> None:
        node, host = self._node, self._host
        if isinstance(wants, Pause):
            node.at(wants.seconds, self._came, None)
        else:
            node.world.post(
                wants.address,
                wants.method,
                wants.data,
                wants.timeout_s,
                lambda outcome: node.run(host, self._came, outcome),
                node.address,
            )

    def _came(self, outcome: Outcome | None) -> None:
        if self._host.following is not self._following or self._following.stopped:
            return
        wants = self._following.take(self._run, outcome)
        if wants is None:
            self._node.world.injected["standby failed"] += 1
        else:
            self._want(wants)
