"""What a process has in memory is moved to huge pages, where the kernel can; nothing else changes."""

import subprocess
import sys

import pytest

from rowloom.server.running import huge_pages
from rowloom.server.running.huge_pages import HUGE_PAGE, use_huge_pages

SCRIPT = """
import hashlib
from rowloom.server.running.huge_pages import use_huge_pages

def in_huge_pages():
    with open("/proc/self/smaps_rollup") as f:
        return next(int(line.split()[1]) << 10 for line in f if line.startswith("AnonHugePages"))
def resident():
    with open("/proc/self/statm") as f:
        return int(f.read().split()[1]) << 12
many = [str(k) for k in range(600_000)]
before = in_huge_pages(), resident()
moved = use_huge_pages()
assert many == [str(k) for k in range(600_000)]
print(moved, in_huge_pages() - before[0], resident() - before[1])
"""


@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux")
def test_objects_of_a_process_lie_in_huge_pages_and_take_little_more_memory() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    moved, huge, more = map(int, done.stdout.split())
    if not moved:
        pytest.skip("this kernel has none to give")
    assert moved >= 20 << 20
    assert huge >= moved // 2  # others of the machine may have taken some back
    assert more < moved // 2


def test_an_operator_who_turned_huge_pages_off_gets_none(tmp_path, monkeypatch) -> None:
    said = tmp_path / "enabled"
    said.write_text("always madvise [never]\n")
    monkeypatch.setattr(huge_pages, "_ENABLED", said)
    assert use_huge_pages() == 0
    monkeypatch.setattr(huge_pages, "_ENABLED", tmp_path / "nowhere")  # a kernel without them
    assert use_huge_pages() == 0


def test_only_private_memory_of_no_file_is_moved_and_no_stack() -> None:
    maps = """\
555555400000-555555c00000 rw-p 00000000 00:00 0                          [heap]
7f0000100000-7f0000700000 rw-p 00000000 00:00 0
7f0001000000-7f0002000000 r--p 00000000 00:00 0
7f0003000000-7f0004000000 rw-s 00000000 00:01 1027                       /memfd:arena (deleted)
7f0005000000-7f0006000000 rw-p 00000000 08:01 99                         /usr/lib/libx.so
7f0007000000-7f0007100000 rw-p 00000000 00:00 0
7ffc00000000-7ffc00800000 rw-p 00000000 00:00 0                          [stack]
"""
    heap = [0x555555400000 + k * HUGE_PAGE for k in range(4)]
    assert list(huge_pages._pieces(maps)) == [*heap, 0x7F0000200000, 0x7F0000400000]
