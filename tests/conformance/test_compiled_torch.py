"""`torch.compile` of more than the model, in which rows got what had been in memory before their gradients."""

from contextlib import contextmanager

import numpy as np
import pytest
from torch_beside import a_table, torch, touched

from rowloom.client import SGD, TableSpec, Zeros
from rowloom.client.layers_torch import (
    Embedding,
    EmbeddingBag,
    clip_grad_norm_,
    passes,
    prefetched,
    push_on_step,
)

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # of the compiler's own imports
    # The compiler's own look at inputs.
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf"),
    pytest.mark.filterwarnings("ignore:Profiler record function"),
]
V, DIM = 12, 4


@pytest.fixture(autouse=True)
def fresh():
    torch._dynamo.reset()


def compiled(function):
    return torch.compile(function, backend="aot_eager")


class Training:
    """A model over a table, or with a weight in its place, whose steps are the same."""

    def __init__(self, rows, optimizer_of, dense):
        self.model = torch.nn.Sequential(rows, torch.nn.Linear(DIM, 1))
        self.model[1].load_state_dict(dense.state_dict())
        self.optimizer = optimizer_of(self.model.parameters(), lr=0.1)
        self.forward, self.step, self.zero_grad = self.model, self.optimizer.step, self.optimizer.zero_grad
        self.clip = torch.nn.utils.clip_grad_norm_

    def backward(self, ids):
        self.forward(ids).square().mean().backward()

    def whole(self, ids):
        self.backward(ids)
        self.step()
        self.zero_grad()

    def clipping(self, ids):
        self.backward(ids)
        self.clip()
        self.step()
        self.zero_grad()


def beside(client, at_step):
    """A training with a table, one with a weight, and the table."""
    table = client.create_table(TableSpec("t", V, DIM, optimizer=SGD(lr=0.1)))
    local = torch.nn.Embedding(V, DIM)
    local.weight.data.copy_(torch.from_numpy(table.pull(range(V))))
    dense = torch.nn.Linear(DIM, 1)
    ours, theirs = (Training(rows, torch.optim.SGD, dense) for rows in (Embedding(table), local))
    if at_step:
        push_on_step(ours.optimizer, ours.model)
        ours.step, ours.zero_grad = ours.optimizer.step, ours.optimizer.zero_grad
    ours.clip = lambda: clip_grad_norm_(ours.model, 0.01)
    theirs.clip = lambda: torch.nn.utils.clip_grad_norm_(theirs.model.parameters(), 0.01)
    return ours, theirs, table


@pytest.mark.parametrize(
    ("what", "at_step"),
    [
        ("step", True),
        ("zero_grad", True),
        ("backward", False),
        ("whole", False),
        ("whole", True),
        ("clipping", True),
    ],
)
def test_a_compiled_step_or_backward_pass_pushed_what_had_been_in_memory(client, what, at_step):
    ours, theirs, table = beside(client, at_step)
    if what in ("step", "zero_grad"):  # alone, as PyTorch's own recipe for compiled optimizers
        plain = getattr(ours.optimizer, what)
        setattr(ours, what, compiled(lambda: plain()))
    elif what == "backward":
        ours.backward = compiled(ours.backward)
    name = "clipping" if what == "clipping" else "whole"
    run = compiled(getattr(ours, name)) if what == name else getattr(ours, name)
    for step in range(3):
        ids = torch.tensor([step, step + 1, step + 1, 7])
        run(ids)
        getattr(theirs, name)(ids)
        np.testing.assert_allclose(table.pull(range(V)), theirs.model[0].weight.detach(), rtol=0, atol=1e-6)


def test_bags_in_a_compiled_step_find_what_was_prefetched_in_it(client):
    spec = TableSpec("t", V, DIM, optimizer=SGD(lr=0.1), initializer=Zeros())
    table, bags = client.create_table(spec), torch.tensor([[1, 2], [2, 3]])
    layer = EmbeddingBag(table, mode="sum")

    def whole(ids):
        with prefetched(client, {"t": ids}):
            (layer(ids) - 1).square().sum().backward()

    run = compiled(whole)
    for _ in range(2):
        run(bags)
    local = torch.nn.EmbeddingBag.from_pretrained(torch.zeros(V, DIM), freeze=False, mode="sum")
    optimizer = torch.optim.SGD(local.parameters(), lr=0.1)
    for _ in range(2):
        (local(bags) - 1).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    np.testing.assert_allclose(table.pull(range(V)), local.weight.detach(), rtol=0, atol=1e-6)


