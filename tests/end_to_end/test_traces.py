"""Spans of OpenTelemetry: from a trainer's own, through a call and a request, to the shard, on every carrier."""

import math
import os
import pickle
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from waiting import until

from rowloom.client import InvalidRequest, TableNotFound, TableSpec, connect
from rowloom.client.carriers.transport import CARRIERS
from rowloom.client.spans import TraceRate
from rowloom.deploy import local_cluster
from rowloom.server.call import Call, Caller
from rowloom.server.metrics import spans

sdk = pytest.importorskip(
    "opentelemetry.sdk.trace", reason="OpenTelemetry is not installed: pip install 'rowloom[otel]'"
)
from opentelemetry import trace  # noqa: E402
from opentelemetry.sdk.trace.export import SimpleSpanProcessor  # noqa: E402
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter  # noqa: E402

ENDPOINT = "http://127.0.0.1:9/v1/traces"  # nobody listens there
USERS = TableSpec("users", 1000, dim=2)
PROVIDER = sdk.TracerProvider(shutdown_on_exit=False)
trace.set_tracer_provider(PROVIDER)  # once in a process


@pytest.fixture
def made():
    """What a trainer's spans are exported to."""
    exporter = InMemorySpanExporter()
    processor = SimpleSpanProcessor(exporter)
    PROVIDER.add_span_processor(processor)
    yield exporter
    exporter.shutdown()


@pytest.fixture
def answered(monkeypatch):
    """What the spans of shards in this process are exported to, instead of a collector: each has one."""
    exporters: list[InMemorySpanExporter] = []

    def another(endpoint: str) -> InMemorySpanExporter:
        exporters.append(InMemorySpanExporter())
        return exporters[-1]

    monkeypatch.setattr(spans, "exporter_to", another)
    return exporters


def by_name(*exporters: InMemorySpanExporter) -> dict[str, list]:
    found: dict[str, list] = {}
    for exporter in exporters:
        for span in exporter.get_finished_spans():
            found.setdefault(span.name, []).append(span)
    return found


@pytest.mark.parametrize("carrier", CARRIERS)
def test_a_call_is_one_trace_from_the_trainer_to_each_shard(carrier, made, answered):
    ids = np.arange(10)
    with local_cluster(shards=2, tables=[USERS], tracing={"otlp_endpoint": ENDPOINT}) as cluster:
        with cluster.connect(carrier=carrier, tracing=True) as client:
            users = client.table("users")
            with trace.get_tracer("trainer").start_as_current_span("a step of training") as mine:
                before = users.pull(ids)
                after = users.step(ids, np.ones((10, 2), np.float32), ids)
                users.push(ids, np.ones((10, 2), np.float32))
                users.pull_bags([[1, 2], [3, 4]])
                users.pull_async(ids).result()
            assert not np.array_equal(before, after)
        with cluster.connect(carrier=carrier) as untraced:  # has no spans
            assert untraced.table("users").pull(ids).shape == (10, 2)
    found, served = by_name(made), by_name(*answered)
    assert {
        span.context.trace_id for some in (found, served) for spans in some.values() for span in spans
    } == {mine.get_span_context().trace_id}
    assert {name: len(spans) for name, spans in found.items() if name.startswith("rowloom ")} == {
        "rowloom pull": 2,
        "rowloom step": 1,
        "rowloom push": 1,
        "rowloom pull_bags": 1,
    }
    asked = {method: served[f"rowloom.v1.Shard/{method}"] for method in ("Pull", "Step", "Push", "PullBags")}
    assert {method: len(spans) for method, spans in asked.items()} == {
        "Pull": 4,
        "Step": 2,
        "Push": 2,
        "PullBags": 2,
    }
    calls = {"Pull": "pull", "Step": "step", "Push": "push", "PullBags": "pull_bags"}
    for method, answers in asked.items():
        parents = {span.parent.span_id for span in answers}
        assert parents == {span.context.span_id for span in found[f"rowloom {calls[method]}"]}
        assert {span.kind.name for span in answers} == {"SERVER"}
        assert {span.attributes["rowloom.carrier"] for span in answers} == {
            "grpc" if carrier == "grpc" else "lane"
        }
    (push,) = found["rowloom push"]
    assert dict(push.attributes) == {"rowloom.tables": ("users",), "rowloom.ids": 10}


def test_a_pull_that_a_standby_answers_has_a_span_there(made, answered):
    with local_cluster(shards=1, replicas=1, tables=[USERS], tracing={"otlp_endpoint": ENDPOINT}) as cluster:
        state = cluster._server.coordinator
        until(lambda: state.state.standby_in_step(0))
        with cluster.connect(tracing=True, read_from="nearest") as client:
            users = client.table("users")

            def answered_by_both() -> bool:
                users.pull([1, 2])
                spans = [by_name(one).get("rowloom.v1.Shard/Pull", []) for one in answered]
                return sum(any(span.status.is_ok for span in some) for some in spans) == 2

            until(answered_by_both)
    parents = {span.context.span_id for span in by_name(made)["rowloom pull"]}
    assert {span.parent.span_id for span in by_name(*answered)["rowloom.v1.Shard/Pull"]} == parents


