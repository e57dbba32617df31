"""Putting shards and trainers together: clusters on this machine, clusters on Ray, the deploy config."""

from .config import DeployConfig, load
from .local_cluster import LocalCluster, local_cluster

__all__ = ["DeployConfig", "LocalCluster", "load", "local_cluster"]
