"""Which processes of a cluster offer metrics, as Prometheus discovers them: file_sd_configs, http_sd_configs."""

from __future__ import annotations

import json
from typing import Any

from ...proto import rowloom_pb2 as pb


def scheme_of(status: pb.StatusReply) -> str:
    """`https` of a cluster whose ports speak TLS, else `http`."""
    # Not as a config: one of another version may have keys that are not known here.
    config: dict[str, Any] = json.loads(status.config or "{}")
    return "https" if (config.get("security") or {}).get("cert") else "http"


def targets(status: pb.StatusReply) -> list[dict[str, Any]]:
    """The coordinator and every shard that answers, each with its labels. Empty: metrics are off."""
    found: list[dict[str, Any]] = []
    scheme = scheme_of(status)
    tls = {"__scheme__": scheme} if scheme != "http" else {}
    if status.metrics_address:
        labels = {"cluster": status.name, "role": "coordinator", **tls}
        found.append({"targets": [status.metrics_address], "labels": labels})
    for shard in status.shards:
        if shard.statistics.metrics_address:
            labels = {
                "cluster": status.name,
                "role": "shard",
                "shard": str(shard.shard.index),
                "node": shard.node,
                **tls,
            }
            found.append({"targets": [shard.statistics.metrics_address], "labels": labels})
    return found
