"""Child processes: they say when they are up, end when they are asked to, and are killed when they do not."""

import contextlib
import os
import signal
from pathlib import Path

import pytest
from stopping import stop
from waiting import until

from rowloom.deploy.launch.processes import (
    Child,
    end_marked,
    end_process,
    is_running,
    last_line,
    marked,
    python,
    spawn_detached,
    started,
    wait_until_up,
)
from rowloom.proto.errors import Unavailable

ECHO = "import sys\nprint('up', flush=True)\nfor line in sys.stdin: print(line.upper(), end='', flush=True)"
DEAF = "import signal, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\nprint('up', flush=True)\ntime.sleep(100)"


def child_of(code, **options) -> Child:
    return Child("an echo", python("-c", code), **options)


def test_a_child_says_that_it_is_up_answers_and_ends_with_its_input():
    child = child_of(ECHO)
    assert child.first_line(30.0) == "up"
    child.tell("one")
    child.tell("two")
    child.ask_to_end()
    assert list(child.lines()) == ["ONE\n", "TWO\n"]
    child.end(30.0)
    assert child.poll() == 0
    child.close()


def test_a_child_that_does_not_end_is_killed():
    child = child_of(DEAF)
    assert child.first_line(30.0) == "up"
    child.end(0.0)
    assert child.poll() == -signal.SIGKILL
    child.close()


def test_a_child_that_ends_while_it_starts_is_quoted(tmp_path):
    child = child_of("raise SystemExit('no port')", log=tmp_path / "deep" / "log")
    with pytest.raises(Unavailable, match="an echo ended with code 1 while it started; no port"):
        child.first_line(30.0)
    child.close()


def test_a_child_that_says_nothing_is_late():
    child = child_of("import time; time.sleep(100)")
    with pytest.raises(Unavailable, match=r"did not start within limits.x = 0.01 s"):
        child.first_line(0.01, "limits.x")
    child.end(0.0)
    child.close()


def test_a_program_that_is_not_there_is_an_error_of_ours(tmp_path):
    with pytest.raises(Unavailable, match=r"an echo cannot be started: .*No such file"):
        Child("an echo", [str(tmp_path / "nothing")])
    with pytest.raises(Unavailable, match="cannot be started"):
        spawn_detached([str(tmp_path / "nothing")], tmp_path / "log")


def test_a_detached_process_does_nothing_before_it_is_known(tmp_path):
    known = []

    def refuse(pid, began):
        known.append((pid, began))
        raise OSError("the record cannot be written")

    with pytest.raises(OSError, match="the record cannot be written"):
        spawn_detached(["/bin/sh", "-c", "echo ran"], tmp_path / "log", known=refuse)
    os.waitpid(known[0][0], 0)
    assert (tmp_path / "log").read_text() == ""


def test_all_that_a_detached_process_started_is_found_by_its_mark_and_ended(tmp_path):
    log, mark = tmp_path / "log", str(tmp_path / "mine")
    pid = spawn_detached(["/bin/sh", "-c", "sleep 100 & sleep 100 & exec sleep 0"], log, mark=mark)
    os.waitpid(pid, 0)
    until(
        lambda: len(marked(mark)) == 2
    )  # their leader is gone, and they may be about to become what they run
    left = marked(mark)
    assert marked(str(tmp_path / "other")) == []
    end_marked(mark, 0.0)
    assert not [one for one in left if is_running(*one)]


def test_a_stopped_process_is_let_go_on_to_end_in_order(tmp_path):
    code = "import signal, sys, time; signal.signal(15, lambda *_: sys.exit('in order')); print('up'); time.sleep(1000)"
    log = tmp_path / "log"
    pid = spawn_detached(python("-u", "-c", code), log)
    began = started(pid)
    wait_until_up("it", pid, began, log, 30.0, lambda: log.read_text() or None)
    stop(pid)
    end_process(pid, began, 30.0)
    assert last_line(log) == "in order"


def test_a_process_whose_first_thread_ended_before_the_others_stayed_a_zombie(tmp_path):
    code = (
        "import ctypes, os, threading, time\n"
        "threading.Thread(target=lambda: (time.sleep(0.5), os._exit(0))).start()\n"
        "print('up', flush=True)\n"
        "ctypes.CDLL(None).pthread_exit(None)"
    )
    pid = spawn_detached(python("-c", code), tmp_path / "log")
    began = started(pid)
    until(lambda: not is_running(pid, began))
    end_process(pid, began, 30.0)
    with pytest.raises(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)


def test_a_child_gets_our_environment_and_its_own(monkeypatch):
    monkeypatch.setenv("OURS", "1")
    code = "import os; print(os.environ['OURS'], os.environ['ITS'])"
    child = child_of(code, environment={"ITS": "2"})
    assert child.first_line(30.0) == "1 2"
    child.end(30.0)
    child.close()


def test_a_detached_process_is_waited_for_and_killed_when_it_does_not_listen(tmp_path):
    log = tmp_path / "log"
    pid = spawn_detached(python("-c", DEAF), log)
    began = started(pid)
    try:
        ready = wait_until_up(
            "it", pid, began, log, 30.0, lambda: last_line(log) if log.read_text() else None
        )
        assert ready == "up"
        assert os.getsid(pid) == pid
    finally:
        end_process(pid, began, 0.1)
    assert not is_running(pid, began)


def test_a_detached_process_that_ends_or_is_late_is_quoted(tmp_path):
    log = tmp_path / "log"
    pid = spawn_detached(python("-c", "raise SystemExit('no room')"), log)
    with pytest.raises(Unavailable, match="it ended while it started: no room"):
        wait_until_up("it", pid, started(pid), log, 30.0, lambda: None)
    os.waitpid(pid, 0)
    with pytest.raises(Unavailable, match=r"it was not up after 0 s"):
        wait_until_up("it", os.getpid(), started(os.getpid()), log, 0.0, lambda: None)


def test_a_process_that_stays_held_the_lock_of_the_script_that_started_it(tmp_path):
    # `flock deploy.lock rowloom up` returned, and the lock was held until the cluster ended.
    lock = tmp_path / "deploy.lock"
    with open(lock, "w") as file:
        os.set_inheritable(file.fileno(), True)
        pid = spawn_detached(["/bin/sleep", "100"], tmp_path / "log")
        until(lambda: Path(f"/proc/{pid}/cmdline").read_bytes().startswith(b"/bin/sleep"))
        held = []
        for fd in os.listdir(f"/proc/{pid}/fd"):
            with contextlib.suppress(OSError):  # a library that it has loaded by now
                held.append(os.readlink(f"/proc/{pid}/fd/{fd}"))
    end_process(pid, started(pid), 0.0)
    assert str(tmp_path / "log") in held
    assert str(lock) not in held
