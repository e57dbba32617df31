"""Programs are performed one at a time, and an effect that fails reaches its program, whatever it raises."""

import threading

import pytest
from waiting import PATIENCE_S

from rowloom.deploy.control.effects import Calls, Commit, Launch, ServerCall, Sleep, Stop
from rowloom.deploy.control.state import ClusterState
from rowloom.deploy.launch.launcher import Launched
from rowloom.deploy.performer import Performer
from rowloom.deploy.storage import StateFile
from rowloom.proto import methods
from rowloom.proto.errors import RetryLater, Unavailable, Unreached
from rowloom.server.serve import Server


class FakeLauncher:
    """Starts nothing. blocked: starts wait for it; broken: keys that raise, with what."""

    def __init__(self, broken=None):
        self.blocked = threading.Event()
        self.blocked.set()
        self.entered = threading.Event()
        self.broken = broken or {}
        self.stopped: list[tuple[int, float]] = []

    def reserve(self, keys, apart=(), *, patient=True):
        pass

    def start(self, key):
        self.entered.set()
        assert self.blocked.wait(PATIENCE_S)
        if key in self.broken:
            raise self.broken[key]
        return Launched(f"host:{key}", key)

    def stop(self, key, grace_s):
        self.stopped.append((key, grace_s))

    def find(self, key):
        return None

    def close(self):
        pass


class BrokenFile(StateFile):
    def __init__(self):
        super().__init__(None)

    def commit(self, state, pause=None):
        raise KeyError("an error of a store")


@pytest.fixture
def launcher():
    return FakeLauncher()


def performer_of(launcher, file=None, grace_s=3.0):
    return Performer(file or StateFile(None), launcher, grace_s)


def test_outcomes_are_sent_back_in_order(launcher):
    performer = performer_of(launcher)

    def program():
        launched = yield Launch([4, 2])
        yield Commit(ClusterState("ads"))
        yield Sleep(0.0)
        yield Stop([4])
        return launched

    assert performer.run(program()) == [Launched("host:4", 4), Launched("host:2", 2)]
    assert launcher.stopped == [(4, 3.0)]
    performer.close()


def test_an_error_that_is_none_of_ours_still_lets_a_program_thaw_what_it_froze(launcher):
    performer, thawed = performer_of(launcher, BrokenFile()), []

    def program():
        try:
            yield Commit(ClusterState("ads"))
        except Unavailable as e:
            thawed.append(str(e))
            raise

    with pytest.raises(Unavailable, match="commit failed: KeyError: 'an error of a store'"):
        performer.run(program())
    assert len(thawed) == 1


def test_when_one_server_does_not_start_all_are_stopped():
    launcher = FakeLauncher({1: OSError(11, "Resource temporarily unavailable")})

    def program():
        yield Launch([0, 1, 2])

    with pytest.raises(Unavailable, match=r"could not be started: .*temporarily unavailable"):
        performer_of(launcher).run(program())
    assert sorted(launcher.stopped) == [(0, 0.0), (1, 0.0), (2, 0.0)]


def test_looking_does_not_wait_behind_a_launch(launcher):
    server = Server()
    server.start()
    performer = performer_of(launcher)
    launcher.blocked.clear()

    def program():
        yield Launch(range(100))

    thread = threading.Thread(target=performer.run, args=(program(),))
    thread.start()
    try:
        assert launcher.entered.wait(PATIENCE_S)
        replies = performer.ask([ServerCall(server.address, methods.HEALTH, b"")] * 100, PATIENCE_S)
        assert all(isinstance(r, bytes) for r in replies)
    finally:
        launcher.blocked.set()
        thread.join()
        performer.close()
        server.stop(0.0)


def test_what_does_not_answer_is_an_outcome_and_no_exception(launcher):
    performer = performer_of(launcher)
    call = ServerCall("127.0.0.1:9", methods.HEALTH, b"")
    outcomes = performer.run(iterated(Calls([call, call], timeout_s=2.0)))
    assert [type(o) for o in outcomes] == [Unreached, Unreached]
    performer.close()


def iterated(effect):
    return (yield effect)


def test_the_second_at_the_door_hears_what_runs(launcher):
    performer = performer_of(launcher)
    with (
        performer.alone("dropping table 'a'"),
        pytest.raises(RetryLater, match="dropping table 'a' is in progress"),
    ):
        performer.begin("anything", wait_s=0.0)
    performer.begin("anything", wait_s=0.0)


def test_servers_that_started_while_the_cluster_ended_are_stopped(launcher):
    performer = performer_of(launcher)
    performer.interrupt()
    with pytest.raises(Unavailable, match="being ended"):
        performer.run(iterated(Launch([7])))
    assert launcher.stopped == [(7, 0.0)]
    with pytest.raises(Unavailable, match="being ended"):
        performer.run(iterated(Sleep(60.0)))


def test_who_scaled_while_another_ended_the_cluster_heard_that_a_server_said_nothing() -> None:
    launcher = FakeLauncher({7: Unavailable("a shard server ended while it started: it said nothing")})
    performer = performer_of(launcher)
    performer.interrupt()
    with pytest.raises(Unavailable, match=r"^the cluster is being ended"):
        performer.run(iterated(Launch([7])))


def test_a_program_that_is_repeated_anyway_ends_as_soon_as_another_waits(launcher):
    # Who made a lost shard anew waited for changes that waited for that shard.
    performer = performer_of(launcher)
    begun = threading.Event()

    def patient():
        while True:
            begun.set()
            yield Sleep(0.01)

    def watch():
        with performer.alone("finishing what was begun"):
            performer.run(patient(), polite=True)

    watching = threading.Thread(target=watch, daemon=True)
    watching.start()
    assert begun.wait(PATIENCE_S)
    with performer.alone("making shard 1 anew", wait_s=PATIENCE_S):
        pass
    watching.join(PATIENCE_S)
    assert not watching.is_alive()


def test_servers_that_nobody_waits_for_any_more_start_and_end_before_the_program_is_over(launcher):
    launcher.blocked.clear()
    stop = launcher.stop

    def stop_and_wake(key, grace_s):
        stop(key, grace_s)
        launcher.blocked.set()

    launcher.stop = stop_and_wake

    def program():
        assert (yield Launch([1, 2])) is None
        raise Unavailable("they are wanted no more")

    performer = performer_of(launcher)
    with pytest.raises(Unavailable, match="wanted no more"):
        performer.run(program())
    ended = [key for key, _ in launcher.stopped]
    assert ended.count(1) >= 2 <= ended.count(2)  # to wake up who starts them, and when they had started
    performer.close()
