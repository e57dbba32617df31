"""The tests bite: each of these builds is broken on purpose, and the suite must notice."""

import importlib.util
from pathlib import Path

import pytest
from simulation import sabotage

_spec = importlib.util.spec_from_file_location(
    "test_host", Path(__file__).parents[1] / "server" / "test_host.py"
)
assert _spec is not None
assert _spec.loader is not None
test_host = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(test_host)

# A call that an exception ends in the middle of a broken build may fail once more while it is cleared away.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.mark.parametrize("build", sabotage.BUILDS, ids=lambda build: build.__name__)
def test_the_simulator_notices(build, monkeypatch) -> None:
    build(monkeypatch)
    caught = sabotage.seeds_until_caught(0)
    assert caught <= sabotage.UNTIL_CAUGHT, f"{build.__doc__} No history of {caught - 1} failed"


def test_a_shard_without_its_duplicate_window_fails_its_own_tests_too(monkeypatch) -> None:
    sabotage.no_duplicate_window(monkeypatch)
    with pytest.raises(AssertionError):
        test_host.test_a_part_that_comes_twice_is_applied_once()


def test_without_turns_a_late_step_undoes_a_later_one(monkeypatch) -> None:
    sabotage.late_steps_are_taken(monkeypatch)
    with pytest.raises(pytest.fail.Exception):
        test_host.test_late_control_steps_change_nothing()
