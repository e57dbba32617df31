"""The file of tokens: what it may say, who is who by it, and that a change counts without a restart."""

import os

import pytest
import yaml

from rowloom.deploy.secure.token_files import PREFIX, add_token, new_token, revoke
from rowloom.proto.errors import InvalidRequest, Unauthenticated
from rowloom.proto.security.files import MOST_BYTES, read_private
from rowloom.server.access.tokens import Access, hash_of, parse_tokens, read_tokens

HASH = hash_of("x").hex()
ANN = {"sha256": [HASH], "allow": ["pull:users"]}


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ([], "must be a mapping"),
        ({"principal": {}}, "principal is no key here"),
        ({"principals": {"ann": {"sha256": "secret", "allow": "pull:*"}}}, "never the token itself"),
        (
            {"principals": {"ann": {"sha256": int("1" * 64), "allow": "pull:*"}}},
            "64 hexadecimal digits in quotes",
        ),
        ({"principals": {"ann": {"allow": "pull:*"}}}, "ann.sha256 is missing"),
        ({"principals": {"ann": {"sha256": HASH}}}, "ann.allow is missing"),
        ({"principals": {"ann": {"sha256": HASH, "allow": "read:*"}}}, "is no right"),
        ({"principals": {"ann": {"sha256": HASH, "allow": "pull:*", "tables": 1}}}, "tables is no key here"),
        ({"principals": {"a b": ANN}}, "'a b' is no name"),
        ({"principals": {"ann": ANN, "bob": ANN}}, "ann and bob have the same token"),
        # Whoever showed no token was `ann`.
        (
            {"principals": {"ann": ANN | {"sha256": [HASH, hash_of("").hex()]}}},
            "no token at all.*secure token ann",
        ),
    ],
)
def test_what_a_file_may_not_say_is_named(value, said):
    with pytest.raises(InvalidRequest, match=said):
        parse_tokens(value, "tokens.yaml")


def test_a_token_has_256_random_bits_and_only_its_hash_is_in_the_file(tmp_path):
    file, where = tmp_path / "tokens.yaml", tmp_path / "ann.token"
    add_token(file, "ann", ["pull:users"], where)
    token = where.read_text().strip()
    assert token.startswith(PREFIX)
    assert len(token) == len(PREFIX) + 43
    assert token != new_token()
    assert token not in file.read_text()
    assert hash_of(token).hex() in file.read_text()
    assert {path.name: path.stat().st_mode & 0o777 for path in (file, where)} == {
        "tokens.yaml": 0o600,
        "ann.token": 0o600,
    }
    assert Access(str(file)).identify(token).name == "ann"
    assert yaml.safe_load(file.read_text())["principals"]["ann"]["allow"] == ["pull:users"]


def test_of_somebody_who_gets_another_token_the_one_before_still_counts_and_no_older_one(tmp_path):
    file, where, tokens = tmp_path / "tokens.yaml", tmp_path / "ann.token", []
    access = None
    for allow in (["pull:users"], [], []):
        add_token(file, "ann", allow, where)
        tokens.append(where.read_text().strip())
        access = access or Access(str(file))
        # At once, though the file was looked at a moment ago: its owner may show it this very moment.
        assert access.identify(tokens[-1]).grants
    access = Access(str(file))
    assert [access.identify(token).name for token in tokens[1:]] == ["ann", "ann"]
    with pytest.raises(Unauthenticated, match="the token is of nobody here") as caught:
        access.identify(tokens[0])
    assert tokens[0] not in str(caught.value)
    with pytest.raises(Unauthenticated, match="a token is needed, and none was shown"):
        access.identify("")


def test_who_is_unknown_needs_rights_and_what_is_refused_changes_nothing(tmp_path):
    file = tmp_path / "tokens.yaml"
    add_token(file, "ann", ["pull:*"], tmp_path / "ann.token")
    before = file.read_text()
    for name, allow in (("bob", []), ("bob", ["read:*"]), ("a b", ["pull:*"])):
        with pytest.raises(InvalidRequest):
            add_token(file, name, allow, tmp_path / "bob.token")
    with pytest.raises(InvalidRequest, match="has no 'bob'; there is ann"):
        revoke(file, "bob")
    assert file.read_text() == before
    assert not (tmp_path / "bob.token").exists()


