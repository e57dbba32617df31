"""What is shown of a cluster: whole addresses, on narrow terminals and where there is none."""

import io
from importlib.metadata import version

import pytest
from rich.console import Console

from rowloom.client import SGD, Adagrad, Adam, TableSpec
from rowloom.deploy import terminal
from rowloom.deploy.config.config import parse
from rowloom.deploy.health.ways_out import ways_out
from rowloom.deploy.operate.moves import in_progress, move_summary
from rowloom.deploy.operate.remote import Remote
from rowloom.deploy.operate.status import in_memory, living, not_serving, render_status, summary
from rowloom.proto import rowloom_pb2 as pb
from rowloom.proto.spec import TableEntry

LONG = "shard-0.embeddings.very-long-namespace-of-a-team.svc.cluster-of-a-region.example.internal:31415"


def state_of(shards: int) -> dict:
    shard = {"node": LONG.partition(":")[0], "address": LONG, "health": "serving", "epoch": 1, "rows": 10**9}
    shard |= {"log_bytes": 10**12, "log_error": None}
    shard |= {"bytes": 10**12, "resident_bytes": 10**12, "pulled_rows_per_s": 1e7, "pushed_rows_per_s": 1e7}
    return {
        "name": "ads",
        "launcher": "ray",
        "epoch": 1,
        "coordinator": LONG,
        "config_hash": "0" * 12,
        "durability": "process",
        "snapshot": None,
        "healthy": True,
        "shards": [{"index": i, **shard} for i in range(shards)],
        "tables": [],
        "unfinished": [],
        "autoscale": None,
        "drained": [],
        "scaling": None,
        "moving": None,
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
    assert len(lines) == 7
    assert "127.0.0.1:40123" in lines[4]
    assert "123,456,789" in lines[4]
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


def test_a_shard_whose_log_failed_is_not_said_to_serve() -> None:
    # It refused every push, and its health was `serving`.
    shards = [pb.ShardStatus(health="serving"), pb.ShardStatus(health="pulls only")]
    shards[1].shard.index = 1
    shards[1].statistics.log_error = "/logs/x: No space left on device"
    status = pb.StatusReply(name="ads", shards=shards, durability="process")
    state = summary(status)
    assert not state["healthy"]
    assert list(not_serving(state)) == [1]
    assert not_serving(state, reads=True) == {}
    assert living(state) == [0, 1]
    assert "make room" in ways_out(state)
    assert "accept-loss" not in ways_out(state)
    assert "shard 1 is pulls only: its log failed: /logs/x: No space left" in text(status)


def test_a_shard_that_could_not_read_its_log_was_said_to_need_nothing_but_time() -> None:
    shards = [
        pb.ShardStatus(health="starting", unread="/logs/x: Input/output error"),
        pb.ShardStatus(health="serving"),
    ]
    status = pb.StatusReply(name="ads", shards=shards, durability="process")
    state = summary(status)
    assert "is starting: its log could not be read yet: /logs/x: Input/output error" in not_serving(state)[0]
    assert "look at its disk" in ways_out(state)
    assert "Nothing is to be done" not in ways_out(state)
    assert "accept-loss" not in ways_out(state)
    assert "Input/output error" in text(status)


def test_a_dead_shard_that_could_not_be_started_again_was_said_to_need_nothing_but_time() -> None:
    why = "storage /d/layout.json cannot be written: No space left on device"
    shards = [pb.ShardStatus(health="dead", stays_dead=why), pb.ShardStatus(health="serving")]
    shards[1].shard.index = 1
    status = pb.StatusReply(name="ads", shards=shards, durability="process")
    state = summary(status)
    assert f"is dead: it cannot be started again yet: {why}" in not_serving(state)[0]
    assert f"shard 0 is dead: it cannot be started again yet: {why}" in text(status)
    assert "make room on the disk that is named" in ways_out(state)
    for wrong in ("Nothing is to be done", "accept-loss", "did not answer in time"):
        assert wrong not in ways_out(state)
    shards[0].stays_dead = "a shard server could not be started: Permission denied"
    said = ways_out(summary(pb.StatusReply(name="ads", shards=shards, durability="process")))
    assert "make room" not in said
    assert "mend what is said of it" in said
    shards.append(pb.ShardStatus(health="starting", shard=pb.ShardAddress(index=2)))
    said = ways_out(summary(pb.StatusReply(name="ads", shards=shards, durability="process")))
    assert "Nothing is to be done" in said  # for that one


def test_a_shard_that_had_just_died_without_its_storage_was_said_to_need_nothing_but_time() -> None:
    status = pb.StatusReply(name="ads", shards=[pb.ShardStatus(health="dead")], durability="process")
    assert "Nothing is to be done" in ways_out(summary(status))
    said = ways_out(summary(status) | {"storage_away": "the storage of 'ads' is not where it was"})
    assert "Nothing is to be done" not in said
    assert "has its rows in its log, which is not where it was: put the storage back" in said


def test_status_says_what_survives_and_how_old_the_newest_snapshot_is() -> None:
    status = pb.StatusReply(name="ads", durability="disk")
    assert "durability disk (longest log 0 B)  newest snapshot taken: none" in text(status)
    status.shards.add(health="lost")
    assert "restore" not in ways_out(summary(status))
    status.snapshot.MergeFrom(pb.NewestSnapshot(id="20260101T000000Z-1", url="/no/s/1", age_s=7200.0))
    told = {"id": "20260101T000000Z-1", "url": "/no/s/1", "age_s": 7200.0}
    assert told.items() <= summary(status)["snapshot"].items()
    assert "20260101T000000Z-1, 2 h old" in text(status)
    assert "`rowloom restore /no/s/1 CONFIG`" in ways_out(summary(status))
    assert "2 h old (its files cannot be looked at from here), without what was" in ways_out(summary(status))
    assert "rows end with their shard's process" in text(pb.StatusReply(durability="memory"))


def test_a_killed_shard_with_a_log_was_said_to_have_lost_its_rows_while_it_was_started_again() -> None:
    # Who believed it typed `recover --accept-loss`, which threw away a whole log.
    shards = [pb.ShardStatus(health="serving"), pb.ShardStatus(health="dead")]
    shards[1].shard.index = 1
    said = ways_out(summary(pb.StatusReply(name="ads", shards=shards, durability="process")))
    assert "has its rows in its log: it is started again by itself" in said
    assert "gone" not in said
    assert "accept-loss" not in said
    said = ways_out(summary(pb.StatusReply(name="ads", shards=shards, durability="memory")))
    assert "`rowloom recover --accept-loss 1`" in said
    for health in ("starting", "recovering"):
        shards[1].health = health
        said = ways_out(summary(pb.StatusReply(name="ads", shards=shards, durability="process")))
        assert "gone" not in said
        assert "accept-loss" not in said
    shards[1].health = "lost"  # its log is damaged
    said = ways_out(summary(pb.StatusReply(name="ads", shards=shards, durability="process")))
    assert "`rowloom recover --accept-loss 1`" in said


def test_of_a_shard_whose_standby_takes_its_place_it_was_said_that_its_rows_are_gone() -> None:
    # A new coordinator said so, with the commands that throw them away, a second before the standby served.
    shards = [pb.ShardStatus(health="serving"), pb.ShardStatus(health="dead")]
    shards[1].shard.index = 1
    status = pb.StatusReply(name="ads", shards=shards, durability="memory")
    for state, words in (("in step", "has its rows and takes"), ("unreachable", "may take")):
        status.shards[1].standby.state = state
        said = ways_out(summary(status))
        assert f"The standby of shard 1 {words}" in said.replace("has not answered yet, and ", "")
        assert "gone" not in said
        assert "accept-loss" not in said
    for state in ("filling", "failed", "dead"):
        status.shards[1].standby.state = state
        assert "`rowloom recover --accept-loss 1`" in ways_out(summary(status))


def test_a_busy_cluster_whose_shards_did_not_answer_was_said_to_have_lost_its_rows() -> None:
    # All that was offered then lost rows, of which none was lost.
    shards = [pb.ShardStatus(health="unreachable"), pb.ShardStatus(health="unreachable")]
    shards[1].shard.index = 1
    said = ways_out(summary(pb.StatusReply(shards=shards, durability="process")), " --name ads")
    assert "may be busy, or stand still, and no rows of it are known to be lost" in said
    assert "Look again in a moment: `rowloom status --name ads`" in said
    assert (
        "`rowloom down --keep --name ads`, then `rowloom up` with its config, goes on from the logs and loses nothing"
        in said
    )
    named = ways_out(summary(pb.StatusReply(name="ads", shards=shards, durability="process")), " --name ads")
    assert "`rowloom down --keep --name ads`, then `rowloom up --name ads`, goes on" in named
    for lossy in ("gone", "accept-loss", "--partial", "all rows are lost"):
        assert lossy not in said
    said = ways_out(summary(pb.StatusReply(shards=shards, durability="memory")))
    assert "may be busy" in said
    assert "--keep" not in said  # there are no logs
    shards[1].health = "dead"
    said = ways_out(summary(pb.StatusReply(shards=shards, durability="memory")))
    assert "may be busy" in said
    assert "`rowloom recover --accept-loss 1` makes it anew" in said  # not 0, which may hold its rows
    assert "--partial" not in said  # there is no other shard that can be read
    shards[0].health = "serving"
    assert "--partial" in ways_out(summary(pb.StatusReply(shards=shards, durability="memory")))


def test_a_scaling_that_runs_is_shown_with_how_far_it_is(capsys) -> None:
    running = pb.ScaleReply(
        state="moving",
        shards=3,
        rows=250,
        rows_total=1000,
        passes=1,
        left=40,
        rows_per_s=20.0,
        brake_row_s=1e-6,
    )
    state = state_of(1) | {"moving": in_progress(running), "scaling": move_summary(running)}
    terminal.show(False, {}, render_status(state))
    told = " ".join(capsys.readouterr().out.split())
    assert (
        "scaling to 3 shards: 250 of 1,000 rows are there; pass 2, 40 rows left, 20 rows/s, about 2 s more"
        in told
    )
    assert "pushes are slowed down" in told
    assert in_progress(pb.ScaleReply(state="finishing", shards=1)) == "scaling to 1 shard: finishing"


def test_servers_of_different_versions_are_named_and_those_of_one_version_are_not() -> None:
    def state(*versions: str) -> pb.StatusReply:
        shards = [
            pb.ShardStatus(
                shard=pb.ShardAddress(index=i),
                statistics=pb.StatisticsReply(version=version),
                health="serving",
            )
            for i, version in enumerate(versions)
        ]
        return pb.StatusReply(name="ads", version="0.1.0", shards=shards)

    mixed = summary(state("0.1.0", "0.1.1", ""))
    assert (mixed["version"], [s["version"] for s in mixed["shards"]]) == ("0.1.0", ["0.1.0", "0.1.1", None])
    assert "0.1.0: the coordinator, shard 0; 0.1.1: shard 1" in text(state("0.1.0", "0.1.1", ""))
    assert "versions" not in text(state("0.1.0", "", "0.1.0"))


def test_each_server_says_which_version_it_runs(cluster) -> None:
    with Remote(cluster.address) as remote:
        state = summary(remote.status())
    assert [state["version"], *(s["version"] for s in state["shards"])] == [version("rowloom")] * 3


def with_a_silent_shard(*counted: int) -> pb.StatusReply:
    """Two shards of one table; those that are counted hold a thousand rows."""
    spec = TableSpec("users", 10_000, dim=4, optimizer=Adam(mode="dense"))
    status = pb.StatusReply(name="ads", durability="process", tables=[TableEntry(1, spec).to_message()])
    for index in range(2):
        shard = status.shards.add(node="here", health="serving" if index in counted else "dead")
        shard.shard.index = index
        if index in counted:
            shard.statistics.epoch = 1
            shard.statistics.tables.add(table=1, name="users", rows=1002, bytes=16_000, step=7)
    return status


def test_a_shard_that_tells_nothing_was_shown_with_no_rows() -> None:
    said = text(with_a_silent_shard(0))
    (dead,) = [line.split() for line in said.splitlines() if line.startswith("1 ")]
    assert dead == ["1", "here", "dead", *6 * "-"]
    (users,) = [line for line in said.splitlines() if line.startswith("users")]
    assert ">= 1,002" in users
    assert users.count(">=") == 2
    assert "longest log >= 0 B" in said
    assert ">=" not in text(with_a_silent_shard(0, 1))


@pytest.mark.parametrize("health", ["lost", "recovering"])
def test_tables_that_lack_the_rows_of_a_shard_that_answers_and_has_none_were_understated(health) -> None:
    status = with_a_silent_shard(0)
    status.shards[1].health = health
    status.shards[1].statistics.epoch = 1  # it is asked, and tells of no table
    (users,) = [line for line in text(status).splitlines() if line.startswith("users")]
    assert ">= 1,002" in users
    state = summary(status)
    assert (state["shards"][1]["counted"], state["tables"][0]["uncounted_shards"]) == (False, [1])


def test_what_no_shard_tells_is_shown_as_not_known() -> None:
    (users,) = [line for line in text(with_a_silent_shard()).splitlines() if line.startswith("users")]
    assert users.split()[-3:] == ["-", "-", "-"]


def test_programs_read_which_shards_a_sum_lacks() -> None:
    state = summary(with_a_silent_shard(0))
    assert [(s["counted"], s["rows"]) for s in state["shards"]] == [(True, 1002), (False, 0)]
    assert (state["tables"][0]["rows"], state["tables"][0]["uncounted_shards"]) == (1002, [1])


def with_lost_shards(durability: str, *healths: str) -> dict:
    status = pb.StatusReply(name="ads", durability=durability)
    status.layout.cluster_id, status.layout.epoch = "ads-1", 3
    for index, health in enumerate(healths):
        why = (
            "/kept/wal-0000000001.log: record 4 (byte 200 of the file) is damaged" if health == "lost" else ""
        )
        status.shards.add(health=health, lost=why).shard.index = index
    return summary(status)


def test_a_lost_shard_with_a_copy_of_its_log_was_said_to_have_only_ways_out_that_lose_rows() -> None:
    state = with_lost_shards("process", "serving", "lost")
    assert not_serving(state)[1].endswith(
        "is lost: /kept/wal-0000000001.log: record 4 (byte 200 of the file) is damaged"
    )
    said = ways_out(state, " --name ads")
    assert said.startswith(
        ". Shard 1 could not read its log: `rowloom logs 1 --name ads` says more. Whoever has a whole copy of the "
        "files loses no row: `rowloom down --keep --name ads`, put them back into logs/ads-1/epoch-3/shard-1 of the "
        "storage, then `rowloom up --name ads`. Without such a copy what it held is gone. The ways out:\n- `rowloom"
    )
    assert (
        "`rowloom recover --accept-loss 1 --name ads` makes it anew, from initial values, and leaves the others as "
        "they are; what there is of the old log stays beside, as `shard-1.lost-1` or with the next number\n- "
        in said
    )
    assert "then `rowloom up` with its config. Without" in ways_out(state, " --address h:1")  # not known here
    console = Console(width=200)
    with console.capture() as capture:
        console.print(render_status(state))
    assert "shard 1 is lost: /kept/wal-0000000001.log: record 4" in capture.get()
    assert "copy" not in ways_out(with_lost_shards("memory", "serving", "lost"))  # there is no log


def test_where_all_shards_are_dead_no_others_are_said_to_stay_as_they_are() -> None:
    said = ways_out(with_lost_shards("memory", "dead", "dead"))
    assert (
        "`rowloom recover --accept-loss 0 --accept-loss 1` makes them anew, from initial values\n- `rowloom down"
        in said
    )
    assert "others" not in said
    said = ways_out(with_lost_shards("process", "lost", "lost"))
    assert "Shards 0 and 1 could not read their logs: `rowloom logs 0` and `rowloom logs 1` say more" in said
    assert "Without such a copy what they held is gone" in said
    assert "as `shard-0.lost-1` and `shard-1.lost-1` or with the next number" in said


def test_durability_process_was_advised_where_a_storage_that_is_no_folder_would_refuse_it():
    folder, store = (
        parse({"storage": s, "durability": "memory"}) for s in ("/var/lib/ads", "s3://bucket/ads")
    )
    assert in_memory(folder).endswith("; `durability: process` keeps them in its log")
    assert "`durability: process` with a `storage` that is a folder keeps" in in_memory(store)
