"""What is asked of a cluster besides rows costs a step of 16,384 ids: traces, metrics, TLS. One line of JSON each.

`python tests/bench/overheads.py [traces] [metrics] [tls]`; traces take `pip install 'rowloom[otel]'`

Trainers take turns by some hundreds of steps, about a second, as what is measured here happens beside the calls and not
with each of them: the seconds of a whole turn count. Medians of `--turns`, 7 if not said. Beside the time that a step
takes stands what the processors of trainer and servers do for it, which other users of the machine disturb far less.
The first kind stands twice: how much the two differ is what the machine does by itself. Where kinds cannot have the
same client, each turn has one of its own: by where its memory lies, one may be a tenth faster than its like for good.
"""

import argparse
import itertools
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from costs import DIM, each, medians

from rowloom.client import Adagrad, Client, TableSpec, connect
from rowloom.deploy import local_cluster
from rowloom.deploy.bench.workload import zipf_ids
from rowloom.deploy.launch.processes import cpu_s
from rowloom.proto.allocator import keep_freed_memory

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))
from secured import SecuredFolder

BATCH, ROWS, STEPS, TURNS = 16_384, 1_000_000, 500, 7
SPEC = TableSpec("t", ROWS, dim=DIM, optimizer=Adagrad(lr=0.01))
CARRIERS = ("auto", "tcp", "grpc")


def step_of(client: Client) -> Callable[[], object]:
    """One on the table of all measurements."""
    rng = np.random.default_rng(0)
    ids, grads = zipf_ids(BATCH, ROWS, rng), rng.standard_normal((BATCH, DIM)).astype(np.float32) * 1e-3
    return partial(client.table("t").step, ids, grads, ids)


def children(pid: int) -> list[int]:
    """The processes that a process has started and that run."""
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        with suppress(FileNotFoundError):  # a thread that has ended
            found += map(int, (task / "children").read_text().split())
    return found


class Turns:
    """Measures kinds of steps in turns, and prints two lines for each carrier: time, and time of processors.

    Args:
        number: of turns that each kind gets.
        servers: their processes.
    """

    def __init__(self, number: int, servers: list[int]) -> None:
        self._number = number
        self._processes = [os.getpid(), *servers]

    def __call__(self, carrier: str, kinds: dict[str, Callable[[], object]]) -> None:
        """Two lines: milliseconds of a step of each kind, and how much more the others take than the first."""
        first = next(iter(kinds))
        spent: dict[str, list[float]] = {name: [] for name in kinds}

        def counted(name: str) -> None:
            before = self._busy()
            kinds[name]()
            spent[name].append(self._busy() - before)

        turns: dict[str, Callable[[], object]] = {name: partial(counted, name) for name in kinds}
        medians(turns, 1)
        spent.update({name: [] for name in kinds})
        took = medians(turns, self._number)
        for what, found in (
            ("time", took),
            ("processor time", {name: statistics.median(some) for name, some in spent.items()}),
        ):
            of_step = {name: round(seconds / STEPS * 1e3, 3) for name, seconds in found.items()}
            more = {
                f"{name}, more": round(found[name] / found[first] - 1, 4) for name in found if name != first
            }
            line = {"what": f"{what} of a step of {BATCH:,}, ms", "carrier": carrier, **of_step, **more}
            print(json.dumps(line), flush=True)

    def _busy(self) -> float:
        """Seconds that processors have worked for the trainer and the servers."""
        return sum(map(cpu_s, self._processes))


def steps_of(clients: Iterable[Client]) -> Callable[[], object]:
    """A turn: the steps of one client, and the next time of the next."""
    steps = [step_of(client) for client in clients]
    each(steps)  # they have met their shards
    known = itertools.cycle(steps)
    return lambda: each([next(known)] * STEPS)


COLLECTOR = """
from http.server import BaseHTTPRequestHandler, HTTPServer
class Collector(BaseHTTPRequestHandler):
    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.end_headers()
    def log_message(self, format, *args):
        pass
server = HTTPServer(("127.0.0.1", 0), Collector)
print(server.server_port, flush=True)
server.serve_forever()
"""


@contextmanager
def collecting() -> Iterator[str]:
    """The URL of what takes spans, in a process of its own: nobody has his collector in his trainer."""
    collector = subprocess.Popen([sys.executable, "-c", COLLECTOR], stdout=subprocess.PIPE, text=True)
    try:
        assert collector.stdout is not None
        yield f"http://127.0.0.1:{int(collector.stdout.readline())}/v1/traces"
        assert collector.poll() is None, "the collector ended"
    finally:
        collector.kill()
        collector.wait()


