"""How many calls of a principal are under way at once."""

import pytest

from rowloom.proto.errors import Overloaded
from rowloom.server.access.in_flight import CallsInFlight
from rowloom.server.access.quotas import Quota, Quotas
from rowloom.server.access.rights import Grant, Principal
from rowloom.server.call import Call, Caller


def caller(name: str, *rights: str) -> Caller:
    return Caller("test", name, Principal(name, tuple(map(Grant.parse, rights))))


ANN, BOB, BOSS = caller("ann", "pull:*"), caller("bob", "*:users"), caller("boss", "*:*")


def test_a_call_beyond_the_quota_is_refused_until_another_one_is_answered() -> None:
    calls = CallsInFlight()
    calls.quotas = Quotas(Quota(calls=2), {"bob": Quota()})
    first = calls.enter(ANN)
    calls.enter(ANN)
    with pytest.raises(
        Overloaded, match="'ann' has 2 calls under way on this server, and its quota is 2 calls"
    ) as e:
        calls.enter(ANN)
    assert e.value.retry_after_s > 0
    for _ in range(5):
        calls.enter(BOB)
        assert not calls.enter(BOSS)
        assert not calls.enter(Caller("test"))
    calls.leave(first)
    calls.enter(ANN)
    said = {use.principal: (use.used, use.refused, use.HasField("limit")) for use in calls.messages()}
    assert said == {"ann": (2, 1, True), "bob": (5, 0, False)}


def test_a_call_that_fails_is_counted_no_more() -> None:
    calls = CallsInFlight()
    calls.quotas = Quotas(Quota(calls=1))
    fails = calls.counted(lambda call: [b"", bytes(int(str(call.data, "ascii")))])
    for _ in range(3):
        with pytest.raises(ValueError, match="invalid literal"):
            fails(Call("m", b"x", ANN))
    assert fails(Call("m", b"1", ANN)) == [b"", b"\0"]
