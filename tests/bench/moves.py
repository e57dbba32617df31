"""What trainers notice while rows move: `python tests/bench/moves.py [--rows 4000000] [--durability process] [FOLDER]`.

Two trainers, processes of their own, pull and push batches without a pause, uniform ids and then Zipf ids, while the
cluster goes through `--steps`. One line of JSON for each move: how long it took, the longest call of any trainer, p50
and p99 of calls, and rows a second, meanwhile and before; and one at the end: calls that failed, and whether every row
is what a replay of all pushes gives, to the bit. Exit code 1 if a call failed or took longer than `--most-ms`, or a
row differs.

What the machine does by itself is told beside it. `stolen_ms`: what a hypervisor took from the processors (of all of
them together) during the longest call. `reported_mb`: what free memory the kernel gave back to it then, which stops a
small machine for 0.1 to 0.3 s each 2.3 s for as long as there is some (0 from a kernel that does not count it).
`longest_else_ms`: the longest call during which it gave none back; only that counts for `--most-ms`.
`fresh_memory_mb_per_s`: how fast the first writer gets pages of 2 MB, and `used_memory_mb_per_s` the second one: rows
that move need memory that is new to their server, and where a hypervisor must find it first, that is most of a move.
`--used-memory GIB` shows what moves are without that: a process that has used so much gives it back at the pace at
which it is needed, and uses as much again before the next move.

Trainers push to rows of their own, each gradient the same number in all columns: so one column, replayed in numpy,
tells what every one must be.
"""

import argparse
import json
import mmap
import multiprocessing
import os
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from rowloom.client import Adagrad, TableSpec, Zeros, connect
from rowloom.deploy.bench.workload import zipf_ids
from rowloom.deploy.config.config import parse
from rowloom.deploy.operate.clusters import down, up
from rowloom.deploy.operate.directory import ClusterDirectory
from rowloom.deploy.operate.remote import Remote

F = np.float32
DIM, LR, TRAINERS, POOL = 64, 0.01, 2, 32
DISTRIBUTIONS = ("uniform", "zipf")
STEPS = "2,3,5,4,1,8,2"
MINE = 16  # this bit of an id says whose it is; all shards have ids of both
BEFORE_S = 3.0  # of the calls that a move is compared with
AFTER_S = 1.0  # calls that meet the new layout count as calls of the move

Batch = tuple[np.ndarray, np.ndarray]  # ids [B] int64, distinct; one number for each of them, float32


def batches_of(trainer: int, distribution: str, rows: int, batch: int) -> list[Batch]:
    """What a trainer pushes, in turn."""
    rng = np.random.default_rng([trainer, DISTRIBUTIONS.index(distribution)])
    out: list[Batch] = []
    for _ in range(POOL):
        drawn = zipf_ids(batch, rows, rng) if distribution == "zipf" else rng.integers(0, rows, batch)
        ids = np.unique(drawn & ~MINE | trainer * MINE)
        ids = ids[ids < rows]
        out.append((ids, rng.standard_normal(len(ids)).astype(F)))
    return out


def train(trainer: int, address: str, rows: int, batch: int, phase: Any, begun: Any, results: Any) -> None:
    """Pull and push until the phase is -1. Reports calls as (begin, end, rows), errors, and pushes of each phase."""
    made = [
        [(ids, np.repeat(g[:, None], DIM, 1)) for ids, g in batches_of(trainer, d, rows, batch)]
        for d in DISTRIBUTIONS
    ]
    calls: list[tuple[float, float, int]] = []
    errors: list[str] = []
    pushed: list[tuple[int, int]] = []  # (phase, batch), in order
    with connect(address) as client:
        table = client.table("t")
        for k in range(1 << 62):
            now = phase.value
            if now < 0:
                break
            ids, grads = made[now][k % POOL]
            try:
                began = time.monotonic()
                table.pull(ids)
                between = time.monotonic()
                calls.append((began, between, len(ids)))
                table.push(ids, grads)
                calls.append((between, time.monotonic(), len(ids)))
                pushed.append((now, k % POOL))
            except Exception as e:
                errors.append(f"{type(e).__name__}: {e}")
            if k == 0:
                begun.set()
    results.put((trainer, calls, errors, pushed))


def replayed(rows: int, batch: int, pushed: dict[int, list[tuple[int, int]]]) -> np.ndarray:
    """One column of the table after all pushes."""
    weights, sums = np.zeros(rows, F), np.zeros(rows, F)
    for trainer, done in pushed.items():
        made = [batches_of(trainer, d, rows, batch) for d in DISTRIBUTIONS]
        for phase, k in done:
            ids, g = made[phase][k]
            there = sums[ids] + g * g
            sums[ids] = there
            weights[ids] -= F(LR) * g / (np.sqrt(there) + F(1e-10))
    return weights


def spread(calls: np.ndarray) -> dict[str, float]:
    """Milliseconds of calls: p50, p99 and the longest."""
    if not len(calls):
        return {"count": 0}
    p50, p99, longest = np.percentile(1e3 * (calls[:, 1] - calls[:, 0]), [50, 99, 100])
    return {
        "p50": round(p50, 2),
        "p99": round(p99, 2),
        "max": round(longest, 1),
        "count": len(calls),
    }


