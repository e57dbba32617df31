"""Keras layers over tables: `Embedding`, and `SharedEmbeddings` for features that share one table."""

try:
    import keras as _keras  # noqa: F401  # pyright: ignore[reportMissingImports, reportUnusedImport]
except ModuleNotFoundError as e:  # Keras', or its backend's
    raise ModuleNotFoundError(
        f"rowloom.client.layers_keras needs Keras and a backend for it, and there is no {e.name}: pip install "
        "'rowloom[keras,torch]' and set KERAS_BACKEND=torch, or pip install 'rowloom[keras]' tensorflow",
        name=e.name,
    ) from e

from .layers import Embedding, SharedEmbeddings, tables_of

__all__ = ["Embedding", "SharedEmbeddings", "tables_of"]
