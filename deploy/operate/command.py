"""Where the command `rowloom` begins: before anything is imported that takes a while, so that Ctrl-C ends that too."""

from __future__ import annotations

import os
import signal
import sys

# Nothing else, not of ours either: what takes longer is imported when Ctrl-C is heeded.

# Commands that import so much that people would ask themselves what goes on.
SLOW = {"up", "restore", "demo", "bench"}


def main() -> None:
    """As `cli.main`; at Ctrl-C while it is imported, one line and the exit code of an interrupted command."""
    # Who started us may want it to be ignored: it stays so.
    ignored = signal.getsignal(signal.SIGINT) is not signal.default_int_handler
    if not ignored:
        signal.signal(signal.SIGINT, _end)
    from ..terminal import at_once

    with at_once("rowloom: one moment", quiet=not SLOW & set(sys.argv[1:2])):
        from ..cli import main as run

    if not ignored:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        run()
    except KeyboardInterrupt:  # before it heeds that by itself, or once more while it ends
        _end()


def _end(*_: object) -> None:
    """Nothing was begun. A KeyboardInterrupt would be taken for a failed import by some of what is imported."""
    from ..ending import INTERRUPTED

    os.write(2, b"rowloom: interrupted\n")
    os._exit(INTERRUPTED)
