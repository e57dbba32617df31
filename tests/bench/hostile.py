"""Hostile and slow clients, all at once, beside a good trainer: `python tests/bench/hostile.py --seconds 20`.

Prints one JSON object: the good trainer's steps before, during and after the attack (ms), and what the shards and the
coordinator held meanwhile and afterwards (memory, threads, descriptors). The attackers, in a process of their own:

- calls, halves: gRPC calls whose message never comes, and messages of 60 MB of which a third comes;
- idle: connections that say nothing, to gRPC and to the lane;
- heads: lanes that announce 64 MB and send a little now and then;
- junk: connections that say random bytes;
- flips: a lane whose shared memory changes all the time while its pushes and pulls are answered;
- huge: requests for as many rows as one may ask for.

`--only NAME`, also several times, makes these attacks only. "beside" is the same attack on another cluster of this
machine: what it costs the trainer is the machine's loss, and what "attacked" is worse by is its own servers'. The
attackers stand for those on other machines, so they get what the others leave of the processors (SCHED_IDLE), and
throw replies away unread. Their calls in the kernel are not interrupted for the trainer all the same.
"""

import argparse
import contextlib
import itertools
import json
import multiprocessing
import os
import random
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np

from rowloom.client import SGD, InvalidRequest, RowloomError, TableSpec, Zeros, connect
from rowloom.client.calls.operation import Message, Send
from rowloom.client.carriers.lane import open_lane
from rowloom.deploy import local_cluster
from rowloom.deploy.embedded import LocalCluster
from rowloom.proto import methods
from rowloom.proto import rowloom_pb2 as pb
from rowloom.proto.channel import Channels
from rowloom.proto.lane import NUMBER, REPLY_BYTES, Hello, Request, decode_reply, encode_request

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))
from half_calls import HalfCalls

ROWS, DIM, BATCH = 200_000, 64, 4096
SPEC = TableSpec("good", ROWS, dim=DIM, optimizer=SGD(lr=1.0), initializer=Zeros())
WORST = 3.0  # times the quiet p99
BACK = {"mb": 100, "threads": 10, "files": 3}  # above what was before, and it counts as back
ON_ALL = ("calls", "halves", "idle")  # attacks on the coordinator too
ATTACKS = (*ON_ALL, "heads", "junk", "flips", "huge")

# ------------------------------------------------------------------------------------------------------------ attackers


