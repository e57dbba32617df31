"""What callers give a client: addresses, deadlines, names, rates; what is wrong is refused by name."""

import threading

import grpc
import numpy as np
import pytest

from rowloom.client import (
    SGD,
    Client,
    HotRows,
    InvalidRequest,
    TableNotFound,
    TableSpec,
    Unavailable,
    WarmUp,
    Zeros,
    connect,
)

SPEC = TableSpec("t", 100, dim=2, optimizer=SGD(lr=1.0), initializer=Zeros())
NAMES = [
    7,
    None,
    "",
    "users/items",
    "..",
    "-users",
    "a b",
    "a\nb",
    "a\0b",
    "\ud800",
    "größe",
    "x" * 129,
    b"users",
]


@pytest.fixture
def table(client: Client):
    return client.create_table(SPEC)


# ------------------------------------------------------------------------------------------------------------- names


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_what_is_no_name_is_refused_by_one_rule_everywhere(client: Client, name) -> None:
    rule = "table name must be 1 to 128 letters"
    for call in (
        lambda: TableSpec(name),
        lambda: client.table(name),
        lambda: client.drop_table(name),
        lambda: client.set_lr(name, 0.5),
        lambda: client.pull({name: [1]}),
        lambda: client.push({name: ([1], [[1, 1]])}),
        lambda: client.step({name: ([1], [[1, 1]])}, {}),
    ):
        with pytest.raises(InvalidRequest, match=rule) as caught:
            call()
        str(caught.value).encode()  # the message can be written down, whatever the name was


def test_a_name_that_nothing_has_is_still_not_found(client: Client, table) -> None:
    for call in (lambda: client.table("u"), lambda: client.drop_table("u"), lambda: client.set_lr("u", 0.5)):
        with pytest.raises(TableNotFound, match="'u'"):
            call()


# ------------------------------------------------------------------------------------------------- addresses, seconds


@pytest.mark.parametrize(
    "address",
    [
        "host",
        "host:",
        ":7400",
        "host:abc",
        "host:0",
        "host:65536",
        "host:-1",
        "host: 7400",
        "http://host:7400",
        "::1:7400",
        "::1",
        "[::1]",
        "host:7400/x",
        "host:7400\n",
        "host:\uff17\uff14\uff10\uff10",
        "",
        7400,
        None,
        b"host:7400",
        ["host:7400", 7],
        [["host:7400"]],
        {"host": 7400},
    ],
    ids=ascii,
)
def test_what_is_no_address_is_refused_in_one_line(address) -> None:
    with pytest.raises(InvalidRequest, match='address must be "host:port"') as caught:
        connect(address)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "address", ["me:s3cret@host:7400", "host:7400?token=s3cret", "rowloom://s3cret@host", ["s3cret@h:1"]]
)
def test_an_error_repeated_the_token_in_an_address(address) -> None:
    with pytest.raises(InvalidRequest, match=r"got '.*h") as caught:
        connect(address)
    assert "s3cret" not in str(caught.value)


def test_no_address_at_all_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="several of them; got none"):
        connect([])


@pytest.mark.parametrize("address", ["[::1]:7400", "127.0.0.1:1", "a-b.example_1.org:65535", "localhost:80"])
def test_addresses_of_every_kind_are_taken(address: str) -> None:
    assert Client(address).address == Client([address, address]).address == address


@pytest.mark.parametrize(
    "seconds",
    [0, -1, float("nan"), float("inf"), -float("inf"), "60", None, True, 1e10, 10**400, [1]],
    ids=ascii,
)
def test_a_timeout_that_is_no_number_of_seconds_is_refused(seconds) -> None:
    with pytest.raises(InvalidRequest, match=r"timeout_s must be above 0 and at most 1e\+09, got "):
        connect("127.0.0.1:1", timeout_s=seconds)


