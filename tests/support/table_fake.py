"""A table that is one array in this process, with everything a layer may ask of a table."""

from concurrent.futures import Future

import numpy as np
from memory_client import MemoryTable

from rowloom.client.inputs import as_ids
from rowloom.proto.errors import TableExists, TableNotFound
from rowloom.proto.spec import TableEntry, TableSpec


class FakeTable(MemoryTable):
    """`MemoryTable` and what only PyTorch layers use; `requests` and `pulled`: tables of each call for several."""

    def __init__(self, spec: TableSpec, rows=None) -> None:
        super().__init__(spec, rows)
        self.client = self
        self.entry = TableEntry(1, spec)
        self.requests: list[list[str]] = []
        self.pulled: list[list[str]] = []
        self.others: dict[str, FakeTable] = {spec.name: self}

    def push_entries(self, given):
        self.requests.append([entry.spec.name for entry, _, _ in given])
        for entry, ids, grads in given:
            self.others[entry.spec.name].push(ids, grads)

    def pull_entries(self, wanted, wire=None):
        self.pulled.append([entry.spec.name for entry, _ in wanted])
        return [self.others[entry.spec.name].pull(ids) for entry, ids in wanted]

    def table(self, name):
        if name not in self.others:
            raise TableNotFound(f"no table {name!r}")
        return self.others[name]

    def create_table(self, spec):
        if spec.name in self.others and self.others[spec.name].spec != spec:
            raise TableExists(f"table {spec.name!r} is there")
        return self.others.get(spec.name) or self.beside(FakeTable(spec))

    def beside(self, other: "FakeTable") -> "FakeTable":
        """The other table, on the same client as this one."""
        self.others[other.name] = other
        other.client = self
        return other

    def renorm(self, ids, max_norm, norm_type=2.0):
        for row in np.unique(as_ids(ids, self.spec)):
            norm = np.linalg.norm(self.rows[row].astype(np.float64).reshape(-1), norm_type)
            if norm > max_norm:
                self.rows[row] *= np.float32(max_norm / (norm + 1e-7))

    def pull_async(self, ids):
        return _done(self.pull(ids))

    def push_async(self, ids, grads):
        return _done(self.push(ids, grads))


def _done(value) -> Future:
    future: Future = Future()
    future.set_result(value)
    return future
