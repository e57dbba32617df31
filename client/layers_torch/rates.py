"""Learning rates of tables that follow those of a PyTorch optimizer, and so its schedulers."""

# The framework's types are unknown where it is not installed, and mostly so where it is.
# pyright: reportUnknownParameterType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ...proto.errors import InvalidRequest
from ..layers.rates import FollowedRate
from .passes import Gradients, layers_of

if TYPE_CHECKING:
    from ..table import Table


class _Followed:
    """The rates of a layer's tables, in proportion to that of a group of parameters.

    Args:
        group: the optimizer's.
        tables: of the layer.
    """

    def __init__(self, group: dict[str, Any], tables: tuple[Table, ...]) -> None:
        self._group = group
        # Schedulers keep there what they begin from: theirs may be warming up already.
        self._followed = FollowedRate(tables, float(group.get("initial_lr", group["lr"])))

    def __call__(self) -> None:
        self._followed(float(self._group["lr"]))


def bind_lr(optimizer: Any, model: Any, *, group: int | None = None) -> None:
    """Let the learning rates of a model's tables follow its optimizer's, as schedulers change it.

    A table keeps its own rate while the optimizer has the one that it begins with; when the optimizer has a part of
    that, the table has the same part of its own. It is looked at before each push, and set on all shards when it has
    changed: a few milliseconds. A scheduler that steps once an epoch costs nothing, one that steps with each batch that
    much.

    Args:
        optimizer: of the model's dense part, also with schedulers on it.
        model: a module; all layers over tables in it.
        group: which of the optimizer's groups of parameters all of them follow; None: each that of its anchor.

    Raises:
        InvalidRequest: the model has no layer over tables, the optimizer not their anchor, the rate is 0 to begin with,
            or a table has a schedule of its own.

    Example:
        >>> optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
        >>> scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=epochs)
        >>> bind_lr(optimizer, model)
    """
    layers = layers_of(model)
    if not layers:
        raise InvalidRequest("the model has no layer over a table, so there is no rate to bind")
    follow = [
        (layer.gradients, _Followed(_group_of(optimizer, layer, group), layer.gradients.tables))
        for layer in layers
    ]
    for gradients, followed in follow:
        assert isinstance(gradients, Gradients)
        gradients.follow = followed


def _group_of(optimizer: Any, layer: Any, group: int | None) -> dict[str, Any]:
    if group is not None:
        return optimizer.param_groups[group]
    for some in optimizer.param_groups:
        if any(parameter is layer.anchor for parameter in some["params"]):
            return some
    raise InvalidRequest(
        "the optimizer has no anchor of a layer in the model: make it of all of model.parameters(), or say which of "
        "its groups the tables follow (group=0)"
    )
