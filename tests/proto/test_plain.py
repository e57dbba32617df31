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
from rowloom.proto.plain import read_pull, read_push, read_push_head

HEADER = pb.Header(cluster_id="c", epoch=3, protocol=1, shard=2)
NAMES = (codec.PartName(3, 2, 9), codec.PartName(2, 1, 300))
NUMBERS = [
    "client_id",
    "client_epoch",
    "push",
    "low_water",
    "kind",
    "wire",
    "oldest_epoch",
    "max_norm",
    "norm_type",
]
NUMBERS += ["parts"]


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
    names = NAMES if rng.random() < 0.3 else NAMES[: int(rng.integers(2))]
    rest = {"low_water": int(rng.integers(3)) * 2**33, "oldest_epoch": 2, "kind": int(rng.integers(3))}
    if rng.random() < 0.2:
        rest["max_norm"] = 1.5
    return codec.Push(HEADER, client_id, names, 7, blocks, wire=wire, parts=300, **rest)


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
    numbers = [getattr(push, name) for name in NUMBERS]
    return push.header.SerializeToString(), push.names, numbers, tables


def pull_outcome(data: bytes) -> object:
    """What `Pull.decode` makes of bytes."""
    try:
        pull = codec.Pull.decode(data)
    except InvalidRequest:
        return "refused"
    return pull.header.SerializeToString(), pull.wire, [(t, ids.tobytes()) for t, ids in pull.tables]


def mangled(rng: np.random.Generator, data: bytes) -> list[bytes]:
    """A message, and sixty that something happened to."""
    out = [data]
    for _ in range(60):
        copy = bytearray(data)
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
        out.append(bytes(copy))
    return out


@pytest.mark.parametrize("seed", range(40))
def test_a_push_reads_the_same_in_the_quick_way_and_in_the_usual_one(monkeypatch, seed: int) -> None:
    rng = np.random.default_rng(seed)
    wire = codec.FLOAT32 if rng.random() < 0.8 else codec.INT8
    some = mangled(rng, joined(a_push(rng, int(rng.choice([0, 1, 1, 2, 3])), wire)))
    quick = [outcome(one) for one in some]
    with monkeypatch.context() as patch:
        patch.setattr(codec, "read_push_head", lambda *_: (-1, *[0] * 11))
        assert quick == [outcome(one) for one in some]
    monkeypatch.setattr(codec, "read_push", lambda *_: (-1, 0, 0, 0, 0, 0))
    assert quick == [outcome(one) for one in some]


def test_tables_of_a_push_are_found_one_after_the_other() -> None:
    rng = np.random.default_rng(0)
    for tables in range(5):
        push = a_push(rng, tables)
        data, at = array(joined(push)), 0
        for number, ids, block in push.tables:
            table, begin, first, count, values, end = read_push(data, at)
            assert table == number
            assert begin == at or not at
            assert data[first : first + 8 * count].tobytes() == ids.tobytes()
            assert data[values:end].tobytes() == block.data.tobytes()
            at = end
        assert at == (len(data) if tables else 0)
        assert read_push(data, at)[0] == -1


def tables_of(data: np.ndarray) -> list[tuple[int, int, int]]:
    """(number, where its ids begin, how many) of the tables that a PullRequest begins with, as far as it is plain."""
    found: list[tuple[int, int, int]] = []
    _, table, ids, count = read_pull(data, 0)
    while table >= 0:
        found.append((table, ids, count))
        _, table, ids, count = read_pull(data, ids + 8 * count)
    return found


@given(st.integers(1, 2**32 - 1), st.lists(st.integers(0, 2**63 - 1), max_size=40), st.integers(0, 3))
def test_a_pull_is_plain_if_it_has_a_header_tables_and_no_wire_type(table, ids, wire) -> None:
    ids = np.array(ids, np.int64)
    data = array(joined(codec.Pull(HEADER, [(table, ids)], wire)))
    header, found, at, count = read_pull(data, 0)
    assert (found, count) == (table, len(ids))
    assert pb.PullRequest.FromString(data[:header].tobytes()) == pb.PullRequest(header=HEADER)
    assert data[at : at + 8 * count].tobytes() == ids.tobytes()
    assert (at + 8 * count == len(data)) == (wire == codec.FLOAT32)
    for end in range(at + 8 * count):
        assert read_pull(data[:end].copy(), 0)[1] == -1


def test_a_pull_of_many_tables_is_plain_and_one_of_part_of_an_id_is_not() -> None:
    tables = [(number, np.arange(number % 5)) for number in (1, 200, 70_000, 4, 5)]
    data = array(joined(codec.Pull(HEADER, tables)))
    found = tables_of(data)
    assert [(table, data[at : at + 8 * n].tobytes()) for table, at, n in found] == [
        (number, ids.tobytes()) for number, ids in tables
    ]
    for end in range(len(data)):
        cut = tables_of(data[:end].copy())
        assert cut == found[: len(cut)]
    message = pb.PullRequest(header=HEADER, tables=[pb.TableIds(table=1, ids=b"1234567")])
    assert tables_of(array(message.SerializeToString())) == []


@pytest.mark.parametrize("seed", range(20))
def test_a_pull_reads_the_same_in_the_quick_way_and_in_the_usual_one(monkeypatch, seed: int) -> None:
    rng = np.random.default_rng(seed)
    tables = [(int(n), rng.integers(0, 2**62, int(rng.integers(0, 5)))) for n in rng.integers(1, 300, 3)]
    data = joined(codec.Pull(HEADER, tables[: int(rng.integers(0, 4))], int(rng.choice([0, 0, 3]))))
    some = mangled(rng, data)
    quick = [pull_outcome(one) for one in some]
    monkeypatch.setattr(codec, "read_pull", lambda *_: (0, -1, 0, 0))
    assert quick == [pull_outcome(one) for one in some]


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


def plain_head(push: codec.Push) -> tuple[int, ...]:
    head = push.head()
    return read_push_head(array(head), len(head))


@pytest.mark.parametrize("seed", range(20))
def test_the_head_of_what_clients_push_is_plain(seed: int) -> None:
    rng = np.random.default_rng(seed)
    name = codec.PartName(int(rng.integers(2**34)), int(rng.integers(2**32)), int(rng.integers(1, 2**34)))
    client_id, numbers = int(rng.integers(2**63)) * 2, rng.integers(2**34, size=5).tolist()
    push = codec.Push(
        HEADER, client_id, (name,), *numbers[:1], [], *numbers[1:3], 1, 2, *numbers[3:4], 0.0, 0.0, 5
    )
    size, *found = plain_head(push)
    assert pb.PushRequest.FromString(push.head()[:size]) == pb.PushRequest(header=HEADER)
    assert found == [client_id, numbers[1], *name, numbers[2], numbers[0], 1, 2, numbers[3], 5]


def test_a_head_of_several_names_or_of_norms_or_of_large_numbers_is_left_to_protobuf() -> None:
    def is_plain(names=NAMES[:1], **how) -> bool:
        return plain_head(codec.Push(HEADER, 1, names, 7, [], **how))[0] >= 0

    assert is_plain()
    assert not any(map(is_plain, [(), NAMES, [codec.PartName(1, 2, 0)], [codec.PartName(1, 2, 2**35)]]))
    for how in ({"max_norm": 1.0}, {"norm_type": 2.0}, {"low_water": 2**35}, {"parts": 2**35}):
        assert not is_plain(**how)
