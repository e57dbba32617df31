"""Which pushes were applied."""

import random

import pytest

from rowloom.client import InvalidRequest, Overloaded
from rowloom.proto import rowloom_pb2 as pb
from rowloom.proto.codec import PartName
from rowloom.proto.errors import ClientForgotten
from rowloom.server import ledger as module
from rowloom.server.ledger import Ledger


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
    (client,) = ledger.read().clients
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
    assert len(ledger.read().clients[0].origins) == 2
    ledger.record(7, 1, PartName(3, 0, 1), oldest_epoch=3)
    assert [o.epoch for o in ledger.read().clients[0].origins] == [3]


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
    monkeypatch.setattr(module, "MAX_WINDOW", 5)
    ledger = Ledger(max_clients=10)
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
        sources.append(ledger.read())
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


def test_a_client_that_was_forgotten_is_refused_not_applied_again() -> None:
    # It was taken for a new one: 20,000 other clients between a push and its retry, and the retry was applied again.
    ledger, first = Ledger(max_clients=10), PartName(1, 0, 1)
    for client in range(1, 12):
        ledger.record(client, 1, first)
    for epoch, seq in [(1, 1), (1, 2), (2, 1)]:
        with pytest.raises(ClientForgotten, match=r"0000000000000001.*goes on under a new name"):
            ledger.has(1, epoch, [PartName(1, 0, seq)])
    assert ledger.has(2, 1, [first])
    assert not ledger.has(12, 1, [first])


def test_a_client_that_one_shard_has_forgotten_is_forgotten_where_the_rows_move_to() -> None:
    a, b, first = Ledger(max_clients=10), Ledger(max_clients=10), PartName(1, 0, 1)
    for client in range(1, 12):
        a.record(client, 1, first)
    b.record(1, 1, PartName(1, 1, 1))
    for sources in ([a, b], [b, a]):
        merged = Ledger()
        for source in sources:
            merged.merge(source.read())
        merged.settle()
        assert len(merged) == 10
        assert not set(merged._clients) & {1}
        for name in (first, PartName(1, 1, 1)):
            with pytest.raises(ClientForgotten):
                merged.has(1, 1, [name])


def test_a_client_that_found_no_room_in_a_merged_ledger_does_not_come_back_with_half_of_its_records() -> None:
    a, b = Ledger(), Ledger()
    for client in range(1, 21):
        a.record(client, 1, PartName(1, 0, 1))
        b.record(client, 1, PartName(1, 1, 1))
    merged = Ledger(max_clients=10)
    merged.merge(a.read())
    merged.merge(b.read())
    merged.settle()
    for client in range(1, 21):
        for shard in (0, 1):
            try:
                assert merged.has(client, 1, [PartName(1, shard, 1)])
            except ClientForgotten:
                assert client not in merged._clients


def test_what_clients_make_a_shard_remember_is_bounded_all_together() -> None:
    # 6,000 clients of 1,000 tables that count steps were 900 MB, and more than one message could carry.
    ledger = Ledger(max_entries=1000)
    for client in range(1, 101):
        ledger.record(client, 1, PartName(1, 0, 1))
        for table in range(50):
            ledger.step(client, 1, push=1, table=table, count=lambda: 1)
    assert 15 <= len(ledger) <= 21
    assert sum(client.entries for client in ledger._clients.values()) == ledger._entries <= 1052
    assert ledger.has(100, 1, [PartName(1, 0, 1)])
    with pytest.raises(ClientForgotten):
        ledger.has(1, 1, [PartName(1, 0, 1)])


def test_entries_are_counted_whatever_happens_to_them() -> None:
    rng, ledger = random.Random(3), Ledger(max_clients=4, max_entries=40)
    for _ in range(2000):
        client, push = rng.randrange(8), rng.randrange(50)
        name = PartName(rng.randrange(4), 0, push + 1)
        ledger.record(client, rng.randrange(1, 4), name, max(0, push - 5), rng.randrange(4))
        ledger.step(client, 1, push, rng.randrange(9), lambda: 1)
        if rng.random() < 0.02:
            ledger.forget_table(rng.randrange(9))
        if rng.random() < 0.02:
            other = Ledger()
            other.record(client, 3, name)
            other.step(client, 3, push, 5, lambda: 1)
            ledger.merge(other.read())
            ledger.settle()
        assert sum(client.entries for client in ledger._clients.values()) == ledger._entries


