"""The ranks of a DistributedDataParallel or `fully_shard` model train tables as one process with the whole batch would.

Why it is so. Both average the ranks' gradients, then every rank steps. Were each rank to push its own rows' gradients,
a table would step once for each rank: the same for SGD, another result for Adagrad and Adam. So the first rank gathers
them and pushes once, and what became of that push is told to all: none pulls before it is done.
Every rank comes to the same gatherings in the same order: `fully_shard` calls of each the same layers, and what the
other does is in `wrapped.py`.
"""

# The framework's types are unknown where it is not installed, and mostly so where it is.
# pyright: reportUnknownParameterType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch.distributed as dist  # pyright: ignore[reportMissingImports]

from ...proto.errors import InvalidRequest, RowloomError, Unavailable
from ..layers.together import key_of, push_together
from ..refusals import NotSupported

if TYPE_CHECKING:
    from ..table import Table

# A table, ids [N] int64, gradients [N, width] float32, and what to multiply them by.
Given = tuple["Table", np.ndarray, np.ndarray, float]
# The same where it is sent: the name of the table, and gradients that are multiplied already.
Plain = tuple[str, np.ndarray, np.ndarray]


def ranks_here(mesh: Any) -> Any:
    """The process group over which `fully_shard` shares a layer's anchor out; None: nobody else trains it.

    Args:
        mesh: of the anchor, or None.

    Raises:
        NotImplementedError: a mesh that is neither of one axis nor of all processes.
    """
    if mesh is None or mesh.size() == 1:
        return None
    if mesh.ndim == 1:
        return mesh.get_group()
    if mesh.size() != dist.get_world_size():
        raise NotSupported(
            f"a layer over a table in fully_shard over a mesh of shape {tuple(mesh.shape)} of "
            f"{dist.get_world_size()} processes: its ranks push together, for which the mesh must have one axis, or "
            "all processes in it"
        )
    return dist.group.WORLD


def check_whole(anchor: Any) -> None:
    """Raise NotImplementedError in a FullyShardedDataParallel model: it does not say who trains with whom.

    Args:
        anchor: of a layer, in a forward pass.
    """
    flat = getattr(getattr(anchor, "_base", None), "_is_flat_param", False)
    if flat and dist.get_world_size() > 1:
        raise NotSupported(
            "a layer over a table in FullyShardedDataParallel: each rank would push by itself, and no gradient be "
            "averaged; use fully_shard of torch.distributed.fsdp, whose ranks push together"
        )


def check_scale(scale: float, group: Any) -> None:
    """Raise InvalidRequest for a `grad_scale` that makes a mean of the ranks' gradients: they are averaged already."""
    if scale == 1.0 / dist.get_world_size(group):
        raise InvalidRequest(
            f"grad_scale={scale:g} of a layer in a model of {dist.get_world_size(group)} ranks: the ranks' gradients "
            "are averaged, as those of parameters; leave grad_scale out"
        )


def push_of_ranks(given: Sequence[Given], tables: Sequence[Table], group: Any) -> list[Table]:
    """One push of what all ranks of a group have, averaged. Every rank calls it.

    Args:
        given: this rank's.
        tables: those that any rank may have something for.
        group: of processes.

    Returns:
        The tables that were pushed to, by any rank, as far as this one has them.

    Raises:
        as `Table.push`, on every rank; NotImplementedError where a name does not say which table is meant.
    """
    by_name = _by_name(tables)
    names = at_first(averaged(given, group), lambda pieces: _pushed(pieces, by_name), group)
    return [by_name[name] for name in names if name in by_name]


def _by_name(tables: Sequence[Table]) -> dict[str, Table]:
    """Tables as ranks name them to each other. Raises NotImplementedError: two of two clients share a name."""
    found: dict[str, Table] = {}
    for table in tables:
        if key_of(found.setdefault(table.name, table)) != key_of(table):
            raise NotSupported(
                f"two tables named {table.name!r}, of two clients, in one model of several ranks, which tell each "
                "other names only: use one client for both layers, or, of two clusters, give one table another name"
            )
    return found


def averaged(given: Sequence[Given], group: Any) -> list[Plain]:
    """A rank's part of the mean of a group, which is the sum of these."""
    world = dist.get_world_size(group)
    return [(table.name, ids, grads * np.float32(by / world)) for table, ids, grads, by in given]


def at_first(mine: list[Plain], work: Callable[[list[Plain]], Any], group: Any) -> Any:
    """What the first rank of a group makes of what all its ranks have. Every rank calls it.

    Args:
        mine: this rank's.
        work: called on the first rank, with all that they have.
        group: of processes.

    Raises:
        what `work` raises, on every rank; Unavailable for what is no error of ours.
    """
    world, first = dist.get_world_size(group), dist.get_global_rank(group, 0)
    every: list[list[Plain]] | None = [[] for _ in range(world)] if dist.get_rank() == first else None
    dist.gather_object(mine, every, first, group)
    told: list[Any] = [None]
    if every is not None:
        told[0] = _tried(work, [piece for pieces in every for piece in pieces])
    dist.broadcast_object_list(told, first, group)
    if isinstance(told[0], BaseException):
        raise told[0]
    return told[0]


def _tried(work: Callable[[list[Plain]], Any], pieces: list[Plain]) -> Any:
    """Its result, or what went wrong, which all ranks are to hear."""
    try:
        return work(pieces)
    except RowloomError as e:
        return e
    except Exception as e:  # it need not be one that can be sent
        return Unavailable(f"the work of the first rank failed: {type(e).__name__}: {e}")


def _pushed(pieces: Sequence[Plain], by_name: dict[str, Table]) -> list[str]:
    """Push; names of the tables."""
    push_together((by_name[name], ids, grads) for name, ids, grads in pieces)
    return list(dict.fromkeys(name for name, _, _ in pieces))
