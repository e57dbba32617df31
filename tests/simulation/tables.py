"""Tables whose rows say what was done to them, so that a check is exact and takes no search.

Counters: client c only ever adds 1 to column c, with SGD(lr=1) and gradients of -1. So a row's column c is the number
of c's pushes of it that were applied: between what was acked and what was attempted at any time, equal at rest. All
numbers are small and whole, so bfloat16 and float16 carry them as they are. For int8 each row has one more column, the
anchor, whose gradient is -127: then a row's scale is a whole number, and gradients arrive as they were.

Steps: an optimizer that counts steps; each shard's count lies between the pushes that were acked and those attempted.

Owned: each row is assigned and scaled by one client only, so a row is what its last acked call made of it, or what a
later one did whose end is not known.
"""

import functools
from collections.abc import Sequence

import numpy as np

from rowloom.client import SGD, Adam, TableSpec, Zeros
from rowloom.proto.spec import TableEntry

CLIENTS = 3
ROWS = 40
ANCHOR = 127
_EACH = np.arange(ROWS)


@functools.cache
def _spec(name: str, size: int | None, width: int, wire: str, **how) -> TableSpec:
    return TableSpec(name, size, dim=width, wire=wire, optimizer=SGD(lr=1.0), initializer=Zeros(), **how)


class Counters:
    """A table of counters, and what its rows may be.

    Args:
        spec: without a width.
        keys: [ROWS] int64, the ids.
    """

    takes = frozenset({"push", "bags", "pull", "pull bags", "idle renorm"})

    def __init__(self, name: str, wire: str, keys: np.ndarray = _EACH, **how) -> None:
        self.anchored = wire == "int8"
        self.width = CLIENTS + self.anchored
        size = None if how.get("hash_ids") else ROWS
        self.spec = _spec(name, size, self.width, wire, **how)
        self.keys = keys
        self.entry = TableEntry(0, self.spec)
        self.acked = np.zeros((ROWS, self.width), np.float32)
        self.attempted = np.zeros((ROWS, self.width), np.float32)
        self.units = np.eye(CLIENTS, self.width, dtype=np.float32)
        if self.anchored:
            self.units[:, -1] = ANCHOR

    def gradients(self, client: int, count: int) -> np.ndarray:
        """[count, width]: what adds 1 of a client to each of some rows."""
        return np.broadcast_to(-self.units[client], (count, self.width)).copy()

    def attempt(self, client: int, rows: np.ndarray) -> "Added":
        added = np.bincount(rows, minlength=ROWS)[:, None] * self.units[client]
        self.attempted += added
        return Added(self, added)

    def look(self, rows: np.ndarray) -> np.ndarray:
        """What they are at least, from now on."""
        return self.acked[rows]

    def own(self, client: int, rows: np.ndarray, least: np.ndarray) -> np.ndarray:
        """What a client is promised of a `look`, or of sums of it, by what it has done itself."""
        return least[..., client, None] * self.units[client]

    def check(self, rows: np.ndarray, values: np.ndarray, least: np.ndarray, *, exact: bool = True) -> None:
        """Whether rows that were asked for at the time of `look` may be these. exact: they came as float32."""
        assert values.shape == (len(rows), self.width), values.shape
        slack = np.float32(0)
        if self.anchored and not exact:
            slack = np.abs(values).max(axis=1, initial=0, keepdims=True) / 254 + 1e-3
        lost, twice = values < least - slack, values > self.attempted[rows] + slack
        assert not lost.any(), f"lost: {self.spec.name} {rows[lost.any(1)]}"
        assert not twice.any(), f"applied twice: {self.spec.name} {rows[twice.any(1)]}"
        if exact:
            assert (values == np.rint(values)).all(), f"not whole: {self.spec.name} {values}"


class Added:
    """What one push adds, until it is known what became of it."""

    def __init__(self, table: Counters, added: np.ndarray) -> None:
        self.table = table
        self.added = added

    def ack(self) -> None:
        self.table.acked += self.added

    def fail(self) -> None:
        """It changed nothing."""
        self.table.attempted -= self.added


