"""The coordinator when its disk fails, servers are out of reach, or it ends itself: nothing may stay half done."""

from dataclasses import replace

import numpy as np
import pytest
from simulation.cluster import Died
from simulation.lab import ROWS, WIDTH, Lab
from simulation.receiving import Receiving

from rowloom.client import InvalidRequest, TableSpec
from rowloom.client.calls import operations as ops
from rowloom.client.calls.control import ask
from rowloom.deploy.control import state as state_module
from rowloom.deploy.control.effects import NotStored
from rowloom.deploy.control.state import ClusterState
from rowloom.proto import methods
from rowloom.proto import rowloom_pb2 as pb
from rowloom.proto.errors import StateLost, TableNotFound, Unavailable, WrongCluster
from rowloom.proto.spec import TableEntry
from rowloom.server.states import Serving


def commits(lab: Lab, epoch: int, then) -> None:
    """When a layout of that epoch is to be stored for the first time, `then(state, store)` says what comes of it."""
    disk = lab.node.disk
    store, seen = disk.commit, []

    def commit(state):
        if seen or state.layout is None or state.layout.epoch != epoch:
            return store(state)
        seen.append(state)
        return then(state, store)

    disk.commit = commit


def stored_but_failed(state, store):
    store(state)
    return Unavailable("fsync of the folder failed")


def nothing_stored(state, store):
    return Unavailable("no space left")


def serving(lab: Lab, epoch: int, n: int) -> bool:
    states = lab.states()
    return len(states) == n and all(isinstance(s, Serving) and s.layout.epoch == epoch for s in states)


@pytest.mark.parametrize("scale_to", [1, 5])
def test_a_commit_that_fails_after_it_was_stored_is_a_commit(scale_to: int) -> None:
    lab = Lab(1, 3)
    lab.do(lab.push([1, 2, 3]))
    commits(lab, 2, stored_but_failed)
    assert lab.scale(scale_to) is None
    assert serving(lab, 2, scale_to)
    assert lab.node.disk.stored.layout == lab.node.coordinator.layout
    assert lab.rows()[:5, 0].tolist() == [0, 1, 1, 1, 0]


def test_a_commit_that_stored_nothing_is_undone_at_once() -> None:
    lab = Lab(1, 3)
    commits(lab, 2, nothing_stored)
    assert isinstance(lab.scale(5), Unavailable)
    assert serving(lab, 1, 3)
    assert lab.node.disk.stored.layout.epoch == 1
    assert (
        sorted(lab.node.shards) == lab.node.coordinator.state.keys
    )  # those that were started have been ended
    lab.do(lab.push([1]))
    assert lab.scale(5) is None


def test_while_it_is_not_known_whether_a_layout_is_stored_nothing_goes_on_without_it() -> None:
    lab = Lab(1, 2)
    disk = lab.node.disk

    def break_down(state, store):
        store(state)
        disk.broken = True
        return Unavailable("input/output error")

    commits(lab, 2, break_down)
    out: list = []
    lab.node.scale(3, out.append)
    lab.world.run(lambda: lab.world.now > 60)
    assert not out
    assert not any(isinstance(s, Serving) and s.layout.epoch == 1 for s in lab.states())
    disk.broken = False
    lab.world.run(lambda: bool(out))
    assert out == [None]
    assert serving(lab, 2, 3)


def test_a_layout_is_shown_when_it_is_stored_not_before() -> None:
    lab, shown = Lab(1, 2), []

    def look(state, store):
        shown.append(lab.node.coordinator.describe().layout.epoch)
        return store(state)

    commits(lab, 2, look)
    assert lab.scale(3) is None
    assert shown == [1]
    assert lab.node.coordinator.describe().layout.epoch == 2


def test_nothing_is_frozen_when_a_shard_does_not_answer() -> None:
    lab, frozen = Lab(1, 3), []
    lab.after(methods.FREEZE, frozen.append)
    lab.world.clogged.add("shard-2:1")
    assert isinstance(lab.scale(4), Unavailable)
    assert not frozen


