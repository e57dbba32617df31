"""Addresses and ports that are typed wrong: refused before anything starts, with what was probably meant."""

import pytest

from rowloom.deploy.config.config import InvalidConfig, parse


def fault(value: dict) -> str:
    """The only fault of a config."""
    with pytest.raises(InvalidConfig) as caught:
        parse(value)
    (only,) = caught.value.faults
    return str(only)


@pytest.mark.parametrize(
    ("host", "words"),
    [
        (
            "127.0.0.1:7400",
            "the coordinator's port is `port`, got '127.0.0.1:7400'; did you mean '127.0.0.1'?",
        ),
        ("lcalhost", "did you mean 'localhost'?"),
        ("256.0.0.1", "is no address: that is four numbers of 0 to 255, as 10.0.0.5, got '256.0.0.1'"),
        ("10.0.0", "is no address"),
        ("my host", "must be a name or an address"),
    ],
)
@pytest.mark.parametrize("key", ["host", "advertise_host"])
def test_a_host_that_nothing_could_listen_on_was_taken_until_a_server_failed(key, host, words):
    assert words in fault({key: host})


@pytest.mark.parametrize("host", ["localhost", "localhost6", "ps-0.example.org", "node_1", "::1", "10.0.0.5"])
def test_names_and_addresses_of_every_kind_are_taken(host):
    private = {"security": {"insecure": True}}
    assert parse({"host": host, "advertise_host": host} | private).host == host


@pytest.mark.parametrize(
    ("port", "meant"),
    [
        ("7400", 7400),
        ("74O0", 7400),
        ("127.0.0.1:7400", 7400),
        (-7400, 7400),
        ("auto", 0),
        # It was 65535.
        (74000, 7400),
    ],
)
def test_a_port_that_is_typed_wrong_is_not_answered_with_the_largest_one(port, meant):
    words = f"port: must be a whole number of 0 to 65535, got {port!r}; did you mean {meant}?"
    assert fault({"port": port}) == words


def test_a_port_that_means_nothing_gets_no_guess():
    far = {"seven": "'seven'", None: "nothing (null)", True: "true", 1.5: "1.5", 2**64: str(2**64), -1: "-1"}
    for port, shown in far.items():
        assert fault({"port": port}) == f"port: must be a whole number of 0 to 65535, got {shown}"


@pytest.mark.parametrize(
    ("address", "meant"),
    [
        ("atuo", "auto"),
        ("Local", "local"),
        ("10.0.0.1", "10.0.0.1:6379"),
        ("10.0.0.1:63790", None),
        ("10.0.0.1:637900", "10.0.0.1:63790"),
        ("10.0.0.1:637g", ""),
        ("ray://10.0.0.1:10001", None),
    ],
)
def test_a_ray_address_that_is_typed_wrong_was_only_found_when_nothing_answered(address, meant):
    config = {"launcher": "ray", "ray": {"address": address}}
    if meant is None:
        assert parse(config).ray.address == address
        return
    said = fault(config)
    assert f"ray.address: must be auto, local or host:port, got {address!r}" in said
    assert said.endswith(f"; did you mean {meant!r}?" if meant else repr(address))


@pytest.mark.parametrize(
    ("config", "words"),
    [
        # It was 'tables'.
        ({"adress": "auto"}, "`host` and `port`); did you mean 'ray.address'?"),
        ({"placement": "SPREAD"}, "did you mean 'ray.placement'?"),
        ({"start_timeout": 30}, "did you mean 'limits.start_timeout_s'?"),
        (
            {"launcher": "ray", "ray": {"port": 7400}},
            "ray.port: is no key of ray, but one of the cluster; did you mean 'port'?",
        ),
        ({"prot": 7400}, "did you mean 'port'?"),
        ({"hots": "10.0.0.5"}, "did you mean 'host'?"),
    ],
)
def test_a_key_at_the_wrong_place_was_answered_with_a_key_that_only_looks_like_it(config, words):
    assert words in fault(config)


def test_a_number_in_quotes_is_answered_with_the_number():
    assert fault({"shards": "2"}) == "shards: must be a whole number, got '2'; did you mean 2?"