@contextmanager
def configured(run):
    """A function whose backward pass PyTorch compiles as it says; it is asked when the function is made."""
    torch._dynamo.config.compiled_autograd = True
    try:
        yield compiled(run)
    finally:
        torch._dynamo.config.compiled_autograd = False


@contextmanager
def enabled(run):
    with torch._dynamo.compiled_autograd._enable(torch.compile(backend="eager")):
        yield run


@pytest.mark.parametrize("at_step", [True, False])
@pytest.mark.parametrize("compiled_autograd", [configured, enabled])
def test_compiled_autograd_trained_no_rows(compiled_autograd, at_step):
    table = a_table()
    model = torch.nn.Sequential(Embedding(table), torch.nn.Linear(3, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    if at_step:
        push_on_step(optimizer, model)

    def backward(ids):
        model(ids).sum().backward()

    refused = pytest.raises(NotImplementedError, match="rows would not be trained; leave")
    with compiled_autograd(backward) as run, refused:
        run(torch.tensor([1, 2]))
    backward(torch.tensor([1, 2]))
    optimizer.step()
    assert touched(table) == {1, 2}


def test_compiled_autograd_failed_for_models_without_layers_too():
    """A hook of ours sees each module that becomes a part of another, and the compiler followed it."""
    model = torch.nn.Sequential(torch.nn.Embedding(V, DIM), torch.nn.Linear(DIM, 1))
    with configured(lambda ids: model(ids).sum().backward()) as run:
        run(torch.tensor([1, 2]))
    assert model[0].weight.grad is not None


def test_before_torch_2_4_a_step_pushed_nothing_once_anything_was_compiled(monkeypatch):
    monkeypatch.setattr(passes, "_HOOKS_STAY", False)
    table = a_table()
    layer = Embedding(table)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    handle = push_on_step(optimizer, layer)
    torch.optim.lr_scheduler.StepLR(optimizer, 5)  # it wraps the step, too
    for hooks in (optimizer._optimizer_step_pre_hooks, optimizer._optimizer_step_post_hooks):
        hooks.clear()
    layer(torch.tensor([1, 2])).sum().backward()
    assert table.pushes == []
    optimizer.step()
    assert touched(table) == {1, 2}
    handle.remove()
    layer(torch.tensor([3])).sum().backward()
    optimizer.step()
    assert len(table.pushes) == 2


# ------------------------------------------------------------------------------------------- the client's own calls


def push(table, ids, grads):
    table.push(ids, grads * 2)


def push_of_two(table, ids, grads):
    table.client.push({table.name: (ids, grads * 2)})


def step(table, ids, grads):
    return table.step(ids, grads * 2, ids)


def push_and_pull_bags(table, ids, grads):
    table.push_bags(ids.reshape(-1, 1), None, grads * 2)
    return table.pull_bags(ids.reshape(1, -1))


def push_async(table, ids, grads):
    table.push_async(ids, grads * 2).result()
    return table.pull_async(ids).result()


def prefetch(table, ids, grads):
    table.push(ids, grads)
    with table.prefetch([ids]) as batches:
        return next(batches)[1]


def renorm(table, ids, grads):
    table.assign(ids, grads)
    table.renorm(ids, 0.5)


@pytest.mark.parametrize("kind", [np.asarray, torch.as_tensor])
@pytest.mark.parametrize("call", [push, push_of_two, step, push_and_pull_bags, push_async, prefetch, renorm])
def test_a_compiled_function_pushed_what_had_been_in_memory(client, call, kind):
    spec = {"optimizer": SGD(lr=1.0), "initializer": Zeros()}
    one, other = (client.create_table(TableSpec(name, V, DIM, **spec)) for name in ("one", "other"))
    run = compiled(lambda ids, grads: call(one, ids, grads))
    random = np.random.default_rng(3)
    for _ in range(2):
        ids, grads = random.integers(0, V, 5), random.normal(size=(5, DIM)).astype(np.float32)
        found, expected = run(kind(ids), kind(grads)), call(other, kind(ids), kind(grads))
        if expected is not None:
            np.testing.assert_array_equal(np.asarray(found), expected)
        np.testing.assert_array_equal(one.pull(range(V)), other.pull(range(V)))
