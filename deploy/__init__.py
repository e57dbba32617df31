"""Putting shards and trainers together: clusters on this machine, clusters on Ray, the deploy config."""

from .config import DeployConfig, load
from .local_cluster import LocalCluster, local_cluster
from .ray_launcher import address_of

__all__ = ["DeployConfig", "LocalCluster", "address_of", "load", "local_cluster"]
