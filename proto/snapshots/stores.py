"""Stores that fsspec reaches: the library that each needs, and in words, why a URL could not be opened."""

from __future__ import annotations

import importlib.util
import inspect
from typing import Any

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
    if isinstance(
        error, TypeError | ValueError | AttributeError
    ):  # in words of Python, about the library's code
        return f"{url!r} cannot be used: the library of {protocol or url}:// does not take this URL ({first})"
    return f"{url!r} cannot be used: {type(error).__name__}: {first}"


def lacking(url: str) -> str:
    """In words, what of a URL its store cannot do without, and it does not say; empty: nothing that is known here.

    Asked before the store is made: some that were made by half say so on stderr, with a traceback, when they go.
    """
    protocol, colon, _ = url.partition("://")
    if not colon or "::" in url:
        return ""
    try:
        store: Any = fsspec.get_filesystem_class(protocol)
        given = store._get_kwargs_from_urls(url)
        wanted = list(inspect.signature(store.__init__).parameters.values())[1:]
    except Exception:  # whoever opens it says why not
        return ""
    single = inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY
    needed = [one.name for one in wanted if one.kind in single and one.default is one.empty]
    left = [name for name in needed if given.get(name) in (None, "")]
    if not left:
        return ""
    way = f": {protocol}://HOST/FOLDER" if left == ["host"] else f", which {protocol}:// cannot do without"
    return f"{url!r} cannot be used: it says no {' and no '.join(left)}{way}"


def _missing(protocol: str, error: ImportError) -> str:
    library = LIBRARIES.get(protocol)
    if library is None:
        return f"a package that is not installed: {error}"
    if importlib.util.find_spec(library) is None:
        return f"{library}, which is not installed: pip install {library}"
    return f"{library}, which cannot be imported: {error.__cause__ or error}"
