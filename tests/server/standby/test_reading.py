"""What a standby may answer, and for how long its primary holds to what that rests on."""

import numpy as np
import pytest
from right_messages import TABLES, ask, push

from rowloom.proto import methods
from rowloom.proto import rowloom_pb2 as pb
from rowloom.proto.codec import Pull, PullReply
from rowloom.proto.codec_bags import Entries, PullBags
from rowloom.proto.errors import RetryLater
from rowloom.proto.layout import Layout, ShardAddress
from rowloom.server.holder import Process
from rowloom.server.host import Host
from rowloom.server.moving.receive import Pause
from rowloom.server.standby.feed import READS_S
from rowloom.server.standby.primary import POLL_S
from rowloom.server.standby.reading import WANTED_S, Freshness

LAYOUT = Layout("c", 3, (ShardAddress(0, "h:1", 7), ShardAddress(1, "h:2", 8)))
IDS = np.arange(0, 40, 2)
ONES = np.ones((len(IDS), 3), np.float32)
QUOTAS = '{"default": {"calls": 3}}'


class Pair:
    """A server and its standby, in one world: what the standby asks is answered when `follow` is called."""

    def __init__(self, *, waits: bool = True) -> None:
        self.now, self.turn, self.seq = 100.0, 1, 0
        self.hosts = [Host(Process(incarnation=n, now=lambda: self.now, number=lambda: 5)) for n in (7, 9)]
        first, second = self.hosts
        tables = [entry.to_message() for entry in TABLES]
        layout = LAYOUT.to_message()
        ask(first, methods.ADOPT, pb.AdoptRequest(layout=layout, fresh=True, tables=tables, quotas=QUOTAS))
        self.name(9, waits=waits)
        ask(second, methods.STAND_BY, pb.StandByRequest(layout=layout, lease_s=2.0))
        self.following = second.following
        self._run = self.following.run()
        self.wants = next(self._run)
        while not self.following.in_step:
            self.follow()

    def name(self, standby: int, *, waits: bool = True, ended: bool = False) -> None:
        """Say who the standby is."""
        self.turn += 1
        said = pb.SetStandbyRequest(
            cluster_id="c", epoch=3, turn=self.turn, standby=standby, waits=waits, lease_s=2.0, ended=ended
        )
        ask(self.hosts[0], methods.SET_STANDBY, said)

    def freeze(self, *, on: bool) -> None:
        self.turn += 1
        ask(self.hosts[0], methods.FREEZE, pb.FreezeRequest(cluster_id="c", epoch=3, on=on, turn=self.turn))

    def follow(self, *, took_s: float = 0.0) -> bool:
        """One question and its answer, or that there is none yet. took_s: until it was answered."""
        if isinstance(self.wants, Pause):
            self.wants = self.following.take(self._run, None)
        answer = self.hosts[0].handle(call := called(self.wants.method, self.wants.data))
        if answer.wait_for is not None:
            self.now += POLL_S
            answer = self.hosts[0].handle(call)
        self.now += took_s
        self.wants = self.following.take(self._run, b"".join(map(bytes, answer.buffers)))
        return True

    def push(self) -> None:
        self.seq += 1
        ask(self.hosts[0], methods.PUSH, push(self.seq, 1, IDS, -ONES))

    def pull(self, max_staleness_s: float | None = 1.0, host: int = 1, ids: np.ndarray = IDS) -> np.ndarray:
        header = LAYOUT.header(0, max_staleness_s)
        return read(self.hosts[host], Pull(header, [(1, ids)]))


def called(method: str, data: bytes):
    from rowloom.server.call import Call, Caller

    return Call(method, data, Caller("test"))


def read(host: Host, request: Pull) -> np.ndarray:
    return PullReply.decode(ask(host, methods.PULL, request)).blocks[0].data


