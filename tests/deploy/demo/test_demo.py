"""The demo and its parts: trainers, the probe, the deploy config that it edits, and a small run from end to end."""

import dataclasses
import json
import sys

import numpy as np
import pytest
from waiting import until

from rowloom.client import InvalidRequest, RowloomError, Unavailable
from rowloom.deploy import plots
from rowloom.deploy.demo import demo
from rowloom.deploy.demo.demo import Extent, report, run_demo
from rowloom.deploy.demo.demo_cluster import DeployedCluster, open_cluster
from rowloom.deploy.demo.probe import TABLE, Probe
from rowloom.deploy.demo.trainer import INPUT, OUTPUT, REPORT_EVERY, Job, Trainer
from rowloom.deploy.demo.trainers import Trainers
from rowloom.deploy.launch.processes import is_running
from rowloom.deploy.operate import local_ray

VOCABULARY = 60


class Memory:
    """Two tables with Adagrad, and no cluster: what a trainer uses of a client."""

    def __init__(self):
        rng = np.random.default_rng(0)
        self.rows = {INPUT: rng.uniform(-0.03, 0.03, (VOCABULARY, 16)), OUTPUT: np.zeros((VOCABULARY, 16))}
        self.sums = {name: np.zeros((VOCABULARY, 16)) for name in self.rows}
        self.pulled = 0
        self.pushed = 0

    def pull(self, ids):
        self.pulled += sum(len(some) for some in ids.values())
        assert all(len(np.unique(some)) == len(some) for some in ids.values())
        return {name: self.rows[name][some].astype(np.float32) for name, some in ids.items()}

    def push(self, grads):
        for name, (ids, values) in grads.items():
            total = np.zeros_like(self.rows[name])
            np.add.at(total, ids, values)
            self.pushed += len(np.unique(ids))
            self.sums[name] += total**2
            self.rows[name] -= 0.1 * total / np.sqrt(self.sums[name] + 1e-10)


