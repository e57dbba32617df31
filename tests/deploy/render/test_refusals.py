"""What cannot work on Kubernetes is refused, with what would."""

import pytest
from rendered import SECURITY, config_of, rendered

from rowloom.deploy.config.config import InvalidConfig, parse
from rowloom.deploy.render.files import render
from rowloom.deploy.render.options import Options
from rowloom.proto.errors import InvalidRequest


@pytest.mark.parametrize(
    ("changes", "options", "words"),
    [
        (
            {"launcher": "local"},
            {},
            "launcher: starts processes of one machine.*`launcher: ray`, got 'local'",
        ),
        ({"name": "My_Ads"}, {}, "name: must be lower-case letters, digits and -.*got 'My_Ads'"),
        ({"name": 41 * "a"}, {}, "name: must be .* at most 40 of them"),
        ({"host": "10.0.0.5"}, {}, "host: is an address of one machine.*leave `host` out, got '10.0.0.5'"),
        ({"advertise_host": "a.example.com"}, {}, "advertise_host: is the name of one machine"),
        (
            {"security": {}},
            {},
            "security: is missing: .*`rowloom secure init`.*insecure: true}`, on a network that is private$",
        ),
        (
            {"security": {k: v for k, v in SECURITY.items() if k != "server_name"}},
            {},
            "security.server_name: is missing.*rowloom secure init DIR --host ads.internal.*server_name: ads.internal",
        ),
        (
            {"storage": "/here"},
            {},
            "storage: is a folder of this machine, which no pod sees: --storage-class .*'/here'",
        ),
        ({"storage": "/here"}, {}, "object store"),
        ({"storage": "s3://b"}, {"claim": "c"}, "storage: does not need --claim: it is no folder.*'s3://b'"),
        ({}, {"storage_class": "nfs"}, "storage: is missing, and --storage-class is given"),
        ({"metrics": {"port": 0}}, {}, "metrics.port: takes a free port.*did you mean 9400"),
        (
            {"port": 6379},
            {},
            "port: is where Ray's gcs-server listens on the head.*got 6379; did you mean 7400",
        ),
        ({"port": 8080}, {}, "port: is where Ray's metrics-export listens"),
        (
            {"metrics": {"port": 8265}},
            {},
            "metrics.port: is where Ray's dashboard listens.*did you mean 9400",
        ),
        ({"metrics": {"port": 7400}}, {}, "metrics.port: is where the coordinator listens on the head"),
        (
            {"metrics": {"port": 9400}},
            {"scrape_config": True, "namespace": "ml"},
            "metrics.host: is read within the pod only.*got '127.0.0.1'",
        ),
    ],
)
def test_what_has_no_place_there_is_refused_with_what_would(changes, options, words):
    with pytest.raises(InvalidConfig, match=words):
        rendered(options, **changes)


def test_all_faults_are_named_at_once():
    config = parse({"name": "X", "storage": "/x", "durability": "memory"})
    with pytest.raises(InvalidConfig) as caught:
        render(config, Options(ray_version="2.60.0"))
    assert [fault.path for fault in caught.value.faults] == ["launcher", "name", "storage", "security"]


def test_an_object_store_is_not_offered_to_logs():
    with pytest.raises(InvalidConfig) as caught:
        rendered(storage="/x", durability="process")
    assert "s3://" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"tables": [{"name": "clicks"}]},
            "ray.memory_per_shard must be given: table 'clicks' is open-ended",
        ),
        ({"tables": []}, "ray.memory_per_shard must be given: the config has no tables"),
        (
            {"ray": {"placement": "STRICT_PACK"}},
            "STRICT_PACK wants all shards in one pod, and --shards-per-pod is 1: say 2",
        ),
    ],
)
def test_a_pod_whose_size_nobody_knows_is_refused(changes, words):
    with pytest.raises(InvalidRequest, match=words):
        rendered(**changes)


def test_strictly_spread_shards_do_not_share_a_pod():
    with pytest.raises(
        InvalidRequest, match="STRICT_SPREAD wants a pod for each shard, and --shards-per-pod is 2"
    ):
        rendered({"shards_per_pod": 2}, ray={"placement": "STRICT_SPREAD"})


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"image": "rowloom"}, "--image must have a tag that stays.*got 'rowloom'"),
        ({"image": "host:5000/rowloom:latest"}, "--image must have a tag that stays"),
        ({"image": "host:5000/rowloom"}, "--image must have a tag that stays"),
        ({"namespace": "My Team"}, "--namespace must be a name of Kubernetes.*'My Team'"),
        ({"storage_size": "100"}, "--storage-size must be as 100Gi"),
        ({"storage_class": "a", "claim": "b"}, "give one of them"),
        ({"redis": "redis"}, "--redis must be host:port"),
        ({"redis_secret": "x"}, "--redis-secret needs --redis"),
        ({"scrape_config": True}, "--scrape-config needs --namespace"),
        ({"kuberay_version": "1.2"}, "--kuberay-version must be 1.3 or newer, got 1.2"),
        ({"kuberay_version": "new"}, "--kuberay-version must be a version"),
        ({"ray_version": "nightly"}, "--ray-version must be a version such as 2.52.0, got 'nightly'"),
    ],
)
def test_an_option_that_cannot_be_meant_is_refused(options, words):
    with pytest.raises(InvalidRequest, match=words):
        Options(**options)


def test_a_digest_pins_an_image_too():
    assert Options(image="rowloom@sha256:00").image_here == "rowloom@sha256:00"


def test_insecure_is_enough_on_a_private_network():
    assert render(config_of(), Options(ray_version="2.60.0")).secret == ""
