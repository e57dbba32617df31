"""Rows move while trainers push: what passes, refusals and the brake must do, and where a move may break."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from simulation.cluster import Died
from simulation.histories import History
from simulation.lab import ROWS, Lab
from simulation.shards import ShardNode

from rowloom.client import TableSpec
from rowloom.client.calls import operations as ops
from rowloom.client.calls.control import ask, fetch_layout
from rowloom.client.calls.cutting import RequestSizes
from rowloom.deploy.control.passes import Passes
from rowloom.deploy.control.reshard import Cancelled, Reshard
from rowloom.proto import methods
from rowloom.proto import rowloom_pb2 as pb
from rowloom.proto.errors import (
    InvalidRequest,
    Overloaded,
    RowloomError,
    StateLost,
    TableNotFound,
    Unavailable,
)
from rowloom.proto.layout import owner
from rowloom.proto.spec import Dealing, TableEntry
from rowloom.server.durable.log import Mode
from rowloom.server.states import Moving, Serving

ALL = list(range(ROWS))
MOD, DIV, HASH = Dealing("mod"), Dealing("div"), Dealing("mod", True)
HOW = {"div": DIV, "hash": HASH}


@pytest.fixture(autouse=True)
def _patient() -> None:
    """Pauses are as they are: how long calls take is measured here."""


class Pushing:
    """Pushes all rows, one push after the other, until it is told to stop."""

    def __init__(self, lab: Lab) -> None:
        self._lab, self._goes_on, self._under_way = lab, True, False
        self.acked, self.longest_s = 0, 0.0
        self._next()

    def _next(self) -> None:
        if self._goes_on:
            began, self._under_way = self._lab.world.now, True
            self._lab.world.operate(
                self._lab.session, self._lab.push(ALL), lambda out: self._ended(out, began)
            )

    def _ended(self, outcome: Any, began: float) -> None:
        assert outcome is None, outcome
        self._under_way = False
        self.acked += 1
        self.longest_s = max(self.longest_s, self._lab.world.now - began)
        self._next()

    def stop(self) -> int:
        """How many pushes there were."""
        self._goes_on = False
        self._lab.world.run(lambda: not self._under_way)
        return self.acked


def calm(seed: int, shards: int, mode: Mode = Mode.MEMORY) -> Lab:
    lab = Lab(seed, shards, mode=mode)
    lab.world.linger, lab.world.block_bytes = 0.0, 100
    for node in lab.node.shards.values():
        node.host.process.block_bytes = 100
    return lab


def counted(lab: Lab, pushes: int) -> bool:
    return lab.rows()[:, 0].tolist() == [pushes] * ROWS


@pytest.mark.parametrize("shards", [1, 3, 5])
def test_pushes_go_on_while_rows_move_and_every_one_of_them_arrives(shards: int) -> None:
    lab = calm(shards, 2)
    lab.do(lab.push(ALL))
    for count in (shards, 4, 1, 2):
        pushing = Pushing(lab)
        assert lab.scale(count) is None
        before, longest = pushing.stop(), pushing.longest_s
        assert before > 5, "they waited for the move"
        assert longest < 0.3
        lab.world.run(lambda: not lab.node.busy)
        rows = set(lab.rows()[:, 0].tolist())
        assert len(rows) == 1
    assert all(not isinstance(state, Moving) for state in lab.states())


@pytest.mark.parametrize("strategy", ["div", "hash"])
@pytest.mark.parametrize(("old", "new"), [(1, 2), (3, 3), (5, 2), (2, 64)])
def test_ids_are_dealt_otherwise_while_pushes_go_on(old: int, new: int, strategy: str) -> None:
    lab = calm(old, old)
    lab.do(lab.push(ALL))
    for count, dealing in ((new, HOW[strategy]), (old, MOD), (old, HOW[strategy])):
        pushing = Pushing(lab)
        out = lab.scale(count, dealing)
        assert out is None, out
        pushing.stop()
        assert pushing.longest_s < 0.3
        lab.world.run(lambda: not lab.node.busy)
        assert len(set(lab.rows()[:, 0].tolist())) == 1
        # The client has the entry that it was given when it made the table, and knows by the layout.
        assert lab.session.layout.spec_of(lab.entry).dealing == dealing
        stored = lab.node.disk.load()
        assert stored.tables["t"].spec.dealing == dealing
        assert [shard.tables[lab.entry.number].spec.dealing for shard in lab.shards()] == [dealing] * count
        owned = {
            k: shard.tables[lab.entry.number].read(0, 1 << 20)[0] for k, shard in enumerate(lab.shards())
        }
        spec, n = stored.tables["t"].spec, count
        assert all((owner(spec, ids, n) == k).all() for k, ids in owned.items())


def test_a_program_goes_on_making_its_table_as_it_did_when_ids_are_dealt_otherwise() -> None:
    lab = calm(1, 2)
    as_made = lab.entry.spec
    assert lab.scale(2, DIV) is None

    def made(spec) -> TableEntry:
        request = pb.DefineTableRequest(spec=spec.to_message())
        reply = lab.do(ask(lab.session, methods.CREATE_TABLE, request, lab.world.now + 300))
        return TableEntry.from_message(pb.DefineTableReply.FromString(reply).table)

    for spec in (as_made, as_made.dealt(DIV)):
        entry = made(spec)
        assert (entry.number, entry.spec.dealing, entry.made) == (lab.entry.number, DIV, MOD)
    with pytest.raises(AssertionError, match=r"hash_ids=False; you asked for .*hash_ids=True"):
        made(as_made.dealt(HASH))
    assert lab.scale(3, MOD) is None
    assert made(as_made).made is None
    with pytest.raises(AssertionError, match="has partition='mod'; you asked for partition='div'"):
        made(as_made.dealt(DIV))  # neither as it was made nor as it is


def test_a_client_that_knows_a_table_and_not_yet_the_layout_sends_ids_where_they_are() -> None:
    # It makes the table once more, and is told how ids are dealt now; its layout is the old one.
    lab = calm(1, 3)
    lab.do(lab.push(ALL))
    other = lab.world.session([lab.node.ADDRESS], 2)
    lab.do(fetch_layout(other, lab.world.now + 300))
    old = other.layout
    assert lab.scale(3, DIV) is None
    entry = lab.node.coordinator.state.tables["t"]
    assert old.spec_of(entry).dealing == MOD
    assert lab.node.coordinator.layout.spec_of(lab.entry).dealing == DIV
    rows = lab.wait(
        lambda ended: lab.world.operate(
            other, ops.pull(other, [(entry, np.arange(ROWS))], lab.world.now + 600), ended
        )
    )
    assert rows[0][:, 0].tolist() == [1] * ROWS


@pytest.mark.parametrize("dealings", [{"t": Dealing("range")}, {"open": DIV}, {"nobody": DIV}])
def test_what_cannot_be_dealt_so_is_refused_before_anything_begins(dealings) -> None:
    lab = calm(1, 2)
    lab.wait(
        lambda ended: lab.node.perform(
            lab.node.coordinator.create_table(TableSpec("open", None, dim=1)), ended
        )
    )
    with pytest.raises((InvalidRequest, TableNotFound)):
        Reshard(lab.node.coordinator, 3, dealings)
    assert lab.node.coordinator.layout.n == 2
    assert not lab.node.coordinator.state.surplus


def test_a_row_that_is_pushed_once_while_rows_move_arrives_with_that() -> None:
    for seed in range(10):
        lab = calm(seed, 2)
        lab.do(lab.push(ALL))
        left, done = list(ALL), []

        def push(_=None, lab=lab, left=left, done=done) -> None:
            assert _ is None or isinstance(_, str)
            if left:
                lab.world.operate(lab.session, lab.push([left.pop(0)]), push)
            else:
                done.append(True)

        lab.after(methods.READ_PASS, push)
        assert lab.scale(3) is None
        lab.world.run(lambda done=done: bool(done))
        assert counted(lab, 2), seed


def test_no_call_fails_through_many_moves_under_a_bad_network() -> None:
    for seed in range(20):
        History(seed, on={"network", "clog"}, patient=True, scalings=4).finish()


def refusals(lab: Lab, method: str) -> list[int]:
    """Counts the requests to a method from now on."""
    seen = [0]
    post = lab.world.post

    def watched(address, name, *rest):
        seen[0] += name == method
        post(address, name, *rest)

    lab.world.post = watched
    return seen


def test_a_push_that_meets_a_new_layout_hears_of_it_in_the_refusal() -> None:
    # It asked for the layout first, after a pause of 20 ms.
    lab = calm(1, 2)
    lab.do(lab.push(ALL))
    assert lab.scale(3) is None
    asked = refusals(lab, methods.DESCRIBE_LAYOUT)
    began = lab.world.now
    lab.do(lab.push(ALL))
    assert lab.session.layout.epoch == 2
    assert not asked[0]
    assert lab.world.now < began + 0.02
    assert counted(lab, 2)


def test_a_pull_that_comes_before_its_shard_has_heard_of_the_commit_waits_there() -> None:
    lab = calm(1, 2)
    lab.do(lab.push(ALL))
    asked = refusals(lab, methods.DESCRIBE_LAYOUT)
    slow, post = "shard-0:1", lab.world.post

    def late(address, name, *rest):
        delay_s = 0.05 if name == methods.ADOPT and address == slow else 0.0
        lab.world.at(delay_s, post, address, name, *rest)

    lab.world.post = late
    pulled: list[Any] = []

    def pull(_) -> None:
        wanted = [(lab.entry, np.arange(ROWS))]
        lab.world.operate(lab.session, ops.pull(lab.session, wanted, lab.world.now + 600), pulled.append)

    lab.after(methods.ADOPT, pull)
    assert lab.scale(3) is None
    lab.world.run(lambda: bool(pulled))
    assert pulled[0][0][:, 0].tolist() == [1] * ROWS
    assert not asked[0]


# ----------------------------------------------------------------------------------------------- where it may break

STEPS = [
    methods.PREPARE,
    methods.READ_PASS,
    methods.PROGRESS,
    methods.FREEZE,
    methods.READ_LEDGER,
    methods.ADOPT,
]


def ends_at(lab: Lab, node: ShardNode, step: str, nth: int, hears: str) -> None:
    """The server's process ends at the nth call of a method; `hears`: whether its answer still goes out."""
    left = [nth]
    inner = lab.world.nodes[node.address]

    def watched(method: str, data: bytes, answer: Callable[[Any], None]) -> None:
        left[0] -= method == step
        if method != step or left[0]:
            inner(method, data, answer)
            return
        inner(method, data, answer if hears == "whoever asked" else lambda _: None)
        node.die()

    lab.world.nodes[node.address] = watched


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("hears", ["nobody", "whoever asked"])
@pytest.mark.parametrize("mode", [Mode.PROCESS, Mode.DISK])
def test_an_old_shard_that_ends_at_any_step_of_a_move_costs_no_push(
    step: str, hears: str, mode: Mode
) -> None:
    for nth in (1, 2, 5, 9):
        for shards in (1, 3):
            lab = calm(nth + shards, 2, mode)
            lab.do(lab.push(ALL))
            ends_at(lab, lab.node.shards[1], step, nth, hears)
            broken(lab, shards)


