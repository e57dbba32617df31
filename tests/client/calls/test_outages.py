"""A shard that does not answer: what the log says of it and when, what the error says, and who need not wait for it."""

import itertools
import logging
import random
import threading

import numpy as np
import pytest

from rowloom.client import SGD, PushUnresolved, StateLost, TableSpec, Unavailable
from rowloom.client.calls import control, listing, operations
from rowloom.client.calls.operation import Event
from rowloom.client.calls.session import Session
from rowloom.client.carriers.grpc_wire import LOOK_S
from rowloom.proto import codec, methods
from rowloom.proto import rowloom_pb2 as pb
from rowloom.proto.errors import Moving, NoAnswer, RetryLater
from rowloom.proto.layout import Layout, ShardAddress
from rowloom.proto.spec import TableEntry

ENTRY = TableEntry(1, TableSpec("t", 100, dim=1, optimizer=SGD()))
LAYOUT = Layout("c", 1, tuple(ShardAddress(k, f"h:{k}", k + 1) for k in range(5)), "h:9")
REFUSED = NoAnswer.of("h:1", "nothing listens there (connection refused)")
IDS = np.arange(2)


class Client:
    """A session with a clock of its own, what it was told, and shards that answer as they are told to."""

    def __init__(self, durability: str = "memory") -> None:
        self.now = 0.0
        self.told: list[tuple[int, str]] = []
        self.dead: list[int] = []  # as the coordinator says
        self.error: Exception | None = REFUSED  # of shard 1; None: it answers
        self.silent = ""  # address of a shard that never says anything
        self.session = Session(["h:9"], 1, random.Random(0), lambda: self.now, threading.Lock())
        self.session.layout, self.session.durability = LAYOUT, durability
        self.session.outages.tell = lambda level, text: self.told.append((level, text))

    def run(self, operation):
        """Drive an operation: each request is answered at once."""
        try:
            turn = next(operation)
            events: list[Event] = []
            while True:
                events += [self._answer(send) for send in turn.sends if send.address != self.silent]
                if not events:
                    self.now = max(self.now, min(turn.wake_at, self.now + LOOK_S))
                turn = operation.send(events.pop(0) if events else None)
        except StopIteration as end:
            return end.value

    def _answer(self, send) -> Event:
        if send.method == methods.DESCRIBE_LAYOUT:
            said = pb.DescribeLayoutReply(layout=LAYOUT.to_message(), dead=self.dead)
            return Event(send.tag, said.SerializeToString())
        if send.address == "h:1" and self.error is not None:
            return Event(send.tag, error=self.error)
        rows = codec.PullReply([codec.to_wire(np.zeros((1, 1), np.float32), 0)])
        if send.method == methods.PULL:
            return Event(send.tag, b"".join(rows.encode()))
        if send.method == methods.STEP:
            return Event(send.tag, b"".join(codec.StepReply(False, rows).encode()))
        return Event(send.tag, pb.PushReply().SerializeToString())

    def pull(self, timeout_s: float = 60.0):
        return self.run(operations.pull(self.session, [(ENTRY, IDS)], self.now + timeout_s))

    def push(self, timeout_s: float = 60.0, kind: int = codec.GRADIENTS):
        grads = np.ones((2, 1), np.float32)
        return self.run(operations.push(self.session, [(ENTRY, IDS, grads)], self.now + timeout_s, kind))

    def push_bags(self):
        shares = operations.Shares(np.zeros(2, np.int64), None)
        grads = np.ones((1, 1), np.float32)
        return self.run(operations.push_bags(self.session, ENTRY, IDS, shares, (1,), grads, self.now + 60.0))

    def step(self, ids):
        grads = np.ones((len(ids), 1), np.float32)
        return self.run(operations.step(self.session, [(ENTRY, ids, grads)], [(ENTRY, IDS)], self.now + 60.0))


def test_a_call_that_waits_for_a_shard_says_so_within_seconds_once_and_when_it_is_over() -> None:
    # A minute passed without a word, and nobody could tell a dead shard from a program that hangs.
    client = Client()
    with pytest.raises(Unavailable):
        client.pull()
    ((level, text),) = client.told
    assert level == logging.WARNING
    assert text.startswith("shard 1 at h:1 has served nothing for ")
    assert "s: nothing listens there (connection refused). The call waits for it, up to 5" in text
    assert "`rowloom status`" in text
    with pytest.raises(Unavailable):
        client.pull()  # of the same outage
    assert len(client.told) == 1
    client.error = None
    client.pull()
    level, text = client.told[1]
    assert (level, text) == (logging.INFO, f"shard 1 answers pulls again, after {client.now:.0f} s")
    client.error = REFUSED
    with pytest.raises(Unavailable):
        client.pull()  # and of another one
    assert len(client.told) == 3


def test_a_shard_whose_log_failed_was_said_to_have_ended_and_to_serve_nothing() -> None:
    client = Client(durability="process")
    client.error = Unavailable("this shard takes no changes, because its log failed: No space left on device")
    with pytest.raises(PushUnresolved) as failed:
        client.push()
    assert (
        "shard 1 at h:1 has refused this for 60 s: this shard takes no changes, because its log failed"
        in str(failed.value)
    )
    assert "`rowloom status` says what can be done; to end its process is of no use" in str(failed.value)
    assert "started again" not in str(failed.value)
    assert all("started again" not in text for _, text in client.told)


