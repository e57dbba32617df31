"""How compiled code is compiled: without the GIL, with IEEE semantics, once on a machine."""

from __future__ import annotations

import logging
import sys
import time
from collections import deque
from collections.abc import Callable
from typing import Any

import numba
from numba.core import event

log = logging.getLogger(__name__)
MOST_SPANS = 1000  # of compiling, that are remembered: more than there are kernels
PATIENCE_S = 0.5  # of compiling in silence; all kernels of a trainer may take half a minute


class Announcer(event.Listener):
    """Says in the log, once in a process, that kernels are being compiled: else a first call looks as if it hangs.

    What is found on disk is not compiled. numba holds its compiler's lock while it calls this.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._depth, self._began, self._spent, self._told = 0, 0.0, 0.0, False
        # Of ours: when it began, when it ended.
        self._spans: deque[tuple[float, float]] = deque(maxlen=MOST_SPANS)

    def on_start(self, event: Any) -> None:
        """A kernel begins to be compiled, perhaps for another one."""
        if not self._depth:
            self._began = self._clock()
        self._depth += 1
        if self._spent >= PATIENCE_S and not self._told and _is_ours(event):
            self._told = True
            log.warning("compiling rowloom's kernels for this machine: the first use takes some seconds more")

    def on_end(self, event: Any) -> None:
        """It is compiled."""
        self._depth -= 1
        if not self._depth and _is_ours(event):
            now = self._clock()
            self._spent += now - self._began
            self._spans.append((self._began, now))

    def seconds(self, since: float) -> float:
        """How long kernels have been compiled since a moment on the clock, up to now, in whatever thread."""
        return sum(end - max(began, since) for began, end in tuple(self._spans) if end > since)


def _is_ours(event: Any) -> bool:
    """Others compile too, and say what they like."""
    return str(event.data["dispatcher"].py_func.__module__).startswith("rowloom.")


_announcer = Announcer()
event.register("numba:compile", _announcer)
compiled_s = _announcer.seconds  # since a moment on `time.monotonic`


def without_blas() -> None:
    """For a process that is ours alone, before its first kernel: numba does not look for SciPy's linear algebra.

    No kernel uses it, and importing it costs a server start where SciPy is installed, as beside most frameworks.
    """
    sys.modules.setdefault("scipy.linalg", None)  # type: ignore[arg-type]


def kernel(function: Callable[..., Any]) -> Any:
    """Compile on the first call, never with fastmath: it changes bits. What is compiled is kept on disk.

    numba keeps it beside the source, or in the user's cache directory, or in NUMBA_CACHE_DIR; where none can be
    written, as in some containers, each process compiles for itself.
    """
    try:
        return numba.njit(nogil=True, error_model="numpy", cache=True)(function)
    except RuntimeError:  # no directory
        return numba.njit(nogil=True, error_model="numpy")(function)
