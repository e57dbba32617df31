"""The benchmark: its ids, its yardstick, and that a small one runs."""

import json
import socket
import threading

import numpy as np
import pytest

from rowloom.client import InvalidRequest
from rowloom.deploy.bench.bench import report, run_bench
from rowloom.deploy.bench.machine import describe, machine
from rowloom.deploy.bench.workload import scattered, uniform_ids, zipf_ids
from rowloom.deploy.bench.yardstick import ACK, CPU, HEADER, PULL, PUSH, Yardstick, receive, send_all, serve

FIGURES = (
    "rows_per_s",
    "mb_per_s",
    "p50_ms",
    "p99_ms",
    "client_cpu_s_per_million",
    "server_cpu_s_per_million",
)


@pytest.mark.parametrize(("n", "distinct"), [(1024, 699), (16_384, 8_177), (65_536, 27_255)])
def test_zipf_ids_repeat_as_often_as_published(n, distinct):
    rng = np.random.default_rng(0)
    found = [len(np.unique(zipf_ids(n, 10_000_000, rng))) for _ in range(9)]
    assert np.median(found) == pytest.approx(distinct, rel=0.02)


@pytest.mark.parametrize("draw", [zipf_ids, uniform_ids])
@pytest.mark.parametrize("rows", [1, 2, 1000])
def test_ids_stay_inside_the_table(draw, rows):
    ids = draw(5000, rows, np.random.default_rng(1))
    assert ids.dtype == np.int64
    assert (ids.min(), ids.max()) == (0, rows - 1)


@pytest.mark.parametrize("rows", [1, 2, 7, 1000, 4096])
def test_scattering_gives_every_id_once(rows):
    assert sorted(scattered(np.arange(rows), rows)) == list(range(rows))


def test_popular_ids_are_spread_over_shards_and_ranges():
    popular = scattered(np.arange(1000), 1_000_000)
    assert np.bincount(popular % 4) == pytest.approx([250] * 4, abs=40)
    assert np.bincount(popular // 250_000) == pytest.approx([250] * 4, abs=40)


@pytest.fixture
def end():
    """A socket whose other end is served from a table of 5 rows whose first column is the id."""
    ours, theirs = socket.socketpair()
    ours.settimeout(60)
    table = np.arange(10, dtype=np.float32).reshape(5, 2) / 2
    thread = threading.Thread(target=serve, args=(theirs, table, 4))
    thread.start()
    yield ours
    ours.close()
    thread.join()
    theirs.close()


def test_the_yardstick_sends_the_rows_that_were_asked_for(end):
    send_all(end, HEADER.pack(PULL, 3), np.array([4, 0, 4]))
    rows = np.empty((3, 2), np.float32)
    assert receive(end, rows)
    assert rows.tolist() == [[4, 4.5], [0, 0.5], [4, 4.5]]


def test_the_yardstick_takes_all_bytes_of_a_push_before_it_answers(end):
    ack, rows = bytearray(ACK.size), np.empty((1, 2), np.float32)
    send_all(end, HEADER.pack(PUSH, 3), np.arange(3), np.ones((3, 2), np.float32))
    send_all(end, HEADER.pack(CPU, 0), HEADER.pack(PULL, 1), np.array([3]))
    assert receive(end, ack)
    assert receive(end, ack)
    assert ACK.unpack(ack)[0] > 0
    assert receive(end, rows)
    assert rows.tolist() == [[3, 3.5]]


def test_the_yardstick_moves_more_than_a_socket_buffer_holds():
    ids = np.arange(60_000)
    with Yardstick(rows=60_000, dim=64, largest=60_000) as yardstick:
        assert (yardstick.pull(ids) == 1).all()
        yardstick.push(ids, np.ones((60_000, 64), np.float32))
        assert yardstick.server_cpu_s() > 0


@pytest.fixture
def small(cluster, tmp_path):
    return run_bench(
        cluster.address,
        rows=3000,
        dim=8,
        rounds=2,
        batches=(64, 256),
        block_s=0.01,
        plot=tmp_path / "bench.png",
        quiet=True,
    )


def test_a_small_benchmark_measures_everything_and_leaves_no_table(small, cluster, tmp_path):
    assert {(r["distribution"], r["op"], r["batch"]) for r in small["results"]} == {
        (d, op, n) for d in ("zipf", "uniform") for op in ("pull", "push", "step") for n in (64, 256)
    }
    for row in small["results"]:
        assert all(row[name] > 0 and row[f"yardstick_{name}"] > 0 for name in FIGURES if "cpu" not in name)
        assert all(row[name] >= 0 and row[f"yardstick_{name}"] >= 0 for name in FIGURES)
        assert row["p50_ms"] <= row["p99_ms"]
        assert row["ratio"] == pytest.approx(row["rows_per_s"] / row["yardstick_rows_per_s"])
    assert (tmp_path / "bench.png").read_bytes().startswith(b"\x89PNG")
    assert json.loads(json.dumps(small)) == small
    with cluster.connect() as client:
        assert client.tables() == []
    text = report(small)
    assert text.count("uniform") == 6
    assert "3,000 rows x 8 float32, 2 shards" in text
    assert describe(small["machine"]) in " ".join(text.split())


def test_every_row_exists_before_anything_is_measured(cluster, monkeypatch):
    from rowloom.deploy.bench import bench

    seen = []

    def look(cases, seats, *rest):
        seen.append(seats["rowloom"].system._client.statistics())
        return [{} for _ in cases]

    monkeypatch.setattr(bench, "measure", look)
    monkeypatch.setattr(bench, "_result", lambda case, turns, dim: {})
    run_bench(cluster.address, rows=1001, dim=4, batches=(8,), quiet=True)
    assert sum(shard["rows"] for shard in seen[0]) == 1001


def test_arguments_below_one_are_refused_by_name():
    with pytest.raises(InvalidRequest, match="rows must be at least 1, got 0"):
        run_bench(rows=0)
    with pytest.raises(InvalidRequest, match=r"batches\[1\] must be at least 1, got -4"):
        run_bench(batches=(1, -4))


def test_a_plot_that_cannot_be_written_is_refused_before_anything_starts(tmp_path):
    with pytest.raises(InvalidRequest, match="there is no folder"):
        run_bench("nobody:1", plot=tmp_path / "no" / "b.png")
    with pytest.raises(InvalidRequest, match=r"must end with \.png, \.svg or \.pdf"):
        run_bench("nobody:1", plot=tmp_path / "b.txt")


def test_the_machine_is_described():
    found = machine()
    assert found["cores"] >= 1
    assert found["numpy"] == np.__version__
    assert f"numpy {np.__version__}" in describe(found)
