"""What Kubernetes has to be told that no deploy config says."""

from __future__ import annotations

import importlib.metadata
import re
import sys
from dataclasses import dataclass

from ...proto.errors import InvalidRequest

_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_SIZE = re.compile(r"[1-9][0-9]*(Mi|Gi|Ti)")
_VERSION = re.compile(r"[0-9]+\.[0-9]+(\.[0-9]+)?")
OLDEST_KUBERAY = (1, 3)  # from which on gcsFaultToleranceOptions are known
# From which on Ray asks whoever connects for a token. KubeRay 1.5.0 does not know `authOptions`: its server drops the
# field in silence, and Ray asks nobody.
TOKENS_KUBERAY, TOKENS_RAY = (1, 5, 1), (2, 52)


@dataclass(frozen=True)
class Options:
    """How and where the pods run.

    Attributes:
        image: with a tag or a digest; empty: `rowloom:VERSION`.
        namespace: empty: the one that kubectl has.
        storage_class: of a volume that is made, for all pods to write at once; empty: none is made.
        storage_size: of that volume, as `100Gi`.
        claim: a PersistentVolumeClaim that is there already, in place of a volume that is made.
        service_account: of the pods; empty: the namespace's own, and its token is not mounted.
        spare: worker pods beside those that hold shards.
        shards_per_pod: how many shards share a pod.
        redis: host:port of a Redis that keeps what Ray's head knows; empty: it dies with the head.
        redis_secret: the Secret with its password, under `password`; empty: it has none.
        kuberay_version: the oldest operator that must take the manifests, as `1.5.1`; `1.5` is 1.5.0.
        ray_version: of the image; empty: the one that is installed here.
        scrape_config: also write a ScrapeConfig, which Prometheus' operator reads.

    Raises:
        InvalidRequest: one cannot be what it is meant to be.
    """

    image: str = ""
    namespace: str = ""
    storage_class: str = ""
    storage_size: str = "100Gi"
    claim: str = ""
    service_account: str = ""
    spare: int = 1
    shards_per_pod: int = 1
    redis: str = ""
    redis_secret: str = ""
    kuberay_version: str = "1.5.1"
    ray_version: str = ""
    scrape_config: bool = False

    def __post_init__(self) -> None:
        for name in ("namespace", "storage_class", "claim", "service_account", "redis_secret"):
            value = getattr(self, name)
            if value and not all(_LABEL.fullmatch(part) for part in value.split(".")):
                raise InvalidRequest(
                    f"{_option(name)} must be a name of Kubernetes, lower-case letters, digits and -, got {value!r}"
                )
        if not _SIZE.fullmatch(self.storage_size):
            raise InvalidRequest(f"--storage-size must be as 100Gi, 500Mi or 2Ti, got {self.storage_size!r}")
        if self.storage_class and self.claim:
            raise InvalidRequest(
                "--storage-class makes a volume, --claim takes one that is there: give one of them"
            )
        host, _, port = self.redis.rpartition(":")
        if self.redis and not (host and port.isdecimal()):
            raise InvalidRequest(f"--redis must be host:port, as redis:6379, got {self.redis!r}")
        if self.redis_secret and not self.redis:
            raise InvalidRequest("--redis-secret needs --redis: it holds the password of that Redis")
        if self.scrape_config and not self.namespace:
            raise InvalidRequest("--scrape-config needs --namespace: Prometheus may run in another one")
        self._check_image()
        for name in ("kuberay_version", "ray_version"):
            value = getattr(self, name)
            if value and not _VERSION.fullmatch(value):
                raise InvalidRequest(f"{_option(name)} must be a version such as 2.52.0, got {value!r}")
        if numbers(self.kuberay_version) < OLDEST_KUBERAY:
            raise InvalidRequest(f"--kuberay-version must be 1.3 or newer, got {self.kuberay_version}")

    def _check_image(self) -> None:
        """A tag that moves would put other code on a pod that is made anew than on those beside it."""
        name, _, digest = self.image.partition("@")
        tag = name.rpartition("/")[2].partition(":")[2]
        if self.image and not digest and tag in ("", "latest"):
            raise InvalidRequest(
                f"--image must have a tag that stays, or a digest, as registry.example.com/{default_image()}, got "
                f"{self.image!r}: a pod that is made anew would run other code than those beside it"
            )

    @property
    def image_here(self) -> str:
        """The image that pods run."""
        return self.image or default_image()

    @property
    def ray(self) -> str:
        """Ray's version in the image. Raises InvalidRequest: nobody said it, and none is installed here."""
        if self.ray_version:
            return self.ray_version
        try:
            return importlib.metadata.version("ray")
        except importlib.metadata.PackageNotFoundError:
            raise InvalidRequest(
                "Ray is not installed here, so its version in the image is not known: --ray-version"
            ) from None

    @property
    def tokens(self) -> bool:
        """Whether Ray's own ports ask for a token."""
        return numbers(self.kuberay_version) >= TOKENS_KUBERAY and numbers(self.ray) >= TOKENS_RAY


def numbers(version: str) -> tuple[int, ...]:
    """(2, 52, 0) of `2.52.0`."""
    return tuple(int(part) for part in version.split("."))


def own_version() -> str:
    """The version of rowloom."""
    return importlib.metadata.version("rowloom")


def python_here() -> str:
    """`py311`: of Ray's image, so that what is pickled here can be read there."""
    return f"py{sys.version_info.major}{sys.version_info.minor}"


def default_image() -> str:
    """What the image is called that the Dockerfile makes, where nobody said otherwise."""
    return f"rowloom:{own_version()}"


def _option(name: str) -> str:
    return "--" + name.replace("_", "-")
