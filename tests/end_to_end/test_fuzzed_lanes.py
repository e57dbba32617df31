"""A hostile client on real lanes: mutated hellos, heads and messages, and shared memory that changes while it is read.

`ROWLOOM_FUZZ_S=1800 pytest -s tests/end_to_end/test_fuzzed_lanes.py` goes on for longer, from another seed.
"""

import contextlib
import fcntl
import itertools
import mmap
import os
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing

import numpy as np
import pytest

from rowloom.client import SGD, Adam, TableSpec, Zeros
from rowloom.proto import codec
from rowloom.proto.codec import ASSIGN, BFLOAT16, FLOAT32, INT8, RENORM, Block, PartName, Pull, Push, Step
from rowloom.proto.codec_bags import Entries, PullBags
from rowloom.proto.errors import PushUnresolved, RowloomError, decode_error
from rowloom.proto.framing import joined
from rowloom.proto.lane import (
    ARENA_BYTES,
    HAS_ARENAS,
    NOWHERE,
    NUMBER,
    OK,
    REPLY_BYTES,
    WELCOME,
    Hello,
    Reply,
    Request,
)
from rowloom.proto.layout import Layout, ShardAddress
from rowloom.proto.methods import PULL, PULL_BAGS, PUSH, STEP
from rowloom.proto.spec import TableEntry
from rowloom.server.serve import Server
from rowloom.server.shard import Shard
from rowloom.server.states import Serving

LONG_S = float(os.environ.get("ROWLOOM_FUZZ_S", "0"))
SECONDS = LONG_S / 2 or 4.0  # each of the two tests
SEED = int(time.time()) if LONG_S else 0
LAYOUT = Layout("c", 1, (ShardAddress(0, "h:1", 1),))
ROWS, DIM = 1000, 4
MINE, ADAM = 1, 2  # what the hostile client names; a change of some bits does not make the others of them
OTHER, VICTIM = 0x5A17C3E1, 0x6B29D5F7
SGD1 = SGD(lr=1.0)
TABLES = [
    TableEntry(MINE, TableSpec("mine", ROWS, dim=DIM, optimizer=SGD1, initializer=Zeros())),
    TableEntry(ADAM, TableSpec("adam", ROWS, dim=DIM, optimizer=Adam(lr=0.1), initializer=Zeros())),
    TableEntry(OTHER, TableSpec("other", ROWS, dim=DIM, optimizer=SGD1, initializer=Zeros())),
    TableEntry(VICTIM, TableSpec("victim", ROWS, dim=DIM, optimizer=SGD1, initializer=Zeros())),
]
PLACE = 64  # of messages in the arena
REPLY_AT = ARENA_BYTES // 2
CONTROL_AT = ARENA_BYTES - 4096  # two int64: between which bytes the flipper flips
FLIPPER = """
import mmap, sys, numpy as np
memory = np.frombuffer(mmap.mmap(int(sys.argv[1]), 0), np.uint8)
control = memory[int(sys.argv[2]):][:16].view(np.int64)
rng = np.random.default_rng(int(sys.argv[3]))
words = np.array([0, 1, 2, 127, 128, 255, 254, 64], np.uint8)
print("ready", flush=True)
while True:
    begin, end = control.tolist()
    if begin < end:
        at = rng.integers(begin, end, 8)
        old = memory[at]
        memory[at] = words[rng.integers(0, 8, 8)]
        if rng.random() < 0.7:  # most changes are gone before anybody has looked twice
            memory[at] = old
"""
_SEQ = itertools.count(1)


