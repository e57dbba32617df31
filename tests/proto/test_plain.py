"""Compiled code that reads plain messages sees what the codec sees, and nothing in bytes that nobody should send."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rowloom.client import TableSpec
from rowloom.proto import codec
from rowloom.proto import rowloom_pb2 as pb
from rowloom.proto.errors import InvalidRequest
from rowloom.proto.layout import owner
from rowloom.proto.memory import get_varint, put_varint, varint_bytes
from rowloom.proto.owners import owner_of, owners_of
from rowloom.proto.plain import read_pull, read_push

HEADER = pb.Header(cluster_id="c", epoch=3, protocol=1, shard=2)
NAMES = (codec.PartName(3, 2, 9), codec.PartName(2, 1, 300))


def array(data: bytes) -> np.ndarray:
    return np.frombuffer(bytearray(data), np.uint8)


def joined(message) -> bytes:
    return b"".join(bytes(b) for b in message.encode())


def a_push(rng: np.random.Generator, tables: int = 1, wire: int = codec.FLOAT32) -> codec.Push:
    blocks = []
    for table in range(1, tables + 1):
        n = int(rng.integers(0, 6))
        rows = rng.normal(size=(n, 3)).astype(np.float32)
        blocks.append((table * 200, rng.integers(0, 2**62, n), codec.to_wire(rows, wire)))
    client_id = int(rng.integers(2**62))
    return codec.Push(HEADER, client_id, NAMES, 7, blocks, low_water=5, wire=wire, oldest_epoch=2)


def outcome(data: bytes) -> object:
    """What `Push.decode` makes of bytes."""
    try:
        push = codec.Push.decode(data)
    except InvalidRequest:
        return "refused"
    tables = [
        (table, ids.tobytes(), block.data.tobytes(), *map(repr, (block.scales, block.bags, block.factors)))
        for table, ids, block in push.tables
    ]
    return push.header.SerializeToString(), push.client_id, push.names, push.push, push.low_water, tables


@pytest.mark.parametrize("seed", range(40))
def test_a_push_reads_the_same_in_the_quick_way_and_in_the_usual_one(monkeypatch, seed: int) -> None:
    rng = np.random.default_rng(seed)
    wire = codec.FLOAT32 if rng.random() < 0.8 else codec.INT8
    data = bytearray(joined(a_push(rng, int(rng.choice([0, 1, 1, 1, 2])), wire)))
    mangled = [bytes(data)]
    for _ in range(60):
        copy = data.copy()
        for _ in range(int(rng.integers(1, 4))):
            at = int(rng.integers(len(copy) + 1))
            match rng.integers(4):
                case 0:
                    copy[at : at + 1] = bytes([int(rng.integers(256))])
                case 1:
                    del copy[at : at + int(rng.integers(1, 9))]
                case 2:
                    copy[at:at] = rng.bytes(int(rng.integers(1, 9)))
                case 3:
                    del copy[at:]
        mangled.append(bytes(copy))
    quick = [outcome(some) for some in mangled]
    monkeypatch.setattr(codec, "read_push", lambda _: (-1, 0, 0, 0, 0))
    assert quick == [outcome(some) for some in mangled]


def test_only_a_push_of_one_table_is_plain() -> None:
    rng = np.random.default_rng(0)
    for tables in range(4):
        table, *_ = read_push(array(joined(a_push(rng, tables))))
        assert table == (200 if tables == 1 else -1)


@given(st.integers(1, 2**32 - 1), st.lists(st.integers(0, 2**63 - 1), max_size=40), st.integers(0, 3))
def test_a_pull_is_plain_if_it_has_one_table_this_header_and_no_wire_type(table, ids, wire) -> None:
    ids = np.array(ids, np.int64)
    data = array(joined(codec.Pull(HEADER, [(table, ids)], wire)))
    known = array(HEADER.SerializeToString())
    found, at, count = read_pull(data, known)
    if wire == codec.FLOAT32:
        assert (found, count) == (table, len(ids))
        assert data[at : at + 8 * count].tobytes() == ids.tobytes()
    else:
        assert found == -1
    for other in (
        pb.Header(cluster_id="d", epoch=3, protocol=1, shard=2),
        pb.Header(cluster_id="c", epoch=4, protocol=1, shard=2),
        pb.Header(cluster_id="c", epoch=3, protocol=1, shard=1),
        pb.Header(cluster_id="c", epoch=3, protocol=1),
    ):
        assert read_pull(data, array(other.SerializeToString()))[0] == -1
    for end in range(len(data)) if wire == codec.FLOAT32 else ():
        assert read_pull(data[:end].copy(), known)[0] == -1


def test_a_pull_of_two_tables_or_of_part_of_an_id_is_not_plain() -> None:
    ids, known = np.arange(3), array(HEADER.SerializeToString())
    assert read_pull(array(joined(codec.Pull(HEADER, [(1, ids), (2, ids)]))), known)[0] == -1
    message = pb.PullRequest(header=HEADER, tables=[pb.TableIds(table=1, ids=b"1234567")])
    assert read_pull(array(message.SerializeToString()), known)[0] == -1


@given(st.integers(0, 2**35 - 1))
def test_numbers_are_written_and_read_as_protobuf_does(value: int) -> None:
    space = np.zeros(12, np.uint8)
    end = put_varint(space, 1, value)
    assert end - 1 == varint_bytes(value)
    assert pb.PartName.FromString(b"\x18" + space[1:end].tobytes()).seq == value
    assert get_varint(space, 1, 12) == (value, end)
    assert get_varint(space, 1, end - 1)[0] == -1


@given(
    st.sampled_from(["mod", "hash", "div"]),
    st.integers(1, 70),
    st.one_of(st.integers(1, 200), st.integers(1, 2**63 - 1)),
    st.data(),
)
def test_compiled_code_finds_the_same_owners(kind: str, n: int, v: int, data) -> None:
    ids = np.array([*data.draw(st.lists(st.integers(0, v - 1), max_size=20)), 0, v - 1], np.int64)
    spec = TableSpec("t", v, dim=1, partition="div" if kind == "div" else "mod", hash_ids=kind == "hash")
    owners = owners_of(spec, n)
    assert [owner_of(x, owners) for x in ids] == owner(spec, ids, n).tolist()


def test_compiled_code_finds_the_owners_of_open_ended_ids() -> None:
    ids = np.array([0, 1, 2**32 - 1, 2**32, 2**63 - 1])
    for hashed in (False, True):
        spec = TableSpec("t", dim=1, hash_ids=hashed)
        owners = owners_of(spec, 7)
        assert [owner_of(x, owners) for x in ids] == owner(spec, ids, 7).tolist()
