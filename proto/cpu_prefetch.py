"""Asking the processor for rows a little before they are needed: a batch's rows lie all over the memory."""

# Kernels: numba types them.
# pyright: reportMissingParameterType=false, reportUnknownParameterType=false
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

AHEAD = 8  # rows; 4 to 16 made no difference
_COLUMNS = 128  # of a row; what follows them the processor fetches by itself
_LINE = 16  # float32 in a cache line


def _fetch(_, array, row):
    """Fetch the beginning of array[row] into the caches. Changes nothing; row must be one of the array's.

    An intrinsic, because a function that is inlined takes and drops a reference to the array each time: with
    that, there was nothing gained.
    """

    def codegen(context, builder, signature, args):
        kind = signature.args[0]
        view = context.make_array(kind)(context, builder, args[0])
        at = context.cast(builder, args[1], signature.args[1], types.intp)
        byte, i32 = ir.IntType(8).as_pointer(), ir.IntType(32)
        shape = ir.FunctionType(ir.VoidType(), [byte, i32, i32, i32])
        function = builder.module.declare_intrinsic("llvm.prefetch", [byte], shape)
        width = builder.extract_value(view.shape, 1)
        most = width.type(_COLUMNS)
        end = builder.select(builder.icmp_signed("<", width, most), width, most)
        start, step = width.type(0), width.type(_LINE)
        with cgutils.for_range_slice(builder, start, end, step, width.type) as (column, _count):
            pointer = cgutils.get_item_pointer(context, builder, kind, view, [at, column], wraparound=False)
            # For reading (the line comes either way), to be kept in all caches, data.
            builder.call(function, [builder.bitcast(pointer, byte), i32(0), i32(3), i32(1)])
        return context.get_dummy_value()

    return types.void(array, row), codegen


fetch: Any = intrinsic(_fetch)
