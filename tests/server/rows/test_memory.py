"""The memory of a table: what it costs, page sizes, and kernels where nothing can be kept on disk."""

import mmap
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

from rowloom.proto.errors import Overloaded
from rowloom.server.rows import limits, memory
from rowloom.server.rows.limits import Limit
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
    # The ids and the two columns of values became large as well, each once; the largest in whole pages of 2 MB.
    assert sorted(asked) == [10_000 * 8, 10_000 * 8, 4 << 20]


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


def inserted(rows: Rows, ids: np.ndarray) -> np.ndarray:
    rows.reserve(ids)
    return rows.insert(ids)[0]


def test_columns_keep_what_is_in_them_as_they_grow() -> None:
    rows = Rows([3, 1], 10**9, "growing")
    rows.track()
    for begin, end in [(0, 10), (10, 20_000), (20_000, 900_000)]:
        numbers = inserted(rows, np.arange(begin, end))
        rows.columns[0][numbers] = np.arange(begin, end)[:, None]
        assert rows.columns[1][: rows.end].any() == (begin > 0)
        rows.columns[1][numbers] = 1
        assert all(len(column) == rows._regions.room for column in rows.columns)
    np.testing.assert_array_equal(rows.columns[0][:900_000, 2], np.arange(900_000, dtype=np.float32))
    assert not rows.columns[0][900_000:1_000_000].any()
    np.testing.assert_array_equal(rows.find(np.arange(900_000)), np.arange(900_000))
    assert len(rows.changed_since(1)) == 900_000


def test_a_column_that_somebody_looks_at_is_copied_when_it_grows() -> None:
    rows = Rows([2], 10**9, "held")
    inserted(rows, np.arange(10))
    rows.columns[0][:10] = 7
    held = rows.columns[0][:10]
    inserted(rows, np.arange(10**6))
    rows.columns[0][:10] += 1
    assert (held == 7).all()
    assert (rows.columns[0][:10] == 8).all()
    assert not rows.columns[0][10:].any()


def test_address_space_that_is_refused_leaves_a_table_as_it_was(monkeypatch) -> None:
    class Memory(mmap.mmap):
        def resize(self, size: int) -> None:
            raise OSError(12, "Cannot allocate memory")

    with monkeypatch.context() as patch:
        patch.setattr(memory.mmap, "mmap", Memory)
        rows = Rows([2], 10**9, "limited")
        inserted(rows, np.arange(10))
        rows.columns[0][:10] = 7
        with pytest.raises(Overloaded, match="refused to reserve"):
            rows.reserve(np.arange(10**6))
        np.testing.assert_array_equal(rows.find(np.arange(12)), [*range(10), -1, -1])
        assert (rows.columns[0][:10] == 7).all()
        inserted(rows, np.arange(20))
        assert rows.count == 20


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_open_ended_tables_once_took_as_much_address_space_as_the_machine_has_memory() -> None:
    """5,000 of them could be made and not scaled: all 2**47 bytes were taken."""
    out = run("""
        import numpy as np
        from rowloom.server.rows.rows import Rows

        def reserved():
            return int(open("/proc/self/statm").read().split()[0]) * 4096

        before = reserved()
        tables = [Rows([16, 16, 16], 2**63, "t") for _ in range(500)]
        print(reserved() - before)
        for rows in tables:
            rows.reserve(np.arange(20)); rows.insert(np.arange(20))
        print(reserved() - before)
    """)
    empty, filled = map(int, out.split())
    assert empty < 500 * 100_000
    assert filled < 500 * 1_500_000
    assert 2 * 20_000 * filled / 500 < 2**47 / 1000


# ------------------------------------------------------------------------------------------------------------- limits


def system(root: Path, groups: str, files: dict[str, object], free_kb: int = 1 << 40) -> Path:
    """A root of files as Linux has them. files: path below sys/fs/cgroup -> what it says."""
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(groups)
    (root / "proc/meminfo").write_text(
        f"MemTotal: {1 << 40} kB\nMemFree: 5 kB\nMemAvailable:   {free_kb} kB\n"
    )
    for name, text in files.items():
        path = root / "sys/fs/cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{text}\n")
    return root