class Attack:
    """All of it, on every server of a cluster, until it is told to end."""

    def __init__(
        self, coordinator: str, shards: list[str], names: Sequence[str], ended: Callable[[], bool]
    ) -> None:
        self._names = names
        self._servers, self._shards, self._ended = [coordinator, *shards], shards, ended
        self._channels, self._held = Channels(), []

    def run(self) -> None:
        jobs: list[tuple[Callable[[str], None], str]] = []
        for name in self._names:
            targets = self._servers if name in ON_ALL else self._shards
            jobs += [(getattr(self, name), address) for address in targets]
        threads = [threading.Thread(target=self._repeat, args=one, daemon=True) for one in jobs]
        for thread in threads:
            thread.start()
        while not self._ended():
            time.sleep(0.1)

    def _repeat(self, job: Callable[[str], None], address: str) -> None:
        while not self._ended():
            with contextlib.suppress(OSError, RowloomError, ValueError, struct.error):
                job(address)
            time.sleep(0.05)

    def _lane(self, address: str) -> pb.LaneReply:
        return pb.LaneReply.FromString(self._channels.call(address, methods.DESCRIBE_LANE, b"", 5.0))

    def _hold(self, ends: Sequence[socket.socket | HalfCalls]) -> None:
        until = time.monotonic() + 5
        while time.monotonic() < until and not self._ended():
            time.sleep(0.1)
        for end in ends:
            end.close()

    def calls(self, address: str) -> None:
        connections = [HalfCalls(address, methods.PUSH) for _ in range(4)]
        for connection in connections:
            for _ in range(8):
                connection.start(0)
        self._hold(connections)

    def halves(self, address: str) -> None:
        def half(_: int) -> HalfCalls:
            connection = HalfCalls(address, methods.PUSH)
            connection.start(60 << 20)
            with contextlib.suppress(OSError):
                connection.send(20 << 20, 5.0)
            return connection

        with ThreadPoolExecutor(10) as pool:
            self._hold(list(pool.map(half, range(10))))

    def idle(self, address: str) -> None:
        ports = [int(address.rsplit(":", 1)[1])]
        if address in self._shards:
            ports.append(self._lane(address).port)
        ends = []
        for port in ports * 200:
            with contextlib.suppress(OSError):
                ends.append(socket.create_connection(("127.0.0.1", port), 2))
        self._hold(ends)

    def heads(self, address: str) -> None:
        lane, ends = self._lane(address), []
        for _ in range(20):
            end = socket.create_connection(("127.0.0.1", lane.port), 2)
            end.sendall(Hello(lane.key, 0).encode())
            end.recv(1)
            end.settimeout(0.5)
            with contextlib.suppress(OSError):
                end.sendall(Request(1, 64 << 20).encode() + bytes(4 << 20))
            ends.append(end)
        self._hold(ends)

    def junk(self, address: str) -> None:
        rng = random.Random(os.urandom(8))
        lane = self._lane(address)
        for port in (lane.port, int(address.rsplit(":", 1)[1])):
            with socket.create_connection(("127.0.0.1", port), 2) as end:
                end.sendall(
                    Hello(lane.key, 0).encode() * rng.randint(0, 1) + rng.randbytes(rng.randint(1, 5000))
                )

    def flips(self, address: str) -> None:
        lane = open_lane(self._lane(address), "127.0.0.1", shared=True, until=time.monotonic() + 5)
        header, number = self._evil(address)
        ids = np.arange(512, dtype=np.int64) * len(self._shards) + header.shard
        space, rng, done = lane._space, np.random.default_rng(), threading.Event()

        def flip() -> None:
            while not done.is_set():
                space[rng.integers(0, 12_000, 50)] = rng.integers(0, 256, 50)

        thread = threading.Thread(target=flip, daemon=True)
        thread.start()
        try:
            message = pb.PullRequest(
                header=header, tables=[pb.TableIds(table=number, ids=ids.tobytes())]
            ).SerializeToString()
            for tag in range(200):
                space[64 : 64 + len(message)] = np.frombuffer(message, np.uint8)
                lane.waiting.append(
                    (Send(tag, address, methods.PULL, Message(message), 0.0), space, 1 << 20, 1 << 20)
                )
                lane._end.send(encode_request(NUMBER[methods.PULL], len(message), 64, 1 << 20, 1 << 20))
                lane.receive(block=True)
        finally:
            done.set()
            thread.join()
            lane.close()

    def huge(self, address: str) -> None:
        header, number = self._evil(address)
        ids = np.arange(16_384, dtype=np.int64) * len(self._shards) + header.shard
        tables = [pb.TableIds(table=number, ids=ids.tobytes())]
        message = pb.PullRequest(header=header, tables=tables).SerializeToString()
        lane = open_lane(self._lane(address), "127.0.0.1", shared=False, until=time.monotonic() + 5)
        lane._end.settimeout(10)
        nowhere = np.empty(4 << 20, np.uint8)
        try:
            for _ in range(6):
                lane._end.sendall(Request(NUMBER[methods.PULL], len(message)).encode() + message)
                head = lane._end.recv(REPLY_BYTES, socket.MSG_WAITALL)
                left = decode_reply(head, 0)[1]
                while left:
                    # TCP then drops it without a copy.
                    left -= lane._end.recv_into(nowhere, min(left, len(nowhere)), socket.MSG_TRUNC)
        finally:
            lane.close()

    def _evil(self, address: str) -> tuple[pb.Header, int]:
        """What requests to a shard begin with, and the number of the table that is there to be attacked."""
        found = pb.DescribeLayoutReply.FromString(
            self._channels.call(address, methods.DESCRIBE_LAYOUT, b"", 5.0)
        )
        header = pb.Header(
            cluster_id=found.layout.cluster_id,
            epoch=found.layout.epoch,
            shard=self._shards.index(address),
            protocol=1,
        )
        return header, next(t.number for t in found.tables if t.spec.name == "evil")


def attack(coordinator: str, shards: list[str], names: Sequence[str], told: Connection, idle: bool) -> None:
    """In a process of its own, until the other end of the pipe says something or is gone."""
    if idle:
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    with contextlib.suppress(EOFError, KeyboardInterrupt):
        Attack(coordinator, shards, names, lambda: told.poll(0)).run()


# ----------------------------------------------------------------------------------------------------------- measuring


def held_by(pids: dict[str, int]) -> dict[str, dict[str, int]]:
    """Memory (MB), threads and descriptors of processes."""
    found = {}
    for name, pid in pids.items():
        status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
        memory = int(status["VmRSS"].split()[0]) - int(status["RssShmem"].split()[0])
        files = len(os.listdir(f"/proc/{pid}/fd"))
        found[name] = {"mb": memory >> 10, "threads": int(status["Threads"]), "files": files}
    return found


