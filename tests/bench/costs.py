"""What single parts cost: the Adagrad kernel, exactly-once, wire types, many tables. One line of JSON each.

`python tests/bench/costs.py [kernel] [ledger] [wires] [tables]`

And the speed gate: calls of this version beside those of another one, which is installed for another interpreter, as
one table; the exit code is 1 when a call takes longer than its bound allows (`gate.py`, `ratios.py`):

`python tests/bench/costs.py calls --beside /path/to/its/python [--rounds 13] [--json out.json]`
"""

import argparse
import itertools
import json
import random
import shutil
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import gate
import numpy as np

from rowloom.client import Adagrad, TableSpec, Zeros
from rowloom.client.calls import operations
from rowloom.client.calls.operation import Event, as_bytes
from rowloom.client.calls.pusher import Pusher
from rowloom.client.calls.session import Session
from rowloom.deploy import local_cluster
from rowloom.deploy.bench.samples import fill
from rowloom.deploy.bench.workload import zipf_ids
from rowloom.proto.allocator import keep_freed_memory
from rowloom.proto.framing import joined
from rowloom.proto.layout import Layout, ShardAddress
from rowloom.proto.spec import TableEntry
from rowloom.server.call import Call, Caller
from rowloom.server.host import Host
from rowloom.server.ledger import Ledger
from rowloom.server.shard import Shard
from rowloom.server.states import Serving
from rowloom.server.table import ShardTable

DIM, ROUNDS = 64, 15


def medians(calls: dict[str, Callable[[], object]], rounds: int = ROUNDS) -> dict[str, float]:
    """Seconds of each call: medians of rounds in which they take turns."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            began = time.perf_counter()
            call()
            times[name].append(time.perf_counter() - began)
    return {name: float(np.median(some)) for name, some in times.items()}


def kernel(rows: int = 2_000_000, batch: int = 65_536) -> None:
    """Rows a second that one core updates: a shard's table, without requests around it."""
    spec = TableSpec("kernel", rows, dim=DIM, optimizer=Adagrad(lr=0.01), initializer=Zeros())
    table = ShardTable(TableEntry(1, spec), 0, 1)
    for begin in range(0, rows, batch):
        ids = np.arange(begin, min(begin + batch, rows))
        table.push(ids, np.zeros((len(ids), DIM), np.float32), 1)
    rng = np.random.default_rng(0)
    grads = rng.standard_normal((batch, DIM)).astype(np.float32)
    # Distinct, as they come from a client: what is looked up and checked beside the kernel is not in this figure.
    numbers = [rng.permutation(rows)[:batch].astype(np.int32) for _ in range(8)]
    (values, *slots), turn = table._rows.columns, iter(range(1 << 30))

    def update() -> None:
        table._rule.push(values, slots, numbers[next(turn) % 8], grads, table._rates, 2)

    took = medians(
        {"update": update, "push": lambda: table.push(numbers[next(turn) % 8].astype(np.int64), grads, 2)}
    )
    found = {name: round(batch / seconds / 1e6, 2) for name, seconds in took.items()}
    print(json.dumps({"what": "Adagrad on one core, million rows/s, uniform", **found}))


class Forgetful(Ledger):
    """Keeps nothing."""

    def has(self, *_: object) -> bool:
        return False

    def record(self, *_: object, **__: object) -> None:
        return None


def ledger(rows: int = 1_000_000) -> None:
    """What numbers and window add to a push: client and shards in one process, without a network, which would hide it.

    Without: shards whose ledger keeps nothing, and a client that gives every part the same number.
    """
    layout = Layout("c", 1, tuple(ShardAddress(i, f"s:{i}", i + 1) for i in range(2)), "c:1")
    entry = TableEntry(1, TableSpec("t", rows, dim=DIM, optimizer=Adagrad(lr=0.01)))
    caller = Caller("bench")
    hosts = {f"s:{i}": Host(state=Serving(Shard(layout, i, [entry]))) for i in range(2)}
    with_it = Session(["s:0"], 5, random.Random(1), time.monotonic, threading.Lock())
    without = Session(["s:0"], 6, random.Random(1), time.monotonic, threading.Lock())
    (nameless,), name_of = without.pushers, {}

    def name(part, layout) -> tuple[int, int]:
        if (layout.epoch, part.shard) not in name_of:
            Pusher.name(nameless, part, layout)
            name_of[layout.epoch, part.shard] = part.names[-1]
        part.names[:] = [name_of[layout.epoch, part.shard]]
        return 0, layout.epoch

    nameless.name = name  # type: ignore[method-assign]
    nameless.finish = lambda part: None  # type: ignore[method-assign]
    nameless.end_call = lambda: None  # type: ignore[method-assign]
    ledgers = {
        session: {address: kind() for address in hosts}
        for session, kind in ((with_it, Ledger), (without, Forgetful))
    }

    def push(session: Session, ids: np.ndarray, grads: np.ndarray) -> None:
        for address, host in hosts.items():
            assert host.shard is not None
            host.shard.ledger = ledgers[session][address]
        operation = operations.push(session, [(entry, ids, grads)], time.monotonic() + 60)
        answers: list[Event] = []
        try:
            turn = next(operation)
            while True:
                for send in turn.sends:
                    call = Call(send.method, as_bytes(send.message), caller)
                    answers.append(Event(send.tag, joined(hosts[send.address].handle(call).buffers)))
                turn = operation.send(answers.pop(0))
        except StopIteration:
            return

    rng = np.random.default_rng(0)
    for session in (with_it, without):
        session.layout = layout
    for batch in (1024, 16_384, 65_536):
        ids = [zipf_ids(batch, rows, rng) for _ in range(8)]
        grads = rng.standard_normal((batch, DIM)).astype(np.float32) * 1e-3
        turn = iter(range(1 << 30))

        times = 65_536 * 2 // batch

        def some(session: Session, times=times, ids=ids, grads=grads, turn=turn) -> None:
            for _ in range(times):
                push(session, ids[next(turn) % 8], grads)

        some(with_it)
        some(without)
        took = medians({"with": lambda f=some: f(with_it), "without": lambda f=some: f(without)}, 41)
        found = round((took["with"] / took["without"] - 1) * 100, 1)
        added = round((took["with"] - took["without"]) / times * 1e6, 1)
        print(json.dumps({"what": "exactly-once", "batch": batch, "percent": found, "added_us": added}))


