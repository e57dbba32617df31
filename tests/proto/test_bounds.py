"""What one message for rows may be made of: small ones of very many parts cost a shard's time, not its memory."""

import numpy as np
import pytest

from rowloom.proto import codec, codec_bags, framing
from rowloom.proto import rowloom_pb2 as pb
from rowloom.proto.errors import InvalidRequest
from rowloom.proto.framing import MOST_FIELDS, MOST_TABLE_FIELDS, MOST_TABLES, framed, joined
from rowloom.server.durable.counting import pushed
from rowloom.server.durable.records import Kind

HEADER = pb.Header(cluster_id="c", epoch=1, protocol=1)
NAME = codec.PartName(1, 0, 1)


def a_push(tables: int, names: int = 1) -> bytes:
    block = codec.Block(np.ones((1, 1), np.float32))
    all_tables = [(k + 1, np.array([1]), block) for k in range(tables)]
    return joined(codec.Push(HEADER, 1, (NAME,) * names, 1, all_tables).encode())


def a_pull(tables: int, wire: int = codec.FLOAT32) -> bytes:
    return joined(codec.Pull(HEADER, [(k + 1, np.array([1])) for k in range(tables)], wire).encode())


def a_step(tables: int) -> bytes:
    return joined([*framed(1, [a_push(tables)]), *framed(2, [a_pull(tables)])])


def bags(tables: int) -> bytes:
    one = np.array([1]), np.array([0], np.int32)
    entries = [codec_bags.Entries(k + 1, *one) for k in range(tables)]
    return joined(codec_bags.PullBags(HEADER, entries).encode())


@pytest.mark.parametrize(
    ("decode", "make", "count"),
    [
        (codec.Pull.decode, a_pull, lambda m: len(m.tables)),
        (codec.Pull.decode, lambda n: a_pull(n, codec.BFLOAT16), lambda m: len(m.tables)),
        (codec.Push.decode, a_push, lambda m: len(m.tables)),
        (codec.Push.decode, lambda n: a_push(n, names=2), lambda m: len(m.tables)),
        (codec.Step.decode, a_step, lambda m: len(m.pull.tables)),
        (codec_bags.PullBags.decode, bags, lambda m: len(m.tables)),
    ],
    ids=["pull", "pull as bfloat16", "push", "push of two names", "step", "bags"],
)
def test_a_request_names_as_many_tables_as_a_shard_takes_at_once_and_no_more(decode, make, count) -> None:
    assert count(decode(make(MOST_TABLES))) == MOST_TABLES
    with pytest.raises(InvalidRequest, match=f"more than {MOST_TABLES} tables, the most that it may"):
        decode(make(MOST_TABLES + 1))


@pytest.mark.parametrize(
    ("cls", "begin", "unit"),
    [
        (codec.Pull, a_pull(1), b"\x12\x00"),
        (codec.Pull, a_pull(1), b"\x78\x00"),
        (codec.Push, a_push(1), b"\x4a\x00"),
        (codec.Push, b"", b"\x78\x00"),
        (codec.Step, b"", b"\x0a\x00"),
        (codec_bags.PullBags, b"", b"\x12\x00"),
    ],
)
def test_a_message_of_a_million_fields_is_refused_after_the_first_thousands(cls, begin, unit) -> None:
    message, seen = begin + unit * (1 << 20), []
    with pytest.MonkeyPatch.context() as patch:
        read = framing.read_varint
        patch.setattr(framing, "read_varint", lambda *at: seen.append(0) or read(*at))
        with pytest.raises(
            InvalidRequest, match=f"of {len(message)} bytes has more than {MOST_FIELDS} fields"
        ):
            cls.decode(message)
    assert len(seen) < 3 * MOST_FIELDS


@pytest.mark.parametrize(
    ("cls", "table"),
    [(codec.Pull, 2), (codec.Push, 9), (codec_bags.PullBags, 2)],
    ids=["pull", "push", "bags"],
)
def test_a_table_of_very_many_fields_is_refused(cls, table: int) -> None:
    cls.decode(joined(framed(table, [b"\x78\x00" * MOST_TABLE_FIELDS])))
    with pytest.raises(InvalidRequest, match=f"more than {MOST_TABLE_FIELDS} fields"):
        cls.decode(joined(framed(table, [b"\x78\x00" * (MOST_TABLE_FIELDS + 1)])))


def test_a_push_of_very_many_names_is_refused() -> None:
    assert len(codec.Push.decode(a_push(1, codec.MOST_NAMES)).names) == codec.MOST_NAMES
    with pytest.raises(InvalidRequest, match=f"has {codec.MOST_NAMES + 1} names, at most {codec.MOST_NAMES}"):
        codec.Push.decode(a_push(1, codec.MOST_NAMES + 1))


def test_a_long_header_is_refused_and_not_kept() -> None:
    codec._header.cache_clear()
    junk = joined(framed(15, [bytes(1 << 20)]))
    header = joined(framed(1, [HEADER.SerializeToString() + junk]))
    short = len(joined(framed(1, [HEADER.SerializeToString()])))
    tables, change = a_pull(1)[short:], a_push(1)[short:]
    for cls, message in (
        (codec.Pull, header + tables),
        (codec.Pull, header + tables + b"\x18\x01"),
        (codec_bags.PullBags, header),
        (codec.Push, header + change),
        (codec.Push, header),
    ):
        with pytest.raises(InvalidRequest, match=r"has \d+ bytes, at most \d+ are read"):
            cls.decode(message)
    assert codec._header.cache_info().currsize == 0


def test_a_logged_push_of_more_tables_than_are_let_in_now_is_read_all_the_same() -> None:
    many = MOST_TABLES + 2000
    assert len(pushed(Kind.PUSH, memoryview(a_push(many))).tables) == many
    assert len(pushed(Kind.PUSH, memoryview(a_push(many, names=2))).tables) == many
    assert len(pushed(Kind.STEP, memoryview(a_step(many))).tables) == many
