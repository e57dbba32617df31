"""What more shards and more rows cost: fan-out from 1 to 64 shard processes, and memory against rows.

`python tests/bench/scale.py --shards 1 2 4 8 16 32 64 --json`
"""

import argparse
import json
import time

import numpy as np

from rowloom.client import Adagrad, Client, Normal, Table, TableSpec
from rowloom.deploy import local_cluster

DIM = 64
FAN_OUT_ROWS, BATCH = 10_000, 1024
MEMORY_ROWS = 2_000_000
BLOCK = 65_536
CARRIERS = ("auto", "tcp", "grpc")


def spec(name: str, rows: int) -> TableSpec:
    return TableSpec(name, rows, dim=DIM, optimizer=Adagrad(lr=0.05), initializer=Normal(std=0.01, seed=1))


def fill(table: Table, rows: int) -> None:
    nothing = np.zeros((BLOCK, DIM), np.float32)
    for begin in range(0, rows, BLOCK):
        ids = np.arange(begin, min(begin + BLOCK, rows))
        table.push(ids, nothing[: len(ids)])


def milliseconds(call, repeats: int) -> float:
    """The median of a call."""
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        call()
        times.append(time.perf_counter() - began)
    return float(np.median(times)) * 1000


def fan_out(shards: list[int], repeats: int) -> list[dict]:
    """Pull and push of one batch on ever more shards, over each carrier."""
    found = []
    rng = np.random.default_rng(0)
    ids = rng.permutation(FAN_OUT_ROWS)[:BATCH]
    grads = np.zeros((BATCH, DIM), np.float32)
    with local_cluster(shards=shards[0], processes=True, tables=[spec("fan-out", FAN_OUT_ROWS)]) as cluster:
        clients = {carrier: cluster.connect(carrier=carrier) for carrier in CARRIERS}
        fill(clients["auto"].table("fan-out"), FAN_OUT_ROWS)
        for n in shards:
            if n != cluster.shards:
                cluster.scale(n)
            for carrier, client in clients.items():
                table = client.table("fan-out")
                table.push(ids, grads)
                cpu = cpu_of(client)
                row = {
                    "shards": n,
                    "carrier": carrier,
                    "pull_ms": milliseconds(lambda t=table: t.pull(ids), repeats),
                    "push_ms": milliseconds(lambda t=table: t.push(ids, grads), repeats),
                }
                row["cpu_us_per_call_and_shard"] = (cpu_of(client) - cpu) / (2 * repeats * n) * 1e6
                found.append(row)
                print(json.dumps(row), flush=True)
    return found


def cpu_of(client: Client) -> float:
    """CPU seconds of the client and of all shards."""
    return time.process_time() + sum(shard["cpu_s"] for shard in client.statistics())


def memory(rows: int) -> dict:
    """Resident bytes of shards against the bytes of the rows and slots that exist."""
    with local_cluster(shards=2, processes=True) as cluster, cluster.connect() as client:
        table = client.create_table(spec("memory", rows))
        empty = sum(s["resident_bytes"] for s in client.statistics())
        fill(table, rows)
        for _ in range(20):
            table.pull(np.arange(BLOCK))
        shards = client.statistics()
        resident = sum(s["resident_bytes"] for s in shards)
        payload = rows * DIM * 4 * 2  # weights and one slot
        return {
            "rows": rows,
            "shards": len(shards),
            "empty_mb": empty / 1e6,
            "rows_and_slots_mb": payload / 1e6,
            "resident_mb": resident / 1e6,
            "with_index_mb": sum(s["bytes"] for s in shards) / 1e6,
            "within_1.05x_plus_200mb_a_shard": bool(resident <= 1.05 * payload + 200e6 * len(shards)),
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shards", type=int, nargs="+", default=[1, 2, 4, 8, 16, 32, 64])
    parser.add_argument("--repeats", type=int, default=200)
    parser.add_argument("--rows", type=int, default=MEMORY_ROWS)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    result = {"fan_out": fan_out(args.shards, args.repeats), "memory": memory(args.rows)}
    print(json.dumps(result) if args.json else json.dumps(result["memory"], indent=2))


if __name__ == "__main__":
    main()
