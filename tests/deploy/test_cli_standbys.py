"""Clusters with standbys, as the command line tells of them when something of them has ended."""

import json
import os
import signal

import numpy as np
import pytest
from waiting import until

from rowloom.client import connect
from rowloom.deploy.launch.processes import is_running, started

ADS = """
name: ads
shards: 2
replicas: 1
tables:
  - {name: users, num_embeddings: 1000, dim: 4, optimizer: {sgd: {lr: 1.0}}, initializer: zeros}
"""
IDS = np.arange(100)


@pytest.mark.slow
def test_of_a_shard_that_ended_with_its_coordinator_nobody_said_that_its_standby_has_the_rows(cli):
    # `list` said 3 shards, `status` 1, and `up` that the rows of shard 0 are gone, with ways to lose them.
    cli.write(ADS)
    with connect(cli.json("up")["address"]) as client:
        client.table("users").push(IDS, np.ones((100, 4), np.float32))

    def shards() -> list[dict]:
        return json.loads(cli.attempt("status", "--json")[0])["shards"]

    until(lambda: all(one["standby"]["state"] == "in step" for one in shards()))
    record = cli.directory.get("ads")
    killed = [(record.pid, record.started), ((pid := shards()[0]["pid"]), started(pid))]
    for pid, _ in killed:
        os.kill(pid, signal.SIGKILL)
    until(lambda: not any(is_running(*one) for one in killed))
    err = cli.run("status", code=5)[1]
    assert (
        "1 of its 2 shards serves pulls and pushes; of shard 0, whose process has ended, the standby has the rows, and "
        "takes the place when there is a coordinator" in err
    )
    assert cli.json("list")["clusters"][0]["shards"] == 2
    _, err, _ = cli.attempt("up")
    assert "gone" not in err
    assert "accept-loss" not in err
    until(lambda: json.loads(cli.attempt("status", "--json")[0])["healthy"])
    with connect(cli.json("status")["coordinator"]) as client:
        np.testing.assert_array_equal(client.table("users").pull(IDS), -1.0)
