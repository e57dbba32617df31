"""When pushes are to wait for the last rows that move, and when they are to be slowed down before. No effects.

Rows that change while they travel go again with the next pass. Passes become shorter as long as rows are moved faster
than they change; then pushes wait for the last one only, which is as long as the one before it: short. Where passes do
not become shorter, pushes are slowed down, step by step, until they do.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ...proto import rowloom_pb2 as pb

SHORT_S = 0.010  # a last pass that pushes may wait for at any time
BEARABLE_S = 0.040  # and one that they may wait for where passes do not become shorter
STUCK = 3  # passes in a row that have not become shorter: they will not by themselves
BRAKES_S = (1e-6, 64e-6)  # first and hardest brake: for each row of a push


@dataclass(frozen=True)
class Advice:
    """What is to be done: freeze; or brake, so hard; or neither, and wait."""

    freezes: bool = False
    brake_s: float = 0.0


class Passes:
    """Judges the passes of one move.

    Attributes:
        brake_s: how hard pushes are braked: seconds for each of their rows.
    """

    def __init__(self) -> None:
        self.brake_s = 0.0
        self._since = 0  # the number of passes when the brake was last changed

    def judge(self, replies: Sequence[pb.ProgressReply]) -> Advice:
        """What to do next. replies: of all new owners."""
        passes = min(reply.passes for reply in replies)
        left_s = max(reply.left_s for reply in replies)
        if not passes:
            return Advice()
        if left_s <= SHORT_S:
            return Advice(freezes=True)
        stuck = any(reply.stuck >= STUCK and reply.left_s > SHORT_S for reply in replies)
        if not stuck or passes < self._since + STUCK:
            return Advice()
        first, hardest = BRAKES_S
        if left_s <= BEARABLE_S or self.brake_s >= hardest:
            return Advice(freezes=True)
        self.brake_s = min(hardest, 2 * self.brake_s or first)
        self._since = passes
        return Advice(brake_s=self.brake_s)
