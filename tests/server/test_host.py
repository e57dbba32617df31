"""What one server process answers, in every state that it can be in."""

import numpy as np
import pytest

from rowloom.client import SGD, InvalidRequest, StateLost, TableNotFound, TableSpec, Zeros
from rowloom.proto import rowloom_pb2 as pb
from rowloom.proto.codec import ASSIGN, Block, PartName, Pull, PullReply, Push, Step
from rowloom.proto.errors import (
    Moving,
    Overloaded,
    PermissionDenied,
    PushUnresolved,
    RetryLater,
    RowloomError,
    WrongCluster,
    WrongLayout,
)
from rowloom.proto.framing import joined
from rowloom.proto.layout import Layout, ShardAddress
from rowloom.proto.methods import DESCRIBE_LAYOUT, HOTTEST_IDS
from rowloom.proto.spec import TableEntry
from rowloom.server.access import newcomers
from rowloom.server.access.rights import Grant, Principal
from rowloom.server.call import GRPC, Answer, Call, Caller
from rowloom.server.host import Host

SHARD = "/rowloom.v1.Shard/"
CALLER = Caller("test")
ENTRY = TableEntry(1, TableSpec("t", 100, dim=2, optimizer=SGD(lr=1.0), initializer=Zeros()))
OTHER = TableEntry(2, TableSpec("u", 100, dim=3, optimizer=SGD(lr=1.0), initializer=Zeros()))


def layout_of(n: int, epoch: int = 1, cluster: str = "c") -> Layout:
    return Layout(cluster, epoch, tuple(ShardAddress(i, f"h{i}:1", 1) for i in range(n)))


def header(epoch: int = 1, cluster: str = "c", shard: int = 0, protocol: int = 1) -> pb.Header:
    return pb.Header(cluster_id=cluster, epoch=epoch, protocol=protocol, shard=shard)


def serving(n: int = 1) -> Host:
    host = Host()
    adopt(host, layout_of(n), fresh=True)
    return host


def adopt(host: Host, layout: Layout, *, fresh: bool = False, retire: bool = False, turn: int = 1) -> None:
    tables = [ENTRY.to_message(), OTHER.to_message()]
    call(
        host,
        "Adopt",
        pb.AdoptRequest(layout=layout.to_message(), fresh=fresh, tables=tables, retire=retire, turn=turn),
    )


def handled(host: Host, method: str, request, space: memoryview | None = None) -> Answer:
    data = joined(request.encode()) if hasattr(request, "encode") else request.SerializeToString()
    return host.handle(Call(SHARD + method, data, CALLER, space))


def call(host: Host, method: str, request) -> bytes:
    answer = handled(host, method, request)
    assert answer.wait_for is None
    return joined(answer.buffers)


def pull(host: Host, ids, head: pb.Header | None = None) -> np.ndarray:
    data = call(host, "Pull", Pull(head or header(), [(1, np.array(ids, np.int64))]))
    return PullReply.decode(data).blocks[0].data.reshape(-1, 2)


def part(ids, values, seq: int = 1, table: int = 1, **more) -> Push:
    block = Block(np.asarray(values, np.float32))
    tables = more.pop("tables", [(table, np.array(ids, np.int64), block)])
    names = more.pop("names", (PartName(1, 0, seq),))
    return Push(more.pop("head", header()), 7, names, push=seq, tables=tables, **more)


def test_a_server_that_nobody_adopted_says_that_it_holds_nothing() -> None:
    with pytest.raises(StateLost, match="started anew and holds no rows"):
        pull(Host(), [1])


def test_a_part_that_comes_twice_is_applied_once() -> None:
    host = serving()
    first = call(host, "Push", part([1], [[1, 1]]))
    again = call(host, "Push", part([1], [[1, 1]]))
    assert not pb.PushReply.FromString(first).duplicate
    assert pb.PushReply.FromString(again).duplicate
    np.testing.assert_array_equal(pull(host, [1]), [[-1, -1]])


