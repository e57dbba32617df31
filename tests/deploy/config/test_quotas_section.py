"""The section `quotas`: what it takes, and that it needs somebody to have them."""

import pytest

from rowloom.deploy.config.changes import diff
from rowloom.deploy.config.config import InvalidConfig, from_json, parse, quotas_from
from rowloom.server.access.quotas import Quota

SECURITY = {"tokens": "/s/tokens.yaml", "token": "/s/cluster.token"}
SAID = {"default": {"rows": 1_000_000, "calls": 8}, "principals": {"ann": {"bytes": "4GiB"}, "bob@x": {}}}


def config(quotas: dict):
    return parse({"security": SECURITY, "quotas": quotas})


def test_quotas_are_read_with_units_and_come_back_from_json() -> None:
    read = config(SAID)
    held = read.quotas.values()
    assert held.of("ann") == Quota(bytes=4 << 30)
    assert held.of("bob@x") == Quota()
    assert held.of("eve") == Quota(rows=1_000_000, calls=8)
    assert from_json(read.to_json()) == read
    assert quotas_from(read.quotas.to_json()) == read.quotas


def test_a_config_without_quotas_says_nothing_of_them_and_its_hash_is_as_before() -> None:
    assert "quotas" not in parse({}).to_mapping()


@pytest.mark.parametrize(
    ("quotas", "words"),
    [
        ({"default": {"row": 1}}, "did you mean 'rows'?"),
        ({"principals": {"ann": {"table": 1}}}, "did you mean 'tables'?"),
        ({"principals": {"a b": {}}}, "must be a principal, as in the file of tokens"),
        ({"default": {"rows": -1}}, "must be at least 0"),
        ({"default": {"calls": 0}}, "must be at least 1"),
        ({"default": {"bytes": "much"}}, "must be bytes, as 8GiB"),
        ({"principal": {}}, "did you mean 'principals'?"),
    ],
)
def test_what_is_no_quota_is_refused_with_what_is_nearest(quotas, words) -> None:
    with pytest.raises(InvalidConfig) as caught:
        config(quotas)
    assert words in str(caught.value)


def test_without_principals_quotas_are_refused() -> None:
    with pytest.raises(
        InvalidConfig, match=r"quotas: needs `security.tokens`: without principals nobody knows"
    ):
        parse({"quotas": SAID})


def test_a_change_of_quotas_is_made_while_the_cluster_runs() -> None:
    (change,) = diff(config(SAID), config({"default": {"rows": 5}}))
    assert (change.path, change.action) == ("quotas", "quotas")
    assert change.new == {"default": {"rows": 5}, "principals": {}}
