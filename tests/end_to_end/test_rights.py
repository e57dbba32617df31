"""Every right beside every call, table and carrier: what is allowed works, what is not is refused before it is read."""

import itertools
import math
import socket
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from secured import SecuredFolder
from waiting import until

from rowloom.client import (
    SGD,
    InvalidRequest,
    PermissionDenied,
    TableSpec,
    Unauthenticated,
    Unauthorized,
    Zeros,
    connect,
)
from rowloom.client.carriers.lane import open_lane
from rowloom.client.carriers.transport import CARRIERS
from rowloom.deploy import local_cluster
from rowloom.deploy.secure.token_files import revoke
from rowloom.proto import methods
from rowloom.proto import rowloom_pb2 as pb
from rowloom.proto.channel import Channels
from rowloom.proto.errors import RowloomError, decode_error
from rowloom.proto.lane import NUMBER, REFUSED, Reply, Request
from rowloom.proto.security import files
from rowloom.proto.security.credentials import Credentials, _token_file

ONES = np.ones((2, 4), np.float32)
VERBS = ("pull", "push", "create", "admin")
# What a call needs on its table: verbs, each for itself.
CALLS = {
    "pull": (("pull",), lambda client, name: client.table(name).pull([1, 2])),
    "pull of bags": (("pull",), lambda client, name: client.table(name).pull_bags([[1, 2]])),
    "ids": (("pull",), lambda client, name: client.table(name).ids()),
    "push": (("push",), lambda client, name: client.table(name).push([1, 2], ONES)),
    "assign": (("push",), lambda client, name: client.table(name).assign([1, 2], ONES)),
    "step": (("push", "pull"), lambda client, name: client.table(name).step([1, 2], ONES, [3, 4])),
    "create": (("create",), lambda client, name: client.create_table(client.table(name).spec)),
    "push of bags": (("push",), lambda client, name: client.table(name).push_bags([1, 2], [0, 1], ONES)),
    "renorm": (("push",), lambda client, name: client.table(name).renorm([1, 2], 1e6)),
    "set_lr": (("admin",), lambda client, name: client.set_lr(name, 0.5)),
}


WHO = ["-".join(verbs) for count in (1, 2) for verbs in itertools.combinations(VERBS, count)] + ["nothing"]


def spec_of(name: str) -> TableSpec:
    return TableSpec(name, 100, dim=4, optimizer=SGD(lr=0.5), initializer=Zeros())


@pytest.fixture(scope="module")
def secured(tmp_path_factory):
    """Who has one verb on table users, each two of them, all, or none; and a cluster that asks."""
    folder = SecuredFolder(tmp_path_factory.mktemp("secured"))
    for count in (1, 2):
        for verbs in itertools.combinations(VERBS, count):
            folder.token("-".join(verbs), *(f"{verb}:users" for verb in verbs))
    folder.token("nothing", "pull:no-such-table")
    with local_cluster(
        shards=2, security=folder.section(), tables=[spec_of("users"), spec_of("items")]
    ) as cluster:
        yield folder, cluster


@pytest.mark.parametrize("carrier", CARRIERS)
@pytest.mark.parametrize("who", WHO)
def test_who_has_a_right_may_use_it_on_that_table_and_nobody_else_anywhere(secured, carrier, who):
    folder, cluster = secured
    has = set(who.split("-"))
    with connect(cluster.address, carrier=carrier, **folder.shown(who)) as client:
        for (needed, call), name in itertools.product(CALLS.values(), ("users", "items")):
            if name == "users" and set(needed) <= has:
                call(client, name)
            else:
                with pytest.raises(PermissionDenied, match=f"'{who}' may not"):
                    call(client, name)


@pytest.mark.parametrize("carrier", CARRIERS)
@pytest.mark.parametrize("who", WHO)
def test_what_is_asked_most_is_told_to_who_pulls_or_administers_and_a_table_goes_for_who_administers_it(
    secured, carrier, who
):
    folder, cluster = secured
    has = set(who.split("-"))
    with connect(cluster.address, carrier=carrier, **folder.shown(who)) as client:
        for name in ("items", "users"):
            client.table(name)  # who has no right to a table may know what it is
            for call, may in (
                (lambda name=name: client.table(name).hottest(), bool(has & {"pull", "admin"})),
                (lambda name=name: client.drop_table(name), "admin" in has),
            ):
                if name == "users" and may:
                    call()
                else:
                    with pytest.raises(PermissionDenied, match=f"'{who}' may not"):
                        call()
    with cluster.connect() as owner:
        assert owner.create_table(spec_of("users")).name == "users"  # again, if it is gone
        assert not owner.table("items").pull([1]).any()


