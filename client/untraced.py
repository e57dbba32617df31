"""Calls that `torch.compile` must not look into. It imports no torch: whoever compiles has it."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")


def untraced(call: Callable[P, R]) -> Callable[P, R]:
    """The call, run as it is wherever a compiled function of PyTorch, or a backward pass in one, comes to it.

    PyTorch's compiler follows every call, and makes tensors of the arrays of numpy. It does not see what compiled code
    writes into their memory: it went on with what had been there before, and pushed that.

    As `torch.compiler.disable`, which takes seconds to import where nobody compiles.
    """
    disabled: Any = None

    @functools.wraps(call)
    def outside(*args: P.args, **kwargs: P.kwargs) -> R:
        nonlocal disabled
        if disabled is None:
            disable: Any = getattr(sys.modules.get("torch._dynamo"), "disable", None)
            if disable is None:
                return call(*args, **kwargs)
            disabled = disable(call)
        return disabled(*args, **kwargs)

    return outside
