"""Fixtures of the command line."""

import pytest
from shared_cluster import SharedCluster

ADS = """
name: ads
shards: 2
tables:
  - {name: users, num_embeddings: 1000, dim: 4, optimizer: {adagrad: {lr: 0.05}}, initializer: zeros}
"""


@pytest.fixture(scope="module")
def shared_ads(tmp_path_factory):
    """What `ads` is made of."""
    cluster = SharedCluster(tmp_path_factory.mktemp("ads"), ADS)
    yield cluster
    cluster.close()


@pytest.fixture
def ads(cli, shared_ads):
    """A running cluster `ads` whose table users was pushed once, all of its 1,000 rows. Yields its address."""
    return shared_ads.as_new(cli)
