"""The allocator of a process that moves large messages keeps their memory."""

import subprocess
import sys

import pytest

# Large arrays, made and dropped: with the settings each takes the memory of the one before, without new page faults.
SCRIPT = """
import resource, sys
import numpy as np
from rowloom.client import keep_freed_memory

if sys.argv[1] == "keep":
    assert keep_freed_memory()
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
np.ones(4 << 20, np.uint8)
before = faults()
for _ in range(20):
    np.ones(4 << 20, np.uint8)
print(faults() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="a setting of glibc")
def test_memory_of_large_arrays_is_kept_for_the_next() -> None:
    def faults(how: str) -> int:
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT, how], capture_output=True, text=True, timeout=200
        )
        assert done.returncode == 0, done.stderr
        return int(done.stdout)

    kept = faults("keep")
    assert kept < 200
    assert faults("give back") > 5 * kept


# What many large messages at once leave: buffers that were freed, and here and there a small one that was not.
CROWD = """
import sys
from rowloom.proto import allocator

def mb():
    return allocator._private_bytes() >> 20
assert allocator.keep_freed_memory()
crowd, left, looks = [], [], []
def ended(seconds):
    looks.append(mb())
    if len(looks) == 1:
        crowd.extend(bytearray(16384) for _ in range(int(sys.argv[1]) << 6))
    if len(looks) == 3:  # it was there at one look, and is gone at the next
        left.extend(crowd[::1000])
        crowd.clear()
    return len(looks) == 5
allocator.give_back_freed_memory(ended)
print(mb() - looks[0])
"""


@pytest.mark.skipif(sys.platform != "linux", reason="a setting of glibc")
@pytest.mark.parametrize(("crowd_mb", "least", "most"), [(400, 0, 40), (40, 30, 60)])
def test_what_a_crowd_of_large_messages_left_once_stayed_with_the_process(crowd_mb, least, most) -> None:
    done = subprocess.run(
        [sys.executable, "-c", CROWD, str(crowd_mb)], capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 0, done.stderr
    assert least <= int(done.stdout) <= most  # little is kept, for the next messages
