"""The deploy config: what a cluster is to be. Pure."""
