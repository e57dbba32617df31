"""The comparison with rivals: its turns, its figures, and each rival that is installed."""

import io
import json
import subprocess
import sys
from pathlib import Path

import compare
import numpy as np
import pictures
import pytest
import rival_contract
from fake_rivals import Fake
from rival_contract import moves_rows
from rivals.numpy_shard import Split, rows_of
from seat import RIVALS, Seat

from rowloom.client import InvalidRequest, Unavailable
from rowloom.deploy.bench import bench
from rowloom.deploy.bench.samples import LEAST_CALLS, Sample, Samples, fill, take_sample
from rowloom.deploy.bench.workload import make_cases
from rowloom.deploy.launch.processes import python


def test_a_rival_pulls_pushes_and_ends_its_servers():
    with Fake(100, 8, 3) as rival:
        moves_rows(rival)
        assert rival.server_cpu_s() >= 0
        assert rival.server_rss_bytes() > 1_000_000
    assert rival.process.poll() == 0


def test_a_rival_that_fails_to_start_leaves_no_server():
    class Late(Fake):
        def _start(self) -> None:
            super()._start()
            raise InvalidRequest("no")

    rival = Late(10, 4, 1)
    with pytest.raises(InvalidRequest, match="no"), rival:
        pass
    assert rival.process.poll() == 0


def test_a_server_that_ends_at_once_is_reported():
    class Short(Fake):
        def _start(self) -> None:
            self._serve(python("-c", "import sys; sys.exit(3)")).first_line()

    with (
        pytest.raises(Unavailable, match="a server of fake ended with code 3 while it started"),
        Short(10, 4, 1),
    ):
        pass


def test_a_turn_makes_at_least_three_calls_and_counts_their_ids():
    case = next(c for c in make_cases((16,), 100, 4, 0) if c.op == "step")
    with Fake(100, 4, 2) as rival:
        turn = take_sample(rival, case, 0.0)
    assert len(turn.times) == LEAST_CALLS
    assert turn.ids == 16 * LEAST_CALLS
    assert turn.seconds >= sum(turn.times)


def test_figures_are_medians_over_turns_and_percentiles_over_calls():
    turns = Samples([Sample([0.1] * 10, 1.0, 2.0, 3.0, n * 1000) for n in (10, 30, 20)])
    figures = turns.figures(256)
    assert figures["rows_per_s"] == 20_000
    assert figures["mb_per_s"] == pytest.approx(5.12)
    assert (figures["p50_ms"], figures["p99_ms"]) == pytest.approx((100, 100))
    assert figures["client_cpu_s_per_million"] == pytest.approx(100)
    assert figures["server_cpu_s_per_million"] == pytest.approx(150)


def test_cases_are_the_same_in_every_process():
    for one, other in zip(make_cases((8,), 50, 4, 3), make_cases((8,), 50, 4, 3), strict=True):
        assert all((a == b).all() for a, b in zip(one.ids, other.ids, strict=True))
        assert (one.grads == other.grads).all()


def test_filling_pushes_every_id_once():
    seen = []
    assert sum(fill(lambda ids, grads: seen.append(ids), 70_000, 2)) == 70_000
    assert (np.concatenate(seen) == np.arange(70_000)).all()


@pytest.mark.parametrize("shards", [1, 2, 3])
def test_splitting_a_batch_loses_no_row_and_sums_gradients_of_equal_ids(shards):
    ids = np.random.default_rng(0).integers(0, 40, 100)
    split = Split(ids, shards)
    rows = [np.stack([at * shards + s] * 2, 1).astype(np.float32) for s, at in enumerate(split.at)]
    assert (split.rows(rows)[:, 0] == ids).all()
    for s, (at, part) in enumerate(zip(split.at, split.grads(np.ones((100, 2), np.float32)), strict=True)):
        assert part[:, 0].tolist() == [np.sum(ids == i) for i in at * shards + s]
    assert sum(rows_of(s, shards, 40) for s in range(shards)) == 40


@pytest.fixture(scope="module")
def small():
    """Two rivals, of which one cannot be had, beside rowloom; tiny."""
    return compare.compare(
        ["fake_rivals:Fake", "fake_rivals:NotThere", "sockets"],
        ["grpc", "pigeon"],
        rows=500,
        dim=4,
        rounds=2,
        batches=(16, 32),
        block_s=0.005,
        quiet=True,
    )


@pytest.mark.slow
def test_all_systems_take_samples_with_every_case(small):
    assert list(small["systems"]) == ["rowloom-grpc", "fake_rivals:Fake", "sockets"]
    cases = {(row["distribution"], row["op"], row["batch"]) for row in small["results"]}
    assert cases >= {(d, op, n) for d in ("zipf", "uniform") for op in compare.OPS for n in (16, 32)}
    for row in small["results"]:
        if row["op"] != "fused":
            assert list(row["systems"]) == list(small["systems"])
            ours, theirs = row["systems"]["rowloom-grpc"], row["systems"]["fake_rivals:Fake"]
            ratio = row["ratios"]["rowloom-grpc"]["fake_rivals:Fake"]
            assert ratio == pytest.approx(ours["rows_per_s"] / theirs["rows_per_s"])
        assert all(0 < f["p50_ms"] <= f["p99_ms"] for f in row["systems"].values())
    assert all(system["server_rss_bytes"] > 0 for system in small["systems"].values())
    assert json.loads(json.dumps(small)) == small


