"""Stores that fsspec reaches: the library that each needs, and in words, why a URL could not be opened."""

from __future__ import annotations

import importlib.util

import fsspec

LIBRARIES = {"s3": "s3fs", "s3a": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "abfs": "adlfs", "az": "adlfs"}
"""By protocol, what to tell pip; it is imported by the same name."""


def why_not_opened(url: str, error: Exception) -> str:
    """What fsspec's error at a URL means, and what mends it where that is known, in one line."""
    protocol, colon, _ = url.partition("://")
    if isinstance(error, ImportError):
        return f"{url!r} needs {_missing(protocol, error)}"
    if colon and protocol.partition("::")[0] not in fsspec.available_protocols():
        return (
            f"{url!r} cannot be used: it must be a path, or a URL such as file:///var/lib/rowloom or s3://bucket, and "
            f"{protocol}:// is no store that is known"
        )
    first = str(error).strip().partition("\n")[0]
    return f"{url!r} cannot be used: {type(error).__name__}: {first}"


def _missing(protocol: str, error: ImportError) -> str:
    library = LIBRARIES.get(protocol)
    if library is None:
        return f"a package that is not installed: {error}"
    if importlib.util.find_spec(library) is None:
        return f"{library}, which is not installed: pip install {library}"
    return f"{library}, which cannot be imported: {error.__cause__ or error}"