def test_an_error_is_told_by_its_class_and_without_ids(made, answered):
    id = 987_654_321_012  # 987 was there by chance, in the random ids of a trace
    with (
        local_cluster(
            shards=1, tables=[TableSpec("users", id + 1, dim=2)], tracing={"otlp_endpoint": ENDPOINT}
        ) as cluster,
        cluster.connect(tracing=True) as client,
        cluster.connect() as other,
    ):
        users = client.table("users")
        other.drop_table("users")
        with pytest.raises(TableNotFound):
            users.pull([id])
    for some, name in (([made], "rowloom pull"), (answered, "rowloom.v1.Shard/Pull")):
        (span,) = by_name(*some)[name]
        assert span.attributes["error.type"] == "TableNotFound"
        assert not span.status.is_ok
        assert span.status.description is None
        assert [(e.name, dict(e.attributes)) for e in span.events] == (
            [("a request failed", {"error.type": "TableNotFound"})] if some == [made] else []
        )
        assert str(id) not in str(span.to_json())


@pytest.mark.parametrize("traced", [True, False])
def test_a_shard_without_tracing_answers_traced_clients_and_one_with_it_others(traced, made, answered):
    more = {} if traced else {"tracing": {"otlp_endpoint": ENDPOINT}}
    with (
        local_cluster(shards=1, tables=[USERS], **more) as cluster,
        cluster.connect(tracing=traced) as client,
    ):
        users = client.table("users")
        users.push([1], [[1.0, 1.0]])
        assert users.step([1], [[1.0, 1.0]], [1, 2]).shape == (2, 2)
    assert not by_name(*answered)
    assert bool(made.get_finished_spans()) == traced


def test_a_shard_process_sends_its_spans_to_the_collector(made):
    got: list[bytes] = []

    class Collector(BaseHTTPRequestHandler):
        def do_POST(self):
            got.append(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_):
            pass

    collector = HTTPServer(("127.0.0.1", 0), Collector)
    thread = threading.Thread(target=collector.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        endpoint = {"otlp_endpoint": f"http://127.0.0.1:{collector.server_port}/v1/traces"}
        with (
            local_cluster(shards=1, processes=True, tables=[USERS], tracing=endpoint) as cluster,
            cluster.connect(tracing=True) as client,
        ):
            client.table("users").pull([1, 2])
    finally:
        collector.shutdown()
        thread.join()
        collector.server_close()
    (span,) = by_name(made)["rowloom pull"]
    (sent,) = [data for data in got if b"rowloom.v1.Shard/Pull" in data]
    assert span.context.trace_id.to_bytes(16, "big") in sent
    assert b"rowloom-shard" in sent


def test_what_is_missing_or_wrong_is_said():
    code = (
        "import sys; sys.modules['opentelemetry'] = None\n"
        "from rowloom.client import connect\n"
        "try: connect('127.0.0.1:1', tracing=True)\n"
        "except ValueError as e: print(e)\n"
        "from rowloom.server.metrics.spans import Spans\n"
        "try: Spans('http://127.0.0.1:9')\n"
        "except ValueError as e: print(e)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=os.environ, timeout=100
    )
    assert done.stdout.count("pip install 'rowloom[otel]'") == 2, done.stderr
    for wrong in ("yes", 0, -1, float("nan"), None):
        with pytest.raises(
            InvalidRequest, match=rf"tracing must be True, False or how many .*got {wrong!r}; "
        ):
            connect("127.0.0.1:1", tracing=wrong)  # type: ignore[arg-type]


def test_a_client_begins_so_many_traces_a_second_and_none_are_missing_within_a_span_of_the_trainer(made):
    with (
        local_cluster(shards=1, tables=[USERS]) as cluster,
        cluster.connect(tracing=1e-6) as rarely,
        cluster.connect(tracing=math.inf) as always,
    ):
        for client, count in ((rarely, 1), (always, 20)):
            made.clear()
            for _ in range(20):
                client.table("users").pull([1])
            assert len(by_name(made)["rowloom pull"]) == count
        made.clear()
        with trace.get_tracer("trainer").start_as_current_span("a step of training"):
            for _ in range(20):
                rarely.table("users").pull([1])
        assert len(by_name(made)["rowloom pull"]) == 20
        assert pickle.loads(pickle.dumps(rarely))._spans.per_second == 1e-6


@given(
    st.floats(0.5, 1000), st.lists(st.tuples(st.floats(0, 3), st.integers(0, 300)), min_size=1, max_size=20)
)
def test_a_budget_is_never_exceeded_and_never_lost(per_second, bursts):
    now = 0.0
    budget = TraceRate(per_second, lambda: now)
    most, taken = max(1.0, per_second / 5), 0
    for pause, calls in bursts:
        now += pause
        mine = 0
        for _ in range(calls):
            if budget.left():
                budget.take()
                mine += 1
        taken += mine
        assert mine <= most + 1e-6
        assert taken <= most + now * per_second + 1e-6
        if pause * per_second >= 1:
            assert mine >= min(calls, 1)


def test_answers_that_get_no_span_are_said(answered, monkeypatch, caplog):
    monkeypatch.setattr(spans, "MOST_WAITING", 3)
    monkeypatch.setattr(spans, "EVERY_S", 60.0)
    made = spans.Spans(ENDPOINT)
    call = Call("/rowloom.v1.Shard/Pull", b"", Caller("lane"))
    for _ in range(5):
        made.around(call, bytes(range(24)) + b"\1", lambda call: [])
    made.close()
    (exporter,) = answered
    assert len(exporter.get_finished_spans()) == 3
    assert "2 spans were left out: more than 3 came in 60 s" in caplog.text
