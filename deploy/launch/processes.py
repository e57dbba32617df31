"""Child processes: the one way to start them, to hear that they are up, and to end them.

There are two kinds. A `Child` belongs to this process: its standard input is a pipe that closes when this process ends,
however it ends, and the child ends with it. A detached one outlives this process, in a session of its own; it is known
by its pid and the time when it began, because pids are used again.

Whoever starts a detached one may be killed at any moment, and nothing may run that nobody knows. So it is held back
until its pid is on record: it begins with a shell that waits for a word from us, and ends if the pipe closes without
it. Rejected: a record after the start (what is killed in between leaves a stranger), and a lock that the process holds
(it says that something runs, not which). Besides, whatever it starts inherits a mark in its environment, by which the
rest of it is found when the leader is gone.

Rejected: psutil, to look at processes. Its time of a start is one of the clock on the wall, which is set while they
run; ours, in ticks since boot, is on record, and must be the same whoever reads it, whenever. What is left for it are
a few lines at the end of this file.
"""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from ...proto.errors import Unavailable
from ...proto.security.credentials import SECRET_VARIABLES

T = TypeVar("T")
POLL_S = 0.02
KILLED_S = 10.0  # until a process that was killed must be gone
TICKS_PER_S = os.sysconf("SC_CLK_TCK")
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
MARK = "ROWLOOM_STARTED_FOR"
# Of a process that is held back: it becomes the program when it is told to, and is gone if nobody can tell it any more.
_HELD = ["/bin/sh", "-c", 'read -r go && exec "$@" < /dev/null', "rowloom-held"]


def python(*arguments: str) -> list[str]:
    """The command that runs this Python on arguments."""
    return [sys.executable, *arguments]


# ------------------------------------------------------------------------------------------- those that belong to us


