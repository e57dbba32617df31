"""What a trainer keeps with a snapshot: a dict of plain values, as the bytes of a file that anyone can read, and back.

    safetensors: `__metadata__.extra` is the dict as JSON | the bytes and arrays in it, one after the other

Why it is so. What must hold: what comes back is what was given, to the bit and the type, and reading it runs no code of
whoever wrote it. JSON has no bytes, no arrays, no NaN and no infinity; such a value stands in it as an object with one
key that begins with `$`:

    {"$bytes": "0"}                                          tensor "0" is the bytes
    {"$array": "1", "dtype": "<f4", "shape": [2, 3]}         tensor "1" is the bytes of the array, in C order
    {"$scalar": "2", "dtype": "<f4"}                         the same, of a numpy number
    {"$float": "7ff8000000000000"}                           the 64 bits of a float that is no finite number
    {"$int": "-0x1f..."}                                     a very long int
    {"$dict": {...}}                                         a dict one of whose keys begins with `$`

Tensors are bytes (U8), because safetensors lacks some of numpy's types and has no big-endian ones. Rejected: pickle
(runs code), base64 (a third longer, and the user's limit is in bytes), npz (a zip file per snapshot for two arrays).
"""

# What callers give is checked, although it has a type.
# pyright: reportUnnecessaryIsInstance=false

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping
from typing import Any, cast

import numpy as np

from ..errors import InvalidRequest, SnapshotCorrupt

MAX_EXTRA_BYTES = 16 << 20
CHECKPOINT = "checkpoint"  # the key of a model, whose rows are those of the snapshot and of no other moment
MAX_DEPTH = 64  # of dicts in dicts
_KINDS = "biufcMmSU"  # of numpy's types: numbers, times, texts of a fixed length
_KNOWN = "int, float, bool, str, None, bytes, numpy arrays, and dicts of them with str keys"


def encode_extra(extra: Mapping[str, Any] | None, most: int | None = MAX_EXTRA_BYTES) -> bytes:
    """The bytes of the file; none for an empty dict, which needs no file.

    Args:
        extra: the dict.
        most: bytes that there may be; None: any number.

    Raises:
        InvalidRequest: something in it cannot be kept, or it is too long; the message names it and its type.
    """
    if extra is None:
        return b""
    if not isinstance(extra, Mapping):
        raise InvalidRequest(f"extra must be a dict, got {type(extra).__name__}")
    if not extra:
        return b""
    tensors: list[bytes] = []
    text = json.dumps(_plain(extra, "extra", tensors, 0), allow_nan=False)
    data = _file(text, tensors)
    if most is not None and len(data) > most:
        raise InvalidRequest(
            f"extra has {len(data)} bytes, at most {most} are kept with a snapshot: keep what is larger in "
            "a file of its own, and its path here"
        )
    return data


def decode_extra(data: bytes, where: str = "extra") -> dict[str, Any]:
    """The dict that was encoded; where: the file, for messages. Raises SnapshotCorrupt."""
    if not data:
        return {}
    try:
        size = int.from_bytes(data[:8], "little")
        header = json.loads(data[8 : 8 + size])
        tensors = _tensors(header, memoryview(data)[8 + size :])
        decoded = _value(json.loads(header["__metadata__"]["extra"]), tensors)
    except (ValueError, TypeError, AttributeError, LookupError, RecursionError, struct.error) as e:
        raise SnapshotCorrupt(f"{where} is no dict that rowloom kept: {type(e).__name__}: {e}") from None
    if not isinstance(decoded, dict):
        raise SnapshotCorrupt(f"{where} holds {type(decoded).__name__}, not a dict")
    return cast(dict[str, Any], decoded)


# ------------------------------------------------------------------------------------------------------ to bytes


def _plain(value: Any, path: str, tensors: list[bytes], depth: int) -> Any:
    """As JSON has it; bytes and arrays are put behind `tensors`. path: where it is, for messages."""
    if isinstance(value, np.generic | np.ndarray):
        return _plain_array(value, path, tensors)
    if value is None or type(value) is bool:
        return value
    if type(value) is str:
        return _checked(value, path)
    if type(value) is int:  # JSON's readers refuse one that is thousands of digits long
        return value if abs(value) < 1 << 1000 else {"$int": hex(value)}
    if type(value) is float:
        return value if math.isfinite(value) else {"$float": struct.pack(">d", value).hex()}
    if isinstance(value, bytes | bytearray | memoryview):
        return {"$bytes": _tensor(bytes(cast(bytes, value)), tensors)}
    if isinstance(value, Mapping):
        if depth == MAX_DEPTH:
            raise InvalidRequest(f"{path}: dicts lie at most {MAX_DEPTH} deep in each other")
        return _plain_dict(cast(Mapping[Any, Any], value), path, tensors, depth + 1)
    raise InvalidRequest(f"{path} is {type(value).__name__}, which is not kept with a snapshot: {_KNOWN} are")