@pytest.mark.parametrize("carrier", CARRIERS)
def test_calls_of_several_tables_need_the_right_to_each(secured, carrier):
    folder, cluster = secured
    with connect(cluster.address, carrier=carrier, **folder.shown("pull-push")) as client:
        for call in (
            lambda: client.pull({"users": [1], "items": [1]}),
            lambda: client.push({"users": ([1], ONES[:1]), "items": ([1], ONES[:1])}),
            lambda: client.step({"users": ([1], ONES[:1])}, {"items": [1]}),
            lambda: client.step({"items": ([1], ONES[:1])}, {"users": [1]}),
        ):
            with pytest.raises(PermissionDenied, match="table 'items'"):
                call()
    with cluster.connect() as client:
        assert not client["items"].pull([1]).any()


def test_what_changes_the_cluster_takes_admin_on_all_tables(secured):
    folder, cluster = secured
    with (
        connect(cluster.address, **folder.shown("admin")) as client,
        pytest.raises(PermissionDenied, match=r"admin:\*"),
    ):
        client.snapshot()
    with Channels(Credentials(**folder.shown("admin"))) as channels:
        for method in (methods.SCALE, methods.SHUT_DOWN, methods.ACCEPT_LOSS, methods.TAKE_SNAPSHOT):
            with pytest.raises(PermissionDenied, match=r"lacks the right admin:\*"):
                channels.call(cluster.address, method, b"", 10.0)
        shard = cluster.launcher.find(0)
        assert shard is not None
        for method in (
            methods.ADOPT,
            methods.FREEZE,
            methods.SHUT_DOWN_SHARD,
            methods.SHARD_DROP_TABLE,
            methods.CUT,
        ):
            with pytest.raises(PermissionDenied, match=r"lacks the right admin:\*"):
                channels.call(shard.address, method, b"", 10.0)


def test_a_token_that_may_only_read_makes_no_rows(secured):
    folder, cluster = secured
    with cluster.connect() as owner:
        owner.create_table(spec_of("unseen"))
        folder.token("reader", "pull:*")
        for carrier in CARRIERS:
            with connect(cluster.address, carrier=carrier, **folder.shown("reader")) as client:
                assert not client["unseen"].pull(np.arange(50)).any()
                assert not client["unseen"].pull_bags([[7, 8]]).any()
        assert sum(shard["tables"]["unseen"]["rows"] for shard in owner.statistics()) == 0
        owner.drop_table("unseen")


# ------------------------------------------------------------------------------------------ before a message is read

JUNK = b"\xff" * 64


@pytest.mark.parametrize(
    "method", [methods.PULL, methods.PULL_BAGS, methods.PUSH, methods.STEP, methods.READ_ROWS, methods.ADOPT]
)
def test_a_message_that_does_not_parse_is_refused_by_who_sends_it_first(secured, method):
    folder, cluster = secured
    address = cluster.launcher.find(0).address

    def answer(**shown: str) -> RowloomError:
        credentials = Credentials(ca=folder["ca.pem"], **shown)
        with Channels(credentials) as channels, pytest.raises(RowloomError) as caught:
            channels.call(address, method, JUNK, 10.0)
        return caught.value

    assert type(answer()) is Unauthenticated
    assert type(answer(token="rowloom_guessed")) is Unauthenticated
    reads = method in (methods.PULL, methods.PULL_BAGS, methods.READ_ROWS)
    # It may read some table, and which one is meant cannot be read.
    assert type(answer(token_file=folder["nothing.token"])) is (InvalidRequest if reads else PermissionDenied)
    assert type(answer(token_file=folder["create.token"])) is PermissionDenied
    assert type(answer(token_file=folder["cluster.token"])) is InvalidRequest


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("method", methods.ROWS)
def test_so_it_is_on_a_lane_which_is_of_who_asked_for_it(secured, method, shared):
    folder, cluster = secured
    address = cluster.launcher.find(0).address

    def answer(who: str) -> type[RowloomError]:
        credentials = Credentials(**folder.shown(who))
        with Channels(credentials) as channels:
            known = pb.LaneReply.FromString(channels.call(address, methods.DESCRIBE_LANE, b"", 10.0))
        lane = open_lane(
            known, "127.0.0.1", shared=shared, until=time.monotonic() + 10, credentials=credentials
        )
        end = lane._end
        assert (end.family == socket.AF_UNIX) == shared
        end.sendall(Request(NUMBER[method], len(JUNK)).encode() + JUNK)
        end.setblocking(True)
        head = Reply.decode(_received(end, 24))
        assert head.status == REFUSED
        found = type(decode_error(_received(end, head.length)))
        lane.close()
        return found

    assert answer("create") is PermissionDenied
    assert answer("cluster") is InvalidRequest


