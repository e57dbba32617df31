"""Which node is meant, what fits on others, which labels keep servers off; and their environment and niceness."""

import os

import pytest

from rowloom.deploy.config.changes import diff
from rowloom.deploy.config.config import InvalidConfig, environment_from, parse
from rowloom.deploy.launch.niceness import be_as_nice
from rowloom.deploy.nodes.nodes import Node, check_fits, fitting, meant
from rowloom.deploy.nodes.ray_nodes import check_can_select, selector
from rowloom.proto.errors import InvalidRequest, Unavailable

A = Node("aa11" + "0" * 52, "10.0.0.1", "10.0.0.1", free={"CPU": 3.0, "memory": 10.0})
B = Node("aa22" + "0" * 52, "10.0.0.2", "big", free={"CPU": 0.5, "memory": 10.0})
C = Node("bb33" + "0" * 52, "10.0.0.2", "twin", free={"CPU": 2.0, "memory": 1.0})


@pytest.mark.parametrize("text", [A.id, "aa11", "AA110", "10.0.0.1"])
def test_a_node_is_meant_by_its_id_or_its_beginning_or_its_address(text):
    assert meant(text, [A, B, C]) is A


def test_two_nodes_of_one_host_are_told_apart_by_their_names():
    assert meant("twin", [A, B, C]) is C
    with pytest.raises(
        InvalidRequest, match=r"2 nodes are meant by '10\.0\.0\.2': big at 10\.0\.0\.2 \(aa220000\); twin"
    ):
        meant("10.0.0.2", [A, B, C])


@pytest.mark.parametrize("text", ["", "aa", "10.0.0.9", "cc44"])
def test_a_node_that_there_is_not_is_refused_with_those_that_there_are(text):
    with pytest.raises(InvalidRequest, match=rf"there is no node '{text}': 10\.0\.0\.1 \(aa110000\); big at"):
        meant(text, [A, B, C])


def test_so_many_servers_fit_into_what_is_free_and_draining_nodes_have_no_room():
    assert fitting({"CPU": 1.0}, [A, B, C]) == 5
    assert fitting({"CPU": 0.1}, [A, B, C]) == 30 + 5 + 20
    assert fitting({"CPU": 1.0, "memory": 4.0}, [A, B, C]) == 2
    assert fitting({"CPU": 1.0, "gpu_free": 1.0}, [A, B, C]) == 0
    assert fitting({"CPU": 1.0}, [Node("x", "10.0.0.9", draining=True, free={"CPU": 9.0})]) == 0
    check_fits(5, {"CPU": 1.0}, [A, B, C])
    with pytest.raises(
        Unavailable,
        match=r"room for 3 shards of CPU 1, memory 4 each: 2 fit .* big at .*: CPU 0\.5, memory 10",
    ):
        check_fits(3, {"CPU": 1.0, "memory": 4.0}, [A, B, C])


def test_servers_are_kept_off_nodes_by_the_id_that_ray_labels_them_with():
    assert selector({}, []) == {}
    assert selector({"pool": "ps"}, []) == {"pool": "ps"}
    assert selector({"pool": "ps"}, ["b", "a"]) == {"pool": "ps", "ray.io/node-id": "!in(a,b)"}


def test_a_ray_that_cannot_choose_nodes_by_label_is_refused():
    pytest.importorskip("ray")
    with pytest.raises(InvalidRequest, match=r"cannot keep shards off nodes by their labels.*ray\.resources"):
        check_can_select(["bundles", "strategy"])


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"pipp": ["x"]}, "did you mean 'pip'"),
        ({"gpus": 1}, "known: pip, uv, conda"),
        ({"env_vars": {"A": 1}}, r"env_vars: must be texts by name.*got \{A: 1\}"),
        ({"working_dir": "./here"}, r"working_dir: must be a URL that every node can read.*got '\./here'"),
        ({"py_modules": ["s3://a/b.zip", "/c"]}, "py_modules: must be a URL.*got '/c'"),
        ("pip", "must be a mapping"),
    ],
)
def test_an_environment_that_ray_would_not_take_is_refused_before_anything_is_started(given, said):
    with pytest.raises(InvalidConfig, match=f"ray.runtime_env.*{said}"):
        parse({"launcher": "ray", "ray": {"runtime_env": given}})


def test_an_environment_goes_to_the_cluster_and_back_and_a_change_of_it_is_an_upgrade():
    env = {"pip": ["rowloom==1.2"], "env_vars": {"A": "b"}, "working_dir": "s3://a/b.zip"}
    old = parse({"launcher": "ray"})
    new = parse({"launcher": "ray", "ray": {"runtime_env": env}})
    assert new.ray.runtime_env == env
    (change,) = diff(old, new)
    assert (change.path, change.action) == ("ray.runtime_env", "upgrade")
    assert environment_from('{"env_vars": {}}') == {"env_vars": {}}
    with pytest.raises(InvalidConfig, match="no JSON"):
        environment_from("{")


def test_a_niceness_that_the_system_does_not_allow_is_refused_with_what_would_help(monkeypatch):
    def not_allowed(*args: int) -> None:
        raise PermissionError

    be_as_nice(None, "10.0.0.1")
    monkeypatch.setattr(os, "setpriority", not_allowed)
    be_as_nice(None, "10.0.0.1")
    with pytest.raises(InvalidRequest, match=r"node 10\.0\.0\.1 runs .* RAY_worker_niceness=3"):
        be_as_nice(3, "10.0.0.1")
