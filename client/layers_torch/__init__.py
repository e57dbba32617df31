"""PyTorch layers over tables: `Embedding` and `EmbeddingBag`, with a table in place of the weight."""

try:
    import torch as _torch  # noqa: F401  # pyright: ignore[reportMissingImports, reportUnusedImport]
except ModuleNotFoundError as e:
    raise ModuleNotFoundError(
        "rowloom.client.layers_torch needs PyTorch: pip install 'rowloom[torch]'", name=e.name
    ) from e

from .loader import PrefetchLoader
from .modules import Embedding, EmbeddingBag
from .passes import push_on_step

__all__ = ["Embedding", "EmbeddingBag", "PrefetchLoader", "push_on_step"]
