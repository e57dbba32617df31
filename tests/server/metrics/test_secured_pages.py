"""The port of metrics under TLS and with tokens: who is let in, what a scan of it finds, and files that change."""

import base64
import contextlib
import http.client
import socket
import ssl
import threading
import warnings

import pytest
from secured import LOOPBACK, SecuredFolder
from waiting import until

from rowloom.deploy.secure.token_files import revoke
from rowloom.proto.errors import InvalidRequest
from rowloom.server.access.gate import Gate
from rowloom.server.access.settings import ServerSecurity
from rowloom.server.metrics import page_server
from rowloom.server.metrics.endpoint import MetricsEndpoint
from rowloom.server.metrics.families import Family
from rowloom.server.metrics.readers import MOST_STRANGERS
from rowloom.server.serve import Server


def families():
    yield Family("rowloom_answers_total", "Answers.").of([((), 42)])


class Port:
    """An endpoint with the files of a folder, and how it is asked."""

    def __init__(self, folder: SecuredFolder, **changes) -> None:
        self.folder = folder
        gate = Gate(ServerSecurity(**folder.section(**changes)))
        self.endpoint = MetricsEndpoint(("127.0.0.1", 0), families, "here", gate=gate)
        self.endpoint.start()
        self.number = int(self.endpoint.address.rpartition(":")[2])

    def get(self, authorization: str | None = None, context: ssl.SSLContext | None = None, path="/metrics"):
        """(status, headers, text) of a page."""
        context = context or self.context()
        with contextlib.closing(
            http.client.HTTPSConnection("127.0.0.1", self.number, timeout=20, context=context)
        ) as to:
            to.request("GET", path, headers={"Authorization": authorization} if authorization else {})
            reply = to.getresponse()
            return reply.status, reply.headers, reply.read().decode()

    def context(self, *, mutual: bool = False, **versions: ssl.TLSVersion) -> ssl.SSLContext:
        """Of who trusts the CA of the folder. mutual: with a certificate."""
        context = ssl.create_default_context(cafile=self.folder["ca.pem"])
        if mutual:
            context.load_cert_chain(self.folder["client.pem"], self.folder["client.key"])
        return context


@pytest.fixture
def folder(tmp_path):
    return SecuredFolder(tmp_path / "secured")


@pytest.fixture
def port(folder):
    """Starts endpoints."""
    with contextlib.ExitStack() as stack:

        def start(**changes) -> Port:
            one = Port(folder, **changes)
            stack.callback(one.endpoint.stop)
            return one

        yield start


NO_TOKENS = {"tokens": None, "token": None}


def basic(token: str, name: str = "me") -> str:
    return "Basic " + base64.b64encode(f"{name}:{token}".encode()).decode()


# ---------------------------------------------------------------------------------------------------------------- TLS


def test_metrics_are_read_over_https_by_whoever_trusts_the_ca(port):
    status, _, text = port(**NO_TOKENS).get()
    assert (status, "rowloom_answers_total 42.0" in text) == (200, True)


@pytest.mark.parametrize("version", ["TLSv1", "TLSv1_1", "TLSv1_2", "TLSv1_3"])
def test_versions_of_tls_that_are_broken_are_refused_and_others_are_not(port, version):
    one = port(**NO_TOKENS)
    context = one.context()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        context.minimum_version = context.maximum_version = ssl.TLSVersion[version]
    context.set_ciphers("ALL:@SECLEVEL=0")
    if version in ("TLSv1_2", "TLSv1_3"):
        assert one.get(context=context)[0] == 200
        return
    with pytest.raises((ssl.SSLError, ConnectionError)):
        one.get(context=context)


def test_who_speaks_plain_http_learns_nothing(port):
    one = port(**NO_TOKENS)
    with socket.create_connection(("127.0.0.1", one.number), 20) as end:
        end.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
        said = b""
        with contextlib.suppress(ConnectionError):
            while data := end.recv(1000):
                said += data
    assert b"rowloom" not in said
    assert b"HTTP" not in said


def test_a_port_of_another_ca_for_another_host_or_with_an_expired_certificate_is_not_trusted(port, tmp_path):
    one = port(**NO_TOKENS)
    stranger = ssl.create_default_context(cafile=SecuredFolder(tmp_path / "stranger")["ca.pem"])
    with pytest.raises(ssl.SSLCertVerificationError, match="local issuer"):
        one.get(context=stranger)
    one.folder.renew(["shards.example"])
    with pytest.raises(ssl.SSLCertVerificationError, match="IP address mismatch"):
        port(**NO_TOKENS).get()
    one.folder.renew()
    one.folder.expire()
    with pytest.raises(ssl.SSLCertVerificationError, match="expired"):
        port(**NO_TOKENS).get()


def test_with_mutual_a_certificate_of_the_clients_ca_is_asked_for(port, tmp_path):
    one = port(mutual=True, **NO_TOKENS)
    assert one.get(context=one.context(mutual=True))[0] == 200
    other = SecuredFolder(tmp_path / "other")
    foreign = one.context()
    foreign.load_cert_chain(other["client.pem"], other["client.key"])
    for context in (one.context(), foreign):
        with pytest.raises((ssl.SSLError, ConnectionError, http.client.RemoteDisconnected)):
            one.get(context=context)
    one.folder.expire("client")
    with pytest.raises((ssl.SSLError, ConnectionError, http.client.RemoteDisconnected)):
        one.get(context=one.context(mutual=True))


