"""A two-tower recommender in Keras: who clicks on what, with one item table for the history and for the candidate.

Run it: pip install 'rowloom[keras,torch]'; KERAS_BACKEND=torch python examples/two_tower_keras.py (or tensorflow)
"""

from rowloom.client.layers_keras import Embedding, SharedEmbeddings, share_requests  # isort: skip
import keras
import numpy as np

from rowloom.client import SGD, Normal, TableSpec
from rowloom.deploy import local_cluster

USERS, ITEMS, DIM, HISTORY = 500, 200, 16, 8


def clicks(n, seed=0):
    """Users have a taste, items a kind; what matches is clicked. -1 fills short histories up."""
    rng = np.random.default_rng(seed)
    kind = rng.integers(0, 5, ITEMS)
    user = rng.integers(0, USERS, n)
    history = rng.integers(0, ITEMS, (n, HISTORY))
    history[kind[history] != (user % 5)[:, None]] = -1
    item = rng.integers(0, ITEMS, n)
    return {"user": user, "history": history, "item": item[:, None]}, np.float32(kind[item] == user % 5)


def two_tower(embed_user, embed_items):
    """The model, for any layers that turn ids into vectors."""
    user = keras.Input((), dtype="int64", name="user")
    history = keras.Input((HISTORY,), dtype="int64", name="history")
    item = keras.Input((1,), dtype="int64", name="item")
    items = embed_items({"history": history, "item": item})
    left = keras.layers.Concatenate()([embed_user(user), items["history"]])
    left = keras.layers.Dense(DIM, kernel_initializer=keras.initializers.GlorotUniform(seed=1))(left)
    score = keras.layers.Dot(axes=1)([left, items["item"]])
    return keras.Model({"user": user, "history": history, "item": item}, score)


def train(model, lr=8.0, epochs=5):
    """The loss after each epoch."""
    x, y = clicks(5_000)
    model.compile(keras.optimizers.SGD(lr), keras.losses.BinaryCrossentropy(from_logits=True))
    history = model.fit(x, y, batch_size=100, epochs=epochs, shuffle=False, verbose=0).history
    return [float(loss) for loss in history["loss"]]


def main():
    """Trains against two shards in this process."""
    with local_cluster(shards=2) as cluster, cluster.connect() as client:
        how = {"dim": DIM, "optimizer": SGD(lr=8.0), "initializer": Normal(std=0.3, seed=1)}
        users = client.create_table(TableSpec("users", USERS, **how))
        items = client.create_table(TableSpec("items", ITEMS, **how))
        model = two_tower(Embedding(users), SharedEmbeddings(items))
        for epoch, loss in enumerate(train(share_requests(model))):
            print(f"epoch {epoch}: loss {loss:.4f}")


if __name__ == "__main__":
    main()
