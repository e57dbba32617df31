"""A trainer to be killed: a module of its own, so that a forked process can import it."""

from multiprocessing.connection import Connection

import numpy as np

from rowloom.client import SGD, TableSpec, Zeros, connect

ROWS, COLUMNS = 2000, 64
SPEC = TableSpec("counters", ROWS, dim=COLUMNS, optimizer=SGD(lr=1.0), initializer=Zeros())


def train(address: str, carrier: str, column: int, say: Connection) -> None:
    """Adds 1 to one column of every row for ever; says so before and after each push."""
    with connect(address, carrier=carrier) as client:
        table = client.table("counters")
        grads = np.zeros((ROWS, COLUMNS), np.float32)
        grads[:, column] = -1
        ids = np.arange(ROWS)
        while True:
            say.send("attempt")
            table.push(ids, grads)
            say.send("acked")
