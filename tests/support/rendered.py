"""Configs and options for Kubernetes, and what is rendered of them."""

from pathlib import Path
from typing import Any

from rowloom.deploy.config.config import DeployConfig, parse
from rowloom.deploy.render.files import Rendered, render
from rowloom.deploy.render.options import Options

CRDS = Path(__file__).parent / "ray_crds.yaml"
MIB = 2**20
SECURITY = {
    "ca": "/s/ca.pem",
    "cert": "/s/server.pem",
    "key": "/s/server.key",
    "server_name": "ads.internal",
    "tokens": "/s/tokens.yaml",
    "token": "/s/cluster.token",
}
RAY = "2.60.0"  # so that none need be installed


def config_of(**changes: Any) -> DeployConfig:
    base = {
        "name": "ads",
        "shards": 2,
        "launcher": "ray",
        "security": {"insecure": True},
        "tables": [{"name": "users", "num_embeddings": 2_000_000, "dim": 64}],
    }
    return parse(base | changes)


def rendered(options: dict[str, Any] | None = None, **changes: Any) -> Rendered:
    return render(config_of(**changes), Options(**{"ray_version": RAY, **(options or {})}))


EVERYTHING: tuple[dict[str, Any], ...] = (
    {},
    {"security": SECURITY | {"mutual": True, "client_ca": "/s/clients.pem"}},
    {
        "options": {
            "storage_class": "nfs",
            "namespace": "ml",
            "image": "registry.example.com/rowloom:1",
            "service_account": "ads",
            "redis": "redis:6379",
            "redis_secret": "redis",
            "scrape_config": True,
            "shards_per_pod": 2,
        },
        "storage": "/var/lib/rowloom",
        "durability": "process",
        "autoscale": {"max": 8, "target_bytes_per_shard": "4GiB"},
        "metrics": {"port": 9400, "host": "0.0.0.0"},
        "limits": {"stop_grace_s": 120},
    },
    {
        "options": {"scrape_config": True, "namespace": "ml"},
        "metrics": {"port": 9400, "host": "0.0.0.0"},
        "security": SECURITY | {"mutual": True},
    },
    {"options": {"claim": "shared", "kuberay_version": "1.3", "spare": 0}, "storage": "/data", "shards": 1},
    {"storage": "s3://bucket/ads", "ray": {"memory_per_shard": "8GiB", "resources": {"ps": 1}}},
)
"""What differs the most."""


def worker(made: Rendered) -> dict[str, Any]:
    return cluster(made)["workerGroupSpecs"][0]


def head(made: Rendered) -> dict[str, Any]:
    return cluster(made)["headGroupSpec"]


def cluster(made: Rendered) -> dict[str, Any]:
    return made.manifests["cluster.yaml"][0]["spec"]


def container(group: dict[str, Any]) -> dict[str, Any]:
    return group["template"]["spec"]["containers"][0]
