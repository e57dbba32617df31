"""Skip-gram with negative sampling in JAX: words that stand together get rows alike. pip install 'rowloom[jax]'."""

from rowloom.client.layers_jax import Lookup  # isort: skip (it says what to install)
import jax
import jax.numpy as jnp
import numpy as np

from rowloom.client import Adagrad, TableSpec, Uniform, Zeros
from rowloom.client.vocabulary import Vocabulary
from rowloom.deploy import local_cluster

DIM, NEGATIVE, BATCH = 16, 5, 256
TEXT = "the cat drinks milk . the dog eats meat . the king has a crown . the queen has a crown . " * 60


def batches(ids, size, seed=0, window=2):
    """(center [B], context [B, 1 + NEGATIVE]) of each step; the first context is real, the others are drawn."""
    rng = np.random.default_rng(seed)
    shifts = [s for s in range(-window, window + 1) if s]
    centers = np.concatenate([ids[window:-window]] * len(shifts))
    real = np.concatenate([ids[window + s : len(ids) - window + s] for s in shifts])
    order = rng.permutation(len(centers))
    for k in range(0, len(order) - BATCH + 1, BATCH):
        pick = order[k : k + BATCH]
        yield centers[pick], np.column_stack([real[pick], rng.integers(2, size, (BATCH, NEGATIVE))])


def loss(rows, others):
    """Mean logistic loss. rows: [B, DIM]; others: [B, 1 + NEGATIVE, DIM], the first one real."""
    scores = jnp.einsum("bd,bkd->bk", rows, others)
    return jnp.mean(jax.nn.softplus(-scores[:, 0])) + jnp.mean(jax.nn.softplus(scores[:, 1:]).sum(1))


def main(epochs=4):
    """The loss of each step, and the vocabulary and the rows at the end."""
    words = TEXT.split()
    vocabulary = Vocabulary(dict.fromkeys(words))
    with local_cluster(shards=2) as cluster, cluster.connect() as client:
        centers = TableSpec(
            "centers", dim=DIM, optimizer=Adagrad(lr=0.1), initializer=Uniform(-0.05, 0.05, seed=1)
        )
        contexts = TableSpec("contexts", len(vocabulary), DIM, optimizer=Adagrad(lr=0.1), initializer=Zeros())
        center = Lookup(client.create_table(vocabulary.attach(centers)))
        context = Lookup(client.create_table(contexts))

        @jax.jit
        def step(anchor, c, o):
            return jax.value_and_grad(lambda a: loss(center(c, a), context(o, a)))(anchor)[0]

        ids = vocabulary.encode(words)
        pairs = (pair for epoch in range(epochs) for pair in batches(ids, len(vocabulary), seed=epoch))
        losses = [float(step(center.anchor, c, o)) for c, o in pairs]
        return losses, vocabulary, center.table.pull(np.arange(len(vocabulary)))


if __name__ == "__main__":
    curve, _, _ = main()
    print(f"loss {curve[0]:.3f} -> {curve[-1]:.3f} in {len(curve)} steps")
