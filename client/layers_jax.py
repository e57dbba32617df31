"""Table lookups for JAX: differentiable, and callable under `jit`."""

# The framework's types are unknown where it is not installed, and mostly so where it is.
# pyright: reportUnknownParameterType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportUnknownLambdaType=false, reportUntypedBaseClass=false, reportUntypedFunctionDecorator=false
# pyright: reportUntypedClassDecorator=false, reportPrivateUsage=false

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

try:
    import jax  # pyright: ignore[reportMissingImports]
    import jax.numpy as jnp  # pyright: ignore[reportMissingImports]
    from jax.experimental import io_callback  # pyright: ignore[reportMissingImports]
except ModuleNotFoundError as e:
    raise ModuleNotFoundError(
        "rowloom.client.layers_jax needs JAX: pip install 'rowloom[jax]'", name=e.name
    ) from e

from ..proto.errors import InvalidRequest
from .backward import Backward

if TYPE_CHECKING:
    from .table import Table


class Lookup:
    """`table[ids]` for JAX programs: the forward pass pulls, the backward pass pushes.

    JAX differentiates with respect to arguments, and a table is none. So a lookup takes an anchor as well, a scalar
    that is always 0: put it among the parameters, and `jax.grad` of them pushes the gradients of the rows; the
    anchor's own gradient is 0. Without an anchor nothing is pushed.

    Pulls and pushes are ordered callbacks: in a program they happen as it says, and one program after the other. So
    a pull sees every push of the steps before. JAX does not batch ordered callbacks: instead of `vmap` give ids of
    any shape.

    All ids of one call are pulled together and pushed together. A loss that calls a lookup twice pushes twice, which
    is one step more for Adagrad or Adam: give such a loss's ids in one call, as a tuple or dict.

    Args:
        table: where the rows are.

    Example:
        >>> embed = Lookup(words)
        >>> def loss(params, ids, labels):
        ...     rows = embed(ids, params["words"])
        ...     return jnp.mean((rows @ params["w"] - labels) ** 2)
        >>> params = {"words": embed.anchor, "w": jnp.zeros(16)}
        >>> grads = jax.jit(jax.grad(loss))(params, ids, labels)     # pulls, and pushes
    """

    def __init__(self, table: Table) -> None:
        self.table = table
        self._backward = Backward(table)
        self._row_shape = table.spec.row_shape
        self._differentiable = jax.custom_vjp(lambda anchor, flat: self._pulled(flat))
        self._differentiable.defvjp(self._forward, self._pushed)

    @property
    def anchor(self) -> Any:
        """A float32 zero for the parameters."""
        return jnp.zeros((), jnp.float32)

    def __call__(self, ids: Any, anchor: Any = None) -> Any:
        """Rows of ids.

        Args:
            ids: integers of any shape, or a tuple or dict of such. Negative ids have rows of zeros and no gradient.
            anchor: the parameter to differentiate, or None for rows without a gradient.

        Returns:
            float32, ids.shape + row_shape; of the structure of `ids`.

        Raises:
            InvalidRequest: ids are no integers, or too large for int32 where JAX has no int64 (set
                `jax_enable_x64`). An id that the table does not have is refused when the program runs: JAX raises
                its own error with our message.
        """
        leaves, structure = jax.tree.flatten(ids, is_leaf=lambda x: isinstance(x, list))
        arrays = [_as_ids(leaf) for leaf in leaves]
        if not arrays:
            return ids
        _refuse_narrowing(arrays)
        flat = jnp.concatenate([a.reshape(-1) for a in arrays])
        rows = self._pulled(flat) if anchor is None else self._differentiable(anchor, flat)
        ends = np.cumsum([a.size for a in arrays])
        parts = [
            rows[end - a.size : end].reshape(*a.shape, *self._row_shape)
            for a, end in zip(arrays, ends, strict=True)
        ]
        return jax.tree.unflatten(structure, parts)

    def _pulled(self, flat: Any) -> Any:
        shape = jax.ShapeDtypeStruct((*flat.shape, *self._row_shape), jnp.float32)
        # Not a pure callback: the same ids have other rows after a push.
        return io_callback(lambda ids: self._backward.pull(np.asarray(ids)), shape, flat, ordered=True)

    def _forward(self, anchor: Any, flat: Any) -> tuple[Any, Any]:
        del anchor
        return self._pulled(flat), flat

    def _pushed(self, flat: Any, upstream: Any) -> tuple[Any, Any]:
        io_callback(self._push, None, flat, upstream, ordered=True)
        return jnp.zeros((), jnp.float32), np.zeros(flat.shape, jax.dtypes.float0)

    def _push(self, flat: Any, upstream: Any) -> None:
        number = self._backward.open()
        self._backward.hold(number, np.asarray(flat), np.asarray(upstream))
        self._backward.push(number)


def _refuse_narrowing(arrays: list[Any]) -> None:
    """Raises InvalidRequest where JAX would make a signed type of an unsigned one without room for its values."""
    kinds = {np.dtype(a.dtype) for a in arrays}
    common = np.dtype(jnp.result_type(*kinds))
    for kind in kinds:
        if not np.can_cast(kind, common):
            others = ", ".join(sorted(str(k) for k in kinds - {kind}))
            raise InvalidRequest(
                f"ids of {kind} beside {others} would become {common}, which does not hold them all: give ids of one "
                "type, or set jax_enable_x64"
            )


def _as_ids(ids: Any) -> Any:
    if not isinstance(ids, jax.Array):
        ids = np.asarray(ids)
        if (
            ids.size
            and ids.dtype.kind in "iu"
            and jax.dtypes.canonicalize_dtype(np.int64).itemsize < 8
            and ids.max() > np.iinfo(np.int32).max
        ):
            raise InvalidRequest(f"id {ids.max()} is no int32; set jax_enable_x64 so that JAX has int64")
        ids = jnp.asarray(ids, None if ids.size else jnp.int32)
    if not jnp.issubdtype(ids.dtype, jnp.integer):
        raise InvalidRequest(f"ids must be integers, got {ids.dtype}")
    return ids
