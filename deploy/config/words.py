"""How messages count."""

from __future__ import annotations


def counted(n: int, noun: str) -> str:
    """`1 shard`, `2 shards`."""
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"