class RawLane:
    """A connection that sends what it is told to."""

    def __init__(self, server: Server, *, shared: bool) -> None:
        assert server._lane is not None
        description = server._lane.describe()
        self.arena: np.ndarray | None = None
        self.descriptor = -1
        if shared:
            self.end = socket.socket(socket.AF_UNIX)
            self.end.settimeout(120)
            self.end.connect("\0" + description.unix_address)
            self.descriptor = os.memfd_create("hostile", os.MFD_ALLOW_SEALING)
            os.ftruncate(self.descriptor, ARENA_BYTES)
            fcntl.fcntl(self.descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
            self.arena = np.frombuffer(mmap.mmap(self.descriptor, ARENA_BYTES), np.uint8)
            socket.send_fds(self.end, [Hello(description.key, ARENA_BYTES).encode()], [self.descriptor])
        else:
            self.end = socket.create_connection(("127.0.0.1", description.port), 120)
            self.end.sendall(Hello(description.key, 0).encode())
        assert self.end.recv(1) == WELCOME

    def ask(self, method: int, message: bytes) -> bytes | RowloomError:
        """Through the socket."""
        self.end.sendall(Request(method, len(message)).encode() + message)
        return self.reply()

    def ask_shared(self, method: int, message: bytes, room: int) -> bytes | RowloomError:
        """Through the arena, and the reply too if it has room."""
        assert self.arena is not None
        self.arena[PLACE : PLACE + len(message)] = np.frombuffer(message, np.uint8)
        self.end.sendall(Request(method, len(message), PLACE, REPLY_AT, room).encode())
        return self.reply()

    def reply(self) -> bytes | RowloomError:
        head = self.received(REPLY_BYTES)
        status, length, offset = Reply.decode(head, ARENA_BYTES if self.arena is not None else 0)
        if offset == NOWHERE:
            body = self.received(length)
        else:
            assert self.arena is not None
            body = self.arena[offset : offset + length].tobytes()
        return body if status == OK else decode_error(body)

    def received(self, size: int) -> bytes:
        data = bytearray()
        while len(data) < size:  # MSG_WAITALL does not wait on a socket with a time-out
            some = self.end.recv(size - len(data))
            if not some:
                raise ConnectionResetError("closed")
            data += some
        return bytes(data)

    def close(self) -> None:
        self.end.close()
        if self.descriptor >= 0:
            os.close(self.descriptor)


class Other:
    """A client that does nothing wrong. It adds 1 to its rows, over and over."""

    def __init__(self, server: Server) -> None:
        self._lane = RawLane(server, shared=False)
        self._count = 0

    def look(self) -> None:
        """Push, then see that its rows are right, and that the victim's are as they were."""
        self._count += 1
        ids, grads = np.arange(ROWS), np.full((ROWS, DIM), -1, np.float32)
        self._ask(PUSH, push([(OTHER, ids, Block(grads))], client=7, seq=self._count))
        assert (self._rows(OTHER) == self._count).all()
        np.testing.assert_array_equal(self._rows(VICTIM)[:, 0], np.arange(ROWS))

    def _rows(self, table: int) -> np.ndarray:
        reply = self._ask(PULL, joined(Pull(LAYOUT.header(0), [(table, np.arange(ROWS))]).encode()))
        return codec.PullReply.decode(reply).blocks[0].data.reshape(ROWS, DIM)

    def _ask(self, method: str, message: bytes) -> bytes:
        reply = self._lane.ask(NUMBER[method], message)
        if isinstance(reply, RowloomError):
            raise reply
        return reply

    def fill(self) -> None:
        """The victim's rows."""
        values = np.repeat(np.arange(ROWS, dtype=np.float32)[:, None], DIM, axis=1)
        self._ask(PUSH, push([(VICTIM, np.arange(ROWS), Block(values))], client=8, seq=1, kind=ASSIGN))

    def close(self) -> None:
        self._lane.close()


def push(tables, *, client: int, seq: int, kind: int = codec.GRADIENTS, wire: int = FLOAT32, **more) -> bytes:
    names = (PartName(1, 0, seq),)
    made = Push(LAYOUT.header(0), client, names, seq, tables, kind=kind, wire=wire, low_water=seq - 1, **more)
    return joined(made.encode())


def message(rng: np.random.Generator, most: int) -> tuple[int, bytes]:
    """(method, a message without any fault) to `mine` and `adam`, of at most so many ids."""
    n = int(rng.integers(0, most + 1))
    ids = rng.integers(0, ROWS, n)
    table = int(rng.integers(MINE, ADAM + 1))
    rows = rng.standard_normal((n, DIM)).astype(np.float32)
    bags = np.sort(rng.integers(0, max(n // 3, 1), n)).astype(np.int32)
    factors = rng.standard_normal(n).astype(np.float32) if rng.random() < 0.5 else None
    pull = Pull(LAYOUT.header(0), [(table, ids)], int(rng.choice([FLOAT32, BFLOAT16, INT8])))
    client, seq = int(rng.integers(1 << 40, 1 << 62)), next(_SEQ)
    what = int(rng.integers(0, 7))
    if what == 0:
        return NUMBER[PULL], joined(pull.encode())
    if what == 1:
        bagged = [Entries(table, ids, bags, factors)]
        return NUMBER[PULL_BAGS], joined(PullBags(LAYOUT.header(0), bagged).encode())
    if what == 2:
        block = Block(rows[: int(bags.max(initial=-1)) + 1].reshape(-1), bags=bags, factors=factors)
        return NUMBER[PUSH], push([(table, ids, block)], client=client, seq=seq)
    if what == 3:
        return NUMBER[PUSH], push(
            [(table, np.unique(ids), Block(rows[: len(np.unique(ids))]))], client=client, seq=seq, kind=ASSIGN
        )
    if what == 4:
        return NUMBER[PUSH], push(
            [(table, ids, Block(rows[:0]))], client=client, seq=seq, kind=RENORM, max_norm=1.0, norm_type=2.0
        )
    wire = int(rng.choice([FLOAT32, FLOAT32, BFLOAT16, INT8]))
    tables = [(one, ids, codec.to_wire(rows, wire)) for one in (MINE, ADAM)]
    pushed = push(tables, client=client, seq=seq, wire=wire)
    if what == 5:
        return NUMBER[PUSH], pushed
    return NUMBER[STEP], joined(Step(Push.decode(pushed), pull).encode())


NASTY = [
    b"\xff" * 8,
    b"\0" * 8,
    b"\x80" * 10,
    b"\xff\xff\xff\x7f",
    b"\0\0\0\x80",
    b"\xff" * 9 + b"\1",
    b"\x0a",
]


def mutated(rng: np.random.Generator, data: bytes) -> bytes:
    """The same with one to four faults in it."""
    out = bytearray(data)
    for _ in range(int(rng.integers(1, 5))):
        at = (
            int(rng.integers(0, len(out) + 1))
            if rng.random() < 0.5
            else int(rng.integers(0, min(len(out), 80) + 1))
        )
        what = int(rng.integers(0, 6))
        if what == 0 and at < len(out):
            out[at] ^= 1 << int(rng.integers(0, 8))
        elif what == 1:
            nasty = NASTY[int(rng.integers(0, len(NASTY)))]
            out[at : at + len(nasty)] = nasty
        elif what == 2:
            del out[at:]
        elif what == 3:
            out[at:at] = rng.bytes(int(rng.integers(1, 20)))
        elif what == 4:
            end = at + int(rng.integers(1, 200))
            out[at:at] = out[at:end]
        elif what == 5:
            del out[at : at + int(rng.integers(1, 20))]
    return bytes(out)


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    server._host.state = Serving(Shard(LAYOUT, 0, TABLES))
    server.start()
    yield server
    server.stop(0)


@pytest.fixture
def stack() -> Iterator[contextlib.ExitStack]:
    with contextlib.ExitStack() as stack:
        yield stack


@pytest.fixture
def other(server) -> Iterator[Other]:
    other = Other(server)
    other.fill()
    other.look()
    yield other
    other.close()


def checked(reply: bytes | RowloomError, data: bytes, answers: Counter[str]) -> None:
    """Whatever was sent, the server knew what to say."""
    answers["rows" if isinstance(reply, bytes) else type(reply).__name__] += 1
    if type(reply) is RowloomError or isinstance(reply, PushUnresolved):
        pytest.fail(f"seed {SEED}: {reply!r} to {len(data)} bytes {data[:2000].hex()}")


def to_the_end(end: socket.socket, data: bytes) -> bytes:
    """Send what nobody needs to answer, and read what comes until the server closes."""
    out = b""
    with contextlib.suppress(ConnectionError), end:
        end.sendall(data)
        with contextlib.suppress(OSError):  # reset already: not connected
            end.shutdown(socket.SHUT_WR)
        while got := end.recv(1 << 16):
            out += got
    return out


def hostile_hello(rng: np.random.Generator, server: Server) -> None:
    assert server._lane is not None
    description = server._lane.describe()
    unix = rng.random() < 0.5
    end = socket.socket(socket.AF_UNIX if unix else socket.AF_INET)
    end.settimeout(120)
    end.connect("\0" + description.unix_address if unix else ("127.0.0.1", description.port))
    size = int(rng.choice([0, 1, 4096, ARENA_BYTES, 1 << 40]))
    said = mutated(rng, Hello(description.key, size).encode())
    if unix and said and rng.random() < 0.7:
        descriptor = os.memfd_create("hostile", os.MFD_ALLOW_SEALING)
        os.ftruncate(descriptor, int(rng.choice([0, 4096, ARENA_BYTES])))
        with contextlib.suppress(ConnectionError):
            socket.send_fds(end, [said], [descriptor] * int(rng.integers(1, 4)))
        os.close(descriptor)
        said = b""
    to_the_end(end, said)


def hostile_heads(rng: np.random.Generator, server: Server, answers: Counter[str]) -> None:
    """A few messages on a connection of their own, whose heads lie, too."""
    lane = RawLane(server, shared=rng.random() < 0.5)  # closed by `to_the_end`
    room = ARENA_BYTES if lane.arena is not None else 0
    if lane.arena is not None:
        lane.arena[: 1 << 16] = rng.integers(0, 256, 1 << 16, np.uint8)
        os.close(lane.descriptor)
    data = b""
    for _ in range(3):
        method, made = message(rng, 30)
        edges = [0, 7, max(room - 10, 0), room, 1 << 63, NOWHERE - 1]
        offset, reply_at, reply_bytes = (edges[int(rng.integers(0, len(edges)))] for _ in range(3))
        if rng.random() < 0.7:
            offset = NOWHERE
        head = Request(method, len(made), offset, reply_at, reply_bytes if rng.random() < 0.3 else 0).encode()
        data += mutated(rng, head) if rng.random() < 0.5 else head
        data += mutated(rng, made)
    replies = to_the_end(lane.end, data)
    while len(replies) >= REPLY_BYTES:
        status, length, at = Reply.decode(replies[:REPLY_BYTES], room)
        if status != OK:
            checked(decode_error(replies[REPLY_BYTES : REPLY_BYTES + length]), data, answers)
        replies = replies[REPLY_BYTES + (length if at == NOWHERE else 0) :]


def errors_in(caplog) -> list[str]:
    """Of servers; not of libraries, in threads that tests before have left."""
    records = (record for record in caplog.records if record.name.startswith("rowloom.server"))
    return [record.getMessage() for record in records if record.levelname in ("ERROR", "CRITICAL")]


@pytest.mark.skipif(not HAS_ARENAS, reason="needs Linux: shared memory that is handed over")
@pytest.mark.timeout(300 + 2 * SECONDS)
def test_whatever_a_lane_is_told_the_server_lives_and_nobody_else_notices(
    server, other, stack, caplog
) -> None:
    rng = np.random.default_rng(SEED)
    answers: Counter[str] = Counter()
    lanes = [stack.enter_context(closing(RawLane(server, shared=shared))) for shared in (False, True)]
    end = time.monotonic() + SECONDS
    for i in itertools.count():
        if time.monotonic() >= end and answers["rows"] > 10 and answers["InvalidRequest"] > 10:
            break
        if i % 40 == 0:
            other.look()
        which = rng.random()
        if which < 0.05:
            hostile_hello(rng, server)
        elif which < 0.15:
            hostile_heads(rng, server, answers)
        else:
            method, data = message(rng, 200 if rng.random() < 0.9 else 5000)
            if rng.random() < 0.9:
                data = mutated(rng, data)
            if rng.random() < 0.05:
                method = int(rng.integers(0, len(NUMBER)))
            if rng.random() < 0.5:
                room = int(rng.choice([0, 1, 100, 1 << 16, 1 << 20]))
                checked(lanes[1].ask_shared(method, data, room), data, answers)
            else:
                lane = lanes[int(rng.integers(0, 2))]
                checked(lane.ask(method, data), data, answers)
    other.look()
    print(f"seed {SEED}: {i} rounds, {dict(answers)}")
    assert answers["rows"] > 10
    assert answers["InvalidRequest"] > 10
    assert not errors_in(caplog)


@pytest.mark.skipif(not HAS_ARENAS, reason="needs Linux: shared memory that is handed over")
@pytest.mark.timeout(300 + 2 * SECONDS)
def test_whatever_changes_in_shared_memory_while_it_is_read_nobody_else_notices(
    server, other, stack, caplog
) -> None:
    rng = np.random.default_rng(SEED)
    answers: Counter[str] = Counter()
    lane = stack.enter_context(closing(RawLane(server, shared=True)))
    assert lane.arena is not None
    control = lane.arena[CONTROL_AT : CONTROL_AT + 16].view(np.int64)
    command = [sys.executable, "-c", FLIPPER, str(lane.descriptor), str(CONTROL_AT), str(SEED)]
    with subprocess.Popen(command, pass_fds=[lane.descriptor], stdout=subprocess.PIPE) as flipper:
        try:
            assert flipper.stdout is not None
            assert flipper.stdout.readline() == b"ready\n"
            end = time.monotonic() + SECONDS
            for i in itertools.count():
                if time.monotonic() >= end and answers["rows"] > 10:
                    break
                if i % 40 == 0:
                    control[:] = 0
                    other.look()
                method, data = message(rng, int(rng.choice([20, 1000, 20_000])))
                # All of it, or the last part: ids, bags, factors or values, behind a head that stays right.
                begin = 0 if rng.random() < 0.3 else int(rng.integers(0, len(data)))
                control[:] = PLACE + begin, PLACE + len(data)
                spoiled = rng.random() < 0.1  # the reply's place instead, while the server writes there
                if spoiled:
                    control[:] = REPLY_AT, REPLY_AT + 4096
                reply = lane.ask_shared(method, data, int(rng.choice([0, 1 << 20, REPLY_AT - 4096])))
                if not spoiled:
                    checked(reply, data, answers)
            control[:] = 0
            other.look()
        finally:
            flipper.kill()
    print(f"seed {SEED}: {i} rounds, {dict(answers)}")
    assert answers["rows"] > 10
    assert not errors_in(caplog)
