"""TensorFlow's embedding lookups over tables, in numpy: rows of ids, bags of ids combined, and their gradients."""

from .bags import Ragged, SparseIds
from .lookups import (
    lookup,
    lookup_gradient,
    lookup_sparse,
    lookup_sparse_gradient,
    lookup_sparse_weights_gradient,
    push,
    safe_lookup_sparse,
    safe_lookup_sparse_gradient,
    weighted_sum,
    weighted_sum_gradient,
)

__all__ = [
    "Ragged",
    "SparseIds",
    "lookup",
    "lookup_gradient",
    "lookup_sparse",
    "lookup_sparse_gradient",
    "lookup_sparse_weights_gradient",
    "push",
    "safe_lookup_sparse",
    "safe_lookup_sparse_gradient",
    "weighted_sum",
    "weighted_sum_gradient",
]
