"""Which processes of a cluster offer metrics, as Prometheus discovers them: file_sd_configs, http_sd_configs."""

from __future__ import annotations

from typing import Any

from ...proto import rowloom_pb2 as pb


def targets(status: pb.StatusReply) -> list[dict[str, Any]]:
    """The coordinator and every shard that answers, each with its labels. Empty: metrics are off."""
    found: list[dict[str, Any]] = []
    if status.metrics_address:
        labels = {"cluster": status.name, "role": "coordinator"}
        found.append({"targets": [status.metrics_address], "labels": labels})
    for shard in status.shards:
        if shard.statistics.metrics_address:
            labels = {
                "cluster": status.name,
                "role": "shard",
                "shard": str(shard.shard.index),
                "node": shard.node,
            }
            found.append({"targets": [shard.statistics.metrics_address], "labels": labels})
    return found