def test_a_standby_that_pushes_wait_for_answers_as_soon_as_its_server_lets_it() -> None:
    pair = Pair()
    pair.push()
    pair.follow()
    with pytest.raises(RetryLater, match=r"cannot show .* acknowledged 1 s ago"):
        pair.pull()
    pair.follow()  # the question says that somebody wants rows
    pair.follow()
    assert pair.pull(0.0).tobytes() == pair.pull(None, 0).tobytes()
    bags = PullBags(LAYOUT.header(0, 0.0), [Entries(1, IDS, np.zeros(len(IDS), np.int32), None)])
    assert ask(pair.hosts[1], methods.PULL_BAGS, bags)
    reads = pair.hosts[1].process.reads
    assert (reads.pulls, reads.rows, reads.refused) == (2, 40, 1)


def test_rows_that_were_never_pushed_are_the_same_bits_and_come_into_being_nowhere() -> None:
    pair = let_read(Pair())
    ids = np.arange(0, 1000, 2)
    assert pair.pull(0.0, ids=ids).tobytes() == pair.pull(None, 0, ids).tobytes()
    assert pair.following.shard.rows == pair.hosts[0].shard.rows == 0


@pytest.mark.parametrize("max_staleness_s", [-1.0, float("nan")])
def test_a_bound_that_means_nothing_is_never_met(max_staleness_s: float) -> None:
    for waits in (True, False):
        with pytest.raises(RetryLater):
            let_read(Pair(waits=waits)).pull(max_staleness_s)


def test_who_does_not_say_how_old_rows_may_be_gets_none_of_a_standby() -> None:
    pair = let_read(Pair())
    with pytest.raises(RetryLater, match=r"this server is a standby"):
        pair.pull(None)


def let_read(pair: Pair) -> Pair:
    """Until the standby may answer."""
    with pytest.raises(RetryLater):
        pair.pull(0.0)
    pair.follow()
    pair.follow()
    return pair


def test_it_answers_no_longer_than_it_was_let_and_than_its_caller_agrees_to() -> None:
    pair = let_read(Pair())
    pair.now += 0.9 * READS_S
    pair.pull(0.0)
    with pytest.raises(RetryLater):
        pair.pull(0.5 * READS_S)
    pair.now += 0.2 * READS_S
    with pytest.raises(RetryLater):
        pair.pull(0.0)


def test_an_answer_that_came_late_is_as_old_as_its_question() -> None:
    pair = let_read(Pair())
    pair.follow(took_s=0.8 * READS_S)
    pair.now += 0.3 * READS_S
    with pytest.raises(RetryLater):
        pair.pull(0.0)


def test_what_nobody_waits_for_is_answered_as_long_as_it_is_not_too_old() -> None:
    pair = Pair(waits=False)
    pair.follow()
    pair.pull(0.3)
    pair.push()  # and the standby does not hear of it
    pair.now += 0.2
    assert not pair.pull(0.3).any()
    pair.now += 0.2
    with pytest.raises(RetryLater):
        pair.pull(0.3)
    with pytest.raises(RetryLater):
        pair.pull(0.0)
    pair.follow()  # asked before
    pair.follow()
    assert pair.pull(0.3).all()


def test_a_question_that_was_held_is_not_as_old_as_it_is_long() -> None:
    pair = Pair(waits=False)
    pair.follow()
    pair.follow()
    pair.pull(0.5 * POLL_S)


def test_the_server_gives_no_standby_up_that_may_answer_unless_it_has_ended() -> None:
    for standby, waits in ((0, True), (11, True), (9, False)):
        pair = let_read(Pair())
        with pytest.raises(RetryLater, match=r"may answer pulls yet"):
            pair.name(standby, waits=waits)
        pair.push()
        feed = pair.hosts[0].feed
        assert not feed.covers(feed.end)
        pair.now += READS_S
        pair.name(standby, waits=waits)
        assert feed.ended or not feed.waits
    pair = let_read(Pair())
    pair.name(0, ended=True)
    assert pair.hosts[0].feed is None


