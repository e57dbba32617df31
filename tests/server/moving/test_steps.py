"""The steps of tables whose rows come from several shards."""

from rowloom.server.ledger import Ledger
from rowloom.server.moving.steps import lacking, latest_pushes


def ledger(*pushes: tuple[int, int, int]) -> Ledger:
    """Of (client, push, table)."""
    out = Ledger()
    for client, push, table in pushes:
        out.step(client, 1, push, table, count=lambda: 1)
    return out


def missed(*sources: Ledger) -> list[dict[int, int]]:
    return [dict(one) for one in lacking([dict(latest_pushes(source.read())) for source in sources])]


def test_each_push_under_way_counts_once() -> None:
    """Shard a has seen push 4 of client 1, shard b has not; b has seen push 9 of client 2, a has not."""
    a, b = ledger((1, 4, 5)), ledger((1, 3, 5), (2, 9, 5))
    assert missed(a, b) == [{5: 1}, {5: 1}]
    assert missed(b, a) == [{5: 1}, {5: 1}]
    assert missed(b) == [{}]
    assert missed() == []


def test_a_push_whose_first_half_alone_has_come_is_lacked_by_the_tables_of_the_other() -> None:
    assert missed(ledger((1, 4, 5), (1, 4, 6)), ledger((1, 4, 5))) == [{}, {6: 1}]


def test_a_push_to_other_tables_says_that_the_one_before_was_seen() -> None:
    # Only steps of a client's latest push are kept: shard b must not look as if it had never heard of push 4.
    assert missed(ledger((1, 4, 5)), ledger((1, 4, 5), (1, 5, 6))) == [{6: 1}, {}]


def test_shards_that_have_seen_the_same_lack_nothing() -> None:
    a, b = (ledger(*((c, 7, t) for c in range(50) for t in range(20))) for _ in range(2))
    assert missed(a, b) == [{}, {}]
