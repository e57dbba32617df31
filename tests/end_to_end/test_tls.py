"""TLS on every port: whom each side takes for whom, what others see, and certificates that change."""

import contextlib
import copy
import pickle
import socket
import ssl
import subprocess
import sys
import time
import warnings

import numpy as np
import pytest
from recording import Recording
from secured import LOOPBACK, SecuredFolder
from waiting import least_seconds, until

from rowloom.client import InvalidRequest, TableSpec, Unauthenticated, Unavailable, Zeros, connect
from rowloom.client.carriers.lane import open_lane
from rowloom.client.carriers.transport import CARRIERS
from rowloom.deploy import local_cluster
from rowloom.proto import methods
from rowloom.proto import rowloom_pb2 as pb
from rowloom.proto.channel import Channels
from rowloom.proto.security.credentials import Credentials
from rowloom.server.access.settings import ServerSecurity
from rowloom.server.serve import Server

SPEC = TableSpec("users", 1000, dim=16, initializer=Zeros())
BOUND_S = 10.0  # a refusal must not take the whole of a client's patience, which is 60 s


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return SecuredFolder(tmp_path_factory.mktemp("secured"))


@pytest.fixture(scope="module", params=[False, True], ids=["tls", "mutual"])
def secured(request, folder):
    """A cluster that speaks TLS, and whether it asks for certificates."""
    with local_cluster(2, security=folder.section(mutual=request.param), tables=[SPEC]) as cluster:
        yield cluster, request.param


@pytest.fixture
def own(tmp_path):
    """A folder to spoil, and how to start a shard with it."""
    with contextlib.ExitStack() as stack:
        folder = SecuredFolder(tmp_path / "own")

        def start(**changes) -> Server:
            settings = {"tokens": None, "token": None} | changes
            server = Server(security=ServerSecurity(**folder.section(**settings)))
            server.start()
            stack.callback(server.stop, 0.0)
            return server

        yield folder, start


def refused(address: str, **options) -> str:
    """What a client is told, soon, whose call never gets through."""
    told: list[str] = []

    def ask() -> None:
        with pytest.raises(Unauthenticated) as caught:
            connect(address, **options)
        told.append(str(caught.value))

    assert least_seconds(ask, BOUND_S) < BOUND_S
    return told[-1]


@pytest.mark.parametrize("carrier", CARRIERS)
def test_every_carrier_moves_rows_and_scales_under_tls(secured, folder, carrier):
    cluster, mutual = secured
    ids = np.arange(1000)
    with connect(cluster.address, carrier=carrier, **folder.shown(mutual=mutual)) as client:
        client["users"].assign(ids, np.repeat(ids[:, None], 16, 1).astype(np.float32))
        for shards in (3, 2):
            cluster.scale(shards)
            assert (client["users"].pull(ids)[:, 3] == ids).all()


def test_large_messages_go_through_a_lane_with_tls_whole(secured, folder):
    cluster, mutual = secured
    rng = np.random.default_rng(0)
    wide = TableSpec(f"wide{mutual}", 40_000, dim=128, initializer=Zeros())
    with connect(cluster.address, carrier="tcp", **folder.shown(mutual=mutual)) as client:
        table = client.create_table(wide)
        rows = rng.standard_normal((40_000, 128)).astype(np.float32)
        ids = rng.permutation(40_000)
        table.assign(ids, rows)  # 20 MB, several requests at once on each lane
        assert (table.pull(ids) == rows).all()
        lanes = [lane for some in client._transport._lanes._free.values() for lane in some]
        assert lanes
        assert all(isinstance(lane._end, ssl.SSLSocket) for lane in lanes)
        client.drop_table(wide.name)


# --------------------------------------------------------------------------------------------- who is taken for whom


def test_a_client_without_tls_is_told_that_the_server_speaks_it(secured):
    assert "speaks TLS: give `ca` (or ROWLOOM_CA)" in refused(secured[0].address)


def test_a_client_with_tls_is_told_that_the_server_does_not_speak_it(cluster, folder):
    assert "does not speak TLS: leave out `ca`" in refused(cluster.address, ca=folder["ca.pem"])


def test_a_server_of_another_ca_is_not_trusted(secured, tmp_path):
    stranger = SecuredFolder(tmp_path)
    said = refused(secured[0].address, ca=stranger["ca.pem"])
    assert "its certificate is not trusted" in said
    assert stranger["ca.pem"] in said