def test_a_standby_that_hears_of_it_is_given_up_at_once() -> None:
    pair = let_read(Pair())
    with pytest.raises(RetryLater):
        pair.name(0)
    pair.follow()
    with pytest.raises(RetryLater):
        pair.pull(0.0)
    with pytest.raises(RetryLater, match=r"may answer pulls yet"):
        pair.name(0)  # it has yet to say so
    before = pair.now
    pair.follow()
    pair.name(0)
    assert pair.now - before < READS_S


def test_rows_are_served_nowhere_else_while_the_standby_may_answer() -> None:
    pair = let_read(Pair())
    with pytest.raises(RetryLater, match=r"may answer pulls yet"):
        pair.freeze(on=True)
    before = pair.now
    pair.follow()
    assert pair.now == before  # it was told at once
    with pytest.raises(RetryLater):
        pair.pull(0.0)
    pair.follow()
    pair.freeze(on=True)
    pair.freeze(on=False)
    pair.follow()
    pair.pull(0.0)


def test_from_async_to_sync_it_answers_when_it_has_what_was_acknowledged_before() -> None:
    pair = Pair(waits=False)
    pair.follow()
    pair.pull()  # so that its next question says that somebody wants rows
    pair.follow()
    pair.hosts[0].feed._reply_bytes = 1
    for _ in range(3):  # acknowledged, and a reply brings one of them
        pair.push()
    pair.name(9, waits=True)
    for _ in range(3):
        pair.follow()
        with pytest.raises(RetryLater):
            pair.pull(0.0)
    pair.follow()
    assert (pair.pull(0.0) == 3).all()


def test_one_that_nobody_asks_for_rows_holds_up_nothing() -> None:
    pair = Pair()
    pair.follow()
    pair.freeze(on=True)
    pair.freeze(on=False)
    pair.name(0)
    pair = let_read(Pair())
    pair.now += WANTED_S
    for _ in range(3):
        pair.follow()
    pair.freeze(on=True)


def test_a_standby_that_failed_or_is_filled_yet_answers_nothing() -> None:
    pair = let_read(Pair())
    pair.following.fail(ValueError("it came out otherwise"))
    with pytest.raises(RetryLater, match=r"this standby is failed"):
        pair.pull(0.0)
    host = Host(Process(incarnation=9))
    ask(host, methods.STAND_BY, pb.StandByRequest(layout=LAYOUT.to_message(), lease_s=2.0))
    with pytest.raises(RetryLater, match=r"this standby is filling"):
        read(host, Pull(LAYOUT.header(0, 1.0), [(1, IDS)]))


def test_quotas_hold_on_a_standby_and_change_with_those_of_its_server() -> None:
    pair = Pair()
    assert pair.hosts[1].process.in_flight.quotas.of("somebody").calls == 3
    quotas = '{"principals": {"somebody": {"calls": 1}}}'
    adopt = pb.AdoptRequest(layout=LAYOUT.to_message(), quotas=quotas, turn=pair.turn)
    ask(pair.hosts[0], methods.ADOPT, adopt)
    pair.follow()
    pair.follow()
    assert pair.hosts[1].process.in_flight.quotas.of("somebody").calls == 1


def test_what_is_held_longer_than_it_took_is_a_fault_of_the_other_side_and_proves_nothing_of_the_future() -> (
    None
):
    now = [10.0]
    fresh = Freshness(lambda: now[0])
    fresh.asks()
    now[0] = 11.0
    fresh.came(pb.FollowReply(held_s=-5.0, alone=True), 0)
    with pytest.raises(RetryLater):
        fresh.check(0.5)
    fresh.check(1.5)


def test_one_that_is_always_behind_is_as_old_as_what_it_has() -> None:
    now = [0.0]
    fresh = Freshness(lambda: now[0])
    for k in range(1, 10):  # each reply brings one change, of ten that there are more
        now[0] = float(k)
        fresh.asks()
        fresh.came(pb.FollowReply(end=10 * k, alone=True), 2 * k)
    with pytest.raises(RetryLater):
        fresh.check(8.0)  # it has 18 changes: the 10 that there were at 1.0 are among them, the 20 of 2.0 not
    fresh.check(8.1)