def test_a_scaling_that_fails_thaws_all_that_answer_at_once_and_the_others_later() -> None:
    lab = Lab(1, 3)
    lab.after(methods.FREEZE, lambda _: lab.world.at(0.005, lab.world.clogged.add, "shard-2:1"))
    assert isinstance(lab.scale(4), Unavailable)
    assert [state.word for state in lab.states()] == ["serving", "serving", "moving"]
    before = lab.world.now
    lab.do(lab.push([0, 1]))  # of the other two
    assert lab.world.now - before < 0.5
    lab.world.clogged.clear()
    lab.settle()
    assert serving(lab, 1, 3)


def test_shards_are_thawed_also_when_the_answer_to_freezing_was_lost() -> None:
    lab = Lab(1, 2)
    lab.lose_replies(methods.FREEZE, 1000)
    assert isinstance(lab.scale(3), Unavailable)
    lab.settle()
    assert serving(lab, 1, 2)


@pytest.mark.parametrize("dies", [False, True])
def test_a_learning_rate_that_did_not_reach_a_shard_reaches_it_later(dies: bool) -> None:
    lab = Lab(1, 3)
    lab.world.clogged.add("shard-1:1")
    assert isinstance(lab.change(lab.node.coordinator.set_lr("t", 0.5)), Unavailable)
    rates = [shard.tables[1].lr for shard in lab.shards()]
    assert rates == [0.5, 1.0, 0.5]
    if dies:
        lab.node._die()
    lab.world.clogged.clear()
    lab.settle()
    assert [shard.tables[1].lr for shard in lab.shards()] == [0.5] * 3


@pytest.mark.parametrize("dies", [False, True])
def test_a_table_that_did_not_reach_a_shard_is_shown_when_it_has(dies: bool) -> None:
    lab = Lab(1, 3)
    lab.world.clogged.add("shard-1:1")
    assert isinstance(lab.change(lab.node.coordinator.create_table(TableSpec("u", ROWS, dim=1))), Unavailable)
    assert [2 in shard.tables for shard in lab.shards()] == [True, False, True]
    assert list(lab.node.coordinator.state.tables) == ["t"]
    if dies:
        lab.node._die()
    lab.world.clogged.clear()
    lab.settle()
    assert all(2 in shard.tables for shard in lab.shards())
    assert list(lab.node.coordinator.state.tables) == ["t", "u"]


@pytest.mark.parametrize(
    ("change", "left"),
    [
        (lambda c: c.set_lr("t", 0.5), "lr of table 't' has not reached every shard yet"),
        (lambda c: c.create_table(TableSpec("u", ROWS, dim=1)), "table 'u' is not on every shard yet"),
        (lambda c: c.drop_table("t"), "table number 1 was dropped, and not by every shard yet"),
    ],
)
def test_a_change_that_did_not_reach_a_shard_says_that_it_will_and_can_be_seen_until_then(
    change, left
) -> None:
    # It said Unavailable, as if nothing had happened, while other shards had it.
    lab = Lab(1, 3)
    coordinator = lab.node.coordinator
    assert coordinator.waiting() == []
    lab.world.clogged.add("shard-1:1")
    out = lab.change(change(coordinator))
    assert isinstance(out, Unavailable)
    assert "is recorded; shard 1 at shard-1:1 has not taken it yet" in str(out)
    assert "It is repeated until every shard has taken it" in str(out)
    assert coordinator.waiting() == [left]
    lab.world.clogged.clear()
    lab.settle()
    assert coordinator.waiting() == []


def test_a_client_hears_which_shard_a_change_waits_for_and_not_that_the_coordinator_is_silent() -> None:
    # It gave up before the coordinator did, and said that the coordinator had not answered.
    lab = Lab(1, 3)
    lab.world.clogged.add("shard-1:1")
    request = pb.AdjustTableRequest(name="t", lr=0.5)
    operation = ask(lab.session, methods.SET_LEARNING_RATE, request, lab.world.now + 15)
    out = lab.outcome(lambda ended: lab.world.operate(lab.session, operation, ended))
    assert isinstance(out, Unavailable)
    assert "lr 0.5 of table 't' is recorded; shard 1 at shard-1:1 has not taken it yet" in str(out)
    assert "coordinator" not in str(out)


