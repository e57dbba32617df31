"""Keras layers over tables: `Embedding`; `SharedEmbeddings` for features that share one table; many tables at once."""

try:
    import keras as _keras  # noqa: F401  # pyright: ignore[reportMissingImports, reportUnusedImport]
except ModuleNotFoundError as e:  # Keras', or its backend's
    raise ModuleNotFoundError(
        f"rowloom.client.layers_keras needs Keras and a backend for it, and there is no {e.name}: pip install "
        "'rowloom[keras,torch]' and set KERAS_BACKEND=torch, or pip install 'rowloom[keras]' tensorflow",
        name=e.name,
    ) from e

from ..layers.configs import EmbeddingBagConfig, EmbeddingConfig
from .checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from .collection import EmbeddingBagCollection, EmbeddingCollection
from .layers import Embedding, SharedEmbeddings
from .rates import bind_lr
from .scope import tables_of
from .sharing import share_requests

__all__ = [
    "Checkpoint",
    "Embedding",
    "EmbeddingBagCollection",
    "EmbeddingBagConfig",
    "EmbeddingCollection",
    "EmbeddingConfig",
    "SharedEmbeddings",
    "bind_lr",
    "load_checkpoint",
    "save_checkpoint",
    "share_requests",
    "tables_of",
]
