"""The hand-made framing against protobuf itself, and against bytes that nobody should have sent."""

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rowloom.proto import codec, codec_bags
from rowloom.proto import rowloom_pb2 as pb
from rowloom.proto.errors import InvalidRequest

LARGEST = 2**63 - 1
WIRES = sorted(codec.WIRE_NUMBER.values())
U32, U64 = st.integers(0, 2**32 - 1), st.integers(0, 2**64 - 1)
IDS = st.lists(st.integers(-(2**63), LARGEST), max_size=9).map(lambda ids: np.array(ids, np.int64))
WORD = st.text(max_size=8)
FLOAT = st.floats(width=32, allow_nan=False, allow_infinity=False)


@st.composite
def headers(draw):
    header = pb.Header()
    for field in pb.Header.DESCRIPTOR.fields:
        value = draw(WORD if field.cpp_type == field.CPPTYPE_STRING else U32)
        setattr(header, field.name, value)
    return header


@st.composite
def blocks(draw, n, wire):
    width = draw(st.integers(1, 4))
    values = draw(st.lists(FLOAT, min_size=n * width, max_size=n * width))
    rows = np.array(values, np.float32).reshape(n, width)
    return codec.to_wire(np.clip(rows, -6e4, 6e4), wire)  # 60_000 would make float64 of it in NumPy 1.26


@st.composite
def pulls(draw):
    tables = draw(st.lists(st.tuples(U32, IDS), max_size=3))
    return codec.Pull(draw(headers()), tables, draw(st.sampled_from(WIRES)))


@st.composite
def pull_replies(draw):
    wire = draw(st.sampled_from(WIRES))
    sizes = draw(st.lists(st.integers(0, 5), max_size=3))
    return codec.PullReply([draw(blocks(n, wire)) for n in sizes], wire)


@st.composite
def shares(draw, n):
    """Bags and factors of n entries."""
    bags = draw(st.lists(st.integers(-(2**31), 2**31 - 1), min_size=n, max_size=n))
    factors = draw(st.lists(FLOAT, min_size=n, max_size=n)) if draw(st.booleans()) else None
    return np.array(bags, np.int32), None if factors is None else np.array(factors, np.float32)


@st.composite
def pulls_of_bags(draw):
    all_ids = draw(st.lists(st.tuples(U32, IDS), max_size=3))
    tables = [codec_bags.Entries(table, ids, *draw(shares(len(ids)))) for table, ids in all_ids]
    return codec_bags.PullBags(draw(headers()), tables, draw(st.sampled_from(WIRES)))


@st.composite
def grads(draw, n, wire):
    """Gradients of n ids, or of some bags that these are in."""
    if draw(st.booleans()):
        return draw(blocks(n, wire))
    block = draw(blocks(draw(st.integers(0, 5)), wire))
    block.bags, block.factors = draw(shares(n))
    return block


@st.composite
def pushes(draw):
    wire = draw(st.sampled_from(WIRES))
    all_ids = draw(st.lists(st.tuples(U32, IDS), max_size=3))
    tables = [(table, ids, draw(grads(len(ids), wire))) for table, ids in all_ids]
    names = draw(st.lists(st.builds(codec.PartName, U64, U32, U64), max_size=3))
    return codec.Push(
        header=draw(headers()),
        client_id=draw(U64),
        names=tuple(names),
        push=draw(U64),
        tables=tables,
        client_epoch=draw(U64),
        low_water=draw(U64),
        kind=draw(st.sampled_from([codec.GRADIENTS, codec.ASSIGN, codec.RENORM])),
        wire=wire,
        oldest_epoch=draw(U64),
        max_norm=draw(FLOAT),
        norm_type=draw(FLOAT),
        parts=draw(U64),
    )


steps = st.builds(codec.Step, pushes(), pulls())
step_replies = st.builds(codec.StepReply, st.booleans(), pull_replies())
MESSAGES = [
    (codec.Pull, pulls(), pb.PullRequest),
    (codec.PullReply, pull_replies(), pb.PullReply),
    (codec_bags.PullBags, pulls_of_bags(), pb.PullBagsRequest),
    (codec.Push, pushes(), pb.PushRequest),
    (codec.Step, steps, pb.StepRequest),
    (codec.StepReply, step_replies, pb.StepReply),
]
each_message = pytest.mark.parametrize(
    ("cls", "strategy", "message"), MESSAGES, ids=lambda m: getattr(m, "__name__", "")
)


def raw(array) -> bytes:
    return b"" if array is None else np.ascontiguousarray(array).tobytes()


