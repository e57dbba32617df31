"""A config as an argument of an actor, small enough that Ray keeps it for as long as the actor may be started again.

Arguments of more than 100 KB go to Ray's object store, and are lost with the program that gave them, or its node: the
actor can then not be started again.
"""

from __future__ import annotations

import zlib

from ...proto.errors import InvalidRequest
from ..config.config import DeployConfig, from_json

MOST_BYTES = 90_000  # of one argument; all of an actor are below 100 KB then


def packed(config: DeployConfig) -> bytes:
    """A config as bytes. Raises InvalidRequest: it has too many tables."""
    data = zlib.compress(config.to_json().encode())
    if len(data) > MOST_BYTES:
        raise InvalidRequest(
            f"a config of {len(config.tables)} tables is too large for Ray, which keeps {MOST_BYTES} bytes of it, and "
            f"it is {len(data)} when packed: leave some tables out, and let `create_table` make them"
        )
    return data


def packed_for_shard(config: DeployConfig) -> bytes:
    """The same without what only a coordinator needs: shards are told of their tables when they take their place."""
    return packed(config.model_copy(update={"tables": ()}))


def unpacked(data: bytes | str) -> DeployConfig:
    """Back from `packed`; also JSON, which earlier versions gave."""
    return from_json(data if isinstance(data, str) else zlib.decompress(data).decode())
