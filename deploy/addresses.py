"""Where a cluster is, by its name."""

from __future__ import annotations

import contextlib
import os

from ..proto.errors import RowloomError, Unavailable
from .launch.processes import is_running
from .launch.ray_session import ANSWER_S, answers, attach, attached_to
from .operate import local_ray
from .operate.directory import ClusterDirectory, Record
from .operate.left_shards import serving_on
from .operate.ray_clusters import clusters, find_ray


def address_of(name: str) -> str:
    """The address of a cluster by its name, for `connect`.

    It is looked for on the Ray that this process is attached to; else among the clusters with `launcher: local` that
    `rowloom up` has started from this machine, and on a Ray, to which this process then attaches: that of $RAY_ADDRESS,
    else the one on which `rowloom up` has started it from here, else the machine's.
    A `local_cluster` is known by its `.address` only.

    Raises:
        Unavailable: no such cluster runs there, or the Ray does not answer; the message says where it was looked for.
    """
    directory = ClusterDirectory()
    here, record = attached_to(), _record(name, directory)
    if here is None:
        address = _local(record, directory)
        if address is not None:
            return address
    known = record.ray if record is not None else ""
    ray = here or os.environ.get("RAY_ADDRESS") or known or local_ray.choose("auto", directory)
    if ray is None:
        raise Unavailable(
            f"no cluster {name!r} was started by `rowloom up` from this machine, and no Ray runs here that could have "
            f"it (there are: {', '.join(directory.names()) or 'none'}). One made by `local_cluster` has no name for "
            "others: give `connect` its .address. One of another machine: give `connect` the address that "
            "`rowloom up` printed there"
        )
    # Ray itself would wait for ever for a head that is gone or hangs.
    if "://" not in ray and not answers(ray):
        raise Unavailable(
            f"cannot look for cluster {name!r}: the Ray at {ray} did not answer within {ANSWER_S:g} s; give `connect` "
            "the address of the cluster's coordinator, or of any of its shards"
        )
    if here is None:
        attach(ray, token=local_ray.token_of(ray, directory))
    address = find_ray(name)
    if address is None:
        others = ", ".join(clusters()) or "none"
        elsewhere = (
            f". The one that was started from here is on the Ray at {known}" if known not in ("", ray) else ""
        )
        raise Unavailable(f"no cluster {name!r} runs on this Ray ({ray}); there are: {others}{elsewhere}")
    return address


def _record(name: str, directory: ClusterDirectory) -> Record | None:
    """What is known here of a cluster."""
    with contextlib.suppress(RowloomError, OSError):  # a damaged record is for the command line to mend
        return directory.get(name)
    return None


def _local(record: Record | None, directory: ClusterDirectory) -> str | None:
    """Of one with `launcher: local`; None: none is known here. Raises Unavailable: it does not run."""
    if record is None or record.launcher != "local":
        return None
    name = record.name
    if is_running(record.pid, record.started):
        address = record.address
    else:
        left = serving_on(name, directory)  # any shard says where the others are
        address = left.addresses[0] if left is not None else ""
    if not address:
        raise Unavailable(
            f"cluster {name!r} of this machine does not run: `rowloom status --name {name}` says what became of it, "
            "and what starts it again"
        )
    return address
