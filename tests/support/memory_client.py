"""A client whose tables are arrays in this process: what tests of layers and files need."""

import numpy as np

from rowloom.client.inputs import as_ids
from rowloom.proto.errors import InvalidRequest, TableNotFound
from rowloom.proto.spec import SGD, Adagrad, TableEntry, TableSpec


class MemoryTable:
    """Pull, push and assign on one array; counts the calls. `pushes` has the ids and gradients of each push."""

    def __init__(self, spec: TableSpec, rows: np.ndarray | None = None, client=None) -> None:
        self.spec, self.name = spec, spec.name
        self.client, self.entry = client, TableEntry(1, spec)
        size = spec.num_embeddings if spec.num_embeddings is not None else 1000
        rng = np.random.default_rng(0)
        self.rows = (
            rng.normal(0, 0.1, (size, *spec.row_shape)).astype(np.float32) if rows is None else rows.copy()
        )
        self.accumulator = np.full_like(self.rows, getattr(spec.optimizer, "initial_accumulator", 0.0))
        self.pulls = 0
        self.pushes: list[tuple[np.ndarray, np.ndarray]] = []

    def pull(self, ids, *, wire=None):
        self.pulls += 1
        return self.rows[as_ids(ids, self.spec)]

    def push(self, ids, grads):
        if self.spec.frozen:
            raise InvalidRequest(f"table {self.name!r} is frozen")
        ids, grads = as_ids(ids, self.spec), np.asarray(grads, np.float32)
        assert grads.shape == ids.shape + self.spec.row_shape, (grads.shape, ids.shape)
        self.pushes.append((ids, grads))
        distinct, inverse = np.unique(ids.reshape(-1), return_inverse=True)
        total = np.zeros((len(distinct), *self.spec.row_shape), np.float32)
        np.add.at(total, inverse, grads.reshape(-1, *self.spec.row_shape))
        optimizer = self.spec.optimizer
        if isinstance(optimizer, Adagrad):
            self.accumulator[distinct] += total * total
            total = total / (np.sqrt(self.accumulator[distinct]) + np.float32(optimizer.eps))
        else:
            assert isinstance(optimizer, SGD)
        self.rows[distinct] -= np.float32(optimizer.lr) * total

    def assign(self, ids, rows):
        self.rows[as_ids(ids, self.spec)] = rows


class MemoryClient:
    """Makes and finds tables; `pulled` and `requests`: the tables of each call for several."""

    def __init__(self) -> None:
        self._tables: dict[str, MemoryTable] = {}
        self.pulled: list[list[str]] = []
        self.requests: list[list[str]] = []

    def create_table(self, spec: TableSpec, rows: np.ndarray | None = None) -> MemoryTable:
        return self._tables.setdefault(spec.name, MemoryTable(spec, rows, self))

    def table(self, name: str) -> MemoryTable:
        if name not in self._tables:
            raise TableNotFound(f"no table {name!r}")
        return self._tables[name]

    def tables(self):
        return list(self._tables.values())

    def drop_table(self, name: str) -> None:
        del self._tables[name]

    def pull_entries(self, wanted, wire=None):
        self.pulled.append([entry.spec.name for entry, _ in wanted])
        return [self._tables[entry.spec.name].pull(ids) for entry, ids in wanted]

    def push_entries(self, given):
        self.requests.append([entry.spec.name for entry, _, _ in given])
        for entry, ids, grads in given:
            self._tables[entry.spec.name].push(ids, grads)
