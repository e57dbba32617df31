"""Whether a storage is a folder of the machine, and which."""

from __future__ import annotations


def storage_folder(storage: str | None) -> str | None:
    """The folder that a storage is, by path or `file://` URL; None: it is another URL, or there is none."""
    if not storage or ("://" in storage and not storage.startswith("file://")):
        return None
    return storage.removeprefix("file://")
