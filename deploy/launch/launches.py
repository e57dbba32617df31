"""Servers that start while the program that asked for them looks at others.

Why it is so. A server starts in seconds, or never: where Ray has no room, it waits for some as long as the config says.
Meanwhile another one may end whose standby could take its place at once, and only when this program has ended. So a
program is asked again and again whether it still waits. What it waits for no more is ended before another launch
begins: who ends servers also removes the room that was set aside for servers that are not there yet.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any

from ...proto.errors import RowloomError, Unavailable
from .launcher import Launched, Launcher

LAUNCH_THREADS = 32  # servers that start or stop at the same time
LOOK_S = 0.5  # between two times that a program is asked whether it still waits
GIVE_UP_S = 10.0  # for a launch to hear that it is given up


class Launches:
    """Those of one program, one after the other.

    Args:
        launcher: starts and stops servers.
        ending: set when the cluster ends.
    """

    def __init__(self, launcher: Launcher, ending: threading.Event) -> None:
        self._launcher, self._ending = launcher, ending
        self._now: _Launching | None = None

    def outcome(self, keys: Sequence[int], apart: Sequence[int], *, patient: bool) -> list[Launched] | None:
        """Servers under these keys, as `Launcher.reserve` takes them; None: not yet, ask again.

        Raises:
            Unavailable: they could not be started, and none is left.
        """
        if self._now is None or self._now.keys != list(keys):
            self.give_up()
            self._now = _Launching(self._launcher, list(keys), self._ending)
            self._now.begin(apart, patient)
        launched: list[Launched] | None = None
        try:
            launched = self._now.outcome(LOOK_S)
        except BaseException:
            self._now = None
            raise
        if launched is not None:
            self._now = None
        return launched

    def give_up(self) -> None:
        """End what is under way, if anything is."""
        now, self._now = self._now, None
        if now is not None:
            now.give_up()


class _Launching:
    def __init__(self, launcher: Launcher, keys: list[int], ending: threading.Event) -> None:
        self.keys = keys
        self._launcher, self._ending = launcher, ending
        self._given_up = False
        self._future: Future[list[Launched]] = Future()

    def begin(self, apart: Sequence[int], patient: bool) -> None:
        threading.Thread(target=self._run, args=(apart, patient), name="rowloom-launch", daemon=True).start()

    def outcome(self, wait_s: float) -> list[Launched] | None:
        wait([self._future], wait_s)
        return self._future.result() if self._future.done() else None

    def give_up(self) -> None:
        self._given_up = True
        left_s = GIVE_UP_S
        while not self._future.done() and left_s > 0:
            with contextlib.suppress(RowloomError):  # they are surplus, and ended later
                stop_all(self._launcher, self.keys, 0.0)  # who waits for them, or for room, is told so
            wait([self._future], LOOK_S)
            left_s -= LOOK_S

    def _run(self, apart: Sequence[int], patient: bool) -> None:
        try:
            self._future.set_result(self._started(apart, patient))
        except BaseException as e:
            self._future.set_exception(e)

    def _started(self, apart: Sequence[int], patient: bool) -> list[Launched]:
        self._launcher.reserve(self.keys, apart, patient=patient)
        ended = [] if self._given_up else for_each(self._launcher.start, self.keys)
        errors = [e for f in ended if (e := f.exception()) is not None]
        if self._ending.is_set():  # who ends it ends these too, and they cannot say why
            errors.insert(0, Unavailable("the cluster is being ended"))
        elif self._given_up:
            errors.append(Unavailable("nobody waits for these servers any more"))
        if errors:
            stop_all(self._launcher, self.keys, 0.0)
            if isinstance(errors[0], OSError):
                raise Unavailable(f"a shard server could not be started: {errors[0]}") from errors[0]
            raise errors[0]
        return [f.result() for f in ended]


def stop_all(launcher: Launcher, keys: Sequence[int], grace_s: float) -> None:
    """End servers, all at the same time."""
    for future in for_each(lambda key: launcher.stop(key, grace_s), keys):
        future.result()


def for_each(act: Callable[[int], Any], keys: Sequence[int]) -> list[Future[Any]]:
    """Do something for all keys at the same time; returns when each has ended, well or not."""
    with ThreadPoolExecutor(
        max(1, min(LAUNCH_THREADS, len(keys))), thread_name_prefix="rowloom-launch"
    ) as pool:
        return [pool.submit(act, key) for key in keys]