def wires(rows: int = 1_000_000, batch: int = 65_536) -> None:
    """A pull and a push of one batch as each wire type, by carrier."""
    rng = np.random.default_rng(0)
    spec = TableSpec("wires", rows, dim=DIM, optimizer=Adagrad(lr=0.01))
    with local_cluster(shards=2, processes=True, tables=[spec]) as cluster:
        with cluster.connect() as client:
            for _ in fill(client.table("wires").push, rows, DIM):
                pass
        ids = zipf_ids(batch, rows, rng)
        grads = rng.standard_normal((batch, DIM)).astype(np.float32) * 1e-3
        for carrier in ("grpc", "tcp", "auto"):
            with cluster.connect(carrier=carrier) as client:
                table = client.table("wires")
                for op, call in (
                    ("pull", lambda w, t=table: t.pull(ids, wire=w)),
                    ("push", lambda w, t=table: t.push(ids, grads, wire=w)),
                ):
                    took = medians(
                        {w: (lambda w=w, c=call: c(w)) for w in ("float32", "bfloat16", "float16", "int8")},
                        31,
                    )
                    found = {w: round(s * 1e3, 2) for w, s in took.items()}
                    print(json.dumps({"what": f"{op} of {batch:,}, ms", "carrier": carrier, **found}))


def tables(count: int = 26, rows: int = 100_000, dim: int = 16) -> None:
    """A batch of many tables, as of models with many categories: one call for all against one for each."""
    rng = np.random.default_rng(0)
    specs = [TableSpec(f"t{k}", rows, dim=dim, optimizer=Adagrad(lr=0.01)) for k in range(count)]
    with local_cluster(shards=2, processes=True, tables=specs) as cluster:
        for carrier, batch in itertools.product(("auto", "grpc"), (128, 1024)):
            with cluster.connect(carrier=carrier) as client:
                own = [client.table(spec.name) for spec in specs]
                ids = {spec.name: zipf_ids(batch, rows, rng) for spec in specs}
                grads = rng.standard_normal((batch, dim)).astype(np.float32) * 1e-3
                pairs = {name: (some, grads) for name, some in ids.items()}
                calls = {
                    "pull": partial(client.pull, ids),
                    "pulls": partial(each, [partial(t.pull, ids[t.name]) for t in own]),
                    "push": partial(client.push, pairs),
                    "pushes": partial(each, [partial(t.push, ids[t.name], grads) for t in own]),
                    "step": partial(client.step, pairs, ids),
                }
                medians(calls, 5)  # rows come into being, lanes are opened
                found = {name: round(s * 1e3, 2) for name, s in medians(calls, 41).items()}
                print(
                    json.dumps({"what": f"{count} tables, {batch} ids each, ms", "carrier": carrier, **found})
                )


def each(calls: list[Callable[[], object]]) -> None:
    """One after the other."""
    for call in calls:
        call()


def calls(asked: gate.Gate, path: str | None) -> int:
    """The speed gate; its figures also go to the file of that path. Gives the exit code."""
    found = asked.run()
    print(gate.table_of(found))
    if path:
        Path(path).write_text(json.dumps(found, indent=1) + "\n")
    return int(any(case["verdict"] == gate.EXCEEDED for case in found["cases"]))


def main() -> int:
    """All that are named, or all but the gate."""
    keep_freed_memory()
    known: dict[str, Callable[[], int | None]] = {
        "kernel": kernel,
        "ledger": ledger,
        "wires": wires,
        "tables": tables,
    }
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("which", nargs="*", choices=[*known, "calls", []], default=[])
    beside = "calls: the interpreter in which the version to compare with is installed"
    parser.add_argument("--beside", help=beside)
    parser.add_argument("--rounds", type=int, default=gate.ROUNDS, help="calls: half a minute each")
    parser.add_argument("--carriers", nargs="+", choices=gate.CARRIERS, default=gate.CARRIERS, help="calls")
    parser.add_argument("--batches", nargs="+", type=int, default=gate.BATCHES, help="calls: ids in one")
    parser.add_argument("--json", help="calls: a file for the figures")
    args = parser.parse_args()
    which = args.which or list(known)
    if "calls" in which:
        if not (args.beside and shutil.which(args.beside)):
            parser.error(f"calls needs --beside, the path of an interpreter, got {args.beside}")
        try:
            asked = gate.Gate(args.beside, args.rounds, tuple(args.carriers), tuple(args.batches))
        except ValueError as e:
            parser.error(str(e))
        known["calls"] = partial(calls, asked, args.json)
    return max(known[name]() or 0 for name in which)


if __name__ == "__main__":
    sys.exit(main())
