"""Bags on one shard: sums, expansion, and what is refused before anything changes."""

import numpy as np
import pytest

from rowloom.client import SGD, InvalidRequest, TableNotFound, TableSpec, Zeros
from rowloom.proto import codec
from rowloom.proto import rowloom_pb2 as pb
from rowloom.proto.codec import ASSIGN, RENORM, Block, PartName, Pull, PullReply, Push
from rowloom.proto.codec_bags import Entries, PullBags
from rowloom.proto.errors import Overloaded, WrongLayout
from rowloom.proto.framing import joined
from rowloom.proto.layout import Layout, ShardAddress
from rowloom.proto.spec import TableEntry
from rowloom.server.bags import expanded
from rowloom.server.call import Call, Caller
from rowloom.server.host import Host

SHARD = "/rowloom.v1.Shard/"
CALLER = Caller("test")
ENTRY = TableEntry(1, TableSpec("t", 100, dim=2, optimizer=SGD(lr=1.0), initializer=Zeros()))


def serving(n: int = 1) -> Host:
    host = Host()
    layout = Layout("c", 1, tuple(ShardAddress(i, f"h{i}:1", 1) for i in range(n)))
    adopt = pb.AdoptRequest(layout=layout.to_message(), fresh=True, tables=[ENTRY.to_message()], turn=1)
    host.handle(Call(SHARD + "Adopt", adopt.SerializeToString(), CALLER))
    return host


def header(epoch: int = 1) -> pb.Header:
    return pb.Header(cluster_id="c", epoch=epoch, protocol=1, shard=0)


def call(host: Host, method: str, request) -> bytes:
    return joined(host.handle(Call(SHARD + method, joined(request.encode()), CALLER)).buffers)


def pull(host: Host, ids) -> list:
    data = call(host, "Pull", Pull(header(), [(1, np.array(ids, np.int64))]))
    return PullReply.decode(data).blocks[0].data.reshape(-1, 2).tolist()


def pull_bags(ids, bags, factors=None, *, table: int = 1, epoch: int = 1) -> PullBags:
    factors = None if factors is None else np.array(factors, np.float32)
    entries = Entries(table, np.array(ids, np.int64), np.array(bags, np.int32), factors)
    return PullBags(header(epoch), [entries])


def sums(host: Host, *arguments) -> list:
    reply = pb.PullBagsReply.FromString(call(host, "PullBags", pull_bags(*arguments)))
    return np.frombuffer(reply.tables[0].rows, "<f4").reshape(-1, 2).tolist()


def part(ids, bags, grads, factors=None, *, seq: int = 1, **more) -> Push:
    factors = None if factors is None else np.array(factors, np.float32)
    block = Block(np.array(grads, np.float32), bags=np.array(bags, np.int32), factors=factors)
    return Push(header(), 7, (PartName(1, 0, seq),), seq, [(1, np.array(ids, np.int64), block)], **more)


def test_a_pull_adds_up_what_entries_in_any_order_give_their_bags() -> None:
    host = serving()
    call(host, "Push", part([1, 2, 3], [0, 1, 2], [[-1, 0], [-10, 1], [-100, 2]]))
    assert sums(host, [1, 2, 3, 1], [1, 0, 1, 1]) == [[10, -1], [102, -2]]
    assert sums(host, [3, 2], [0, 0], [0.5, -1]) == [[40, 0]]
    assert sums(host, [2, 1], [1, 1]) == [[0, 0], [11, -1]]  # a number that no entry has is zeros
    assert sums(host, [], []) == []


def test_a_gradient_by_bag_is_applied_once_and_a_repeated_part_not_again() -> None:
    host = serving()
    request = part([5, 5, 6], [1, 0, 1], [[1, 2], [3, 4]], [2, 1, 0.5])
    for duplicate in (False, True):
        assert pb.PushReply.FromString(call(host, "Push", request)).duplicate is duplicate
    assert pull(host, [5, 6]) == [[-7, -10], [-1.5, -2]]
    # An id that comes again later in the request is a duplicate, as in any push.
    call(host, "Push", part([7, 8, 7], [0, 0, 0], [[1, 1]], seq=2))
    assert pull(host, [7, 8]) == [[-2, -2], [-1, -1]]