@pytest.mark.parametrize("step", [methods.PREPARE, methods.PROGRESS, methods.ADOPT])
@pytest.mark.parametrize("mode", [Mode.PROCESS, Mode.DISK])
def test_a_new_shard_that_ends_at_any_step_of_a_move_costs_no_push(step: str, mode: Mode) -> None:
    for nth in (1, 2, 4):
        lab = calm(nth, 2, mode)
        lab.do(lab.push(ALL))
        launch = lab.node._launch

        def launched(effect, step_, lab=lab, launch=launch, nth=nth) -> None:
            lab.node._launch = launch
            launch(effect, step_)
            ends_at(lab, lab.node.shards[effect.keys[0]], step, nth, "nobody")

        lab.node._launch = launched
        broken(lab, 3)


def broken(lab: Lab, shards: int) -> None:
    """A move that something ends, under pushes; what was acknowledged is there once, and the next one succeeds."""
    pushing = Pushing(lab)
    out = lab.scale(shards, DIV)
    assert out is None or isinstance(out, Unavailable | StateLost), out
    lab.settle()
    pushes = 1 + pushing.stop()
    assert counted(lab, pushes)
    for count, dealing in ((shards, DIV), (2, MOD)):
        for _ in range(10):
            lab.settle()
            out = lab.scale(count, dealing)
            if out is None:
                break
            assert isinstance(out, Unavailable | StateLost), out
            moment = lab.world.now + 2
            lab.world.run(lambda moment=moment: lab.world.now > moment)
        assert out is None
    for node in lab.node.shards.values():
        node.kill(0.1)
    assert counted(lab, pushes)


