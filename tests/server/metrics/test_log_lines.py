"""Lines of logs: each record is one, with time, level, process, place and message."""

import json
import logging
import re

import pytest

from rowloom.proto import methods
from rowloom.proto import rowloom_pb2 as pb
from rowloom.proto.layout import Layout, ShardAddress
from rowloom.server.call import GRPC, Call, Caller
from rowloom.server.metrics import log_lines
from rowloom.server.metrics.log_lines import LineFormatter, begin_log, name_process
from rowloom.server.serve import Server

log = logging.getLogger("rowloom.server.somewhere")


@pytest.fixture
def begin(monkeypatch):
    """`begin_log` whose handlers and levels are gone after the test."""
    loggers = [logging.getLogger(), *map(logging.getLogger, log_lines.OURS)]
    levels, handlers = [one.level for one in loggers], list(loggers[0].handlers)
    yield begin_log
    for one, level in zip(loggers, levels, strict=True):
        one.setLevel(level)
    for handler in [h for h in loggers[0].handlers if h not in handlers]:
        loggers[0].removeHandler(handler)
        handler.close()


def record(message: str, exc_info=None) -> logging.LogRecord:
    return logging.LogRecord("rowloom.x", logging.WARNING, "/a/x.py", 7, message, None, exc_info)


def test_a_line_has_time_level_process_place_and_message():
    line = LineFormatter("shard-0", "logfmt").format(record('what "happened"\nhere'))
    assert re.fullmatch(
        r"time=\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z level=warning process=shard-0 place=x:7 "
        r'message="what \\"happened\\"\\nhere"',
        line,
    )


def test_a_traceback_is_in_the_same_line():
    try:
        raise ValueError("no")
    except ValueError as e:
        failed = record("it failed", (ValueError, e, e.__traceback__))
    for format in log_lines.FORMATS:
        assert "\n" not in LineFormatter("x", format).format(failed)
    said = json.loads(LineFormatter("x", "json").format(failed))
    assert said["message"] == "it failed"
    assert said["traceback"].endswith("ValueError: no")


def test_our_records_are_kept_from_their_level_on_and_those_of_libraries_from_warnings_on(begin, tmp_path):
    file = tmp_path / "logs" / "shard-0.log"
    assert begin("shard-0", level="info", file=str(file)) == str(file)
    log.debug("hidden")
    log.info("said")
    logging.getLogger("numba").info("hidden")
    logging.getLogger("numba").warning("theirs")
    lines = file.read_text().splitlines()
    assert [line.rpartition("message=")[2] for line in lines] == ["said", "theirs"]


def test_lines_have_the_name_of_the_shard_that_the_process_has_become(begin, tmp_path):
    # A server's key, which its file is called by, says nothing of which shard it is: operators know those by index.
    begin("server-7", file=str(tmp_path / "shard-7.log"))
    log.info("starts")
    server = Server(carrier="grpc", on_name=name_process)
    try:
        layout = Layout("c", 1, (ShardAddress(0, "h:1", 3), ShardAddress(1, "h:2", server.incarnation)))
        ask = pb.AdoptRequest(layout=layout.to_message(), index=1, fresh=True, turn=1)
        server.answer(Call(methods.ADOPT, ask.SerializeToString(), Caller(GRPC)))
    finally:
        server.stop(0)
    starts, becomes = (tmp_path / "shard-7.log").read_text().splitlines()
    assert "process=server-7 " in starts
    assert "process=shard-1 " in becomes
    assert "shard 1 is serving" in becomes


def test_a_log_that_has_grown_is_put_aside_and_the_oldest_goes(begin, tmp_path, monkeypatch):
    monkeypatch.setattr(log_lines, "FILE_BYTES", 200)
    begin("shard-0", file=str(tmp_path / "x.log"))
    for k in range(20):
        log.info("number %d of these", k)
    files = sorted(p.name for p in tmp_path.iterdir())
    assert files == ["x.log", "x.log.1", "x.log.2", "x.log.3"]
    assert "number 19" in (tmp_path / "x.log").read_text()


def test_a_log_that_cannot_be_written_goes_to_stderr_and_the_process_goes_on(begin, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    begin("shard-0", file=str(tmp_path / "file" / "x.log"))
    log.info("said")
    err = capsys.readouterr().err
    assert "the log goes to stderr" in err
    assert "message=said" in err
