"""Which snapshot the next one is made upon, and which may be removed."""

import dataclasses

from hypothesis import given
from hypothesis import strategies as st

from rowloom.deploy.control.lineage import (
    MAX_CHAIN,
    disposable,
    lineage,
    listed,
    parent_of_next,
    recovery_points,
)
from rowloom.deploy.control.state import KnownSnapshot


def one(id: str, parent: str = "", bytes: int = 100, epoch: int = 1, **kind: bool) -> KnownSnapshot:
    return KnownSnapshot(id, f"/{id}", epoch, [0], 0.0, 1, bytes, parent=parent, digest="d", **kind)


def chain(*sizes: int) -> list[KnownSnapshot]:
    return [one(str(k), str(k - 1) if k else "", size) for k, size in enumerate(sizes)]


def test_a_snapshot_is_made_upon_the_one_before() -> None:
    known = chain(100, 10)
    assert parent_of_next(known, 1) == known[-1]
    assert parent_of_next([], 1) is None


def test_after_a_change_of_layout_a_snapshot_is_whole() -> None:
    assert parent_of_next(chain(100), 2) is None


def test_a_chain_ends_when_it_has_grown_by_half() -> None:
    assert parent_of_next(chain(100, 20, 29), 1) is not None
    assert parent_of_next(chain(100, 20, 30), 1) is None


def test_a_chain_ends_when_it_is_long() -> None:
    assert parent_of_next(chain(10_000, *[1] * (MAX_CHAIN - 2)), 1) is not None
    assert parent_of_next(chain(10_000, *[1] * (MAX_CHAIN - 1)), 1) is None


def test_nothing_is_made_upon_a_chain_of_which_something_is_not_known() -> None:
    assert parent_of_next(chain(100, 1, 1)[1:], 1) is None
    assert parent_of_next([KnownSnapshot("a", "/a", 1, [0], 0.0, 1, 9)], 1) is None, "of an older version"


KINDS = st.sampled_from([{}, {"automatic": True}, {"scheduled": True}])


@given(st.lists(st.tuples(KINDS, st.booleans(), st.integers(0, 3)), max_size=40))
def test_what_is_kept_never_loses_what_it_was_made_upon(steps) -> None:
    known: list[KnownSnapshot] = []
    stored: dict[str, KnownSnapshot] = {}
    for k, (kind, full, keep) in enumerate(steps):
        parent = None if full else parent_of_next(known, 1)
        made = one(str(k), parent.id if parent else "", 10 if parent else 100, **kind)
        stored[made.id] = made
        known = listed([*known, made])
        assert lineage(known, made), "what the next one needs to know is listed"
        for unwanted in disposable(known, keep):
            if not any(
                other.parent == unwanted.id for other in stored.values()
            ):  # as whoever removes them sees
                del stored[unwanted.id]
        known = listed([other for other in known if other.id in stored])
        for kept in stored.values():
            assert not kept.parent or kept.parent in stored
        assert all(one.id in stored for one in recovery_points(known, 1)), "logs go on from these"
        assert recovery_points(known, 1)[-1] == made
        assert all(str(n) in stored for n, step in enumerate(steps[: k + 1]) if not step[0]), (
            "the owner's stay"
        )


def test_a_log_goes_on_from_two_snapshots_that_have_no_file_in_common() -> None:
    known = [one("a"), one("b", "a"), one("c"), one("d", "c")]
    assert [s.id for s in recovery_points(known[:2], 1)] == ["b"]
    assert [s.id for s in recovery_points(known[:3], 1)] == ["b", "c"]
    assert [s.id for s in recovery_points(known, 1)] == ["b", "d"]
    assert recovery_points(known, 2) == []
    assert recovery_points(known[1:2], 1) == [], "what it was made upon is not known"


def test_what_nobody_needs_is_removed_the_newest_first() -> None:
    known = [one("0"), one("1", "0"), one("2"), one("3"), one("4", "3")]
    known = [dataclasses.replace(s, scheduled=True) for s in known]
    assert disposable(known, 4) == []
    assert [s.id for s in disposable(known, 3)] == ["1", "0"]
    assert [s.id for s in disposable(known, 1)] == ["1", "0"], "a log may need the third"
    assert disposable(known, 0) == [], (
        "a snapshot that was taken by hand says nothing about how many are kept"
    )