def test_a_certificate_for_another_host_is_not_trusted_unless_its_name_is_asked_for(own):
    folder, start = own
    folder.renew(["shards.example"])
    server = start()
    said = refused(server.address, ca=folder["ca.pem"])
    assert "IP address mismatch" in said
    assert "asked for '127.0.0.1'" in said
    for carrier in ("grpc", "tcp"):
        named = Credentials(ca=folder["ca.pem"], server_name="shards.example")
        with Channels(named) as channels:
            channels.call(server.address, methods.HEALTH, b"", 10.0)
            known = pb.LaneReply.FromString(channels.call(server.address, methods.DESCRIBE_LANE, b"", 10.0))
        if carrier == "tcp":
            until_s = time.monotonic() + 10
            open_lane(known, "127.0.0.1", shared=False, until=until_s, credentials=named).close()
            strict = Credentials(ca=folder["ca.pem"])
            with pytest.raises(ssl.SSLCertVerificationError):
                open_lane(known, "127.0.0.1", shared=False, until=until_s, credentials=strict)


def test_a_certificate_that_has_expired_is_not_trusted(own):
    folder, start = own
    folder.expire()
    said = refused(start().address, ca=folder["ca.pem"])
    assert "certificate has expired" in said


def test_a_client_without_a_certificate_or_with_one_of_another_ca_is_told_so(own, tmp_path):
    folder, start = own
    server = start(mutual=True)
    assert "asks for a certificate: give `cert` and `key`" in refused(server.address, ca=folder["ca.pem"])
    stranger = SecuredFolder(tmp_path / "stranger")
    said = refused(
        server.address, ca=folder["ca.pem"], cert=stranger["client.pem"], key=stranger["client.key"]
    )
    assert "does not accept the certificate" in said
    folder.expire("client")
    said = refused(server.address, ca=folder["ca.pem"], cert=folder["client.pem"], key=folder["client.key"])
    assert "does not accept the certificate" in said


@pytest.mark.parametrize("lane", [False, True], ids=["grpc", "lane"])
@pytest.mark.parametrize("version", ["TLSv1", "TLSv1_1"])
def test_versions_of_tls_that_are_broken_are_refused(secured, folder, lane, version):
    cluster, mutual = secured
    port = _lane_port(cluster, folder, mutual) if lane else int(cluster.address.rpartition(":")[2])
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        context.minimum_version = context.maximum_version = ssl.TLSVersion[version]
    context.set_ciphers("ALL:@SECLEVEL=0")
    with (
        socket.create_connection(("127.0.0.1", port), 10) as end,
        pytest.raises((ssl.SSLError, ConnectionError)),
    ):
        context.wrap_socket(end)


def _lane_port(cluster, folder, mutual: bool) -> int:
    with Channels(Credentials(**folder.shown(mutual=mutual))) as channels:
        address = cluster.launcher.find(0).address
        return pb.LaneReply.FromString(channels.call(address, methods.DESCRIBE_LANE, b"", 10.0)).port


def test_who_connects_to_a_lane_and_shakes_no_hands_holds_up_nobody(secured, folder):
    cluster, mutual = secured
    port = _lane_port(cluster, folder, mutual)
    with contextlib.ExitStack() as stack:
        for said in (
            b"",
            b"\x16",
            b"\x16\x03\x01\x02\x00",
            b"rowloom1" + bytes(24),
            b"GET / HTTP/1.1\r\n\r\n",
        ):
            end = stack.enter_context(socket.create_connection(("127.0.0.1", port), 10))
            end.sendall(said)
        with connect(cluster.address, carrier="tcp", **folder.shown(mutual=mutual)) as client:
            client["users"].pull([1])
            assert any(client._transport._lanes._free.values())


# --------------------------------------------------------------------------------------------------- what others see


@pytest.mark.parametrize("carrier", ["grpc", "tcp"])
def test_who_listens_on_the_wire_sees_neither_rows_nor_ids_nor_tokens(own, folder, carrier):
    mine, _ = own
    row = np.frombuffer(b"a row that nobody else may read, at all: 16 x 4..".ljust(64)[:64], np.float32)
    number = int.from_bytes(b"idsecret", "little") >> 1
    spec = TableSpec("hidden", dim=16, initializer=Zeros())

    def passed(security) -> bytes:
        with contextlib.ExitStack() as stack:
            cluster = stack.enter_context(local_cluster(1, security=security, tables=[spec]))
            shard = cluster.launcher.find(0)
            shown = mine.shown() if security else {}
            credentials = Credentials(**shown)
            with Channels(credentials) as channels:
                known = pb.LaneReply.FromString(
                    channels.call(shard.address, methods.DESCRIBE_LANE, b"", 10.0)
                )
            ports = [Recording(shard.address), Recording(f"127.0.0.1:{known.port}")]
            for port in ports:
                stack.callback(port.close)
            through = {shard.address: ports[0].address, f"127.0.0.1:{known.port}": ports[1].address}
            client = stack.enter_context(connect(cluster.address, carrier=carrier, **shown))
            _dial_through(client, through, stack)
            client["hidden"].assign([number], row[None])
            assert (client["hidden"].pull([number])[0].view(np.int32) == row.view(np.int32)).all()
            return b"".join(bytes(port.seen) for port in ports)

    token = (mine.path / "cluster.token").read_bytes().strip()
    secrets = [row.tobytes(), number.to_bytes(8, "little"), token]
    plain, covered = passed(None), passed(mine.section())
    assert all(secret in plain for secret in secrets[:2])  # or this test would show nothing
    assert len(covered) > 1000
    assert not any(secret in covered for secret in secrets)


