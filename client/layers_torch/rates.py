"""Learning rates of tables that follow those of a PyTorch optimizer, and so its schedulers."""

# The framework's types are unknown where it is not installed, and mostly so where it is.
# pyright: reportUnknownParameterType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

from typing import Any

from ...proto.errors import InvalidRequest
from ..layers.rates import FollowedRate
from .passes import Gradients, layers_of


class _Followed(FollowedRate):
    """The rates of a layer's tables, in proportion to that of a group of parameters.

    Args:
        optimizer: whose rate.
        at: number of the group. Not the group: `load_state_dict` makes others.
        gradients: of the layer.
    """

    def __init__(self, optimizer: Any, at: int, gradients: Gradients) -> None:
        self._optimizer, self._at = optimizer, at
        group = optimizer.param_groups[at]
        # Schedulers keep there what they begin from: theirs may be warming up already.
        first = float(group.get("initial_lr", group["lr"]))
        super().__init__(gradients.tables, first, gradients.loaded_rates)

    def follow(self) -> None:
        """Set the rates that are to be in force. Raises as `Table.set_lr`."""
        self(float(self._optimizer.param_groups[self._at]["lr"]))


def bind_lr(optimizer: Any, model: Any, *, group: int | None = None) -> None:
    """Let the learning rates of a model's tables follow its optimizer's, as schedulers change it.

    A table keeps its own rate while the optimizer has the one that it begins with; when the optimizer has a part of
    that, the table has the same part of its own. It is looked at before each push, and set on all shards when it has
    changed: a few milliseconds. A scheduler that steps once an epoch costs nothing, one that steps with each batch that
    much. A checkpoint of a model that is bound keeps the tables' own rates: bind again when training goes on, before or
    after it is loaded.

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
        (layer.gradients, _Followed(optimizer, _group_of(optimizer, layer, group), layer.gradients))
        for layer in layers
    ]
    for gradients, followed in follow:
        assert isinstance(gradients, Gradients)
        gradients.rates, gradients.loaded_rates = followed, None


def _group_of(optimizer: Any, layer: Any, group: int | None) -> int:
    groups = optimizer.param_groups
    if group is not None:
        return range(len(groups))[group]
    for at, some in enumerate(groups):
        if any(parameter is layer.anchor for parameter in some["params"]):
            return at
    raise InvalidRequest(
        "the optimizer has no anchor of a layer in the model: make it of all of model.parameters(), or say which of "
        "its groups the tables follow (group=0)"
    )
