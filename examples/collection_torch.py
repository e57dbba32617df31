"""Click prediction in PyTorch with 26 features: one pull, one push a step. First: pip install 'rowloom[torch]'."""

from rowloom.client.layers_torch import EmbeddingBagCollection, EmbeddingBagConfig  # isort: skip
import torch

from rowloom.client import Adagrad, Normal
from rowloom.deploy import local_cluster

FEATURES, ROWS, DIM, BATCH = [f"f{k}" for k in range(26)], 50, 4, 256


class Clicks(torch.nn.Module):
    """embeddings: turns feature -> ids [B, 1] into [B, 26 * DIM]."""

    def __init__(self, embeddings):
        super().__init__()
        self.embeddings = embeddings
        self.top = torch.nn.Sequential(
            torch.nn.Linear(len(FEATURES) * DIM, 16), torch.nn.ReLU(), torch.nn.Linear(16, 1)
        )

    def forward(self, ids):
        """The logit of each click: [B]."""
        return self.top(self.embeddings(ids)).squeeze(1)


def batches(steps):
    """(ids by feature, clicked [B]) of each step: two features say it."""
    generator = torch.Generator().manual_seed(0)
    for _ in range(steps):
        ids = {name: torch.randint(0, ROWS, (BATCH, 1), generator=generator) for name in FEATURES}
        yield ids, ((ids["f0"] % 3 == 0) | (ids["f7"] % 5 == 0)).squeeze(1).float()


def train(model, optimizers, steps=150):
    """The loss of each step."""
    losses = []
    for ids, clicked in batches(steps):
        loss = torch.nn.functional.binary_cross_entropy_with_logits(model(ids), clicked)
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        losses.append(loss.item())
    return losses


def tables():
    """A table for each feature."""
    how = {"optimizer": Adagrad(lr=0.1), "initializer": Normal(std=0.3, seed=1)}
    return [
        EmbeddingBagConfig(num_embeddings=ROWS, embedding_dim=DIM, name=name, feature_names=[name], **how)
        for name in FEATURES
    ]


if __name__ == "__main__":
    torch.manual_seed(0)
    with local_cluster(shards=2) as cluster, cluster.connect() as client:
        model = Clicks(EmbeddingBagCollection(client, tables()))
        losses = train(model, [torch.optim.Adam(model.parameters(), lr=0.01)])
        print(f"loss {losses[0]:.3f} -> {losses[-1]:.3f} in {len(losses)} steps")