class Steps:
    """A table with Adam: what is known of it is how many pushes there were."""

    takes = frozenset({"push", "bags", "pull"})
    width = CLIENTS
    keys = _EACH

    def __init__(self, name: str) -> None:
        self.spec = TableSpec(name, ROWS, dim=CLIENTS, optimizer=Adam(), initializer=Zeros())
        self.entry = TableEntry(0, self.spec)
        self.acked = self.attempted = 0

    def gradients(self, client: int, count: int) -> np.ndarray:
        return np.full((count, CLIENTS), client + 1, np.float32)

    def attempt(self, client: int, rows: np.ndarray) -> "Steps":
        self.attempted += 1
        return self

    def ack(self) -> None:
        self.acked += 1

    def fail(self) -> None:
        self.attempted -= 1

    def look(self, rows: np.ndarray) -> None:
        return None

    def own(self, client: int, rows: np.ndarray, least: None) -> None:
        return None

    def check(self, rows: np.ndarray, values: np.ndarray, least: None, *, exact: bool = True) -> None:
        assert values.shape == (len(rows), CLIENTS)
        assert np.isfinite(values).all()


class Owned:
    """A table of rows (3, 4) * x, each of them assigned, or scaled down to a norm of 2, by one client only."""

    takes = frozenset({"assign", "renorm", "pull"})
    width = 2
    keys = _EACH
    NORM = 2.0

    def __init__(self, name: str) -> None:
        self.spec = TableSpec(name, ROWS, dim=2, partition="div", optimizer=SGD(lr=1.0), initializer=Zeros())
        self.entry = TableEntry(0, self.spec)
        # Of each row: what it has been or may be, in order; from where on it may be now.
        self.log: list[list[float]] = [[0.0] for _ in range(ROWS)]
        self.base = [0] * ROWS
        self._last = 0

    def mine(self, client: int, rows: np.ndarray) -> np.ndarray:
        """Rows of a client, near some rows."""
        return (rows - rows % CLIENTS + client) % (ROWS - ROWS % CLIENTS)

    def values(self, count: int) -> np.ndarray:
        """[count] float32: never used before."""
        self._last += count
        return np.arange(self._last - count, self._last, dtype=np.float32) + 1

    def assign(self, rows: np.ndarray, values: np.ndarray) -> "Written":
        """Rows are about to become (3, 4) * values; of a row that stands there twice, the last counts."""
        news = dict(zip(rows.tolist(), values.tolist(), strict=True))
        return Written(self, {row: [x] for row, x in news.items()})

    def scale(self, rows: np.ndarray) -> "Written":
        """Rows are about to be scaled down."""
        news = {}
        for row in set(rows.tolist()):
            news[row] = sorted({min(x, self.NORM / 5) for x in self.log[row][self.base[row] :]})
        return Written(self, news)

    def look(self, rows: np.ndarray) -> list[int]:
        return [self.base[row] for row in rows.tolist()]

    def own(self, client: int, rows: np.ndarray, least: Sequence[int]) -> list[int]:
        return [k if row % CLIENTS == client else 0 for row, k in zip(rows.tolist(), least, strict=True)]

    def check(
        self, rows: np.ndarray, values: np.ndarray, least: Sequence[int], *, exact: bool = True
    ) -> None:
        assert values.shape == (len(rows), 2)
        for row, first, (a, b) in zip(rows.tolist(), least, values.tolist(), strict=True):
            x = a / 3
            assert abs(b / 4 - x) <= 1e-5 * max(1.0, x), f"torn: {row} is {a}, {b}"
            may = self.log[row][first:]
            assert any(abs(x - one) <= 1e-5 * max(1.0, one) for one in may), f"row {row}: {x}, may be {may}"


class Written:
    """What one call makes of rows of Owned, until it is known what became of it."""

    def __init__(self, table: Owned, news: dict[int, list[float]]) -> None:
        self.table = table
        self.first = {row: len(table.log[row]) for row in news}
        for row, values in news.items():
            table.log[row] += values

    def ack(self) -> None:
        for row, first in self.first.items():
            self.table.base[row] = first

    def fail(self) -> None:
        for row, first in self.first.items():
            del self.table.log[row][first:]


Table = Counters | Steps | Owned


def all_tables() -> list[Table]:
    """One of each kind, new."""
    apart = _EACH * 1_000_003 + 17
    return [
        Counters("mod-float32", "float32", partition="mod"),
        Counters("div-bfloat16", "bfloat16", partition="div"),
        Counters("hashed-float16", "float16", apart, hash_ids=True),
        Counters("mod-int8", "int8", partition="mod"),
        Steps("adam"),
        Owned("owned"),
    ]
