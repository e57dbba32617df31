"""Fixtures of the command line."""

import numpy as np
import pytest

from rowloom.client import connect

ADS = """
name: ads
shards: 2
tables:
  - {name: users, num_embeddings: 1000, dim: 4, optimizer: {adagrad: {lr: 0.05}}, initializer: zeros}
"""


@pytest.fixture
def ads(cli):
    """A running cluster `ads` whose table users was pushed once, all of its 1,000 rows. Yields its address."""
    cli.write(ADS)
    address = cli.json("up", "deploy.yaml")["address"]
    with connect(address) as client:
        client.table("users").push(np.arange(1000), np.ones((1000, 4), np.float32))
    return address
