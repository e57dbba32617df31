"""The demo: word embeddings trained by two processes on a cluster that grows from two shards to three in the middle."""

from __future__ import annotations

import importlib.util
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from ...client import Adagrad, Client, TableSpec, Uniform, Zeros
from ...client.opening import open_client
from ...proto.errors import InvalidRequest
from ..config.launchers import check_launcher
from ..operate.digest import digest
from ..plots import MISSING, ScalingSpan, can_plot, check_place, loss_curve
from ..terminal import Stage, Stages
from .corpus import Corpus, read_corpus
from .demo_cluster import LAUNCHERS_OF_DEMO, DemoCluster, open_cluster
from .probe import Probe, Watched
from .skipgram import chances, nearest
from .trainer import INPUT, OUTPUT, Job, Report
from .trainers import Trainers

DIM = 64
TRAINERS = 2
SHARDS = (2, 3)
LEARNING_RATE = 0.2
WORDS = ("lock", "socket", "json", "thread", "file", "list", "parse", "date")
NEIGHBOURS = 6
# Neighbours are words that occur at least this often: what was seen a few times lies near anything.
FAMILIAR = 50
PULL_ROWS = 16_384


@dataclass(frozen=True)
class Extent:
    """How much the demo does.

    Attributes:
        epochs: times that the text is read.
        train_s: training stops after so many seconds, even if the text is not through.
        min_count: words that occur less often are left out.
        length: tokens of a step.
    """

    epochs: float = 8.0
    train_s: float = 90.0
    min_count: int = 3
    length: int = 1024