@pytest.mark.parametrize("carrier", ["auto", "tcp", "grpc"])
def test_the_longest_timeout_that_is_taken_can_be_waited_for(cluster, carrier: str) -> None:
    with connect(cluster.address, timeout_s=1e9, carrier=carrier) as client:
        table = client.create_table(SPEC)
        table.push([1], [[1, 1]])
        assert table.pull([1]).tolist() == [[-1, -1]]


@pytest.mark.parametrize("carrier", ["", "GRPC", None, 0, ["grpc"]])
def test_a_carrier_that_is_none_is_refused(carrier) -> None:
    with pytest.raises(InvalidRequest, match="carrier must be one of auto, tcp, grpc, got "):
        Client("127.0.0.1:1", carrier=carrier)


@pytest.mark.parametrize("wire", ["", "FLOAT32", 0, (), ["float32"]])
@pytest.mark.parametrize("cache", [None, HotRows(10, max_age_s=60.0)], ids=["plain", "cached"])
def test_a_wire_that_is_empty_is_not_taken_as_none(cluster, cache, wire) -> None:
    with cluster.connect(cache=cache) as client:
        table = client.create_table(SPEC)
        for call in (
            lambda: table.pull([1], wire=wire),
            lambda: table.push([1], [[1, 1]], wire=wire),
            lambda: table.step([1], [[1, 1]], [1], wire=wire),
            lambda: table.pull_async([1], wire=wire).result(),
            lambda: client.pull({"t": []}, wire=wire),
            lambda: client.push({"t": ([], np.empty((0, 2)))}, wire=wire),
        ):
            with pytest.raises(InvalidRequest, match="wire must be one of float32"):
                call()
        assert table.pull([1]).tolist() == [[0, 0]]


# -------------------------------------------------------------------------------------------------- the wrong neighbour


@pytest.fixture
def others():
    """What else may answer at an address: a gRPC server without our methods, one that says anything, HTTP, nobody."""
    import http.server
    import socket

    class Anything(grpc.GenericRpcHandler):
        def service(self, handler_call_details):
            return grpc.unary_unary_rpc_method_handler(lambda request, context: b"\xff not ours")

    from concurrent.futures import ThreadPoolExecutor

    started = []
    addresses = {}
    for name, handlers in (("grpc", ()), ("garbage", (Anything(),))):
        server = grpc.server(ThreadPoolExecutor(2), handlers)
        addresses[name] = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
        server.start()
        started.append(server)
    web = http.server.ThreadingHTTPServer(("127.0.0.1", 0), http.server.SimpleHTTPRequestHandler)
    threading.Thread(target=web.serve_forever, daemon=True).start()
    addresses["http"] = f"127.0.0.1:{web.server_port}"
    silent = socket.create_server(("127.0.0.1", 0))  # takes connections, and never says a word
    addresses["silent"] = f"127.0.0.1:{silent.getsockname()[1]}"
    addresses["dead"] = "127.0.0.1:1"
    yield addresses
    silent.close()
    web.shutdown()
    web.server_close()
    for server in started:
        server.stop(0).wait()


@pytest.mark.parametrize("what", ["grpc", "garbage", "http", "silent", "dead"])
def test_something_else_at_the_first_address_does_not_hide_the_cluster_at_the_second(
    cluster, others, what
) -> None:
    with connect([others[what], cluster.address], timeout_s=60) as client:
        assert client.address == cluster.address
        assert client.tables() == []


def test_the_error_names_what_each_address_said(others) -> None:
    for timeout_s in (4.0, 40.0):  # the second time only where nobody was heard in time
        with pytest.raises(Unavailable) as caught:
            connect([others["grpc"], others["http"], others["dead"]], timeout_s=timeout_s)
        message = str(caught.value)
        if all(others[name] in message for name in ("grpc", "http", "dead")):
            break
    assert f"what answers at {others['grpc']} is no rowloom server of this version" in message
    assert f"{others['http']} did not answer" in message
    assert f"{others['dead']} did not answer" in message


