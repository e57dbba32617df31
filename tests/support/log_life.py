"""One log through many lives of its process, with what must be true of it beside it."""

from __future__ import annotations

import random
from collections.abc import Callable

from virtual_disk import Crash, VirtualDisk

from rowloom.proto.errors import RowloomError
from rowloom.server.durable.extents import Owner
from rowloom.server.durable.log import Log, Mode, Ticket
from rowloom.server.durable.reading import Reading
from rowloom.server.durable.records import Kind, LogCorrupt
from rowloom.server.durable.segments import Segments
from rowloom.server.durable.writer import Writer

FOLDER = "/log"
OWNER = Owner("a-cluster", 3, 1)
SMALL = 8192  # bytes of a segment: half of it records


class LogLife:
    """Appends, writes, waits and crashes in one thread; `open` checks what is read against what was acknowledged.

    Args:
        mode: of the log.
        seed: of payloads, and of what a loss of power leaves.
        salted: whether each segment has its own salt; without, old records of a recycled file have good checksums.
    """

    def __init__(self, mode: Mode, seed: int = 0, salted: bool = False) -> None:
        self.mode = mode
        self.rng = random.Random(seed)
        self.salt = (lambda: self.rng.getrandbits(32)) if salted else (lambda: 0)
        self.disk = VirtualDisk()
        self.history: list[bytes] = []  # payload of lsn 1, 2 ...: what may be read
        self.sure = 0  # lsn up to which all must be read
        self.cut = 0  # lsn up to which a snapshot has it
        self.dropped = 0
        self.before = 0, 0  # cut and sure before the log was renewed
        self.open()

    def renew(self) -> bool:
        """A snapshot has all that was appended, and the log, which failed, goes on behind it. Returns whether it does.

        Raises Crash.
        """
        self.note()
        self.before = self.cut, self.sure
        self.waiting = []
        self.cut = self.sure = self.log.lsn
        try:
            self.writer = self.writer.renewed()
        except OSError:
            return False
        self.log, self.tickets = self.writer._log, {}
        return True

    def check_without_the_last_snapshot(self) -> None:
        """Should that be damaged: what an earlier one and the log give is refused, or has all that was acknowledged."""
        cut, sure = self.before
        segments = Segments(FOLDER, OWNER, segment_bytes=SMALL, disk=self.disk.beside(), salt=self.salt)
        try:
            found = [bytes(record.payload) for record in Reading(segments, cut).records()]
        except LogCorrupt:
            return
        finally:
            segments.close()
        assert cut + len(found) >= (self.sure if self.sure > self.cut else sure)

    def open(self) -> None:
        """Start a process on what the disk holds. Raises AssertionError where that is not what it must be."""
        segments = Segments(FOLDER, OWNER, segment_bytes=SMALL, disk=self.disk, salt=self.salt)
        reading = Reading(segments, self.cut)
        found = [bytes(record.payload) for record in reading.records()]
        assert found == self.history[self.cut : self.cut + len(found)], (
            "what was read was never appended there"
        )
        assert self.cut + len(found) >= self.sure, (
            f"acknowledged up to {self.sure}, read up to {self.cut + len(found)}"
        )
        self.dropped += reading.dropped
        self.history = self.history[: self.cut + len(found)]
        self.log = Log(self.mode, reading.repair(), SMALL)
        self.writer = Writer(self.log, segments)
        self.waiting: list[Ticket] = []  # to be written
        self.tickets: dict[int, Ticket] = {}
        self.sure = len(self.history)  # whoever asks is shown it from now on
        self.disk.during_sync = self.write_beside

    def append(self, length: int) -> Ticket:
        ticket = self.writer.append(Kind.PUSH, length)
        self.history.append(self.rng.randbytes(length))
        self.waiting.append(ticket)
        self.tickets[ticket.lsn] = ticket
        return ticket

    def write(self, which: int) -> None:
        if self.waiting:
            ticket = self.waiting.pop(which % len(self.waiting))
            self.writer.write(ticket, [self.history[ticket.lsn - 1]])

    def write_beside(self) -> None:
        """What other threads do while one syncs."""
        if self.waiting and self.rng.random() < 0.5:
            before, self.disk.before = self.disk.before, lambda method, name: None
            # One that needs no new segment: that would want a sync itself.
            ready = [i for i, t in enumerate(self.waiting) if t.extent.number <= self.writer._opened]
            if ready and not self.writer._opening:
                self.write(self.rng.choice(ready))
            self.disk.before = before

    def wait(self, which: int) -> None:
        """As the thread of a push whose record, and all before it, are written."""
        ready = [t for t in self.tickets.values() if t.end <= self.log.written_prefix]
        if ready:
            self.writer.wait(ready[which % len(ready)].end)

    def note(self) -> None:
        """Remember what has been acknowledged."""
        ends = [lsn for lsn, t in self.tickets.items() if t.end <= self.log.ackable]
        self.sure = max([self.sure, *ends])

    def recycle(self, which: int) -> None:
        self.note()
        kept = [lsn for lsn, t in self.tickets.items() if t.end <= self.log.kept]
        if kept:
            self.cut = max(self.cut, kept[which % len(kept)])
            self.writer.recycle(self.cut)

    def close(self) -> bool:
        """The server stops by itself, when nobody uses the log any more. Returns whether it did. Raises Crash."""
        while self.waiting and self.log.error is None:
            self.write(0)
        self.writer.close()
        if self.log.error is not None:
            return False
        self.sure = len(self.history)
        return True

    def crash(self, power: bool, *, closed: bool = False) -> None:
        """The process ends; the machine too, where the mode survives that. closed: it has closed the log before."""
        self.note()
        if power and self.mode is Mode.INTERVAL and not closed:
            kept = [lsn for lsn, t in self.tickets.items() if t.end <= self.log.kept]
            self.sure = max([self.read_once, *kept])
        self.disk = self.disk.without_power(self.rng) if power else self.disk.killed()

    @property
    def read_once(self) -> int:
        """lsn up to which this process found the log when it began."""
        return min(self.tickets, default=len(self.history) + 1) - 1

    def do(self, op: str, n: int) -> bool:
        """One step. Returns whether the log still lives: it does not when it failed."""
        steps: dict[str, Callable[[], object]] = {
            "append": lambda: self.append(n),
            "write": lambda: self.write(n),
            "wait": lambda: self.wait(n),
            "sync": self.writer.sync,
            "recycle": lambda: self.recycle(n),
        }
        try:
            steps[op]()
        except Crash:
            return False
        except (RowloomError, OSError):
            assert self.log.error is not None
            return False
        self.note()
        return True


def fails_at(count: int, error: BaseException | int) -> Callable[[str, str], int | None]:
    """For VirtualDisk.before: call number `count` from now fails; a number: it is a write cut short by a crash."""
    left = [count]

    def before(method: str, name: str) -> int | None:
        left[0] -= 1
        if left[0] != 0:
            return None
        if isinstance(error, BaseException):
            raise error
        if method != "pwritev":
            raise Crash
        return error

    return before
