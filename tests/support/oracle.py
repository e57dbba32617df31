"""A parameter server as one dict and one loop: too simple to be wrong. Every other one must equal it bit for bit."""

import numpy as np

from rowloom.client import SGD, Adagrad, Adam, TableSpec
from rowloom.server.initializers import initial_rows

F = np.float32


class OracleTable:
    """Rows and slots of one table, float32, one row and one column at a time where it matters."""

    def __init__(self, spec: TableSpec) -> None:
        self.spec = spec
        self.rows: dict[int, np.ndarray] = {}
        self.slots: dict[int, list[np.ndarray]] = {}
        self.step = 0
        self.lr = spec.optimizer.lr

    def _row(self, i: int) -> np.ndarray:
        if i in self.rows:
            return self.rows[i]
        return initial_rows(self.spec, np.array([i], np.int64))[0]

    def _touch(self, i: int) -> None:
        if i not in self.rows:
            self.rows[i] = self._row(i).copy()
            fill = getattr(self.spec.optimizer, "initial_accumulator", 0.0)
            self.slots[i] = [np.full(self.spec.width, fill, F), np.zeros(self.spec.width, F)]

    def pull(self, ids) -> np.ndarray:
        ids = np.asarray(ids, np.int64)
        rows = np.empty((ids.size, self.spec.width), F)
        for k, i in enumerate(ids.reshape(-1)):
            rows[k] = self._row(int(i))
        return rows.reshape(ids.shape + self.spec.row_shape)

    def assign(self, ids, rows) -> None:
        flat = np.asarray(rows, F).reshape(-1, self.spec.width)
        for i, row in zip(np.asarray(ids).reshape(-1), flat, strict=True):
            self._touch(int(i))
            self.rows[int(i)] = row.copy()

    def push(self, ids, grads) -> None:
        self.step += 1
        sums: dict[int, np.ndarray] = {}
        flat = np.asarray(grads, F).reshape(-1, self.spec.width)
        for i, g in zip(np.asarray(ids).reshape(-1), flat, strict=True):
            sums[int(i)] = sums[int(i)] + g if int(i) in sums else g.copy()
        for i, g in sums.items():
            self._touch(i)
            self._update(self.rows[i], g, self.slots[i])

    def _update(self, w: np.ndarray, g: np.ndarray, slots: list[np.ndarray]) -> None:
        o, lr = self.spec.optimizer, F(self.lr)
        if isinstance(o, SGD):
            if o.weight_decay:
                g = g + F(o.weight_decay) * w
            if o.momentum:
                slots[0][:] = F(o.momentum) * slots[0] + g
                g = g + F(o.momentum) * slots[0] if o.nesterov else slots[0]
            w -= lr * g
        elif isinstance(o, Adagrad):
            slots[0] += g * g
            w -= lr * g / (np.sqrt(slots[0]) + F(o.eps))
        else:
            assert isinstance(o, Adam)
            m, v = slots[0], slots[1]
            b1, b2 = o.betas
            m += F(1 - b1) * (g - m)
            v += F(1 - b2) * (g * g - v)
            scale = F(self.lr * np.sqrt(1 - b2**self.step) / (1 - b1**self.step))
            w -= scale * m / (np.sqrt(v) + F(o.eps))


class Oracle:
    """Tables by name."""

    def __init__(self) -> None:
        self.tables: dict[str, OracleTable] = {}

    def create_table(self, spec: TableSpec) -> None:
        self.tables[spec.name] = OracleTable(spec)

    def drop_table(self, name: str) -> None:
        del self.tables[name]

    def __getitem__(self, name: str) -> OracleTable:
        return self.tables[name]