@pytest.mark.parametrize("wire", sorted(codec.WIRE_NUMBER.values()))
def test_gradients_by_bag_may_travel_in_any_wire_type(wire: int) -> None:
    host = serving()
    block = codec.to_wire(np.array([[1, 0.5], [127, 127]], np.float32), wire)
    block.bags = np.array([1, 1, 0], np.int32)
    push = Push(header(), 7, (PartName(1, 0, 1),), 1, [(1, np.array([4, 4, 9]), block)], wire=wire)
    call(host, "Push", push)
    np.testing.assert_allclose(pull(host, [4, 9]), [[-254, -254], [-1, -0.5]], atol=0.01)


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (part([5, 6], [0, 1], [[1, 1]]), r"bag 1 \(number 1 of the request\) is not in \[0, 1\)"),
        (part([5, 6], [-1, 0], [[1, 1]]), "bag -1"),
        (part([5, 6], [0, 0], []), r"bag 0 .* is not in \[0, 0\)"),
        (part([5, 6], [0], [[1, 1]]), "2 ids need 2 bags, got 1"),
        (part([5, 6], [], [[1, 1]]), "2 ids need 2 bags, got 0"),
        (part([5, 6], [0, 0], [[1, 1]], [1]), "2 ids need 2 factors, got 1"),
        (part([5], [0], [[1, 1, 1]]), "a multiple of 2 values, got 3"),
        (part([5, 6], [0, 1], [[1, 1], [1, np.nan]]), "id 6 has nan in column 1"),
        (part([5, 6], [0, 0], [[1, 1]], [1, np.inf]), "id 6 has inf in column 0"),
        (part([5, 5], [0, 0], [[3e38, 1]]), "id 5 has inf in column 0"),
        (part([5, 100], [0, 0], [[1, 1]]), "id 100"),
        (part([5], [0], [[1, 1]], kind=ASSIGN), "only gradients come by bag, got a push of kind 1"),
        (part([5], [0], [[1, 1]], kind=RENORM, max_norm=1, norm_type=2), "only gradients come by bag"),
    ],
)
def test_a_bad_push_changes_nothing(request_: Push, message: str) -> None:
    host = serving()
    call(host, "Push", part([5, 6], [0, 1], [[1, 2], [3, 4]], seq=9))
    with pytest.raises(InvalidRequest, match=message):
        call(host, "Push", request_)
    assert pull(host, [5, 6, 7]) == [[-1, -2], [-3, -4], [0, 0]]
    assert host.shard is not None
    assert len(host.shard.tables[1]) == 2


@pytest.mark.parametrize(
    ("request_", "error", "message"),
    [
        (pull_bags([5, 6], [0, 2]), InvalidRequest, r"bag 2 \(number 1 of the request\) is not in \[0, 2\)"),
        (pull_bags([5, 6], [-1, 0]), InvalidRequest, "bag -1"),
        (pull_bags([5, 6], [0]), InvalidRequest, "2 ids need 2 bags, got 1"),
        (pull_bags([5, 6], [0, 0], [1, 2, 3]), InvalidRequest, "2 ids need 2 factors, got 3"),
        (pull_bags([100], [0]), InvalidRequest, "id 100"),
        (pull_bags([1], [0], table=2), TableNotFound, "number 2"),
        (pull_bags([1], [0], epoch=3), WrongLayout, "epoch 1"),
    ],
)
def test_a_bad_pull_is_named(request_: PullBags, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        call(serving(), "PullBags", request_)


def test_sums_of_more_than_the_limit_are_refused_before_memory_is_taken() -> None:
    n = 40_000_000
    ids, bags = np.zeros(n, np.int64), np.zeros(n, np.int32)
    bags[0] = n - 1
    host = serving()
    assert host.shard is not None
    with pytest.raises(Overloaded, match="send smaller chunks"):
        host.shard.pull_bags(PullBags(header(), [Entries(1, ids, bags)]))


def test_garbage_is_an_error() -> None:
    rng, host = np.random.default_rng(0), serving()
    for size in (1, 3, 17, 100, 1000):
        for _ in range(50):
            with pytest.raises(InvalidRequest):
                host.handle(Call(SHARD + "PullBags", rng.bytes(size), CALLER))


def test_expansion_has_the_bits_of_numpy_one_entry_after_the_other() -> None:
    rng = np.random.default_rng(1)
    for _ in range(30):
        n, count = rng.integers(0, 40), rng.integers(1, 9)
        ids = np.sort(rng.integers(0, 10, n))
        bags, factors = rng.integers(0, count, n).astype(np.int32), rng.normal(size=n).astype(np.float32)
        grads = rng.normal(size=(count, 3)).astype(np.float32)
        expected: dict[int, np.ndarray] = {}
        for i, bag, factor in zip(ids.tolist(), bags, factors, strict=True):
            product = factor * grads[bag]
            expected[i] = expected[i] + product if i in expected else product
        seen, got = expanded(ids, Block(grads.reshape(-1), bags=bags, factors=factors), codec.FLOAT32, 3, "t")
        assert seen.tolist() == list(expected)
        np.testing.assert_array_equal(got, np.reshape([*expected.values()], (-1, 3)).astype(np.float32))


WIDE = TableEntry(2, TableSpec("wide", None, dim=4096, optimizer=SGD(lr=1.0), initializer=Zeros()))


@pytest.mark.parametrize("kind", ["pull", "push", "renorm"])
def test_a_request_of_few_bytes_once_held_a_shard_for_seconds(kind: str) -> None:
    """An entry is 16 bytes of a message and a whole row of work: 5.2 s, while everybody else waited."""
    host = serving()
    assert host.shard is not None
    host.shard.create_table(WIDE)
    ids = np.zeros(20_000, np.int64)
    bags = np.zeros(len(ids), np.int32)
    values = Block(np.ones(4096, np.float32), bags=bags)
    request, method = {
        "pull": (PullBags(header(), [Entries(2, ids, bags)]), "PullBags"),
        "push": (Push(header(), 7, (PartName(1, 0, 1),), 1, [(2, ids, values)]), "Push"),
        "renorm": (
            Push(
                header(),
                7,
                (PartName(1, 0, 1),),
                1,
                [(2, ids, Block(np.empty(0, np.float32)))],
                kind=RENORM,
                max_norm=1.0,
                norm_type=2.0,
            ),
            "Push",
        ),
    }[kind]
    with pytest.raises(Overloaded, match="chunks, of at most 16384 entries of table 'wide', got 20000"):
        call(host, method, request)
    assert host.shard.rows == 0