class Child:
    """A process that ends when its standard input closes. What it prints is for us to read.

    Args:
        what: it is, for messages: "a shard server".
        command: program and arguments.
        log: where its errors go; none: where ours go.
        environment: added to ours.

    Raises:
        Unavailable: the system cannot start a process.
    """

    def __init__(
        self,
        what: str,
        command: Sequence[str],
        *,
        log: Path | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self._what, self._log = what, log
        self._buffer = b""
        with contextlib.ExitStack() as stack:
            try:
                if log is not None:
                    log.parent.mkdir(parents=True, exist_ok=True)
                errors = stack.enter_context(open(log, "ab")) if log is not None else None
                self._process = subprocess.Popen(
                    command,
                    bufsize=0,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=errors,
                    env=_environment(environment),
                )
            except OSError as e:
                raise Unavailable(f"{what} cannot be started: {e}") from e
        self.pid = self._process.pid

    def __repr__(self) -> str:
        return f"<Child {self._what} pid={self.pid}>"

    def poll(self) -> int | None:
        """Its exit code; None while it runs."""
        return self._process.poll()

    def first_line(self, timeout_s: float | None = None, limit: str = "the limit") -> str:
        """What it prints when it is up.

        Args:
            timeout_s: how long that may take; none: as long as it takes.
            limit: what that limit is called.

        Raises:
            Unavailable: it ended instead, or printed nothing in that time.
        """
        until = None if timeout_s is None else time.monotonic() + timeout_s
        line = self._line(until)
        if line is None:
            raise Unavailable(
                f"{self._what} did not start within {limit} = {timeout_s:g} s; its log says why"
            )
        if not line:
            code = self._process.wait()
            said = last_line(self._log) if self._log is not None else "its log says why"
            raise Unavailable(f"{self._what} ended with code {code} while it started; {said}")
        return line.decode(errors="replace").strip()

    def lines(self) -> Iterator[str]:
        """What it prints, line by line, until it ends."""
        while line := self._line(None):
            yield line.decode(errors="replace")

    def _line(self, until: float | None) -> bytes | None:
        """The next line; at the end what is left; None if there is none before `until`, of the monotonic clock."""
        assert self._process.stdout is not None
        while b"\n" not in self._buffer:
            left = None if until is None else max(0.0, until - time.monotonic())
            readable, _, _ = select.select([self._process.stdout], [], [], left)
            if not readable:
                return None
            some = os.read(self._process.stdout.fileno(), 65536)
            if not some:
                break
            self._buffer += some
        line, end, self._buffer = self._buffer.partition(b"\n")
        return line + end

    def tell(self, line: str) -> None:
        """Write a line to its standard input. Raises BrokenPipeError if it has ended."""
        assert self._process.stdin is not None
        self._process.stdin.write(line.encode() + b"\n")

    def ask_to_end(self) -> None:
        """Close its standard input, and do not wait."""
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            self._process.stdin.close()

    def end(self, grace_s: float) -> None:
        """Close its standard input, kill it if it is still there after `grace_s`, and wait until it is gone."""
        self.ask_to_end()
        try:
            self._process.wait(grace_s)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def close(self) -> None:
        """Let go of both its pipes, once it has ended and nobody reads."""
        self.ask_to_end()
        if self._process.stdout is not None:
            self._process.stdout.close()


def _environment(added: Mapping[str, str] | None) -> dict[str, str]:
    """What a child has: all that we have, but for secrets, which it need not know; and what is added."""
    ours = {name: value for name, value in os.environ.items() if name not in SECRET_VARIABLES}
    return {**ours, **(added or {})}


def end_with_stdin() -> None:
    """In a child: wait until whoever started this process is gone or done with it, then end it."""
    with contextlib.suppress(OSError, ValueError):
        while sys.stdin.buffer.read(4096):
            pass
    # Skips freeing gigabytes page by page, and whatever a library would wait for.
    os._exit(0)


# ------------------------------------------------------------------------------------------------ those that stay


def spawn_detached(
    command: Sequence[str],
    log: Path,
    environment: Mapping[str, str] | None = None,
    *,
    out: Path | None = None,
    mark: str = "",
    known: Callable[[int, int], object] = lambda pid, began: None,
) -> int:
    """Start a process that outlives this one, in a session of its own, its output in `log`. Returns its pid.

    Args:
        command: program and arguments.
        log: its output is added there.
        environment: added to ours.
        out: what it prints goes there instead, and only its errors to the log; replaced if it is there.
        mark: of it and of all that it starts; see `marked`.
        known: called with its pid and when it began, before it does anything; if that fails, it never does.

    Raises:
        Unavailable: the system cannot start a process, or not write the log.
    """
    if shutil.which(command[0]) is None:
        raise Unavailable(f"{command[0]} cannot be started: there is no such program")
    waits, tells = os.pipe()
    try:
        actions = [
            (os.POSIX_SPAWN_DUP2, waits, 0),
            (os.POSIX_SPAWN_OPEN, 2, str(log), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644),
            (os.POSIX_SPAWN_OPEN, 1, str(out), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
            if out is not None
            else (os.POSIX_SPAWN_DUP2, 2, 1),
            *((os.POSIX_SPAWN_CLOSE, fd) for fd in _inherited()),
        ]
        variables = {**_environment(environment), MARK: mark}
        try:
            pid = os.posix_spawn(_HELD[0], [*_HELD, *command], variables, file_actions=actions, setsid=True)
        except OSError as e:
            raise Unavailable(f"{command[0]} cannot be started with its output in {log}: {e}") from e
        known(pid, started(pid))
        os.write(tells, b"go\n")
        return pid
    finally:
        os.close(waits)
        os.close(tells)


def _inherited() -> list[int]:
    """Files, beside the usual three, that whoever started us left open for us and for what we start.

    One that stays would hold them for ever: the lock of `flock FILE rowloom up`, or a pipe that is read to its end.
    """
    found: list[int] = []
    for fd in map(int, os.listdir("/proc/self/fd" if Path("/proc/self/fd").exists() else "/dev/fd")):
        with contextlib.suppress(OSError):  # what listed them is closed by now
            if fd > 2 and os.get_inheritable(fd):
                found.append(fd)
    return found


def wait_until_up(
    what: str,
    pid: int,
    began: int,
    log: Path,
    timeout_s: float,
    up: Callable[[], T | None],
    *,
    limit: str = "",
) -> T:
    """Wait for a detached process.

    Args:
        what: it is, for messages.
        pid: which one.
        began: and since when.
        log: where it says why it ended.
        timeout_s: until it is taken to have failed.
        up: something that is not None, once the process is up; returned. May raise.
        limit: what `timeout_s` is called, if its owner can change it.

    Raises:
        Unavailable: it ended, or took too long.
    """
    until = time.monotonic() + timeout_s
    while time.monotonic() < until:
        running = is_running(pid, began)  # before `up`: what that looks at is written before the process ends
        answer = up()
        if answer is not None:
            return answer
        if not running:
            raise Unavailable(f"{what} ended while it started: {last_line(log)}")
        time.sleep(POLL_S)
    named = f" ({limit})" if limit else ""
    raise Unavailable(f"{what} was not up after {timeout_s:g} s{named}")


def end_process(pid: int, began: int, grace_s: float) -> None:
    """SIGTERM, and SIGKILL if it is still there after `grace_s`. Returns when it is gone.

    One that was stopped (SIGSTOP) is let go on, or it could not end in order.
    """
    for sent, patience_s in ((signal.SIGTERM, grace_s), (signal.SIGKILL, KILLED_S)):
        if not is_running(pid, began):
            break
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, sent)
        let_go_on(pid, began)
        wait_for_end(pid, began, patience_s)
    _reap(pid)


def _reap(pid: int) -> None:
    """Let the system forget a process that has ended, if it was a child of ours."""
    # The last of its threads may end after the first, and until then there is nothing to be had of it.
    until = time.monotonic() + KILLED_S
    with contextlib.suppress(OSError, ValueError):
        while os.waitpid(pid, os.WNOHANG) == (0, 0) and _fields(pid)[0] == "Z" and time.monotonic() < until:
            time.sleep(POLL_S)


def let_go_on(pid: int, began: int) -> None:
    """Wake up a process that was stopped, as by SIGSTOP or Ctrl-Z. No error if it is gone."""
    if is_running(pid, began):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)


