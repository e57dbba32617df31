"""The trainer's side: connect to a cluster, pull rows, push gradients.

Everything that a training script names is here; see `connect`, `Client`, `Table` and `TableSpec`.
"""

from ..proto.errors import (
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
from ..proto.spec import (
    SGD,
    Adagrad,
    Adam,
    Constant,
    Initializer,
    Normal,
    Optimizer,
    TableSpec,
    TruncatedNormal,
    TwoSided,
    Uniform,
    Zeros,
)
from .client import Client, connect
from .table import Table

__all__ = [
    "SGD",
    "Adagrad",
    "Adam",
    "Client",
    "Constant",
    "Initializer",
    "InvalidRequest",
    "Normal",
    "Optimizer",
    "Overloaded",
    "PushUnresolved",
    "RowloomError",
    "SnapshotCorrupt",
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
    "Zeros",
    "connect",
]
