"""The launchers that a config can name. A new one is one entry here, and the module that it names."""

from __future__ import annotations

from ...proto.errors import InvalidRequest

LAUNCHERS = {"local": "operate.local_clusters", "ray": "operate.ray_clusters"}
"""By name, the module below `deploy/` that starts, finds and ends its clusters: a `ClusterLauncher`."""


def check_launcher(name: str, known: tuple[str, ...] = tuple(LAUNCHERS)) -> str:
    """The name. Raises InvalidRequest if no launcher is called so."""
    if name not in known:
        raise InvalidRequest(f"launcher must be {' or '.join(known)}, got {name!r}")
    return name
