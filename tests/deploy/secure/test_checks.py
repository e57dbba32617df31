"""Files of `security` before a start: each thing that is wrong with them is named, and nothing was started."""

import os

import pytest
from secured import SecuredFolder

from rowloom.deploy.config.config import InvalidConfig, parse
from rowloom.deploy.secure.checks import check_security, is_for


@pytest.fixture
def folder(tmp_path):
    return SecuredFolder(tmp_path / "secured")


def fault(folder: SecuredFolder, config: dict | None = None, **changes) -> str:
    with pytest.raises(InvalidConfig) as caught:
        check_security(parse((config or {}) | {"security": folder.section(**changes)}))
    return str(caught.value)


def test_what_init_makes_is_fine_and_says_nothing(folder):
    told: list[str] = []
    for mutual in (False, True):
        check_security(parse({"security": folder.section(mutual=mutual)}), told.append)
    check_security(parse({}), told.append)
    assert told == []
    private = {path.name: path.stat().st_mode & 0o777 for path in folder.path.iterdir()}
    assert {name: mode for name, mode in private.items() if mode != 0o600 and not name.startswith(".")} == {}


@pytest.mark.parametrize("name", ["ca.pem", "server.pem", "server.key", "tokens.yaml", "cluster.token"])
def test_a_file_that_is_missing_is_named(folder, name):
    (folder.path / name).unlink()
    words = fault(folder)
    assert folder[name] in words
    assert "No such file" in words


@pytest.mark.parametrize("name", ["server.key", "cluster.token"])
def test_a_secret_that_others_may_read_is_refused(folder, name):
    os.chmod(folder[name], 0o604)
    words = fault(folder)
    assert (
        f"{folder[name]} may be read by others (mode 0604), so it is not used: `chmod 600 {folder[name]}`"
        in words
    )


def test_a_key_of_another_certificate_is_refused(folder):
    assert f"the key {folder['client.key']} is not the key of" in fault(folder, key=folder["client.key"])


def test_files_that_are_none_are_refused(folder):
    (folder.path / "junk").write_bytes(b"-----BEGIN nothing\x00\xff")
    os.chmod(folder["junk"], 0o600)
    for name in ("ca", "cert", "key", "tokens"):
        assert folder["junk"] in fault(folder, **{name: folder["junk"]})


def test_a_certificate_that_has_expired_is_refused_and_one_that_soon_will_is_told(folder):
    folder.expire()
    assert f"{folder['server.pem']} expired at 20" in fault(folder)
    told: list[str] = []
    folder.authority.give(folder.path, "server", ["127.0.0.1"], 20, server=True)
    check_security(parse({"security": folder.section()}), told.append)
    assert "expires at 20" in " ".join(told)


def test_a_certificate_of_another_ca_is_refused(folder, tmp_path):
    other = SecuredFolder(tmp_path / "other")
    assert "is not a certificate of" in fault(folder, ca=other["ca.pem"])


def test_a_certificate_must_be_for_what_servers_are_called_by(folder):
    words = fault(folder, {"host": "10.0.0.5"})
    assert "is for localhost, 127.0.0.1, ::1, and servers are called by 10.0.0.5" in words
    assert "--host 10.0.0.5" in words
    folder.renew(["*.example.com", "10.0.0.5"])
    check_security(parse({"host": "10.0.0.5", "security": folder.section()}))
    check_security(parse({"host": "10.0.0.6", "security": folder.section(server_name="ads.example.com")}))
    assert "called by ads.other.com" in fault(folder, server_name="ads.other.com")
    from cryptography import x509

    certificate = x509.load_pem_x509_certificate((folder.path / "server.pem").read_bytes())
    assert not is_for(certificate, "a.b.example.com")
    assert not is_for(certificate, "example.com")


def test_servers_need_a_token_with_all_rights(folder):
    folder.token("half", "pull:*", "push:*")
    words = fault(folder, token=folder["half.token"])
    assert "servers show the token of 'half'" in words
    assert "needs the right *:*" in words
    stranger = folder.path / "stranger.token"
    stranger.write_text("rowloom_stranger\n")
    os.chmod(stranger, 0o600)
    assert "which is of nobody in" in fault(folder, token=str(stranger))


def test_two_keys_that_name_the_same_missing_file_were_one_fault_said_twice(folder):
    missing = str(folder.path / "none.pem")
    said = f"the certificate {missing} cannot be read: No such file or directory"
    assert fault(folder, ca=missing, cert=missing) == f"security: ca: {said}; cert: {said}"


def test_a_certificate_that_is_not_for_where_metrics_are_read_is_told_as_whoever_reads_can_be_told_its_name(
    folder,
):
    folder.renew(["ads.example"])
    told: list[str] = []
    config = {"advertise_host": "ads.example", "metrics": {"port": 9400}, "security": folder.section()}
    check_security(parse(config), told.append)
    assert len(told) == 1
    assert "is for ads.example, and metrics are read at 127.0.0.1: tell Prometheus" in told[0]
    for more in ({"metrics": {"port": None}}, {"metrics": {"port": 9400, "host": "0.0.0.0"}}):
        check_security(parse(config | more), told.append)
    check_security(parse(config | {"security": folder.section(server_name="ads.example")}), told.append)
    assert len(told) == 1
