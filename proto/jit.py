"""How compiled code is compiled: without the GIL, with IEEE semantics, once on a machine."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba


def kernel(function: Callable[..., Any]) -> Any:
    """Compile on the first call, never with fastmath: it changes bits. What is compiled is kept on disk.

    numba keeps it beside the source, or in the user's cache directory, or in NUMBA_CACHE_DIR; where none can be
    written, as in some containers, each process compiles for itself.
    """
    try:
        return numba.njit(nogil=True, error_model="numpy", cache=True)(function)
    except RuntimeError:  # no directory
        return numba.njit(nogil=True, error_model="numpy")(function)
