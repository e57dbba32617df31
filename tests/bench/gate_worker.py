"""One version of rowloom under the gate: its own cluster, a client for each carrier, blocks of calls when asked.

Run by its path under the interpreter that has the version: it knows numpy and rowloom's public face, nothing else.
Orders are lines of JSON on stdin, each is answered by one line of JSON on stdout. It ends when stdin does.
"""

import json
import os
import sys
import time
import traceback
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

import rowloom.client
from rowloom.client import Adagrad, TableSpec, keep_freed_memory
from rowloom.deploy import local_cluster

TABLE = "gate"
FILL_ROWS = 65_536
WARM_PART = (
    1 / 8
)  # of a block: caches, sleeping servers and clocks of the cores come back before the first figure
LEAST_CALLS = 3
# From the start of a cluster. Five seconds after theirs, servers move what they have to huge pages, once: a second of
# processor that made the first cases of each round look up to a tenth slower.
SETTLED_S = 9.0


class Version:
    """The cluster, its clients, and what is called.

    Args:
        plan: rows, dim, table_rows, table_dim, carriers, cases (as `gate.Case`), and the path of the inputs.
    """

    def __init__(self, plan: dict) -> None:
        inputs = np.load(plan["inputs"])
        names = [f"{TABLE}{k}" for k in range(len(inputs["tables"][0]))]
        optimizer, began = Adagrad(lr=0.01), time.monotonic()
        specs = [TableSpec(TABLE, plan["rows"], dim=plan["dim"], optimizer=optimizer)]
        specs += [TableSpec(n, plan["table_rows"], dim=plan["table_dim"], optimizer=optimizer) for n in names]
        self._cluster = local_cluster(shards=2, processes=True, tables=specs)
        self._calls: list[list[Callable[[], object]]] = []
        try:
            clients = {carrier: self._cluster.connect(carrier=carrier) for carrier in plan["carriers"]}
            fill(next(iter(clients.values())).table(TABLE).push, plan["rows"], plan["dim"])
            for case in plan["cases"]:
                self._calls.append(calls_of(case, clients[case["carrier"]], inputs, names))
            time.sleep(max(0.0, began + SETTLED_S - time.monotonic()))
        except BaseException:
            self.close()
            raise

    def warm_up(self, case: int) -> None:
        """Every call of a case once."""
        for call in self._calls[case]:
            call()

    def block(self, case: int, seconds: float) -> dict[str, Any]:
        """Call for so many seconds.

        Returns:
            call_ns: of each call; cpu_ns: of this process in all of them.
        """
        calls = self._calls[case]
        spend(calls, seconds * WARM_PART, 1)
        cpu = time.process_time_ns()
        times = spend(calls, seconds, LEAST_CALLS)
        return {"call_ns": times, "cpu_ns": time.process_time_ns() - cpu}

    def close(self) -> None:
        """End the shards."""
        self._cluster.close()


def spend(calls: list[Callable[[], object]], seconds: float, least: int) -> list[int]:
    """Call in turn for so many seconds, at least so often. Gives the nanoseconds of each call."""
    times: list[int] = []
    end = time.perf_counter_ns() + int(seconds * 1e9)
    began = time.perf_counter_ns()
    while began < end or len(times) < least:
        calls[len(times) % len(calls)]()
        now = time.perf_counter_ns()
        times.append(now - began)
        began = now
    return times


def calls_of(case: dict, client: Any, inputs: Any, names: list[str]) -> list[Callable[[], object]]:
    """What a case calls, with each of its batches of ids."""
    op, table, grads = case["op"], client.table(TABLE), inputs["grads"]
    if op.endswith("_tables"):
        own = np.ascontiguousarray(inputs["tables_grads"])
        pulls = [dict(zip(names, some, strict=True)) for some in inputs["tables"]]
        pushes = [{name: (ids, own) for name, ids in some.items()} for some in pulls]
        if op == "pull_tables":
            return [partial(client.pull, ids) for ids in pulls]
        if op == "push_tables":
            return [partial(client.push, pairs) for pairs in pushes]
        return [partial(client.step, a, b) for a, b in zip(pushes, pulls[1:] + pulls[:1], strict=True)]
    if op.endswith("_bags"):
        bags = list(inputs["bags"])
        if op == "pull_bags":
            return [partial(table.pull_bags, ids) for ids in bags]
        return [partial(table.push_bags, ids, None, grads[: len(ids)]) for ids in bags]
    batches, grads = list(inputs[str(case["batch"])]), grads[: case["batch"]]
    wire = {"wire": case["wire"]} if case["wire"] else {}
    if op == "pull":
        return [partial(table.pull, ids, **wire) for ids in batches]
    if op == "push":
        return [partial(table.push, ids, grads, **wire) for ids in batches]
    return [partial(table.step, a, grads, b) for a, b in zip(batches, batches[1:] + batches[:1], strict=True)]


def fill(push: Callable, rows: int, dim: int) -> None:
    """Make every row, by push, so that the slots' memory too is touched before anything is measured."""
    nothing = np.zeros((FILL_ROWS, dim), np.float32)
    for begin in range(0, rows, FILL_ROWS):
        ids = np.arange(begin, min(begin + FILL_ROWS, rows))
        push(ids, nothing[: len(ids)])


def serve(orders: Any, answers: Any) -> None:
    """Answer orders until there are no more."""
    version = None
    try:
        for line in orders:
            order = json.loads(line)
            if order["do"] == "open":
                version = Version(order["plan"])
                answer: dict[str, Any] = {"where": os.path.dirname(os.path.dirname(rowloom.client.__file__))}
            elif version is None:
                raise ValueError(f"{order['do']!r} came before 'open'")
            elif order["do"] == "warm_up":
                version.warm_up(order["case"])
                answer = {}
            else:
                answer = version.block(order["case"], order["seconds"])
            answers.write(json.dumps(answer) + "\n")
            answers.flush()
    except Exception:  # the process's rim: who asked shows it
        answers.write(json.dumps({"error": traceback.format_exc()}) + "\n")
        answers.flush()
    finally:
        if version is not None:
            version.close()


def main() -> None:
    # Whatever else writes to stdout, shards for one, must not come between the answers.
    with os.fdopen(os.dup(1), "w") as answers:
        os.dup2(2, 1)
        keep_freed_memory()
        serve(sys.stdin, answers)


if __name__ == "__main__":
    main()
