"""The section `security`: what does not go together, and that nothing listens for others in plain text unasked."""

from pathlib import Path

import pytest

from rowloom.deploy.config.config import InvalidConfig, from_json, load, parse
from rowloom.server.access.settings import ServerSecurity

TLS = {"ca": "/s/ca.pem", "cert": "/s/server.pem", "key": "/s/server.key"}
TOKENS = {"tokens": "/s/tokens.yaml", "token": "/s/cluster.token"}
SECRET = "rowloom_secret"


def said(config: dict) -> str:
    with pytest.raises(InvalidConfig) as caught:
        parse(config)
    return str(caught.value)


@pytest.mark.parametrize(
    ("security", "words"),
    [
        ({"cert": "a"}, "security.cert: needs `key` beside it: the file of its key, got 'a'"),
        ({"key": "a"}, "security.key: needs `cert` beside it"),
        ({"ca": "a"}, "security.ca: needs `cert` beside it"),
        ({"mutual": True}, "security.mutual: needs `cert` beside it"),
        (TLS | {"client_ca": "a"}, "security.client_ca: needs `mutual` beside it"),
        ({"server_name": "a"}, "security.server_name: needs `cert` beside it"),
        ({"tokens": "a"}, "security.tokens: needs `token` beside it"),
        ({"token": "a"}, "security.token: needs `tokens` beside it"),
        (TLS | {"insecure": True}, "security.insecure: contradicts `cert`"),
        ({"mutual": "yes"}, "security.mutual"),
        ({"cert": ""}, "security.cert: must be a text that is not empty"),
        ({"certificate": "a"}, "did you mean 'cert'?"),
    ],
)
def test_what_does_not_go_together_is_refused_with_what_is_missing(security, words):
    assert words in said({"security": security})


def test_a_certificate_without_the_ca_that_servers_know_one_another_by_is_refused():
    assert "security.cert: needs `ca` beside it" in said({"security": {"cert": "a", "key": "b"}})


@pytest.mark.parametrize("host", ["10.0.0.5", "0.0.0.0", "::", "ads.example.com"])
def test_a_host_for_others_needs_tls_or_a_word_that_it_is_meant(host):
    config = {"host": host, "advertise_host": "ads.example.com"}
    words = said(config)
    assert "host: is for others, and without TLS" in words
    assert "rowloom secure init" in words
    assert "security: {insecure: true}" in words
    assert parse(config | {"security": {"insecure": True}}).host == host
    assert parse(config | {"security": TLS}).host == host


@pytest.mark.parametrize("host", [None, "127.0.0.1", "127.0.0.9", "localhost", "::1"])
def test_on_this_machine_nothing_is_asked(host):
    config = parse({} if host is None else {"host": host})
    assert "security" not in config.to_mapping()


def test_tokens_never_travel_in_plain_text_to_other_machines():
    words = said({"host": "10.0.0.5", "security": TOKENS | {"insecure": True}})
    assert "security.tokens: would travel in plain text" in words
    assert parse({"security": TOKENS}).security.tokens == "/s/tokens.yaml"


def test_paths_begin_at_the_folder_of_the_config_and_stay_what_they_are(tmp_path):
    text = "security: {ca: sec/ca.pem, cert: /abs/server.pem, key: ../server.key}\n"
    (tmp_path / "deploy.yaml").write_text(text)
    config = load(tmp_path / "deploy.yaml")
    assert config.security.ca == str(tmp_path / "sec/ca.pem")
    assert config.security.cert == "/abs/server.pem"
    assert Path(config.security.key or "").resolve() == tmp_path.parent / "server.key"
    assert from_json(config.to_json()) == config


def test_a_server_itself_refuses_to_listen_for_others_in_plain_text():
    from rowloom.proto.errors import InvalidRequest
    from rowloom.server.serve import Server

    with pytest.raises(
        InvalidRequest, match=r"listens on 0\.0\.0\.0 without TLS.*secure init.*insecure: true"
    ):
        Server("0.0.0.0")
    settings = ServerSecurity(insecure=True)
    settings.check_listening("0.0.0.0")
    assert ServerSecurity.from_json(settings.to_json()) == settings


def test_metrics_are_offered_to_others_under_tls_or_in_plain_text_where_their_owner_says_so():
    wanted = {"metrics": {"port": 9400, "host": "0.0.0.0"}}
    with pytest.raises(InvalidConfig, match=r"metrics\.host: is for others.*plain text.*insecure: true"):
        parse(wanted)
    for security in ({"insecure": True}, {"ca": "a", "cert": "b", "key": "c"}):
        assert parse(wanted | {"security": security}).metrics.host == "0.0.0.0"
    assert parse({"metrics": {"host": "0.0.0.0"}}).metrics.port is None  # nobody offers any


@pytest.mark.parametrize("insecure", [False, True])
def test_tokens_that_readers_of_metrics_show_never_travel_in_plain_text(insecure):
    wanted = {"metrics": {"port": 9400, "host": "0.0.0.0"}, "security": TOKENS | {"insecure": insecure}}
    with pytest.raises(
        InvalidConfig, match=r"metrics\.host: is for others.*plain text the tokens.*needs `security"
    ):
        parse(wanted)
    assert parse({"metrics": {"port": 9400}, "security": TOKENS}).security.tokens