def end_session(leader: int) -> None:
    """SIGKILL what is left of a session that `spawn_detached` began. Only call it when its leader is gone."""
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = _fields(int(stat.parent.name))
            if int(fields[3]) == leader and fields[0] != "Z":
                os.kill(int(stat.parent.name), signal.SIGKILL)


def marked(mark: str) -> list[tuple[int, int]]:
    """(pid, when it began) of the processes that `spawn_detached` started with a mark, and of all that they started.

    A pid may be used again by a stranger, a mark is not. None are found where there is no /proc.
    """
    wanted = f"{MARK}={mark}".encode()
    found: list[tuple[int, int]] = []
    for file in Path("/proc").glob("[0-9]*/environ"):
        pid = int(file.parent.name)
        with contextlib.suppress(OSError):  # it ended, or belongs to someone else
            if pid != os.getpid() and wanted in file.read_bytes().split(b"\0"):
                found.append((pid, started(pid)))
    return found


def end_marked(mark: str, grace_s: float) -> None:
    """End what is left of a mark: those that go by themselves within `grace_s` may, the others get SIGKILL."""
    until = time.monotonic() + grace_s
    for pid, began in marked(mark):
        if not wait_for_end(pid, began, until - time.monotonic()):
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
            wait_for_end(pid, began, KILLED_S)


def wait_for_end(pid: int, began: int, timeout_s: float) -> bool:
    """Until the process is gone; False if it is still there after `timeout_s`."""
    until = time.monotonic() + timeout_s
    while is_running(pid, began):
        if time.monotonic() >= until:
            return False
        time.sleep(POLL_S)
    return True


# --------------------------------------------------------------------------------------------------- looking at one


def started(pid: int) -> int:
    """When a process began, in ticks since boot: with the pid, its name for ever. 0 if it is gone."""
    try:
        fields = _fields(pid)
    except (OSError, ValueError):
        return 0
    return 0 if fields[0] == "Z" else int(fields[19])


def is_running(pid: int, began: int) -> bool:
    """Whether that very process lives; another one that got its number does not count."""
    if not pid:
        return False
    if Path("/proc/self/stat").exists():
        return began != 0 and started(pid) == began
    try:
        os.kill(pid, 0)
    except OSError:
        return False
    return True


def is_stopped(pid: int) -> bool:
    """Whether a process stands still, as after SIGSTOP or Ctrl-Z: it is there, and does nothing until SIGCONT."""
    try:
        return _fields(pid)[0] in ("T", "t")
    except (OSError, ValueError):
        return False


def cpu_s(pid: int) -> float:
    """CPU seconds, user and system, that a process has used."""
    fields = _fields(pid)
    return (int(fields[11]) + int(fields[12])) / TICKS_PER_S


def rss_bytes(pid: int) -> int:
    """Resident memory of a process."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE_BYTES


def last_line(log: Path) -> str:
    """What a process said last: most often why it ended."""
    try:
        text = log.read_text(errors="replace")
    except OSError:
        return "it said nothing"
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "it said nothing"


def _fields(pid: int) -> list[str]:
    """Of /proc/PID/stat, from the state on; the name before it, in parentheses, may hold spaces."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
