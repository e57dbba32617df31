"""A client that has to wait for its cluster says so, once, and waits on."""

import pytest

from rowloom.client import Unavailable, connect
from rowloom.client.calls.operation import Event, Turn
from rowloom.client.finding import waiting
from rowloom.proto.errors import NoAnswer

REFUSED = Event(1, error=NoAnswer.of("h:1", "connection refused"))
ANSWER = Event(1, b"layout")


def said_in(caplog) -> list[str]:
    """Not what others say meanwhile, such as a server of a test before that ends."""
    return [record.getMessage() for record in caplog.records if record.name == waiting.log.name]


def driven(events: list[tuple[float, Event | None]], caplog) -> list[str]:
    """What is logged while events come at these times."""
    now = [0.0]

    def operation():
        got: list[Event | None] = []
        for _ in events:
            got.append((yield Turn([], 99.0)))
        return got

    announced = waiting.announced(operation(), "h:1", 60.0, lambda: now[0])
    next(announced)
    for now[0], event in events[:-1]:
        announced.send(event)
    now[0], last = events[-1]
    with pytest.raises(StopIteration) as end:
        announced.send(last)
    assert end.value.value == [event for _, event in events], "the operation itself is the same"
    return said_in(caplog)


def test_a_wait_of_more_than_two_seconds_is_said_once_with_the_reason(caplog) -> None:
    said = driven([(0.1, REFUSED), (1.9, None), (2.1, REFUSED), (9.0, REFUSED), (20.0, None)], caplog)
    assert said == [
        "waiting for a rowloom cluster at h:1, up to 60 s: h:1 did not answer: connection refused"
    ]


def test_a_cluster_that_answers_soon_or_late_is_no_wait_to_speak_of(caplog) -> None:
    assert driven([(0.1, REFUSED), (1.9, ANSWER)], caplog) == []
    assert driven([(0.1, None), (2.5, ANSWER)], caplog) == []


def test_a_cluster_that_is_starting_is_said_to_be(caplog) -> None:
    (said,) = driven([(0.1, ANSWER), (2.1, None)], caplog)
    assert said.endswith("it answers, and has no layout yet: it is starting")


def test_an_address_where_nobody_is_is_named_with_the_reason_while_and_after_waiting(
    caplog, monkeypatch
) -> None:
    monkeypatch.setattr(waiting, "PATIENCE_S", 0.05)
    with pytest.raises(Unavailable, match=r"at 127.0.0.1:1 within .*refused") as error:
        connect("127.0.0.1:1", timeout_s=2.0)
    (said,) = said_in(caplog)
    assert said.startswith(
        "waiting for a rowloom cluster at 127.0.0.1:1, up to 2 s: 127.0.0.1:1 did not answer"
    )
    assert "refused" in said
    assert "is the address right" in str(error.value)