@pytest.mark.parametrize(
    ("request_", "error", "message"),
    [
        (part([5, 100], [[1, 1], [1, 1]]), InvalidRequest, r"id 100 \(number 1 of the request\).*\[0, 100\)"),
        (part([5, -1], [[1, 1], [1, 1]]), InvalidRequest, "id -1"),
        (part([5, 6], [[1, 1], [1, np.nan]]), InvalidRequest, "id 6 has nan in column 1"),
        (part([5, 6], [[1, 1], [np.inf, 1]]), InvalidRequest, "id 6 has inf in column 0"),
        (part([5], [[1, 1, 1]]), InvalidRequest, "need 2 values, got 3"),
        (part([5], [[1, 1]], table=9), TableNotFound, "number 9"),
        (part([5], [[1, 1]], kind=77), InvalidRequest, "unknown kind of push 77"),
        (part([5], [[1, 1]], names=()), InvalidRequest, "needs names"),
        (part([5], [[1, 1]], names=(PartName(1, 3, 1),)), InvalidRequest, "last name of a part"),
        (part([5], [[1, 1]], head=header(epoch=2)), WrongLayout, "epoch 1"),
        (part([5], [[1, 1]], head=header(shard=1)), WrongLayout, "shard 0"),
        (part([5], [[1, 1]], head=header(cluster="d")), WrongCluster, "'c', not 'd'"),
        (part([5], [[1, 1]], head=header(protocol=2)), InvalidRequest, "protocol 1"),
    ],
)
def test_a_bad_push_changes_nothing(request_: Push, error: type, message: str) -> None:
    host = serving()
    call(host, "Push", part([5, 6], [[1, 2], [3, 4]], seq=9))
    with pytest.raises(error, match=message):
        call(host, "Push", request_)
    np.testing.assert_array_equal(pull(host, [5, 6, 7]), [[-1, -2], [-3, -4], [0, 0]])
    assert host.shard is not None
    assert len(host.shard.tables[1]) == 2


def test_a_bad_table_keeps_the_good_one_of_the_same_push_from_changing() -> None:
    host = serving()
    good = (1, np.array([5]), Block(np.ones((1, 2), np.float32)))
    for bad in [
        (2, np.array([5]), Block(np.full((1, 3), np.nan, np.float32))),
        (2, np.array([500]), Block(np.ones((1, 3), np.float32))),
        (1, np.array([6]), Block(np.ones((1, 2), np.float32))),
    ]:
        with pytest.raises(InvalidRequest):
            call(host, "Push", part([], [], tables=[good, bad]))
    np.testing.assert_array_equal(pull(host, [5]), [[0, 0]])
    # A refused part was not recorded: the same number may still be used.
    assert not pb.PushReply.FromString(call(host, "Push", part([], [], tables=[good]))).duplicate


def test_an_id_of_another_shard_is_refused() -> None:
    host = serving(2)
    with pytest.raises(InvalidRequest, match=r"id 3 .*belongs to another shard than 0 of 2"):
        pull(host, [2, 3])


def test_while_rows_move_reads_go_on_and_pushes_wait() -> None:
    host = serving()
    freeze = pb.FreezeRequest(cluster_id="c", epoch=1, on=True, turn=2)
    assert pb.FreezeReply.FromString(call(host, "Freeze", freeze)).rows == 0
    waiting = handled(host, "Push", part([1], [[1, 1]]))
    assert waiting.wait_for is not None
    assert not waiting.buffers
    assert isinstance(waiting.wait_for.otherwise, Moving)
    assert waiting.wait_for.otherwise.retry_after_s > 0
    np.testing.assert_array_equal(pull(host, [1]), [[0, 0]])
    freeze.on, freeze.turn = False, 3
    changes = host.changes
    call(host, "Freeze", freeze)
    assert host.changes > changes
    call(host, "Push", part([1], [[1, 1]]))
    np.testing.assert_array_equal(pull(host, [1]), [[-1, -1]])


