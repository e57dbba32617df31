"""Table lookups for JAX: differentiable, and callable under `jit`; of one table, or of many at once; rows or bags."""

try:
    import jax as _jax  # noqa: F401  # pyright: ignore[reportMissingImports, reportUnusedImport]
except ModuleNotFoundError as e:
    raise ModuleNotFoundError(
        "rowloom.client.layers_jax needs JAX: pip install 'rowloom[jax]'", name=e.name
    ) from e

from ..layers.configs import EmbeddingBagConfig, EmbeddingConfig
from .checkpoint import load_checkpoint, save_checkpoint
from .collection import EmbeddingBagCollection, EmbeddingCollection
from .lookup import BagLookup, Lookup

__all__ = [
    "BagLookup",
    "EmbeddingBagCollection",
    "EmbeddingBagConfig",
    "EmbeddingCollection",
    "EmbeddingConfig",
    "Lookup",
    "load_checkpoint",
    "save_checkpoint",
]
