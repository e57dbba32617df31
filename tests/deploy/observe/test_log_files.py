"""Logs of a cluster's processes: their last lines, and what follows."""

import itertools
import logging
import sys
from pathlib import Path

import pytest

from rowloom.deploy.launch import shard_folder
from rowloom.deploy.launch.cluster_folder import begin_of, note_begin, shards_in
from rowloom.deploy.observe import log_files
from rowloom.deploy.observe.log_files import (
    Follower,
    ProcessLog,
    check_says,
    chosen,
    last_lines,
    logs_here,
    logs_of,
    still_in_words,
    unfolded,
    with_older,
)
from rowloom.proto import rowloom_pb2 as pb
from rowloom.proto.errors import InvalidRequest, RowloomError
from rowloom.server.metrics.log_lines import LineFormatter


def lines(process: str, *seconds: int) -> str:
    return "".join(f"time=2026-11-28T10:00:{s:02}.000Z process={process} message=x\n" for s in seconds)


@pytest.fixture
def logs(tmp_path):
    found = [
        ProcessLog("coordinator", tmp_path / "coordinator.log"),
        ProcessLog("0", tmp_path / "shard-0.log"),
    ]
    found[0].path.write_text(lines("coordinator", 1, 4))
    found[1].path.write_text(lines("shard-0", 2, 3, 5))
    return found


def test_lines_of_several_processes_come_in_the_order_of_their_times(logs):
    assert last_lines(logs, 10) == [
        *itertools.chain(
            lines("coordinator", 1).splitlines(),
            lines("shard-0", 2, 3).splitlines(),
            lines("coordinator", 4).splitlines(),
            lines("shard-0", 5).splitlines(),
        )
    ]
    assert last_lines(logs, 1) == lines("shard-0", 5).splitlines()
    assert last_lines(logs, 0) == []


def test_the_last_lines_are_also_those_of_the_file_that_was_put_aside(logs):
    Path(f"{logs[1].path}.1").write_text(lines("shard-0", 0))
    assert last_lines(logs[1:], 4) == lines("shard-0", 0, 2, 3, 5).splitlines()


def test_lines_of_json_are_ordered_too(tmp_path):
    log = ProcessLog("0", tmp_path / "a")
    log.path.write_text('{"time": "2026-11-28T10:00:02.500Z", "level": "info"}\n')
    other = ProcessLog("1", tmp_path / "b")
    other.path.write_text(lines("x", 2, 3))
    assert [line[:4] for line in last_lines([log, other], 9)] == ["time", '{"ti', "time"]


def test_a_log_is_followed_into_the_file_that_takes_its_place(logs):
    path = logs[1].path

    def turns():
        with open(path, "a") as f:
            f.write("a\nb")  # not whole yet
        yield
        with open(path, "a") as f:
            f.write("b\nc\n")
        path.rename(f"{path}.1")
        yield
        path.write_text("d\n")
        yield

    there = turns()
    with Follower(logs) as following:
        found = list(itertools.islice(following.lines(lambda _: next(there)), 4))
    assert found == ["a", "bb", "c", "d"]


def test_a_process_is_named_by_its_index_and_one_that_is_none_is_refused(logs):
    assert chosen(logs, "0") == chosen(logs, "shard-0") == logs[1:]
    assert chosen(logs, None) == logs
    with pytest.raises(InvalidRequest, match=r"no process '7' .* there are: coordinator, 0"):
        chosen(logs, "7")


def test_a_log_on_another_machine_is_named_with_its_node():
    reply = pb.StatusReply(log_file="/r/a.err")
    reply.shards.add(node="n1").statistics.log_file = "/r/b.err"
    with pytest.raises(RowloomError, match=r"0: /r/b\.err on n1"):
        chosen(logs_of(reply), "0")


def test_logs_mixed_in_the_lines_of_earlier_clusters_of_the_same_name(logs, tmp_path):
    assert last_lines(logs, 10, "2026-11-28T10:00:04.000Z") == [
        *lines("coordinator", 4).splitlines(),
        *lines("shard-0", 5).splitlines(),
    ]
    assert with_older(logs, "2026-11-28T10:00:02.000Z") == logs[:1]
    assert with_older(logs, "") == with_older(logs, "2026-11-28T10:00:01.000Z") == []
    note_begin(tmp_path, "2026-11-28T10:00:04.000Z")
    assert begin_of(tmp_path) == "2026-11-28T10:00:04.000Z"
    assert begin_of(tmp_path / "none") == ""
    logs[0].path.write_text("no line of ours\n")
    assert last_lines(logs[:1], 10, "2026-11-28T10:00:04.000Z") == ["no line of ours"]
    assert with_older(logs[:1], "2026-11-28T10:00:04.000Z") == []


