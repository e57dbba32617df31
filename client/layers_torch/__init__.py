"""PyTorch layers over tables: `Embedding` and `EmbeddingBag`, with a table in place of the weight."""

from .loader import PrefetchLoader
from .modules import Embedding, EmbeddingBag
from .passes import push_on_step

__all__ = ["Embedding", "EmbeddingBag", "PrefetchLoader", "push_on_step"]
