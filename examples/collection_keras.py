"""Click prediction in Keras with 26 features: one pull, one push a step. First: pip install 'rowloom[keras,torch]'.

Run it: KERAS_BACKEND=torch python examples/collection_keras.py (or tensorflow)
"""

from rowloom.client.layers_keras import EmbeddingBagCollection, EmbeddingBagConfig  # isort: skip
import keras
import numpy as np

from rowloom.client import SGD, Normal
from rowloom.deploy import local_cluster

FEATURES, ROWS, DIM = [f"f{k}" for k in range(26)], 50, 4


def clicks(n, seed=0):
    """Ids by feature, [n, 1] each, and who clicked: two features say it."""
    rng = np.random.default_rng(seed)
    ids = {name: rng.integers(0, ROWS, (n, 1)) for name in FEATURES}
    return ids, ((ids["f0"] % 3 == 0) | (ids["f7"] % 5 == 0)).astype("float32")


def clicks_model(embed):
    """The logit of each click. embed: turns feature -> ids [B, 1] into [B, 26 * DIM]."""
    inputs = {name: keras.Input((1,), dtype="int64", name=name) for name in FEATURES}
    x = embed(inputs)
    for units, activation in ((16, "relu"), (1, None)):
        start = keras.initializers.GlorotUniform(seed=units)
        x = keras.layers.Dense(units, activation, kernel_initializer=start)(x)
    return keras.Model(inputs, x)


def train(model, lr=1.0, epochs=5):
    """The loss after each epoch."""
    x, y = clicks(5_000)
    model.compile(keras.optimizers.SGD(lr), keras.losses.BinaryCrossentropy(from_logits=True))
    history = model.fit(x, y, batch_size=100, epochs=epochs, shuffle=False, verbose=0).history
    return [float(loss) for loss in history["loss"]]


def tables():
    """A table for each feature."""
    how = {"optimizer": SGD(lr=1.0), "initializer": Normal(std=0.3, seed=1)}
    return [
        EmbeddingBagConfig(num_embeddings=ROWS, embedding_dim=DIM, name=name, feature_names=[name], **how)
        for name in FEATURES
    ]


if __name__ == "__main__":
    with local_cluster(shards=2) as cluster, cluster.connect() as client:
        for epoch, loss in enumerate(train(clicks_model(EmbeddingBagCollection(client, tables())))):
            print(f"epoch {epoch}: loss {loss:.4f}")