def _dial_through(client, through: dict[str, str], stack: contextlib.ExitStack) -> None:
    """Let a client that is connected dial proxies in place of shards."""
    patch = stack.enter_context(pytest.MonkeyPatch.context())
    channel, create = Credentials.channel, socket.create_connection
    patch.setattr(
        Credentials, "channel", lambda self, to, options: channel(self, through.get(to, to), options)
    )

    def connection(address, *rest):
        host, port = through.get(f"{address[0]}:{address[1]}", f"{address[0]}:{address[1]}").split(":")
        return create((host, int(port)), *rest)

    patch.setattr(socket, "create_connection", connection)
    client._transport.channels.close()


def test_a_pickled_client_carries_paths_and_a_copy_in_this_process_works(secured, folder):
    cluster, mutual = secured
    token = (folder.path / "cluster.token").read_text().strip()
    shown = folder.shown(mutual=mutual)
    with connect(cluster.address, **shown) as client, pickle.loads(pickle.dumps(client)) as other:
        assert other["users"].pull([1]).shape == (1, 16)
    shown.pop("token_file")
    with connect(cluster.address, token=token, **shown) as client:
        data = pickle.dumps(client)
        assert token.encode() not in data
        assert token not in repr(client._credentials)
        with copy.deepcopy(client) as other:
            assert other["users"].pull([1]).shape == (1, 16)
    code = "import pickle, sys; print(pickle.load(sys.stdin.buffer)['users'].pull([1]).shape)"
    for environment in ({}, {"ROWLOOM_TOKEN_FILE": folder["cluster.token"]}):
        done = subprocess.run([sys.executable, "-c", code], input=data, capture_output=True, env=environment)
        if environment:
            assert done.stdout == b"(1, 16)\n", done.stderr
        else:
            assert b"made with a token, which is in no pickle" in done.stderr


def test_a_token_is_not_sent_in_plain_text_to_another_machine():
    with pytest.raises(InvalidRequest, match=r"the token is not sent to 192\.0\.2\.1:7400 in plain text"):
        connect("192.0.2.1:7400", token="rowloom_x", timeout_s=5.0)


# ------------------------------------------------------------------------------------------------------- what changes


@pytest.mark.parametrize("carrier", ["grpc", "tcp"])
def test_a_certificate_is_replaced_while_clients_go_on_and_new_ones_see_the_new_one(own, carrier):
    folder, _ = own
    with (
        local_cluster(1, security=folder.section(), tables=[SPEC]) as cluster,
        connect(cluster.address, carrier=carrier, **folder.shown()) as client,
    ):
        client["users"].push([1], np.ones((1, 16), np.float32))
        folder.renew([*LOOPBACK, "new.example"])
        folder.token("late", "pull:*")
        named = folder.shown("late", server_name="new.example")

        def seen() -> bool:
            try:
                with connect(cluster.address, carrier=carrier, timeout_s=5.0, **named) as late:
                    return bool(late["users"].pull([1]).any())  # each server looks at its files by itself
            except (Unauthenticated, Unavailable):
                return False

        until(seen)
        client["users"].push([1], np.ones((1, 16), np.float32))


def test_a_certificate_whose_key_has_not_come_yet_changes_nothing(own, caplog):
    folder, start = own
    server = start()
    old = (folder.path / "server.key").read_bytes()
    folder.renew()
    new = (folder.path / "server.key").read_bytes()
    (folder.path / "server.key").write_bytes(old)
    shown = Credentials(ca=folder["ca.pem"])

    def dials() -> bool:
        with Channels(shown) as channels:
            channels.call(server.address, methods.HEALTH, b"", 10.0)
        return "a server's certificate changed and cannot be used" in caplog.text

    until(dials)
    assert "is not the key of the certificate" in caplog.text
    (folder.path / "server.key").write_bytes(new)
    with Channels(shown) as channels:
        channels.call(server.address, methods.HEALTH, b"", 10.0)
