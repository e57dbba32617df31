"""When a client ends: closed, forked, or let go of by a program that never closed it."""

import gc
import os
import subprocess
import sys
import textwrap
import threading
import time
import weakref

import numpy as np
import pytest
from waiting import PATIENCE_S, until

from rowloom.client import SGD, TableSpec, Zeros, connect
from rowloom.client.carriers.grpc_wire import Callers

SPEC = TableSpec("t", 100, dim=2, optimizer=SGD(lr=1.0), initializer=Zeros())


def run(script: str) -> None:
    """Run a program that must end by itself, well."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", textwrap.dedent(script)],
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def use(address: str, carrier: str) -> None:
    """A client that does all that clients do, and is never closed."""
    table = connect(address, carrier=carrier).table("t")
    table.pull(np.arange(50))
    table.push_async([1], [[1, 1]]).result()
    table.pull_async([1]).result()


def held() -> tuple[int, int]:
    """Descriptors and threads of this process."""
    return len(os.listdir("/proc/self/fd")), threading.active_count()


def test_clients_that_were_let_go_without_close_leave_no_descriptor_and_no_thread(cluster) -> None:
    with connect(cluster.address) as client:
        client.create_table(SPEC)
    for carrier in ("auto", "tcp", "grpc"):
        for _ in range(4):
            use(cluster.address, carrier)
    gc.collect()
    before = held()
    for k in range(200):
        use(cluster.address, ("auto", "tcp", "grpc")[k % 3])
    # The servers run in this process too, and see a connection end a moment later; 200 clients held some 2,000.
    end = time.monotonic() + PATIENCE_S
    while any(now > was + 5 for now, was in zip(held(), before, strict=True)):
        assert time.monotonic() < end, f"{before} descriptors and threads before, {held()} after"
        gc.collect()


def test_a_cluster_does_not_keep_the_clients_that_it_made(cluster) -> None:
    client = cluster.connect()
    kept = cluster.connect()
    seen = weakref.ref(client)
    del client
    gc.collect()
    assert seen() is None
    cluster.close()
    with pytest.raises(ValueError, match="closed"):
        kept.refresh()


def test_the_last_reference_may_be_dropped_by_a_thread_of_the_client_itself(cluster) -> None:
    with connect(cluster.address) as client:
        client.create_table(SPEC)
    client = connect(cluster.address)
    gate, ended = threading.Event(), threading.Event()
    weakref.finalize(client, ended.set)
    pending = client.later(
        lambda table: gate.wait(PATIENCE_S) and table.pull([1]).tolist(), client.table("t")
    )
    del client  # from here on only the call in the background has it
    gate.set()
    assert pending.result(PATIENCE_S) == [[0, 0]]
    assert ended.wait(PATIENCE_S)


def test_a_program_that_never_closes_its_clients_ends() -> None:
    run("""
        from rowloom.client import TableSpec, connect
        from rowloom.deploy import local_cluster
        cluster = local_cluster(shards=2, processes=True)
        first, second = connect(cluster.address), connect(cluster.address, carrier="grpc")
        table = first.create_table(TableSpec("t", 10, dim=2))
        pending = [table.push_async([1], [[1, 1]]), second.table("t").pull_async([1])]
        cycle = [second]
        cycle.append(cycle)
        del second
        for one in pending:
            one.result()
        cluster.close()
    """)


FORK = """
    import os, sys
    from rowloom.client import SGD, InvalidRequest, TableSpec, Zeros
    from rowloom.deploy import local_cluster

    def in_child(call):
        pid = os.fork()
        if not pid:
            try:
                call()
                os._exit(0)
            except BaseException:
                import traceback
                traceback.print_exc()
                os._exit(1)
        assert os.waitpid(pid, 0)[1] == 0

    def refused(call):
        try:
            call()
        except InvalidRequest as e:
            assert "closed" in str(e), e
        else:
            raise AssertionError("a closed client went on")

    with local_cluster(shards=2, processes=True) as cluster:
        client = cluster.connect(timeout_s=120)
        table = client.create_table(TableSpec("t", 100, dim=2, optimizer=SGD(lr=1.0), initializer=Zeros()))
        table.push([9], [[-1, -1]])
"""


def test_a_client_that_was_closed_before_a_fork_stays_closed_in_the_child() -> None:
    run(
        textwrap.dedent(FORK)
        + textwrap.indent(
            textwrap.dedent("""
                client.close()
                refused(lambda: table.pull([9]))
                in_child(lambda: refused(lambda: table.pull([9])))
                in_child(lambda: refused(client.refresh))
                in_child(lambda: refused(lambda: table.push_async([9], [[1, 1]])))
            """),
            "    ",
        )
    )


def test_a_client_closed_or_dropped_in_a_child_stays_closed_there_and_goes_on_in_the_parent() -> None:
    run(
        textwrap.dedent(FORK)
        + textwrap.indent(
            textwrap.dedent("""
                def close_at_once():
                    client.close()
                    refused(lambda: table.pull([9]))

                def use_and_close():
                    table.push([9], [[-1, -1]])
                    table.push_async([9], [[-1, -1]]).result()
                    client.close()
                    refused(lambda: table.pull([9]))

                def let_go():
                    global client, table
                    import gc
                    client = table = None
                    cluster._clients.clear()
                    gc.collect()

                for number, call in enumerate((close_at_once, use_and_close, let_go)):
                    pending = table.pull_async([9])
                    in_child(call)
                    # Begun before the child was, it may end after what that pushes.
                    assert pending.result()[0, 0] in ({1}, {1, 2, 3}, {3})[number]
                    table.push_async([9], [[0, 0]]).result()
                assert table.pull([9])[0, 0] == 3
            """),
            "    ",
        )
    )


def test_a_thread_that_waits_for_its_next_call_holds_nothing_of_the_last() -> None:
    """It kept the message, tens of megabytes perhaps, until another call came along."""
    callers, message = Callers(), np.zeros(1000)
    left = weakref.ref(message)
    callers.run(lambda message=message: None)
    del message
    until(lambda: left() is None)
    callers.close()
