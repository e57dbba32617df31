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
        done = subprocess.run([sys.executable, "-c", SCRIPT, how], capture_output=True, text=True, timeout=50)
        assert done.returncode == 0, done.stderr
        return int(done.stdout)

    kept = faults("keep")
    assert kept < 200
    assert faults("give back") > 5 * kept
