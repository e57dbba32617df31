"""Keys that nothing would read beside the others: refused, not passed over."""

import json

import pytest

from rowloom.deploy.config.config import InvalidConfig, from_json, parse
from rowloom.deploy.config.sections import RayConfig


@pytest.mark.parametrize(
    "section",
    [
        {},
        {"address": "auto"},
        {"memory_per_shard": "8GiB"},
    ],
)
def test_where_on_ray_shards_go_was_passed_over_by_a_config_that_puts_them_on_this_machine(section):
    for launcher in ({}, {"launcher": "local"}):
        with pytest.raises(InvalidConfig) as caught:
            parse({"ray": section} | launcher)
        assert str(caught.value).endswith(
            "ray: is not read with launcher: local; add `launcher: ray`, or leave `ray` out"
        )
    assert parse({"ray": section, "launcher": "ray"}).launcher == "ray"


def test_what_an_earlier_version_wrote_of_a_cluster_on_this_machine_is_still_read():
    config = parse({"shards": 3})
    assert "ray" not in config.to_mapping()
    earlier = config.to_mapping() | {"ray": RayConfig().model_dump()}
    assert from_json(json.dumps(earlier)) == config
