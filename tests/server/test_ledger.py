"""Which pushes were applied."""

import random

import pytest

from rowloom.client import InvalidRequest, Overloaded
from rowloom.proto.codec import PartName
from rowloom.server import ledger as module
from rowloom.server.ledger import Ledger, merged_step


def test_a_part_is_known_once_recorded_and_not_before() -> None:
    ledger = Ledger()
    name = PartName(1, 0, 1)
    assert not ledger.has(7, 1, [name])
    ledger.record(7, 1, name)
    assert ledger.has(7, 1, [name])
    assert not ledger.has(8, 1, [name])
    assert not ledger.has(7, 1, [PartName(1, 0, 2)])
    assert not ledger.has(7, 1, [PartName(1, 1, 1)])
    assert not ledger.has(7, 1, [PartName(2, 0, 1)])


def test_everything_up_to_the_low_water_mark_is_known_and_takes_no_room() -> None:
    ledger = Ledger()
    for seq in range(1, 1001):
        ledger.record(7, 1, PartName(1, 0, seq), low_water=seq - 1)
    assert all(ledger.has(7, 1, [PartName(1, 0, seq)]) for seq in range(1, 1001))
    (client,) = ledger.to_message().clients
    assert list(client.origins[0].applied) == [1000]


def test_a_part_is_known_under_any_of_its_names() -> None:
    ledger = Ledger()
    ledger.record(7, 1, PartName(1, 3, 5))
    assert ledger.has(7, 1, [PartName(1, 3, 5), PartName(2, 0, 1)])
    assert not ledger.has(7, 1, [PartName(1, 3, 6), PartName(2, 0, 1)])


def test_windows_of_epochs_that_are_over_are_forgotten_when_the_client_says_so() -> None:
    ledger = Ledger()
    ledger.record(7, 1, PartName(1, 0, 1))
    ledger.record(7, 1, PartName(2, 0, 1), oldest_epoch=1)
    assert len(ledger.to_message().clients[0].origins) == 2
    ledger.record(7, 1, PartName(3, 0, 1), oldest_epoch=3)
    assert [o.epoch for o in ledger.to_message().clients[0].origins] == [3]


def test_a_higher_client_epoch_starts_anew_and_fences_the_lower() -> None:
    ledger = Ledger()
    ledger.record(7, 1, PartName(1, 0, 1))
    ledger.record(7, 2, PartName(1, 0, 1))
    with pytest.raises(InvalidRequest, match="client epoch 1 has ended"):
        ledger.has(7, 1, [PartName(1, 0, 2)])


def test_parts_without_a_name_or_with_number_zero_are_refused() -> None:
    with pytest.raises(InvalidRequest, match="numbered from 1"):
        Ledger().has(7, 1, [])
    with pytest.raises(InvalidRequest, match="numbered from 1"):
        Ledger().has(7, 1, [PartName(1, 0, 0)])


def test_memory_is_bounded_in_clients_and_in_parts(monkeypatch) -> None:
    monkeypatch.setattr(module, "MAX_CLIENTS", 10)
    monkeypatch.setattr(module, "MAX_WINDOW", 5)
    ledger = Ledger()
    for client in range(1, 31):
        ledger.record(client, 1, PartName(1, 0, 1))
    assert len(ledger) == 10
    assert ledger.has(30, 1, [PartName(1, 0, 1)])
    for seq in range(1, 6):
        ledger.record(99, 1, PartName(1, 0, seq))
    with pytest.raises(Overloaded, match="more than 5 parts"):
        ledger.has(99, 1, [PartName(1, 0, 6)])


def test_merging_is_a_union_in_any_order_and_any_number_of_times() -> None:
    rng = random.Random(0)
    sources, recorded = [], set()
    for shard in range(4):
        ledger = Ledger()
        for _ in range(30):
            client, seq = rng.randrange(3), rng.randint(1, 40)
            ledger.record(client, 1, PartName(1, shard, seq))
            recorded.add((client, shard, seq))
        sources.append(ledger.to_message())
    for _ in range(3):
        rng.shuffle(sources)
        merged = Ledger()
        for message in [*sources, *sources[:2]]:
            merged.merge(message)
        for client in range(3):
            for shard in range(4):
                for seq in range(1, 41):
                    known = merged.has(client, 1, [PartName(1, shard, seq)])
                    assert known == ((client, shard, seq) in recorded)


def test_parts_of_one_push_share_a_step_and_the_next_push_counts_on() -> None:
    ledger, steps = Ledger(), iter(range(1, 100))
    assert [ledger.step(7, 1, push=1, table=5, count=lambda: next(steps)) for _ in range(3)] == [1, 1, 1]
    assert ledger.step(8, 1, push=1, table=5, count=lambda: next(steps)) == 2
    assert ledger.step(7, 1, push=2, table=5, count=lambda: next(steps)) == 3
    assert ledger.step(8, 1, push=1, table=5, count=lambda: next(steps)) == 2


def test_merged_step_counts_each_push_under_way_once() -> None:
    """Shard a has seen push 4 of client 1, shard b has not; b has seen push 9 of client 2, a has not."""
    a, b = Ledger(), Ledger()
    a.step(1, 1, push=4, table=5, count=lambda: 11)
    b.step(1, 1, push=3, table=5, count=lambda: 10)
    b.step(2, 1, push=9, table=5, count=lambda: 11)
    assert merged_step(5, [(11, a.to_message()), (11, b.to_message())]) == 12
    assert merged_step(5, [(11, b.to_message()), (11, a.to_message())]) == 12
    assert merged_step(5, [(11, b.to_message())]) == 11
    assert merged_step(5, []) == 0


def test_a_record_that_found_no_memory_is_none(monkeypatch) -> None:
    """The name once came first: the push was not applied, and its retry was told that it had been."""
    ledger = Ledger()
    ledger.record(7, 1, PartName(1, 0, 1))

    def advance(self: module.Window, low_water: int) -> None:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(module.Window, "advance", advance)
        with pytest.raises(MemoryError):
            ledger.record(7, 1, PartName(1, 0, 2), low_water=1)
    assert not ledger.has(7, 1, [PartName(1, 0, 2)])
    assert ledger.has(7, 1, [PartName(1, 0, 1)])


def test_the_step_that_a_push_will_have_is_known_before_it_is_counted() -> None:
    ledger, steps = Ledger(), iter(range(1, 100))
    last = 0
    for client, push in [(7, 1), (7, 1), (8, 1), (7, 2), (8, 1), (8, 3)]:
        expected = ledger.step_of(client, push, 5, last)
        assert ledger.step(client, 1, push=push, table=5, count=lambda: next(steps)) == expected
        last = max(last, expected)
