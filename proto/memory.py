"""Memory as compiled code sees it: addresses, copies, and protobuf's wire format at any position of arrays of bytes."""

# Kernels: numba types them.
# pyright: reportMissingParameterType=false, reportUnknownParameterType=false
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

from typing import Any

import numpy as np
from numba.core import cgutils, types
from numba.extending import intrinsic

from .jit import kernel


def _copy_bytes(_, out, at, source, begin, size):
    """Copy source[begin:begin + size] to out[at:]: arrays of any type, positions and size in bytes; no checks."""

    def codegen(context, builder, signature, args):
        def address(k):
            view = context.make_array(signature.args[k])(context, builder, args[k])
            start = builder.ptrtoint(view.data, args[k + 1].type)
            return builder.inttoptr(builder.add(start, args[k + 1]), cgutils.voidptr_t)

        cgutils.raw_memcpy(builder, address(0), address(2), args[4], 1)
        return context.get_dummy_value()

    return types.void(out, types.intp, source, types.intp, types.intp), codegen


copy_bytes: Any = intrinsic(_copy_bytes)


@kernel
def address_of(array):
    """Where an array's bytes begin."""
    # numpy's own ways make a dictionary or an object for that, whose names CPython keeps: 5 us, and memory that grows.
    return array.ctypes.data


@kernel
def varint_bytes(value):
    """How long a number is, at least 0."""
    size = 1
    while value > 0x7F:
        value >>= 7
        size += 1
    return size


@kernel
def put_varint(out, at, value):
    """Write a number, at least 0; returns where it ends."""
    while value > 0x7F:
        out[at] = value & 0x7F | 0x80
        value >>= 7
        at += 1
    out[at] = value
    return at + 1


@kernel
def put_head(out, at, number, size):
    """Write the head of a field of `size` bytes; returns where the field's bytes begin."""
    out[at] = number << 3 | 2
    return put_varint(out, at + 1, size)


@kernel
def head_bytes(size):
    """How long `put_head` is, for numbers of fields below 16."""
    return 1 + varint_bytes(size)


@kernel
def get_varint(data, at, end):
    """(number, where it ends); -1 for one that is cut off at `end`, or longer than 35 bits: nothing here is."""
    value, shift = np.int64(0), 0
    while at < end and shift < 35:
        byte = np.int64(data[at])
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
    return np.int64(-1), at


@kernel
def get_head(data, at, end, number):
    """(size, where its bytes begin) of field `number`, if that stands here and lies within `end`; else size -1."""
    if at >= end or data[at] != (number << 3 | 2):
        return np.int64(-1), at
    size, begin = get_varint(data, at + 1, end)
    if size < 0 or begin + size > end:
        return np.int64(-1), at
    return size, begin
