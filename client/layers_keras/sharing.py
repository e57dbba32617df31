"""Plain Keras layers of one model as one: a pull and a push a step for all of them.

Why it is so. One pull for all must know all ids before the first layer runs, and inside of `tf.function` a layer runs
when it is traced, long before there are ids. A functional model's graph says how its ids are made. So it is run twice
on symbolic inputs: once to note what each layer over tables is called with; and once more with those calls replaced by
rows of one operation, which has the ids of all. What comes out is run in place of the model's own graph, with the very
same layers, so nothing can differ but the requests. A `with prefetched(...)` as PyTorch layers have it would find rows
by comparing ids, which costs a call back into Python for each layer: about what its pull costs.
"""

# The framework's types are unknown where it is not installed, and mostly so where it is.
# pyright: reportUnknownParameterType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportUnknownLambdaType=false, reportUntypedBaseClass=false, reportUntypedFunctionDecorator=false
# pyright: reportUntypedClassDecorator=false, reportPrivateUsage=false

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import keras  # pyright: ignore[reportMissingImports]

from ...proto.errors import InvalidRequest
from ..layers.backward import Backward
from .over_tables import OverTables, rows_given


class _Call(NamedTuple):
    """One call of a layer over tables in a model's graph: the layer, and its (symbolic) inputs."""

    layer: OverTables
    inputs: Any


def share_requests(model: Any) -> Any:
    """Let the layers over tables in a model pull with one call and push with one, as a collection does.

    Each of them pulls and pushes by itself otherwise: a model of five `Embedding` layers has ten calls a step. Rows,
    losses and what is pushed are the same; a table that several layers use takes one step, not one for each layer. It
    works in `fit`, `evaluate`, `predict` and when the model is called, eagerly and in `tf.function`, on both backends.
    The model, its layers and what is saved of it stay as they are: call it again for a model that was loaded.

    Args:
        model: of the functional API, also with Sequential ones inside, such as towers. Another model inside of it pulls
            for itself.

    Returns:
        The model.

    Raises:
        InvalidRequest: the model is subclassed, so nobody knows its ids before it runs; fewer than two calls of layers
            over tables; tables of several clients; or ids that are made of rows.

    Example:
        >>> model = keras.Model(inputs, score)
        >>> share_requests(model)
        >>> model.compile("adam", "mse")
    """
    try:
        plain = keras.Model(model.input, model.output)
    except (AttributeError, ValueError) as e:
        raise InvalidRequest(
            f"model {model.name!r} is not of the functional API, so the ids of its layers are not known before it "
            "runs: give its features to one EmbeddingCollection or EmbeddingBagCollection: one pull and one push"
        ) from e
    calls: list[_Call] = []

    def noted(layer: Any, *args: Any, **kwargs: Any) -> Any:
        if isinstance(layer, OverTables):
            calls.append(_Call(layer, args[0] if args else next(iter(kwargs.values()))))
        return layer(*args, **kwargs)

    first = keras.models.clone_model(plain, clone_function=lambda layer: layer, call_function=_inside(noted))
    _check(model, first, calls)
    together: Any = _Lookups(calls)
    rows = iter(together([call.inputs for call in calls]))
    todo = iter(calls)

    def given(layer: Any, *args: Any, **kwargs: Any) -> Any:
        if not isinstance(layer, OverTables):
            return layer(*args, **kwargs)
        call = next(todo)
        assert call.layer is layer
        known: Any = _Given(layer)
        return known(call.inputs, next(rows))

    shared: Any = keras.models.clone_model(
        plain, input_tensors=first.input, clone_function=lambda layer: layer, call_function=_inside(given)
    )
    # The wrapped method keeps its signature, by which Keras knows how to call it.
    model.call = functools.wraps(model.call)(lambda *args, **kwargs: shared.call(*args, **kwargs))
    for name in ("train_function", "test_function", "predict_function"):
        setattr(model, name, None)  # traced again
    return model


def _inside(call: Callable[..., Any]) -> Callable[..., Any]:
    """A function of a layer's call, such that Sequential models with layers over tables are called layer by layer."""

    def through(layer: Any, *args: Any, **kwargs: Any) -> Any:
        if not isinstance(layer, keras.Sequential) or not any(
            isinstance(one, OverTables) for one in layer._flatten_layers()
        ):
            return call(layer, *args, **kwargs)
        (value,) = args
        for one in layer.layers:
            value = through(one, value)
        return value

    return through


def _check(model: Any, first: Any, calls: Sequence[_Call]) -> None:
    if len(calls) < 2:
        raise InvalidRequest(
            f"model {model.name!r} itself calls {len(calls)} layers over tables, so there is nothing to share; a model "
            "inside of it that is not Sequential pulls for itself"
        )
    if len({id(table.client) for call in calls for table in call.layer.tables}) > 1:
        raise InvalidRequest(
            f"the tables of model {model.name!r} are of several clients, and share no request"
        )
    symbolic = keras.tree.flatten([call.inputs for call in calls])
    before = keras.Model(first.input, symbolic)
    for layer in before.layers:
        if isinstance(layer, OverTables):
            raise InvalidRequest(
                f"model {model.name!r}: ids of a layer are made of the rows of layer {layer.name!r}, so they cannot be "
                "pulled together"
            )


class _Lookups(keras.Operation):
    """The rows of all calls, with one pull; their gradients, with one push.

    Args:
        calls: in their order.
    """

    def __init__(self, calls: Sequence[_Call]) -> None:
        super().__init__()
        self._layers = [call.layer for call in calls]
        layers = list({id(layer): layer for layer in self._layers}.values())
        begins = {id(layer): sum(len(one.tables) for one in layers[:k]) for k, layer in enumerate(layers)}
        tables = [table for layer in layers for table in layer.tables]
        slots, negative = [], []
        for layer, inputs in calls:
            for slot in layer.slots_of(inputs):
                slots.append(slot._replace(table=slot.table + begins[id(layer)]))
                negative.append(layer.negative)
        self._places = slots
        clipnorm = [layer.clipnorm for layer in layers for _ in layer.tables]
        every = {layer.gradient_accumulation_steps or 1 for layer in layers}
        if len(every) > 1:
            raise InvalidRequest(
                f"the layers have gradient_accumulation_steps of {sorted(every)}: what shares one push needs the same"
            )
        glue = importlib.import_module(f".{keras.config.backend()}_backend", __package__)
        self._lookup = glue.Lookup(
            Backward(tables, slots, negative=negative, clipnorm=clipnorm, every=every.pop())
        )
        self._counts = [len(layer.slots_of(inputs)) for layer, inputs in calls]

    def call(self, inputs: Sequence[Any]) -> list[list[Any]]:
        """Rows by call and place. inputs: of each call."""
        uses = [layer.use(layer.read(one)[0]) for layer, one in zip(self._layers, inputs, strict=True)]
        return self._lookup(uses)

    def compute_output_spec(self, inputs: Any) -> Any:
        """As many as there will be; only layers know their shapes."""
        del inputs
        return [[keras.KerasTensor((None,)) for _ in range(count)] for count in self._counts]


class _Given(keras.Operation):
    """A layer whose rows are there."""

    def __init__(self, layer: OverTables) -> None:
        super().__init__()
        self._layer = layer

    def call(self, inputs: Any, rows: Sequence[Any]) -> Any:
        """As the layer's."""
        with rows_given(self._layer, rows):
            return self._layer(inputs)

    def compute_output_spec(self, inputs: Any, rows: Any) -> Any:
        """As the layer's."""
        del rows
        return self._layer.compute_output_spec(inputs)