def test_a_limit_of_a_control_group_counts_wherever_it_stands_in_the_tree(tmp_path) -> None:
    """A full shard was killed for want of memory: it took the machine's for its own."""
    files = {"memory.max": "max", "pod/memory.max": 3 << 20, "pod/shard/memory.max": 4 << 20}
    root = system(tmp_path, "0::/pod/shard\n", files)
    found = limits.total(root)
    assert found.bytes == 3 << 20
    assert found.what == f"the limit in {root}/sys/fs/cgroup/pod/memory.max"


def test_limits_of_the_first_version_of_control_groups_count_too(tmp_path) -> None:
    files = {"memory/memory.limit_in_bytes": 2**63 - 4096, "memory/job/memory.limit_in_bytes": 5 << 20}
    root = system(tmp_path, "5:cpu,cpuacct:/x\n4:memory:/job\n0::/\n", files)
    assert limits.total(root).bytes == 5 << 20


def test_in_a_container_the_top_of_the_tree_is_its_own(tmp_path) -> None:
    root = system(tmp_path, "4:memory:/docker/abc\n", {"memory/memory.limit_in_bytes": 7 << 20})
    assert limits.total(root).bytes == 7 << 20


def test_without_limits_there_is_the_machine(tmp_path) -> None:
    for root in (system(tmp_path / "a", "0::/\n", {"memory.max": "max"}), tmp_path / "no such system"):
        assert limits.total(root).what == "the machine's memory"
        assert limits.total(root).bytes > 1 << 20


def test_what_is_left_is_the_least_of_all_and_counts_what_would_be_given_up(tmp_path) -> None:
    files = {
        "pod/memory.max": 1000,
        "pod/memory.current": 900,
        "pod/memory.stat": "anon 500\ninactive_file 300\nactive_file 100",
        "pod/shard/memory.max": 5000,
        "pod/shard/memory.current": 100,
    }
    left = limits.available(system(tmp_path / "a", "0::/pod/shard\n", files))
    assert left.bytes == 400
    assert "the limit of 1000 bytes in" in left.what
    left = limits.available(system(tmp_path / "b", "0::/pod/shard\n", files, free_kb=0))
    assert left == Limit(0, "what the machine's memory has left")
    assert limits.available(tmp_path / "no such system") == limits.total(tmp_path / "no such system")


def test_a_full_table_names_the_limit_that_it_has_met(monkeypatch) -> None:
    monkeypatch.setattr(limits, "total", lambda *_: Limit(1600, "the limit in /x/memory.max"))
    rows = Rows([2], 2**63, "t")
    inserted(rows, np.arange(100))
    with pytest.raises(Overloaded, match=r"the limit in /x/memory.max, 1600 bytes, is good for 100"):
        rows.reserve(np.array([100]))


def test_many_tables_together_once_filled_a_memory_that_none_of_them_could_fill_alone(monkeypatch) -> None:
    from rowloom.server.rows.rows import SPARE_BYTES

    left = [SPARE_BYTES + (100 << 20)]
    monkeypatch.setattr(limits, "available", lambda: Limit(left[0], "what is left"))
    first, second = Rows([64], 2**63, "a"), Rows([64], 2**63, "b")
    inserted(first, np.arange(1000))
    left[0] = SPARE_BYTES + 10_000
    inserted(second, np.arange(10))
    for rows in (first, second):
        had = rows.count
        with pytest.raises(Overloaded, match="what is left, 67118864 bytes, must suffice"):
            inserted(rows, np.arange(5000))
        assert rows.count == had
    inserted(first, np.arange(1000))  # rows that exist need nothing
    left[0] = SPARE_BYTES + (100 << 20)
    inserted(first, np.arange(5000))
    assert first.count == 5000
