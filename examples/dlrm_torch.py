"""Click prediction in PyTorch, after DLRM: dense features and bags of ids. First: pip install 'rowloom[torch]'."""

from rowloom.client.layers_torch import EmbeddingBag  # isort: skip (it says what to install)
import numpy as np
import torch

from rowloom.client import Adagrad, Normal, TableSpec
from rowloom.deploy import local_cluster

SIZES, DIM, DENSE, BATCH = {"user": 300, "item": 200, "category": 20}, 8, 4, 256


class DLRM(torch.nn.Module):
    """embeddings: name -> a module that turns [B, K] ids into [B, DIM]."""

    def __init__(self, embeddings):
        super().__init__()
        self.embeddings = torch.nn.ModuleDict(embeddings)
        self.bottom = torch.nn.Sequential(torch.nn.Linear(DENSE, DIM), torch.nn.ReLU())
        self.top = torch.nn.Linear(DIM + 6, 1)  # of 4 vectors, 6 pairs

    def forward(self, dense, ids):
        """The logit of each click: [B]."""
        first = self.bottom(dense)
        vectors = torch.stack([first] + [self.embeddings[name](ids[name]) for name in SIZES], dim=1)
        left, right = torch.triu_indices(len(SIZES) + 1, len(SIZES) + 1, offset=1)
        dots = (vectors @ vectors.transpose(1, 2))[:, left, right]
        return self.top(torch.cat([first, dots], dim=1)).squeeze(1)


def clicks(steps, seed=0):
    """(dense [B, DENSE], ids [B, 2] by table, clicked [B]) of each step: users click on items of their own kind."""
    rng = np.random.default_rng(seed)
    for _ in range(steps):
        ids = {name: torch.from_numpy(rng.integers(0, size, (BATCH, 2))) for name, size in SIZES.items()}
        dense = torch.from_numpy(rng.normal(size=(BATCH, DENSE)).astype("float32"))
        yield dense, ids, ((ids["user"] - ids["item"]) % 4 == 0).any(1).float()


def train(model, optimizers, steps=150):
    """The loss of each step."""
    losses = []
    for dense, ids, clicked in clicks(steps):
        loss = torch.nn.functional.binary_cross_entropy_with_logits(model(dense, ids), clicked)
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        losses.append(loss.item())
    return losses


if __name__ == "__main__":
    with local_cluster(shards=2) as cluster, cluster.connect() as client:
        how = {"dim": DIM, "optimizer": Adagrad(lr=0.5), "initializer": Normal(std=0.5, seed=1)}
        tables = {name: client.create_table(TableSpec(name, size, **how)) for name, size in SIZES.items()}
        model = DLRM({name: EmbeddingBag(table, mode="sum") for name, table in tables.items()})
        losses = train(model, [torch.optim.Adam(model.parameters(), lr=0.01)])
        print(f"loss {losses[0]:.3f} -> {losses[-1]:.3f} in {len(losses)} steps")
