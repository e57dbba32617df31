"""TLS with the calls that a lane makes of a socket: without blocking, until all is there, and with patience."""

import socket
import ssl
import threading
import time

import pytest
from secured import SecuredFolder

from rowloom.proto.security.credentials import Credentials
from rowloom.proto.security.lane_socket import LaneSocket, be_patient
from rowloom.server.access.gate import Gate
from rowloom.server.access.settings import ServerSecurity

MB = 1 << 20


@pytest.fixture
def ends(tmp_path):
    """Both ends of a connection that have shaken hands, and wait for 20 s at the most."""
    folder = SecuredFolder(tmp_path)
    settings = ServerSecurity(**folder.section(tokens=None, token=None))
    context = Gate(settings).socket_context()
    assert context is not None
    ours, theirs = socket.socketpair()
    wrapped: list[ssl.SSLSocket] = []
    thread = threading.Thread(target=lambda: wrapped.append(context.wrap_socket(ours, server_side=True)))
    thread.start()
    client = Credentials(ca=folder["ca.pem"]).context().wrap_socket(theirs, server_hostname="localhost")
    thread.join()
    for end in (wrapped[0], client):
        assert isinstance(end, LaneSocket)
        be_patient(end, 20.0)
    yield wrapped[0], client
    wrapped[0].close()
    client.close()


def test_what_is_not_there_yet_is_not_waited_for_when_that_is_not_wanted(ends):
    one, other = ends
    with pytest.raises(BlockingIOError):
        other.recv_into(bytearray(10), 0, socket.MSG_DONTWAIT)
    be_patient(other, 0.01)
    began = time.monotonic()
    with pytest.raises(BlockingIOError):
        other.recv_into(bytearray(10))
    assert time.monotonic() - began >= 0.005  # the kernel counts ticks, of which the first has begun already
    one.sendall(b"hello")
    be_patient(other, 20.0)
    found = bytearray(10)
    assert (other.recv_into(found), found[:5]) == (5, b"hello")


def test_large_messages_arrive_whole_also_in_pieces_of_records(ends):
    one, other = ends
    data = bytes(range(256)) * (8 * MB // 256)
    thread = threading.Thread(target=one.sendmsg, args=([data[:100], data[100 : 4 * MB], data[4 * MB :]],))
    thread.start()
    found = memoryview(bytearray(8 * MB))
    assert other.recv_into(found[: 5 * MB], 0, socket.MSG_WAITALL) == 5 * MB
    assert other.recv_into(found[5 * MB :], 0, socket.MSG_WAITALL) == 3 * MB
    thread.join()
    assert found == data


def test_what_does_not_fit_is_sent_on_from_where_it_stopped(ends):
    one, other = ends
    data = bytes(range(256)) * (16 * MB // 256)
    view, sent = memoryview(data), 0
    found = memoryview(bytearray(16 * MB))
    thread = threading.Thread(target=other.recv_into, args=(found, 0, socket.MSG_WAITALL))
    stopped = 0
    while sent < len(view):
        try:
            sent += one.send(view[sent:], socket.MSG_DONTWAIT)
        except BlockingIOError:
            stopped += 1
            if thread.ident is None:
                thread.start()
    thread.join()
    assert stopped
    assert found == data


def test_the_end_of_a_connection_is_seen_and_half_a_message_is_not_taken_for_one(ends):
    one, other = ends
    one.sendall(b"half")
    one.shutdown(socket.SHUT_RDWR)
    found = bytearray(10)
    assert other.recv_into(found, 0, socket.MSG_WAITALL) in (0, 4)
    assert other.recv_into(found) == 0