def _received(end: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        more = end.recv(size - len(data))
        assert more
        data += more
    return data


def test_a_lanes_key_opens_one_lane(secured):
    folder, cluster = secured
    address = cluster.launcher.find(0).address
    credentials = Credentials(**folder.shown("pull"))
    with Channels(credentials) as channels:
        known = pb.LaneReply.FromString(channels.call(address, methods.DESCRIBE_LANE, b"", 10.0))
    assert known.once
    assert known.tls
    open_lane(known, "127.0.0.1", shared=False, until=time.monotonic() + 10, credentials=credentials).close()
    for shared in (False, True):
        with pytest.raises(OSError, match=r"welcome|reset"):
            open_lane(known, "127.0.0.1", shared=shared, until=time.monotonic() + 10, credentials=credentials)
    known.tls = False
    with pytest.raises(ConnectionRefusedError, match="no lane with TLS"):
        open_lane(known, "127.0.0.1", shared=False, until=time.monotonic() + 10, credentials=credentials)


@pytest.mark.parametrize("carrier", CARRIERS)
def test_what_is_taken_away_is_refused_also_where_the_client_is_connected_already(secured, carrier):
    folder, cluster = secured
    folder.token("leaver", "pull:*", "push:*")
    with connect(cluster.address, carrier=carrier, **folder.shown("leaver")) as client:
        users = client["users"]
        users.push([1, 2], ONES)
        folder.token("leaver", "pull:*")

        def refused(error: type[Exception]) -> bool:
            try:  # on one shard: each hears of it by itself
                users.push([1], 0 * ONES[:1])
            except Unauthorized as e:
                return isinstance(e, error)
            return False

        until(lambda: refused(PermissionDenied))
        users.pull([1])
        revoke(folder.path / "tokens.yaml", "leaver")
        until(lambda: refused(Unauthenticated))


@pytest.mark.parametrize("looked", [False, True], ids=["looks", "has just looked"])
@pytest.mark.parametrize("carrier", CARRIERS)
def test_a_running_trainer_was_refused_for_good_when_its_token_was_replaced_a_second_time(
    secured, carrier, looked, monkeypatch
):
    folder, cluster = secured
    monkeypatch.setattr(files, "LOOK_S", 0.0)  # servers know at once what is in their file
    name = f"replaced-{carrier}-{looked}"
    folder.token(name, "pull:*", "push:*")
    with cluster.connect() as owner:
        owner.create_table(spec_of(name))
    pushed = itertools.count()
    with (
        connect(cluster.address, carrier=carrier, **folder.shown(name)) as client,
        ThreadPoolExecutor(3) as trainers,
    ):
        table = client[name]
        mine = _token_file(folder[f"{name}.token"])

        def push() -> None:
            for _ in range(3):
                table.push([1, 2], ONES)
                next(pushed)

        for _ in range(4):
            for ended in [trainers.submit(push) for _ in range(3)]:
                ended.result()
            folder.token(name)
            if looked:  # the file changes twice before this client looks again
                mine._look_at = math.inf
                folder.token(name)
        push()
        assert (table.pull([1, 2]) == -0.5 * next(pushed) * ONES).all()


@pytest.mark.parametrize("carrier", CARRIERS)
def test_a_client_whose_token_is_in_no_file_is_refused_once_that_was_replaced_twice(
    secured, carrier, monkeypatch
):
    folder, cluster = secured
    monkeypatch.setattr(files, "LOOK_S", 0.0)
    token = folder.token("static", "pull:*", "push:*")
    with connect(cluster.address, carrier=carrier, ca=folder["ca.pem"], token=token) as client:
        users = client["users"]
        folder.token("static")
        users.push([5], 0 * ONES[:1])
        before = users.pull([5])
        folder.token("static")
        for _ in range(3):
            with pytest.raises(Unauthenticated, match="the token is of nobody here: give token_file="):
                users.push([5], ONES[:1])
    with cluster.connect() as owner:
        assert (owner["users"].pull([5]) == before).all()
