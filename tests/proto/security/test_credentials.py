"""What a caller shows: what goes together, what comes from the environment, and that a token stays where it is."""

import copy
import os
import pickle

import pytest

from rowloom.proto.errors import InvalidRequest
from rowloom.proto.security.credentials import VARIABLES, Credentials, from_environment, is_loopback

NONE = dict.fromkeys(VARIABLES)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"ca": "a", "cert": "b"}, "cert needs key beside it"),
        ({"ca": "a", "key": "b"}, "key needs cert beside it"),
        ({"cert": "a", "key": "b"}, "cert needs ca"),
        ({"server_name": "a"}, "server_name needs ca"),
        ({"token": "a", "token_file": "b"}, "not both"),
    ],
)
def test_what_does_not_go_together_is_refused(given, said):
    with pytest.raises(InvalidRequest, match=said):
        Credentials(**given)


def test_what_is_given_goes_before_the_environment_and_takes_no_half_of_it():
    environment = {
        "ROWLOOM_CA": "ca",
        "ROWLOOM_CERT": "cert",
        "ROWLOOM_KEY": "key",
        "ROWLOOM_TOKEN_FILE": "file",
        "ROWLOOM_SERVER_NAME": "name",
    }
    assert from_environment(environment, NONE) == Credentials("ca", "cert", "key", "name", "file")
    assert from_environment(environment, NONE | {"token": "t"}) == Credentials(
        "ca", "cert", "key", "name", token="t"
    )
    with pytest.raises(InvalidRequest, match="cert needs key"):
        from_environment(environment, NONE | {"cert": "other"})
    with pytest.raises(InvalidRequest, match="both set"):
        from_environment(environment | {"ROWLOOM_TOKEN": "t"}, NONE)
    assert from_environment({}, NONE) == Credentials()


@pytest.mark.parametrize(
    ("host", "here"),
    [
        ("127.0.0.1", True),
        ("127.9.9.9", True),
        ("[::1]", True),
        ("localhost", True),
        ("10.0.0.1", False),
        ("localhost.example.com", False),
        ("0.0.0.0", False),
        ("::", False),
        ("127.0.0.1.example.com", False),
    ],
)
def test_only_this_machine_is_this_machine(host, here):
    assert is_loopback(host) == here


def test_a_token_goes_to_this_machine_or_over_tls(tmp_path):
    mine = Credentials(token="secret")
    assert mine.metadata("127.0.0.1:1") == (("authorization", "Bearer secret"),)
    with pytest.raises(InvalidRequest, match=r"is not sent to 10\.0\.0\.5:1 in plain text"):
        mine.metadata("10.0.0.5:1")
    assert Credentials(ca="a", token="secret").metadata("10.0.0.5:1") == mine.metadata("127.0.0.1:1")
    assert Credentials().metadata("10.0.0.5:1") is None


def test_a_token_is_neither_shown_nor_pickled(monkeypatch):
    mine = Credentials(ca="ca.pem", token="secret")
    data = pickle.dumps(mine)
    assert b"secret" not in data
    assert "secret" not in repr(mine) + str(mine)
    assert pickle.loads(data) == mine == copy.deepcopy(mine)
    from rowloom.proto.security import credentials

    credentials._HERE.clear()  # as in another process
    with pytest.raises(InvalidRequest, match="which is in no pickle"):
        pickle.loads(data)
    monkeypatch.setenv("ROWLOOM_TOKEN_FILE", "file")
    assert pickle.loads(data) == Credentials(ca="ca.pem", token_file="file")


@pytest.mark.parametrize("text", ["", "\n", "two words", "nul\x00", "ümlaut", "a\nb"])
def test_a_file_that_holds_no_token_is_refused_without_saying_what_it_holds(tmp_path, text):
    path = tmp_path / "token"
    path.write_text(text)
    os.chmod(path, 0o600)
    with pytest.raises(InvalidRequest, match="holds no token") as caught:
        Credentials(token_file=str(path)).metadata("127.0.0.1:1")
    assert not text.strip() or text.strip() not in str(caught.value)


def test_a_token_file_is_read_anew_when_it_changes(tmp_path):
    from waiting import until

    path = tmp_path / "token"
    path.write_text("first\n")
    os.chmod(path, 0o600)
    mine = Credentials(token_file=str(path))
    assert mine.metadata("127.0.0.1:1") == (("authorization", "Bearer first"),)
    path.write_text("second\n")
    until(lambda: mine.metadata("127.0.0.1:1") == (("authorization", "Bearer second"),))


@pytest.mark.parametrize("token", ["rowloom_x\n", "rowloom x", "rowloom_ü", "rowloom\0x"])
def test_a_token_with_the_end_of_its_line_is_refused_at_once_and_not_shown(token):
    # gRPC said for each try that the metadata were invalid, and `connect` waited a minute for a server.
    with pytest.raises(InvalidRequest, match="token is no token") as refused:
        Credentials(token=token)
    assert token not in str(refused.value)
