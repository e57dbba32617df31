"""Performs the coordinator's programs: the calls, launches, stops, commits and waits that they ask for."""

# The last of the effects is named too.
# pyright: reportUnnecessaryIsInstance=false

from __future__ import annotations

import logging
import threading
from collections.abc import Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

from ..proto.channel import Channels
from ..proto.errors import RetryLater, RowloomError, Unavailable, in_words
from ..proto.security.credentials import NOTHING, Credentials
from .control.effects import (
    Calls,
    Commit,
    Effect,
    Launch,
    Look,
    Program,
    ServerCall,
    Sleep,
    Stop,
    Stored,
    WriteManifest,
)
from .launch.launcher import Launcher
from .launch.launches import Launches, for_each, stop_all
from .snapshots.manifests import write_manifest
from .storage import StateFile

log = logging.getLogger(__name__)
BUSY_WAIT_S = 2.0  # how long a program waits for the one before it, until its caller is told to come again
CALL_THREADS = 32  # requests that are under way at the same time


class Performer:
    """Runs one program at a time.

    Launches and stops have threads of their own, made when they are needed. So what looks at the cluster meanwhile
    (`ask`) never waits behind a launch, which may take minutes. Calls block threads: futures of gRPC would keep a
    thread of its own polling, which a process that forks should not have.

    Args:
        file: where a commit goes.
        launcher: starts and stops servers.
        grace_s: what calls under way get when a server stops.
        credentials: what it shows to the shards.
    """

    def __init__(
        self, file: StateFile, launcher: Launcher, grace_s: float, credentials: Credentials = NOTHING
    ) -> None:
        self._file = file
        self._launcher = launcher
        self._grace_s = grace_s
        self._channels = Channels(credentials)
        self._callers = ThreadPoolExecutor(CALL_THREADS, thread_name_prefix="rowloom-ask")
        self._one = threading.Lock()  # held by what runs; taken and freed by different threads
        self._busy_with = ""
        self._waiting = 0  # who wants to begin
        self._count = threading.Lock()  # of those
        self._ending = threading.Event()

    # ---------------------------------------------------------------------------------------------- one at a time

    def begin(self, what: str, wait_s: float = BUSY_WAIT_S) -> None:
        """Become what runs; `end` must follow, from any thread. what: in words, for those who must wait.

        Raises:
            RetryLater: something else runs, and still does after `wait_s`.
        """
        with self._count:
            self._waiting += 1
        try:
            begun = self._one.acquire(timeout=wait_s)
        finally:
            with self._count:
                self._waiting -= 1
        if not begun:
            raise RetryLater(f"{self._busy_with or 'another change'} is in progress", retry_after_s=0.2)
        self._busy_with = what

    def end(self) -> None:
        """The next one may run."""
        self._busy_with = ""
        self._one.release()

    @contextmanager
    def alone(self, what: str, wait_s: float = BUSY_WAIT_S) -> Generator[None]:
        """`begin` and `end` around a block."""
        self.begin(what, wait_s)
        try:
            yield
        finally:
            self.end()

    # ---------------------------------------------------------------------------------------------------- programs

    def run(self, program: Program, *, polite: bool = False) -> Any:
        """Run a program to its end. The caller has begun.

        polite: it ends early, at any effect, when another one waits to begin; for what is repeated anyway. Who recovers
        a lost shard must not wait for changes that wait for that shard.

        Whatever an effect raises reaches the program, which then has its chance to leave the cluster in order: shards
        that it froze would stay frozen if it were just dropped.

        Raises:
            RowloomError: what the program raises.
        """
        launches = Launches(self._launcher, self._ending)
        try:
            return self._run(program, launches, polite)
        finally:
            launches.give_up()

    def _run(self, program: Program, launches: Launches, polite: bool) -> Any:
        outcome: Any = None
        error: RowloomError | None = None
        while True:
            try:
                effect = program.send(outcome) if error is None else program.throw(error)
            except StopIteration as end:
                return end.value
            outcome, error = None, None
            if polite and self._waiting:
                program.close()
                return None
            try:
                outcome = self._perform(effect, launches)
            except RowloomError as e:
                error = e
            except Exception as e:
                log.exception("%s failed", type(effect).__name__)
                error = Unavailable(f"{type(effect).__name__.lower()} failed: {in_words(e)}")
                error.__cause__ = e

    def _perform(self, effect: Effect, launches: Launches) -> Any:
        if isinstance(effect, Calls):
            return self.ask(effect.calls, effect.timeout_s)
        if isinstance(effect, Launch):
            return launches.outcome(effect.keys, effect.apart, patient=effect.patient)
        if isinstance(effect, Stop):
            launches.give_up()
            stop_all(self._launcher, effect.keys, self._grace_s)
        elif isinstance(effect, Commit):
            self._file.commit(effect.state, pause=self._ending.wait)
        elif isinstance(effect, Stored):
            return self._file.load()
        elif isinstance(effect, Look):
            return [f.result() for f in for_each(self._launcher.look, effect.keys)]
        elif isinstance(effect, WriteManifest):
            return write_manifest(effect)
        elif isinstance(effect, Sleep) and self._ending.wait(effect.seconds):
            raise Unavailable("the cluster is being ended")
        return None

    def ask(self, calls: Sequence[ServerCall], timeout_s: float) -> list[bytes | RowloomError]:
        """Make requests side by side, at any time and from any thread. Returns each one's reply or error, in order."""
        try:
            under_way = [self._callers.submit(self._call, call, timeout_s) for call in calls]
        except RuntimeError:  # closed
            return [Unavailable("the cluster is being ended") for _ in calls]
        return [future.result() for future in under_way]

    def _call(self, call: ServerCall, timeout_s: float) -> bytes | RowloomError:
        try:
            return self._channels.call(call.address, call.method, call.data, timeout_s)
        except RowloomError as e:
            return e

    # ----------------------------------------------------------------------------------------------------- the end

    def interrupt(self) -> None:
        """The cluster ends: what waits stops to, and a program that runs fails soon."""
        self._ending.set()

    def close(self) -> None:
        """Close the connections."""
        self.interrupt()
        self._channels.close()
        self._callers.shutdown(wait=False)
