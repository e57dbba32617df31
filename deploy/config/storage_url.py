"""What a URL of the config is: a folder of the machine, no place at all for a command, or one with a password in it."""

from __future__ import annotations

import re

_OF_ONE_PROCESS = re.compile(r"(^|=|::)memory://")
# As user:password@, and not as host:port/a@b: keys of S3 may have a / in them.
_PASSWORD = re.compile(r"(://[^/@:]*):(?![0-9]+/)[^@]+@")
ELSEWHERE = "a folder, or a URL such as s3://bucket/folder, stays"


def storage_folder(storage: str | None) -> str | None:
    """The folder that a storage is, by path or `file://` URL; None: it is another URL, or there is none."""
    if not storage or ("://" in storage and not storage.startswith("file://")):
        return None
    return storage.removeprefix("file://")


def dies_with_its_process(url: str | None) -> bool:
    """Whether a URL, or an option with one, means memory of whatever process opens it: `memory://` of fsspec."""
    return bool(url and _OF_ONE_PROCESS.search(url))


def masked(url: str | None) -> str:
    """A URL as it may be shown."""
    return _PASSWORD.sub(r"\1:...@", url or "")


def holds_password(url: str | None) -> bool:
    """Whether a URL has one in it, which all who see the config would know."""
    return bool(url and _PASSWORD.search(url))
