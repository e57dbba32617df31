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
    trainer.join()
    with contextlib.suppress(EOFError, ConnectionError):
        while True:
            said.append(mine.recv())
    mine.close()
    return said.count("acked"), said.count("attempt")


def checked(rows: np.ndarray, acked: np.ndarray, attempted: np.ndarray) -> np.ndarray:
    """How often each column was pushed, by shard [2, COLUMNS]: all that was acked, no more than was attempted."""
    for shard in range(2):
        assert (rows[shard::2] == rows[shard]).all(), "a push was torn"
    assert (acked <= rows[:2]).all()
    assert (rows[:2] <= attempted).all()
    return rows[:2]


@pytest.mark.timeout(300 + 4 * KILLS)
def test_a_trainer_killed_in_the_middle_of_a_push_leaves_it_applied_once_or_not_at_all() -> None:
    rng = random.Random(0)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["rowloom.client"])
    with local_cluster(shards=2, processes=True) as cluster, cluster.connect() as client:
        table = client.create_table(SPEC)
        acked, attempted, unheard = np.zeros(COLUMNS), np.zeros(COLUMNS), 0
        for number in range(KILLS):
            column = number % COLUMNS
            carrier = CARRIERS[number % len(CARRIERS)]
            heard = kill_one(context, cluster.address, carrier, column, rng)
            acked[column] += heard[0]
            attempted[column] += heard[1]
            # Of all trainers so far: a server that was held up may have the last push of one before this still ahead.
            counts = checked(table.pull(np.arange(ROWS)), acked, attempted)
            unheard += int((counts[:, column] > acked[column]).sum())
        with Remote(cluster.address) as remote:
            assert [s.health for s in remote.status().shards] == ["serving", "serving"]
        table.push(np.arange(ROWS), np.ones((ROWS, COLUMNS)))
        checked(table.pull(np.arange(ROWS)) + 1, acked, attempted)
    print(f"{KILLS} kills; {unheard} times a shard had applied a push that its trainer never heard acked")