def test_how_much_of_a_push_is_here_is_kept_and_moves_with_the_ledger() -> None:
    ledger, inherited = Ledger(), Ledger()
    ledger.record(7, 1, PartName(1, 0, 1), push=3, parts=6)
    ledger.record(7, 1, PartName(1, 0, 2), push=3, parts=6)
    inherited.merge(ledger.read())
    inherited.merge(ledger.read())
    inherited.record(7, 1, PartName(2, 1, 1), push=3, parts=12)
    (latest,) = inherited.latest()
    assert [(s.epoch, s.shard, s.count, s.of) for s in latest.shares] == [(1, 0, 2, 6), (2, 1, 1, 12)]
    inherited.record(7, 1, PartName(2, 1, 2), push=4)
    assert inherited.latest() == [pb.LatestPush(client_id=7, push=4)]
    inherited.merge(ledger.read())
    assert inherited.latest() == [pb.LatestPush(client_id=7, push=4)]


def test_shares_of_a_push_stay_small_whatever_a_client_says() -> None:
    rng, ledger = random.Random(1), Ledger()
    for seq in range(1, 500):
        ledger.record(7, 1, PartName(1, 0, seq), push=3, parts=rng.getrandbits(64))
    ((_, of),) = ledger._clients[7].shares.values()
    assert of < 1 << 64


def test_the_latest_push_of_a_client_that_was_just_forgotten_is_told_and_of_others_that_they_are(
    monkeypatch,
) -> None:
    monkeypatch.setattr(module, "MOST_EVICTED", 1)
    ledger, inherited = Ledger(max_clients=1), Ledger()
    for client in (6, 7, 8):
        ledger.record(client, 1, PartName(1, 0, 1), push=3, parts=2)
    inherited.merge(ledger.read())
    for one in (ledger, inherited):
        newest, evicted, forgotten = one.latest([6, 7, 8, 9])
        assert (newest.client_id, evicted.client_id, forgotten.client_id) == (8, 7, 6)
        assert newest.shares == evicted.shares == [pb.PushShare(epoch=1, shard=0, count=1, of=2)]
        assert (newest.forgotten, evicted.forgotten, forgotten.forgotten) == (False, False, True)


@pytest.mark.parametrize("limit", [1, 1000, 1 << 20])
def test_a_ledger_in_pieces_is_the_ledger(limit: int) -> None:
    ledger = Ledger(max_clients=50)
    for client in range(1, 61):
        for seq in (1, 3, 4):
            ledger.record(client, 1, PartName(1, 0, seq), low_water=1)
        ledger.step(client, 1, push=4, table=client % 3, count=lambda: 17)
    merged, cursor, pieces = Ledger(), 0, 0
    while pieces == 0 or cursor:
        piece = ledger.read(cursor, limit if cursor < len(ledger) else 1 << 20)  # the filter alone is 8 MB
        merged.merge(piece)
        cursor, pieces = piece.next, pieces + 1
    merged.settle()
    assert pieces >= 8
    assert merged._clients == ledger._clients
    assert merged._forgotten._bits == ledger._forgotten._bits
    assert merged._entries == ledger._entries


def test_only_the_steps_of_the_latest_push_are_kept() -> None:
    ledger = Ledger()
    for push in range(1, 100):
        ledger.record(7, 1, PartName(1, 0, push), low_water=push - 1)
        ledger.step(7, 1, push, table=push, count=lambda: 1)
    assert ledger.read().clients[0].step_tables == [99]
    assert ledger.step_of(7, 98, table=98, last=1) == 1  # late, and not counted again


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


def test_a_client_that_could_not_be_noted_as_forgotten_is_not_taken_for_a_new_one(monkeypatch) -> None:
    """The note takes memory, the first one 8 MB: without any, a client was forgotten and its retry applied again."""
    ledger, first = Ledger(max_clients=1), PartName(1, 0, 1)
    ledger.record(1, 1, first)

    def own(self: module.Forgotten) -> bytearray:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(module.Forgotten, "_own", own)
        with pytest.raises(MemoryError):
            ledger.record(2, 1, first)
    assert ledger.has(1, 1, [first])
    assert not ledger.has(2, 1, [first])
    ledger.record(2, 1, first)
    with pytest.raises(ClientForgotten):
        ledger.has(1, 1, [first])


def test_the_step_that_a_push_will_have_is_known_before_it_is_counted() -> None:
    ledger, steps = Ledger(), iter(range(1, 100))
    last = 0
    for client, push in [(7, 1), (7, 1), (8, 1), (7, 2), (8, 1), (8, 3)]:
        expected = ledger.step_of(client, push, 5, last)
        assert ledger.step(client, 1, push=push, table=5, count=lambda: next(steps)) == expected
        last = max(last, expected)
