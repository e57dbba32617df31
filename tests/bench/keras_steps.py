"""Steps of a Keras two-tower with its tables on shards, beside the same model with local embeddings; they take turns.

python tests/bench/keras_steps.py --batch 1024
"""

import argparse
import statistics
import time

import keras
import numpy as np

from rowloom.client import SGD, Normal, TableSpec
from rowloom.client.layers_keras import (
    Embedding,
    EmbeddingBagCollection,
    EmbeddingBagConfig,
    SharedEmbeddings,
)
from rowloom.deploy import local_cluster

USERS, ITEMS, DIM, HISTORY = 100_000, 50_000, 32, 8


def batches(batch: int, count: int) -> list[tuple[dict[str, np.ndarray], np.ndarray]]:
    """Ids and clicks."""
    rng = np.random.default_rng(0)
    made = []
    for _ in range(count):
        ids = {
            "user": rng.integers(0, USERS, batch),
            "history": rng.zipf(1.2, (batch, HISTORY)) % ITEMS,
            "item": rng.zipf(1.2, (batch, 1)) % ITEMS,
        }
        made.append((ids, rng.integers(0, 2, batch).astype("float32")))
    return made


def two_tower(embed):
    """The model. embed: turns ids of user, history and item into vectors."""
    inputs = {
        "user": keras.Input((1,), dtype="int64", name="user"),
        "history": keras.Input((HISTORY,), dtype="int64", name="history"),
        "item": keras.Input((1,), dtype="int64", name="item"),
    }
    rows = embed(inputs)
    left = keras.layers.Concatenate()([rows["user"], rows["history"]])
    left = keras.layers.Dense(DIM)(keras.layers.Dense(64, "relu")(left))
    right = keras.layers.Dense(DIM)(keras.layers.Dense(64, "relu")(rows["item"]))
    return keras.Model(inputs, keras.layers.Dot(axes=1)([left, right]))


def local():
    """Embeddings of Keras."""
    users, items = keras.layers.Embedding(USERS, DIM), keras.layers.Embedding(ITEMS, DIM)

    def embed(ids):
        return {
            "user": keras.ops.mean(users(ids["user"]), 1),
            "history": keras.ops.mean(items(ids["history"]), 1),
            "item": keras.ops.mean(items(ids["item"]), 1),
        }

    return embed


def single(users, items):
    """Plain layers."""
    users, items = Embedding(users), SharedEmbeddings(items)

    def embed(ids):
        shared = items({"history": ids["history"], "item": ids["item"]})
        return {"user": keras.ops.mean(users(ids["user"]), 1), **shared}

    return embed


def collection(client):
    """One layer for all."""
    made = [
        EmbeddingBagConfig(
            num_embeddings=n, embedding_dim=DIM, name=name, feature_names=features, pooling="mean"
        )
        for name, n, features in (("users", USERS, ["user"]), ("items", ITEMS, ["history", "item"]))
    ]
    return EmbeddingBagCollection(client, made, as_dict=True)


def compiled(embed, shared=False):
    """Ready to train."""
    model = two_tower(embed)
    if shared:
        from rowloom.client.layers_keras import share_requests

        share_requests(model)
    model.compile(keras.optimizers.SGD(0.1), keras.losses.BinaryCrossentropy(from_logits=True))
    return model


def timed(models, data, rounds: int) -> dict[str, float]:
    """Milliseconds of a step, medians over rounds in which the models take turns."""
    took = {name: [] for name in models}
    for model in models.values():
        for x, y in data[:3]:
            model.train_on_batch(x, y)
    for k in range(rounds):
        order = list(models) if k % 2 else list(models)[::-1]
        for name in order:
            begin = time.perf_counter()
            for x, y in data:
                models[name].train_on_batch(x, y)
            took[name].append((time.perf_counter() - begin) / len(data) * 1e3)
    return {name: statistics.median(some) for name, some in took.items()}


def main() -> None:
    """Prints one table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, default=1024)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--without-sharing", action="store_true")
    args = parser.parse_args()
    with local_cluster(shards=2, processes=True) as cluster, cluster.connect() as client:
        how = {"dim": DIM, "optimizer": SGD(lr=0.1), "initializer": Normal(std=0.05)}
        users, items = (
            client.create_table(TableSpec(n, v, **how)) for n, v in (("users", USERS), ("items", ITEMS))
        )
        models = {
            "local": compiled(local()),
            "plain layers": compiled(single(users, items)),
            "collection": compiled(collection(client)),
        }
        if not args.without_sharing:
            models["plain, shared"] = compiled(single(users, items), shared=True)
        found = timed(models, batches(args.batch, args.steps), args.rounds)
    for name, ms in found.items():
        print(f"{name:16} {ms:7.2f} ms a step  {ms / found['local']:.2f}")


if __name__ == "__main__":
    main()
