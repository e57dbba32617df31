"""Logs of a cluster's processes: their last lines, and what follows."""

import itertools
import logging
import sys
from pathlib import Path

import pytest

from rowloom.deploy.launch import shard_folder
from rowloom.deploy.observe.log_files import (
    Follower,
    ProcessLog,
    chosen,
    last_lines,
    logs_here,
    logs_of,
    unfolded,
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