@pytest.fixture
def text():
    """Words come in blocks of six that belong together."""
    rng = np.random.default_rng(1)
    return (rng.integers(0, VOCABULARY // 6, 400)[:, None] * 6 + rng.integers(0, 6, (400, 10))).ravel()


@pytest.fixture
def trainer(text):
    job = Job("", "", 0, len(text), steps=200, length=128, negatives=16, threshold=1.0)
    return Trainer(Memory(), job, text, np.bincount(text, minlength=VOCABULARY))


def test_a_trainer_learns_which_words_belong_together(trainer):
    reports = list(trainer.train(200, 1e9))
    assert reports[0].loss > 3.5
    assert reports[-2].loss < reports[0].loss - 1
    rows = trainer._client.rows[INPUT]
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    alike = unit @ unit.T
    together = np.kron(np.eye(VOCABULARY // 6), np.ones((6, 6))).astype(bool)
    assert alike[together].mean() > alike[~together].mean() + 0.5


def test_reports_add_up_to_all_steps_and_all_rows(trainer):
    reports = list(trainer.train(2 * REPORT_EVERY + 5, 1e9))
    assert [r.steps for r in reports] == [REPORT_EVERY, REPORT_EVERY, 5]
    assert [r.reached for r in reports] == [False, False, True]
    assert sum(r.rows for r in reports) == trainer._client.pulled + trainer._client.pushed


def test_a_trainer_goes_on_where_it_stopped(trainer, text):
    list(trainer.train(30, 1e9))
    list(trainer.train(50, 1e9))
    assert trainer.step == 50
    job = Job("", "", 0, len(text), steps=200, length=128, negatives=16, threshold=1.0)
    other = Trainer(Memory(), job, text, np.bincount(text, minlength=VOCABULARY))
    list(other.train(50, 1e9))
    assert (other._client.rows[INPUT] == trainer._client.rows[INPUT]).all()


def test_a_trainer_stops_when_its_time_is_over(trainer):
    clock = iter(range(1000))
    last = list(trainer.train(200, 10, now=lambda: next(clock)))[-1]
    assert last.reached
    assert trainer.step == 9


def test_an_order_that_is_already_fulfilled_is_reported_at_once(trainer):
    list(trainer.train(3, 1e9))
    (only,) = trainer.train(3, 1e9)
    assert dataclasses.astuple(only) == (3, 0, 0.0, 0, True)


def test_the_probe_counts_its_pushes_and_leaves_no_table(cluster, client):
    probe = Probe(cluster.address)
    probe.start()
    cluster.scale(3)
    until(lambda: probe._took)
    watched = probe.finish()
    assert watched.exact
    assert watched.pushes > 0
    assert watched.longest_s > 0
    assert TABLE not in [table.name for table in client.tables()]


def test_the_probe_notices_a_push_that_was_lost(cluster, client):
    probe = Probe(cluster.address)
    probe.start()
    client.table(TABLE).push([5], [[1.0] * 8])
    assert not probe.finish().exact


def test_a_trainer_that_fails_is_named_with_its_last_words(tmp_path):
    job = Job("127.0.0.1:1", str(tmp_path / "no"), 0, 1, steps=1)
    with (
        Trainers([job], tmp_path) as trainers,
        pytest.raises(RowloomError, match=r"trainer 0 ended too early: FileNotFoundError: .*tokens\.npy"),
    ):
        trainers.train(1, 1.0, lambda number, said: None)


@pytest.fixture
def corpus(tmp_path):
    """A little language of 240 words in which "lock" and "socket" have company."""
    rng = np.random.default_rng(3)
    topics = [[f"w{t:02}_{i}" for i in range(6)] for t in range(40)]
    topics[0][0], topics[1][0] = "lock", "socket"
    lines = [" ".join(rng.choice(topics[t], 12)) for t in rng.integers(0, 40, 1500)]
    folder = tmp_path / "text"
    folder.mkdir()
    (folder / "text.txt").write_text("\n".join(lines))
    return folder


KEYS = {"loss_first", "loss_last", "neighbours", "rows_per_s", "scaling_pause_s", "bit_equal_after_scaling"}
SMALL = Extent(epochs=12, train_s=600, length=128)  # epochs end it, on a slow machine too


def check(result, tmp_path):
    assert set(result) >= KEYS | {"seconds", "plot"}
    assert result["loss_last"] < result["loss_first"]
    assert result["bit_equal_after_scaling"] is True
    assert result["pushes_exactly_once"] is True
    assert 0 < result["scaling_pause_s"] < result["seconds"]
    assert result["rows_per_s"] > 0
    assert {word for word in result["neighbours"]["lock"][:3]} <= {f"w00_{i}" for i in range(1, 6)}
    assert (tmp_path / "loss.png").read_bytes().startswith(b"\x89PNG")
    assert json.loads(json.dumps(result)) == result
    text = report(result)
    assert "bit-equal across the scaling" in text
    assert f"lock           {', '.join(result['neighbours']['lock'])}" in text


def test_a_demo_without_ray_ends_at_once_and_says_how_it_runs(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(
        InvalidRequest, match=r"pip install 'rowloom\[ray\]', or `rowloom demo --launcher local`"
    ):
        run_demo(tmp_path / "no text is read", None, "ray", True)


def test_a_demo_without_matplotlib_runs_and_says_what_would_draw_its_curve(corpus, tmp_path, monkeypatch):
    monkeypatch.setattr(demo, "can_plot", lambda: False)
    result = run_demo(
        corpus, tmp_path / "loss.png", "embedded", True, Extent(epochs=0.5, train_s=5, length=128)
    )
    assert result["plot"] is None
    assert report(result).endswith("no loss curve: a plot needs matplotlib: pip install 'rowloom[plot]'")
    assert not (tmp_path / "loss.png").exists()


def test_a_small_demo_trains_scales_and_finds_neighbours(corpus, tmp_path):
    result = run_demo(corpus, tmp_path / "loss.png", "embedded", quiet=True, extent=SMALL)
    check(result, tmp_path)


@pytest.mark.ray
@pytest.mark.slow
def test_a_small_demo_on_ray_leaves_no_cluster_and_no_ray(corpus, tmp_path, monkeypatch):
    rays = []

    def open_and_look(*args):
        cluster = open_cluster(*args)
        rays.append(local_ray.find(cluster._directory))
        return cluster

    monkeypatch.setattr(demo, "open_cluster", open_and_look)
    check(run_demo(corpus, tmp_path / "loss.png", "ray", quiet=True, extent=SMALL), tmp_path)
    (ray,) = rays
    assert ray.pid
    assert not is_running(ray.pid, ray.started)


def test_a_cluster_is_scaled_by_one_line_of_its_deploy_config(tmp_path):
    cluster = DeployedCluster("local", 2, tmp_path)
    try:
        before = (tmp_path / "deploy.yaml").read_text()
        assert cluster.scale(3) >= 0
        after = (tmp_path / "deploy.yaml").read_text()
    finally:
        cluster.close()
        cluster.close()
    changed = [(a, b) for a, b in zip(before.splitlines(), after.splitlines(), strict=True) if a != b]
    assert [(a.split("#")[0].strip(), b.split("#")[0].strip()) for a, b in changed] == [
        ("shards: 2", "shards: 3")
    ]


def test_scaling_to_what_runs_already_is_an_error_and_not_a_success(tmp_path):
    cluster = DeployedCluster("local", 1, tmp_path)
    try:
        with pytest.raises(RowloomError, match="asks for 1 shards, and applying it changed nothing"):
            cluster.scale(1)
    finally:
        cluster.close()


def test_a_demo_that_fails_ends_its_cluster(corpus, tmp_path, monkeypatch):
    addresses = []

    def fail(cluster, *rest):
        addresses.append(cluster.address)
        raise RowloomError("on purpose")

    monkeypatch.setattr(demo, "_train", fail)
    with pytest.raises(RowloomError, match="on purpose"):
        run_demo(corpus, None, "embedded", quiet=True)
    from rowloom.client import connect

    with pytest.raises(Unavailable):
        connect(addresses[0], timeout_s=0.5)


def test_rows_that_differ_after_the_scaling_are_reported(corpus, monkeypatch):
    told = iter(["one", "two"])
    monkeypatch.setattr(demo, "digest", lambda address: next(told))
    result = run_demo(corpus, None, "embedded", quiet=True, extent=Extent(epochs=1, length=128))
    assert result["bit_equal_after_scaling"] is False
    assert "NOT EQUAL" in report(result)


def test_an_unknown_launcher_is_refused_before_anything_starts(tmp_path):
    with pytest.raises(InvalidRequest, match="launcher must be local or ray or embedded, got 'slurm'"):
        run_demo(tmp_path, None, "slurm")


def test_the_running_mean_of_a_curve_keeps_its_level():
    seconds, losses = plots.smooth(np.arange(5.0), np.full(5, 2.0), width=3)
    assert seconds.tolist() == pytest.approx([1, 2, 3])
    assert losses.tolist() == pytest.approx([2, 2, 2])
    assert len(plots.smooth(np.arange(2.0), np.ones(2))[0]) == 1