def test_somebody_who_was_revoked_is_known_no_more_and_new_rights_count(tmp_path):
    file, now = tmp_path / "tokens.yaml", [0.0]
    add_token(file, "ann", ["pull:*"], tmp_path / "ann.token")
    add_token(file, "bob", ["pull:*"], tmp_path / "bob.token")
    access = Access(str(file))
    access._file._clock = lambda: now[0]
    ann = access.identify((tmp_path / "ann.token").read_text().strip())
    assert access.renewed(ann) is ann
    add_token(file, "ann", ["push:*"], tmp_path / "ann.token")
    now[0] += 2.0
    assert not access.renewed(ann).may("pull", "users")
    assert access.renewed(ann).may("push", "users")
    revoke(file, "ann")
    now[0] += 2.0
    with pytest.raises(Unauthenticated, match="the token that 'ann' showed is of nobody here any more"):
        access.renewed(ann)


def test_a_lane_that_a_stolen_token_opened_ends_with_that_token_though_its_owner_has_others(tmp_path):
    file, now = tmp_path / "tokens.yaml", [0.0]
    add_token(file, "ann", ["pull:*"], tmp_path / "ann.token")
    access = Access(str(file))
    access._file._clock = lambda: now[0]
    lane = access.identify((tmp_path / "ann.token").read_text().strip())
    add_token(file, "ann", [], tmp_path / "ann.token")
    now[0] += 2.0
    lane = access.renewed(lane)  # the one before goes on to count, once
    add_token(file, "ann", [], tmp_path / "ann.token")
    now[0] += 2.0
    with pytest.raises(Unauthenticated, match="of nobody here any more"):
        access.renewed(lane)


def test_a_file_that_is_spoiled_while_servers_run_leaves_the_one_before(tmp_path, caplog):
    file, now = tmp_path / "tokens.yaml", [0.0]
    add_token(file, "ann", ["pull:*"], tmp_path / "ann.token")
    access = Access(str(file))
    access._file._clock = lambda: now[0]
    access.principals()
    file.write_text("principals: {ann: {sha256: nonsense}}")
    now[0] += 2.0
    assert list(access.principals()) == ["ann"]
    assert "the file of tokens changed and cannot be used, the one before is" in caplog.text
    file.unlink()
    now[0] += 2.0
    assert list(access.principals()) == ["ann"]


@pytest.mark.parametrize("mode", [0o602, 0o660])
def test_a_file_that_others_may_change_is_refused(tmp_path, mode):
    # That of a group, 0660, was taken: everybody in it could have given himself any right.
    file = tmp_path / "tokens.yaml"
    add_token(file, "ann", ["pull:*"], tmp_path / "ann.token")
    os.chmod(file, mode)
    with pytest.raises(InvalidRequest, match=rf"may be changed by others \(mode {mode:04o}\).*chmod 600"):
        read_tokens(str(file))


@pytest.fixture
def tokens(tmp_path):
    """A file of tokens in a folder of its own."""
    (tmp_path / "keys").mkdir()
    file = tmp_path / "keys/tokens.yaml"
    add_token(file, "ann", ["pull:*"], tmp_path / "ann.token")
    return file


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_the_owner_of_a_file_of_tokens_gave_himself_any_right_where_servers_are_of_another_user(tokens):
    os.chown(tokens, 65534, 65534)
    with pytest.raises(InvalidRequest, match=f"belongs to user 65534, who may change it.*chown 0 {tokens}"):
        read_tokens(str(tokens))


def test_whoever_could_put_another_file_in_its_place_had_the_rights_that_it_says(tokens):
    tokens.parent.chmod(0o777)
    with pytest.raises(InvalidRequest, match=rf"mode 0777\), so it is not used: `chmod o-w {tokens.parent}`"):
        read_tokens(str(tokens))
    tokens.parent.chmod(0o1777)  # as /tmp, and where Kubernetes mounts secrets
    assert read_tokens(str(tokens))


def test_a_file_without_an_end_was_read_until_memory_was_full(tmp_path):
    for endless in ("/dev/zero", str(tmp_path)):
        with pytest.raises(InvalidRequest, match=r"cannot be (used: it is no file|read)"):
            read_private(endless, "the token")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InvalidRequest, match="it is no file"):
        read_private(str(tmp_path / "pipe"), "the token")
    large = tmp_path / "large"
    large.write_bytes(bytes(MOST_BYTES + 1))
    large.chmod(0o600)
    with pytest.raises(InvalidRequest, match="more than 4,194,304 bytes"):
        read_private(str(large), "the token")
