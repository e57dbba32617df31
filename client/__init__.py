"""The trainer's side: connect to a cluster, pull rows, push gradients.

Everything that a training script names is here; see `connect`, `Client`, `Table` and `TableSpec`.
"""

from importlib.metadata import version as _version

from ..proto.allocator import keep_freed_memory
from ..proto.errors import (
    ClientForgotten,
    InvalidRequest,
    Overloaded,
    PermissionDenied,
    PushUnresolved,
    QuotaExceeded,
    RowloomError,
    SnapshotCorrupt,
    StateLost,
    TableExists,
    TableNotFound,
    Unauthenticated,
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
from ..proto.security.credentials import Tls
from ..proto.spec import TableSpec
from .cache.row_cache import HotRows
from .client import Client
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
from .opening import connect
from .snapshots import Snapshot, SnapshotReader, newest_snapshot, open_snapshot
from .table import Table
from .vocabulary import Vocabulary

__version__ = _version("rowloom")


def __dir__() -> list[str]:  # what tab completes
    return [*__all__, "__version__"]


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
    "PermissionDenied",
    "PushUnresolved",
    "QuotaExceeded",
    "RMSprop",
    "Ragged",
    "RowloomError",
    "RowwiseAdagrad",
    "Schedule",
    "Snapshot",
    "SnapshotCorrupt",
    "SnapshotReader",
    "SparseIds",
    "StateLost",
    "Table",
    "TableExists",
    "TableNotFound",
    "TableSpec",
    "Tls",
    "TruncatedNormal",
    "TwoSided",
    "Unauthenticated",
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
    "newest_snapshot",
    "open_snapshot",
    "safe_lookup_sparse",
    "safe_lookup_sparse_gradient",
    "weighted_sum",
    "weighted_sum_gradient",
]
