"""PyTorch's data loader, with and without worker processes, whose batches come with their rows."""

import numpy as np
import pytest
from torch_beside import torch

from rowloom.client import SGD, InvalidRequest, TableSpec, Zeros
from rowloom.client.layers_torch import PrefetchLoader


@pytest.fixture
def tables(client):
    for name, dim in (("users", 2), ("items", 3)):
        table = client.create_table(TableSpec(name, 64, dim, optimizer=SGD(lr=1.0), initializer=Zeros()))
        table.assign(np.arange(64), np.repeat(np.arange(64.0)[:, None], dim, 1))
    return client


class Pairs(torch.utils.data.Dataset):
    """(user, items [2]), the same for the same index."""

    def __len__(self) -> int:
        return 60

    def __getitem__(self, k: int) -> dict:
        return {"user": k % 64, "items": torch.tensor([k % 7, 63 - k])}


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:.*fork.*:RuntimeWarning")  # of JAX, if another test has imported it
def test_batches_are_those_of_the_loader_with_their_rows(tables, workers: int) -> None:
    loader = torch.utils.data.DataLoader(Pairs(), 16, num_workers=workers)
    with_rows = PrefetchLoader(loader, tables, {"users": "user", "items": lambda batch: batch["items"]})
    assert len(with_rows) == len(loader) == 4
    for _ in range(2):  # two epochs
        seen = list(with_rows)
        assert len(seen) == 4
        for expected, (batch, rows) in zip(loader, seen, strict=True):
            assert torch.equal(batch["user"], expected["user"])
            assert torch.equal(rows["users"], expected["user"].float()[:, None].expand(-1, 2))
            assert torch.equal(rows["items"], expected["items"].float()[..., None].expand(-1, -1, 3))


def test_rows_take_gradients_and_these_can_be_pushed(tables) -> None:
    data = [(torch.tensor([1, 2, 1]), torch.tensor(0.5))] * 3
    for (ids, scale), rows in PrefetchLoader(data, tables, {"users": 0}, depth=1):
        users = rows["users"].requires_grad_()
        (users.sum() * scale).backward()
        tables.push({"users": (ids, users.grad)})
    assert tables.table("users").pull([1, 2])[:, 0].tolist() == [1 - 3, 2 - 1.5]


def test_a_loop_may_be_left_early_and_started_again(tables) -> None:
    loader = PrefetchLoader([[k] for k in range(50)], tables, lambda ids: {"users": ids}, depth=3)
    for _ in range(2):
        for k, (batch, rows) in enumerate(loader):
            assert (batch, rows["users"][0, 0]) == ([k], k)
            if k == 4:
                break


def test_wrong_arguments_and_wrong_batches_are_named(tables) -> None:
    with pytest.raises(InvalidRequest, match="depth must be"):
        PrefetchLoader([], tables, {"users": 0}, depth=0)
    with pytest.raises(InvalidRequest, match="ids must be a function"):
        PrefetchLoader([], tables, "users")
    loop = iter(PrefetchLoader([[1], [64]], tables, lambda ids: {"users": ids}))
    assert next(loop)[0] == [1]
    with pytest.raises(InvalidRequest, match=r"ids\[0\] is 64"):
        next(loop)
