"""What the tests of the PyTorch layers share: a layer over a table, and PyTorch's own module with the same rows."""

import numpy as np
import pytest
from table_fake import FakeTable

from rowloom.client import SGD, TableSpec

torch = pytest.importorskip("torch", reason="the PyTorch layers are compared with PyTorch itself")

V, DIM = 11, 3


def a_table(v=V, dim=DIM, name="t", **spec) -> FakeTable:
    """Rows from a normal distribution; a gradient is subtracted as it is."""
    spec = {"optimizer": SGD(lr=1.0), **spec}
    table = FakeTable(TableSpec(name, v, dim, **spec))
    table.rows[:] = np.random.default_rng(v).normal(size=table.rows.shape)
    return table


def twin(cls, table: FakeTable, dtype=torch.float32, **how):
    """PyTorch's module with the table's rows."""
    module = cls(table.spec.num_embeddings, table.spec.dim, dtype=dtype, **how)
    with torch.no_grad():
        module.weight.copy_(torch.from_numpy(table.rows))
    return module


def pushed(table: FakeTable) -> np.ndarray:
    """All that was pushed, as PyTorch's dense gradient."""
    total = np.zeros_like(table.rows)
    for ids, grads in table.pushes:
        np.add.at(total, ids, grads)
    return total


def touched(table: FakeTable) -> set[int]:
    """The ids that were pushed."""
    return {int(i) for ids, _ in table.pushes for i in ids}


def equal(got, expected, tolerance=0.0):
    """Of the same shape and, but for the tolerance, values."""
    got, expected = (x.detach().float().numpy() if hasattr(x, "detach") else x for x in (got, expected))
    assert got.shape == expected.shape
    np.testing.assert_allclose(got, expected, rtol=0, atol=tolerance)
