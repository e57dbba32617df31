"""The error tree: what crosses the wire, what can be pickled, what each is to Python and to gRPC."""

import inspect
import pickle

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rowloom.proto import channel, errors
from rowloom.proto import rowloom_pb2 as pb
from rowloom.proto.layout import Layout, ShardAddress

# What a carrier says when nothing came over the wire.
TREE = [
    c
    for c in vars(errors).values()
    if inspect.isclass(c)
    and issubclass(c, errors.RowloomError)
    and c not in (errors.NoAnswer, errors.Unreached)
]
LEAVES = [c for c in TREE if c not in (errors.RowloomError, errors.Rerouted)]
each_leaf = pytest.mark.parametrize("cls", LEAVES)


@each_leaf
def test_an_error_crosses_the_wire_as_itself(cls):
    error = cls("table 'users' has 8 columns, got 7", epoch=12, retry_after_s=0.25)
    back = errors.decode_error(errors.encode_error(error))
    assert type(back) is cls
    assert (str(back), back.epoch, back.retry_after_s) == (str(error), 12, 0.25)


@given(st.sampled_from(LEAVES), st.text(max_size=400), st.integers(0, 2**64 - 1), st.floats(0, 1e9))
def test_any_message_epoch_and_delay_survive_the_wire(cls, message, epoch, retry_after_s):
    back = errors.decode_error(errors.encode_error(cls(message, epoch=epoch, retry_after_s=retry_after_s)))
    assert (type(back), back.message, back.epoch, back.retry_after_s) == (cls, message, epoch, retry_after_s)


@pytest.mark.parametrize("cls", TREE)
def test_an_error_survives_being_pickled(cls):
    error = cls("id 12 is not in [0, 10)", epoch=3, retry_after_s=1.5)
    back = pickle.loads(pickle.dumps(error))
    assert type(back) is cls
    assert str(back) == "id 12 is not in [0, 10)"
    assert vars(back) == vars(error)


def test_an_unresolved_push_keeps_its_counts_when_pickled():
    error = errors.PushUnresolved("shard 1 is gone", acked_rows=5, unknown_rows=2, unapplied_rows=1)
    back = pickle.loads(pickle.dumps(error))
    assert (back.acked_rows, back.unknown_rows, back.unapplied_rows) == (5, 2, 1)


def test_every_kind_of_the_contract_has_its_class_and_each_class_its_own_kind():
    kinds = {number for name, number in pb.ErrorInfo.Kind.items() if name not in ("UNSPECIFIED", "INTERNAL")}
    assert set(errors.BY_KIND) == kinds - {0}
    assert {cls.kind: cls for cls in LEAVES} == errors.BY_KIND


@pytest.mark.parametrize("cls", TREE)
def test_every_error_has_a_status_that_grpc_knows(cls):
    assert cls in errors.STATUS
    assert hasattr(grpc.StatusCode, errors.status_of(cls("x")))


def test_a_class_made_elsewhere_takes_the_status_of_the_one_above_it():
    assert errors.status_of(errors.NoAnswer("x")) == "UNAVAILABLE"


def test_no_error_of_ours_has_the_status_of_a_call_that_succeeded():
    assert "OK" not in errors.STATUS.values()


def test_the_errors_are_what_python_expects_of_them():
    assert issubclass(errors.InvalidRequest, ValueError)
    assert issubclass(errors.TableNotFound, KeyError)
    assert issubclass(errors.Overloaded, errors.Unavailable)
    assert str(errors.TableNotFound("no table 'users'")) == "no table 'users'", "KeyError would add quotes"


def test_a_kind_of_a_newer_version_becomes_the_root_with_its_message():
    data = pb.ErrorInfo(kind=4711, message="something new").SerializeToString()  # type: ignore[arg-type]
    back = errors.decode_error(data)
    assert type(back) is errors.RowloomError
    assert str(back) == "something new"


@given(st.binary(max_size=40))
def test_garbage_in_place_of_an_error_is_still_an_error_of_ours(data):
    assert isinstance(errors.decode_error(data), errors.RowloomError)


class FailedCall(grpc.RpcError):
    """What grpc raises, as far as we look at it."""

    def __init__(self, code, details="", metadata=()):
        self._code, self._details, self._metadata = code, details, metadata

    def code(self):
        return self._code

    def details(self):
        return self._details

    def trailing_metadata(self):
        return self._metadata