def traces(turns: int) -> None:
    """Clients without spans, one with those that `tracing=True` begins, one with a span of every call."""
    from opentelemetry import trace
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    os.environ["OTEL_BSP_SCHEDULE_DELAY"] = "250"  # ms, not 5,000: spans are sent in the turn that made them
    provider = TracerProvider()
    provider.add_span_processor(BatchSpanProcessor(InMemorySpanExporter()))
    trace.set_tracer_provider(provider)
    with collecting() as url:
        others = children(os.getpid())
        with local_cluster(
            shards=2, processes=True, tables=[SPEC], tracing={"otlp_endpoint": url}
        ) as cluster:
            told = Turns(turns, [pid for pid in children(os.getpid()) if pid not in others])
            for carrier in CARRIERS:
                with ExitStack() as stack:
                    some = partial(connected, stack, turns + 1, cluster.connect, carrier=carrier)
                    kinds = {"traces off": some(), "again": some(), "on": some(tracing=True)}
                    told(carrier, kinds | {"every call": some(tracing=math.inf)})


def connected(
    stack: ExitStack, number: int, connect: Callable[..., Client], **how: Any
) -> Callable[[], object]:
    """Turns of so many clients of one kind, which are closed with `stack`."""
    return steps_of([stack.enter_context(connect(**how)) for _ in range(number)])


READER = """
import json, sys, time, urllib.request
def read(address):
    return urllib.request.urlopen(f"http://{address}", timeout=10).read()
targets = [one for group in json.loads(read(sys.argv[1] + "/targets")) for one in group["targets"]]
while True:
    began = time.monotonic()
    for target in targets:
        assert b"rowloom_" in read(target + "/metrics")
    time.sleep(max(0.0, began + 1 - time.monotonic()))
"""


@contextmanager
def read_each_second(address: str) -> Iterator[None]:
    """Somebody reads the metrics of all processes meanwhile, as a Prometheus in a hurry would."""
    reader = subprocess.Popen([sys.executable, "-c", READER, address])
    try:
        yield
        assert reader.poll() is None, "the reader ended"
    finally:
        reader.kill()
        reader.wait()


def metrics(turns: int) -> None:
    """Steps while nobody reads metrics, and while they are read each second. They are counted in any case."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "deploy.yaml"
        file.write_text("name: metrics\nshards: 2\nmetrics: {port: 0}\n")
        rowloom = [sys.executable, "-m", "rowloom.deploy.cli"]
        home = ["--home", folder]
        subprocess.run([*rowloom, "up", str(file), *home], check=True, stdout=subprocess.DEVNULL)
        try:
            status = subprocess.run(
                [*rowloom, "status", *home, "--json"], check=True, capture_output=True, text=True
            )
            known = json.loads(status.stdout)
            coordinator = json.loads((Path(folder) / "clusters/metrics.json").read_text())["pid"]
            told = Turns(turns, [coordinator, *children(coordinator)])
            for carrier in CARRIERS:
                with ExitStack() as stack:
                    stack.enter_context(connect(known["coordinator"])).create_table(SPEC)
                    steps = connected(stack, 1, partial(connect, known["coordinator"]), carrier=carrier)

                    def read(steps: Callable[[], object] = steps) -> None:
                        with read_each_second(known["metrics"]):
                            steps()

                    told(carrier, {"nobody reads": steps, "again": steps, "read each second": read})
        finally:
            subprocess.run([*rowloom, "down", *home, "--yes"], check=True, stdout=subprocess.DEVNULL)


def tls(turns: int) -> None:
    """A cluster in plain text beside one with TLS and tokens."""
    with tempfile.TemporaryDirectory() as path:
        folder = SecuredFolder(Path(path) / "secured")
        with (
            local_cluster(shards=2, processes=True, tables=[SPEC]) as plain,
            local_cluster(
                shards=2, processes=True, tables=[SPEC], name="secured", security=folder.section()
            ) as secured,
        ):
            told = Turns(turns, children(os.getpid()))
            for carrier in CARRIERS:
                with ExitStack() as stack:
                    some = partial(connected, stack, turns + 1, carrier=carrier)
                    kinds = {"plain": some(plain.connect), "again": some(plain.connect)}
                    told(carrier, kinds | {"TLS and token": some(secured.connect, **folder.shown())})


def main() -> None:
    """All that are named, or all."""
    keep_freed_memory()
    known: dict[str, Callable[[int], None]] = {"traces": traces, "metrics": metrics, "tls": tls}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("which", nargs="*", choices=[*known, []], default=[])
    parser.add_argument("--turns", type=int, default=TURNS, help="of each kind of step")
    asked = parser.parse_args()
    for name in asked.which or list(known):
        known[name](asked.turns)


if __name__ == "__main__":
    main()