@pytest.mark.parametrize("what", ["grpc", "garbage"])
def test_servers_that_are_none_of_ours_are_refused_without_waiting(others, what) -> None:
    with pytest.raises(InvalidRequest, match=f"what answers at {others[what]} is no rowloom server"):
        connect(others[what], timeout_s=600)
    with pytest.raises(
        InvalidRequest, match=f"at {others['grpc']} is no .*; what answers at {others['garbage']} is no"
    ):
        connect([others["grpc"], others["garbage"]], timeout_s=600)


# ------------------------------------------------------------------------------------------------------ learning rates


@pytest.mark.parametrize(
    "lr", [np.float32(0.25), np.float64(0.25), np.float16(0.25), np.int64(1), 1, 0.25], ids=repr
)
def test_a_rate_of_numpy_is_taken(client: Client, table, lr) -> None:
    table.set_lr(lr)
    table.push([1], [[4, 4]])
    assert table.pull([1]).tolist() == [[-4 * float(lr)] * 2]
    assert table.spec.optimizer == SGD(lr=float(lr))


@pytest.mark.parametrize(
    "lr",
    [1e39, 10**400, -0.5, float("nan"), float("inf"), np.float64(1e39), True, np.True_, "0.5", None, [0.5]],
    ids=ascii,
)
def test_a_rate_that_float32_does_not_hold_is_refused_and_nothing_changes(client: Client, table, lr) -> None:
    for call in (lambda: table.set_lr(lr), lambda: client.set_lr("t", lr)):
        with pytest.raises(
            InvalidRequest, match=r"lr must be finite, at least 0 and at most 3\.4028235e\+38"
        ):
            call()
    table.push([1], [[1, 1]])
    assert table.pull([1]).tolist() == [[-1, -1]]


def test_spec_and_repr_show_the_rate_in_force(client: Client) -> None:
    table = client.create_table(TableSpec("w", 10, dim=2, optimizer=SGD(lr=WarmUp()), initializer=Zeros()))
    made = table.spec
    table.set_lr(0.5)
    assert table.spec.optimizer == SGD(lr=0.5)
    assert "SGD(lr=0.5," in repr(table)
    client.refresh()
    assert client.table("w").spec == table.spec
    for again in (made, table.spec):  # both say which table it is: as it was made, and as it is now
        assert client.create_table(again).spec == table.spec


def test_a_rate_that_was_set_elsewhere_is_shown_by_every_handle_of_the_client(
    cluster, client: Client, table
) -> None:
    other, name = client.table("t"), table.name
    client.set_lr(name, 0.5)
    other.set_lr(0.25)
    assert table.spec.optimizer == other.spec.optimizer == SGD(lr=0.25)
    assert "SGD(lr=0.25," in repr(table)
    with cluster.connect() as stranger:
        stranger.set_lr(name, 0.125)
    client.refresh()
    assert table.spec.optimizer == SGD(lr=0.125)
    client.drop_table(name)
    client.create_table(TableSpec(name, 10, dim=2, optimizer=SGD(lr=9.0), initializer=Zeros()))
    client.set_lr(name, 8.0)
    assert table.spec.optimizer == SGD(lr=1.0)  # of the table that it was made for


@pytest.mark.parametrize(
    ("max_norm", "norm_type"),
    [
        (1e39, 2),
        (0, 2),
        (float("nan"), 2),
        ("1", 2),
        (True, 2),
        (1, 0),
        (1, float("nan")),
        (1, "2"),
        (1, None),
    ],
)
def test_norms_that_are_no_numbers_above_zero_are_refused(table, max_norm, norm_type) -> None:
    table.assign([1], [[3, 4]])
    with pytest.raises(InvalidRequest, match=r"norm.* must be above 0 and at most 3\.4028235e"):
        table.renorm([1], max_norm, norm_type)
    assert table.pull([1]).tolist() == [[3, 4]]
    table.renorm([1], np.float32(2), float("inf"))
    assert np.abs(table.pull([1])).max() <= 2