def test_a_pass_waits_for_the_moment_in_which_pushes_wait_but_not_over_grpc() -> None:
    host, now = serving(), [5.0]
    host.process.now = lambda: now[0]
    asked = pb.ReadPassRequest(header=header(), tables=[1], new_n=2, wait_s=0.25, ledger_bytes=1000)

    def question(carrier: str = "test") -> Call:
        return Call(SHARD + "ReadPass", asked.SerializeToString(), Caller(carrier))

    def reply(question: Call) -> pb.ReadPassReply:
        answer = host.handle(question)
        assert answer.wait_for is None
        return pb.ReadPassReply.FromString(joined(answer.buffers))

    first, second = question(), question()
    waits = host.handle(first).wait_for
    assert waits is not None
    assert (waits.limit_s, waits.again) == (0.25, True)
    assert not reply(question(GRPC)).held_s
    now[0] += 0.25
    said = reply(first)
    assert (said.held_s, said.last, said.HasField("ledger")) == (0.25, False, False)
    assert host.handle(second).wait_for is not None
    now[0] += 0.125
    call(host, "Freeze", pb.FreezeRequest(cluster_id="c", epoch=1, on=True, turn=2))
    said = reply(second)
    assert (said.held_s, said.last, said.HasField("ledger")) == (0.125, True, True)
    assert not reply(question()).held_s


def test_a_push_that_is_let_in_goes_on_while_others_wait_and_what_is_here_of_each_is_told() -> None:
    host = serving()
    call(host, "Push", part([1], [[1, 1]], parts=2))
    freeze = pb.FreezeRequest(cluster_id="c", epoch=1, on=True, turn=2, report=True)
    freeze.admitted.add(client_id=7, push=3)
    (latest,) = pb.FreezeReply.FromString(call(host, "Freeze", freeze)).latest
    half = pb.PushShare(epoch=1, shard=0, count=1, of=2)
    assert latest == pb.LatestPush(client_id=7, push=1, shares=[half])
    assert handled(host, "Push", part([1], [[1, 1]], seq=2)).wait_for is not None
    assert handled(host, "Push", part([1], [[1, 1]], seq=3)).wait_for is None
    np.testing.assert_array_equal(pull(host, [1]), [[-2, -2]])
    freeze = pb.FreezeRequest(cluster_id="c", epoch=1, turn=3, report=True)
    assert pb.FreezeReply.FromString(call(host, "Freeze", freeze)).latest == [
        pb.LatestPush(client_id=7, push=3)
    ]
    assert handled(host, "Push", part([1], [[1, 1]], seq=4)).wait_for is None


def test_a_push_that_is_for_another_shard_does_not_wait_for_rows_to_move() -> None:
    host = serving()
    call(host, "Freeze", pb.FreezeRequest(cluster_id="c", epoch=1, on=True, turn=2))
    for wrong in (header(epoch=2), header(shard=1)):
        with pytest.raises(WrongLayout):
            handled(host, "Push", part([1], [[1, 1]], head=wrong))


def test_every_state_has_its_word_and_every_change_of_it_is_counted() -> None:
    host, seen = Host(), []

    def after(*_: object) -> None:
        seen.append((host.state.word, host.changes))

    def freeze(on: bool, turn: int) -> None:
        call(host, "Freeze", pb.FreezeRequest(cluster_id="c", epoch=1, on=on, turn=turn))

    after()
    with pytest.raises(StateLost):
        adopt(host, layout_of(1))
    after()
    after(adopt(host, layout_of(1), fresh=True))
    after(freeze(True, 2))
    after(freeze(False, 3))
    after(adopt(host, layout_of(2, 2), retire=True, turn=4))
    assert seen == [
        ("waiting", 0),
        ("lost", 1),
        ("serving", 2),
        ("moving", 3),
        ("serving", 4),
        ("retired", 5),
    ]
    assert host.shard is None