def pull_message(pull: codec.Pull) -> pb.PullRequest:
    tables = [pb.TableIds(table=table, ids=raw(ids)) for table, ids in pull.tables]
    return pb.PullRequest(header=pull.header, tables=tables, wire=pull.wire)  # type: ignore[arg-type]


def pull_reply_message(reply: codec.PullReply) -> pb.PullReply:
    tables = [pb.TableRows(rows=raw(b.data), scales=raw(b.scales)) for b in reply.blocks]
    return pb.PullReply(tables=tables, wire=reply.wire)  # type: ignore[arg-type]


def pull_bags_message(pull: codec_bags.PullBags) -> pb.PullBagsRequest:
    tables = [
        pb.TableBags(table=t.table, ids=raw(t.ids), bags=raw(t.bags), factors=raw(t.factors))
        for t in pull.tables
    ]
    return pb.PullBagsRequest(header=pull.header, tables=tables, wire=pull.wire)  # type: ignore[arg-type]


def grads_message(table: int, ids: np.ndarray, block: codec.Block) -> pb.TableGrads:
    arrays = {"ids": ids, "values": block.data, "scales": block.scales, "bags": block.bags}
    fields = {name: raw(array) for name, array in arrays.items()}
    return pb.TableGrads(table=table, factors=raw(block.factors), **fields)


def push_message(push: codec.Push) -> pb.PushRequest:
    grads = [grads_message(*table) for table in push.tables]
    plain = (
        "client_id",
        "push",
        "client_epoch",
        "low_water",
        "kind",
        "wire",
        "oldest_epoch",
        "max_norm",
        "norm_type",
        "parts",
    )
    names = [pb.PartName(epoch=p.epoch, shard=p.shard, seq=p.seq) for p in push.names]
    return pb.PushRequest(
        header=push.header, names=names, tables=grads, **{name: getattr(push, name) for name in plain}
    )


def as_message(value):
    """What protobuf would hold for a value of ours."""
    if isinstance(value, codec.Pull):
        return pull_message(value)
    if isinstance(value, codec.PullReply):
        return pull_reply_message(value)
    if isinstance(value, codec.Push):
        return push_message(value)
    if isinstance(value, codec_bags.PullBags):
        return pull_bags_message(value)
    if isinstance(value, codec.Step):
        return pb.StepRequest(push=push_message(value.push), pull=pull_message(value.pull))
    return pb.StepReply(push=pb.PushReply(duplicate=value.duplicate), pull=pull_reply_message(value.pull))


def encoded(value) -> bytes:
    return b"".join(bytes(b) if isinstance(b, np.ndarray) else b for b in value.encode())


@each_message
def test_protobuf_reads_what_we_write_and_we_read_what_protobuf_writes(cls, strategy, message):
    @settings(deadline=None, max_examples=150)
    @given(strategy)
    def check(value):
        expected = as_message(value)
        assert message.FromString(encoded(value)) == expected
        # Equal through protobuf's eyes: the arrays inside ours are compared by what they serialize to.
        back = cls.decode(expected.SerializeToString())
        assert as_message(back) == expected
        assert as_message(cls.decode(encoded(value))) == expected

    check()


def test_arrays_are_views_of_the_bytes_that_came_in():
    ids, rows = np.arange(1000), np.ones((1000, 4), np.float32)
    push = codec.Push(pb.Header(), 1, (codec.PartName(1, 0, 1),), 1, [(1, ids, codec.Block(rows))])
    data = encoded(push)
    _, seen_ids, block = codec.Push.decode(data).tables[0]
    whole = np.frombuffer(data, np.uint8)
    assert np.shares_memory(whole, seen_ids)
    assert np.shares_memory(whole, block.data)
    assert not seen_ids.flags.writeable


def test_encoding_takes_no_copy_of_the_rows():
    rows = np.ones((1000, 4), np.float32)
    buffers = codec.PullReply([codec.Block(rows)]).encode()
    assert any(isinstance(b, memoryview) and np.shares_memory(np.asarray(b), rows) for b in buffers)


def test_rows_in_another_memory_order_are_written_in_the_callers_order():
    rows = np.arange(12, dtype=np.float32).reshape(3, 4)
    ids = np.arange(20)[::7]
    push = codec.Push(pb.Header(), 1, (), 1, [(1, ids, codec.Block(np.asfortranarray(rows)))])
    message = pb.PushRequest.FromString(encoded(push))
    assert message.tables[0].values == rows.tobytes()
    assert np.frombuffer(message.tables[0].ids, np.int64).tolist() == [0, 7, 14]


