"""Bags pulled and pushed by way of a cluster: equal to rows pulled, combined and expanded on the client."""

import numpy as np
import pytest

from rowloom.client import (
    SGD,
    Adagrad,
    Adam,
    InvalidRequest,
    Normal,
    Ragged,
    RowwiseAdagrad,
    SparseIds,
    TableNotFound,
    TableSpec,
    Zeros,
)
from rowloom.client.calls.bag_requests import BagGrads, PushBagsRequest, Shares, pull_runs, push_runs
from rowloom.client.calls.cutting import RequestSizes
from rowloom.client.calls.routing import route
from rowloom.client.lookups.bags import bags_in
from rowloom.client.lookups.pooling import COMBINERS, pooled, pooled_gradient
from rowloom.deploy import local_cluster
from rowloom.server.shard import MAX_WORK_BYTES

ROWS = 50
OPTIMIZERS = [SGD(lr=0.5), Adagrad(lr=0.1), Adam(lr=0.01), RowwiseAdagrad(lr=0.1)]


def spec_of(name: str, **more) -> TableSpec:
    how = {"dim": 5, "optimizer": Adagrad(lr=0.1), "initializer": Normal(seed=1)} | more
    return TableSpec(name, how.pop("num_embeddings", ROWS), **how)


def random_bags(rng: np.random.Generator, rows: int = ROWS) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Ids, offsets and weights: bags that are empty, that repeat an id, that are many, one or none."""
    sizes = rng.integers(0, 7, rng.choice([0, 1, 2, 9, 60]))
    sizes[rng.random(len(sizes)) < 0.3] = 0
    pool = rng.integers(0, rows, rng.integers(1, 20))
    ids = rng.choice(pool, int(sizes.sum()))
    offsets = np.concatenate([[0], np.cumsum(sizes)[:-1]])[: len(sizes)].astype(np.int64)
    weights = rng.normal(size=len(ids)).astype(np.float32)
    if len(weights):
        weights[0] = 0.0
    return ids, offsets, weights


@pytest.fixture(params=[1, 2, 3, 5], ids="{} shards".format)
def shards(request):
    with local_cluster(shards=request.param) as cluster, cluster.connect() as client:
        yield client


@pytest.mark.parametrize("chunk_bytes", [1 << 20, 300])
def test_random_bags_equal_those_combined_and_expanded_on_the_client(shards, chunk_bytes: int) -> None:
    shards._session.sizes = RequestSizes(chunk_bytes, chunk_bytes)
    rng = np.random.default_rng(chunk_bytes)
    for number, optimizer in enumerate(OPTIMIZERS):
        partition = ["mod", "div"][number % 2]
        one = shards.create_table(spec_of(f"one-{number}", optimizer=optimizer, partition=partition))
        two = shards.create_table(spec_of(f"two-{number}", optimizer=optimizer, partition=partition))
        two.assign(np.arange(ROWS), one.pull(np.arange(ROWS)))
        for _ in range(12):
            ids, offsets, weights = random_bags(rng)
            how = {"combiner": COMBINERS[rng.integers(3)], "weights": weights if rng.random() < 0.6 else None}
            bags = bags_in(ids, offsets, how["weights"])
            expected = pooled(one.pull(ids), bags, how["combiner"])
            got = one.pull_bags(ids, offsets, **how)
            assert got.shape == (len(offsets), 5)
            assert got.dtype == np.float32
            np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)
            assert not got[np.diff(np.append(offsets, len(ids))) == 0].any()
            upstream = rng.normal(size=(len(offsets), 5)).astype(np.float32)
            one.push_bags(ids, offsets, upstream, **how)
            two.push(ids, pooled_gradient(upstream, bags, how["combiner"]))
            np.testing.assert_array_equal(one.pull(np.arange(ROWS)), two.pull(np.arange(ROWS)))


def test_on_one_shard_sums_have_the_bits_of_rows_added_in_order() -> None:
    rng = np.random.default_rng(2)
    with local_cluster(shards=1) as cluster, cluster.connect() as client:
        table = client.create_table(spec_of("t", dim=300))  # gathered in several blocks
        ids, weights = rng.integers(0, ROWS, (30, 40)), rng.normal(size=(30, 40)).astype(np.float32)
        expected = np.zeros((30, 300), np.float32)
        for k in range(40):
            expected += weights[:, k, None] * table.pull(ids[:, k])
        np.testing.assert_array_equal(table.pull_bags(ids, weights=weights), expected)


def test_sums_are_the_same_from_call_to_call_and_differ_between_shard_counts_in_the_last_bits_only() -> None:
    rng = np.random.default_rng(3)
    ids = rng.integers(0, 10_000, (200, 30))
    results = []
    with local_cluster(shards=1) as cluster, cluster.connect() as client:
        table = client.create_table(spec_of("t", num_embeddings=10_000))
        for n in (1, 4):
            cluster.scale(n)
            results.append(table.pull_bags(ids))
            np.testing.assert_array_equal(table.pull_bags(ids), results[-1])
    scale = np.abs(results[0]).max()
    assert np.abs(results[0] - results[1]).max() < 1e-5 * scale


def test_every_way_to_say_which_ids_are_in_which_bag(client) -> None:
    table = client.create_table(spec_of("t"))
    rows = table.pull(np.arange(ROWS))
    expected = np.stack([rows[7] + rows[3], np.zeros(5, np.float32), rows[5]])
    ragged = Ragged([7, 3, 5], [0, 2, 2, 3])
    sparse = SparseIds([[0, 0], [0, 1], [2, 0]], [7, 3, 5], [3, 2])
    for arguments in [([7, 3, 5], [0, 2, 2]), (ragged,), (sparse,), (bags_in(ragged),)]:
        np.testing.assert_allclose(table.pull_bags(*arguments), expected, rtol=1e-6)
    square = table.pull_bags([[7, 3], [5, 5]], combiner="mean", weights=[[1, 1], [1, 3]])
    np.testing.assert_allclose(square, [(rows[7] + rows[3]) / 2, rows[5]], rtol=1e-6)
    cube = table.pull_bags(np.arange(12).reshape(2, 3, 2))
    assert cube.shape == (2, 3, 5)
    np.testing.assert_allclose(cube[1, 0], rows[6] + rows[7], rtol=1e-6)
    table.push_bags(np.arange(12).reshape(2, 3, 2), None, np.ones_like(cube))
    assert (table.pull(np.arange(12)) < rows[:12]).all()


def test_rows_of_any_shape_and_bags_without_anything(client) -> None:
    matrices = client.create_table(spec_of("matrices", dim=(2, 3)))
    numbers = client.create_table(spec_of("numbers", dim=()))
    assert matrices.pull_bags([], []).shape == (0, 2, 3)
    assert matrices.pull_bags([], [0, 0]).tolist() == np.zeros((2, 2, 3)).tolist()
    assert numbers.pull_bags([[4], [5]]).tolist() == numbers.pull([4, 5]).tolist()
    before = matrices.pull(np.arange(ROWS))
    matrices.push_bags([], [], np.empty((0, 2, 3)))
    matrices.push_bags([], [0, 0], np.ones((2, 2, 3)))
    np.testing.assert_array_equal(matrices.pull(np.arange(ROWS)), before)
    assert sum(s["rows"] for s in client.statistics()) == 0


def test_an_optimizer_that_counts_steps_counts_one_for_each_push_on_every_shard(client) -> None:
    one = client.create_table(spec_of("one", optimizer=Adam(lr=0.1), initializer=Zeros()))
    two = client.create_table(spec_of("two", optimizer=Adam(lr=0.1), initializer=Zeros()))
    for ids in ([[1, 1]], [[1, 3]], [[2, 4]], [[1, 2]]):  # some steps leave a shard without ids
        one.push_bags(ids, None, np.ones((1, 5)))
        two.push(ids, np.ones((1, 2, 5)))
    np.testing.assert_array_equal(one.pull(np.arange(ROWS)), two.pull(np.arange(ROWS)))
    steps = {s["tables"][name]["step"] for s in client.statistics() for name in ("one", "two")}
    assert steps == {4}


@pytest.mark.parametrize(
    ("arguments", "how", "message"),
    [
        (([1, 2], [0], [[1, 1, 1]]), {}, r"grads must have shape \(1, 5\)"),
        (([1, 2], [0], np.full((1, 5), np.nan)), {}, "grads of bag 0 is nan in column 0"),
        (([1, 2], [0], [["a"] * 5]), {}, "grads must be numbers"),
        (([1, 50], [0], np.ones((1, 5))), {}, r"ids\[1\] is 50"),
        (([1, 2.5], [0], np.ones((1, 5))), {}, "ids must be integers"),
        (([1, 2], [1], np.ones((1, 5))), {}, "offsets must rise from 0 to at most 2, got \\[1\\]"),
        (([1, 2], [0, 3], np.ones((2, 5))), {}, "offsets must rise"),
        (([1, 2], [], np.ones((0, 5))), {}, "offsets must rise"),
        (([1, 2], [[0]], np.ones((1, 5))), {}, "offsets \\[B\\] go with ids \\[N\\]"),
        (([1, 2], None, np.ones((1, 5))), {}, "need offsets"),
        ((Ragged([1], [0, 1]), [0], np.ones((1, 5))), {}, "offsets go with ids"),
        (([1, 2], [0], np.ones((1, 5))), {"combiner": "max"}, "combiner must be one of"),
        (([1, 2], [0], np.ones((1, 5))), {"weights": [1]}, "weights must have a value for each id"),
        (([1, 2], [0], np.ones((1, 5))), {"weights": [1, np.inf]}, "weight of id 2 in bag 0 .* is inf"),
        (([1, 2], [0], np.full((1, 5), 1e30)), {"weights": [1, 1e30]}, "id 2 in bag 0 is not finite"),
    ],
)
def test_wrong_bags_are_named_and_change_nothing(client, arguments, how, message: str) -> None:
    table = client.create_table(spec_of("t"))
    before = table.pull(np.arange(ROWS))
    with pytest.raises(InvalidRequest, match=message):
        table.push_bags(*arguments, **how)
    np.testing.assert_array_equal(table.pull(np.arange(ROWS)), before)
    if "grads" not in message and "finite" not in message:
        with pytest.raises(InvalidRequest, match=message):
            table.pull_bags(*arguments[:2], **how)


def test_a_frozen_or_dropped_table_is_named(client) -> None:
    frozen = client.create_table(spec_of("frozen", frozen=True))
    with pytest.raises(InvalidRequest, match="'frozen' is frozen"):
        frozen.push_bags([[1]], None, np.ones((1, 5)))
    client.drop_table("frozen")
    with pytest.raises(TableNotFound, match="'frozen' was dropped"):
        frozen.pull_bags([[1]])


def test_a_sum_of_gradients_of_bags_beyond_float32_is_refused_before_any_shard_has_a_part_of_it() -> None:
    with local_cluster(shards=2) as cluster, cluster.connect() as client:
        table = client.create_table(spec_of("t"))
        before = table.pull(np.arange(ROWS))
        huge = np.full((3, 5), 3e38, np.float32)
        with pytest.raises(InvalidRequest, match="the summed gradient of id 1 is inf"):
            table.push_bags([[1], [1], [2]], None, huge)
        np.testing.assert_array_equal(table.pull(np.arange(ROWS)), before)
        table.push_bags([[1], [3], [2]], None, huge)  # large, but no sum of two
        assert sum(s["pushed_rows"] for s in client.statistics()) == 3


def test_rows_are_counted_once_for_each_id_that_a_push_changes(client) -> None:
    table = client.create_table(spec_of("t"))
    table.push_bags([[1, 2, 2], [2, 3, 1]], None, np.ones((2, 5)))
    assert sum(s["pushed_rows"] for s in client.statistics()) == 3
    values = BagGrads(Shares(np.array([0, 1, 0]), None), np.ones((2, 5), np.float32))
    request = PushBagsRequest(
        1, 0, [(table.entry, np.array([1, 1, 2]), values)], client._session.pushers[0], 1
    )
    assert request.rows == 2


@pytest.mark.parametrize(("bags", "pool"), [(3000, 3000), (6000, 10**6), (20_000, 2000), (20_000, 200_000)])
def test_a_push_is_cut_between_ids_and_sends_no_more_than_gradients_of_ids_would(
    bags: int, pool: int
) -> None:
    rng = np.random.default_rng(0)
    spec = TableSpec("wide", num_embeddings=10**6, dim=64)
    ids = (pool * rng.random(20 * bags) ** 4).astype(np.int64)
    segments = np.repeat(np.arange(bags), 20)
    r = route(ids, spec, 2)
    runs = push_runs(r, segments, bags, 64, RequestSizes())
    every = [*runs.by_bag, *runs.by_id]
    places = np.concatenate([some for _, some in every])
    assert np.array_equal(np.sort(places), np.arange(len(ids)))
    for shard, some in every:
        assert (ids[some] % 2 == shard).all()
        assert (np.diff(some)[np.diff(ids[some]) == 0] > 0).all()  # an id's entries are in order
    whose = [set(ids[some].tolist()) for _, some in every]
    assert sum(map(len, whose)) == len(r.ids)
    sizes = [16 * len(some) + 256 * len(np.unique(segments[some])) for _, some in runs.by_bag]
    assert max(sizes, default=0) <= (1 if len(runs.by_bag) > 2 else 4) * RequestSizes().piece
    alone = sum(len(np.unique(ids[some])) for _, some in runs.by_id)
    assert sum(sizes) + 264 * alone < 1.1 * 264 * len(r.ids)


@pytest.mark.parametrize("width", [1, 64, 4096])
def test_no_piece_of_a_call_by_bag_is_more_work_than_a_shard_takes(width: int) -> None:
    rng = np.random.default_rng(0)
    ids, segments = rng.integers(0, 3000, 40_000), np.sort(rng.integers(0, 500, 40_000))
    pulled = list(pull_runs(segments, width, RequestSizes()))
    assert [run.start for run in pulled[1:]] == [run.stop for run in pulled[:-1]]
    assert (pulled[0].start, pulled[-1].stop) == (0, len(ids))
    spec = TableSpec("wide", num_embeddings=3000, dim=width)
    pushed = push_runs(route(ids, spec, 2), segments, 500, width, RequestSizes())
    places = [some for _, some in [*pushed.by_bag, *pushed.by_id]]
    assert sum(map(len, places)) == len(ids)
    entries = [run.stop - run.start for run in pulled] + [len(some) for _, some in pushed.by_bag]
    assert max(entries) * 4 * width <= MAX_WORK_BYTES
    assert len(pulled) < 3 + len(ids) * 4 * width / (32 << 20)


def test_few_bags_of_many_wide_rows_are_pulled_and_pushed(client) -> None:
    table = client.create_table(TableSpec("wide", 9000, dim=4096, optimizer=SGD(lr=1.0), initializer=Zeros()))
    bags = [np.arange(9000)]  # 147 MB of rows, and as much of gradients
    table.push_bags(bags, None, np.ones((1, 4096), np.float32))
    np.testing.assert_array_equal(table.pull_bags(bags)[0], np.full(4096, -9000.0, np.float32))
