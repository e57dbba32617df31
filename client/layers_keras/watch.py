"""What an optimizer does to gradients and tables would not see: found out, also in loops of one's own, and refused.

Why it is so. In `fit` a layer is told whose model it is in. A loop of one's own shows its optimizer to no layer, and
applies it to their anchors. An optimizer calls the constraint of each weight that it has applied a gradient to, so
the anchor's is where the two meet: in a `tf.function` when it is traced, before anything is pushed; eagerly at the end
of the first step. Who calls it is found on the stack, as Keras gives a constraint the weight and nothing else.
Rejected: a word to everybody who writes such a loop, of whom most do not clip.
"""

# The framework's types are unknown where it is not installed, and mostly so where it is.
# pyright: reportUnknownParameterType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportUnknownLambdaType=false, reportUntypedBaseClass=false, reportUntypedFunctionDecorator=false
# pyright: reportUntypedClassDecorator=false, reportPrivateUsage=false

from __future__ import annotations

import sys
import weakref
from typing import Any

import keras  # pyright: ignore[reportMissingImports]

from ...proto.errors import InvalidRequest

_CLIPPING = ("clipnorm", "global_clipnorm", "clipvalue")


class Watch:
    """The constraint of a layer's anchor, which leaves it as it is. Raises as `check_optimizer`.

    Args:
        layer: over tables.
    """

    def __init__(self, layer: Any) -> None:
        self._layer = weakref.ref(layer)

    def __call__(self, anchor: Any) -> Any:
        """An optimizer has applied a gradient to the anchor."""
        layer = self._layer()
        if layer is not None and layer.trainable:
            check_optimizer(applied(), layer)
        return anchor


def applied() -> Any:
    """The optimizer that is being applied, the outermost if one wraps another; None: there is none on the stack."""
    found, frame = None, sys._getframe(1)
    while frame is not None:
        if frame.f_code.co_name == "apply":
            one = frame.f_locals.get("self")
            found = one if isinstance(one, keras.optimizers.Optimizer) else found
        frame = frame.f_back
    return found


def inner(optimizer: Any) -> Any:
    """The optimizer that a LossScaleOptimizer wraps; others as they are."""
    return getattr(optimizer, "inner_optimizer", optimizer)


def check_optimizer(optimizer: Any, layer: Any) -> None:
    """What an optimizer does to gradients, it must see; those of rows are pushed before.

    Args:
        optimizer: that trains the layer's model, or None.
        layer: over tables.

    Raises:
        InvalidRequest: it clips and the layer has no `clipnorm`; it accumulates gradients and the layer has no
            `gradient_accumulation_steps`, or another number of them than 1; or it scales the loss (`loss_scale_factor`,
            or a LossScaleOptimizer).
    """
    names = ", ".join(repr(table.name) for table in layer.tables)
    if inner(optimizer) is not optimizer:
        raise InvalidRequest(
            f"layer {layer.name!r}: loss scaling would scale what is pushed to {names}: "
            "compile(auto_scale_loss=False), or mixed_bfloat16, which needs none"
        )
    scale = getattr(optimizer, "loss_scale_factor", None)
    if scale not in (None, 1):
        raise InvalidRequest(
            f"layer {layer.name!r}: the optimizer's loss_scale_factor={scale} would scale what is pushed to {names}, "
            "before it divides by it: leave it out; float32 and mixed_bfloat16 need none"
        )
    steps = getattr(optimizer, "gradient_accumulation_steps", None)
    if steps and layer.gradient_accumulation_steps is None:
        raise InvalidRequest(
            f"layer {layer.name!r}: the optimizer's gradient_accumulation_steps={steps} does not reach table {names}, "
            f"which would be pushed to after each batch: give this layer gradient_accumulation_steps={steps}, for one "
            f"push of the mean of {steps}; or 1 if each batch is to be pushed"
        )
    of_layer = layer.gradient_accumulation_steps or 1
    if steps and of_layer not in (1, steps):
        raise InvalidRequest(
            f"layer {layer.name!r}: the optimizer's gradient_accumulation_steps={steps}, the layer's is {of_layer}: "
            f"give both the same number, or rows of {names} would step at other batches than the weights beside them; "
            "or the layer 1 if each batch is to be pushed"
        )
    if layer.clipnorm is not None:
        return
    for argument in _CLIPPING:
        value = getattr(optimizer, argument, None)
        if value:
            raise InvalidRequest(
                f"layer {layer.name!r}: the optimizer's {argument}={value} does not reach the gradients of table "
                f"{names}, which are pushed before it clips: give this layer a clipnorm of its own; "
                "clipnorm=math.inf if they are not to be clipped"
            )
