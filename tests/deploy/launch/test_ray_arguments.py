"""What actors of Ray are given: small enough that Ray does not lose it with whoever gave it."""

import random

import pytest

from rowloom.client import SGD, TableSpec
from rowloom.deploy.config.config import DeployConfig, parse
from rowloom.deploy.launch.ray_arguments import MOST_BYTES, packed, packed_for_shard, unpacked
from rowloom.proto.errors import InvalidRequest


def config_of(tables: int) -> DeployConfig:
    rng = random.Random(tables)
    specs = [
        TableSpec(f"{rng.getrandbits(64):x}", rng.randrange(1, 10**9), dim=8, optimizer=SGD(lr=rng.random()))
        for _ in range(tables)
    ]
    return parse({"name": "ads", "shards": 2, "launcher": "ray", "tables": specs})


def test_a_config_of_a_thousand_tables_is_small_enough_and_comes_back_as_it_was():
    config = config_of(1000)
    assert len(config.to_json()) > 100_000
    data = packed(config)
    assert len(data) <= MOST_BYTES
    assert unpacked(data) == config
    assert unpacked(config.to_json()) == config  # as earlier versions gave it


def test_a_shard_is_given_no_tables():
    config = config_of(1000)
    assert len(packed_for_shard(config)) < 2000
    assert unpacked(packed_for_shard(config)) == config_of(0)


def test_a_config_that_is_too_large_for_ray_is_refused_with_its_size():
    with pytest.raises(InvalidRequest, match=r"a config of 5000 tables is too large for Ray.*`create_table`"):
        packed(config_of(5000))
