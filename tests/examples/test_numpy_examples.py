"""The example without a framework trains as the same model held in this process does: the same loss curve."""

import importlib.util
from pathlib import Path

import numpy as np
from memory_client import MemoryTable

PATH = Path(__file__).parents[2] / "examples/wide_and_deep.py"


def example():
    spec = importlib.util.spec_from_file_location(PATH.stem, PATH)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_wide_and_deep_has_less_than_sixty_lines():
    assert len(PATH.read_text().splitlines()) < 60


def test_wide_and_deep_has_the_loss_curve_and_rows_of_local_arrays(client):
    model = example()
    tables = [client.create_table(spec) for spec in (model.WIDE, model.DEEP)]
    ids = np.arange(model.FEATURES)
    local = [MemoryTable(table.spec, table.pull(ids)) for table in tables]
    got, expected = model.train(*tables), model.train(*local)
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-5)
    assert np.mean(got[-20:]) < np.mean(got[:20]) * 0.9
    for table, mine in zip(tables, local, strict=True):
        np.testing.assert_allclose(table.pull(ids), mine.rows, rtol=0, atol=1e-4)