@pytest.mark.parametrize("mode", [Mode.MEMORY, Mode.DISK])
@pytest.mark.parametrize("shards", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_a_coordinator_that_ends_at_any_effect_of_a_move_costs_no_push(shards: int, mode: Mode) -> None:
    died = 0
    for effect in range(1, 40):
        lab = calm(effect, 2, mode)
        lab.do(lab.push(ALL))
        lab.node.doom = effect
        pushing = Pushing(lab)
        out = lab.scale(shards, DIV)
        lab.node.doom = None
        died += isinstance(out, Died)
        lab.world.run(lambda lab=lab: lab.node.alive)
        lab.settle()
        assert out is None or isinstance(out, Died | Unavailable)
        assert counted(lab, 1 + pushing.stop())
        assert all(isinstance(state, Serving) for state in lab.states())
        assert all(node.host.incoming is None for node in lab.node.shards.values())
    assert died >= 10


# ------------------------------------------------------------------------------------------------------------ cancelled


def test_a_move_that_is_cancelled_at_any_time_leaves_everything_as_it_was_or_is_done() -> None:
    ends = set()
    for k in range(20):
        lab = calm(k, 2)
        lab.do(lab.push(ALL))
        pushing, gave_up = Pushing(lab), []
        lab.world.at(
            0.45 + 0.02 * k, lambda lab=lab, gave_up=gave_up: gave_up.append(lab.node.moving.cancel())
        )
        out = lab.scale(3, DIV)
        lab.settle()
        spec = lab.node.coordinator.state.tables["t"].spec
        assert spec.dealing == (MOD if isinstance(out, Cancelled) else DIV)
        assert isinstance(out, Cancelled) if gave_up == [True] else out is None
        assert lab.node.coordinator.layout.n == (2 if isinstance(out, Cancelled) else 3)
        assert sorted(lab.node.shards) == sorted(lab.node.coordinator.state.keys)
        assert all(isinstance(state, Serving) and not state.brake_s for state in lab.states())
        assert counted(lab, 1 + pushing.stop())
        ends.add(type(out))
    assert ends == {Cancelled, type(None)}


def test_what_a_move_waits_for_it_is_told_that_it_was_cancelled() -> None:
    lab = calm(1, 2)
    lab.world.at(0.3, lambda: lab.node.moving.cancel())
    out = lab.scale(3)
    assert isinstance(out, Cancelled)
    assert lab.node.moving.progress.error == "it was cancelled; nothing was changed"


def test_a_move_that_comes_to_take_more_memory_than_it_may_is_rolled_back(monkeypatch) -> None:
    def fits(self):
        return
        yield

    monkeypatch.setattr(Reshard, "_check_memory", fits)  # as if all these rows came into being meanwhile
    lab = calm(1, 2)
    lab.do(lab.push(ALL))
    moving = Reshard(lab.node.coordinator, 3, {"t": DIV}, max_extra_bytes=100)
    out = lab.change(moving.run())
    assert isinstance(out, Overloaded)
    assert "rows that have come take" in str(out)
    assert moving.progress.held_bytes > 100
    lab.settle()
    assert lab.node.coordinator.layout.n == 2
    assert all(isinstance(state, Serving) for state in lab.states())
    assert sorted(lab.node.shards) == sorted(lab.node.coordinator.state.keys)
    assert counted(lab, 1)


# ------------------------------------------------------------------------------------------------------------ the brake


def said(passes: int, left_s: float, stuck: int = 0) -> pb.ProgressReply:
    return pb.ProgressReply(passes=passes, left_s=left_s, stuck=stuck)


def test_pushes_wait_when_what_is_left_is_short_for_everyone() -> None:
    assert not Passes().judge([said(0, 0.0), said(3, 0.001)]).freezes
    assert not Passes().judge([said(1, 0.5), said(3, 0.001)]).freezes
    assert Passes().judge([said(1, 0.009), said(3, 0.001)]).freezes


def test_pushes_are_slowed_down_more_and_more_until_passes_become_shorter() -> None:
    passes = Passes()
    assert passes.judge([said(2, 0.5, stuck=2)]).brake_s == 0
    brakes = [passes.judge([said(k, 0.5, stuck=k)]).brake_s for k in range(3, 10)]
    assert brakes == [1e-6, 0, 0, 2e-6, 0, 0, 4e-6]
    assert passes.judge([said(12, 0.5)]).brake_s == 0
    assert passes.judge([said(15, 0.009)]).freezes


def test_where_the_hardest_brake_does_not_help_pushes_wait_for_what_is_left() -> None:
    passes, k = Passes(), 0
    while not passes.judge([said(k, 0.5, stuck=k)]).freezes:
        k += 1
    assert k < 40
    assert passes.brake_s == 64e-6


def test_a_brake_spaces_pushes_out_and_ends_with_the_move() -> None:
    lab = calm(1, 2)
    lab.do(lab.push(ALL))
    lab.session.sizes = RequestSizes()  # one request to each shard
    layout, coordinator = lab.node.coordinator.layout, lab.node.coordinator

    def brake(row_s: float, epoch: int = 1) -> None:
        for node in lab.node.shards.values():
            turn = coordinator.turn()
            request = pb.BrakeRequest(cluster_id=layout.cluster_id, epoch=epoch, turn=turn, row_s=row_s)
            out: list[Any] = []
            node.world.post(node.address, methods.BRAKE, request.SerializeToString(), 1.0, out.append)
            lab.world.run(lambda out=out: bool(out))
            if isinstance(out[0], RowloomError):
                raise out[0]

    brake(1e-3)
    began = lab.world.now
    for _ in range(10):
        lab.do(lab.push(ALL))
    assert 0.15 < lab.world.now - began < 2.0
    assert sum(node.host.brake.pushes for node in lab.node.shards.values()) > 10
    brake(0.0)
    began = lab.world.now
    for _ in range(10):
        lab.do(lab.push(ALL))
    assert lab.world.now - began < 0.15
    brake(10.0)  # no push waits longer than a tenth of a second for others
    began = lab.world.now
    lab.do(lab.push(ALL))
    lab.do(lab.push(ALL))
    assert lab.world.now - began < 0.4
    assert lab.scale(3) is None
    assert all(isinstance(state, Serving) and not state.brake_s for state in lab.states())
    with pytest.raises((InvalidRequest, RowloomError)):
        brake(1.0)
    assert counted(lab, 23)
