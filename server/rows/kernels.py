"""What is done to rows whatever their optimizer is: written out, overwritten, begun, scaled.

`values` [capacity, width] float32 are a table's weights; `numbers` [N] int32 say which rows.
"""

# Kernels: numba types them.
# pyright: reportMissingParameterType=false, reportUnknownParameterType=false
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import numpy as np

from ...proto.cpu_prefetch import AHEAD, fetch
from ...proto.jit import kernel
from ...proto.memory import copy_bytes
from ..initializers import fill_row


@kernel
def gather(values, numbers, ids, out, kind, a, b, key):
    """Write rows to out [N, width] float32; first values where the number is below 0. ids: [N] int64."""
    width = values.shape[1]
    for k in range(len(numbers)):
        if k + AHEAD < len(numbers) and numbers[k + AHEAD] >= 0:
            fetch(values, numbers[k + AHEAD])
        row = numbers[k]
        if row >= 0:
            for j in range(width):
                out[k, j] = values[row, j]
        else:
            fill_row(kind, a, b, key, ids[k], out[k])


@kernel
def add_to_bags(values, numbers, ids, bags, factors, out, kind, a, b, key):
    """Add factor * row of each entry to its bag in out [K, width] float32; rows as in `gather`.

    In the order of the entries, each product and each sum rounded once. bags: [N] int32 in [0, K); factors: [N].
    """
    width = values.shape[1]
    absent = np.empty(width, np.float32)
    for k in range(len(numbers)):
        if k + AHEAD < len(numbers) and numbers[k + AHEAD] >= 0:
            fetch(values, numbers[k + AHEAD])
        total, factor, number = out[bags[k]], factors[k], numbers[k]
        if number < 0:
            fill_row(kind, a, b, key, ids[k], absent)
        row = values[number] if number >= 0 else absent
        for j in range(width):
            total[j] += factor * row[j]


@kernel
def copy_rows(column, numbers, out, at):
    """Copy rows that exist one behind the other into bytes, from `at` on. column: [capacity, width] of any type."""
    size = column.shape[1] * column.itemsize
    for k in range(len(numbers)):
        if k + AHEAD < len(numbers):
            fetch(column, numbers[k + AHEAD])
        copy_bytes(out, at + k * size, column, numbers[k] * size, size)


@kernel
def scatter(values, numbers, rows):
    """Overwrite rows, one after the other. rows: [N, width] float32."""
    width = values.shape[1]
    for k in range(len(numbers)):
        if k + AHEAD < len(numbers):
            fetch(values, numbers[k + AHEAD])
        for j in range(width):
            values[numbers[k], j] = rows[k, j]


@kernel
def begin(values, numbers, ids, kind, a, b, key):
    """Give new rows their first values. ids: [N] int64."""
    for k in range(len(numbers)):
        fill_row(kind, a, b, key, ids[k], values[numbers[k]])


@kernel
def fill(slot, numbers, value):
    """Give new rows what their slot holds at first."""
    for number in numbers:
        for j in range(slot.shape[1]):
            slot[number, j] = value


@kernel
def renorm(values, numbers, max_norm, p):
    """Scale rows whose p-norm exceeds max_norm down to it."""
    width = values.shape[1]
    for row in numbers:
        w = values[row]
        total = 0.0
        for j in range(width):
            size = abs(np.float64(w[j]))
            if p == 2.0:
                total += size * size
            elif p == 1.0:
                total += size
            elif np.isinf(p):
                total = max(total, size)
            else:
                total += size**p
        norm = np.sqrt(total) if p == 2.0 else total if p == 1.0 or np.isinf(p) else total ** (1.0 / p)
        if norm > max_norm:
            scale = np.float32(max_norm / (norm + 1e-7))
            for j in range(width):
                w[j] *= scale
