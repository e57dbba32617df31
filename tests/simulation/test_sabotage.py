"""The tests bite: each of these builds is broken on purpose, and the suite must notice."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from simulation.histories import History

from rowloom.client.calls.assembly import Arrived
from rowloom.proto.codec import Push, encode_push_reply
from rowloom.server import host as host_module
from rowloom.server.ledger import Ledger
from rowloom.server.shard import Shard

_spec = importlib.util.spec_from_file_location(
    "test_host", Path(__file__).parents[1] / "server" / "test_host.py"
)
assert _spec is not None
assert _spec.loader is not None
test_host = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(test_host)

SEEDS = 60


def seeds_that_fail() -> int:
    """How many histories of the simulator end in a broken invariant."""
    failed = 0
    for seed in range(SEEDS):
        try:
            History(seed).finish()
        except AssertionError:
            failed += 1
            if failed == 3:
                break
    return failed


def test_without_the_duplicate_window_pushes_are_applied_twice(monkeypatch) -> None:
    monkeypatch.setattr(Ledger, "has", lambda *_: False)
    assert seeds_that_fail() == 3
    with pytest.raises(AssertionError):
        test_host.test_a_part_that_comes_twice_is_applied_once()


def test_with_reassembly_shifted_by_one_rows_come_back_as_other_ids_rows(monkeypatch) -> None:
    spread = Arrived.spread

    def shifted(self, inverse: np.ndarray) -> np.ndarray:
        return spread(self, (inverse + 1) % max(1, len(self)))

    monkeypatch.setattr(Arrived, "spread", shifted)
    assert seeds_that_fail() == 3


def test_a_shard_that_applies_before_it_validates_is_caught(monkeypatch) -> None:
    checked = Shard._checked

    def hasty(self, request):
        for number, ids, block in request.tables:
            table = self.tables.get(number)
            inside = table is not None and ((ids >= 0) & (ids < 100)).all()
            if inside and block.data.size == len(ids) * table.width:
                table.push(ids, block.data.reshape(len(ids), -1), 0)
        return checked(self, request)

    monkeypatch.setattr(Shard, "_checked", hasty)
    with pytest.raises(AssertionError):
        test_host.test_a_bad_push_changes_nothing(
            test_host.part([5, 6], [[1, 1], [1, np.nan]]), host_module.InvalidRequest, "id 6 has nan"
        )


def test_a_shard_that_goes_on_applying_while_rows_move_loses_pushes(monkeypatch) -> None:
    def restless(self, call):
        return host_module.Answer([encode_push_reply(self._serving().push(Push.decode(call.data)))])

    monkeypatch.setattr(host_module.Host, "_push", restless)
    assert seeds_that_fail() >= 1


def test_a_ledger_that_stays_behind_when_rows_move_lets_pushes_apply_twice(monkeypatch) -> None:
    monkeypatch.setattr(Ledger, "merge", lambda *_: None)
    assert seeds_that_fail() >= 1


def test_without_turns_a_late_step_undoes_a_later_one(monkeypatch) -> None:
    monkeypatch.setattr(host_module.Host, "_take_turn", lambda self, cluster_id, turn: None)
    with pytest.raises(pytest.fail.Exception):
        test_host.test_late_control_steps_change_nothing()
