"""Calls that Ctrl-C ends anywhere in the client: whatever comes later works, and counts once."""

import gc
import random
import signal
import sys
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import numpy as np
import pytest

import rowloom.client
from rowloom.client import SGD, Client, TableSpec, Zeros, connect
from rowloom.deploy import local_cluster

OURS = rowloom.client.__path__[0]
AGAIN_S = 2e-5
# Ctrl-C right behind the beginning of a `with` leaves its lock taken, of any program: python/cpython#148874.
LEAKS_LOCKS = sys.version_info[:2] == (3, 14)
HITS = 60  # of each kind of call; without what is tested here, one in some dozens showed


class Interrupt(KeyboardInterrupt):
    """What Ctrl-C is."""


class Interrupter:
    """Interrupts calls of this thread by a timer."""

    def __init__(self) -> None:
        self._armed = False

    def ends(self, call: Callable[[], Any], after_s: float) -> bool:
        """Whether the call was ended by an interrupt."""
        try:
            self._armed = True
            signal.setitimer(signal.ITIMER_REAL, after_s)
            call()
        except (Interrupt, SystemError):  # numba makes a SystemError of it
            return True
        finally:
            self._armed = False
        return False

    def interrupt(self, _: int, frame: FrameType | None) -> None:
        """Only in code of ours, as what an interrupt does to others is theirs; else a little later."""
        if not self._armed:
            return
        if frame is not None and frame.f_code.co_filename.startswith(OURS):
            raise Interrupt
        signal.setitimer(signal.ITIMER_REAL, AGAIN_S)


@pytest.fixture
def interrupter() -> Iterator[Interrupter]:
    found = Interrupter()
    before = signal.signal(signal.SIGALRM, found.interrupt)
    yield found
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)
    gc.collect()  # a connection that an interrupt came in the middle of


@pytest.fixture(params=["auto", "tcp", "grpc"])
def client(request) -> Iterator[Client]:
    spec = TableSpec("t", 1000, dim=4, optimizer=SGD(lr=1.0), initializer=Zeros())
    with local_cluster(2, tables=[spec]) as cluster, connect(cluster.address, carrier=request.param) as found:
        yield found


@pytest.mark.skipif(LEAKS_LOCKS, reason="Python 3.14 leaves a lock taken at Ctrl-C")
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_a_call_that_is_interrupted_anywhere_leaves_no_number_open(
    client: Client, interrupter: Interrupter
) -> None:
    """An exception between a number and whoever holds it left that one open: 65,536 pushes later all were refused."""
    table, rng, ids = client.table("t"), random.Random(0), np.arange(10)
    calls = {
        "push": lambda: table.push(ids, np.ones((10, 4))),
        "step": lambda: table.step(ids, np.ones((10, 4)), ids),
        "renorm": lambda: table.renorm(ids, 1e6),
    }
    least = most = 0
    for name, call in calls.items():
        counts, hits = int(name != "renorm"), 0
        call()
        least, most, begin = least + counts, most + counts, time.perf_counter()
        call()
        least, most, whole_s = least + counts, most + counts, time.perf_counter() - begin
        while hits < HITS:
            ended = interrupter.ends(call, rng.uniform(1e-6, whole_s))
            call()
            hits, least, most = hits + ended, least + counts * (1 + (not ended)), most + 2 * counts
            assert not any(pusher.open_numbers for pusher in client._session._idle)
    found = -table.pull(ids)
    assert (least <= found).all()
    assert (found <= most).all()
    assert len(client._session.pushers) < HITS
