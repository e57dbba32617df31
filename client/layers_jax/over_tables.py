"""What lookups in JAX share: rows by a callback of the program, whose gradients another one pushes."""

# The framework's types are unknown where it is not installed, and mostly so where it is.
# pyright: reportUnknownParameterType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportUnknownLambdaType=false, reportUntypedBaseClass=false, reportUntypedFunctionDecorator=false
# pyright: reportUntypedClassDecorator=false, reportPrivateUsage=false

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax  # pyright: ignore[reportMissingImports]
import jax.numpy as jnp  # pyright: ignore[reportMissingImports]
import numpy as np
from jax.experimental import io_callback  # pyright: ignore[reportMissingImports]

from ...proto.errors import InvalidRequest
from ...proto.spec import TableSpec
from ..inputs import as_array
from ..layers.backward import Backward
from ..lookups.bags import begins_of

# JAX 0.6 and above: an array's type says on which axes of a mesh it varies.
_TYPED = hasattr(jax.lax, "pcast") or hasattr(jax.lax, "pvary")


class OverTables:
    """Differentiable pulls of several batches of ids with one call, whose gradients one call pushes.

    Args:
        backward: with a slot for each batch of ids, or with one table that all of them are of.
    """

    def __init__(self, backward: Backward) -> None:
        self._backward = backward
        self._differentiable = jax.custom_vjp(lambda anchor, *given: self._pulled(*given))
        self._differentiable.defvjp(self._forward, self._pushed)
        self._unbatched: Any = jax.custom_batching.custom_vmap(lambda *arrays: arrays)
        self._unbatched.def_vmap(self._refuse_batched)
        self._once = jax.custom_jvp(self._push_in_program)
        self._once.defjvp(self._refuse_second)

    @property
    def anchor(self) -> Any:
        """A float32 zero for the parameters."""
        return jnp.zeros((), jnp.float32)

    def _rows(self, ids: Sequence[Any], anchor: Any, offsets: Sequence[Any] = ()) -> list[Any]:
        """Rows of each, ids.shape + row_shape.

        Args:
            ids: integers of any shape. Each goes by itself: of several types JAX makes one that may not hold them all.
            anchor: to differentiate, or None.
            offsets: where the bags of each begin, or None; checked when the program runs, since nobody knows them
                before.
        """
        for place, some in enumerate(ids):
            _refuse_cut(some, self._backward.tables[self._backward.table(place)].spec)
        given = tuple(some.reshape(-1) for some in ids), tuple(offsets) or (None,) * len(ids)
        rows = self._pulled(*given) if anchor is None else self._differentiable(anchor, *given)
        return [some.reshape(*one.shape, *some.shape[1:]) for some, one in zip(rows, ids, strict=True)]

    def _pulled(self, flats: tuple[Any, ...], offsets: tuple[Any, ...]) -> tuple[Any, ...]:
        tables = [self._backward.tables[self._backward.table(place)] for place in range(len(flats))]
        shapes = tuple(
            jax.ShapeDtypeStruct((*flat.shape, *table.spec.row_shape), jnp.float32)
            for flat, table in zip(flats, tables, strict=True)
        )
        flats = self._to_callback(flats)
        # Not a pure callback: the same ids have other rows after a push.
        return _of_each_device(tuple(io_callback(self._pull, shapes, flats, offsets, ordered=True)))

    def _pull(self, flats: tuple[Any, ...], offsets: tuple[Any, ...]) -> tuple[np.ndarray, ...]:
        ids = [np.asarray(flat) for flat in flats]
        for some, begins in zip(ids, offsets, strict=True):
            if begins is not None:
                begins_of(np.asarray(begins), some)
        return tuple(self._backward.pull(ids))

    def _forward(self, anchor: Any, *given: tuple[Any, ...]) -> tuple[Any, Any]:
        return self._pulled(*given), (anchor, given)

    def _pushed(self, kept: tuple[Any, Any], upstreams: tuple[Any, ...]) -> tuple[Any, ...]:
        anchor, given = kept
        none = jax.tree.map(lambda some: np.zeros(some.shape, jax.dtypes.float0), given)
        return self._once(anchor, given[0], upstreams), *none

    def _push_in_program(self, anchor: Any, flats: Any, upstreams: Any) -> Any:
        """The anchor's gradient. By the anchor `_refuse_second` sees whether a gradient of this one is wanted."""
        io_callback(self._push, None, flats, self._to_callback(upstreams), ordered=True)
        return jnp.zeros_like(anchor)

    def _to_callback(self, arrays: tuple[Any, ...]) -> tuple[Any, ...]:
        """As they are. Raises InvalidRequest where JAX batches them."""
        traced = any(isinstance(one, jax.core.Tracer) for one in arrays)  # pyright: ignore[reportAttributeAccessIssue]
        return self._unbatched(*arrays) if traced and _TYPED else arrays  # older shard_map has no rule for it

    def _refuse_batched(self, *_: Any) -> Any:
        raise InvalidRequest(
            f"table {self._names()}: JAX cannot batch pulls and pushes, which have an order: instead of jax.vmap of a "
            "lookup give it the ids of all examples, of any shape, and vmap what comes after; instead of jax.jacrev "
            "or jax.hessian by the anchor, jax.grad of a sum"
        )

    def _names(self) -> str:
        return ", ".join(repr(table.name) for table in self._backward.tables)

    def _refuse_second(self, *_: Any) -> Any:
        raise InvalidRequest(
            f"a gradient by the anchor of table {self._names()} pushes, so it cannot be differentiated again: keep the "
            "anchor out of what the inner jax.grad differentiates (argnums of the other parameters; close over the "
            "anchor); the outer one pushes what the penalty says"
        )

    def _push(self, flats: Any, upstreams: Any) -> None:
        number = self._backward.open()
        self._backward.hold(
            number, [np.asarray(one) for one in flats], [np.asarray(one) for one in upstreams]
        )
        self._backward.push(number)