def test_a_certificate_is_replaced_without_a_restart(port):
    one = port(**NO_TOKENS)
    named = one.context()
    assert one.get()[0] == 200
    one.folder.renew([*LOOPBACK, "new.example"])

    def seen() -> bool:
        with socket.create_connection(("127.0.0.1", one.number), 20) as end:
            try:
                named.wrap_socket(end, server_hostname="new.example").close()
            except ssl.SSLCertVerificationError:
                return False
        return True

    until(seen)
    assert one.get()[0] == 200


def test_under_tls_the_certificate_says_by_which_names_this_machine_may_be_called(port):
    # Without TLS a name that is not localhost is refused: it may be a stranger's, which leads here.
    one = port(**NO_TOKENS)
    with contextlib.closing(
        http.client.HTTPSConnection("127.0.0.1", one.number, timeout=20, context=one.context())
    ) as to:
        to.request("GET", "/metrics", headers={"Host": "ads.internal"})
        assert to.getresponse().status == 200


# ------------------------------------------------------------------------------------------------------------- tokens


def test_a_token_of_anybody_who_is_known_is_asked_for_and_no_right(port, folder):
    one, token = port(), folder.token("prometheus", "none")
    for wrong in (
        None,
        "Bearer",
        "Bearer rowloom_wrong",
        f"Token {token}",
        token,
        "Basic",
        "Basic \xff",
        basic("rowloom_wrong"),
        basic("", token),
        "Basic " + base64.b64encode(token.encode()).decode(),
        f"Bearer {token}x",
        f"Bearer {token[:-1]}",
    ):
        for path in ("/metrics", "/nothing"):
            status, headers, text = one.get(wrong, path=path)
            assert (status, text) == (401, page_server.NEEDED.decode()), wrong
            assert [one.partition(" ")[0] for one in headers.get_all("WWW-Authenticate")] == [
                "Bearer",
                "Basic",
            ]
    for right in (f"Bearer {token}", f"bearer  {token} ", basic(token), basic(token, "")):
        assert one.get(right)[0] == 200, right
    assert one.get(f"Bearer {token}", path="/nothing")[0] == 404


def test_a_token_that_is_taken_away_is_refused_without_a_restart_and_a_new_one_is_known(port, folder):
    one, token = port(), folder.token("prometheus", "none")
    assert one.get(f"Bearer {token}")[0] == 200
    revoke(folder.path / "tokens.yaml", "prometheus")
    until(lambda: one.get(f"Bearer {token}")[0] == 401)
    again = folder.token("prometheus", "none")
    assert one.get(f"Bearer {again}")[0] == 200


def test_tokens_are_asked_for_on_this_machine_without_tls_too(folder):
    gate = Gate(ServerSecurity(tokens=folder["tokens.yaml"], token=folder["cluster.token"]))
    one = MetricsEndpoint(("127.0.0.1", 0), families, "here", gate=gate)
    one.start()
    try:
        for shown, status in (({}, 401), ({"Authorization": basic(folder.token("ann", "pull:*"))}, 200)):
            with contextlib.closing(http.client.HTTPConnection(one.address, timeout=20)) as to:
                to.request("GET", "/metrics", headers=shown)
                assert to.getresponse().status == status
    finally:
        one.stop()


# ---------------------------------------------------------------------------------------------------------- strangers


def test_who_connects_and_shakes_no_hands_blocks_nobody_and_leaves_nothing_behind(port, monkeypatch):
    one = port(**NO_TOKENS)
    readers = one.endpoint._server.readers
    held = [socket.create_connection(("127.0.0.1", one.number), 20) for _ in range(MOST_STRANGERS + 8)]
    try:
        for k, end in enumerate(held):
            with contextlib.suppress(OSError):  # the first have gone by then
                end.sendall((b"", b"\x16", b"\x16\x03\x01\x02\x00", b"\x16\x03\x01\x00\x05\x01")[k % 4])
        for _ in range(3):
            assert one.get()[0] == 200
        assert len(readers) <= MOST_STRANGERS
    finally:
        for end in held:
            end.close()
    until(lambda: not len(readers))
    until(lambda: not any("process_request_thread" in thread.name for thread in threading.enumerate()))


def test_a_handshake_that_comes_a_byte_at_a_time_ends_when_its_time_is_over(port, monkeypatch):
    monkeypatch.setattr(page_server, "READ_S", 1.0)
    one = port(**NO_TOKENS)
    with socket.create_connection(("127.0.0.1", one.number), 20) as end:
        hello = iter(b"\x16\x03\x01\x40\x00" + bytes(1 << 14))
        until(lambda: len(one.endpoint._server.readers) == 1)

        def shown_the_door() -> bool:
            with contextlib.suppress(ConnectionError, BrokenPipeError):
                end.sendall(bytes([next(hello)]))
            return not len(one.endpoint._server.readers)

        until(shown_the_door, 30)


def test_a_server_offers_metrics_to_others_under_tls_only_or_where_its_owner_says_so(folder):
    with pytest.raises(InvalidRequest, match=r"listens on 0\.0\.0\.0 without TLS.*see the names of tables"):
        Server(metrics=("0.0.0.0", 0))
    for settings in ({"insecure": True}, folder.section(**NO_TOKENS)):
        server = Server(security=ServerSecurity(**settings), metrics=("0.0.0.0", 0))
        server._metrics.stop()
        server.stop(0.0)