@dataclass
class Course:
    """How training went; filled in as the trainers report.

    Attributes:
        points: (seconds since training began, loss) of each report, in order.
        first: the loss in the first report of each trainer.
        steps: taken by all.
        rows: distinct rows pulled, and distinct rows pushed, by all.
        trained_s: seconds that the trainers were at work.
    """

    points: list[tuple[float, float]] = field(default_factory=list[tuple[float, float]])
    first: dict[int, float] = field(default_factory=dict[int, float])
    steps: int = 0
    rows: int = 0
    trained_s: float = 0.0

    def add(self, number: int, report: Report, at_s: float) -> None:
        """One report of trainer `number`, `at_s` seconds after training began."""
        if report.steps:
            self.points.append((at_s, report.loss))
            self.first.setdefault(number, report.loss)
        self.steps += report.steps
        self.rows += report.rows

    @property
    def loss_first(self) -> float:
        """Mean of the trainers' first reports."""
        return float(np.mean(list(self.first.values())))

    @property
    def loss_last(self) -> float:
        """Mean over the last twentieth of the reports."""
        return float(np.mean([loss for _, loss in self.points[-max(1, len(self.points) // 20) :]]))


@dataclass(frozen=True)
class Scaled:
    """What came of the change of shards: when, what a trainer saw meanwhile, for how long pushes waited."""

    scaling: ScalingSpan
    watched: Watched
    waited_s: float
    bit_equal: bool


def run_demo(
    corpus: Path | None = None,
    plot: Path | None = Path("rowloom-demo.png"),
    launcher: str = "ray",
    quiet: bool = False,
    extent: Extent | None = None,
) -> dict[str, Any]:
    """Train, scale from 2 to 3 shards through a deploy config, train on, and check.

    Args:
        corpus: a text file or a folder of them; none: the source of Python's standard library.
        plot: where the loss curve goes; None draws none. Without matplotlib it is left out, and the result says so.
        launcher: "ray" (a local Ray cluster is started), "local" (processes), or "embedded" (threads of this process).
        quiet: show no progress.
        extent: how much to do.

    Returns:
        loss_first, loss_last (per pair), neighbours (word -> nearest words), rows_per_s (distinct rows pulled and
        pushed by both trainers), scaling_pause_s (the longest push of a trainer that went on),
        bit_equal_after_scaling, seconds, plot, plot_skipped (why, or empty), and more of the kind.

    Raises:
        InvalidRequest: an argument is wrong; nothing was started.
        RowloomError: the cluster or a trainer failed; nothing is left running.
    """
    began = time.monotonic()
    extent = extent or Extent()
    plot = None if plot is None else Path(plot)
    skipped = ""
    if plot is not None:
        check_place(plot)
        if not can_plot():
            plot, skipped = None, MISSING
    check_launcher(launcher, LAUNCHERS_OF_DEMO)
    if launcher == "ray" and importlib.util.find_spec("ray") is None:
        raise InvalidRequest(
            "the demo runs on Ray, which is not installed: pip install 'rowloom[ray]', or `rowloom demo --launcher "
            "local`, which runs it without"
        )
    with tempfile.TemporaryDirectory(prefix="rowloom-demo-") as name, Stages(quiet) as stages:
        folder = Path(name)
        with stages("reading the text"):
            text = read_corpus(corpus, min_count=extent.min_count)
            np.save(folder / "tokens.npy", text.tokens)
            np.save(folder / "counts.npy", text.counts)
        with stages(f"starting {SHARDS[0]} shards ({launcher})"):
            cluster = open_cluster(launcher, SHARDS[0], folder)
        with closing(cluster):
            course, scaled = _train(cluster, text, extent, folder, stages)
            with stages("looking for neighbours"):
                found = _neighbours(cluster.address, text)
            with stages("ending the cluster"):
                cluster.close()
    if plot is not None:
        loss_curve(plot, course.points, scaled.scaling)
    return _result(text, course, scaled, found) | {
        "seconds": time.monotonic() - began,
        "plot": None if plot is None else str(plot.resolve()),
        "plot_skipped": skipped,
    }


def _result(text: Corpus, course: Course, scaled: Scaled, found: dict[str, list[str]]) -> dict[str, Any]:
    return {
        "loss_first": course.loss_first,
        "loss_last": course.loss_last,
        "neighbours": found,
        "rows_per_s": course.rows / course.trained_s,
        "scaling_pause_s": scaled.watched.longest_s,
        "bit_equal_after_scaling": scaled.bit_equal,
        "pushes_waited_s": scaled.waited_s,
        "pushes_while_scaling": scaled.watched.pushes,
        "pushes_exactly_once": scaled.watched.exact,
        "scaling_s": scaled.scaling.end_s - scaled.scaling.begin_s,
        "shards": list(SHARDS),
        "steps": course.steps,
        "tokens": len(text.tokens),
        "vocabulary": len(text.words),
    }


# ------------------------------------------------------------------------------------------------------- the stages


def _train(
    cluster: DemoCluster, text: Corpus, extent: Extent, folder: Path, stages: Stages
) -> tuple[Course, Scaled]:
    """Half of the steps on 2 shards, the change, the other half on 3, by the same trainers."""
    _create_tables(cluster.address, len(text.words))
    jobs = _jobs(cluster.address, text, extent, folder)
    course, began = Course(), time.monotonic()

    def go_on(until: int, title: str) -> None:
        start = time.monotonic()
        with stages(title, total=sum(job.steps for job in jobs) // 2) as stage:
            trainers.train(until, extent.train_s / 2, _listener(course, began, stage))
        course.trained_s += time.monotonic() - start

    with Trainers(jobs, folder) as trainers:
        go_on(jobs[0].steps // 2, f"training on {SHARDS[0]} shards")
        # The trainers rest, so that nothing but the scaling can change a row; the probe goes on in their place.
        with stages(f"scaling to {SHARDS[1]} shards"):
            scaled = _scale(cluster, began)
        go_on(jobs[0].steps, f"training on {SHARDS[1]} shards")
    return course, scaled


def _create_tables(address: str, words: int) -> None:
    optimizer, spread = Adagrad(lr=LEARNING_RATE), 0.5 / DIM
    with open_client(address) as client:
        client.create_table(
            TableSpec(
                INPUT, words, dim=DIM, optimizer=optimizer, initializer=Uniform(-spread, spread, seed=1)
            )
        )
        client.create_table(TableSpec(OUTPUT, words, dim=DIM, optimizer=optimizer, initializer=Zeros()))


def _jobs(address: str, text: Corpus, extent: Extent, folder: Path) -> list[Job]:
    """One for each trainer, with equal parts of the text."""
    usual = Job(address, str(folder), 0, 0, 0, length=extent.length)
    kept_tokens = float((chances(text.counts, usual.threshold) * text.counts).sum())
    steps = max(2, round(extent.epochs * kept_tokens / extent.length / TRAINERS))
    cuts = np.linspace(0, len(text.tokens), TRAINERS + 1).astype(int).tolist()
    return [
        replace(usual, begin=begin, end=end, steps=steps, seed=number)
        for number, (begin, end) in enumerate(pairwise(cuts))
    ]


def _listener(course: Course, began: float, stage: Stage) -> Callable[[int, Report], None]:
    start, rows_before = time.monotonic(), course.rows

    def listen(number: int, report: Report) -> None:
        now = time.monotonic()
        course.add(number, report, now - began)
        rate = (course.rows - rows_before) / max(now - start, 1e-9)
        loss = f"loss {course.points[-1][1]:.2f}, " if course.points else ""
        stage.advance(report.steps, f"{loss}{rate:,.0f} rows/s")

    return listen


def _scale(cluster: DemoCluster, began: float) -> Scaled:
    before = digest(cluster.address)
    probe = Probe(cluster.address)
    try:
        probe.start()
        begin_s = time.monotonic() - began
        waited_s = cluster.scale(SHARDS[1])
        end_s = time.monotonic() - began
    finally:
        watched = probe.finish()
    label = f"{SHARDS[0]} to {SHARDS[1]} shards\nlongest push {watched.longest_s * 1000:.0f} ms"
    return Scaled(
        ScalingSpan(begin_s, end_s, label), watched, waited_s, bit_equal=digest(cluster.address) == before
    )


def _neighbours(address: str, text: Corpus) -> dict[str, list[str]]:
    """For each of WORDS that the text has, the familiar words whose rows point the same way."""
    familiar = int(np.searchsorted(-text.counts, -min(FAMILIAR, text.counts[0]), side="right"))
    chosen = {word: i for word, i in text.find(WORDS).items() if i < familiar}
    # Another text: words from the middle of its familiar ones, neither "the" nor names.
    for i in range(familiar // 8, familiar, max(1, familiar // len(WORDS))):
        if len(chosen) < len(WORDS) // 2:
            chosen[text.words[i]] = i
    with open_client(address) as client:
        # The sum of both rows is near to words in the same places (input) and to words beside it (output).
        rows = _all_rows(client, INPUT, familiar) + _all_rows(client, OUTPUT, familiar)
    return {word: [text.words[j] for j in nearest(rows, i, NEIGHBOURS)] for word, i in chosen.items()}


def _all_rows(client: Client, table: str, n: int) -> np.ndarray:
    """[n, DIM] float32: the rows of ids 0 to n - 1."""
    starts = range(0, n, PULL_ROWS)
    return np.concatenate([client.table(table).pull(np.arange(i, min(i + PULL_ROWS, n))) for i in starts])


# ------------------------------------------------------------------------------------------------------- for people


def _drawn(result: dict[str, Any]) -> str:
    if result["plot_skipped"]:
        return f"; no loss curve: {result['plot_skipped']}"
    return f"; loss curve in {result['plot']}" if result["plot"] else ""


def report(result: dict[str, Any]) -> str:
    """What `run_demo` found, as text."""
    lines = [
        f"{result['tokens']:,} words of text, {result['vocabulary']:,} different; {result['steps']:,} steps",
        f"loss per pair    {result['loss_first']:.2f} -> {result['loss_last']:.2f}",
        f"rate             {result['rows_per_s']:,.0f} distinct rows/s pulled and pushed by {TRAINERS} trainers",
        f"scaling          {result['shards'][0]} -> {result['shards'][1]} shards in {result['scaling_s']:.1f} s; "
        f"the longest push meanwhile took {result['scaling_pause_s'] * 1000:.0f} ms",
        f"rows and slots   {'bit-equal' if result['bit_equal_after_scaling'] else 'NOT EQUAL'} across the scaling",
        f"pushes meanwhile {result['pushes_while_scaling']:,}, "
        f"{'each applied once' if result['pushes_exactly_once'] else 'NOT each applied once'}",
        "nearest words",
        *(f"  {word:<14} {', '.join(others)}" for word, others in result["neighbours"].items()),
        f"{result['seconds']:.0f} s" + _drawn(result),
    ]
    return "\n".join(lines)
