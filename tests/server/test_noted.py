"""What changes rows or tables is in the log and at the standby before it is acknowledged, whichever method did it."""

import contextlib

import pytest
from right_messages import CALLER, IDS, LAYOUT, TABLES, fresh, requests

from rowloom.proto import methods
from rowloom.proto import rowloom_pb2 as pb
from rowloom.proto.codec import Pull
from rowloom.proto.errors import RowloomError
from rowloom.server import host as host_module
from rowloom.server import states
from rowloom.server.call import Answer, Call
from rowloom.server.holder import Process
from rowloom.server.host import Host
from rowloom.server.standby.feed import Feed

DROP = pb.DropTableRequest(header=LAYOUT.header(0), table=2)  # one that is there
REQUESTS = [*requests(), (methods.SHARD_DROP_TABLE, DROP)]
# A new method of a shard is in one of the two. To become a shard, ADOPT, has a test of its own.
CHANGES = {
    methods.PUSH,
    methods.STEP,
    methods.SHARD_CREATE_TABLE,
    methods.SHARD_DROP_TABLE,
    methods.SHARD_SET_LEARNING_RATE,
}
KEEPS = {
    methods.PULL,
    methods.PULL_BAGS,
    methods.DESCRIBE_LANE,
    methods.LIST_TABLES,
    methods.STATISTICS,
    methods.ADOPT,
    methods.PREPARE,
    methods.FREEZE,
    methods.BRAKE,
    methods.READ_PASS,
    methods.READ_ROWS,
    methods.READ_LEDGER,
    methods.HOTTEST_IDS,
    methods.PROGRESS,
    methods.STAND_BY,
    methods.SET_STANDBY,
    methods.ATTACH,
    methods.FOLLOW,
    methods.SHUT_DOWN_SHARD,
    methods.CUT,
    methods.CUT_PROGRESS,
    methods.TRIM_LOG,
    methods.DESCRIBE_LAYOUT,
    methods.HEALTH,
}


class Notes:
    """A log that only counts, as a `Journal`; and the place of all logs, which has none yet."""

    error, mending, bytes, safe, passed = "", False, 0, 0, ("", "")

    def __init__(self) -> None:
        self.lsn, self.end = 0, 1000  # not as a feed counts

    def check(self) -> None:
        """It takes everything."""

    def trim(self, lsn: int) -> None:
        """Nothing to do."""

    def note(self, kind, payload, rows_after: int = 0, fold: int = 0) -> int:
        self.lsn, self.end = self.lsn + 1, self.end + 100
        return self.end

    def has(self, owner) -> bool:
        return False

    def begin(self, owner) -> "Notes":
        return self


def noting() -> tuple[Host, Notes, Feed]:
    """A host that serves, whose shard has a log and a standby."""
    host, journal, feed = fresh(), Notes(), Feed(1, waits=True, lease_s=1e9)
    host.journal, host.feed = journal, feed
    return host, journal, feed


def contents(host: Host) -> list:
    """Tables, rows and ledger of its shard; equal if nothing has changed."""
    shard = host.shard
    assert shard is not None
    rows = Pull(LAYOUT.header(0), [(number, IDS) for number in sorted(shard.tables)])
    return [
        *(entry.to_message().SerializeToString(deterministic=True) for entry in shard.entries()),
        [(number, len(table)) for number, table in sorted(shard.tables.items())],
        [block.data.tobytes() for block in shard.pull(rows).blocks],
        shard.ledger.read().SerializeToString(deterministic=True),
    ]


def attempted(host: Host, method: str, data: bytes) -> Answer | None:
    with contextlib.suppress(RowloomError):
        return host.handle(Call(method, data, CALLER))
    return None


def check(method: str, data: bytes) -> bool:
    """What a message changes is noted, and its answer and that of a copy of it wait. Returns whether it changes any."""
    host, journal, feed = noting()
    before, lsn, end = contents(host), journal.lsn, feed.end
    answer = attempted(host, method, data)
    changed = contents(host) != before
    assert (journal.lsn > lsn) == changed, "the log has it, or there is nothing to have"
    assert (feed.end > end) == changed, "the standby has it, or there is nothing to have"
    if changed:
        for one in (answer, attempted(host, method, data)):
            assert one is not None
            assert one.after == journal.end, "it is acknowledged before the log has it"
            fed = one.fed and (one.fed.feed, one.fed.position)
            assert fed == (feed, feed.end), "it is acknowledged before the standby has it"
    return changed


def all_that_change() -> set[str]:
    return {method for method, request in REQUESTS if check(method, request.SerializeToString())}


def test_each_method_of_a_shard_says_here_whether_it_changes_rows_or_tables() -> None:
    host = Host()
    assert {*host._rows, *host._methods} == CHANGES | KEEPS
    assert not CHANGES & KEEPS


def test_what_changes_rows_or_tables_is_acknowledged_when_the_log_and_the_standby_have_it() -> None:
    assert all_that_change() == CHANGES


@pytest.mark.parametrize("table", ["_FED", "_NOTED"])
@pytest.mark.parametrize("method", sorted(host_module._FED))
def test_a_method_that_was_forgotten_among_those_that_wait_is_found(method, table, monkeypatch) -> None:
    # It was acknowledged before the log and the standby had it, and no test said so.
    monkeypatch.setattr(host_module, table, getattr(host_module, table) - {method})
    with pytest.raises(AssertionError, match="it is acknowledged before the"):
        all_that_change()


def test_a_shard_that_begins_is_acknowledged_when_its_log_has_its_tables() -> None:
    journal = Notes()
    host = Host(process=Process(journals=journal))
    tables = [entry.to_message() for entry in TABLES]
    request = pb.AdoptRequest(layout=LAYOUT.to_message(), index=0, turn=5, fresh=True, tables=tables)
    for _ in range(2):
        answer = attempted(host, methods.ADOPT, request.SerializeToString())
        assert isinstance(host.state, states.Serving)
        assert journal.lsn == len(TABLES)
        assert answer is not None
        assert answer.after == journal.end, "it is acknowledged before the log has it"