def _of_each_device(rows: tuple[Any, ...]) -> tuple[Any, ...]:
    """Rows; in `jax.shard_map` as what each device has for itself, since each of them pulls and pushes.

    JAX takes what a callback returns for the same on all devices, and would give each of them the sum of all gradients
    to push to its own ids.
    """
    if not _TYPED:
        return rows
    axes = jax.sharding.get_abstract_mesh().manual_axes
    if not axes:
        return rows
    if hasattr(jax.lax, "pcast"):
        return jax.lax.pcast(rows, axes, to="varying")
    return jax.lax.pvary(rows, axes)  # pyright: ignore[reportAttributeAccessIssue]


def as_ids(ids: Any, what: str = "ids") -> Any:
    """Integers as JAX has them.

    Raises:
        InvalidRequest: no integers; or one that is too large for JAX's own, which would become another one.
    """
    if not isinstance(ids, jax.Array):
        ids = as_array(ids, what)
        if ids.size and ids.dtype.kind in "iu":
            _refuse_too_wide(ids)
        ids = jnp.asarray(ids, None if ids.size else jnp.int32)
    if not jnp.issubdtype(ids.dtype, jnp.integer):
        raise InvalidRequest(f"{what} must be integers, got {ids.dtype}")
    return ids


def _refuse_cut(ids: Any, spec: TableSpec) -> None:
    """Raises InvalidRequest for ids of a program that JAX may have cut down to 32 bits before anybody saw them."""
    if not isinstance(ids, jax.core.Tracer) or ids.dtype.itemsize != 4 or jax.config.jax_enable_x64:  # pyright: ignore[reportAttributeAccessIssue]
        return
    most = int(jnp.iinfo(ids.dtype).max)
    if spec.id_limit - 1 > most:
        raise InvalidRequest(
            f"table {spec.name!r} has ids up to {spec.id_limit - 1}, and JAX cuts those that a jitted function is "
            f"called with down to {ids.dtype}: set jax_enable_x64; or, where all ids are below {most + 1}, make the "
            f"table with num_embeddings={most + 1}"
        )


def _refuse_too_wide(ids: np.ndarray) -> None:
    """Raises InvalidRequest for ids that would become others."""
    if ids.max() >= 2**63:
        raise InvalidRequest(f"id {ids.max()} is no int64: ids are below 2**63")
    kept = jax.dtypes.canonicalize_dtype(ids.dtype)
    info = np.iinfo(kept)
    for id in (ids.max(), ids.min()):
        if not info.min <= id <= info.max:
            raise InvalidRequest(f"id {id} is no {kept}; set jax_enable_x64 so that JAX has {ids.dtype}")
