"""The speed gate: calls of this version beside those of another one, on one machine, in one run.

Each version sits in a process of its own, under its own interpreter, with its own cluster (`gate_worker.py`). They
take turns in short blocks, so that both see the same weather, and only times of the same round are compared.

Every round has fresh processes. Two processes of one version differ by up to 7 % at small calls, as long as they live:
where their memory lies is luck. Rounds in the same processes would all have the same luck, and call it a difference.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ratios import AFTER, BEFORE, EXCEEDED, LEAST_ROUNDS, Comparison, Round, compare, turns

from rowloom.deploy.bench.workload import BATCHES_MADE, zipf_ids
from rowloom.deploy.terminal import Stages

ROWS, DIM = 1_000_000, 64
CARRIERS = ("auto", "tcp", "grpc")
BATCHES = (16, 1024, 16_384, 65_536)
WIDE = (16_384, 65_536)  # batches for which rows of two bytes a value are measured too
BAGS, BAG_IDS = 4096, 20
TABLES, TABLE_IDS, TABLE_ROWS, TABLE_DIM = 26, 1024, 100_000, 16
ROUNDS = 13
BLOCK_S = 0.05
PATIENCE_S = 20  # until a worker has ended its shards
WORKER = Path(__file__).with_name("gate_worker.py")


@dataclass(frozen=True)
class Case:
    """One measurement.

    Attributes:
        op: pull, push, step; pull_bags, push_bags; pull_tables, push_tables, step_tables.
        carrier: as `connect` takes it.
        batch: ids in a call.
        wire: the wire type; None for float32.
    """

    op: str
    carrier: str
    batch: int
    wire: str | None = None

    @property
    def name(self) -> str:
        """The op, and the wire type when it is not float32."""
        return f"{self.op} {self.wire}" if self.wire else self.op


def make_cases(carriers: Sequence[str], batches: Sequence[int]) -> list[Case]:
    """All that the gate measures."""
    cases = []
    for carrier in carriers:
        cases += [Case(op, carrier, batch) for batch in batches for op in ("pull", "push", "step")]
        wide = [batch for batch in batches if batch in WIDE]
        cases += [Case(op, carrier, batch, "bfloat16") for batch in wide for op in ("pull", "push")]
        cases += [Case(op, carrier, BAGS * BAG_IDS) for op in ("pull_bags", "push_bags")]
        many = ("pull_tables", "push_tables", "step_tables")
        cases += [Case(op, carrier, TABLES * TABLE_IDS) for op in many]
    return cases


def make_inputs(batches: Sequence[int], rows: int, seed: int = 0) -> dict[str, np.ndarray]:
    """What both versions are called with: bounded Zipf ids and small gradients.

    Returns:
        For each batch size N, by its digits, [8, N] int64; "bags" [8, bags, ids of a bag]; "tables"
        [8, tables, ids]; "grads" [most, dim] float32 and "tables_grads" [ids, dim of those tables] float32.
    """
    rng = np.random.default_rng(seed)
    found = {str(n): zipf_ids(BATCHES_MADE * n, rows, rng).reshape(BATCHES_MADE, n) for n in batches}
    shape = (BATCHES_MADE, BAGS, BAG_IDS)
    found["bags"] = zipf_ids(int(np.prod(shape)), rows, rng).reshape(shape)
    shape = (BATCHES_MADE, TABLES, TABLE_IDS)
    found["tables"] = zipf_ids(int(np.prod(shape)), TABLE_ROWS, rng).reshape(shape)
    small = np.float32(1e-3)
    found["grads"] = rng.standard_normal((max(BAGS, *batches), DIM), np.float32) * small
    found["tables_grads"] = rng.standard_normal((TABLE_IDS, TABLE_DIM), np.float32) * small
    return found


class Worker:
    """The process of one version. Ends when it is closed, or with this process.

    Args:
        python: the interpreter in which the version is installed.
        folder: an empty one, where it runs: nothing there can be imported in place of what is installed.
    """

    def __init__(self, python: str, folder: str) -> None:
        self.python = python
        env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        # Absolute, but not resolved: an interpreter of a venv is a link, and knows the venv by it.
        command = [os.path.abspath(python), "-I", str(WORKER)]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=folder, env=env, text=True
        )

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, *exc: object) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            self._process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()

    def say(self, do: str, **order: Any) -> None:
        """Give an order."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps({"do": do, **order}) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise RuntimeError(f"the worker of {self.python} is gone") from None

    def answer(self) -> dict[str, Any]:
        """What it says to the order.

        Raises:
            RuntimeError: it failed, or is gone.
        """
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        found = json.loads(line) if line else {"error": "it is gone"}
        if "error" in found:
            raise RuntimeError(f"the worker of {self.python} failed: {found['error']}")
        return found

    def ask(self, do: str, **order: Any) -> dict[str, Any]:
        """Give an order, and wait for what it says."""
        self.say(do, **order)
        return self.answer()


def play(
    workers: Sequence[Worker], cases: Sequence[Case], number: int, advance: Callable[..., None]
) -> list[tuple[Round, Round]]:
    """One round: every case, with the two versions in turn.

    Args:
        workers: of both versions, whose clusters are up.
        cases: what the workers were opened with.
        number: of the round; decides who begins.
        advance: told of each case.
    """
    for case in range(len(cases)):
        for worker in workers:
            worker.ask("warm_up", case=case)
    found = []
    for index, case in enumerate(cases):
        blocks: tuple[list[dict], list[dict]] = ([], [])
        for who in turns(number):
            blocks[who].append(workers[who].ask("block", case=index, seconds=BLOCK_S))
        found.append((Round.of(blocks[BEFORE]), Round.of(blocks[AFTER])))
        advance(1, f"{case.name} {case.carrier} {case.batch:,}")
    return found


