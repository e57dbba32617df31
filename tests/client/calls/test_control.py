"""Calls to the coordinator: what is said when it does not answer."""

from types import SimpleNamespace

import pytest

from rowloom.client.calls import control
from rowloom.proto import methods
from rowloom.proto import rowloom_pb2 as pb
from rowloom.proto.errors import NoAnswer, Unavailable


def test_a_coordinator_that_does_not_answer_was_named_without_what_to_look_at(monkeypatch):
    times = iter([0.0, 0.0, 9.0])
    session = SimpleNamespace(
        clock=lambda: next(times), layout=SimpleNamespace(coordinator="h:7", cluster_id="c")
    )

    def silent(_session, address, *_):
        return SimpleNamespace(error=NoAnswer.of(address, "no answer in time"), data=b"")
        yield

    def at_once(*_):
        return
        yield

    monkeypatch.setattr(control, "call", silent)
    monkeypatch.setattr(control, "pause", at_once)
    with pytest.raises(Unavailable) as raised:
        next(control.ask(session, methods.TAKE_SNAPSHOT, pb.TakeSnapshotRequest(), 5.0))  # type: ignore[arg-type]
    said = str(raised.value)
    assert "last answer: h:7 did not answer: no answer in time" in said
    assert "Is it up? `rowloom status --address h:7` says whether it answers from here" in said
