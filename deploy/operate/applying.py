"""Bringing a cluster that runs to a config."""

from __future__ import annotations

from collections.abc import Callable

from ...proto import rowloom_pb2 as pb
from ..config.config import DeployConfig, replicas_of
from ..config.runtime_env import digest_of
from .planning import Plan, plan
from .remote import Remote

OnProgress = Callable[[pb.ScaleReply], None]


def apply(
    config: DeployConfig,
    remote: Remote,
    status: pb.StatusReply,
    on_progress: OnProgress | None = None,
    *,
    restart: bool = False,
    file: str = "FILE",
    offer: Callable[[], None] = lambda: None,
) -> tuple[Plan, pb.ScaleReply | None]:
    """Bring a cluster to a config. Applying it again goes on where it was interrupted.

    restart: every server is started anew, also if nothing of the config wants it.
    file: with that config, for commands that are named.
    offer: gives the cluster the config's environment, by another way than `remote`; called if it has another one.

    Returns:
        What was done, and how the scaling went if there was one.

    Raises:
        InvalidRequest: part of it cannot be done; nothing was changed.
        Unavailable: this machine has no room for its shards; nothing was changed.
    """
    wanted = plan(config, status, file=file)
    wanted.check()
    specs = {spec.name: spec for spec in config.tables}
    scaled = None
    for change in wanted.changes:
        if change.action == "create":
            remote.create_table(specs[change.table])
        elif change.action == "set_lr":
            remote.set_lr(change.table, change.new)
        elif change.action == "autoscale":
            remote.set_autoscale(change.new)
        elif change.action == "quotas":
            remote.set_quotas(config.quotas.to_json())
        elif change.action == "limit":
            remote.bound_moves(change.new or 0)
    standbys = any(change.action == "standbys" for change in wanted.changes)
    if standbys and not config.replicas:  # those of now end before rows move: nobody waits for them
        remote.set_replicas(replicas_of(config))
    # Last, because it takes long; and all at once, because rows move once.
    shards = next((change.new for change in wanted.changes if change.action == "scale"), 0)
    dealings = {c.table: specs[c.table].dealing for c in wanted.changes if c.action == "deal"}
    if shards or dealings:
        scaled = remote.scale(shards, on_progress, dealings)
    if standbys and config.replicas:  # another layout would end them again
        remote.set_replicas(replicas_of(config))
    other = any(change.action == "upgrade" for change in wanted.changes)
    if other:
        offer()
    if restart or other:
        renewed = remote.upgrade(digest_of(config.ray.runtime_env), on_progress)
        scaled = scaled or renewed
    return wanted, scaled