def test_a_shard_that_does_not_run_was_shown_as_if_it_did(tmp_path, monkeypatch):
    (tmp_path / "logs").mkdir()
    for key in range(3):
        (tmp_path / f"logs/shard-{key}.log").write_text("x\n")
    servers = shards_in(tmp_path)
    servers.put(shard_folder.KnownServer(0, 10, 1))
    servers.put(shard_folder.KnownServer(1, 11, 1))
    monkeypatch.setattr(log_files, "is_running", lambda pid, _: pid in (10, 11))
    monkeypatch.setattr(log_files, "is_stopped", lambda pid: pid == 11)
    assert still_in_words(logs_here(tmp_path)) == (
        f"shard 1 stands still: `kill -CONT 11` lets it go on (its last log: {tmp_path}/logs/shard-1.log); "
        f"shard 2 does not run (its last log: {tmp_path}/logs/shard-2.log)"
    )
    (coordinator, *_) = logs_here(tmp_path, 12, 1)
    assert still_in_words([coordinator]).startswith("the coordinator does not run (its last log: ")


def test_a_shard_that_does_not_answer_where_its_log_is_was_called_no_process():
    reply = pb.StatusReply(name="ads", log_file="/r/a.log", layout=pb.Layout(coordinator="h:1"))
    reply.shards.add(health="dead", node="n1", shard=pb.ShardAddress(index=1))
    with pytest.raises(RowloomError) as raised:
        check_says(reply, "shard-1")
    assert str(raised.value) == (
        "shard 1 is dead, so it does not say where its log is on n1. That of the coordinator says what happened: "
        "`rowloom logs coordinator --address h:1`. On the machine that `rowloom up` ran on, `rowloom logs 1 --name "
        "ads` shows its last lines"
    )
    check_says(reply, "coordinator")
    check_says(reply, None)


def test_logs_are_found_where_the_state_of_a_cluster_cannot_be_read(tmp_path):
    for name in ("coordinator", "shard-3", "shard-12", "other"):
        (tmp_path / "logs").mkdir(exist_ok=True)
        (tmp_path / "logs" / f"{name}.log").write_text("x\n")
    (tmp_path / "config.json").write_text("no config")
    found = logs_here(tmp_path)
    assert [(log.process, log.path.name) for log in found] == [
        ("coordinator", "coordinator.log"),
        ("3", "shard-3.log"),
        ("12", "shard-12.log"),
    ]


def test_logs_of_servers_that_ended_long_ago_go_and_those_of_servers_that_run_stay(tmp_path, monkeypatch):
    monkeypatch.setattr(shard_folder, "LOGS_KEPT", 2)
    for key in range(6):
        shard_folder.shard_log(tmp_path, key).write_text("x")
    (tmp_path / "shard-1.log.1").write_text("x")
    servers = shard_folder.ShardFolder(tmp_path / "shards")
    servers.put(shard_folder.KnownServer(0, 1, 1))
    servers.forget_logs(tmp_path)
    assert sorted(path.name for path in tmp_path.glob("shard-*")) == [f"shard-{key}.log" for key in (0, 4, 5)]


def test_a_traceback_was_shown_as_one_line_of_thousands_of_characters():
    try:
        raise RuntimeError('a "quoted" \\ word')
    except RuntimeError:
        record = logging.LogRecord("rowloom", logging.ERROR, __file__, 1, "it failed", (), sys.exc_info())
    line = LineFormatter("shard-1", "logfmt").format(record)
    first, *more = unfolded(line).splitlines()
    assert first.endswith('process=shard-1 place=test_log_files:1 message="it failed"')
    assert more[0] == "  Traceback (most recent call last):"
    assert more[-1] == '  RuntimeError: a "quoted" \\ word'
    as_json = LineFormatter("shard-1", "json").format(record)
    for other in (as_json, 'message="a traceback=" x', 'message=x traceback="not \\x json"', ""):
        assert unfolded(other) == other
