"""A client and what may happen to it: threads, forks, pickles, odd input, deadlines."""

import pickle
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from waiting import least_seconds

from rowloom.client import SGD, Client, InvalidRequest, TableSpec, Unavailable, Zeros, connect

SPEC = TableSpec("t", 100, dim=2, optimizer=SGD(lr=1.0), initializer=Zeros())


@pytest.fixture
def table(client: Client):
    return client.create_table(SPEC)


def test_ids_of_any_integer_type_and_shape_are_taken(table) -> None:
    table.push(np.arange(100), np.repeat(-np.arange(100.0)[:, None], 2, 1))
    for ids in (
        3,
        np.int8(3),
        [3, 4],
        (3, 4),
        [[3], [4]],
        np.array([3], np.uint64),
        range(3, 9),
        np.array(5),
        [],
    ):
        rows = table.pull(ids)
        expected = np.asarray(ids, np.int64)
        assert rows.shape == (*expected.shape, 2)
        assert rows.dtype == np.float32
        np.testing.assert_array_equal(rows[..., 0], expected)
    table.push(3, [1, 1])
    table.push([], np.empty((0, 2)))
    assert table.pull(3)[0] == 2


def test_anything_with_the_face_of_a_cpu_tensor_is_taken(table) -> None:
    class Tensor:
        dtype = "torch.int64"

        def __init__(self, array: np.ndarray) -> None:
            self._array = array

        def detach(self):
            return self

        def cpu(self):
            return self

        def numpy(self) -> np.ndarray:
            return self._array

    table.push(Tensor(np.array([1, 2])), Tensor(np.ones((2, 2), np.float32)))
    np.testing.assert_array_equal(table.pull(Tensor(np.array([2, 1, 0])))[:, 0], [-1, -1, 0])


def test_many_threads_share_a_client(table) -> None:
    def work(_: int) -> None:
        for _ in range(20):
            table.push([7], [[-1, -1]])
            table.pull([7])

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))
    assert table.pull(7)[0] == 160


def test_a_client_and_a_table_pickle_to_ones_that_connect_again(client: Client, table) -> None:
    table.push([1], [[-5, -5]])
    again = pickle.loads(pickle.dumps(table))
    np.testing.assert_array_equal(again.pull([1]), [[5, 5]])
    other = pickle.loads(pickle.dumps(client))
    assert other.table("t").pull(1)[0] == 5
    assert other.address == client.address
    assert other._session.pushers[0].client_id != client._session.pushers[0].client_id
    again.client.close()
    other.close()


@pytest.mark.parametrize("method", ["fork", "spawn"])
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_client_that_was_used_before_works_in_a_child_process(tmp_path, method: str) -> None:
    """As torch's DataLoader workers do it. The shards run in another process, as they do in earnest."""
    script = tmp_path / "parent.py"
    script.write_text(CHILD.replace("METHOD", repr(method)))
    done = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, timeout=200, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["3.0", "3.0"], done.stdout


CHILD = """
import multiprocessing
from rowloom.client import SGD, TableSpec, Zeros
from rowloom.deploy import local_cluster

def use(table):
    table.push([9], [[-1, -1]])
    table.pull([9])

if __name__ == "__main__":
    with local_cluster(shards=2, processes=True) as cluster:
        client = cluster.connect(timeout_s=120)
        table = client.create_table(TableSpec("t", 100, dim=2, optimizer=SGD(lr=1.0), initializer=Zeros()))
        table.push([9], [[-1, -1]])
        context = multiprocessing.get_context(METHOD)
        children = [context.Process(target=use, args=(table,)) for _ in range(2)]
        for child in children:
            child.start()
        for child in children:
            child.join(120)
            assert child.exitcode == 0, child.exitcode
        print(*table.pull(9))
"""


def test_importing_opens_no_socket_and_starts_no_thread() -> None:
    code = (
        "import os, threading; before = set(os.listdir('/proc/self/fd'));"
        "import rowloom.client;"
        "new = [os.readlink('/proc/self/fd/' + f) for f in os.listdir('/proc/self/fd') if f not in before"
        " and os.path.exists('/proc/self/fd/' + f)];"
        "assert not [n for n in new if n.startswith('socket')], new;"
        "assert threading.active_count() == 1, threading.enumerate()"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=200)


def test_nobody_at_the_address_is_unavailable_within_the_deadline() -> None:
    def refused() -> None:
        with pytest.raises(
            Unavailable, match=r"no rowloom cluster answered at 127.0.0.1:1 within the deadline"
        ):
            connect("127.0.0.1:1", timeout_s=0.5)

    assert least_seconds(refused, 5.0) < 5.0


def test_something_else_at_the_address_is_named_as_such(tmp_path) -> None:
    import http.server

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), http.server.SimpleHTTPRequestHandler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        with pytest.raises(Unavailable, match="did not answer"):
            connect(f"127.0.0.1:{server.server_port}", timeout_s=1.0)
    finally:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"address": "nowhere"}, 'address must be "host:port"'),
        ({"address": "h:1", "timeout_s": 0}, "timeout_s must be above 0 .*, got 0"),
        ({"address": "h:1", "token": "x"}, "the token is not sent to h:1 in plain text"),
        ({"address": "h:1", "tls": True}, "tls must be such as Tls"),
        ({"address": "h:1", "token": b"x"}, "token must be a text that is not empty$"),
        ({"address": "h:1", "token": ""}, "token must be a text that is not empty$"),
        ({"address": "h:1", "ca": 7}, "ca must be a text that is not empty or a path, got 7"),
        ({"address": "h:1", "ca": "no-such.pem"}, r"the CA's certificate no-such\.pem cannot be read"),
        ({"address": "h:1", "carrier": "pigeon"}, r"carrier must be .*'pigeon'"),
    ],
)
def test_wrong_arguments_of_connect_are_named(arguments: dict, message: str) -> None:
    with pytest.raises(InvalidRequest, match=message):
        connect(**arguments)


def test_a_closed_client_says_so(client: Client, table) -> None:
    client.close()
    with pytest.raises(InvalidRequest, match="closed"):
        table.pull([1])


def test_arrays_may_be_changed_while_a_push_is_in_the_background(table) -> None:
    ids, grads = np.array([1, 2]), np.full((2, 2), -1.0, np.float32)
    pending = [table.push_async(ids, grads) for _ in range(5)]
    ids[:] = 50
    grads[:] = 99
    for p in pending:
        p.result(60)
    assert table.pull([1, 2, 50])[:, 0].tolist() == [5, 5, 0]


def test_statistics_count_what_was_done(client: Client, table) -> None:
    table.push(np.arange(10), np.ones((10, 2)))
    table.pull(np.arange(30))
    shards = client.statistics()
    assert sum(s["rows"] for s in shards) == 10
    assert sum(s["pushed_rows"] for s in shards) == 10
    assert sum(s["pulled_rows"] for s in shards) == 30
    assert all(s["resident_bytes"] > 0 and s["cpu_s"] > 0 for s in shards)


def test_tables_are_listed_found_and_dropped(client: Client, table) -> None:
    other = client.create_table(TableSpec("u", None, dim=(2, 3)))
    assert [t.name for t in client.tables()] == ["t", "u"]
    assert client.create_table(SPEC).spec == table.spec  # the same again is the same
    assert other.pull([[2**62]]).shape == (1, 1, 2, 3)
    client.drop_table("u")
    assert [t.name for t in client.tables()] == ["t"]