def rate(calls: np.ndarray, begin: float, end: float) -> float:
    """Rows a second of calls that ended in a time."""
    inside = calls[(calls[:, 1] >= begin) & (calls[:, 1] < end)]
    return float(inside[:, 2].sum() / (end - begin))


class Taken:
    """What a hypervisor took from this machine as a block ran: processors for a time, and memory that was free."""

    EVERY_S = 0.02
    # Where the kernel counts what it reports as free; no other kernel does.
    REPORTED = Path("/sys/module/page_reporting/parameters/reported_kib")

    def __init__(self) -> None:
        # When; milliseconds of processors, and MB of memory, since the machine was started.
        self._looks: list[tuple[float, float, float]] = []
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> "Taken":
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._ending.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._ending.wait(self.EVERY_S):
            with open("/proc/stat") as file:
                ticks = int(file.readline().split()[8])
            given_mb = int(self.REPORTED.read_text()) * 1024 / 1e6 if self.REPORTED.exists() else 0.0
            self._looks.append((time.monotonic(), 1e3 * ticks / os.sysconf("SC_CLK_TCK"), given_mb))

    def within(self, calls: np.ndarray) -> np.ndarray:
        """For each of some calls, from the last look before it to the first one after: ms of all processors, MB."""
        looks = np.array(self._looks)
        first, last = np.searchsorted(looks[:, 0], [calls[:, 0], calls[:, 1]])
        return looks[np.minimum(last, len(looks) - 1), 1:] - looks[np.maximum(first - 1, 0), 1:]


