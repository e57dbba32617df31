"""Rows in a PyTorch `state_dict`, mapped. Only weights are read (`weights_only=True`), never code."""

# torch's types are unknown where it is not installed.
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ...proto.atomic_file import AtomicFile
from ...proto.errors import InvalidRequest
from ..urls import UnreadableFile
from .contract import RowSink, RowSource, check_matrix, choose_rows, damaged, needs, take_room


def open_torch(path: Path, tensor: str | None, row_shape: tuple[int, ...] | None) -> TorchSource:
    """The rows of one tensor of a file that `torch.save` wrote: a state_dict, nested or not, or one tensor.

    Raises:
        InvalidRequest: damaged, objects that are no weights, no such tensor, or several that could be meant.
    """
    tensors = dict(_named("", _load(path)))
    if tensor is None and list(tensors) == [""]:
        return TorchSource(tensors[""], str(path))
    nested = [name for name, value in tensors.items() if value.is_nested]  # which have no shape
    shapes = {name: () if name in nested else tuple(value.shape) for name, value in tensors.items()}
    name = choose_rows(shapes, tensor, row_shape, what=str(path), others=nested)
    return TorchSource(tensors[name], f"{path}: {name}")


def _load(path: Path) -> Any:
    needs("torch", "a file of torch needs", "'rowloom[torch]'")
    import torch  # pyright: ignore[reportMissingImports]

    with open(path, "rb") as f:
        zipped = f.read(4) == b"PK\x03\x04"
    try:
        # Files from before torch 1.6 are no zip files and cannot be mapped.
        return torch.load(path, map_location="cpu", weights_only=True, mmap=zipped or None)
    except (
        Exception
    ) as e:  # torch has a dozen ways to dislike a file, RuntimeError and UnpicklingError among them
        if "weights only" in str(e).lower():  # torch goes on with how to run what is in the file
            raise UnreadableFile(
                f"{path} is damaged, or holds objects that are no tensors: save a state_dict, or one tensor"
            ) from None
        damaged(path, e)


def _named(prefix: str, value: Any) -> Iterator[tuple[str, Any]]:
    if hasattr(value, "detach"):
        yield prefix, value.detach()
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _named(f"{prefix}.{key}" if prefix else str(key), inner)


class TorchSource(RowSource):
    """One tensor; blocks are converted as they are read."""

    def __init__(self, tensor: Any, what: str) -> None:
        if not _is_dense(tensor):
            raise InvalidRequest(
                f"{what} is sparse, complex or quantized, nested or on the meta device; rows must be dense real numbers"
            )
        check_matrix(tensor.shape, what)
        self._tensor: Any = tensor
        self.rows = int(tensor.shape[0])
        self.row_shape = tuple(int(d) for d in tensor.shape[1:])

    def blocks(self, size: int) -> Iterator[tuple[np.ndarray | list[str], np.ndarray]]:
        """As `RowSource.blocks`."""
        for begin in range(0, self.rows or 0, size):
            rows = self._tensor[begin : begin + size].to(_float_of(self._tensor.dtype)).numpy()
            yield np.arange(begin, begin + len(rows)), rows

    def close(self) -> None:
        """Drops the mapping."""
        self._tensor = None


def _is_dense(tensor: Any) -> bool:
    import torch  # pyright: ignore[reportMissingImports]

    odd = tensor.is_nested or tensor.is_complex() or tensor.is_quantized or tensor.is_meta
    return not odd and tensor.layout == torch.strided


def _float_of(dtype: Any) -> Any:
    import torch  # pyright: ignore[reportMissingImports]

    return torch.float64 if dtype in (torch.float64, torch.int64, torch.int32) else torch.float32


class TorchSink(RowSink):
    """Writes `{tensor: rows}`, as `torch.nn.Embedding.load_state_dict` reads it. Needs the space twice."""

    def __init__(self, path: Path, *, rows: int, row_shape: tuple[int, ...], tensor: str) -> None:
        needs("torch", "a file of torch needs", "'rowloom[torch]'")
        import torch  # pyright: ignore[reportMissingImports]

        self._part = AtomicFile(path)
        self._flat = path.with_name(f"{path.name}.rows-{self._part.path.suffix[1:]}")
        self._name = tensor
        size = rows * int(np.prod(row_shape, dtype=np.int64))
        try:
            take_room(self._flat, size * 4)
        except BaseException:  # interrupted: it may last
            self._flat.unlink(missing_ok=True)
            raise
        # torch.save writes a mapped tensor from its pages, so that the rows never have to fit into memory.
        flat = torch.from_file(str(self._flat), shared=True, size=size) if size else torch.empty(0)
        self._rows: Any = flat.reshape(rows, *row_shape)
        self._at = 0

    def write(self, ids: np.ndarray, rows: np.ndarray) -> None:
        """As `RowSink.write`."""
        self._rows.numpy()[self._at : self._at + len(rows)] = rows
        self._at += len(rows)

    def commit(self) -> None:
        """As `RowSink.commit`."""
        import torch  # pyright: ignore[reportMissingImports]

        torch.save({self._name: self._rows}, self._part.path)
        self._rows = None
        self._flat.unlink(missing_ok=True)
        self._part.commit()

    def abort(self) -> None:
        """As `RowSink.abort`."""
        self._rows = None
        self._flat.unlink(missing_ok=True)
        self._part.abort()
