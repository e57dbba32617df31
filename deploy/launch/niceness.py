"""How nice a server is to other programs of its node, where the config says it."""

from __future__ import annotations

import os

from ...proto.errors import InvalidRequest


def be_as_nice(wanted: int | None, here: str) -> None:
    """Take this niceness for the whole process; None: it stays as it is.

    here: what the node is called.

    Raises:
        InvalidRequest: the system does not allow it.
    """
    if wanted is None:
        return
    now = os.getpriority(os.PRIO_PROCESS, 0)
    try:
        os.setpriority(os.PRIO_PROCESS, 0, wanted)
    except PermissionError as e:
        raise InvalidRequest(
            f"ray.niceness: node {here} runs actors at niceness {now}, and its system does not allow {wanted}: start "
            f"Ray there with RAY_worker_niceness={wanted} in its environment, or leave ray.niceness out"
        ) from e
