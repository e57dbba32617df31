"""Whether a folder is one and the same on two machines, and a lock in it is seen by both.

Why it is so. A shard whose node is lost is started on another one, and reads its log there. In a folder that only one
node has it would find nothing, and a cluster that kept its rows would be no better than one that does not. And where
Ray takes a node for dead that only did not answer, the old server may still write: what keeps the new one from the log
meanwhile is the lock on its folder, so that has to hold across machines. Both are asked for when a server is started
the first time, because only then somebody can choose another folder.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Generator
from typing import NamedTuple

from ...proto.errors import Unavailable, in_words
from ...server.durable.disk import Disk
from ..storage import file_in


class Token(NamedTuple):
    """A file that one machine has written, and holds the lock of."""

    path: str
    text: str


@contextlib.contextmanager
def token_in(folder: str) -> Generator[Token]:
    """Write a token, for as long as others look for it. Raises Unavailable: the folder cannot be written."""
    disk = Disk()
    token = Token(os.path.join(folder, f"token-{secrets.token_hex(8)}"), secrets.token_hex(16))
    try:
        disk.make_folder(folder)
        handle = disk.lock(token.path, token.text)
    except OSError as e:
        file = file_in(folder)
        why = f"{file} is a file, and a folder is wanted" if file else in_words(e)
        raise Unavailable(f"logs cannot be kept in {folder}: {why}") from e
    try:
        yield token
    finally:
        with contextlib.suppress(OSError):
            os.unlink(token.path)
        disk.close(handle)


def check_token(token: Token, here: str) -> None:
    """That this machine sees a token and its lock. here: what it is called. Raises Unavailable: it does not."""
    folder = os.path.dirname(token.path)
    disk = Disk()
    try:
        with open(token.path, encoding="utf-8") as file:
            found = file.read()
    except OSError:
        found = ""
    if found != token.text:
        raise Unavailable(
            f"node {here} does not see what the coordinator has written in {folder}: with logs, `storage` is a folder "
            "that all nodes share, or all shards are on one node (ray.placement, ray.resources)"
        )
    try:
        handle = disk.lock(token.path, token.text)
    except BlockingIOError:
        return
    disk.close(handle)
    raise Unavailable(
        f"node {here} shares {folder} with the coordinator, but not its locks (flock): two servers could write one "
        "log. Mount it with locks that hold across machines"
    )