class UsedMemory:
    """A process that gives back memory while rows move, which servers then get faster than memory nobody has used.

    Args:
        size: bytes that it uses before a move.
    """

    PIECE, EVERY_S = 64 << 20, 0.02

    def __init__(self, size: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, other = context.Pipe()
        self._process = context.Process(target=_use_memory, args=(other, size), daemon=True)

    def __enter__(self) -> "UsedMemory":
        self._process.start()
        self._pipe.recv()
        return self

    def __exit__(self, *exc: object) -> None:
        self._pipe.close()
        self._process.join()

    @contextmanager
    def given_back(self) -> Iterator[None]:
        """While rows move."""
        self._pipe.send("give")
        yield
        self._pipe.send("use")
        self._pipe.recv()


def _use_memory(pipe: Any, size: int) -> None:
    with suppress(EOFError):
        while True:
            pieces = [_used_piece(UsedMemory.PIECE) for _ in range(-(-size // UsedMemory.PIECE))]
            pipe.send("used")
            pipe.recv()
            least = _free_memory()
            while not pipe.poll(UsedMemory.EVERY_S):
                while pieces and _free_memory() < least:
                    pieces.pop().close()
            pipe.recv()


def _free_memory() -> int:
    """Bytes that nobody uses."""
    with open("/proc/meminfo") as file:
        return 1024 * next(int(line.split()[1]) for line in file if line.startswith("MemFree:"))


def _used_piece(size: int) -> mmap.mmap:
    """Memory of pages of 2 MB, each of which has been written to."""
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory.madvise(mmap.MADV_HUGEPAGE)
    np.frombuffer(memory, np.uint8)[::4096] = 1
    return memory


def memory_mb_per_s(size: int = 512 << 20) -> tuple[float, float]:
    """How fast huge pages are written to for the first time, and, given back and asked for again, for the second."""
    rates: list[float] = []
    for _ in range(2):
        began = time.monotonic()
        memory = _used_piece(size)
        rates.append(size / 1e6 / (time.monotonic() - began))
        memory.close()
    return rates[0], rates[1]


def measured(move: dict[str, Any], calls: np.ndarray, host: Taken) -> dict[str, Any]:
    """One line: a move beside the calls of all trainers."""
    begin, end = move.pop("begin"), move.pop("end")
    inside = calls[(calls[:, 1] >= begin) & (calls[:, 0] < end + AFTER_S)]
    before = calls[(calls[:, 1] >= begin - BEFORE_S) & (calls[:, 1] < begin)]
    taken = host.within(inside)
    k = int(np.argmax(inside[:, 1] - inside[:, 0]))
    there, then = rate(calls, begin, end), rate(calls, begin - BEFORE_S, begin)
    return move | {
        "longest_ms": spread(inside).get("max", 0.0),
        "longest_at_s": round(float(inside[k, 0]) - begin, 2),
        "stolen_ms": round(float(taken[k, 0])),
        "reported_mb": round(float(taken[k, 1])),
        "longest_else_ms": spread(inside[taken[:, 1] == 0]).get("max", 0.0),
        "meanwhile": spread(inside),
        "before": spread(before),
        "rows_per_s": round(there),
        "of_before": round(there / then, 2) if then else None,
    }


def moves(
    address: str, args: argparse.Namespace, memory: UsedMemory
) -> tuple[list[dict[str, Any]], list[Any]]:
    """Go through all steps under trainers. Returns the moves and what the trainers report."""
    context = multiprocessing.get_context("spawn")
    phase, results = context.Value("i", 0), context.Queue()
    begun = [context.Event() for _ in range(TRAINERS)]
    jobs = [
        context.Process(target=train, args=(t, address, args.rows, args.batch, phase, begun[t], results))
        for t in range(TRAINERS)
    ]
    for job in jobs:
        job.start()
    for event in begun:
        assert event.wait(120)
    out: list[dict[str, Any]] = []
    counts = [int(n) for n in args.steps.split(",")]
    with Remote(address) as remote:
        for number, name in enumerate(DISTRIBUTIONS):
            if name not in args.ids.split(","):
                continue
            phase.value = number
            now = len(remote.status().layout.shards)
            for count in counts:
                if count == now:
                    continue
                time.sleep(BEFORE_S)
                with memory.given_back():
                    began = time.monotonic()
                    reply = remote.scale(count)
                    ended = time.monotonic()
                    time.sleep(AFTER_S)
                out.append(
                    {
                        "ids": name,
                        "from": now,
                        "to": count,
                        "seconds": round(ended - began, 2),
                        "pause_ms": round(1e3 * reply.pause_s, 1),
                        "moved_rows": reply.moved,
                        "moved_per_s": round(reply.moved / (ended - began)),
                        "passes": reply.passes,
                        "brake_us_a_row": round(1e6 * reply.brake_row_s, 1),
                        "begin": began,
                        "end": ended,
                    }
                )
                sys.stderr.write(f"{name} {now} -> {count}: {ended - began:.1f} s\n")
                now = count
    phase.value = -1
    reports = [results.get(timeout=120) for _ in jobs]
    for job in jobs:
        job.join(30)
    return out, reports


def main() -> None:
    """See above."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=4_000_000)
    parser.add_argument("--batch", type=int, default=4096)
    parser.add_argument("--steps", default=STEPS, help="numbers of shards, the first to begin with")
    parser.add_argument("--ids", default=",".join(DISTRIBUTIONS))
    parser.add_argument("--durability", default="memory", choices=["memory", "process", "interval", "disk"])
    parser.add_argument(
        "--most-ms",
        type=float,
        default=200.0,
        help="that a call may take, if the machine gives no memory back meanwhile",
    )
    parser.add_argument("--used-memory", type=float, default=0.0, metavar="GIB", help="see above")
    parser.add_argument("folder", nargs="?")
    args = parser.parse_args()
    root = Path(tempfile.mkdtemp(prefix="rowloom-bench-", dir=args.folder))
    home = ClusterDirectory(root / "home")
    spec = TableSpec("t", args.rows, dim=DIM, optimizer=Adagrad(lr=LR), initializer=Zeros())
    config = {
        "name": "m",
        "shards": int(args.steps.split(",")[0]),
        "tables": [spec],
        "durability": args.durability,
    }
    if args.durability != "memory":
        config["storage"] = str(root / "storage")
    record = up(parse(config), home).record
    try:
        with connect(record.address) as client:
            table = client.table("t")
            for begin in range(0, args.rows, 1 << 16):  # every row exists
                ids = np.arange(begin, min(begin + (1 << 16), args.rows))
                table.assign(ids, np.zeros((len(ids), DIM), F))
        fresh, used = memory_mb_per_s()
        with Taken() as taken, UsedMemory(int(args.used_memory * (1 << 30))) as memory:
            made, reports = moves(record.address, args, memory)
        calls = np.concatenate([np.array(calls).reshape(-1, 3) for _, calls, _, _ in reports])
        calls = calls[np.argsort(calls[:, 1])]
        lines = [measured(move, calls, taken) for move in made]
        for line in lines:
            sys.stdout.write(json.dumps(line) + "\n")
        errors = [error for *_, errors, _ in reports for error in errors]
        wanted = replayed(args.rows, args.batch, {trainer: pushed for trainer, _, _, pushed in reports})
        different = 0
        with connect(record.address) as client:
            for begin in range(0, args.rows, 1 << 16):
                ids = np.arange(begin, min(begin + (1 << 16), args.rows))
                found = client.table("t").pull(ids)
                bits = found.view(np.uint32) != wanted[ids].view(np.uint32)[:, None]
                different += int(bits.any(1).sum())
    finally:
        down(record, home)
        shutil.rmtree(root)
    longest = max(line["longest_ms"] for line in lines)
    longest_else = max(line["longest_else_ms"] for line in lines)
    sys.stdout.write(
        json.dumps(
            {
                "rows": args.rows,
                "durability": args.durability,
                "calls": len(calls),
                "failed": len(errors),
                "errors": errors[:3],
                "rows_that_differ": different,
                "longest_ms": longest,
                "longest_else_ms": longest_else,
                "used_memory_gib": args.used_memory,
                "fresh_memory_mb_per_s": round(fresh),
                "used_memory_mb_per_s": round(used),
            }
        )
        + "\n"
    )
    sys.exit(bool(errors) or different > 0 or longest_else > args.most_ms)


if __name__ == "__main__":
    main()