def test_a_change_whose_end_a_client_does_not_see_is_not_said_to_be_undone() -> None:
    lab = Lab(1, 3)
    lab.world.clogged.add("shard-1:1")
    request = pb.AdjustTableRequest(name="t", lr=0.5)
    operation = ask(lab.session, methods.SET_LEARNING_RATE, request, lab.world.now + 2)
    out = lab.outcome(lambda ended: lab.world.operate(lab.session, operation, ended))
    assert isinstance(out, Unavailable)
    assert "may have been begun, and then it is finished when it can be" in str(out)


def test_shards_that_may_wait_with_pushes_are_named() -> None:
    lab = Lab(1, 3)
    lab.after(methods.FREEZE, lambda _: lab.world.at(0.005, lab.world.clogged.add, "shard-2:1"))
    assert isinstance(lab.scale(4), Unavailable)
    said = "".join(lab.node.coordinator.waiting())
    assert (
        "shard 2 has yet to be told the layout, and pushes to it may wait until then. The coordinator tries"
        in said
    )
    said = "".join(lab.node.coordinator.state.waiting([0, 2]))
    assert "shards 0 and 2 have yet to be told the layout, and pushes to them may wait until then" in said


def test_a_table_is_not_dropped_while_that_cannot_be_stored() -> None:
    # It said that the table was dropped; the next coordinator found it in storage, and no rows of it.
    lab = Lab(1, 2)
    lab.do(lab.push([3]))
    lab.node.disk.full = True
    request = pb.RemoveTableRequest(name="t")
    operation = ask(lab.session, methods.DROP_TABLE, request, lab.world.now + 15)
    out = lab.outcome(lambda ended: lab.world.operate(lab.session, operation, ended))
    assert isinstance(out, Unavailable)
    assert "no space left" in str(out)
    assert list(lab.node.coordinator.state.tables) == ["t"]
    assert lab.rows()[3, 0] == 1


def test_a_half_made_table_can_be_dropped() -> None:
    lab = Lab(1, 3)
    lab.world.clogged.add("shard-1:1")
    assert isinstance(lab.change(lab.node.coordinator.create_table(TableSpec("u", ROWS, dim=1))), Unavailable)
    assert isinstance(lab.change(lab.node.coordinator.drop_table("u")), Unavailable)
    assert isinstance(lab.change(lab.node.coordinator.drop_table("u")), Unavailable)  # a shard still has it
    lab.world.clogged.clear()
    lab.settle()
    assert isinstance(lab.change(lab.node.coordinator.drop_table("u")), TableNotFound)
    assert not any(2 in shard.tables for shard in lab.shards())


def test_tables_that_no_client_could_be_told_any_more_are_not_made(monkeypatch) -> None:
    # Metadata of 63 MB made every new client, status and scaling fail, and the table could not be dropped.
    lab = Lab(1, 2)
    monkeypatch.setattr(state_module, "MAX_TABLES_BYTES", 1000)
    spec = TableSpec("u", ROWS, dim=1, metadata={"note": "x" * 900})
    out = lab.change(lab.node.coordinator.create_table(spec))
    assert isinstance(out, InvalidRequest)
    assert "the specs of all 2 tables would be" in str(out)
    assert "at most 1000" in str(out)
    assert not lab.node.coordinator.unfinished
    assert isinstance(lab.change(lab.node.coordinator.create_table(replace(spec, metadata={}))), TableEntry)


def test_rows_do_not_move_past_a_table_that_is_half_made() -> None:
    lab = Lab(1, 2)
    lab.world.clogged.add("shard-1:1")
    lab.change(lab.node.coordinator.create_table(TableSpec("u", ROWS, dim=1)))
    lab.world.clogged.clear()
    assert lab.scale(3) is None
    assert all(sorted(shard.tables) == [1, 2] for shard in lab.shards())