def test_a_shutdown_asks_the_process_to_stop_and_changes_nothing() -> None:
    asked, host = [], serving()
    host.process.stop = lambda: asked.append(True)
    call(host, "Shutdown", pb.ShutdownRequest(cluster_id="c"))
    assert asked == [True]
    np.testing.assert_array_equal(pull(host, [1]), [[0, 0]])


def test_late_control_steps_change_nothing() -> None:
    """A duplicated Adopt once unfroze a shard in the middle of a move; found by the simulator."""
    host = serving()
    call(host, "Freeze", pb.FreezeRequest(cluster_id="c", epoch=1, on=True, turn=5))
    with pytest.raises(InvalidRequest, match="step 1 of the coordinator comes too late"):
        adopt(host, layout_of(1), turn=1)
    with pytest.raises(InvalidRequest, match="too late"):
        call(host, "Freeze", pb.FreezeRequest(cluster_id="c", epoch=1, on=False, turn=4))
    assert host.state.word == "moving"


def test_a_new_server_that_still_receives_sends_clients_back_for_the_layout() -> None:
    """It once said StateLost, to clients that were quicker than the coordinator; found by the simulator."""
    host = Host()
    request = pb.PrepareRequest(
        source=layout_of(1).to_message(), layout=layout_of(2, 2).to_message(), index=1, turn=1
    )
    call(host, "Prepare", request)
    assert len(host.tasks) == 1
    with pytest.raises(WrongLayout, match="still receiving"):
        pull(host, [1], header(epoch=2, shard=1))


def test_a_server_that_did_not_receive_everything_cannot_be_adopted() -> None:
    host = Host()
    request = pb.PrepareRequest(
        source=layout_of(1).to_message(), layout=layout_of(2, 2).to_message(), index=1, turn=1
    )
    call(host, "Prepare", request)
    with pytest.raises(StateLost, match="only in part"):
        adopt(host, layout_of(2, 2), turn=2)


def test_a_retired_server_names_the_new_epoch() -> None:
    host = serving()
    adopt(host, layout_of(2, 2), retire=True, turn=2)
    with pytest.raises(WrongLayout) as caught:
        pull(host, [1])
    assert caught.value.epoch == 2
    data = joined(host.handle(Call(DESCRIBE_LAYOUT, b"", CALLER)).buffers)
    assert pb.DescribeLayoutReply.FromString(data).layout.epoch == 2


def test_a_ledger_is_read_only_while_pushes_wait() -> None:
    with pytest.raises(RetryLater, match="freeze first"):
        call(serving(), "ReadLedger", pb.ReadLedgerRequest(header=header()))


def test_the_ledger_of_a_shard_with_half_a_push_is_not_handed_over(monkeypatch) -> None:
    """The next layout would take the push again, and some rows would have it twice."""
    host = serving()
    assert host.shard is not None

    def broken(*_: object) -> None:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(host.shard.tables[1]._rule, "apply", broken)
        with pytest.raises(PushUnresolved):
            call(host, "Push", part([1], [[1, 1]]))
    call(host, "Freeze", pb.FreezeRequest(cluster_id="c", epoch=1, on=True, turn=2))
    with pytest.raises(StateLost, match="half-way"):
        call(host, "ReadLedger", pb.ReadLedgerRequest(header=header()))


def test_a_pull_of_more_than_the_limit_is_refused_before_memory_is_taken() -> None:
    host = serving()
    ids = np.zeros(40_000_000, np.int64)
    with pytest.raises(Overloaded, match="send smaller chunks"):
        call(host, "Pull", Pull(header(), [(1, ids)]))


