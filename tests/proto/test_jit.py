"""Compiling that takes its time is said, once, and only our own."""

from types import SimpleNamespace

import pytest

from rowloom.proto import jit
from rowloom.proto.jit import Announcer


class Steps:
    """A clock that is set by hand."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock():
    return Steps()


def said_in(caplog) -> list[str]:
    """Not what others say meanwhile, such as a server of a test before that ends."""
    return [record.getMessage() for record in caplog.records if record.name == jit.log.name]


def compiled(announcer, clock, seconds: float, module: str = "rowloom.client.calls.routing") -> None:
    kernel = SimpleNamespace(data={"dispatcher": SimpleNamespace(py_func=SimpleNamespace(__module__=module))})
    announcer.on_start(kernel)
    announcer.on_start(kernel)  # what it calls
    announcer.on_end(kernel)
    clock.now += seconds
    announcer.on_end(kernel)


def test_a_first_use_that_compiles_for_long_says_so_once(clock, caplog):
    announcer = Announcer(clock)
    compiled(announcer, clock, 0.7)
    assert not said_in(caplog)  # one kernel is no wait to speak of
    for _ in range(3):
        compiled(announcer, clock, 2.0)
    (said,) = said_in(caplog)
    assert said == "compiling rowloom's kernels for this machine: the first use takes some seconds more"


def test_it_is_known_how_much_of_a_time_went_into_compiling(clock, caplog):
    announcer = Announcer(clock)
    clock.now = 10.0
    compiled(announcer, clock, 2.0)
    clock.now = 20.0
    compiled(announcer, clock, 3.0)
    compiled(announcer, clock, 5.0, module="somebody.else")
    assert [announcer.seconds(since) for since in (0.0, 11.0, 12.0, 21.0, 23.0)] == [5.0, 4.0, 3.0, 2.0, 0.0]


def test_what_others_compile_and_what_is_quick_is_not_said(clock, caplog):
    announcer = Announcer(clock)
    for _ in range(4):
        compiled(announcer, clock, 5.0, module="somebody.else")
        compiled(announcer, clock, 0.1)
    assert not said_in(caplog)
