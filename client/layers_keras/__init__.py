"""Keras layers over tables: `Embedding`, and `SharedEmbeddings` for features that share one table."""

from .layers import Embedding, SharedEmbeddings, tables_of

__all__ = ["Embedding", "SharedEmbeddings", "tables_of"]
