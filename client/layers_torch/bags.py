"""Bags of ids in PyTorch: rows that are there, pooled by PyTorch's own function."""

# The framework's types are unknown where it is not installed, and mostly so where it is.
# pyright: reportUnknownParameterType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportUnknownLambdaType=false, reportUntypedBaseClass=false, reportUntypedFunctionDecorator=false
# pyright: reportUntypedClassDecorator=false, reportPrivateUsage=false

from __future__ import annotations

from typing import Any

import torch  # pyright: ignore[reportMissingImports]
import torch.nn.functional as F  # noqa: N812  # pyright: ignore[reportMissingImports]

from ..refusals import NotSupported, WrongInput, WrongType


def check_tensor(value: Any, what: str) -> None:
    """Raises InvalidRequest, also a TypeError, if it is no tensor."""
    if not isinstance(value, torch.Tensor):
        raise WrongType(f"{what} must be a tensor, got {type(value).__name__}")


def check_bags(input: Any, offsets: Any, weights: Any, mode: str, include_last_offset: bool) -> None:
    """Raises InvalidRequest for what torch refuses, and for what its kernels do not survive."""
    check_tensor(input, "input")
    if input.is_floating_point() or input.is_complex() or input.dtype == torch.bool:
        raise WrongInput(f"input must be integers, got {input.dtype}")
    if weights is not None and mode == "max":
        raise NotSupported('per_sample_weights go with mode="sum" or "mean", not with "max"')
    if offsets is not None and input.numel() and offsets.numel() <= int(include_last_offset):
        # torch's own kernels write past the end of memory then.
        raise WrongInput(f"offsets say that there is no bag, and input has {input.numel()} ids")


def with_padding(rows: Any) -> tuple[Any, int]:
    """Rows and one more, which is padding that does not occur.

    PyTorch reads the last of include_last_offset otherwise when there is padding, whether it occurs or not.
    """
    return torch.cat([rows, rows.new_zeros(1, rows.shape[1])]), len(rows)


def pooled(
    rows: Any,
    inverse: Any,
    offsets: Any,
    weights: Any,
    *,
    mode: str,
    include_last_offset: bool,
    padding_idx: int | None,
    dtype: Any,
) -> Any:
    """What `torch.nn.EmbeddingBag` gives.

    Args:
        rows: [U, dim].
        inverse: which row each id has, [B, N] or [N].
        offsets: [B], where bags begin, or None for [B, N].
        weights: of the ids' shape and of `dtype`, or None.
        mode: "sum", "mean" or "max".
        include_last_offset: offsets are [B + 1].
        padding_idx: which row is left out, or None.
        dtype: of the result.

    Returns [B, dim]. Raises InvalidRequest for weights of another type, and what torch raises.
    """
    if offsets is not None:
        offsets = offsets.to(rows.device)

    def bags(rows: Any, mode: str, **how: Any) -> Any:
        how |= {"include_last_offset": include_last_offset, "padding_idx": padding_idx}
        return F.embedding_bag(inverse, rows, offsets, mode=mode, **how)

    if weights is None:
        return bags(rows, mode).to(dtype)
    if weights.dtype != dtype:
        raise WrongInput(f"per_sample_weights must be {dtype} as the layer, got {weights.dtype}")
    out = bags(rows, "sum", per_sample_weights=weights.to(rows.dtype))
    if mode == "mean":
        out = out / bags(rows.new_ones(len(rows), 1), "sum").clamp(min=1)
    return out.to(dtype)
