"""Wrong arguments, as the class of error that the library raises whose call we stand in for.

Each is an `InvalidRequest` too, so `except RowloomError` still catches everything.
"""

from __future__ import annotations

from ..proto.errors import InvalidRequest


class WrongType(InvalidRequest, TypeError):
    """An argument has the wrong type."""


class WrongIndex(InvalidRequest, IndexError):
    """An id that the table does not have, where `torch.nn.Embedding` raises IndexError."""


class WrongAssertion(InvalidRequest, AssertionError):
    """An argument is out of range, where torch raises AssertionError."""


class WrongInput(InvalidRequest, RuntimeError):
    """A wrong tensor, where torch raises RuntimeError."""


class NotSupported(InvalidRequest, NotImplementedError):
    """A combination of arguments that has no meaning, where torch raises NotImplementedError."""
