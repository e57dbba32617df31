"""Trainers of clusters on Ray that stop at nothing, and what such a cluster looks like from there."""

import contextlib
import threading
from collections.abc import Generator
from functools import partial
from typing import Any

import numpy as np
from waiting import PATIENCE_S, until

from rowloom.client import SGD, TableSpec, Zeros, connect
from rowloom.deploy import address_of
from rowloom.deploy.launch.ray_actors import actors_of, groups_of
from rowloom.deploy.launch.ray_seats import seats_of
from rowloom.deploy.operate.remote import Remote
from rowloom.deploy.operate.status import summary

IDS = np.arange(500)
SPEC = TableSpec("t", 500, dim=4, optimizer=SGD(lr=1.0), initializer=Zeros())


class Trainer:
    """Pushes and pulls until it is asked how it went."""

    def __init__(self, name: str) -> None:
        self.pushed = 0
        self.failed: list[BaseException] = []
        self._stop = threading.Event()
        # By its name: all of it may be on the node that is killed, and is elsewhere then.
        self._client = connect(partial(address_of, name), timeout_s=PATIENCE_S)
        self._thread = threading.Thread(target=self._train)
        self._thread.start()

    def _train(self) -> None:
        table = self._client.table("t")
        before = int(-table.pull([0])[0, 0])
        try:
            while not self._stop.wait(0.01):
                table.push(IDS, np.ones((500, 4), np.float32))
                self.pushed += 1
                assert (table.pull(IDS) == -(before + self.pushed)).all()
        except BaseException as e:
            self.failed.append(e)

    def goes_on(self) -> None:
        """Wait until it has pushed more."""
        now = self.pushed
        until(lambda: self.failed or self.pushed > now + 3, 2 * PATIENCE_S)  # its own error says more
        assert not self.failed

    def end(self) -> None:
        """No call has failed, and each push was applied once."""
        self._stop.set()
        self._thread.join()
        self._client.close()
        assert not self.failed


@contextlib.contextmanager
def trained(name: str) -> Generator[Trainer]:
    """A cluster is pushed to all the time, and is at the end, too."""
    trainer = Trainer(name)
    try:
        trainer.goes_on()
        yield trainer
        trainer.goes_on()
    finally:
        trainer.end()


def shown(name: str) -> dict[str, Any]:
    """What `rowloom status --json` shows."""
    with Remote(address_of(name)) as remote:
        return summary(remote.status())


def assert_nothing_is_left(name: str) -> None:
    """Of a cluster that was ended: neither actors, nor placement groups, nor who has which bundle."""
    assert (actors_of(name), groups_of(name), seats_of(name)) == ([], [], {})
