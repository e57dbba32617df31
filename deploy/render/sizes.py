"""How many pods there are, and what each asks for: whole CPUs and bytes."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ...proto.errors import InvalidRequest
from ..config.config import DeployConfig
from ..config.memory import memory
from .options import Options

MIB = 2**20
SHARD_PROCESS_BYTES = 512 * MIB  # of a shard without rows: Python, numpy, gRPC, calls under way
OBJECT_STORE_BYTES = 128 * MIB  # rows never travel through it; Ray takes no less than 75 MB
RAY_BYTES = 1024 * MIB  # raylet, agents, log monitor of a worker pod
HEAD_BYTES = 8 * 1024 * MIB  # what Ray asks for on the node of its head; the coordinator needs 0.3 GiB of it
HEAD_CPUS = 2
RAY_CPUS = 1  # kept for Ray on each pod: one that answers late is taken for dead, and its shards with it
SLACK = 1.15  # of the memory of rows: what the allocator keeps
MOVING = 2  # while rows move, a shard that stays holds its old and its new ones


@dataclass(frozen=True)
class Sizes:
    """What the pods of a cluster ask for.

    Attributes:
        workers: pods for shards and their standbys, spare ones included.
        most_shards: that `autoscale` may make, or that there are.
        shard_bytes: of memory that Ray counts for a shard.
        worker_bytes, head_bytes: of memory of a pod.
        worker_cpus, head_cpus: of a pod.
        ray_cpus: of a worker pod, those that Ray counts.
    """

    workers: int
    most_shards: int
    shard_bytes: int
    worker_bytes: int
    worker_cpus: int
    ray_cpus: int
    head_bytes: int = HEAD_BYTES
    head_cpus: int = HEAD_CPUS


def sizes(config: DeployConfig, options: Options) -> Sizes:
    """Raises InvalidRequest: nobody knows how much memory a shard needs, or the pods cannot be placed as asked."""
    most = max(config.shards, config.autoscale.max) if config.autoscale else config.shards
    each = options.shards_per_pod
    if config.ray.placement == "STRICT_SPREAD" and each > 1:
        raise InvalidRequest(
            f"ray.placement STRICT_SPREAD wants a pod for each shard, and --shards-per-pod is {each}: leave it at 1"
        )
    if config.ray.placement == "STRICT_PACK" and each < most:
        raise InvalidRequest(
            f"ray.placement STRICT_PACK wants all shards in one pod, and --shards-per-pod is {each}: say {most}, or "
            "let ray.placement be SPREAD"
        )
    shard = shard_bytes(config)
    ray_cpus = math.ceil(config.ray.num_cpus_per_shard * each)
    servers = most * (1 + config.replicas)
    # No pod holds a shard and its standby.
    pods = max(2, -(-servers // min(each, most))) if config.replicas else -(-most // each)
    worker = each * (shard + SHARD_PROCESS_BYTES) + OBJECT_STORE_BYTES + RAY_BYTES
    return Sizes(pods + options.spare, most, shard, _whole(worker), ray_cpus + RAY_CPUS, ray_cpus)


def shard_bytes(config: DeployConfig) -> int:
    """`ray.memory_per_shard`, or what its rows need with every id pushed, twice, since both copies exist as they move.

    Raises:
        InvalidRequest: an open-ended table, or none, of which nobody knows how big it will be.
    """
    if config.ray.memory_per_shard is not None:
        return config.ray.memory_per_shard
    fewest = min(config.shards, config.autoscale.min) if config.autoscale else config.shards
    needed = memory(config.model_copy(update={"shards": fewest}))
    unknown = [table.name for table in needed.tables if table.bound_bytes is None]
    if unknown or not needed.bound_bytes:
        why = f"table {unknown[0]!r} is open-ended" if unknown else "the config has no tables"
        raise InvalidRequest(
            f"ray.memory_per_shard must be given: {why}, so nobody knows how much memory a shard will need, and a pod "
            "that takes more than it asked for is killed with its rows; as 8GiB"
        )
    return _whole(math.ceil(MOVING * SLACK * needed.bound_bytes))


def quantity(size: int) -> str:
    """As Kubernetes writes bytes: `1536Mi`; plain where it is no whole MiB."""
    return f"{size // MIB}Mi" if size % MIB == 0 else str(size)


def _whole(size: int) -> int:
    """Rounded up to MiB."""
    return -(-size // MIB) * MIB
