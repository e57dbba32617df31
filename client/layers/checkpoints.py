"""A checkpoint: a snapshot of the tables with a model, its optimizer and its trainer's state in it, under one name.

Why it is so. A model is half a model when its dense weights are of one moment and the rows of its tables of another,
and nothing looks wrong then but its loss. So all of it is one snapshot, whose commit is the checkpoint's; and loading
is refused unless the rows are of that very moment: the cluster was restored from this snapshot, and nobody has pushed
since. What the layers of torch, Keras and JAX do is to turn a model into `parts` and back.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ...proto.errors import InvalidRequest, SnapshotCorrupt
from ...proto.snapshots.extra import CHECKPOINT as KEY
from ...proto.snapshots.extra import decode_extra, encode_extra
from ..attached import attach, attached, note_of

if TYPE_CHECKING:
    from ..client import Client
    from ..snapshots import Snapshot

MOST_INSIDE = 8 << 20  # bytes of the parts in the extra itself; of more, a file beside the snapshot's


class Like(NamedTuple):
    """An array that is to be filled: what it is called, and how it must be."""

    name: str
    shape: tuple[int, ...]
    dtype: str


def save(client: Client, framework: str, parts: Mapping[str, Any], state: Mapping[str, Any]) -> Snapshot:
    """Take a snapshot with these in it.

    Args:
        client: of the cluster that has the tables.
        framework: that made the parts.
        parts: of the model; what `Client.snapshot` takes as `extra`, of any size.
        state: the trainer's own, as `extra`.

    Raises:
        InvalidRequest: a value cannot be kept, or the cluster has no storage; no snapshot is taken.
        Unavailable: there is no snapshot; or it is there, and its file could not be written: it is no checkpoint.
    """
    if KEY in state:
        raise InvalidRequest(f"state cannot have {KEY!r}: that is where the model is")
    data, kept = encode_extra(parts, None), {"framework": framework}
    if len(data) <= MOST_INSIDE:
        return client.snapshot({**state, KEY: {**kept, "parts": parts}})
    note = note_of(data)
    taken = client.snapshot({**state, KEY: {**kept, **note}})
    attach(taken.path, note, data)
    return taken


def load(client: Client, framework: str, path: str | None = None) -> tuple[dict[str, Any], dict[str, Any]]:
    """The parts and the state of the checkpoint that the cluster began with.

    Args:
        client: of that cluster.
        framework: that is to have the parts.
        path: of the checkpoint that is meant, or its id; None: the one there is.

    Raises:
        InvalidRequest: the rows of this cluster are not those of the checkpoint; the message says what to do.
        SnapshotCorrupt: its file is missing or damaged.
        Unavailable: the cluster or the store does not answer.
    """
    restored = client.restored
    found = None if restored is None else restored.extra.get(KEY)
    _check_restored(restored, found, framework, path)
    assert restored is not None
    assert found is not None
    pushes = client.pushes_since_restored()
    if pushes != 0:
        told = (
            "a shard of it was started again since, or it was scaled down, or more than once, so nobody knows what "
            "was pushed"
            if pushes is None
            else f"{pushes} requests have changed its rows since"
        )
        raise InvalidRequest(
            f"the cluster began with the checkpoint {restored.path}, and {told}: the model of then does not fit the "
            f"rows of now. Let the cluster begin with it again (`rowloom restore {restored.path}`, "
            "local_cluster(restore=...)), and load before anyone pushes"
        )
    data = attached(restored.path, found)
    parts = found["parts"] if data is None else decode_extra(data, f"the checkpoint {restored.path}")
    client.last_snapshot = restored.path
    return parts, {key: value for key, value in restored.extra.items() if key != KEY}


def _check_restored(restored: Snapshot | None, found: Any, framework: str, path: str | None) -> None:
    how = (
        "begin it with local_cluster(restore=...) or `rowloom restore`, and with what "
        "newest_snapshot(folder, having='checkpoint') says"
    )
    if restored is None:
        raise InvalidRequest(f"the cluster began without a snapshot, so its rows are of no checkpoint: {how}")
    if path is not None and _id_of(path) != restored.id:
        raise InvalidRequest(
            f"the cluster began with {restored.path}, not with {path}, so its rows and that model are of two moments: "
            f"{how}"
        )
    if not isinstance(found, dict):
        raise InvalidRequest(
            f"the cluster began with {restored.path}, which was not taken by save_checkpoint: {how}"
        )
    if found.get("framework") != framework:
        raise InvalidRequest(
            f"the checkpoint {restored.path} was saved by {found.get('framework')}, and this is the load_checkpoint of "
            f"{framework}"
        )


def _id_of(path: str) -> str:
    return path.rstrip("/").rpartition("/")[2]


# --------------------------------------------------------------------------------------------------- lists of arrays


def packed(arrays: Iterable[tuple[str, np.ndarray]]) -> dict[str, Any]:
    """Arrays with their names, as a part. Raises InvalidRequest for those that are of no numbers."""
    return {str(k): _kept(name, array) for k, (name, array) in enumerate(arrays)}


def unpacked(part: Mapping[str, Any], what: str, wanted: Sequence[Like]) -> list[np.ndarray]:
    """The arrays of a part, which must be as wanted. what: whose, for messages.

    Raises:
        InvalidRequest: there are others; the message names the first that differs.
        SnapshotCorrupt: it is no part that `packed` made.
    """
    try:
        found = [part[str(k)] for k in range(len(part))]
        arrays = [np.asarray(one["array"]) for one in found]
        kept = [
            Like(one["name"], array.shape, one["dtype"]) for one, array in zip(found, arrays, strict=True)
        ]
    except (KeyError, TypeError) as e:
        raise SnapshotCorrupt(f"the checkpoint has {what} in no form that is known: {e!r}") from e
    for k, (there, here) in enumerate(zip(kept, wanted, strict=False)):
        if there != here:
            raise InvalidRequest(f"{what} differs from the checkpoint's at {k}: {there} there, {here} here")
    if len(kept) != len(wanted):
        raise InvalidRequest(f"{what} has {len(wanted)} arrays, the checkpoint's has {len(kept)}")
    return [
        array if array.dtype.name == like.dtype else array.view(like.dtype)
        for array, like in zip(arrays, wanted, strict=True)
    ]


def _kept(name: str, array: np.ndarray) -> dict[str, Any]:
    # bfloat16 and its like are no types of numpy's own: their bits are kept.
    bits = array.view(f"u{array.itemsize}") if array.dtype.kind == "V" else array
    return {"name": name, "dtype": array.dtype.name, "array": bits}
