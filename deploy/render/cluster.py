"""The `RayCluster`: a head that holds the coordinator, and a group of workers that hold the shards.

What is here follows from how rowloom uses Ray. The head takes no shard (`num-cpus: 0`), and the coordinator nothing but
the head (a resource of its own), so that a Service finds it. Shards go where theirs is, so trainers of the same Ray
never share a pod with them. Ray's autoscaler is off: it ends pods of its own choice, and with them the shards inside.
"""

from __future__ import annotations

import json
import math
from typing import Any

from ...proto.security.credentials import is_loopback
from ..config.config import DeployConfig
from .fitted import CONFIG_AT, RAY_PORTS, SECURITY_AT, STORAGE_AT, Fitted
from .options import Options
from .sizes import MIB, OBJECT_STORE_BYTES, Sizes, quantity

Manifest = dict[str, Any]
GROUP = "shards"
USER, USERS = 1000, 100  # `ray` in Ray's images
SHM_BYTES = 2 * OBJECT_STORE_BYTES
GRACE_S = 30  # that Kubernetes gives by itself
LOG_BYTES = 4096 * MIB  # of Ray, for each pod
TRAINER_PORT, METRICS_PORT = "rowloom", "rowloom-metrics"  # names have at most 15 characters


def ray_cluster(fitted: Fitted, options: Options, sizes: Sizes) -> Manifest:
    """The manifest."""
    config = fitted.config
    spec: Manifest = {"rayVersion": options.ray, "enableInTreeAutoscaling": False}
    if options.tokens:
        spec["authOptions"] = {"mode": "token"}
    if options.redis:
        spec["gcsFaultToleranceOptions"] = _redis(options)
    spec["headGroupSpec"] = {
        "serviceType": "ClusterIP",
        "rayStartParams": {
            "dashboard-host": "0.0.0.0",
            "num-cpus": "0",
            "object-store-memory": str(OBJECT_STORE_BYTES),
            "resources": _resources(config.ray.coordinator_resources),
        },
        "template": _pod(fitted, options, "ray-head", sizes.head_cpus, sizes.head_bytes),
    }
    spec["workerGroupSpecs"] = [_workers(fitted, options, sizes)]
    return {
        "apiVersion": "ray.io/v1",
        "kind": "RayCluster",
        "metadata": metadata(config.name, options),
        "spec": spec,
    }


def metadata(name: str, options: Options, cluster: str = "") -> Manifest:
    """Name, namespace and labels. cluster: whose it is, where its name is another."""
    labels = {"app.kubernetes.io/name": "rowloom", "app.kubernetes.io/instance": cluster or name}
    namespace = {"namespace": options.namespace} if options.namespace else {}
    return {"name": name, **namespace, "labels": labels}


def selector(cluster: str, kind: str) -> Manifest:
    """Labels that KubeRay gives the pods of a cluster. kind: `head` or `worker`."""
    return {"ray.io/cluster": cluster, "ray.io/node-type": kind}


def offers_metrics(config: DeployConfig) -> bool:
    """Whether a Prometheus outside of the pods can read metrics."""
    return bool(config.metrics.port) and not is_loopback(config.metrics.host)


def secret_name(cluster: str) -> str:
    """Of the Secret with the files of `security`."""
    return f"{cluster}-security"


def claim_name(cluster: str, options: Options) -> str:
    """Of the volume that all pods write to."""
    return options.claim or f"{cluster}-storage"


def security_context() -> Manifest:
    """Of every container."""
    return {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}


def pod_security() -> Manifest:
    """Of every pod. Its group may read the Secret's files, which are root's."""
    return {
        "runAsNonRoot": True,
        "runAsUser": USER,
        "runAsGroup": USERS,
        "fsGroup": USERS,
        "fsGroupChangePolicy": "OnRootMismatch",
        "seccompProfile": {"type": "RuntimeDefault"},
    }


