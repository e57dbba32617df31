"""Metrics over HTTP: a page, and nothing that a stranger could hold up."""

import socket
import urllib.error
import urllib.request

import pytest
from waiting import until

from rowloom.proto.errors import Unavailable
from rowloom.server.metrics import endpoint
from rowloom.server.metrics.endpoint import MetricsEndpoint, Page
from rowloom.server.metrics.families import Family

LOCAL = ("127.0.0.1", 0)


def families():
    yield Family("rowloom_answers_total", "Answers.").of([((), 42)])


def broken() -> Page:
    raise ValueError("no")


@pytest.fixture
def served():
    pages = {"/other": lambda: Page("text/plain", b"more", {"X-More": "1"}), "/broken": broken}
    one = MetricsEndpoint(LOCAL, families, "here", pages)
    one.start()
    yield one
    one.stop()


def get(address: str, path: str, method: str = "GET"):
    request = urllib.request.Request(f"http://{address}{path}", method=method)
    return urllib.request.urlopen(request, timeout=20)


def test_metrics_and_those_of_the_process_are_one_page(served):
    with get(served.address, "/metrics") as reply:
        text = reply.read().decode()
        assert reply.headers["Content-Type"].startswith("text/plain")
    assert "rowloom_answers_total 42.0" in text
    assert "process_resident_memory_bytes" in text


def test_other_pages_have_their_headers_and_what_is_not_there_is_not_found(served):
    with get(served.address, "/other?x=1", "HEAD") as reply:
        assert (reply.headers["X-More"], reply.headers["Content-Length"], reply.read()) == ("1", "4", b"")
    for path, code in (("/nothing", 404), ("/broken", 500)):
        with pytest.raises(urllib.error.HTTPError) as refused:
            get(served.address, path)
        assert refused.value.code == code
        refused.value.close()


# A browser leaves out the port where it is 80.
@pytest.mark.parametrize(
    "name", ["evil.example:80", "evil.example", "localhost.evil.example", "[evil.example]:80"]
)
def test_who_calls_this_machine_by_a_strange_name_is_refused(served, name):
    # A page of a stranger whose name was made to lead here could read the answer in a browser.
    request = urllib.request.Request(f"http://{served.address}/metrics", headers={"Host": name})
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(request, timeout=20)
    assert refused.value.code == 421
    refused.value.close()


@pytest.mark.parametrize(
    "name", ["localhost", "LOCALHOST:80", "127.0.0.1", "127.0.0.1:80", "[::1]", "[::1]:80", ""]
)
def test_names_and_addresses_of_this_machine_are_served_with_a_port_and_without(served, name):
    request = urllib.request.Request(f"http://{served.address}/metrics", headers={"Host": name})
    with urllib.request.urlopen(request, timeout=20) as reply:
        assert reply.status == 200


def test_readers_that_send_a_byte_from_time_to_time_hold_no_place_beyond_their_time(served, monkeypatch):
    monkeypatch.setattr(endpoint, "READ_S", 1.0)
    host, port = served.address.split(":")
    held = [socket.create_connection((host, int(port))) for _ in range(endpoint.MOST_READERS)]
    try:
        for one in held:
            one.sendall(b"GET /metrics HTTP/1.0\r\nX: ")

        def trickled() -> bool:
            """Whether all of them were shown the door, though each has just said something."""
            ended = 0
            for one in held:
                try:
                    one.sendall(b"a")
                    one.setblocking(False)
                    ended += one.recv(1) == b""
                except BlockingIOError:
                    pass
                except OSError:
                    ended += 1
            return ended == len(held)

        until(trickled, seconds=30)  # a line that is too long would end it, later
    finally:
        for one in held:
            one.close()


def test_only_so_many_may_read_at_the_same_time_and_the_others_are_closed(served, monkeypatch):
    host, port = served.address.split(":")
    held = [socket.create_connection((host, int(port))) for _ in range(endpoint.MOST_READERS)]
    try:
        until(lambda: served._server._readers._value == 0)
        with socket.create_connection((host, int(port))) as one_more:
            one_more.settimeout(20)
            assert one_more.recv(1) == b""
    finally:
        for one in held:
            one.close()
    until(lambda: served._server._readers._value == endpoint.MOST_READERS)
    with get(served.address, "/metrics") as reply:
        assert reply.status == 200


def test_a_port_that_is_taken_is_named():
    with socket.create_server(LOCAL) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(
            Unavailable, match=rf"metrics cannot be offered on 127.0.0.1:{port}: Address already"
        ):
            MetricsEndpoint(("127.0.0.1", port), families, "here")


def test_others_are_told_a_name_that_leads_here_and_not_the_wildcard():
    one = MetricsEndpoint(("0.0.0.0", 0), families, "machine.example")
    assert one.address == f"machine.example:{one._server.server_port}"
    one.stop()
