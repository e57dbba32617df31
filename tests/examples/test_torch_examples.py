"""The PyTorch example trains as the same model that holds its rows itself does: the same loss curve."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from rowloom.client import Adagrad, Normal, TableSpec

PATH = Path(__file__).parents[2] / "examples/dlrm_torch.py"


def test_the_dlrm_has_less_than_sixty_lines():
    assert len(PATH.read_text().splitlines()) < 60


def test_the_dlrm_has_the_loss_curve_and_rows_of_local_embeddings(client):
    torch = pytest.importorskip("torch", reason="the example is written in PyTorch")
    from rowloom.client.layers_torch import EmbeddingBag

    spec = importlib.util.spec_from_file_location(PATH.stem, PATH)
    assert spec is not None
    assert spec.loader is not None
    dlrm = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(dlrm)
    how = {"dim": dlrm.DIM, "optimizer": Adagrad(lr=0.5), "initializer": Normal(std=0.5, seed=1)}
    tables = {name: client.create_table(TableSpec(name, size, **how)) for name, size in dlrm.SIZES.items()}
    local = {name: torch.nn.EmbeddingBag(size, dlrm.DIM, mode="sum") for name, size in dlrm.SIZES.items()}
    with torch.no_grad():
        for name, bag in local.items():
            bag.weight.copy_(torch.from_numpy(tables[name].pull(np.arange(dlrm.SIZES[name]))))
    torch.manual_seed(0)
    ours = dlrm.DLRM({name: EmbeddingBag(table, mode="sum") for name, table in tables.items()})
    theirs = dlrm.DLRM(local)
    theirs.bottom.load_state_dict(ours.bottom.state_dict())
    theirs.top.load_state_dict(ours.top.state_dict())
    dense = [*theirs.bottom.parameters(), *theirs.top.parameters()]
    rows = torch.optim.Adagrad(theirs.embeddings.parameters(), lr=0.5)
    expected = dlrm.train(theirs, [torch.optim.Adam(dense, lr=0.01), rows])
    got = dlrm.train(ours, [torch.optim.Adam(ours.parameters(), lr=0.01)])
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-5)
    assert np.mean(got[-20:]) < np.mean(got[:20]) * 0.8
    for name, table in tables.items():
        np.testing.assert_allclose(
            table.pull(np.arange(dlrm.SIZES[name])), local[name].weight.detach(), rtol=0, atol=1e-4
        )
