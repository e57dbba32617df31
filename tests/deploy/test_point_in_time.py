"""A cluster goes back to a moment between two snapshots, and is to the bit what the pushes before it make."""

import dataclasses
import random
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from old_cluster import SPECS, OldCluster, do, rows

from rowloom.client import SGD, InvalidRequest, TableSpec, Zeros
from rowloom.deploy import local_cluster
from rowloom.deploy.snapshots.point_in_time import rolled_forward
from rowloom.proto.snapshots.snapshot import open_snapshot
from rowloom.server.durable.point import Point


def what_these_make(done, shards: int = 2) -> list[bytes]:
    """Rows of a cluster that was never anything else, and what one more push makes of them."""
    with local_cluster(shards, tables=SPECS) as cluster, cluster.connect() as client:
        for what in done:
            do(client, *what)
        return found_in(client)


def found_in(client) -> list[bytes]:
    now = rows(client)
    do(client, "push", 10**6)  # of a slot or a step that is another one, this says so
    return now + rows(client)


def restored(url: str, point: Point, shards: int) -> list[bytes]:
    tables = [dataclasses.replace(spec, partition="div") for spec in SPECS]
    with (
        rolled_forward(open_snapshot(url), point) as there,
        local_cluster(shards, restore=there.url, tables=tables) as cluster,
        cluster.connect() as client,
    ):
        return found_in(client)


@pytest.fixture(scope="module")
def story(tmp_path_factory):
    """A cluster that ended, and snapshots of it after 6 and after 12 of 40 pushes."""
    cluster = OldCluster(tmp_path_factory.mktemp("story"))
    urls: dict[int, str] = {}
    for k in range(40):
        cluster.do(*(("rate", 0.3 / k) if k in (9, 25) else ("push", k)))
        if k in (5, 11):
            urls[k + 1] = cluster.snapshot()
    cluster.close()
    return cluster, urls


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.parametrize("shards", [1, 2, 5])
@pytest.mark.parametrize("seed", range(2))
def test_any_time_after_a_snapshot_is_what_the_pushes_before_it_make(story, shards, seed) -> None:
    old, urls = story
    rng = random.Random(f"{shards} {seed}")
    taken = rng.choice(list(urls))
    k = rng.randrange(taken, len(old.done))
    point = Point(before_s=int(old.done[k][1]))
    before = files_of(old.folder)
    assert restored(urls[taken], point, shards) == what_these_make([what for what, _ in old.done[:k]])
    assert files_of(old.folder) == before, (
        "logs and snapshots are as they were, and nothing is left beside them"
    )


@pytest.mark.parametrize("seed", range(6))
def test_any_place_in_each_log_is_what_those_pushes_make_that_lie_before_it_on_all_of_their_shards(
    story, seed
) -> None:
    old, urls = story
    rng = random.Random(seed)
    url = urls[12]
    middle = rng.randrange(14, 38)
    places = old.lsns()
    lsns: list[int] = []
    for here, shard in zip(places, open_snapshot(url).manifest.shards, strict=True):
        ends = [lsn for k, lsn in here.items() if k >= 12 and abs(k - middle) <= 4]
        lsns.append(rng.choice([shard.lsn, *ends]) if seed else shard.lsn)
    whole: list[tuple] = []
    for k, (what, _) in enumerate(old.done):
        inside = [here[k] <= end for here, end in zip(places, lsns, strict=True) if k in here]
        assert inside
        if k < 12 or (any(inside) if what[0] == "rate" else all(inside)):
            whole.append(what)
    assert restored(url, Point(lsns=tuple(lsns)), rng.choice([1, 2, 4])) == what_these_make(whole)


def test_a_local_cluster_begins_at_a_point_and_says_which_snapshot_it_was_made_upon(story) -> None:
    old, urls = story
    until = ",".join(str(old.log_end(shard)) for shard in range(3))
    with local_cluster(2, restore=urls[6], until=until) as cluster, cluster.connect() as client:
        assert found_in(client) == what_these_make([what for what, _ in old.done])
        assert client.restored is not None
        assert client.restored.parent == open_snapshot(urls[6]).id
        assert client.restored.extra == {"step": 6}
    with pytest.raises(InvalidRequest, match="until='10m' needs restore="):
        local_cluster(2, until="10m")


def test_of_trainers_that_push_side_by_side_each_push_is_on_all_shards_or_on_none(tmp_path) -> None:
    old = OldCluster(tmp_path / "old")
    ids = np.arange(9)  # three on each shard
    old.clients[0].create_table(TableSpec("n", 9, dim=1, optimizer=SGD(lr=1.0), initializer=Zeros()))

    def train(client) -> None:
        for _ in range(25):
            client.table("n").push(ids, -np.ones((9, 1), np.float32))

    with ThreadPoolExecutor(len(old.clients)) as pool:
        url = [*pool.map(train, old.clients), old.snapshot()][-1]
        trained = [pool.submit(train, client) for client in old.clients]
        for done in trained:
            done.result()
    old.close()
    snapshot = open_snapshot(url)
    rng = random.Random(7)
    out = 0
    for _ in range(5):
        lsns = [shard.lsn + 30 + rng.randrange(6) for shard in snapshot.manifest.shards]
        with rolled_forward(snapshot, Point(lsns=tuple(lsns))) as there:
            blocks = open_snapshot(there.url).read("n")
            counts = np.concatenate([block.values.ravel() for block in blocks])
            assert there.pushes + there.left_out >= 30
            out += there.left_out
            assert counts.tolist() == [75.0 + there.pushes] * 9
    assert out


def test_a_model_was_taken_for_that_of_the_rows_although_they_had_gone_on_since(story) -> None:
    cluster, urls = story
    snapshot = open_snapshot(urls[6])
    with rolled_forward(snapshot, Point(lsns=tuple(cluster.log_end(shard) for shard in range(3)))) as there:
        assert open_snapshot(there.url).extra == {"step": 6}
    assert snapshot.extra["checkpoint"] == {"of": "a model"}
