"""What is shown of a cluster: whole addresses, on narrow terminals and where there is none."""

import io

import pytest
from rich.console import Console

from rowloom.client import SGD, Adagrad, Adam, TableSpec
from rowloom.deploy import terminal
from rowloom.deploy.operate.status import render_status, summary
from rowloom.proto import rowloom_pb2 as pb
from rowloom.proto.spec import TableEntry

LONG = "shard-0.embeddings.very-long-namespace-of-a-team.svc.cluster-of-a-region.example.internal:31415"


def state_of(shards: int) -> dict:
    shard = {"node": LONG.partition(":")[0], "address": LONG, "health": "serving", "epoch": 1, "rows": 10**9}
    shard |= {"bytes": 10**12, "resident_bytes": 10**12, "pulled_rows_per_s": 1e7, "pushed_rows_per_s": 1e7}
    return {
        "name": "ads",
        "launcher": "ray",
        "epoch": 1,
        "coordinator": LONG,
        "config_hash": "0" * 12,
        "healthy": True,
        "shards": [{"index": i, **shard} for i in range(shards)],
        "tables": [],
        "unfinished": [],
    }


def test_a_long_address_stands_in_one_piece_where_there_is_no_terminal(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    terminal.show(False, {}, render_status(state_of(2)))
    lines = capsys.readouterr().out.splitlines()
    assert sum(LONG in line for line in lines) == 3
    assert all(line == line.rstrip() or len(line) < 400 for line in lines)


@pytest.mark.parametrize("width", [100, 140])
def test_a_long_address_is_folded_on_a_terminal_and_never_cut(width):
    text = io.StringIO()
    Console(file=text, width=width, force_terminal=True, color_system=None, soft_wrap=True).print(
        render_status(state_of(1))
    )
    lines = text.getvalue().splitlines()
    assert "…" not in text.getvalue()
    head = next(line for line in lines if "health" in line and "node" in line)
    begin, end = head.index("address"), head.index("health")
    assert "".join(line[begin:end].strip() for line in lines[lines.index(head) + 1 : -1]) == LONG
    assert "1,000,000,000" in text.getvalue()


def text(status: pb.StatusReply) -> str:
    console = Console(width=200)
    with console.capture() as capture:
        console.print(render_status(summary(status)))
    return capture.get()


def test_status_says_what_has_not_reached_every_shard() -> None:
    # One shard learned at another rate than the others, and nothing said so.
    left = "lr of table 't' has not reached every shard yet"
    status = pb.StatusReply(name="ads", unfinished=[left])
    assert summary(status)["unfinished"] == [left]
    assert f"not finished yet: {left}" in text(status)
    assert "not finished" not in text(pb.StatusReply(name="ads"))


def test_a_screen_of_80_columns_shows_each_shard_on_one_line() -> None:
    shard = pb.ShardStatus(node="a-machine-with-a-name.example", health="serving")
    shard.shard.address = "127.0.0.1:40123"
    shard.statistics.tables.add(name="users", table=1, rows=123_456_789, bytes=10**10)
    entry = TableEntry(1, TableSpec("users", 10**9, dim=64, optimizer=Adagrad())).to_message()
    status = pb.StatusReply(
        name="ads", launcher="local", shards=[shard], tables=[entry], config_hash="0" * 12
    )
    status.layout.coordinator = "127.0.0.1:40123"
    state = summary(status)
    screen = Console(width=80)
    with screen.capture() as capture:
        screen.print(render_status(state, 80))
    lines = capture.get().splitlines()
    assert len(lines) == 6
    assert "127.0.0.1:40123" in lines[3]
    assert "123,456,789" in lines[3]
    assert "a-machine-with-a-name.example" in text(status)  # where there is room, all is shown


def test_a_table_whose_optimizer_counts_no_steps_shows_none_and_not_0() -> None:
    entries = [
        TableEntry(i, TableSpec(name, 10, optimizer=optimizer)).to_message()
        for i, (name, optimizer) in enumerate([("sgd", SGD()), ("adam", Adam())], 1)
    ]
    status = pb.StatusReply(name="ads", tables=entries)
    assert [table["step"] for table in summary(status)["tables"]] == [None, 0]
    shown = {line.split()[0]: line.split()[-1] for line in text(status).splitlines() if line}
    assert (shown["sgd"], shown["adam"]) == ("-", "0")
