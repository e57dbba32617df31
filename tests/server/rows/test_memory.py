"""The memory of a table: what it costs, page sizes, and kernels where nothing can be kept on disk."""

import mmap
import subprocess
import sys
import textwrap

import numpy as np
import pytest

from rowloom.server.rows import memory
from rowloom.server.rows.rows import Rows


def run(code: str) -> str:
    """In a process of its own."""
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_resident_memory_follows_the_rows_that_exist() -> None:
    out = run("""
        import numpy as np
        from rowloom.server.rows.rows import Rows

        def resident():
            return int(open("/proc/self/statm").read().split()[1]) * 4096

        warm = Rows([64, 64], 100, "warm")
        warm.reserve(np.arange(9)); warm.insert(np.arange(9))
        before = resident()
        rows = Rows([64, 64], 10**9, "large")
        print(resident() - before)
        for begin in range(0, 400_000, 50_000):
            ids = np.arange(begin, begin + 50_000) * 7919
            rows.reserve(ids)
            _, new = rows.insert(ids)
            for column in rows.columns:
                column[new[0] : new[-1] + 1] = 1
        print(resident() - before, rows.nbytes)
    """)
    empty, resident, counted = map(int, out.split())
    rows_and_slots = 400_000 * 64 * 8
    assert empty < 4 << 20
    assert (
        rows_and_slots < resident < 1.05 * rows_and_slots + (16 << 20)
    )  # ends of large pages, what numpy keeps
    assert rows_and_slots < counted < 1.05 * rows_and_slots


def test_large_regions_ask_for_large_pages_and_small_ones_do_not(monkeypatch) -> None:
    monkeypatch.setattr(memory, "_HUGE_FROM", 4096)
    asked = []

    class Memory(mmap.mmap):
        def madvise(self, option, *rest) -> None:
            asked.append(len(self))
            super().madvise(option, *rest)

    monkeypatch.setattr(memory.mmap, "mmap", Memory)
    rows = Rows([2, 64], 10_000, "t")
    for end in (500, 5000, 9000):
        ids = np.arange(end)
        rows.reserve(ids)
        rows.insert(ids)
    # The ids and the two columns of values became large as well, each once.
    assert sorted(asked) == [10_000 * 8, 10_000 * 8, 10_000 * 256]


def test_a_kernel_without_large_pages_is_slower_and_no_more(monkeypatch) -> None:
    class Memory(mmap.mmap):
        def madvise(self, option, *rest) -> None:
            raise OSError("not in this kernel")

    monkeypatch.setattr(memory, "_HUGE_FROM", 1)
    monkeypatch.setattr(memory.mmap, "mmap", Memory)
    rows = Rows([2], 10_000, "t")
    rows.reserve(np.arange(5000))
    rows.insert(np.arange(5000))
    assert rows.count == 5000


def test_kernels_run_where_nothing_can_be_kept_on_disk() -> None:
    out = run("""
        from numba.core import caching
        caching.CacheImpl._locator_classes = []  # as where neither the sources nor the home can be written
        from rowloom.server.optimizers import exact
        print(exact.power(2.0, 10), exact.power.stats.cache_path)
    """)
    assert out.split() == ["1024.0", "None"]
