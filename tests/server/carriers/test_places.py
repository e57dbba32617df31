"""Places that are shared: who has many gets no more while others have none."""

from rowloom.server.carriers.places import Place, Places


def taken(places: Places, who: str, count: int) -> list[Place]:
    return [places.take(lambda: who) for _ in range(count)]


def had(turns: list[Place]) -> int:
    return sum(turn.has for turn in turns)


def test_one_alone_gets_half_of_them_and_whoever_comes_next_finds_some_free() -> None:
    places = Places(24)
    assert had(taken(places, "a", 64)) == 12
    assert had(taken(places, "b", 64)) == 6
    assert had(taken(places, "c", 64)) == 3
    assert places.free == 3
    assert not places.shut_out


def test_what_is_given_back_goes_to_who_waits_and_has_fewest() -> None:
    places = Places(4)
    a, b = taken(places, "a", 4), taken(places, "b", 2)
    c, d = places.take(lambda: "c"), places.take(lambda: "d")
    assert (had(a), had(b), c.has, d.has) == (2, 1, True, False)
    assert (places.free, places.shut_out, places.queued) == (0, 1, 4)
    places.leave(a[0])
    assert d.has
    assert d.ready is not None
    assert d.ready.is_set()
    places.leave(c)
    assert (had(a[1:]), had(b), places.free) == (1, 1, 1)  # the last one is left to who has none
    assert places.take(lambda: "e").has


def test_who_waits_no_more_leaves_nothing_behind() -> None:
    places = Places(2)
    turns = taken(places, "a", 5)
    for turn in reversed(turns):
        places.leave(turn)
    assert (places.free, places.held("a"), places.queued) == (2, 0, 0)
    assert places.take(lambda: "a").has


def test_turns_of_one_are_served_in_order() -> None:
    places = Places(2)
    first, second, third = taken(places, "a", 3)
    places.leave(first)
    assert second.has
    assert not third.has


def test_nobody_is_asked_who_it_is_while_more_than_half_are_free() -> None:
    asked: list[str] = []
    places = Places(8)

    def who(name: str) -> str:
        asked.append(name)
        return name

    for _ in range(3):
        for turn in [places.take(lambda: who("a")) for _ in range(4)]:
            places.leave(turn)
    assert not asked
    turns = [places.take(lambda: who("a")) for _ in range(5)]
    assert (len(asked), had(turns), places.held("a")) == (5, 4, 4)
    for turn in turns:
        places.leave(turn)
    assert (places.free, places.held("a"), places.queued) == (8, 0, 0)