def test_what_cannot_be_had_is_left_out_and_says_why(small):
    assert list(small["skipped"]) == ["rowloom-pigeon", "fake_rivals:NotThere"]
    assert "pigeon" in small["skipped"]["rowloom-pigeon"]
    assert small["skipped"]["fake_rivals:NotThere"] == "it is not installed here: pip install it"


@pytest.mark.slow
def test_two_trainers_share_the_servers_of_a_system_that_takes_them():
    found = compare.compare(
        ["fake_rivals:Fake", "fake_rivals:Shared", "sockets"],
        ["auto"],
        rows=500,
        dim=4,
        trainers=2,
        rounds=1,
        batches=(16,),
        block_s=0.005,
        quiet=True,
    )
    assert list(found["systems"]) == ["rowloom-auto", "fake_rivals:Shared", "sockets"]
    assert found["skipped"] == {"fake_rivals:Fake": "fake takes one trainer here, not 2"}
    assert found["config"]["trainers"] == 2
    for row in found["results"]:
        assert all(f["rows_per_s"] > 0 and f["p50_ms"] > 0 for f in row["systems"].values())
    out = io.StringIO()
    compare.report(found, out)
    assert "2 trainers" in out.getvalue()


def test_a_rival_too_big_for_the_machine_is_refused_with_both_figures():
    with pytest.raises(
        InvalidRequest, match=r"it needs 5632\.0 GB of memory, .* GB are left; try fewer --rows"
    ):
        compare.check_memory("tensorflow", 10_000_000_000, 64)


def test_the_report_has_every_system_and_every_reason(small):
    out = io.StringIO()
    compare.report(small, out)
    text = out.getvalue()
    assert "rowloom-grpc, times as fast as" in text
    assert "fake_rivals:NotThere was left out: it is not installed here" in text
    assert "MB resident in its servers" in text


def test_pictures_are_drawn(small, tmp_path):
    wider = small | {"config": small["config"] | {"servers": 4}}
    paths = pictures.draw([small, wider], tmp_path)
    assert [path.name for path in paths] == ["rivals.png", "latency.png", "shards.png"]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in paths)


def test_a_trainer_process_that_is_killed_is_reported():
    plan = {"rows": 100, "dim": 4, "servers": 1, "batches": (8,), "ops": ("pull",), "seed": 0}
    with Seat("fake_rivals:Fake", plan) as seat:
        assert seat.can("push")
        assert not seat.can("fused")
        seat._process.kill()
        with pytest.raises(RuntimeError, match="the process of fake_rivals:Fake is gone"):
            seat.turn(0, 0.0)


def test_an_unknown_rival_is_refused_by_the_command_and_by_the_function():
    script = Path(compare.__file__)
    done = subprocess.run(
        [sys.executable, str(script), "--rivals", "pigeon"], capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 2
    assert "no rival is called 'pigeon'; there are openembedding, tensorflow" in done.stderr
    with pytest.raises(InvalidRequest, match="against must be one of tensorflow, got 'pigeon'"):
        bench.run_bench(against="pigeon")


def test_bench_shows_a_rival_beside_the_sockets(cluster, monkeypatch, tmp_path):
    monkeypatch.setitem(bench.RIVALS, "fake", Fake)
    found = bench.run_bench(
        cluster.address,
        rows=300,
        dim=4,
        rounds=1,
        batches=(8,),
        block_s=0.005,
        against="fake",
        plot=tmp_path / "bench.png",
        quiet=True,
    )
    for row in found["results"]:
        assert row["fake_ratio"] == pytest.approx(row["rows_per_s"] / row["fake_rows_per_s"])
        assert row["fake_p50_ms"] <= row["fake_p99_ms"]
    assert "fake M rows/s" in " ".join(bench.report(found).split())
    assert (tmp_path / "bench.png").exists()


def test_without_tensorflow_the_command_to_install_it_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    with pytest.raises(
        InvalidRequest, match=r"pip install 'rowloom\[bench\]', or pip install tensorflow-cpu"
    ):
        bench.run_bench(against="tensorflow", rows=10, quiet=True)


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", RIVALS)
def test_an_installed_rival_really_moves_rows(name, tmp_path):
    # In a process of its own: the libraries start threads that outlive them.
    script = str(Path(rival_contract.__file__))
    done = subprocess.run(
        [sys.executable, script, RIVALS[name]], cwd=tmp_path, capture_output=True, text=True, timeout=250
    )
    if done.returncode == rival_contract.MISSING:
        pytest.skip(done.stdout.strip())
    assert done.returncode == 0, done.stderr