@pytest.mark.parametrize(
    "method", ["Pull", "Push", "Step", "Adopt", "Prepare", "Freeze", "ReadRows", "HottestIds", "CreateTable"]
)
def test_garbage_is_an_error_and_changes_nothing(method: str) -> None:
    rng = np.random.default_rng(0)
    host = serving()
    call(host, "Push", part([5], [[1, 2]], seq=9))
    for size in (1, 3, 17, 100, 1000):
        for _ in range(50):
            data = rng.integers(0, 256, size, np.uint8).tobytes()
            with pytest.raises(RowloomError):
                host.handle(Call(SHARD + method, data, CALLER))
    np.testing.assert_array_equal(pull(host, [5, 6]), [[-1, -2], [0, 0]])
    assert host.state.word == "serving"


def test_the_hottest_ids_of_a_table_are_for_who_may_pull_from_it_or_administer_it() -> None:
    host = serving()
    for _ in range(3):
        pull(host, np.full(20_000, 42))

    def asked(request: pb.HottestIdsRequest, *allow: str) -> pb.HottestIdsReply:
        caller = Caller("test", "ann", Principal("ann", tuple(map(Grant.parse, allow))))
        answer = host.handle(Call(HOTTEST_IDS, request.SerializeToString(), caller))
        return pb.HottestIdsReply.FromString(joined(answer.buffers))

    request = pb.HottestIdsRequest(header=header(), table=1, limit=10)
    for right in ("pull:t", "admin:t", "*:*"):
        assert asked(request, right).ids == np.array([42], "<i8").tobytes()
    for right in ("pull:u", "admin:u", "push:t", "create:*"):
        with pytest.raises(PermissionDenied, match="may not pull from table 't'"):
            asked(request, right)
    with pytest.raises(TableNotFound):
        asked(pb.HottestIdsRequest(header=header(), table=9), "pull:t")
    with pytest.raises(WrongLayout):
        asked(pb.HottestIdsRequest(header=header(epoch=2), table=1), "pull:t")


def test_assign_overwrites_and_the_last_of_duplicates_counts() -> None:
    host = serving()
    call(host, "Push", part([4, 4, 5], [[1, 1], [2, 2], [3, 3]], kind=ASSIGN))
    np.testing.assert_array_equal(pull(host, [5, 4]), [[3, 3], [2, 2]])


@pytest.mark.parametrize("method", ["Adopt", "Prepare", "Prepare from nothing"])
def test_a_layout_without_shards_once_was_an_internal_error(method: str) -> None:
    """ZeroDivisionError, from the search for a shard's ids."""
    host = serving()
    none, two = layout_of(0, 2).to_message(), layout_of(2, 2).to_message()
    tables = [ENTRY.to_message()]
    request = {
        "Adopt": pb.AdoptRequest(layout=none, fresh=True, tables=tables, turn=2),
        "Prepare": pb.PrepareRequest(source=layout_of(1).to_message(), layout=none, tables=tables, turn=2),
        "Prepare from nothing": pb.PrepareRequest(source=none, layout=two, tables=tables, turn=2),
    }[method]
    with pytest.raises(InvalidRequest, match="comes with 0 shards, so none has index 0"):
        call(host, method.split()[0], request)
    assert (host.turn, host.incoming) == (1, None)


def test_a_layout_that_lacks_the_shard_which_a_server_is_to_be_is_refused() -> None:
    request = pb.AdoptRequest(layout=layout_of(2).to_message(), index=2, fresh=True, turn=1)
    with pytest.raises(InvalidRequest, match="comes with 2 shards, so none has index 2"):
        call(Host(), "Adopt", request)


def test_the_same_epoch_with_another_number_of_shards_is_refused() -> None:
    """It would have been adopted, with the ids of the old number."""
    host = serving(2)
    with pytest.raises(InvalidRequest, match="has 2 shards, the request says 3"):
        adopt(host, layout_of(3), turn=2)
    with pytest.raises(InvalidRequest, match="another shard than 0 of 2"):
        pull(host, [1])


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"cursor": 3}, "cursor 3 is beyond the 2 rows of table 't'"),
        ({"cursor": 2**64 - 1}, "cursor 18446744073709551615 is beyond"),
        ({"new_n": 2, "new_index": 2}, "new_index must be below new_n=2, got 2"),
    ],
)
def test_rows_asked_for_behind_the_end_once_were_an_internal_error(more: dict, message: str) -> None:
    host = serving()
    call(host, "Push", part([5, 6], [[1, 1], [1, 1]]))
    assert pb.ReadRowsReply.FromString(
        call(host, "ReadRows", pb.ReadRowsRequest(header=header(), table=1))
    ).ids
    with pytest.raises(InvalidRequest, match=message):
        call(host, "ReadRows", pb.ReadRowsRequest(header=header(), table=1, **more))


