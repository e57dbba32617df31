"""A tree of arrays and the tables it was trained with, kept as one: `client/layers/checkpoints.py` for JAX."""

# The framework's types are unknown where it is not installed, and mostly so where it is.
# pyright: reportUnknownParameterType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportUnknownLambdaType=false, reportUntypedBaseClass=false, reportUntypedFunctionDecorator=false
# pyright: reportUntypedClassDecorator=false, reportPrivateUsage=false

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import jax  # pyright: ignore[reportMissingImports]
import jax.numpy as jnp  # pyright: ignore[reportMissingImports]
import numpy as np

from ...proto.errors import InvalidRequest
from ..layers import checkpoints

if TYPE_CHECKING:
    from ..client import Client
    from ..snapshots import Snapshot


def save_checkpoint(client: Client, tree: Any, **state: Any) -> Snapshot:
    """Keep a tree of arrays, the tables and where the trainer is, as one snapshot: all of one moment, or nothing.

    Call it between two steps, while no other trainer pushes. Pushes of programs that run are waited for.

    Args:
        client: of the cluster that has the tables; it must have `storage`.
        tree: parameters, the state of their optimizer, random keys (as `jax.random.key_data`): of arrays and numbers.
        **state: the step, the reader's position: values as for `Client.snapshot(extra=...)`, less than 8 MiB.

    Returns:
        The snapshot; its `path` is the checkpoint's name.
        `newest_snapshot(folder, having="checkpoint")` finds the last one.

    Raises:
        InvalidRequest: a value cannot be kept, or the cluster has no storage.
        Unavailable: there is no checkpoint: the storage failed, the cluster does not answer.

    Example:
        >>> save_checkpoint(client, {"params": params, "optimizer": optimizer}, step=step + 1)
    """
    jax.effects_barrier()
    arrays = ((name, np.asarray(leaf)) for name, leaf in _leaves(tree))
    return checkpoints.save(client, "jax", {"tree": checkpoints.packed(arrays)}, state)


def load_checkpoint(client: Client, like: Any, *, path: str | None = None) -> tuple[Any, dict[str, Any]]:
    """The tree and the state of the checkpoint that the cluster began with (`client.restored`).

    Never half a model: it is refused if the rows are not those of the checkpoint, which they are only until someone
    pushes.

    Args:
        client: of a cluster that was restored from the checkpoint: `local_cluster(restore=path)`, `rowloom restore`.
        like: a tree of the same structure, shapes and types, such as the parameters of a fresh model.
        path: of the checkpoint that is meant; None: whichever the cluster began with.

    Returns:
        (the tree, the state that was kept); leaves are JAX's arrays where they are in `like`, else numpy's.

    Raises:
        InvalidRequest: the cluster began with no checkpoint or another one, rows have changed since, or the tree
            differs; the message has the first leaf that does.
        SnapshotCorrupt: the checkpoint is not whole.
        Unavailable: the cluster does not answer.

    Example:
        >>> if client.restored:
        ...     params, state = load_checkpoint(client, params)
    """
    leaves = _leaves(like)
    wanted = [
        checkpoints.Like(name, array.shape, array.dtype.name)
        for name, array in ((name, np.asarray(leaf)) for name, leaf in leaves)
    ]
    parts, state = checkpoints.load(client, "jax", path)
    arrays = checkpoints.unpacked(parts["tree"], "the tree", wanted)
    back = [
        jnp.asarray(array) if isinstance(leaf, jax.Array) else array
        for array, (_, leaf) in zip(arrays, leaves, strict=True)
    ]
    return jax.tree.unflatten(jax.tree.structure(like), back), state


def _leaves(tree: Any) -> list[tuple[str, Any]]:
    """Leaves with their places in the tree. Raises InvalidRequest for one that is no array of numbers."""
    leaves = [
        (jax.tree_util.keystr(path), leaf) for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]
    ]
    for name, leaf in leaves:
        if isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            raise InvalidRequest(f"tree{name} is a random key: give jax.random.key_data of it")
    return leaves
