"""Python reads this as it starts, where the folder is on PYTHONPATH: a server or coordinator then ends or stops itself.

`chaos/steps.py` says at which step of a move, in a file of the folder that STEPS_IN names. The program itself is as it
always is: what is asked of it, and what it asks of others, is looked at from outside. Without STEPS_IN, or in another
program, nothing is done.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import signal
import sys
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

STEPS_IN = "ROWLOOM_CHAOS_STEPS"
FAULT, CAME, HIT = "fault.json", "came", "hit"  # what is to be done; a byte for each who came; who did it


class _Steps:
    """The steps of this process. role: which process of the cluster it is."""

    def __init__(self, folder: Path, role: str) -> None:
        self._folder, self._role = folder, role

    @contextlib.contextmanager
    def at(self, step: str | None) -> Generator[None]:
        """Around what the step does. None: it is none."""
        if step is None:
            yield
            return
        self._come(step, "before")
        yield
        self._come(step, "after")

    def _come(self, step: str, when: str) -> None:
        try:
            fault = json.loads((self._folder / FAULT).read_text())
        except FileNotFoundError:
            return
        if [fault["role"], fault["step"], fault["when"]] != [self._role, step, when]:
            return
        with open(self._folder / CAME, "ab", buffering=0) as came:
            came.write(b".")
            if came.tell() != fault["nth"]:  # whoever comes with this number is alone with it
                return
        try:
            (self._folder / FAULT).unlink()
        except FileNotFoundError:  # it was taken back
            return
        (self._folder / f"{HIT}.new").write_text(str(os.getpid()))
        os.rename(self._folder / f"{HIT}.new", self._folder / HIT)
        os.kill(os.getpid(), signal.SIGKILL if fault["action"] == "kill" else signal.SIGSTOP)


def _around(owner: type, name: str, at: Callable[..., contextlib.AbstractContextManager[None]]) -> None:
    """Have `at` around each call of a method; it is given what the method is given."""
    method = getattr(owner, name)

    @functools.wraps(method)
    def wrapped(*args: Any) -> Any:
        with at(*args):
            return method(*args)

    setattr(owner, name, wrapped)


def _as_shard(steps: _Steps) -> None:
    from rowloom.proto import methods
    from rowloom.proto import rowloom_pb2 as pb
    from rowloom.server.host import Host
    from rowloom.server.receiving import Receiver

    names = {
        methods.PREPARE: "prepare",
        methods.READ_PASS: "read pass",
        methods.FREEZE: "freeze",
        methods.PROGRESS: "progress",
        methods.ADOPT: "adopt",
    }

    def step(host: Any, call: Any) -> str | None:
        name = names.get(call.method)
        if name == "read pass" and host.state.word == "moving":
            return "read last pass"
        if name == "adopt" and pb.AdoptRequest.FromString(bytes(call.data)).retire:
            return "retire"
        return name

    _around(Host, "handle", lambda host, call: steps.at(step(host, call)))
    _around(Receiver, "_came", lambda *_: steps.at("take rows"))
    _around(Receiver, "_settle", lambda *_: steps.at("settle"))


def _as_starting(steps: _Steps) -> None:
    from rowloom.server.carriers.grpc_server import GrpcServer

    _around(GrpcServer, "start", lambda *_: steps.at("start"))


def _as_coordinator(steps: _Steps) -> None:
    from rowloom.deploy.control import effects
    from rowloom.deploy.performer import Performer
    from rowloom.proto import methods
    from rowloom.proto import rowloom_pb2 as pb

    names = {
        methods.HEALTH: "look",
        methods.PREPARE: "prepare",
        methods.FREEZE: "freeze",
        methods.PROGRESS: "progress",
        methods.ADOPT: "adopt",
    }
    frozen = False  # only one program runs at a time

    def of_calls(calls: Any) -> str | None:
        nonlocal frozen
        name = names.get(calls[0].method) if calls else None
        frozen |= name == "freeze"
        if name == "progress" and frozen:
            return "last progress"
        if name == "adopt" and pb.AdoptRequest.FromString(calls[0].data).retire:
            return "retire"
        return name

    def of_commit(performer: Any, state: Any) -> str:
        nonlocal frozen
        frozen = False
        stored = performer._file.load()
        if stored is None or stored.layout is None or stored.layout.epoch != state.layout.epoch:
            return "commit"
        return "note servers" if len(state.surplus) > len(stored.surplus) else "forget servers"

    def step(performer: Any, effect: Any) -> str | None:
        if isinstance(effect, effects.Calls):
            return of_calls(effect.calls)
        if isinstance(effect, effects.Commit):
            return of_commit(performer, effect.state)
        return {effects.Launch: "launch", effects.Stop: "stop"}.get(type(effect))

    _around(Performer, "_perform", lambda performer, effect, _: steps.at(step(performer, effect)))


def _begin() -> None:
    folder = os.environ.get(STEPS_IN)
    if folder is None:
        return
    if "rowloom.server.serve" in sys.orig_argv:
        steps = _Steps(Path(folder), "shard")
        _as_shard(steps)
        _as_starting(steps)
    elif "rowloom.deploy.coordinator_process" in sys.orig_argv:
        _as_coordinator(_Steps(Path(folder), "coordinator"))


_begin()