def _workers(fitted: Fitted, options: Options, sizes: Sizes) -> Manifest:
    config, each = fitted.config, options.shards_per_pod
    pod = _pod(fitted, options, "ray-worker", sizes.worker_cpus, sizes.worker_bytes)
    spread = "DoNotSchedule" if config.ray.placement == "STRICT_SPREAD" else "ScheduleAnyway"
    pod["spec"]["topologySpreadConstraints"] = [
        {
            "maxSkew": 1,
            "topologyKey": "kubernetes.io/hostname",
            "whenUnsatisfiable": spread,
            "labelSelector": {"matchLabels": selector(config.name, "worker") | {"ray.io/group": GROUP}},
        }
    ]
    offered = {name: amount * each for name, amount in config.ray.resources.items()}
    return {
        "groupName": GROUP,
        "replicas": sizes.workers,
        "minReplicas": sizes.workers,
        "maxReplicas": sizes.workers,
        "rayStartParams": {
            "memory": str(sizes.shard_bytes * each),
            "num-cpus": str(sizes.ray_cpus),
            "object-store-memory": str(OBJECT_STORE_BYTES),
            "resources": _resources(offered),
        },
        "template": pod,
    }


def _pod(fitted: Fitted, options: Options, name: str, cpus: int, size: int) -> Manifest:
    config = fitted.config
    amounts = {"cpu": str(cpus), "memory": quantity(size)}
    volumes, mounts = _volumes(fitted, options)
    container: Manifest = {
        "name": name,
        "image": options.image_here,
        "imagePullPolicy": "IfNotPresent",
        "env": _environment(name == "ray-head", options),
        "resources": {"requests": amounts, "limits": dict(amounts)},
        "securityContext": security_context(),
        "volumeMounts": mounts,
    }
    if name == "ray-head":
        container["ports"] = _ports(config)
    spec: Manifest = {
        "terminationGracePeriodSeconds": max(GRACE_S, math.ceil(config.limits.stop_grace_s) + 15),
        "automountServiceAccountToken": False,
        "securityContext": pod_security(),
        "containers": [container],
        "volumes": volumes,
    }
    if options.service_account:
        spec["serviceAccountName"] = options.service_account
    return {"spec": spec}  # labels are KubeRay's, by which its services find pods


def _ports(config: DeployConfig) -> list[Manifest]:
    """Of the head: those that a RayCluster has by itself are named again, or its service would lack them."""
    ports = {**RAY_PORTS, TRAINER_PORT: config.port}
    if offers_metrics(config):
        ports[METRICS_PORT] = int(config.metrics.port or 0)
    return [{"name": name, "containerPort": port} for name, port in ports.items()]


def _environment(head: bool, options: Options) -> list[Manifest]:
    """The head waits longer before a busy node is dead for it; on workers, Ray kills no shard for its memory."""
    named = {"RAY_health_check_failure_threshold": "20"} if head else {"RAY_memory_monitor_refresh_ms": "0"}
    if options.redis and not head:
        named["RAY_gcs_rpc_server_reconnect_timeout_s"] = "600"
    return [{"name": name, "value": value} for name, value in named.items()]


def _volumes(fitted: Fitted, options: Options) -> tuple[list[Manifest], list[Manifest]]:
    """What a pod has, and where."""
    config = fitted.config
    found: list[tuple[Manifest, str, bool]] = [
        (
            {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": quantity(SHM_BYTES)}},
            "/dev/shm",
            False,
        ),
        ({"name": "ray", "emptyDir": {"sizeLimit": quantity(LOG_BYTES)}}, "/tmp/ray", False),
        ({"name": "config", "configMap": {"name": f"{config.name}-config"}}, CONFIG_AT, True),
    ]
    if fitted.files:
        secret = {"secretName": secret_name(config.name), "defaultMode": 0o440}
        found.append(({"name": "security", "secret": secret}, SECURITY_AT, True))
    if config.storage == f"{STORAGE_AT}/{config.name}":
        claim = {"claimName": claim_name(config.name, options)}
        found.append(({"name": "storage", "persistentVolumeClaim": claim}, STORAGE_AT, False))
    mounts = [
        {"name": volume["name"], "mountPath": path} | ({"readOnly": True} if read_only else {})
        for volume, path, read_only in found
    ]
    return [volume for volume, _, _ in found], mounts


def _redis(options: Options) -> Manifest:
    secret = {"secretKeyRef": {"name": options.redis_secret, "key": "password"}}
    password = {"redisPassword": {"valueFrom": secret}} if options.redis_secret else {}
    return {"redisAddress": options.redis, **password}


def _resources(amounts: dict[str, float]) -> str:
    """As KubeRay wants them for the shell in which it types `ray start`: JSON in quotes, its own quotes escaped."""
    return json.dumps(json.dumps(amounts, sort_keys=True))
