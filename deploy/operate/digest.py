"""A hash of everything a cluster has learned, the same for any number of shards."""

from __future__ import annotations

import hashlib

import numpy as np

from ...proto.security.credentials import NOTHING, Credentials
from .reader import Reader


def digest(address: str, credentials: Credentials = NOTHING) -> str:
    """A hash of all rows and slots of all tables that does not depend on how they are spread over shards.

    Each row is hashed with its table, id and slots; the hashes are added up, so order does not matter either.
    credentials: what the servers are shown.
    """
    total = 0
    with Reader(address, credentials) as reader:
        for name, entry in sorted(reader.tables.items()):
            for shard in reader.layout.shards:
                for ids, values, slots in reader.blocks(entry, shard):
                    rows = np.concatenate([values, *slots], axis=1)
                    for row_id, row in zip(ids.tolist(), rows, strict=True):
                        key = f"{name}/{row_id}/".encode()
                        total += int.from_bytes(
                            hashlib.blake2b(key + row.tobytes(), digest_size=16).digest(), "little"
                        )
    return f"{total % 2**128:032x}"
