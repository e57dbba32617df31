"""The example without a framework trains as the same model held in this process does: the same loss curve."""

import numpy as np
from example_modules import EXAMPLES, example
from memory_client import MemoryTable


def test_wide_and_deep_has_less_than_sixty_lines():
    assert len((EXAMPLES / "wide_and_deep.py").read_text().splitlines()) < 60


def test_wide_and_deep_has_the_loss_curve_and_rows_of_local_arrays(client):
    model = example("wide_and_deep")
    tables = [client.create_table(spec) for spec in (model.WIDE, model.DEEP)]
    ids = np.arange(model.FEATURES)
    local = [MemoryTable(table.spec, table.pull(ids)) for table in tables]
    got, expected = model.train(*tables), model.train(*local)
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-5)
    assert np.mean(got[-20:]) < np.mean(got[:20]) * 0.9
    for table, mine in zip(tables, local, strict=True):
        np.testing.assert_allclose(table.pull(ids), mine.rows, rtol=0, atol=1e-4)
