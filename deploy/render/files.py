"""All files of a rendered cluster, and how they come into a folder where earlier ones may be."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import yaml

from ...proto.atomic_file import write_atomic
from ...proto.errors import InvalidRequest
from ..config.config import DeployConfig
from ..config.memory import in_bytes
from ..config.words import counted
from .beside import (
    budgets,
    config_map,
    job_name,
    scrape_config,
    secret_of_reader,
    service,
    up_job,
    volume,
)
from .cluster import GROUP, Manifest, offers_metrics, ray_cluster, secret_name
from .fitted import Fitted, check_fits, fitted
from .image import constraints, dockerfile
from .options import Options
from .sizes import Sizes, sizes

CLUSTER_FILE = "cluster.yaml"
_HEAD = "# Written by `rowloom render k8s`; it writes it anew, so change deploy.yaml, not this.\n"


@dataclass(frozen=True)
class Rendered:
    """What a config is on Kubernetes.

    Attributes:
        manifests: by the name of their file.
        files: text by name: manifests, Dockerfile, constraints.
        fitted: the config of the pods.
        sizes: of the pods.
        notes: in words, what its owner should know.
        secret: the command that makes the Secret; empty: none is needed.
    """

    manifests: dict[str, list[Manifest]]
    files: dict[str, str]
    fitted: Fitted
    sizes: Sizes
    notes: tuple[str, ...]
    secret: str


def render(config: DeployConfig, options: Options) -> Rendered:
    """The files of a config. Equal configs and options give equal files.

    Raises:
        InvalidConfig: such a cluster cannot be on Kubernetes; every fault is named.
        InvalidRequest: an option does not go with the config.
    """
    check_fits(config, options)
    size = sizes(config, options)
    inside = fitted(config, options, size)
    manifests = {
        "config.yaml": [config_map(inside, options)],
        CLUSTER_FILE: [ray_cluster(inside, options, size)],
        "service.yaml": [service(inside.config, options)],
        "up.yaml": [up_job(inside, options)],
    }
    if found := budgets(inside.config, options, size):
        manifests["budgets.yaml"] = found
    if options.storage_class:
        manifests["volume.yaml"] = [volume(inside.config, options)]
    if options.scrape_config:
        manifests["scrape.yaml"] = [scrape_config(inside.config, options)]
    files = {
        name: _HEAD + yaml.dump_all(found, Dumper=_Plain, sort_keys=False, width=120)
        for name, found in manifests.items()
    }
    files |= {"Dockerfile": dockerfile(options, inside.config.storage), "constraints.txt": constraints()}
    return Rendered(manifests, files, inside, size, tuple(_notes(config, options)), _secret(inside, options))


def write(rendered: Rendered, folder: Path, *, fewer: bool = False) -> list[Path]:
    """Write the files; those of an earlier time that are none any more are removed.

    Args:
        rendered: what to write.
        folder: made if it is not there.
        fewer: there may be fewer workers than the files in the folder say.

    Returns:
        The paths.

    Raises:
        InvalidRequest: there would be fewer workers; nothing was written.
    """
    before = _workers_in(folder / CLUSTER_FILE)
    if before > rendered.sizes.workers and not fewer:
        raise InvalidRequest(
            f"{folder / CLUSTER_FILE} has {counted(before, 'worker pod')}, this config takes {rendered.sizes.workers}: "
            "KubeRay would end pods of its own choice, and the shards inside. First `rowloom scale` in the head's pod, "
            "then name the pods without a shard in `scaleStrategy.workersToDelete`; when that is done, --fewer"
        )
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("budgets.yaml", "volume.yaml", "scrape.yaml"):
        if name not in rendered.files:
            (folder / name).unlink(missing_ok=True)
    for name, text in rendered.files.items():
        write_atomic(folder / name, text)
    return [folder / name for name in rendered.files]


def _workers_in(path: Path) -> int:
    """How many workers an earlier file has; 0: there is none, or it is not ours to read."""
    try:
        found: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
        groups = found["spec"]["workerGroupSpecs"]
        return sum(int(group["replicas"]) for group in groups if group["groupName"] == GROUP)
    except (OSError, yaml.YAMLError, KeyError, TypeError, ValueError):
        return 0


def _secret(inside: Fitted, options: Options) -> str:
    if not inside.files:
        return ""
    files = " ".join(f"--from-file={name}={path}" for name, path in inside.files.items())
    return f"kubectl create secret generic {secret_name(inside.config.name)}{_namespace(options)} {files}"


def _namespace(options: Options) -> str:
    return f" --namespace {options.namespace}" if options.namespace else ""


def _notes(config: DeployConfig, options: Options) -> list[str]:
    """What will happen one day that is not wanted, and what keeps it away."""
    notes: list[str] = []
    if "/" not in options.image_here:
        notes.append(
            f"image {options.image_here} names no registry that nodes could take it from: --image, as "
            f"registry.example.com/{options.image_here}; or bring it to each node, as `kind load docker-image` does"
        )
    if config.durability == "memory":
        notes.append(
            "durability is memory: "
            + (
                "rows are lost where the pods of a shard and of its standby end together"
                if config.replicas
                else "a pod that ends takes the rows of its shards with it"
            )
            + ", so the budgets let none be evicted, and draining a node waits for you; `durability: process` and a "
            "volume change that"
        )
    if not options.redis:
        notes.append(
            "without --redis the end of the head's pod ends all of this Ray, shards included: "
            + (
                "all rows are lost"
                if config.durability == "memory"
                else "`rowloom up` then goes on from the logs"
            )
        )
    if not options.tokens:
        notes.append(
            f"KubeRay {options.kuberay_version} with Ray {options.ray} asks nobody for a token, and Ray runs code for "
            "whoever reaches its ports: keep them to these pods by a NetworkPolicy; tokens need KubeRay 1.5.1, Ray 2.52"
        )
    if config.metrics.port and not offers_metrics(config):
        notes.append(f"metrics are read within each pod only: metrics.host is {config.metrics.host}")
    elif config.metrics.port and not options.scrape_config:
        scheme = "https" if config.security.cert else "http"
        place = f"{scheme}://{config.name}:{config.metrics.port}/targets"
        notes.append(f"metrics: Prometheus finds all processes at {place}")
    if secret := secret_of_reader(config, options):
        notes.append(
            "Prometheus shows what is in a Secret of its own, where scrape.yaml looks: `rowloom secure token "
            f"prometheus --allow none --dir FOLDER`, then in that folder `{secret}`"
        )
    if config.autoscale is None and options.spare == 0:
        notes.append("without a spare pod `rowloom scale` to more shards waits until there are more pods")
    return notes


def summary(rendered: Rendered, options: Options, paths: list[Path]) -> dict[str, Any]:
    """For programs."""
    config, size = rendered.fitted.config, rendered.sizes
    return {
        "name": config.name,
        "files": [str(path) for path in paths],
        "image": options.image_here,
        "address": f"{config.name}{'.' + options.namespace + '.svc' if options.namespace else ''}:{config.port}",
        "workers": size.workers,
        "worker": {"cpus": size.worker_cpus, "bytes": size.worker_bytes},
        "head": {"cpus": size.head_cpus, "bytes": size.head_bytes},
        "shard_bytes": size.shard_bytes,
        "config_hash": config.hash,
        "changed": list(rendered.fitted.changed),
        "notes": list(rendered.notes),
        "secret": rendered.secret,
    }


def told(rendered: Rendered, options: Options, folder: Path) -> str:
    """For people: what was written, and what to type next."""
    size, config = rendered.sizes, rendered.fitted.config
    worker = f"{size.worker_cpus} CPUs and {in_bytes(size.worker_bytes)}"
    lines = [
        f"{folder}: {', '.join(rendered.files)}",
        f"head: {size.head_cpus} CPUs and {in_bytes(size.head_bytes)}; "
        f"{counted(size.workers, 'worker pod')} of {worker} each, {in_bytes(size.shard_bytes)} of it a shard's",
        *(f"in the pods, {change}" for change in rendered.fitted.changed),
        *(f"note: {note}" for note in rendered.notes),
        "",
        f"pip wheel --no-deps --wheel-dir {folder} .    # in a copy of rowloom's sources",
        f"docker build -t {options.image_here} {folder}",
        *([f"docker push {options.image_here}"] if "/" in options.image_here else []),
        *([rendered.secret] if rendered.secret else []),
        f"kubectl apply -f {folder}",
        f"kubectl wait{_namespace(options)} --timeout=15m --for=jsonpath='{{.status.jobStatus}}'=SUCCEEDED "
        f"rayjob/{job_name(config)}",
        f'trainers: connect("{summary(rendered, options, [])["address"]}"{_shown(config)})',
    ]
    return "\n".join(lines)


def _shown(config: DeployConfig) -> str:
    security = config.security
    tls = f', ca="ca.pem", server_name="{security.server_name}"' if security.cert else ""
    return (
        tls
        + (", cert=..., key=..." if security.mutual else "")
        + (", token_file=..." if security.tokens else "")
    )


class _Plain(yaml.SafeDumper):
    """Several lines as a block; nothing is written as a reference to what stood before."""

    def ignore_aliases(self, data: Any) -> bool:
        """All of it is written out."""
        return True


def _text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
    style = "|" if "\n" in value else None
    return cast(Any, dumper).represent_scalar("tag:yaml.org,2002:str", value, style=style)


_Plain.add_representer(str, _text)