def test_unknown_fields_of_a_newer_version_are_passed_over():
    pull = codec.Pull(pb.Header(epoch=3), [(1, np.array([5]))])
    newer = (
        encoded(pull)
        + bytes([15 << 3 | 2, 3])
        + b"abc"
        + bytes([14 << 3, 1])
        + bytes([13 << 3 | 5])
        + b"1234"
    )
    back = codec.Pull.decode(newer)
    assert back.header.epoch == 3
    assert back.tables[0][1].tolist() == [5]


# -------------------------------------------------------------------------------------------- malformed bytes


def sample(cls):
    ids, rows = np.array([1, 2, LARGEST]), np.arange(6, dtype=np.float32).reshape(3, 2)
    header = pb.Header(cluster_id="c" * 8, epoch=300, shard=1, protocol=1)
    reply = codec.PullReply([codec.to_wire(rows, codec.INT8), codec.to_wire(rows, codec.INT8)], codec.INT8)
    pull = codec.Pull(header, [(1, ids), (200, ids)], codec.FLOAT16)
    tables = [(1, ids, codec.to_wire(rows, codec.INT8)), (2, ids[:0], codec.to_wire(rows[:0], codec.INT8))]
    bags, factors = np.array([2, 0, 2], np.int32), np.array([0.5, 1, 2], np.float32)
    of_bags = codec.to_wire(rows, codec.INT8)
    of_bags.bags, of_bags.factors = bags, factors
    tables.append((3, ids, of_bags))
    entries = [codec_bags.Entries(1, ids, bags, factors), codec_bags.Entries(2, ids, bags)]
    pull_bags = codec_bags.PullBags(header, entries, codec.FLOAT16)
    push = codec.Push(header, 2**64 - 1, (codec.PartName(1, 2, 3),), 9, tables, wire=codec.INT8, max_norm=1.5)
    step, step_reply = codec.Step(push, pull), codec.StepReply(True, reply)
    return next(v for v in (pull, pull_bags, reply, push, step, step_reply) if type(v) is cls)


def as_tuple(table) -> tuple:
    """A table of a request. Bags and factors are checked on the way."""
    entries = table if isinstance(table, codec_bags.Entries) else table[-1]
    bags, factors = getattr(entries, "bags", None), getattr(entries, "factors", None)
    assert bags is None or bags.dtype == np.int32
    assert factors is None or factors.dtype == np.float32
    return (entries.table, entries.ids) if isinstance(table, codec_bags.Entries) else table


def check_decoded(value) -> None:
    """What decodes is usable: numbers are numbers, arrays are arrays of the dtype that was promised."""
    if isinstance(value, codec.Step):
        check_decoded(value.push)
        check_decoded(value.pull)
    elif isinstance(value, codec.StepReply):
        assert isinstance(value.duplicate, bool)
        check_decoded(value.pull)
    elif isinstance(value, codec.PullReply):
        for block in value.blocks:
            assert block.data.dtype == codec.WIRE_DTYPE[value.wire]
            assert (block.scales is not None) == (value.wire == codec.INT8)
    else:
        assert isinstance(value.wire, int)
        assert value.wire in codec.WIRE_DTYPE
        for table, ids, *_ in map(as_tuple, value.tables):
            assert isinstance(table, int)
            assert 0 <= table < 2**32
            assert ids.dtype == np.int64


def decode_or_refuse(cls, data: bytes) -> bool:
    """Whether it decoded; anything but a clean refusal fails the test."""
    try:
        value = cls.decode(data)
    except InvalidRequest:
        return False
    check_decoded(value)
    return True


CLASSES = [m[0] for m in MESSAGES]


@pytest.mark.parametrize("cls", CLASSES)
def test_a_message_cut_short_at_any_byte_is_refused_or_whole(cls):
    data = encoded(sample(cls))
    refused = [cut for cut in range(len(data)) if not decode_or_refuse(cls, data[:cut])]
    # Cuts between two fields of the top level leave a shorter message; all others must be refused.
    assert len(refused) >= len(data) - 14


@pytest.mark.parametrize("cls", CLASSES)
def test_every_flipped_bit_is_refused_or_read_as_something_usable(cls):
    data = encoded(sample(cls))
    for at in range(len(data)):
        for bit in range(8):
            flipped = bytearray(data)
            flipped[at] ^= 1 << bit
            decode_or_refuse(cls, bytes(flipped))


@pytest.mark.parametrize("cls", CLASSES)
def test_bytes_inserted_removed_or_repeated_anywhere_are_refused_or_usable(cls):
    data, rng = encoded(sample(cls)), random.Random(7)
    for _ in range(3000):
        a, b = sorted((rng.randrange(len(data) + 1), rng.randrange(len(data) + 1)))
        junk = rng.randbytes(rng.randrange(6))
        decode_or_refuse(
            cls, rng.choice([data[:a] + data[b:], data[:a] + junk + data[a:], data[:b] + data[a:]])
        )


