"""The thread of a standby: asks its primary, and gives the answers to what follows it."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from contextlib import AbstractContextManager

from ...proto.channel import Channels
from ...proto.errors import RowloomError
from ...proto.security.credentials import Credentials
from ..host import Host
from ..moving.receive import Ask, Pause
from .following import Following

log = logging.getLogger(__name__)


class StandbyThread:
    """Drives one standby.

    Args:
        host: whose.
        following: what it is.
        in_turn: the host's lock. Held while an answer is taken: who takes the primary's place finds it whole.
        credentials: what the primary is shown.
    """

    def __init__(
        self,
        host: Host,
        following: Following,
        in_turn: Callable[[], AbstractContextManager[None]],
        credentials: Credentials,
    ) -> None:
        self._host, self._following, self._in_turn = host, following, in_turn
        self._credentials = credentials

    def run(self) -> None:
        """Return when it takes its primary's place, or fails."""
        run, said = self._following.run(), ""
        peers = Channels(self._credentials)
        try:
            wants: Ask = next(run)
            while True:
                outcome: bytes | RowloomError | None = None
                if isinstance(wants, Pause):
                    time.sleep(wants.seconds)
                else:
                    try:
                        outcome = peers.call(wants.address, wants.method, wants.data, wants.timeout_s)
                    except RowloomError as e:
                        outcome = e
                with self._in_turn():
                    if self._host.following is not self._following or self._following.stopped:
                        return
                    following, then = self._following, self._following.take(run, outcome)
                if then is None:
                    log.error("the standby of shard %d fails: %s", following.index, following.error)
                    return
                wants = then
                if self._following.word != said:
                    said = self._following.word
                    log.info("standby of shard %d: %s", self._following.index, said)
        finally:
            peers.close()
