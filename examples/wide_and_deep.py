"""Who clicks: a wide-and-deep model without any framework, over two tables of a cluster.

The wide part adds up value * weight of each example's sparse features; the deep part puts their embeddings through a
hidden layer. Forward and backward are numpy; the tables' rows are pulled, and their gradients pushed. It needs
nothing but rowloom itself: pip install rowloom.
"""

import numpy as np

from rowloom.client import Adagrad, TableSpec, Uniform, Zeros
from rowloom.client.lookup import weighted_sum, weighted_sum_gradient
from rowloom.deploy import local_cluster

FEATURES, DIM, HIDDEN, BATCH = 5_000, 8, 32, 64


def batches(steps, seed=0):
    """Rows of (example, feature, value), in any order, and whether each example was clicked: [BATCH] of 0 and 1."""
    rng = np.random.default_rng(seed)
    taste = rng.normal(size=FEATURES)
    for _ in range(steps):
        examples = rng.permutation(np.repeat(np.arange(BATCH), rng.integers(0, 12, BATCH)))
        features = (FEATURES * rng.random(len(examples)) ** 3).astype(np.int64)  # some are frequent
        values = rng.uniform(0.5, 1.5, len(examples)).astype(np.float32)
        score = np.bincount(examples, taste[features] * values, BATCH)
        yield examples, features, values, (score > 0).astype(np.float32)


def train(wide, deep, steps=150, lr=0.05):
    """Mean logistic loss of each step. wide: a table of [1] rows; deep: one of [DIM] rows."""
    rng = np.random.default_rng(1)
    w1 = rng.normal(0, 0.3, (DIM, HIDDEN)).astype(np.float32)
    w2 = rng.normal(0, 0.3, (HIDDEN, 1)).astype(np.float32)
    bias, losses = np.float32(0), []
    for examples, features, values, clicked in batches(steps):
        x = weighted_sum(deep, examples, features, values, BATCH)  # [BATCH, DIM]
        hidden = np.maximum(x @ w1, 0)
        logit = weighted_sum(wide, examples, features, values, BATCH) + hidden @ w2 + bias  # [BATCH, 1]
        losses.append(float(np.mean(np.logaddexp(0, logit[:, 0]) - clicked * logit[:, 0])))
        g = ((1 / (1 + np.exp(-logit[:, 0])) - clicked) / BATCH)[:, None]  # of the logit
        g_hidden = (g @ w2.T) * (hidden > 0)
        wide.push(*weighted_sum_gradient(examples, features, values, g))
        deep.push(*weighted_sum_gradient(examples, features, values, g_hidden @ w1.T))
        w2, w1, bias = w2 - lr * hidden.T @ g, w1 - lr * x.T @ g_hidden, bias - lr * g.sum()
    return losses


WIDE = TableSpec("wide", FEATURES, dim=1, optimizer=Adagrad(lr=0.3), initializer=Zeros())
DEEP = TableSpec("deep", FEATURES, DIM, optimizer=Adagrad(lr=0.1), initializer=Uniform(-0.3, 0.3, seed=1))

if __name__ == "__main__":
    with local_cluster(shards=2) as cluster, cluster.connect() as client:
        curve = train(client.create_table(WIDE), client.create_table(DEEP))
    print(f"loss {np.mean(curve[:20]):.3f} -> {np.mean(curve[-20:]):.3f} in {len(curve)} steps")