@dataclass(frozen=True)
class Gate:
    """What is measured, and how long.

    Attributes:
        beside: the interpreter of the other version, "before"; this process's own has "after".
        rounds: each with fresh processes, and one ABBA of each case.
        carriers, batches: what is measured.
        rows: of the table.
    """

    beside: str
    rounds: int = ROUNDS
    carriers: tuple[str, ...] = CARRIERS
    batches: tuple[int, ...] = BATCHES
    rows: int = ROWS

    def __post_init__(self) -> None:
        if self.rounds < LEAST_ROUNDS:
            raise ValueError(f"rounds must be at least {LEAST_ROUNDS} for a 90 % interval, got {self.rounds}")
        if min(self.batches) < 1:
            raise ValueError(f"batches must be at least 1, got {self.batches}")

    def run(self, quiet: bool = False) -> dict[str, Any]:
        """Measure, and once more what seems slower: then the second figures count.

        One in twenty noisy cases is above its bound by chance, but seldom twice; what is slower is slower again.

        Args:
            quiet: show no progress.

        Returns:
            before, after: where each version lies; rounds; and cases, each with its figures and how many looks it took.
        """
        cases = make_cases(self.carriers, self.batches)
        with Stages(quiet) as stages:
            where, found = self._look(cases, stages)
            figures = {case: {**asdict(case), **asdict(one), "looks": 1} for case, one in found.items()}
            doubtful = [case for case, one in found.items() if one.verdict == EXCEEDED]
            if doubtful:
                _, found = self._look(doubtful, stages)
                figures |= {case: {**asdict(case), **asdict(one), "looks": 2} for case, one in found.items()}
        return {**where, "rounds": self.rounds, "cases": list(figures.values())}

    def _look(self, cases: Sequence[Case], stages: Stages) -> tuple[dict[str, str], dict[Case, Comparison]]:
        """Where both versions lie, and what was found at each case."""
        rounds: list[list[tuple[Round, Round]]] = []
        where: dict[str, str] = {}
        title, total = f"{self.rounds} rounds of {len(cases)} calls", self.rounds * len(cases)
        with (
            tempfile.TemporaryDirectory(prefix="rowloom-gate-") as folder,
            stages(title, total=total) as stage,
        ):
            plan = self._plan(cases, folder)
            for number in range(self.rounds):
                stage.advance(0, f"starting round {number + 1}")
                with Worker(self.beside, folder) as before, Worker(sys.executable, folder) as after:
                    workers = {"before": before, "after": after}
                    for worker in workers.values():
                        worker.say("open", plan=plan)
                    where = {name: worker.answer()["where"] for name, worker in workers.items()}
                    rounds.append(play((before, after), cases, number, stage.advance))
        found: list[Comparison] = []
        for case, one in zip(cases, zip(*rounds, strict=True), strict=True):
            before, after = zip(*one, strict=True)
            found.append(compare(before, after, case.batch))
        return where, dict(zip(cases, found, strict=True))

    def _plan(self, cases: Sequence[Case], folder: str) -> dict[str, Any]:
        """What a worker has to know to be up. Writes the inputs into the folder."""
        inputs = str(Path(folder) / "inputs.npz")
        np.savez(inputs, allow_pickle=False, **make_inputs(self.batches, self.rows))
        return {
            "inputs": inputs,
            "rows": self.rows,
            "dim": DIM,
            "table_rows": TABLE_ROWS,
            "table_dim": TABLE_DIM,
            "carriers": self.carriers,
            "cases": [asdict(case) for case in cases],
        }


def table_of(found: dict[str, Any]) -> str:
    """The figures for people: a line for each case; the CPU is that of the client's process for a call."""
    heads = (
        "op",
        "carrier",
        "batch",
        "before us",
        "after us",
        "ratio",
        "90 %",
        "bound",
        "cpu us b./after",
        "",
    )
    line = "{:14} {:7} {:>7} {:>9} {:>9} {:>6} {:>13} {:>5} {:>15}  {}"
    lines = [
        f"before: {found['before']}, after: {found['after']}, {found['rounds']} rounds, {os.cpu_count()} cores",
        line.format(*heads),
    ]
    for case in found["cases"]:
        lines.append(
            line.format(
                f"{case['op']} {case['wire'] or ''}",
                case["carrier"],
                f"{case['batch']:,}",
                f"{case['before_us']:,.0f}",
                f"{case['after_us']:,.0f}",
                f"{case['ratio']:.3f}",
                f"{case['low']:.3f} - {case['high']:.3f}",
                f"{case['bound']:.2f}",
                f"{case['before_cpu_us']:,.0f} / {case['after_cpu_us']:,.0f}",
                case["verdict"] + (", second look" if case["looks"] == 2 else ""),
            )
        )
    counts = {
        word: sum(case["verdict"] == word for case in found["cases"]) for word in ("ok", "noise", "exceeded")
    }
    lines.append(", ".join(f"{count} {word}" for word, count in counts.items()))
    return "\n".join(lines)
