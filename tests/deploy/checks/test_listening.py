"""Addresses where a cluster cannot listen, as `plan` tells them."""

import socket

from rowloom.deploy.checks.machine import not_listening
from rowloom.deploy.config.config import parse
from rowloom.deploy.operate.planning import plan


def faults(**config: object) -> dict[str, str]:
    found = plan(parse(config), None).told
    assert found == not_listening(parse(config))
    return {one.name: one.found for one in found}


def test_a_host_or_a_port_that_cannot_be_had_was_found_only_by_up():
    insecure = {"insecure": True}
    assert faults() == {}
    assert faults(host="203.0.113.7", security=insecure) == {
        "port": "cannot listen at 203.0.113.7, any port: Cannot assign requested address"
    }
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        taken = f"cannot listen at 127.0.0.1:{port}: Address already in use"
        assert faults(port=port, metrics={"port": port}) == {"port": taken, "metrics.port": taken}
    assert faults(port=port) == {}


def test_on_ray_the_addresses_are_those_of_nodes_and_not_looked_at_here():
    config = {"launcher": "ray", "host": "203.0.113.7", "security": {"insecure": True}}
    assert not_listening(parse(config)) == []
