"""PyTorch layers over tables: `Embedding` and `EmbeddingBag`, with a table in place of the weight; many at once."""

try:
    import torch as _torch  # noqa: F401  # pyright: ignore[reportMissingImports, reportUnusedImport]
except ModuleNotFoundError as e:
    raise ModuleNotFoundError(
        "rowloom.client.layers_torch needs PyTorch: pip install 'rowloom[torch]'", name=e.name
    ) from e

from ..layers.configs import EmbeddingBagConfig, EmbeddingConfig
from .checkpoint import load_checkpoint, save_checkpoint
from .clipping import clip_grad_norm_
from .collection import EmbeddingBagCollection, EmbeddingCollection
from .loader import PrefetchLoader
from .modules import Embedding, EmbeddingBag
from .passes import push_on_step
from .prefetched import prefetched
from .rates import bind_lr

__all__ = [
    "Embedding",
    "EmbeddingBag",
    "EmbeddingBagCollection",
    "EmbeddingBagConfig",
    "EmbeddingCollection",
    "EmbeddingConfig",
    "PrefetchLoader",
    "bind_lr",
    "clip_grad_norm_",
    "load_checkpoint",
    "prefetched",
    "push_on_step",
    "save_checkpoint",
]