@pytest.mark.parametrize("effects", range(1, 30))
@pytest.mark.parametrize("scale_to", [1, 3])
def test_a_coordinator_that_ends_at_any_effect_of_a_scaling_leaves_nothing_behind(
    effects: int, scale_to: int
) -> None:
    lab = Lab(effects, 2)
    lab.do(lab.push([1, 2, 3]))
    lab.node.doom = effects
    out = lab.scale(scale_to)
    lab.node.doom = None
    lab.world.run(lambda: lab.node.alive)
    lab.settle()
    assert out is None or isinstance(out, Died)
    assert lab.rows()[:5, 0].tolist() == [0, 1, 1, 1, 0]
    assert sorted(lab.node.shards) == lab.node.coordinator.state.keys
    assert serving(lab, lab.node.coordinator.layout.epoch, lab.node.coordinator.layout.n)
    lab.do(lab.push([1]))


def test_a_server_that_came_back_empty_while_rows_moved_says_that_they_are_lost() -> None:
    # It was told to receive, and clients waited for ever for what would never arrive.
    lab = Lab(1, 2)
    node = lab.node.shards[1]

    def restart(_):
        node.kill(0.0)

    lab.after(methods.FREEZE, restart)
    assert isinstance(lab.scale(3), Unavailable | StateLost)
    lab.settle()
    lab.world.linger = 0.0  # a push that was not answered at first may be there for all that its client knows
    before = lab.world.now
    out = lab.outcome(lambda ended: lab.world.operate(lab.session, lab.push([1]), ended))
    assert isinstance(out, StateLost)
    assert lab.world.now - before < 5


def test_a_server_that_ends_with_what_it_received_before_the_commit_costs_no_row() -> None:
    lab = Lab(1, 2)
    lab.do(lab.push(list(range(ROWS))))
    slow = lab.node._launch

    def launch(effect, step):
        slow(effect, step)
        fast, late = (lab.node.shards[key] for key in effect.keys)
        late.received = lambda *_: None  # so that the other one has time to end
        received = fast.received

        def watch(incoming, error):
            received(incoming, error)
            if incoming.receive.done:
                fast.kill(0.1)

        fast.received = watch

    lab.node._launch = launch
    assert isinstance(lab.scale(4), StateLost | Unavailable)
    assert serving(lab, 1, 2)
    assert lab.rows()[:, 0].tolist() == [1] * ROWS
    lab.do(lab.push([1]))


def test_a_server_that_ends_with_what_it_received_during_the_commit_says_what_is_lost() -> None:
    # There is no way back from a commit, and the others have given these rows away: like any shard that ends.
    lab = Lab(1, 2)
    lab.do(lab.push(list(range(ROWS))))

    def dies(state, store):
        lab.node.shards[2].kill(0.05)
        return store(state)

    commits(lab, 2, dies)
    out = lab.scale(3)
    assert isinstance(out, StateLost)
    assert "holds no rows of epoch 2" in str(out)
    assert [state.word for state in lab.states()] == ["serving", "serving", "lost"]
    for row, expected in ((0, 1), (1, 1), (2, StateLost)):
        wanted = [(lab.entry, np.array([row]))]
        operation = ops.pull(lab.session, wanted, lab.world.now + 30)
        found = lab.outcome(
            lambda ended, operation=operation: lab.world.operate(lab.session, operation, ended)
        )
        assert isinstance(found, StateLost) if expected is StateLost else found[0][0, 0] == expected


def test_a_server_that_leaves_hears_of_it_again_soon_when_the_request_was_lost() -> None:
    # It gave rows as they were before for two seconds and more.
    lab, lost, retired = Lab(1, 2), [], []
    arrive = lab.world.nodes["shard-1:1"]

    def deaf(method, data, answer):
        if method == methods.ADOPT and not lost:
            lost.append(lab.world.now)
            return
        arrive(method, data, answer)
        if method == methods.ADOPT:
            retired.append(lab.world.now)

    lab.world.nodes["shard-1:1"] = deaf
    assert lab.scale(1) is None
    assert retired[0] - lost[0] < 1.0


def test_receiving_that_has_stopped_does_not_keep_pushes_waiting(monkeypatch) -> None:
    lab = Lab(1, 2)
    monkeypatch.setattr(Receiving, "start", lambda _: None)
    assert isinstance(lab.scale(1), Unavailable)
    assert serving(lab, 1, 2)
    assert lab.world.now < 60


