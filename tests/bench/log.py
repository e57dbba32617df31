"""What a shard's log costs: commits a second beside plain writes of the same bytes, in the same run.

`python tests/bench/log.py [--seconds 1.0] [--folder /where/the/disk/is]`

One line of JSON for each mode, size of a record and number of threads. `plain` is pwritev alone (process) or with
fdatasync (disk) of the same bytes by as many threads, each into a zero-filled file of its own. Ratios above 1 come from
one sync for several commits.
"""

import argparse
import json
import os
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

from rowloom.server.durable.extents import LogEnd, Owner
from rowloom.server.durable.log import Log, Mode
from rowloom.server.durable.records import Kind
from rowloom.server.durable.segments import SEGMENT_BYTES, Segments
from rowloom.server.durable.writer import Writer

SIZES = {"1 KB": 1 << 10, "270 KB": 270 << 10, "4.3 MB": 4_300_000}
ROUNDS = 3


def rate(threads: int, seconds: float, work: Callable[[int], object]) -> float:
    """Calls of work(k) a second, by so many threads that each call it again and again."""
    counts, stop = [0] * threads, threading.Event()

    def run(k: int) -> None:
        while not stop.is_set():
            work(k)
            counts[k] += 1

    running = [threading.Thread(target=run, args=(k,)) for k in range(threads)]
    began = time.perf_counter()
    for thread in running:
        thread.start()
    stop.wait(seconds)
    stop.set()
    for thread in running:
        thread.join()
    return sum(counts) / (time.perf_counter() - began)


class Logged:
    """Commits to a log; its segments are used again, as a snapshot would let them be."""

    def __init__(self, folder: Path, mode: Mode) -> None:
        self.segments = Segments(str(folder), Owner("bench", 1, 0))
        self.segments.make_spare()
        self.writer = Writer(Log(mode, LogEnd(), SEGMENT_BYTES), self.segments)
        self.shard = threading.Lock()
        self.writer.start()

    def commit(self, payload: bytes) -> None:
        with self.shard:
            ticket = self.writer.append(Kind.PUSH, len(payload))
        self.writer.write(ticket, [payload])
        self.writer.wait(ticket.end)
        if ticket.extent.first_lsn == ticket.lsn:
            self.writer.recycle(ticket.extent.first_lsn - 1)


class Plain:
    """The same bytes into a file for each thread."""

    def __init__(self, folder: Path, mode: Mode, threads: int) -> None:
        self.mode, self.places = mode, [0] * threads
        self.files = [os.open(folder / f"plain-{k}", os.O_RDWR | os.O_CREAT, 0o600) for k in range(threads)]
        for file in self.files:
            for place in range(0, SEGMENT_BYTES, 1 << 20):
                os.pwrite(file, bytes(1 << 20), place)
            os.fsync(file)

    def commit(self, k: int, payload: bytes) -> None:
        if self.places[k] + len(payload) > SEGMENT_BYTES:
            self.places[k] = 0
        os.pwritev(self.files[k], [payload], self.places[k])
        self.places[k] += len(payload)
        if self.mode is Mode.DISK:
            os.fdatasync(self.files[k])


def measure(folder: Path, mode: Mode, size: int, threads: int, seconds: float) -> dict[str, float]:
    """Medians of rounds in which log and plain writes take turns."""
    payload = os.urandom(size)
    for name in ("log", "plain"):
        (folder / name).mkdir()
    logged, plain = Logged(folder / "log", mode), Plain(folder / "plain", mode, threads)
    rates: list[tuple[float, float]] = []
    for _ in range(ROUNDS):
        ours = rate(threads, seconds, lambda _: logged.commit(payload))
        rates.append((ours, rate(threads, seconds, lambda k: plain.commit(k, payload))))
    logged.writer.close()
    for file in plain.files:
        os.close(file)
    ours, theirs = (sorted(column)[ROUNDS // 2] for column in zip(*rates, strict=True))
    return {
        "commits/s": round(ours),
        "MB/s": round(ours * size / 1e6, 1),
        "plain/s": round(theirs),
        "ratio": round(ours / theirs, 2),
    }


def main() -> None:
    """Print a line for each case."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=0.5, help="of each round")
    parser.add_argument("--folder", type=Path, help="on the disk to be measured")
    args = parser.parse_args()
    for mode in (Mode.PROCESS, Mode.DISK):
        for name, size in SIZES.items():
            for threads in (1, 2, 4):
                with tempfile.TemporaryDirectory(dir=args.folder) as folder:
                    found = measure(Path(folder), mode, size, threads, args.seconds)
                print(
                    json.dumps({"mode": mode.value, "record": name, "threads": threads, **found}), flush=True
                )


if __name__ == "__main__":
    main()
