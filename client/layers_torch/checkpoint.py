"""A PyTorch model, its optimizer and its tables under one name."""

# The framework's types are unknown where it is not installed, and mostly so where it is.
# pyright: reportUnknownParameterType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportUnknownLambdaType=false, reportUntypedBaseClass=false, reportUntypedFunctionDecorator=false
# pyright: reportUntypedClassDecorator=false, reportPrivateUsage=false

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import torch  # pyright: ignore[reportMissingImports]

from ...proto.errors import InvalidRequest
from ..layers import checkpoints
from .passes import layers_of

if TYPE_CHECKING:
    from ..client import Client
    from ..snapshots import Snapshot


def save_checkpoint(client: Client, model: Any, optimizer: Any, **state: Any) -> Snapshot:
    """Keep a model, its optimizer, the tables and where the trainer is, as one snapshot: all of one moment, or nothing.

    Call it between two steps, of several ranks in one, while no other pushes. Tables have their own optimizers' slots
    with them. PyTorch's random numbers are not kept: where a model has dropout, keep `torch.get_rng_state().numpy()`.

    Args:
        client: of the cluster that has the tables; it must have `storage`.
        model: a module.
        optimizer: of its dense part, or None.
        **state: the step, the reader's position, what you like: values as for `Client.snapshot(extra=...)`, together
            less than 8 MiB. And what has a `state_dict`: schedulers, GradScalers, further optimizers.

    Returns:
        The snapshot; its `path` is the checkpoint's name, for `load_checkpoint` and `restore=`.
        `newest_snapshot(folder, having="checkpoint")` finds the last one.

    Raises:
        InvalidRequest: gradients of rows wait for an optimizer's step; or a value cannot be kept.
        Unavailable: there is no checkpoint: the storage failed, the cluster does not answer.

    Example:
        >>> save_checkpoint(client, model, optimizer, scheduler=scheduler, step=step + 1)
    """
    for layer in layers_of(model):
        if layer.gradients.waiting():
            raise InvalidRequest(
                f"gradients of table {layer.gradients.tables[0].name!r} wait for optimizer.step(), and would be lost: "
                "save after it"
            )
    stateful = {name: value for name, value in state.items() if hasattr(value, "state_dict")}
    parts = {"model": model, **({} if optimizer is None else {"optimizer": optimizer}), **stateful}
    plain = {name: value for name, value in state.items() if name not in stateful}
    return checkpoints.save(client, "torch", {name: _bytes_of(part) for name, part in parts.items()}, plain)


def load_checkpoint(
    client: Client, model: Any, optimizer: Any, *, path: str | None = None, **others: Any
) -> dict[str, Any]:
    """Go on from the checkpoint that the cluster began with (`client.restored`): fills the model and its optimizer.

    Never half a model: it is refused if the rows are not those of the checkpoint, which they are only until someone
    pushes. So all ranks load before the first step.

    Args:
        client: of a cluster that was restored from the checkpoint: `local_cluster(restore=path)`, `rowloom restore`.
        model: as it was saved, over the tables of this cluster.
        optimizer: as it was saved; None: its state is left alone.
        path: of the checkpoint that is meant; None: whichever the cluster began with.
        **others: what else was saved that has a `state_dict`, under its name; None: it is left alone.

    Returns:
        The state that was kept.

    Raises:
        InvalidRequest: the cluster began with no checkpoint or another one, or rows have changed since; something that
            was saved is not named here, or was not saved. Nothing was filled. What torch raises for another model.
        SnapshotCorrupt: the checkpoint is not whole.
        Unavailable: the cluster does not answer.

    Example:
        >>> found = newest_snapshot(folder, having="checkpoint")
        >>> begin = load_checkpoint(client, model, optimizer)["step"] if found or client.restored else 0
    """
    kept, state = checkpoints.load(client, "torch", path)
    parts = {"model": model, "optimizer": optimizer, **others}
    if optimizer is None and "optimizer" not in kept:
        del parts["optimizer"]
    differ = [f"{name!r} was not saved" for name in sorted(parts.keys() - kept)]
    differ += [
        f"{name!r} was saved too: give it, or None to leave it" for name in sorted(kept.keys() - parts)
    ]
    if differ:
        raise InvalidRequest(f"this call and the checkpoint differ: {'; '.join(differ)}")
    states = {name: torch.load(io.BytesIO(data), weights_only=True) for name, data in kept.items()}
    for name, part in parts.items():
        if part is not None:
            part.load_state_dict(states[name])
    return state


def _bytes_of(part: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(part.state_dict(), buffer)
    return buffer.getvalue()