def _plain_dict(value: Mapping[Any, Any], path: str, tensors: list[bytes], depth: int) -> dict[str, Any]:
    for key in value:
        if type(key) is not str:
            raise InvalidRequest(f"{path}: key {key!r} is {type(key).__name__}, keys must be str")
        _checked(key, path)
    found = {key: _plain(inner, f"{path}[{key!r}]", tensors, depth) for key, inner in value.items()}
    return {"$dict": found} if any(key.startswith("$") for key in found) else found


def _plain_array(value: Any, path: str, tensors: list[bytes]) -> dict[str, Any]:
    kind: Any = value.dtype
    if kind.kind not in _KINDS or np.dtype(kind.str) != kind:
        raise InvalidRequest(
            f"{path} is of dtype {kind}, which is not kept with a snapshot: numbers, times and texts are"
        )
    name = _tensor(value.tobytes(), tensors)
    if isinstance(value, np.generic):
        return {"$scalar": name, "dtype": kind.str}
    return {"$array": name, "dtype": kind.str, "shape": value.shape}


def _checked(text: str, path: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise InvalidRequest(f"{path} has a str that is no text: {text[:50]!r}; give it as bytes") from None
    return text


def _tensor(data: bytes, tensors: list[bytes]) -> str:
    tensors.append(data)
    return str(len(tensors) - 1)


def _file(text: str, tensors: list[bytes]) -> bytes:
    header: dict[str, Any] = {"__metadata__": {"extra": text}}
    begin = 0
    for k, data in enumerate(tensors):
        end = begin + len(data)
        header[str(k)] = {"dtype": "U8", "shape": [len(data)], "data_offsets": [begin, end]}
        begin = end
    head = json.dumps(header, separators=(",", ":")).encode()
    head += b" " * (-len(head) % 8)  # so that the tensors are aligned
    return b"".join([len(head).to_bytes(8, "little"), head, *tensors])


# ---------------------------------------------------------------------------------------------------- from bytes


def _tensors(header: dict[str, Any], data: memoryview) -> dict[str, memoryview]:
    """The bytes of each tensor, by name. Raises ValueError: some lie over others, or outside."""
    # Each byte belongs to one tensor, and `_value` takes each tensor once: what comes out is no longer than the file.
    places = {name: tensor["data_offsets"] for name, tensor in header.items() if name != "__metadata__"}
    at = 0
    for name, (begin, end) in sorted(places.items(), key=lambda place: place[1]):
        if not at <= begin <= end <= len(data):
            raise ValueError(
                f"tensor {name!r} is said to lie at bytes {begin} to {end}: not one behind the other in {len(data)}"
            )
        at = end
    return {name: data[begin:end] for name, (begin, end) in places.items()}


def _value(plain: Any, tensors: dict[str, memoryview]) -> Any:
    """A value back from what JSON has of it."""
    if not isinstance(plain, dict):
        return plain
    found = cast(dict[str, Any], plain)
    tag = next((key for key in found if key.startswith("$")), None)
    if tag is None:
        return {key: _value(inner, tensors) for key, inner in found.items()}
    if tag == "$dict":
        return {key: _value(inner, tensors) for key, inner in found[tag].items()}
    if tag == "$float":
        return struct.unpack(">d", bytes.fromhex(found[tag]))[0]
    if tag == "$int":
        return int(found[tag], 16)
    if found[tag] not in tensors:
        raise ValueError(f"tensor {found[tag]!r} is not there, or is meant twice")
    held = bytes(tensors.pop(found[tag]))
    if tag == "$bytes":
        return held
    if tag == "$array":
        # A copy may be written to, as what was given could.
        array: Any = np.frombuffer(held, str(found["dtype"]))
        return array.reshape(found["shape"]).copy()
    if tag == "$scalar":
        scalars: Any = np.frombuffer(held, str(found["dtype"]))
        return scalars[0]
    raise ValueError(f"{tag} is not known")
