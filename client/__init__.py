"""The trainer's side: connect to a cluster, pull rows, push gradients.

Everything that a training script names is here; see `connect`, `Client`, `Table` and `TableSpec`.
"""

from importlib.metadata import version as _version

from ..proto.allocator import keep_freed_memory
from ..proto.errors import (
    ClientForgotten,
    InvalidRequest,
    Overloaded,
    PushUnresolved,
    RowloomError,
    SnapshotCorrupt,
    StateLost,
    TableExists,
    TableNotFound,
    Unauthorized,
    Unavailable,
)
from ..proto.optimizers import (
    FTRL,
    SGD,
    Adadelta,
    Adagrad,
    Adam,
    AdamW,
    Constraint,
    Cosine,
    Exponential,
    Optimizer,
    RMSprop,
    RowwiseAdagrad,
    Schedule,
    WarmUp,
)
from ..proto.recipes import (
    Constant,
    Initializer,
    Normal,
    TruncatedNormal,
    TwoSided,
    Uniform,
    Zeros,
)
from ..proto.spec import TableSpec
from .cache.row_cache import HotRows
from .client import Client, connect
from .lookup import (
    lookup,
    lookup_gradient,
    lookup_sparse,
    lookup_sparse_gradient,
    safe_lookup_sparse,
    safe_lookup_sparse_gradient,
    weighted_sum,
    weighted_sum_gradient,
)
from .lookups.bags import Ragged, SparseIds
from .table import Table
from .vocabulary import Vocabulary

__version__ = _version("rowloom")

__all__ = [
    "FTRL",
    "SGD",
    "Adadelta",
    "Adagrad",
    "Adam",
    "AdamW",
    "Client",
    "ClientForgotten",
    "Constant",
    "Constraint",
    "Cosine",
    "Exponential",
    "HotRows",
    "Initializer",
    "InvalidRequest",
    "Normal",
    "Optimizer",
    "Overloaded",
    "PushUnresolved",
    "RMSprop",
    "Ragged",
    "RowloomError",
    "RowwiseAdagrad",
    "Schedule",
    "SnapshotCorrupt",
    "SparseIds",
    "StateLost",
    "Table",
    "TableExists",
    "TableNotFound",
    "TableSpec",
    "TruncatedNormal",
    "TwoSided",
    "Unauthorized",
    "Unavailable",
    "Uniform",
    "Vocabulary",
    "WarmUp",
    "Zeros",
    "connect",
    "keep_freed_memory",
    "lookup",
    "lookup_gradient",
    "lookup_sparse",
    "lookup_sparse_gradient",
    "safe_lookup_sparse",
    "safe_lookup_sparse_gradient",
    "weighted_sum",
    "weighted_sum_gradient",
]
