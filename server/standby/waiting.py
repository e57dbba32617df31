"""Replies that wait until the standby has what they acknowledge."""

from __future__ import annotations

import threading

from ...proto.errors import Unconfirmed
from ..call import Fed

CONFIRMED_S = 2.0  # that a reply waits; then its client asks again, here or where the shard is by then
UNCONFIRMED_S = 0.02


class Confirmations:
    """What waits for the standby, beside the host's lock: others go on meanwhile.

    Attributes:
        held: threads of gRPC that wait.
    """

    def __init__(self) -> None:
        self._told = threading.Condition()
        self._stopping = False
        self.held = 0

    def wait(self, fed: Fed, *, held: bool, limit_s: float = CONFIRMED_S) -> None:
        """Until a change may be acknowledged.

        Args:
            fed: the change.
            held: this thread is one of gRPC's.
            limit_s: at most.

        Raises:
            Unconfirmed: the standby has not said that it has it.
        """
        with self._told:
            self.held += held
            self._told.wait_for(lambda: fed.is_safe or self._stopping, limit_s)
            self.held -= held
        if not fed.is_safe:
            raise Unconfirmed("the standby has not said yet that it has this", retry_after_s=UNCONFIRMED_S)

    def tell(self) -> None:
        """The standby has said something, or nobody waits for it any more."""
        with self._told:
            self._told.notify_all()

    def stop(self) -> None:
        """Nothing waits from now on."""
        with self._told:
            self._stopping = True
            self._told.notify_all()
