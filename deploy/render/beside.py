"""What stands beside the `RayCluster`: config, the job that starts the cluster, its address, volume and budgets."""

from __future__ import annotations

from typing import Any

import yaml

from ..config.config import DeployConfig
from .cluster import (
    METRICS_PORT,
    TRAINER_PORT,
    Manifest,
    claim_name,
    metadata,
    offers_metrics,
    pod_security,
    secret_name,
    security_context,
    selector,
)
from .fitted import CONFIG_AT, FILES, Fitted, written
from .options import Options
from .sizes import Sizes

FILE, SCRIPT = "deploy.yaml", "up.sh"
_UP = f"""\
# Starts the cluster, or applies what has changed. $1: the hash of the config, in its first line. A ConfigMap that was
# changed comes into pods up to a minute later.
until grep -qx "# $1" {CONFIG_AT}/{FILE}; do sleep 2; done
rowloom up {CONFIG_AT}/{FILE} || {{ rowloom status > /dev/null && rowloom apply {CONFIG_AT}/{FILE}; }}
"""


def config_map(fitted: Fitted, options: Options) -> Manifest:
    """The deploy config, with its hash in its first line, and the script of the job, which is always the same."""
    config = fitted.config
    text = f"# {config.hash}\n" + yaml.safe_dump(written(config), sort_keys=False, width=120)
    name = f"{config.name}-config"
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": metadata(name, options, config.name),
        "data": {FILE: text, SCRIPT: _UP},
    }


def up_job(fitted: Fitted, options: Options) -> Manifest:
    """Starts the cluster, or applies what has changed, on the head. With another config it is another job."""
    config = fitted.config
    submitter = {
        "name": "ray-job-submitter",
        "image": options.image_here,
        "imagePullPolicy": "IfNotPresent",
        "resources": {
            "requests": {"cpu": "500m", "memory": "512Mi"},
            "limits": {"cpu": "1", "memory": "1024Mi"},
        },
        "securityContext": security_context(),
    }
    pod = {
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "securityContext": pod_security(),
        "containers": [submitter],
    }
    return {
        "apiVersion": "ray.io/v1",
        "kind": "RayJob",
        "metadata": metadata(job_name(config), options, config.name),
        "spec": {
            "clusterSelector": {"ray.io/cluster": config.name},
            "entrypoint": f"bash {CONFIG_AT}/{SCRIPT} {config.hash}",
            "submissionMode": "K8sJobMode",
            "submitterConfig": {"backoffLimit": 2},
            "submitterPodTemplate": {"spec": pod},
        },
    }


def job_name(config: DeployConfig) -> str:
    """Another one for each config, so that a changed config is another job."""
    return f"{config.name[:30].rstrip('-')}-up-{config.hash}"


def service(config: DeployConfig, options: Options) -> Manifest:
    """What trainers dial, and Prometheus. It has the coordinator only; shards are dialled by their own addresses."""
    ports = [{"name": TRAINER_PORT, "port": config.port, "targetPort": TRAINER_PORT}]
    if offers_metrics(config):
        ports.append(
            {"name": METRICS_PORT, "port": int(config.metrics.port or 0), "targetPort": METRICS_PORT}
        )
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": metadata(config.name, options),
        "spec": {"type": "ClusterIP", "selector": selector(config.name, "head"), "ports": ports},
    }


def budgets(config: DeployConfig, options: Options, sizes: Sizes) -> list[Manifest]:
    """How many pods an eviction must leave.

    They say `minAvailable`: of pods that are made by something without a `scale`, as a RayCluster is, Kubernetes can
    count no other budget. Without logs nothing is evicted at all, since each shard takes its rows with it.
    """
    found: list[Manifest] = []
    least = sizes.workers if config.durability == "memory" else sizes.workers - 1
    for kind, count in (("worker", least), ("head", 0 if options.redis else 1)):
        if count:
            found.append(
                {
                    "apiVersion": "policy/v1",
                    "kind": "PodDisruptionBudget",
                    "metadata": metadata(f"{config.name}-{kind}", options, config.name),
                    "spec": {"minAvailable": count, "selector": {"matchLabels": selector(config.name, kind)}},
                }
            )
    return found


def volume(config: DeployConfig, options: Options) -> Manifest:
    """The volume that all pods write to."""
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": metadata(claim_name(config.name, options), options, config.name),
        "spec": {
            "accessModes": ["ReadWriteMany"],
            "storageClassName": options.storage_class,
            "resources": {"requests": {"storage": options.storage_size}},
        },
    }


def scrape_config(config: DeployConfig, options: Options) -> Manifest:
    """For Prometheus' operator: the coordinator says where every process offers its metrics."""
    security = config.security
    scheme = "https" if security.cert else "http"
    url = f"{scheme}://{config.name}.{options.namespace}.svc:{config.metrics.port}/targets"
    shown = _shown_by_prometheus(config)
    spec: dict[str, Any] = {"httpSDConfigs": [{"url": url, **shown}], "scrapeInterval": "15s", **shown}
    if security.cert:
        spec["scheme"] = "HTTPS"
    return {
        "apiVersion": "monitoring.coreos.com/v1alpha1",
        "kind": "ScrapeConfig",
        "metadata": metadata(config.name, options),
        "spec": spec,
    }


def _shown_by_prometheus(config: DeployConfig) -> Manifest:
    """Whom it trusts, and what it shows: of Secrets, as no file of a pod is there."""
    security, name = config.security, config.name
    found: Manifest = {}
    if security.cert:
        tls: Manifest = {"ca": {"secret": {"name": secret_name(name), "key": FILES["ca"]}}}
        if security.server_name:
            tls["serverName"] = security.server_name
        if security.mutual:
            tls["cert"] = {"secret": {"name": reader_secret(name), "key": "client.pem"}}
            tls["keySecret"] = {"name": reader_secret(name), "key": "client.key"}
        found["tlsConfig"] = tls
    if security.tokens:
        credentials = {"name": reader_secret(name), "key": "token"}
        found["authorization"] = {"type": "Bearer", "credentials": credentials}
    return found


def reader_secret(cluster: str) -> str:
    """Of the Secret with what Prometheus shows: a token of its own, which may only look."""
    return f"{cluster}-metrics"


def secret_of_reader(config: DeployConfig, options: Options) -> str:
    """The command that makes it; empty: none is needed."""
    security = config.security
    own = ["client.pem", "client.key"] if security.mutual else []
    files = [f"--from-file={name}={name}" for name in own]
    files += ["--from-file=token=prometheus.token"] if security.tokens else []
    if not files or not options.scrape_config:
        return ""
    named = f"{reader_secret(config.name)} --namespace {options.namespace}"
    return f"kubectl create secret generic {named} {' '.join(files)}"
