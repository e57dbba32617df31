"""What a chaos run has to answer for, from its history alone: python tests/chaos/check.py DIR

Prints one JSON object; exits with 1 if a push is lost or doubled, a call failed, or any number is not what it must be.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

from chaos.history import ACKED, COUNTERS, FAILED, UNRESOLVED, History, Push
from oracle import OracleTable

MOST_NAMED = 20


@dataclass
class Verdict:
    """How many pushes and rows there were, and how many were not as they must be.

    Attributes:
        pushes: that ended, or were begun.
        acked: of them.
        unresolved: of them; allowed only if disks failed.
        failed: calls that raised something else; none may.
        lost: pushes that were acknowledged and are not there, on one shard at least.
        doubled: pushes that are there twice.
        torn: unresolved pushes of which a shard has a part.
        wrong_reads: calls that pulled something else than what the same trainer had pushed.
        wrong_counters: numbers of the counters that are not what acknowledged pushes make of them.
        wrong_rows: rows of the trainers' own tables that differ from the oracle's, by a bit or more.
        named: some of the pushes that are lost or doubled, in words.
    """

    pushes: int = 0
    acked: int = 0
    unresolved: int = 0
    failed: int = 0
    lost: int = 0
    doubled: int = 0
    torn: int = 0
    wrong_reads: int = 0
    wrong_counters: int = 0
    wrong_rows: int = 0
    named: list[str] = field(default_factory=list)

    def good(self, *, disk_failed: bool) -> bool:
        """Whether nothing is wrong. disk_failed: pushes may be unresolved."""
        wrong = (self.failed, self.lost, self.doubled, self.torn)
        wrong += (self.wrong_reads, self.wrong_counters, self.wrong_rows)
        return not any(wrong) and (disk_failed or not self.unresolved)


def check(history: History) -> Verdict:
    """All trainers of a run."""
    verdict, counters = Verdict(), history.table(COUNTERS)
    for trainer in range(history.plan.trainers):
        verdict.wrong_reads += history.wrong_reads(trainer)
        _check_trainer(history, trainer, counters[:, trainer], verdict)
    return verdict


def _check_trainer(history: History, trainer: int, column: np.ndarray, verdict: Verdict) -> None:
    own = OracleTable(history.plan.own(trainer))
    wanted, open_pushes = np.zeros(history.plan.rows, np.int64), []
    for push, outcome in history.outcomes(trainer):
        verdict.pushes += 1
        verdict.acked += outcome == ACKED
        verdict.failed += outcome == FAILED
        verdict.unresolved += outcome == UNRESOLVED
        if outcome == ACKED:
            wanted[push.ids] += push.amounts
            own.push(push.own_ids, push.own_grads)
        elif outcome == UNRESOLVED:
            open_pushes.append(push)
    beyond = column - wanted
    for push in open_pushes:
        verdict.torn += _take_out(beyond, push, history.plan.together)
    verdict.wrong_counters += int(np.count_nonzero(beyond))
    if beyond.any():
        _name(history, trainer, beyond, verdict)
    verdict.wrong_rows += _wrong_rows(own, history.table(own.spec.name), open_pushes)


def _take_out(beyond: np.ndarray, push: Push, together: int) -> bool:
    """Of an unresolved push what is there, as it may be; whether a shard has a part of it."""
    torn = False
    for part in _parts(push, together):
        there = beyond[push.ids[part]] == push.amounts[part]
        torn |= bool(there.any() and not there.all())
        beyond[push.ids[part][there]] = 0
    return torn


def _parts(push: Push, together: int) -> list[np.ndarray]:
    """Places of the ids that are on one shard together, whatever the layout."""
    remainders = push.ids % together
    return [np.flatnonzero(remainders == r) for r in np.unique(remainders)]


def _name(history: History, trainer: int, beyond: np.ndarray, verdict: Verdict) -> None:
    """Find the pushes that explain what is too much or too little: those first that explain most of it, then the last.

    A single row may be explained by several, so what is named is where to look, and that there is something.
    """
    acked = [(k, p) for k, (p, outcome) in enumerate(history.outcomes(trainer)) if outcome == ACKED]
    found: dict[str, set[int]] = {"lost": set(), "doubled": set()}
    for least in (4, 2, 1):
        for number, push in reversed(acked):
            for part in _parts(push, history.plan.together):
                ids, amounts = push.ids[part], push.amounts[part]
                for sign, word in ((-1, "lost"), (1, "doubled")):
                    if len(ids) >= least and np.array_equal(beyond[ids], sign * amounts):
                        beyond[ids] = 0
                        found[word].add(number)
                        verdict.named.append(
                            f"trainer {trainer}, push {number}: {word} for ids {ids.tolist()}"
                        )
    verdict.lost += len(found["lost"])
    verdict.doubled += len(found["doubled"])
    del verdict.named[MOST_NAMED:]


def _wrong_rows(own: OracleTable, rows: np.ndarray, open_pushes: list[Push]) -> int:
    """Rows that are not the oracle's, nor what an unresolved push makes of them."""
    ids = np.arange(len(rows))
    wrong = (own.pull(ids).view(np.uint32) != rows.view(np.uint32)).any(axis=1)
    for push in open_pushes:
        own.push(push.own_ids, push.own_grads)
        touched = np.unique(push.own_ids)
        wrong[touched] &= (own.pull(touched).view(np.uint32) != rows[touched].view(np.uint32)).any(axis=1)
    return int(wrong.sum())


def main() -> int:
    history = History(Path(sys.argv[1]))
    verdict = check(history)
    disk_failed = any("disk" in event.get("fault", "") for event in history.events())
    print(json.dumps(dataclasses.asdict(verdict) | {"good": verdict.good(disk_failed=disk_failed)}, indent=1))
    return int(not verdict.good(disk_failed=disk_failed))


if __name__ == "__main__":
    sys.exit(main())
