"""What is said of a change that `rowloom apply` cannot make: how to come to it all the same, and what that costs."""

from __future__ import annotations

FIXED = "fixed while the cluster runs"


def why_fixed(name: str, file: str, *, storage: bool, logs: bool) -> str:
    """In words, how a cluster that runs comes to what is fixed.

    Args:
        name: of the cluster.
        file: with the config that is wanted, for commands.
        storage: whether the cluster has one, where snapshots go.
        logs: whether it can go on from its logs with that config.
    """
    its = f"--name {name}"
    if logs:
        return (
            f"{FIXED}: `rowloom down --keep {its}`, then `rowloom up {file}`, goes on from the logs with it, and loses "
            "no row"
        )
    # `down` throws the rows away, so it is never advised without that word, or before they are elsewhere.
    export = (
        f"`rowloom export TABLE ROWS.npy {its}` of each table keeps rows only, no optimizer slots; then `rowloom down "
        f"{its}`, `rowloom up {file}`, `rowloom import ROWS.npy TABLE`"
    )
    if not storage:
        return f"{FIXED}. To change it, start anew, which loses all rows: {export}"
    return (
        f"{FIXED}. To change it and lose nothing: give {file} a `name` and a `storage` that this cluster does not "
        f"have; stop the trainers; `rowloom snapshot {its}` prints the URL of one; `rowloom restore URL {file}` starts "
        "a cluster beside this one with all rows, optimizer slots, steps, and which pushes were applied; trainers "
        f"connect to that; `rowloom down {its}` ends this one. Or start anew: {export}"
    )
