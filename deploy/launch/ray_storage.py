"""A cluster's layout kept by Ray itself, as files of fsspec: `rowloom-ray://NAME/layout.json`.

It lives as long as the actors do and is there on every node, so a coordinator that Ray restarts elsewhere finds it.
"""

# fsspec has no types, and Ray's key-value store no public names.
# pyright: reportUnknownArgumentType=false, reportPrivateUsage=false, reportUnnecessaryComparison=false

from __future__ import annotations

import io
from typing import Any

import fsspec
from fsspec.spec import AbstractFileSystem

PROTOCOL = "rowloom-ray"
_NAMESPACE = b"rowloom"


def storage_of(name: str) -> str:
    """The URL under which a cluster's layout is kept; afterwards fsspec knows its protocol."""
    fsspec.register_implementation(PROTOCOL, RayFiles, clobber=True)
    return f"{PROTOCOL}://{name}"


class RayFiles(AbstractFileSystem):
    """Whole small files in the key-value store of the Ray that this process is attached to."""

    protocol = PROTOCOL
    cachable = False

    def _open(self, path: str, mode: str = "rb", *args: Any, **options: Any) -> Any:
        if mode == "wb":
            return _Written(path)
        return io.BytesIO(_read(path))

    def info(self, path: str, **options: Any) -> dict[str, Any]:
        """As fsspec wants it. Raises FileNotFoundError."""
        path = str(self._strip_protocol(path))
        return {"name": path, "size": len(_read(path)), "type": "file"}

    def rm_file(self, path: str) -> None:
        """Remove one."""
        from ray.experimental.internal_kv import _internal_kv_del

        _internal_kv_del(str(self._strip_protocol(path)).encode(), namespace=_NAMESPACE)

    def rm(self, path: str, recursive: bool = False, maxdepth: int | None = None) -> None:
        """Remove one."""
        self.rm_file(path)


class _Written(io.BytesIO):
    """Put into the store when it is closed."""

    def __init__(self, path: str) -> None:
        super().__init__()
        self._path = path

    def close(self) -> None:
        from ray.experimental.internal_kv import _internal_kv_put

        if not self.closed:
            _internal_kv_put(self._path.encode(), self.getvalue(), overwrite=True, namespace=_NAMESPACE)
        super().close()


def _read(path: str) -> bytes:
    from ray.experimental.internal_kv import _internal_kv_get

    data = _internal_kv_get(path.encode(), namespace=_NAMESPACE)
    if data is None:
        raise FileNotFoundError(path)
    return data