def test_a_change_that_is_meant_for_another_cluster_says_so_at_once_and_changes_nothing() -> None:
    # A client of a cluster that was gone set rates and dropped tables of the next one at that address.
    lab = Lab(1, 2)
    coordinator, old = lab.node.coordinator, lab.session.layout
    coordinator.state.layout = replace(coordinator.layout, cluster_id="the next one")
    before = lab.world.now
    for method, request in [
        (methods.SET_LEARNING_RATE, pb.AdjustTableRequest(name="t", lr=7.0)),
        (methods.DROP_TABLE, pb.RemoveTableRequest(name="t")),
        (methods.CREATE_TABLE, pb.DefineTableRequest(spec=TableSpec("u", 10, dim=1).to_message())),
    ]:
        operation = ask(lab.session, method, request, lab.world.now + 60)
        out = lab.outcome(lambda ended, operation=operation: lab.world.operate(lab.session, operation, ended))
        assert isinstance(out, Unavailable)
        assert "another cluster answers at coordinator:1" in str(out)
        assert "Connect again" in str(out)
    assert lab.world.now - before < 10
    assert list(coordinator.state.tables) == ["t"]
    assert coordinator.state.tables["t"].lr is None
    assert lab.session.layout == old


def test_a_client_finds_its_coordinator_elsewhere_when_another_cluster_has_its_place() -> None:
    lab = Lab(1, 2)
    node, moved = lab.node, "coordinator:2"
    coordinator = node.coordinator
    coordinator.state.layout = replace(coordinator.layout, coordinator=moved)
    for shard in lab.shards():
        shard.layout = coordinator.layout
    lab.world.nodes[moved] = node._arrive
    lab.world.nodes[node.ADDRESS] = lambda method, data, answer: answer(WrongCluster("this is another"))
    lab.session.layout = replace(lab.session.layout, coordinator=node.ADDRESS)
    request = pb.AdjustTableRequest(name="t", lr=7.0)
    lab.do(ask(lab.session, methods.SET_LEARNING_RATE, request, lab.world.now + 60))
    assert [shard.tables[1].lr for shard in lab.shards()] == [7.0, 7.0]


def test_the_simulated_coordinator_refuses_what_it_does_not_know() -> None:
    # It took any method for SetLearningRate.
    lab = Lab(1, 1)
    out = lab.outcome(lambda ended: lab.world.post(lab.node.ADDRESS, methods.SHUT_DOWN, b"", 10.0, ended))
    assert isinstance(out, InvalidRequest)


def test_a_state_of_before_there_were_unfinished_changes_is_read() -> None:
    text = (
        '{"format": 1, "name": "c", "layout": null, "keys": [], "tables": [], '
        '"next_key": 3, "next_table": 2, "term": 5}'
    )
    state = ClusterState.from_json(text)
    assert (state.next_key, state.unfinished) == (3, False)


def test_what_was_begun_is_stored() -> None:
    lab = Lab(1, 2)
    lab.world.clogged.add("shard-1:1")
    lab.change(lab.node.coordinator.create_table(TableSpec("u", ROWS, dim=WIDTH)))
    state = lab.node.disk.load()
    assert list(state.making) == ["u"]
    assert state.to_json() == lab.node.coordinator.state.to_json()


def test_a_table_is_shown_when_it_is_stored_not_before() -> None:
    lab = Lab(1, 2)
    store = lab.node.disk.commit
    lab.node.disk.commit = lambda state: (
        store(state) if "u" not in state.tables else Unavailable("no space left")
    )
    assert isinstance(lab.change(lab.node.coordinator.create_table(TableSpec("u", ROWS, dim=1))), Unavailable)
    assert list(lab.node.coordinator.state.tables) == ["t"]
    lab.node.disk.commit = store
    lab.settle()
    assert list(lab.node.coordinator.state.tables) == list(lab.node.disk.stored.tables) == ["t", "u"]


def test_a_commit_that_surely_stored_nothing_is_not_asked_about_for_ever() -> None:
    # A storage that can be neither written nor read, such as a folder without permission, made `up` hang.
    coordinator = Lab(1, 2).node.coordinator
    program = coordinator.commit(coordinator.state)
    next(program)
    with pytest.raises(NotStored):
        program.throw(NotStored("permission denied"))
