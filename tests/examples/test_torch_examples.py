"""The PyTorch examples train as the same models that hold their rows themselves do: the same loss curves."""

import numpy as np
import pytest
from example_modules import EXAMPLES, example

from rowloom.client import Adagrad, Normal, TableSpec


@pytest.mark.parametrize(("name", "lines"), [("dlrm_torch", 60), ("collection_torch", 65)])
def test_the_examples_are_short(name, lines):
    assert len((EXAMPLES / f"{name}.py").read_text().splitlines()) < lines


def test_the_dlrm_has_the_loss_curve_and_rows_of_local_embeddings(client):
    torch = pytest.importorskip("torch", reason="the example is written in PyTorch")
    from rowloom.client.layers_torch import EmbeddingBag

    dlrm = example("dlrm_torch")
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


def test_the_collection_has_the_loss_curve_and_rows_of_local_embeddings(client):
    torch = pytest.importorskip("torch", reason="the example is written in PyTorch")
    from rowloom.client.layers_torch import EmbeddingBagCollection

    clicks = example("collection_torch")
    torch.manual_seed(0)
    ours = clicks.Clicks(EmbeddingBagCollection(client, clicks.tables()))
    tables = {name: client.table(name) for name in clicks.FEATURES}

    class Local(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.bags = torch.nn.ModuleDict(
                {
                    name: torch.nn.EmbeddingBag.from_pretrained(
                        torch.from_numpy(table.pull(np.arange(clicks.ROWS))), freeze=False, mode="sum"
                    )
                    for name, table in tables.items()
                }
            )

        def forward(self, ids):
            return torch.cat([self.bags[name](ids[name]) for name in clicks.FEATURES], 1)

    theirs = clicks.Clicks(Local())
    theirs.top.load_state_dict(ours.top.state_dict())
    rows = torch.optim.Adagrad(theirs.embeddings.parameters(), lr=0.1)
    expected = clicks.train(theirs, [torch.optim.Adam(theirs.top.parameters(), lr=0.01), rows])
    got = clicks.train(ours, [torch.optim.Adam(ours.parameters(), lr=0.01)])
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-4)
    assert np.mean(got[-20:]) < np.mean(got[:20]) * 0.8
    for name, bag in theirs.embeddings.bags.items():
        np.testing.assert_allclose(
            tables[name].pull(np.arange(clicks.ROWS)), bag.weight.detach(), rtol=0, atol=1e-3
        )
