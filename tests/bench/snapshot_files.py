"""What a snapshot's files cost: written and read beside plain writes and reads of the same bytes, in the same run.

`python tests/bench/snapshot_files.py [--megabytes 1024] [--folder /where/the/disk/is]`

One line of JSON; GB/s, medians of rounds in which they take turns. Plain writes are one file, written 4 MiB at a time
and synced as often as the snapshot is; plain reads are preadv of 4 MiB into the same memory again. `cold` is after the
kernel dropped the file's pages, as far as it can be asked to. `cut` is a shard's rows, read block by block and written.
`increment_bytes` is the size of a snapshot before which one row in a hundred has changed, as a part of the whole one;
`increment_s` is how long it takes, beside `cut_s`.
"""

import argparse
import contextlib
import json
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from rowloom.proto.layout import Layout, ShardAddress
from rowloom.proto.snapshots.folder import Scratch
from rowloom.proto.snapshots.snapshot import open_snapshot
from rowloom.proto.snapshots.stored import StoredShard
from rowloom.proto.snapshots.verifying import verify
from rowloom.proto.spec import Adagrad, TableEntry, TableSpec
from rowloom.server.shard import Shard
from rowloom.server.snapshots.commit import commit_snapshot
from rowloom.server.snapshots.shard_writer import FILE_BYTES, ShardWriter
from rowloom.server.snapshots.target import target_of
from rowloom.server.snapshots.writing import write_cut
from rowloom.server.taking import Taking

ROUNDS = 5
BLOCK_ROWS = 4096
PIECE = 4 << 20
ENTRY = TableEntry(1, TableSpec("users", dim=64, optimizer=Adagrad(lr=0.1)))
LAYOUT = Layout("bench", 1, (ShardAddress(0, "bench:1", 1),))
ROW_BYTES = 8 + 4 + 2 * 64 * 4


def written(path: Path, rows: int) -> None:
    """A snapshot of so many rows, block by block."""
    rng = np.random.default_rng(0)
    values = rng.standard_normal((BLOCK_ROWS, 64)).astype("f4")
    slots, touched = np.abs(values), np.ones(BLOCK_ROWS, np.uint32)
    target = target_of(path)
    shard = ShardWriter(target, 0)
    table = shard.table(ENTRY)
    for begin in range(0, rows, BLOCK_ROWS):
        n = min(BLOCK_ROWS, rows - begin)
        table.write(np.arange(begin, begin + n), touched[:n], values[:n], [slots[:n]])
    table.finish(rows=rows, step=1)
    part = shard.finish(lsn=0, generation=1)
    commit_snapshot(
        target,
        id=path.name,
        cluster_name="bench",
        created_s=1.0,
        layout=LAYOUT,
        shards=[part],
        tables=[ENTRY],
    )


def plain_written(path: Path, size: int) -> None:
    """One file of so many bytes."""
    data = np.random.default_rng(0).integers(0, 256, PIECE, np.uint8)
    with open(path, "wb", buffering=0) as file:
        for begin in range(0, size, PIECE):
            file.write(data[: min(PIECE, size - begin)].data)
            if begin % FILE_BYTES == 0:
                os.fdatasync(file.fileno())
        os.fsync(file.fileno())


def read(path: Path) -> None:
    """All rows of a snapshot."""
    for block in open_snapshot(path).read("users", scratch=Scratch()):
        assert len(block.ids)


def plain_read(path: Path) -> None:
    """All bytes of a file."""
    data = np.empty(PIECE, np.uint8)
    with open(path, "rb", buffering=0) as file:
        while file.readinto(data.data):
            pass


def files(path: Path) -> Iterator[Path]:
    """The files below a path."""
    yield from (p for p in ([path] if path.is_file() else path.rglob("*")) if p.is_file())


def forget(path: Path) -> None:
    """Ask the kernel to drop the pages of what is on disk."""
    for file in files(path):
        with open(file, "rb") as f:
            os.posix_fadvise(f.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def cut(folder: Path, shard: Shard, id: str, parent: str = "") -> tuple[float, int]:
    """Seconds and bytes of a shard's part of a snapshot."""
    began = time.perf_counter()
    taking = Taking(id, str(folder / id), 0, 0, 0, shard.cut(id=id, parent=parent))
    part = StoredShard.from_json(write_cut(taking, contextlib.nullcontext))
    taking.cut.end()
    return time.perf_counter() - began, sum(file.bytes for file in part.files)


def filled(rows: int) -> Shard:
    """A shard of so many rows."""
    shard = Shard(LAYOUT, 0, [ENTRY])
    for begin in range(0, rows, 1 << 16):
        ids = np.arange(begin, min(rows, begin + (1 << 16)))
        shard.tables[1].push(ids, np.ones((len(ids), 64), np.float32), 1)
    return shard


def increments(folder: Path, shard: Shard, rng: np.random.Generator) -> dict[str, float]:
    """A whole snapshot of a shard, and one upon it."""
    whole_s, whole = cut(folder, shard, "whole")
    rows = len(shard.tables[1])
    ids = rng.choice(rows, rows // 100, replace=False)
    shard.tables[1].push(ids, np.ones((len(ids), 64), np.float32), 2)
    part_s, part = cut(folder, shard, "part", "whole")
    shutil.rmtree(folder / "whole")
    shutil.rmtree(folder / "part")
    return {
        "cut": whole / whole_s / 1e9,
        "cut_s": whole_s,
        "increment_s": part_s,
        "increment_bytes": part / whole,
    }


def measured(size: int, work: Callable[[], object]) -> float:
    """GB/s."""
    began = time.perf_counter()
    work()
    return size / (time.perf_counter() - began) / 1e9


def one_round(folder: Path, rows: int, ours_first: bool) -> dict[str, float]:
    """Rates of one round."""
    size = rows * ROW_BYTES
    snapshot, plain = folder / "snapshot", folder / "plain"
    ours = {"write": lambda: written(snapshot, rows), "read": lambda: read(snapshot)}
    theirs = {"write": lambda: plain_written(plain, size), "read": lambda: plain_read(plain)}
    rates: dict[str, float] = {}
    for what in ("write", "read", "read_cold"):
        if what == "read_cold":
            for place in (snapshot, plain):
                forget(place)
        works = [(what, ours), (f"plain_{what}", theirs)]
        for name, side in works if ours_first else reversed(works):
            rates[name] = measured(size, side[what.removesuffix("_cold")])
    forget(snapshot)
    rates["verify_cold"] = measured(size, lambda: verify(snapshot))
    shutil.rmtree(snapshot)
    plain.unlink()
    return rates


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--megabytes", type=int, default=1024)
    parser.add_argument("--folder", type=Path, default=None)
    options = parser.parse_args()
    rows = options.megabytes * (1 << 20) // ROW_BYTES
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        one_round(Path(name), rows, True)  # what compiles, and memory that the machine never had
        shard, rng = filled(rows), np.random.default_rng(0)
        increments(Path(name), shard, rng)
        rounds = [
            one_round(Path(name), rows, k % 2 == 0) | increments(Path(name), shard, rng)
            for k in range(ROUNDS)
        ]
    rates = {key: statistics.median(one[key] for one in rounds) for key in rounds[0]}
    rates["cut_ratio"] = statistics.median(one["cut"] / one["plain_write"] for one in rounds)
    for what in ("write", "read", "read_cold"):
        rates[f"{what}_ratio"] = statistics.median(one[what] / one[f"plain_{what}"] for one in rounds)
    print(
        json.dumps({"megabytes": options.megabytes, **{key: round(rate, 4) for key, rate in rates.items()}})
    )


if __name__ == "__main__":
    main()