@pytest.mark.parametrize("cls", CLASSES)
def test_garbage_is_refused_or_usable(cls):
    @settings(deadline=None, max_examples=300)
    @given(st.binary(max_size=60))
    def check(data):
        decode_or_refuse(cls, data)

    check()


@pytest.mark.parametrize("size", [4, 127, 2**31, 2**32 - 1, 2**63, 2**64 - 1])
def test_a_length_beyond_the_message_is_refused_without_allocating(size):
    length = bytearray()
    while size > 0x7F:
        length.append(size & 0x7F | 0x80)
        size >>= 7
    data = bytes([2 << 3 | 2]) + bytes(length) + bytes([size]) + b"abc"
    for cls in CLASSES:
        with pytest.raises(InvalidRequest, match="malformed message"):
            cls.decode(data)


def test_a_number_of_more_than_ten_bytes_is_refused():
    with pytest.raises(InvalidRequest, match="a number longer than 10 bytes"):
        codec.Pull.decode(b"\xff" * 12)


def field(number: int, kind: int, content: bytes) -> bytes:
    return bytes([number << 3 | kind]) + content


def nested(number: int, content: bytes) -> bytes:
    return field(number, 2, bytes([len(content)]) + content)


@pytest.mark.parametrize(
    ("cls", "data", "message"),
    [
        (codec.Pull, nested(2, nested(2, b"1234567")), "ids has 7 bytes, which is no multiple of 8"),
        (codec.Pull, nested(2, field(2, 0, b"\x05")), "ids must be bytes"),
        (codec.Pull, nested(2, nested(1, b"abc")), "table must be a number"),
        (codec.Pull, nested(2, field(1, 0, b"\x80\x80\x80\x80\x10")), "table must be a number below 2"),
        (codec.Pull, field(2, 0, b"\x05"), "a number where a message should be"),
        (codec.Pull, field(1, 0, b"\xff\xff\xff\xff\xff\x7f"), "a number where a message should be"),
        (codec.Pull, nested(1, b"\xff\xff"), "Header does not parse"),
        (codec.Pull, field(3, 0, b"\x09"), "unknown wire type 9; known: float32, bfloat16, float16, int8"),
        (codec.Pull, nested(3, b"ab"), "unknown wire type"),
        (codec.Pull, field(4, 3, b""), "wire type 3"),
        (codec.Pull, b"\x00\x00", "malformed message"),
        (codec_bags.PullBags, nested(2, nested(3, b"123")), "bags has 3 bytes, which is no multiple of 4"),
        (codec_bags.PullBags, nested(2, nested(4, b"123")), "factors has 3 bytes"),
        (codec_bags.PullBags, field(2, 0, b"\x05"), "a number where a message should be"),
        (codec.Push, nested(9, nested(5, b"123")), "bags has 3 bytes, which is no multiple of 4"),
        (codec.Push, nested(9, field(6, 0, b"\x05")), "factors must be bytes"),
        (codec.PullReply, nested(1, nested(1, b"12345")), "rows has 5 bytes, which is no multiple of 4"),
        (codec.PullReply, nested(1, nested(1, b"1")) + field(2, 0, b"\x03"), "int8 needs scales"),
        (codec.Push, nested(9, nested(3, b"123")), "values has 3 bytes, which is no multiple of 4"),
        (codec.Push, field(8, 0, b"\x07"), "unknown wire type 7"),
        (codec.Step, nested(1, b""), "a StepRequest needs push and pull"),
        (codec.StepReply, field(1, 0, b"\x01"), "a number where a message should be"),
    ],
)
def test_each_kind_of_malformed_message_is_named(cls, data, message):
    with pytest.raises(InvalidRequest, match=message):
        cls.decode(data)


def test_a_block_of_the_wrong_size_is_refused_with_both_sizes():
    with pytest.raises(InvalidRequest, match="push: 3 ids of a table with 4 columns need 12 values, got 11"):
        codec.shaped(codec.Block(np.zeros(11, np.float32)), 3, 4, "push")
    with pytest.raises(InvalidRequest, match="push: 3 ids need 3 scales, got 2"):
        codec.shaped(codec.Block(np.zeros(12, np.int8), np.zeros(2, np.float32)), 3, 4, "push")
    assert codec.shaped(codec.Block(np.zeros(12, np.float32)), 3, 4, "push").data.shape == (3, 4)
