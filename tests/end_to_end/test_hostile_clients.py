"""Hostile and slow clients, all at once, beside a good trainer: what they can hold of a server, and for how long.

What they cost the trainer in time: `python tests/bench/hostile.py`.
"""

import time

import numpy as np
import pytest
from hostile import ATTACKS, DIM, ROWS, SPEC, Held, Trainer, attacked
from waiting import PATIENCE_S

from rowloom.client import SGD, TableSpec, Zeros
from rowloom.deploy import local_cluster
from rowloom.proto.lane import HAS_ARENAS
from rowloom.server.carriers.grpc_server import MOST_THREADS
from rowloom.server.carriers.receiving import MOST_MESSAGES
from rowloom.server.carriers.strangers import MOST_STRANGERS

LANES = 30  # that know the key
IDLE = 200  # that say nothing to gRPC
HALF = 14  # that say something to gRPC


@pytest.mark.skipif(not HAS_ARENAS, reason="what a server holds is read in /proc, which is Linux's")
def test_hostile_clients_hold_a_bounded_part_of_a_server_and_none_of_it_when_they_are_gone() -> None:
    evil = TableSpec("evil", 2_000_000, dim=DIM, optimizer=SGD(lr=1.0), initializer=Zeros())
    with local_cluster(1, processes=True, tables=[SPEC, evil]) as cluster:
        trainer = Trainer(cluster.address, "auto")
        trainer.steps(0.2)
        held = Held({"shard": cluster.launcher.pid(0)})
        before, most = held.before["shard"], held.most["shard"]
        with attacked(cluster, ATTACKS, idle=False):  # or they never come where others keep it busy
            until = time.monotonic() + PATIENCE_S
            while (
                most["files"] < before["files"] + IDLE or most["threads"] < before["threads"] + MOST_MESSAGES
            ):
                assert time.monotonic() < until, f"they are not there: {most}"
                trainer.steps(0.2, held.watch)
            trainer.steps(1.0, held.watch)
        assert most["threads"] <= before["threads"] + MOST_THREADS + LANES
        assert most["files"] <= before["files"] + IDLE + HALF + MOST_STRANGERS + LANES
        back, after = held.back(PATIENCE_S, ["threads", "files"])
        assert back, f"{before} before, {after} afterwards"
        assert (trainer.client.table("good").pull(np.arange(ROWS))[:, 0] == trainer.counts).all()
        trainer.client.close()
