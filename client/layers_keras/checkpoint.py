"""A Keras model, its optimizer and its tables under one name; as functions and as a callback."""

# The framework's types are unknown where it is not installed, and mostly so where it is.
# pyright: reportUnknownParameterType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportUnknownLambdaType=false, reportUntypedBaseClass=false, reportUntypedFunctionDecorator=false
# pyright: reportUntypedClassDecorator=false, reportPrivateUsage=false

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import keras  # pyright: ignore[reportMissingImports]
import numpy as np

from ...proto.errors import InvalidRequest
from ..layers import checkpoints
from .rates import layers_of

if TYPE_CHECKING:
    from ..client import Client
    from ..snapshots import Snapshot

_RATES = "rates"  # of tables that follow the optimizer's; what they began with


def save_checkpoint(client: Client, model: Any, **state: Any) -> Snapshot:
    """Keep a model, its optimizer, the tables and where the trainer is, as one snapshot: all of one moment, or nothing.

    Call it between two steps, while no other trainer pushes. The optimizer is the model's, if it is compiled; seeds of
    dropout are kept, metrics are not.

    Args:
        client: of the cluster that has the tables; it must have `storage`.
        model: built.
        **state: the epoch, the reader's position: values as for `Client.snapshot(extra=...)`, less than 8 MiB.

    Returns:
        The snapshot; its `path` is the checkpoint's name.
        `newest_snapshot(folder, having="checkpoint")` finds the last one.

    Raises:
        InvalidRequest: the model is not built, a value cannot be kept, or the cluster has no storage.
        Unavailable: there is no checkpoint: the storage failed, the cluster does not answer.

    Example:
        >>> save_checkpoint(client, model, epoch=epoch + 1)
    """
    parts: dict[str, Any] = {
        what: checkpoints.packed((_name(v), np.asarray(keras.ops.convert_to_numpy(v))) for v in variables)
        for what, variables in _variables(model).items()
    }
    begun = {name: np.array(rates) for layer in layers_of(model) for name, rates in layer.rates.begun.items()}
    if begun:
        parts[_RATES] = begun
    return checkpoints.save(client, "keras", parts, state)


def load_checkpoint(client: Client, model: Any, *, path: str | None = None) -> dict[str, Any]:
    """Go on from the checkpoint that the cluster began with (`client.restored`): fills the model and its optimizer.

    Never half a model: it is refused if the rows are not those of the checkpoint, which they are only until someone
    pushes.

    Args:
        client: of a cluster that was restored from the checkpoint: `local_cluster(restore=path)`, `rowloom restore`.
        model: as it was saved, built, and compiled if it was.
        path: of the checkpoint that is meant; None: whichever the cluster began with.

    Returns:
        The state that was kept.

    Raises:
        InvalidRequest: the cluster began with no checkpoint or another one, rows have changed since, or the model
            differs; nothing was filled.
        SnapshotCorrupt: the checkpoint is not whole.
        Unavailable: the cluster does not answer.

    Example:
        >>> found = newest_snapshot(folder, having="checkpoint")
        >>> begin = load_checkpoint(client, model)["epoch"] if found or client.restored else 0
        >>> model.fit(x, y, initial_epoch=begin, epochs=12, callbacks=[Checkpoint(client)])
    """
    parts, state = checkpoints.load(client, "keras", path)
    variables = _variables(model)
    begun = {name: rates.tolist() for name, rates in parts.pop(_RATES, {}).items()}
    if parts.keys() != variables.keys():
        raise InvalidRequest(
            f"the checkpoint has {', '.join(parts)}, this model {', '.join(variables)}: compile it as it was saved"
        )
    arrays = {
        what: checkpoints.unpacked(parts[what], f"the {what}", [_like(v) for v in some])
        for what, some in variables.items()
    }
    for what, some in variables.items():
        for variable, array in zip(some, arrays[what], strict=True):
            variable.assign(array)
    for layer in layers_of(model):
        layer.rates.resume(getattr(model, "optimizer", None), begun)
    return state


class Checkpoint(keras.callbacks.Callback):
    """`save_checkpoint` at the end of epochs, with `epoch`: how many are done, for `fit(initial_epoch=...)`.

    In place of ModelCheckpoint and BackupAndRestore, whose files have no rows of tables.

    Args:
        client: of the cluster that has the tables; it must have `storage`.
        every: after so many epochs.
    """

    def __init__(self, client: Client, every: int = 1) -> None:
        super().__init__()
        if every < 1:
            raise InvalidRequest(f"every must be at least 1, got {every}")
        self.client, self.every = client, every

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Keras calls it."""
        del logs
        if (epoch + 1) % self.every == 0:
            save_checkpoint(self.client, self.model, epoch=epoch + 1)


def _variables(model: Any) -> dict[str, list[Any]]:
    """Of the model, and of its optimizer if there is one. Raises InvalidRequest: it is not built."""
    if not model.built:
        raise InvalidRequest(
            f"model {model.name!r} is not built: call build, or the model on a batch, before"
        )
    optimizer = getattr(model, "optimizer", None)
    if optimizer is None:
        return {"model": list(model.variables)}
    if not optimizer.built:
        optimizer.build(model.trainable_variables)
    return {"model": list(model.variables), "optimizer": list(optimizer.variables)}


def _name(variable: Any) -> str:
    """Without the numbers that Keras gives layers by their order in a process: "dense_4_kernel" has "dense_kernel"."""
    return re.sub(r"_\d+(?=_)", "", variable.name)


def _like(variable: Any) -> checkpoints.Like:
    array = np.asarray(keras.ops.convert_to_numpy(variable))
    return checkpoints.Like(_name(variable), array.shape, array.dtype.name)
