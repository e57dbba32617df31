"""Bytes in, bytes out: how requests reach a shard server."""
