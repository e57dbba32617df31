"""Whether a storage is a folder of the machine, and which; and which URLs are no place at all for a command."""

from __future__ import annotations

import re

_OF_ONE_PROCESS = re.compile(r"(^|=|::)memory://")
ELSEWHERE = "a folder, or a URL such as s3://bucket/folder, stays"


def storage_folder(storage: str | None) -> str | None:
    """The folder that a storage is, by path or `file://` URL; None: it is another URL, or there is none."""
    if not storage or ("://" in storage and not storage.startswith("file://")):
        return None
    return storage.removeprefix("file://")


def dies_with_its_process(url: str | None) -> bool:
    """Whether a URL, or an option with one, means memory of whatever process opens it: `memory://` of fsspec."""
    return bool(url and _OF_ONE_PROCESS.search(url))
