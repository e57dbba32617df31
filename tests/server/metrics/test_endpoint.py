"""Metrics over HTTP: a page, and nothing that a stranger could hold up."""

import socket
import threading
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import pytest
from waiting import until

from rowloom.proto.errors import Unavailable
from rowloom.server.metrics import page_server
from rowloom.server.metrics.endpoint import MetricsEndpoint
from rowloom.server.metrics.families import Family
from rowloom.server.metrics.page_server import Page
from rowloom.server.metrics.readers import MOST_READERS, MOST_STRANGERS

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
    monkeypatch.setattr(page_server, "READ_S", 1.0)
    host, port = served.address.split(":")
    held = [socket.create_connection((host, int(port))) for _ in range(MOST_READERS)]
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


def test_who_says_nothing_keeps_nobody_out_and_leaves_nothing_behind(served):
    host, port = served.address.split(":")
    readers = served._server.readers
    held = [socket.create_connection((host, int(port))) for _ in range(MOST_STRANGERS)]
    try:
        until(lambda: len(readers) == MOST_STRANGERS)
        with get(served.address, "/metrics") as reply:
            assert reply.status == 200
        held[0].settimeout(20)
        assert held[0].recv(1) == b""  # it had waited longest
        for one in held[1:]:
            one.setblocking(False)
            with pytest.raises(BlockingIOError):
                one.recv(1)
    finally:
        for one in held:
            one.close()
    until(lambda: not len(readers))
    until(lambda: not any("process_request_thread" in thread.name for thread in threading.enumerate()))


def test_only_so_many_are_answered_at_the_same_time():
    begun, go_on = threading.Semaphore(0), threading.Event()

    def slow() -> Page:
        begun.release()
        go_on.wait(60)
        return Page("text/plain", b"slow")

    one = MetricsEndpoint(LOCAL, families, "here", {"/slow": slow})
    one.start()
    try:
        with ThreadPoolExecutor(MOST_READERS) as pool:
            answers = [pool.submit(get, one.address, "/slow") for _ in range(MOST_READERS)]
            for _ in answers:
                assert begun.acquire(timeout=60)
            with pytest.raises(urllib.error.HTTPError) as refused:
                get(one.address, "/metrics")
            assert refused.value.code == 503
            refused.value.close()
            go_on.set()
            for answer in answers:
                with answer.result() as reply:
                    assert reply.read() == b"slow"
        with get(one.address, "/metrics") as reply:
            assert reply.status == 200
    finally:
        go_on.set()
        one.stop()


def test_a_page_that_is_taken_too_slowly_holds_no_place_beyond_its_time(monkeypatch):
    monkeypatch.setattr(page_server, "READ_S", 1.0)
    one = MetricsEndpoint(LOCAL, families, "here", {"/long": lambda: Page("text/plain", bytes(1 << 26))})
    one.start()
    try:
        with socket.create_connection(("127.0.0.1", int(one.address.rpartition(":")[2]))) as end:
            end.sendall(b"GET /long HTTP/1.0\r\n\r\n")
            until(lambda: len(one._server.readers) == 1)

            def ended() -> bool:
                end.recv(1024)  # so that some of it goes on all the time
                return not len(one._server.readers)

            until(ended, 30)
    finally:
        one.stop()


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
