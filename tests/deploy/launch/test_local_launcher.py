"""Shard servers as processes and threads: they start, end, and never outlive what started them."""

import os
import signal
import subprocess
import sys

import pytest
from waiting import until as wait_until

from rowloom.deploy.config.config import parse
from rowloom.deploy.launch import local_room
from rowloom.deploy.launch.local_launcher import ProcessLauncher, ThreadLauncher
from rowloom.deploy.launch.local_server import server_command
from rowloom.deploy.launch.processes import Child, is_running, started
from rowloom.deploy.operate.remote import Remote
from rowloom.proto import rowloom_pb2 as pb
from rowloom.proto.errors import Unavailable
from rowloom.server.rows.limits import Limit


def health(address: str) -> pb.HealthReply:
    with Remote(address, timeout_s=60.0) as remote:
        data = remote.call("/rowloom.v1.Directory/Health", pb.HealthRequest().SerializeToString())
    return pb.HealthReply.FromString(data)


@pytest.fixture(params=["processes", "threads"])
def launcher(request):
    launcher = ProcessLauncher(parse({})) if request.param == "processes" else ThreadLauncher()
    yield launcher
    launcher.close()


def test_a_server_answers_under_its_key_until_it_is_stopped(launcher):
    first, second = launcher.start(0), launcher.start(7)
    assert first.address != second.address
    for key, launched in ((0, first), (7, second)):
        reply = health(launched.address)
        assert (reply.role, reply.state, reply.incarnation) == ("shard", "waiting", launched.incarnation)
        assert launcher.find(key) == launched
    launcher.stop(0, 1.0)
    assert launcher.find(0) is None
    with pytest.raises(Unavailable):
        health(first.address)
    assert launcher.find(7) == second
    launcher.close()
    assert launcher.find(7) is None


def test_stopping_what_is_gone_or_never_was_is_no_error(launcher):
    launcher.start(0)
    for key in (0, 0, 99):
        launcher.stop(key, 0.0)


def test_a_server_that_was_killed_is_not_found():
    launcher = ProcessLauncher(parse({}))
    launched = launcher.start(0)
    os.kill(launched.pid, signal.SIGKILL)
    wait_until(lambda: launcher.find(0) is None)
    launcher.close()


def test_a_server_that_cannot_start_says_so_and_leaves_nothing():
    launcher = ProcessLauncher(parse({"host": "192.0.2.200", "security": {"insecure": True}}))
    with pytest.raises(Unavailable, match="ended with code 1 while it started"):
        launcher.start(0)
    assert launcher.find(0) is None


def test_a_server_that_takes_too_long_is_ended():
    launcher = ProcessLauncher(parse({"limits": {"start_timeout_s": 0.01}}))
    with pytest.raises(Unavailable, match=r"limits.start_timeout_s = 0.01 s"):
        launcher.start(0)


def test_a_name_that_leads_elsewhere_is_said_to_at_once_and_leaves_nothing():
    launcher = ProcessLauncher(parse({"host": "127.0.0.1", "advertise_host": "127.0.0.9"}))
    with pytest.raises(Unavailable, match=r"advertise_host '127\.0\.0\.9' does not lead to .*refused"):
        launcher.start(0)
    assert launcher.find(0) is None
    launcher.close()


def test_the_grace_of_the_config_reaches_the_servers_and_their_end(monkeypatch):
    config = parse({"limits": {"stop_grace_s": 7}})
    launcher = ProcessLauncher(config)
    assert "--stop-grace-s 7.0" in " ".join(server_command(config))
    launcher.start(0)
    given, original = [], Child.end
    monkeypatch.setattr(
        Child, "end", lambda child, grace_s: (given.append(grace_s), original(child, grace_s))
    )
    launcher.close()
    assert given == [8.0]  # the grace, and the time to end after it


def test_servers_end_when_their_parent_is_killed():
    script = (
        "import sys, time; from rowloom.deploy.config.config import parse; "
        "from rowloom.deploy.launch.local_launcher import ProcessLauncher; "
        "launcher = ProcessLauncher(parse({})); print(launcher.start(0).pid, flush=True); time.sleep(100)"
    )
    parent = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    began = started(child)
    assert is_running(child, began)
    parent.kill()
    parent.wait()
    parent.stdout.close()
    wait_until(lambda: not is_running(child, began))


def test_another_process_with_the_same_number_does_not_count():
    mine = os.getpid()
    assert is_running(mine, started(mine))
    assert not is_running(mine, started(mine) - 1)
    assert not is_running(0, 0)


def test_what_is_known_of_a_process_is_whether_it_runs_stands_still_or_has_ended():
    launcher = ProcessLauncher(parse({}))
    try:
        pid = launcher.start(0).pid
        assert (launcher.look(0).state, launcher.look(0).pid) == ("running", pid)
        os.kill(pid, signal.SIGSTOP)
        wait_until(lambda: launcher.look(0).state == "stopped")
        assert launcher.find(0) is not None
        os.kill(pid, signal.SIGCONT)
        wait_until(lambda: launcher.look(0).state == "running")
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: launcher.look(0).state == "ended")
    finally:
        launcher.close()
    assert launcher.look(7).state == "ended"


def test_room_is_the_least_of_memory_open_files_and_threads(monkeypatch):
    monkeypatch.setattr(local_room, "available", lambda: Limit(10 * local_room.SERVER_BYTES, "what is left"))
    local_room.check_room(10)
    with pytest.raises(
        Unavailable, match=r"no room for 11 more .*, 10 fit: one takes 192.0 MiB .* what is left"
    ):
        local_room.check_room(11)
    monkeypatch.setattr(local_room.resource, "getrlimit", lambda _: (0, 0))
    with pytest.raises(Unavailable, match=r"0 fit: 0 of 0 open files are left \(`ulimit -n`\)"):
        local_room.check_room(1)
    with pytest.raises(Unavailable, match="no room for 2 more"):
        ProcessLauncher(parse({})).reserve([3, 4])
