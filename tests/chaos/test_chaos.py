"""A short chaos run: real processes that are killed and stopped while trainers push. `run.py` beside it runs longer."""

from chaos.faults import KILLS, OTHERS, faults
from chaos.history import History
from chaos.run import Chaos, run


def test_no_push_is_lost_or_doubled_and_no_call_fails_while_processes_are_killed(tmp_path):
    chaos = Chaos(
        pushes=1200, trainers=2, kills=4, seed=74, durability="process", storage=str(tmp_path / "storage")
    )
    found = run(chaos, History(tmp_path / "history"))
    assert found["good"], found
    assert found["kills"] == 4
    assert found["acked"] >= 1200


def test_a_seed_says_which_faults_come_and_all_kinds_of_them_do():
    plan = faults(7, 100_000, 200)
    assert plan == faults(7, 100_000, 200)
    assert plan != faults(8, 100_000, 200)
    assert {fault.kind for fault in plan} == {*KILLS, *OTHERS}
    assert sum(fault.kind in KILLS for fault in plan) == 200
    assert [fault.at for fault in plan] == sorted(fault.at for fault in plan)
