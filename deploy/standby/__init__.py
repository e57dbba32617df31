"""Standbys of shards, from the side of the coordinator."""
