"""How much goes into one request."""

from hypothesis import given
from hypothesis import strategies as st

from rowloom.client.calls.cutting import ID_BYTES, RequestSizes, Routed, cut
from rowloom.proto.framing import MOST_TABLES

COUNTS = st.lists(st.integers(0, 30), min_size=3, max_size=3)
TABLES = st.lists(st.tuples(COUNTS, st.integers(1, 40), st.booleans()), min_size=1, max_size=4)


def routed(tables: list) -> list[Routed]:
    out = []
    for counts, row_bytes, everywhere in tables:
        edges = [0]
        for count in counts:
            edges.append(edges[-1] + count)
        out.append((edges, row_bytes, everywhere))
    return out


@given(TABLES, st.integers(1, 2000), st.integers(1, 500))
def test_every_id_is_in_one_request_of_its_shard_and_no_request_is_too_large(
    tables: list, whole: int, piece: int
) -> None:
    given_tables = routed(tables)
    requests = cut(given_tables, 3, RequestSizes(whole, piece))
    for k, (edges, _, everywhere) in enumerate(given_tables):
        for shard in range(3):
            runs = [run for to, some in requests if to == shard for run in some if run[0] == k]
            ids = [x for _, begin, end in runs for x in range(begin, end)]
            assert ids == list(range(edges[shard], edges[shard + 1]))
            assert runs or not (ids or everywhere)
            if not ids:
                assert len(runs) == (1 if everywhere else 0)
    for shard in range(3):
        mine = [runs for to, runs in requests if to == shard]
        sizes = [sum((e - b) * (given_tables[k][1] + ID_BYTES) for k, b, e in runs) for runs in mine]
        if sum(sizes) <= whole:
            assert len(mine) <= 1
        else:
            rows = [max(given_tables[k][1] + ID_BYTES for k, _, _ in runs) for runs in mine]
            assert all(size <= max(piece, row) for size, row in zip(sizes, rows, strict=True))
        for runs in mine:
            assert len({k for k, _, _ in runs}) == len(runs)


def test_shards_take_turns() -> None:
    requests = cut([([0, 4, 8, 9], 8, False)], 3, RequestSizes(16, 32))
    assert [shard for shard, _ in requests] == [0, 1, 2, 0, 1]


def test_a_call_of_more_tables_than_a_shard_takes_at_once_goes_in_several_requests() -> None:
    count = 2 * MOST_TABLES + 1
    for edges, everywhere in (([0, 1], False), ([0, 0], True)):
        requests = cut([(edges, 8, everywhere)] * count, 1, RequestSizes())
        assert [len(runs) for _, runs in requests] == [MOST_TABLES, MOST_TABLES, 1]
        assert [k for _, runs in requests for k, _, _ in runs] == list(range(count))
    assert len(cut([([0, 1], 8, False)] * MOST_TABLES, 1, RequestSizes())) == 1