def test_a_shard_that_answered_a_pull_and_refused_all_pushes_was_said_to_answer_again() -> None:
    client = Client(durability="process")
    full = Unavailable("this shard takes no changes, because its log failed: No space left on device")
    client.error = full
    with pytest.raises(PushUnresolved):
        client.push()
    assert len(client.told) == 1
    client.error = None
    client.pull()
    assert len(client.told) == 1  # pushes are refused as before
    client.error = full
    with pytest.raises(PushUnresolved):
        client.push()
    assert len(client.told) == 1  # of the same outage
    client.error = None
    client.push()
    assert client.told[1] == (logging.INFO, f"shard 1 takes pushes again, after {client.now:.0f} s")


def test_a_shard_that_refused_pushes_and_served_pulls_has_not_been_silent_for_all_that_time() -> None:
    client = Client(durability="process")
    client.error = Unavailable("this shard takes no changes")
    with pytest.raises(PushUnresolved):
        client.push()
    client.error = None
    client.pull()
    client.error = REFUSED
    with pytest.raises(Unavailable, match="shard 1 at h:1 has served nothing for 10 s"):
        client.pull(timeout_s=10.0)


def test_a_shard_that_keeps_its_connection_and_says_nothing_was_named_only_when_the_attempt_ended() -> None:
    client = Client()
    client.silent, client.error = "h:1", None
    with pytest.raises(Unavailable, match="shard 1 at h:1 has served nothing for 60 s: no answer in time"):
        client.pull()
    ((_, text),) = client.told  # of the attempt that takes ten seconds, not of its end
    assert text.startswith(
        "shard 1 at h:1 has served nothing for 2 s: no answer in time. The call waits for it"
    )


def test_the_error_of_a_single_call_has_its_cause_without_the_address_once_more() -> None:
    client = Client()
    client.silent = "h:0"
    with pytest.raises(
        Unavailable, match=r"^shard 0 at h:0 has served nothing for 60 s: no answer in time\. "
    ):
        client.run(control.statistics(client.session, client.now + 60))


def test_much_data_on_a_slow_link_is_no_silence() -> None:
    client = Client()
    client.silent, client.error = "h:1", None
    entry = TableEntry(1, TableSpec("t", 1 << 20, dim=1024, optimizer=SGD()))
    with pytest.raises(Unavailable):  # 8 MB, which may take 8 s
        client.run(operations.pull(client.session, [(entry, np.arange(0, 10240, 5) + 1)], client.now + 9.0))
    assert client.told == []


def test_a_shard_that_answers_again_soon_or_is_about_to_move_is_no_news() -> None:
    client = Client()
    with pytest.raises(Unavailable):
        client.pull(timeout_s=1.5)
    client.error = Moving("rows move", retry_after_s=1.0)
    client.now += 100.0
    with pytest.raises(PushUnresolved):
        client.push(timeout_s=5.0)
    assert client.told == []


def test_the_error_names_the_shard_why_it_did_not_answer_and_what_to_do() -> None:
    client = Client()
    with pytest.raises(Unavailable) as failed:
        client.pull()
    assert str(failed.value) == (
        "shard 1 at h:1 has served nothing for 60 s: nothing listens there (connection refused). `rowloom status` says "
        "whether a shard is dead or stands still, and what can be done then"
    )
    with pytest.raises(PushUnresolved) as unresolved:
        client.push()
    assert (unresolved.value.acked_rows, unresolved.value.unknown_rows) == (1, 1)
    assert "shard 1 at h:1 has served nothing for 120 s: nothing listens there" in str(unresolved.value)
    client = Client(durability="process")
    client.error = RetryLater("this shard reads its rows from its log")
    with pytest.raises(Unavailable) as failed:
        client.pull()
    assert "shard 1 at h:1 has served nothing for 60 s: this shard reads its rows from its log" in str(
        failed.value
    )
    assert "started again by itself, while the coordinator runs, and reads its log: call" in str(failed.value)


def test_the_error_of_a_shard_that_stands_still_said_only_to_wait_until_it_is_started_again() -> None:
    # Its process had been stopped: it never ended, so nothing started it again.
    client = Client(durability="process")
    client.silent, client.error = "h:1", None
    with pytest.raises(Unavailable) as failed:
        client.pull()
    assert (
        "One that stands still, stopped or hung, stays so: `rowloom status` says which it is, and what to"
        in str(failed.value)
    )


def test_the_error_of_a_push_whose_log_fails_just_then_names_the_next_step() -> None:
    client = Client(durability="process")
    client.error = PushUnresolved(
        "the push was applied, but could not be written to the log: No space left on device"
    )
    with pytest.raises(PushUnresolved) as failed:
        client.push()
    assert str(failed.value).endswith("No space left on device. `rowloom status` says what can be done")


