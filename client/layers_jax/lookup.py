"""`table[ids]` in JAX: rows, and bags of rows, of one table."""

# The framework's types are unknown where it is not installed, and mostly so where it is.
# pyright: reportUnknownParameterType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportUnknownLambdaType=false, reportUntypedBaseClass=false, reportUntypedFunctionDecorator=false
# pyright: reportUntypedClassDecorator=false, reportPrivateUsage=false

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import jax  # pyright: ignore[reportMissingImports]

from ...proto.errors import InvalidRequest
from ..layers.backward import Backward
from ..layers.configs import Slot, from_start
from .bags import bag_of, combined
from .over_tables import OverTables, as_ids

if TYPE_CHECKING:
    from ..table import Table


class Lookup(OverTables):
    """`table[ids]` for JAX programs: the forward pass pulls, the backward pass pushes.

    JAX differentiates with respect to arguments, and a table is none. So a lookup takes an anchor as well, a scalar
    that is always 0: put it among the parameters, and `jax.grad` of them pushes the gradients of the rows; the
    anchor's own gradient is 0. Without an anchor nothing is pushed.

    Pulls and pushes are ordered callbacks: in a program they happen as it says, and one program after the other. So
    a pull sees every push of the steps before. JAX does not batch ordered callbacks: instead of `vmap` give ids of
    any shape. Nor does it take them in `jax.checkpoint`, or differentiate them forward (`jvp`, `linearize`, `jacfwd` by
    the anchor): look up outside.

    All ids of one call are pulled together and pushed together. A loss that calls a lookup twice pushes twice, which
    is one step more for Adagrad or Adam, and a lookup in a loop (`scan`, `fori_loop`, `map`) once for each turn: give
    such a loss's ids in one call, as a tuple or dict, before the loop.

    Unless `jax_enable_x64` is set, JAX has no int64, and cuts 64-bit arrays that a jitted function is called with down
    to 32 bits before any code sees them. So a table that may have ids from 2**31 on, as an open-ended one, is refused
    there: set it, or make the table with `num_embeddings=2**31`.

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
        super().__init__(Backward([table]))
        self.table = table

    def __call__(self, ids: Any, anchor: Any = None) -> Any:
        """Rows of ids.

        Args:
            ids: integers of any shape, or a tuple or dict of such. Negative ids have rows of zeros and no gradient.
            anchor: the parameter to differentiate, or None for rows without a gradient.

        Returns:
            float32, ids.shape + row_shape; of the structure of `ids`.

        Raises:
            InvalidRequest: ids are no integers, or too large for int32 where JAX has no int64 (set
                `jax_enable_x64`); `vmap` of a lookup, `jacrev` by the anchor. An id that the table does not have is
                refused when the program runs: JAX raises its own error with our message.
        """
        leaves, structure = jax.tree.flatten(ids, is_leaf=lambda x: isinstance(x, list))
        if not leaves:
            return ids
        return jax.tree.unflatten(structure, self._rows([as_ids(leaf) for leaf in leaves], anchor))


class BagLookup(OverTables):
    """`Lookup` with the rows of each bag of ids combined into one, as `torch.nn.EmbeddingBag` does it.

    Args:
        table: where the rows are; they must be vectors.
        pooling: "sum" or "mean" of the rows of a bag; a bag without ids is zeros.
        padding_idx: this id is left out of bags, and not counted by a mean; negative counts from the end.

    Raises:
        InvalidRequest: another pooling, rows that are no vectors.
        AssertionError: padding_idx is out of range.

    Example:
        >>> embed = BagLookup(words, "mean")
        >>> embed(jnp.array([[1, 2], [3, -1]])).shape                      # [1, 2] and [3]
        (2, 16)
        >>> embed(jnp.array([1, 2, 3]), offsets=jnp.array([0, 2])).shape   # the same
        (2, 16)
    """

    def __init__(self, table: Table, pooling: str = "mean", padding_idx: int | None = None) -> None:
        if pooling not in ("sum", "mean"):
            raise InvalidRequest(f'pooling must be "sum" or "mean", got {pooling!r}')
        if len(table.spec.row_shape) != 1:
            raise InvalidRequest(f"table {table.name!r} has rows of {table.spec.row_shape}, not vectors")
        self.table, self.pooling = table, pooling
        self.padding_idx = from_start(padding_idx, table.spec.num_embeddings)
        super().__init__(Backward([table], [Slot(table.name, table.name, 0, self.padding_idx)]))

    def __call__(self, ids: Any, anchor: Any = None, *, offsets: Any = None, weights: Any = None) -> Any:
        """The rows of each bag as one.

        Args:
            ids: [..., K] integers, K of each bag; or [N], with offsets. Negative ids are missing.
            anchor: the parameter to differentiate, or None for rows without a gradient.
            offsets: [B] integers, where each bag of ids [N] begins; the first one is 0.
            weights: of the ids' shape; rows are multiplied by them. They may be differentiated too. A mean is then the
                weighted sum over the number of ids, as that of the PyTorch layers.

        Returns:
            float32, [..., dim] or [B, dim].

        Raises:
            InvalidRequest: shapes that do not fit, weights that are no numbers; and as `Lookup`. Offsets that do not
                rise from 0 are refused when the program runs.
        """
        bag = bag_of((ids, offsets, weights), "ids")
        (rows,) = self._rows([bag.ids], anchor, [bag.offsets])
        return combined(rows, bag, self.pooling, self.padding_idx)