@pytest.mark.parametrize("lr", [float("nan"), float("inf"), -1.0, 1e300])
def test_a_shard_refuses_a_learning_rate_that_is_none(lr: float) -> None:
    """A shard took them, and the next push of anybody made NaN of its rows."""
    host = serving()
    with pytest.raises(InvalidRequest, match="lr must be finite"):
        call(host, "SetLearningRate", pb.SetLearningRateRequest(header=header(), table=1, lr=lr, version=1))
    call(host, "Push", part([5], [[1, 1]]))
    np.testing.assert_array_equal(pull(host, [5]), [[-1, -1]])


def test_a_momentum_that_float32_takes_for_none_once_was_an_internal_error() -> None:
    spec = TableSpec("m", 10, dim=2, optimizer=SGD(lr=1.0, momentum=1e-300))
    call(
        serving(),
        "CreateTable",
        pb.CreateTableRequest(header=header(), table=TableEntry(3, spec).to_message()),
    )


# ------------------------------------------------------------------------------------------- clients of principals

ANN, BOB = (Caller("test", name, Principal(name, (Grant("push", table),))) for name, table in ("at", "bu"))


def push_as(host: Host, who: Caller, client: int, seq: int, table: int | None) -> None:
    width = 0 if table is None else {1: 2, 2: 3}[table]
    tables = [] if table is None else [(table, np.array([5]), Block(np.ones((1, width), np.float32)))]
    request = Push(header(), client, (PartName(1, 0, seq),), push=seq, tables=tables)
    host.handle(Call(SHARD + "Push", joined(request.encode()), who))


def test_a_push_that_names_no_table_once_took_no_right_and_was_remembered() -> None:
    host = serving()
    for who in (CALLER, ANN):
        with pytest.raises(InvalidRequest, match="must name at least one table"):
            push_as(host, who, 7, 1, None)
    assert not len(host.serving().ledger)
    with pytest.raises(InvalidRequest, match="must name at least one table"):
        call(host, "Step", Step(part([], [], tables=[]), Pull(header(), [(1, np.array([5]))])))
    push_as(host, ANN, 7, 1, 1)
    assert len(host.serving().ledger) == 1


def test_who_may_push_to_one_table_once_made_a_shard_forget_the_clients_of_everybody_else(
    monkeypatch,
) -> None:
    host = serving()
    host.process.now = lambda: now[0]
    now = [0.0]
    ledger = host.serving().ledger
    monkeypatch.setattr(newcomers, "FIRST", 10)
    ledger.max_clients = 40
    push_as(host, BOB, 1, 1, 2)
    refused = 0
    for client in range(100, 200):
        try:
            push_as(host, ANN, client, 1, 1)
        except Overloaded:
            refused += 1
    assert (refused, len(ledger)) == (90, 11)
    push_as(host, ANN, 109, 2, 1)  # who is known goes on
    push_as(host, BOB, 1, 2, 2)
    push_as(host, CALLER, 3, 1, 2)  # nobody asks who this is
    now[0] += 60 / newcomers.PER_MINUTE
    push_as(host, ANN, 199, 1, 1)
    assert pull_of(host, 2, 3).tolist() == [[-3, -3, -3]]


def pull_of(host: Host, table: int, width: int) -> np.ndarray:
    data = call(host, "Pull", Pull(header(), [(table, np.array([5]))]))
    return PullReply.decode(data).blocks[0].data.reshape(-1, width)
