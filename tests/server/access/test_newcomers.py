"""How many new clients a principal may bring."""

import pytest

from rowloom.proto.errors import Overloaded
from rowloom.server.access import newcomers
from rowloom.server.access.newcomers import Newcomers
from rowloom.server.access.rights import Grant, Principal
from rowloom.server.call import Caller


def caller(name: str, *rights: str) -> Caller:
    return Caller("test", name, Principal(name, tuple(map(Grant.parse, rights))))


ANN, BOB, BOSS = caller("ann", "push:a"), caller("bob", "push:b"), caller("boss", "*:*")


def most(door: Newcomers, who: Caller, now: float) -> int:
    """How many it may bring at a moment."""
    for count in range(1000):
        try:
            door.come(who, now)
        except Overloaded:
            return count
    return 1000


def test_a_principal_may_bring_many_clients_at_first_and_then_some_a_minute(monkeypatch) -> None:
    monkeypatch.setattr(newcomers, "FIRST", 100)
    monkeypatch.setattr(newcomers, "PER_MINUTE", 60.0)
    door = Newcomers()
    assert most(door, ANN, 5.0) == 100
    assert most(door, BOB, 5.0) == 100
    assert most(door, BOSS, 5.0) == most(door, Caller("test"), 5.0) == 1000
    assert most(door, ANN, 5.9) == 0
    assert most(door, ANN, 6.0) == 1
    assert most(door, ANN, 16.0) == 10
    assert most(door, ANN, 1e6) == 100


def test_a_principal_that_must_wait_hears_for_how_long(monkeypatch) -> None:
    monkeypatch.setattr(newcomers, "FIRST", 1)
    door = Newcomers()
    door.come(ANN, 0.0)
    with pytest.raises(
        Overloaded, match=r"'ann' has brought 1 new clients to this server, and then more"
    ) as e:
        door.come(ANN, 0.05)
    door.come(ANN, 0.051 + e.value.retry_after_s)
