"""Trainers that die by SIGKILL in the middle of a push.

`ROWLOOM_KILLS=200 pytest tests/end_to_end/test_kills.py` kills more.
"""

import contextlib
import multiprocessing
import os
import random
import signal

import numpy as np
import pytest
from counting_trainer import COLUMNS, ROWS, SPEC, train

from rowloom.client.carriers.transport import CARRIERS
from rowloom.deploy import local_cluster
from rowloom.deploy.operate.remote import Remote

KILLS = int(os.environ.get("ROWLOOM_KILLS", "12"))


def kill_one(context, address: str, carrier: str, column: int, rng: random.Random) -> tuple[int, int]:
    """Start a trainer, kill it somewhere within a push. Returns how many pushes were (acked, attempted)."""
    mine, theirs = context.Pipe(duplex=False)
    trainer = context.Process(target=train, args=(address, carrier, column, theirs), daemon=True)
    trainer.start()
    theirs.close()
    said = [mine.recv() for _ in range(rng.randint(1, 6))]
    mine.poll(rng.uniform(0, 0.01))
    os.kill(trainer.pid, signal.SIGKILL)
    trainer.join(20)
    with contextlib.suppress(EOFError, ConnectionError):
        while True:
            said.append(mine.recv())
    mine.close()
    return said.count("acked"), said.count("attempt")


@pytest.mark.timeout(60 + 4 * KILLS)
def test_a_trainer_killed_in_the_middle_of_a_push_leaves_it_applied_once_or_not_at_all() -> None:
    rng = random.Random(0)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["rowloom.client"])
    with local_cluster(shards=2, processes=True) as cluster, cluster.connect() as client:
        table = client.create_table(SPEC)
        before, unheard = table.pull(np.arange(ROWS)), 0
        for number in range(KILLS):
            column = number % COLUMNS
            carrier = CARRIERS[number % len(CARRIERS)]
            acked, attempted = kill_one(context, cluster.address, carrier, column, rng)
            after = table.pull(np.arange(ROWS))
            added = after - before
            assert not np.delete(added, column, axis=1).any()
            for shard in range(2):
                counts = np.unique(added[shard::2, column])
                assert len(counts) == 1, f"a push was torn: {counts}"
                assert acked <= counts[0] <= attempted
                unheard += int(counts[0] > acked)
            before = after
        with Remote(cluster.address) as remote:
            assert [s.health for s in remote.status().shards] == ["serving", "serving"]
        table.push(np.arange(ROWS), np.ones((ROWS, COLUMNS)))
        np.testing.assert_array_equal(table.pull(np.arange(ROWS)), before - 1)
    print(f"{KILLS} kills; {unheard} times a shard had applied a push that its trainer never heard acked")