class Trainer:
    """Steps of one good client, counted, so that every push can be accounted for."""

    def __init__(self, address: str, carrier: str) -> None:
        self.client = connect(address, carrier=carrier)
        self.counts, self._rng = np.zeros(ROWS, np.int64), np.random.default_rng(0)
        self._grads = np.full((BATCH, DIM), -1, np.float32)

    def steps(self, seconds: float, watch: Callable[[], None] = lambda: None) -> dict[str, float]:
        table, times, until = self.client.table("good"), [], time.monotonic() + seconds
        for k in itertools.count():
            if times and time.monotonic() > until:
                break
            if k % 50 == 0:
                watch()
            ids = self._rng.integers(0, ROWS, BATCH)
            began = time.perf_counter()
            table.push(ids, self._grads)
            table.pull(ids)
            times.append(time.perf_counter() - began)
            np.add.at(self.counts, ids, 1)
        p50, p99, most = (round(float(x) * 1e3, 2) for x in np.quantile(times, [0.5, 0.99, 1.0]))
        return {"steps": len(times), "p50_ms": p50, "p99_ms": p99, "max_ms": most}


class Held:
    """What the servers of a cluster hold: before, the most of it, and after.

    Args:
        pids: of its processes, by name.
    """

    def __init__(self, pids: dict[str, int]) -> None:
        self._pids = pids
        self.before = held_by(pids)
        self.most = held_by(pids)

    def watch(self) -> None:
        """Look how much it is now."""
        for name, held in held_by(self._pids).items():
            for what, value in held.items():
                self.most[name][what] = max(self.most[name][what], value)

    def back(
        self, wait_s: float, whats: Sequence[str] = tuple(BACK)
    ) -> tuple[bool, dict[str, dict[str, int]]]:
        """Whether that of it is again what it was, within that time; and what it is."""
        until = time.monotonic() + wait_s
        while True:
            now = held_by(self._pids)
            over = [now[n][what] - self.before[n][what] - BACK[what] for n in now for what in whats]
            if max(over) <= 0 or time.monotonic() > until:
                return max(over) <= 0, now
            time.sleep(0.5)


@contextlib.contextmanager
def attacked(cluster: LocalCluster, names: Sequence[str], *, idle: bool = True) -> Iterator[None]:
    """A cluster under attack from another process.

    idle: that has the processor only when nobody else wants it, so that what is measured are the servers.
    """
    context = multiprocessing.get_context("spawn")
    with cluster.connect() as client:
        shards = [shard.address for shard in client._session.layout.shards]
    ours, theirs = context.Pipe()
    attacker = context.Process(
        target=attack, args=(cluster.address, shards, names, theirs, idle), daemon=True
    )
    attacker.start()
    yield
    ours.send("end")
    attacker.join(20)
    attacker.kill()


def run(seconds: float, carrier: str, names: Sequence[str] = ATTACKS) -> dict:
    """The whole of it."""
    evil = TableSpec("evil", 2_000_000, dim=DIM, optimizer=SGD(lr=1.0), initializer=Zeros())
    with (
        local_cluster(2, processes=True, tables=[SPEC, evil]) as cluster,
        local_cluster(2, processes=True, tables=[SPEC, evil]) as other,
    ):
        trainer = Trainer(cluster.address, carrier)
        trainer.steps(2.0)
        held = Held({f"shard {key}": cluster.launcher.pid(key) for key in range(2)})
        out: dict = {"carrier": carrier, "attacks": list(names), "cores": os.cpu_count()}
        out["quiet"] = trainer.steps(seconds)
        for what, victim in (("beside", other), ("attacked", cluster)):
            with attacked(victim, names):
                trainer.steps(min(seconds, 3.0), held.watch)  # until all of them are there
                out[what] = trainer.steps(seconds, held.watch)
        out |= {"before": held.before, "most": held.most}
        out["back"], out["after"] = held.back(90.0)
        out["quiet again"] = trainer.steps(seconds)
        rows = trainer.client.table("good").pull(np.arange(ROWS))[:, 0]
        out["wrong_rows"] = int((rows != trainer.counts).sum())
        trainer.client.close()
    for what in ("quiet", "beside"):
        out[f"p99_to_{what}"] = round(out["attacked"]["p99_ms"] / out[what]["p99_ms"], 2)
    return out


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seconds", type=float, default=20.0, help="of each of the three parts")
    parser.add_argument("--carrier", default="auto")
    parser.add_argument("--only", action="append", choices=ATTACKS, metavar="NAME", help=", ".join(ATTACKS))
    args = parser.parse_args()
    try:
        found = run(args.seconds, args.carrier, args.only or ATTACKS)
    except InvalidRequest as e:
        parser.error(str(e))
    print(json.dumps(found, indent=1))
    return int(found["wrong_rows"] > 0 or not found["back"] or found["p99_to_quiet"] > WORST)


if __name__ == "__main__":
    sys.exit(main())