@each_leaf
def test_a_failed_call_gives_the_error_that_the_server_sent(cls):
    info = errors.encode_error(cls("why", epoch=4))
    call = FailedCall(grpc.StatusCode.ABORTED, "why", [("other", "x"), (errors.ERROR_KEY, info)])
    error = channel.error_of(call, "127.0.0.1:1")
    assert type(error) is cls
    assert (str(error), error.epoch) == ("why", 4)


@pytest.mark.parametrize(
    ("details", "words"),
    [
        (
            "failed to connect to all addresses; last error: UNKNOWN: ipv4:10.0.0.1:7400: Failed to connect to remote "
            "host: Connection refused",
            "nothing listens there (connection refused)",
        ),
        (
            "failed to connect to all addresses; last error: UNKNOWN: ipv4:10.0.0.1:7400: connect: No route to host",
            "there is no way to its machine (no route to host)",
        ),
        ("DNS resolution failed for nowhere:7400: Domain name not found", "its host name is not known"),
        (
            "failed to connect to all addresses; last error: UNAVAILABLE: ipv4:10.0.0.1:7400: Failed parsing HTTP/2 "
            "(Expected SETTINGS frame as the first frame, got frame type 79)",
            "something listens there that is no server of rowloom (it speaks no gRPC)",
        ),
        ("Socket closed", "the connection broke"),
        ("recvmsg:Connection timed out", "no answer in time"),
        ("something that nobody has seen yet", "unavailable: something that nobody has seen yet"),
    ],
)
def test_people_read_why_a_server_did_not_answer_and_not_what_grpc_says_of_it(details, words):
    error = channel.error_of(FailedCall(grpc.StatusCode.UNAVAILABLE, details), "10.0.0.1:7400")
    assert str(error) == f"10.0.0.1:7400 did not answer: {words}"


@pytest.mark.parametrize("code", ["UNAVAILABLE", "DEADLINE_EXCEEDED", "CANCELLED", "UNKNOWN", "INTERNAL"])
def test_a_call_that_ended_without_an_answer_of_ours_has_an_unknown_outcome(code):
    error = channel.error_of(FailedCall(grpc.StatusCode[code], "connection reset"), "10.0.0.1:7400")
    assert isinstance(error, errors.NoAnswer)
    assert "10.0.0.1:7400 did not answer" in str(error)
    why = "no answer in time" if code == "DEADLINE_EXCEEDED" else "the connection broke"
    assert str(error) == f"10.0.0.1:7400 did not answer: {why}"


def test_a_server_that_is_not_ours_is_named_as_such():
    error = channel.error_of(FailedCall(grpc.StatusCode.UNIMPLEMENTED, "Method not found!"), "10.0.0.1:80")
    assert isinstance(error, errors.InvalidRequest)
    assert "what answers at 10.0.0.1:80 is no rowloom server of this version" in str(error)


def test_a_token_refused_by_something_in_between_is_unauthorized():
    error = channel.error_of(FailedCall(grpc.StatusCode.UNAUTHENTICATED, "no token", None), "10.0.0.1:80")
    assert isinstance(error, errors.Unauthorized)


def test_a_long_message_is_cut_so_that_an_error_arrives_at_all():
    back = errors.decode_error(errors.encode_error(errors.TableExists("ä" * 100_000)))
    assert isinstance(back, errors.TableExists)
    assert back.message == "ä" * 1000


def test_every_message_fits_both_ways():
    limits = dict(channel.SERVER_OPTIONS)
    assert limits["grpc.so_reuseport"] == 0, "two servers on one port would share the calls"
    for options in (channel.SERVER_OPTIONS, channel.CHANNEL_OPTIONS):
        assert dict(options)["grpc.max_receive_message_length"] == channel.MAX_MESSAGE_BYTES
        assert len(dict(options)) == len(options), "an option is set twice"


def test_a_refusal_brings_the_layout_that_is_to_be_used_instead_unless_that_is_too_long() -> None:
    layout = Layout("c", 7, tuple(ShardAddress(i, f"host-{i}:1", i) for i in range(3)), "k:1")
    data = layout.to_message().SerializeToString()
    found = errors.decode_error(errors.encode_error(errors.WrongLayout("no", epoch=7, layout=data)))
    assert Layout.from_message(pb.Layout.FromString(found.layout)) == layout
    many = Layout("c", 7, tuple(ShardAddress(i, f"host-{i}:1", i) for i in range(500)), "k:1")
    sent = errors.encode_error(errors.WrongLayout("x" * 5000, layout=many.to_message().SerializeToString()))
    assert len(sent) < 6000
    assert errors.decode_error(sent).layout == b""
