"""Bags pooled on the shards beside rows pulled and combined on the client: bytes and time of a training step.

    python tests/bench/bags.py [--carrier tcp] [--bags 4096] [--ids 20]

Prints one table. A step is a pull and a push. Both ways take turns, so that both see the same weather.
"""

import argparse
import time

import numpy as np

from rowloom.client import Adagrad, TableSpec, connect
from rowloom.client.lookups.bags import bags_in
from rowloom.client.lookups.pooling import pooled, pooled_gradient
from rowloom.deploy import local_cluster
from rowloom.proto.framing import size_of

ROWS, DIM, ROUNDS = 1_000_000, 64, 15
MB = 1e6


class Bytes:
    """Counts the messages of a client, requests and replies, without heads of any carrier."""

    def __init__(self, client) -> None:
        self.count = 0
        run = client._run
        client._run = lambda operation: run(self._counted(operation))

    def _counted(self, operation):
        event = None
        while True:
            try:
                turn = operation.send(event)
            except StopIteration as end:
                return end.value
            self.count += sum(size_of(send.buffers) for send in turn.sends)
            event = yield turn
            self.count += len(event.data) if event is not None else 0

    def of(self, call) -> float:
        before = self.count
        call()
        return (self.count - before) / MB


def zipf(rng: np.random.Generator, size: tuple[int, int]) -> np.ndarray:
    """Ids of 1 to ROWS with probabilities 1 / rank^1.05, scattered over the table."""
    weights = np.cumsum(np.arange(1, ROWS + 1) ** -1.05)
    ranks = np.searchsorted(weights, rng.random(size) * weights[-1])
    return rng.permutation(ROWS)[ranks]


def median_ms(calls: dict) -> dict[str, float]:
    """Medians over interleaved rounds."""
    times = {name: [] for name in calls}
    for _ in range(ROUNDS):
        for name, call in calls.items():
            began = time.perf_counter()
            call()
            times[name].append(time.perf_counter() - began)
    return {name: float(np.median(some)) * 1e3 for name, some in times.items()}


def measure(client, ids: np.ndarray, combiner: str) -> list[tuple[str, float, float]]:
    """(what, MB, ms) of each operation."""
    table, counter = client.table("bags"), Bytes(client)
    bags = bags_in(ids)
    grads = np.full((len(ids), DIM), 1e-3, np.float32)
    calls = {
        "pull, combine": lambda: pooled(table.pull(ids.reshape(-1)), bags, combiner),
        "pull_bags": lambda: table.pull_bags(ids, combiner=combiner),
        "expand, push": lambda: table.push(ids.reshape(-1), pooled_gradient(grads, bags, combiner)),
        "push_bags": lambda: table.push_bags(ids, None, grads, combiner=combiner),
    }
    size = {name: counter.of(call) for name, call in calls.items()}
    took = median_ms(calls)
    return [(name, size[name], took[name]) for name in calls]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--carrier", default="auto")
    parser.add_argument("--shards", type=int, default=2)
    parser.add_argument("--bags", type=int, default=4096)
    parser.add_argument("--ids", type=int, default=20)
    args = parser.parse_args()
    rng = np.random.default_rng(0)
    size = (args.bags, args.ids)
    print(f"{args.shards} shards, {args.carrier}, {args.bags} bags of {args.ids} ids, {ROWS} x {DIM} float32")
    print(f"{'ids':8} {'combiner':8} {'operation':14} {'MB':>7} {'ms':>7} {'M ids/s':>8}")
    with local_cluster(shards=args.shards, processes=True) as cluster:
        with connect(cluster.address) as client:
            table = client.create_table(TableSpec("bags", ROWS, dim=DIM, optimizer=Adagrad(lr=0.01)))
            for begin in range(0, ROWS, 50_000):
                table.push(np.arange(begin, begin + 50_000), np.full((50_000, DIM), 1e-3, np.float32))
        for name, ids in (("uniform", rng.integers(0, ROWS, size)), ("zipf", zipf(rng, size))):
            for combiner in ("sum", "mean"):
                with connect(cluster.address, carrier=args.carrier) as client:
                    for what, megabytes, ms in measure(client, ids, combiner):
                        rate = ids.size / ms / 1e3
                        print(f"{name:8} {combiner:8} {what:14} {megabytes:7.2f} {ms:7.1f} {rate:8.2f}")


if __name__ == "__main__":
    main()