@pytest.mark.parametrize("durability", ["memory", "process"])
@pytest.mark.parametrize("call", [Client.push, Client.push_bags, lambda client: client.step(IDS)])
def test_a_push_that_some_rows_had_advised_to_call_again_which_applied_it_to_them_twice(
    call, durability
) -> None:
    client = Client(durability)
    with pytest.raises(PushUnresolved) as failed:
        call(client)
    assert "1 rows have the push, 1 may have it, 0 do not" in str(failed.value)
    assert "Do not push the same batch again, or the rows that have it get it twice. Go on with" in str(
        failed.value
    )
    assert "call again" not in str(failed.value)
    with pytest.raises(Unavailable) as failed:  # nothing was pushed
        client.pull()
    assert ("call again" in str(failed.value)) == (durability == "process")
    assert "Do not push" not in str(failed.value)


def test_a_step_whose_rows_did_not_come_advised_to_call_again_which_pushed_all_of_it_twice() -> None:
    client = Client("process")
    with pytest.raises(PushUnresolved) as failed:
        client.step(IDS[:1])
    assert "the rows to pull did not come: 1 rows have the push, 0 may have it, 0 do not" in str(failed.value)
    assert "Do not push the same batch again, or all its rows get it twice: pull them" in str(failed.value)
    assert "call again" not in str(failed.value)


def test_an_assign_of_which_not_every_shard_has_answered_can_be_called_again() -> None:
    client = Client("process")
    with pytest.raises(PushUnresolved, match=r"The same call again does no harm: .* log: call again when"):
        client.push(kind=codec.ASSIGN)


def test_a_shard_that_said_nothing_was_blamed_with_what_another_one_had_said() -> None:
    client = Client()
    client.silent = "h:0"
    with pytest.raises(Unavailable) as failed:
        client.pull()
    first, second = str(failed.value).split("; ")
    assert first == "shard 0 at h:0 has served nothing for 60 s: no answer in time"
    assert second.startswith("shard 1 at h:1 has served nothing for 60 s: nothing listens there")


def test_a_call_that_is_about_to_end_does_not_say_that_it_waits_for_0_s_more() -> None:
    client = Client()
    client.session.outages.failed(LAYOUT.shards[1], REFUSED, 0.0, 59.5, 60.0, "memory")
    assert client.told == []
    client.session.outages.failed(LAYOUT.shards[1], REFUSED, 60.0, 62.0, 120.0, "memory")
    assert [text.split(". ")[1] for _, text in client.told] == [
        "The call waits for it, up to 58 s more; `rowloom status` says how it is"
    ]


def test_nobody_waits_for_a_shard_that_is_dead_for_good() -> None:
    # Each call took its whole minute, although the coordinator knew better.
    client = Client()
    client.dead = [1, 3]
    for ask in (
        client.pull,
        lambda: client.run(control.statistics(client.session, client.now + 60)),
        lambda: client.run(listing.list_ids(client.session, ENTRY, client.now + 60)),
    ):
        with pytest.raises(
            StateLost, match=r"shard 1 at h:1 is dead: .* `rowloom recover --accept-loss 1` makes it"
        ):
            ask()
    with pytest.raises(PushUnresolved, match="shard 1 at h:1 is dead") as unresolved:
        client.push()
    assert isinstance(unresolved.value.__cause__, StateLost)
    assert client.now < 2.0
    assert client.told == []


def test_a_shard_that_says_that_it_has_lost_its_rows_is_named() -> None:
    client = Client()
    client.error = StateLost("this shard server started anew and holds no rows")
    with pytest.raises(StateLost, match=r"^shard 1 at h:1: this shard server started anew and holds no rows"):
        client.pull()
    with pytest.raises(StateLost, match=r"^shard 1 at h:1: "):
        client.run(control.statistics(client.session, client.now + 60))


@pytest.mark.parametrize("busy", [0, 1, 8])
def test_why_a_change_was_not_made_is_not_hidden_by_attempts_that_had_to_wait_for_another_change(
    busy,
) -> None:
    # With a time-out below that of an attempt only the first answer was told, whatever that had been.
    client, answers = Client(), itertools.count()
    full = Unavailable("state.json cannot be written: No space left on device")

    def answer(send) -> Event:
        error = RetryLater("finishing what was begun is in progress") if next(answers) == busy else full
        client.now += 0.01
        return Event(send.tag, error=error)

    client._answer = answer
    with pytest.raises(
        Unavailable, match=r"^not done within the deadline: state.json .* No space left on device$"
    ):
        client.run(
            control.ask(client.session, methods.DROP_TABLE, pb.RemoveTableRequest(name="t"), client.now + 5.0)
        )
    assert next(answers) > busy


def test_other_calls_to_all_shards_name_the_one_that_does_not_answer() -> None:
    client = Client()
    for ask in (
        lambda: client.run(control.statistics(client.session, client.now + 10)),
        lambda: client.run(listing.list_ids(client.session, ENTRY, client.now + 10)),
    ):
        with pytest.raises(
            Unavailable, match=r"^shard 1 at h:1 has served nothing for \d+ s: nothing listens there"
        ):
            ask()
    assert len(client.told) == 1
