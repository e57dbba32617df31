"""When the PyTorch layers push: each backward pass, or each step; beside models that hold their rows themselves."""

import copy

import numpy as np
import pytest
from torch_beside import DIM, V, a_table, equal, pushed, torch, touched, twin

from rowloom.client import SGD, Adagrad, Adam, InvalidRequest, Normal, TableSpec
from rowloom.client.layers_torch import Embedding, EmbeddingBag, bind_lr, clip_grad_norm_, push_on_step


class Model(torch.nn.Module):
    """Two features over one embedding, and two dense layers."""

    def __init__(self, embed):
        super().__init__()
        self.embed = embed
        self.dense = torch.nn.Sequential(torch.nn.Linear(2 * DIM, 4), torch.nn.Tanh(), torch.nn.Linear(4, 1))

    def forward(self, a, b):
        return self.dense(torch.cat([self.embed(a), self.embed(b)], dim=1)).squeeze(1)


def batches(n, size=8, seed=0):
    generator = torch.Generator().manual_seed(seed)
    for _ in range(n):
        a, b = torch.randint(0, V, (2, size), generator=generator)
        yield a, b, torch.rand(size, generator=generator)


def loss_of(model, a, b, y):
    return torch.nn.functional.mse_loss(model(a, b).float(), y)


def both(table, **how):
    """(PyTorch's model, ours over the table): the same weights, and the same loss, everywhere."""
    torch.manual_seed(1)
    theirs, ours = Model(twin(torch.nn.Embedding, table, **how)), Model(Embedding(table, **how))
    ours.dense.load_state_dict(theirs.dense.state_dict())
    return theirs, ours


def optimizers_of(theirs, ours, rows=torch.optim.SGD, dense=torch.optim.Adam, lr=0.1):
    """(the optimizer of their rows, of their dense part, of our model)."""
    mine = dense(ours.parameters(), lr=0.01)
    return rows([theirs.embed.weight], lr=lr), dense(theirs.dense.parameters(), lr=0.01), mine


def adagrad(**how):
    return {"optimizer": Adagrad(lr=0.1), **how}


def on_cluster(client, **spec):
    table = client.create_table(TableSpec("t", V, DIM, initializer=Normal(), **spec))
    table.rows = table.pull(np.arange(V))  # what `twin` copies
    return table


# ------------------------------------------------------------------------------------------- at each backward pass


@pytest.mark.parametrize("dense", ["SGD", "Adam", "AdamW", "RMSprop", "Adagrad", "NAdam"])
def test_losses_are_those_of_a_local_model_beside_any_dense_optimizer(client, dense):
    table = on_cluster(client, **adagrad())
    theirs, ours = both(table)
    steps = optimizers_of(theirs, ours, torch.optim.Adagrad, getattr(torch.optim, dense))
    for a, b, y in batches(25):
        losses = []
        for model in (theirs, ours):
            loss = loss_of(model, a, b, y)
            loss.backward()
            losses.append(loss.detach())
        equal(losses[1], losses[0], 1e-5)
        for step in steps:
            step.step()
            step.zero_grad()
    equal(table.pull(np.arange(V)), theirs.embed.weight, 1e-5)
    assert not ours.embed.anchor.any()


def test_a_layer_used_twice_pushes_once_a_pass():
    table = a_table(**adagrad())
    _, ours = both(table)
    for a, b, y in batches(3):
        loss_of(ours, a, b, y).backward()
    assert len(table.pushes) == 3


def test_all_tables_of_a_pass_go_in_one_request():
    users = a_table(name="users")
    items = users.beside(a_table(name="items"))
    one, other = Embedding(users), EmbeddingBag(items, mode="sum")
    again = Embedding(users)
    ids = torch.tensor([[1, 2]])
    (one(ids).sum() + other(ids).sum() + again(ids[:, 0]).sum()).backward()
    assert [sorted(names) for names in users.requests] == [["items", "users"]]
    assert (len(users.pushes), len(items.pushes)) == (1, 1)
    equal(pushed(users)[[1, 2]], np.array([[2] * DIM, [1] * DIM], np.float32))


def test_nothing_is_pushed_without_a_backward_pass_to_the_layer():
    table = a_table()
    layer = Embedding(table)
    ids = torch.tensor([1, 2])
    with torch.no_grad():
        assert not layer(ids).requires_grad
    with torch.inference_mode():
        layer(ids)
    rows = layer(ids)
    torch.autograd.grad(rows.sum(), rows)
    weight = torch.ones(DIM, requires_grad=True)
    (layer(ids) * weight).sum().backward(inputs=[weight])
    assert table.pushes == []


def test_asking_autograd_for_the_gradients_of_parameters_trains_no_table():
    table = a_table()
    theirs, ours = both(table)
    a, b, y = next(batches(1))
    for model in (theirs, ours):
        loss = loss_of(model, a, b, y)
        asked = torch.autograd.grad(loss, list(model.parameters()), retain_graph=True)
        assert len(asked) == 5
        assert table.pushes == []
        loss.backward(inputs=list(model.parameters()))
    equal(pushed(table), theirs.embed.weight.grad, 1e-6)


def test_a_copy_of_a_layer_and_one_of_another_type_train_too():
    table = a_table()
    for change in (copy.deepcopy, lambda layer: layer.double(), lambda layer: layer.half()):
        table.pushes.clear()
        change(Embedding(table))(torch.tensor([1])).sum().backward()
        assert touched(table) == {1}


def test_eval_trains_as_in_torch():
    table = a_table()
    Embedding(table).eval()(torch.tensor([1])).sum().backward()
    assert touched(table) == {1}


@pytest.mark.parametrize("how", ["module", "parameters", "from_pretrained"])
def test_a_frozen_layer_pushes_nothing_and_others_train_on(how):
    table = a_table()
    layer = Embedding.from_pretrained(table) if how == "from_pretrained" else Embedding(table)
    model = Model(layer)
    if how == "module":
        model.embed.requires_grad_(False)
    if how == "parameters":
        for parameter in model.embed.parameters():
            parameter.requires_grad = False
    a, b, y = next(batches(1))
    loss_of(model, a, b, y).backward()
    assert table.pushes == []
    assert model.dense[0].weight.grad.any()


def test_a_gradient_penalty_on_rows_goes_through():
    table = a_table()
    theirs, ours = twin(torch.nn.Embedding, table), Embedding(table)
    for module in (theirs, ours):
        rows = module(torch.tensor([3, 4, 3]))
        (slope,) = torch.autograd.grad((rows**3).sum(), rows, create_graph=True)
        (slope**2).sum().backward()
    equal(pushed(table), theirs.weight.grad, 1e-4)


def test_a_gradient_of_what_was_pushed_is_refused():
    rows = Embedding(a_table())(torch.tensor([1]))
    scale = torch.ones(DIM, requires_grad=True)
    (grad,) = torch.autograd.grad(((rows * scale) ** 2).sum(), scale, create_graph=True)
    grad.sum().backward()  # the rows once; that is fine
    layer = Embedding(a_table())
    loss = (layer(torch.tensor([1])) * scale).sum()
    (twice,) = torch.autograd.grad(loss, layer.anchor, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        twice.backward()


def test_checkpointed_models_push_once_and_the_same():
    table = a_table()
    theirs, ours = both(table)
    a, b, y = next(batches(1))
    for model in (theirs, ours):
        out = torch.utils.checkpoint.checkpoint(model, a, b, use_reentrant=False)
        torch.nn.functional.mse_loss(out, y).backward()
    equal(pushed(table), theirs.embed.weight.grad, 1e-6)
    assert len(table.pushes) == 1


def test_what_a_push_raises_comes_out_of_backward(client):
    table = on_cluster(client)
    before = table.rows
    layer = Embedding(table)
    with pytest.raises(InvalidRequest, match=r"grads of id 3 .*nan"):
        (layer(torch.tensor([2, 3])) * torch.tensor([[1.0], [float("nan")]])).sum().backward()
    equal(table.pull(np.arange(V)), before)
    client.drop_table("t")
    with pytest.raises(Exception, match="dropped"):
        layer(torch.tensor([1]))


def test_a_backward_pass_that_fails_pushes_nothing_then_or_later():
    class Fails(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, grad):
            raise ArithmeticError("on purpose")

    table = a_table()
    layer, weight = Embedding(table), torch.ones((), requires_grad=True)
    rows = layer(torch.tensor([1]))
    with pytest.raises(ArithmeticError, match="on purpose"):
        (rows.sum() + Fails.apply(weight * 2) * 0 + Fails.apply(rows).sum()).backward()
    layer(torch.tensor([2])).sum().backward()
    assert touched(table) == {2}


# ------------------------------------------------------------------------------------------------------ at each step


def test_accumulated_gradients_are_one_step_of_the_table_as_in_torch(client):
    table = on_cluster(client, **adagrad())
    theirs, ours = both(table)
    steps = optimizers_of(theirs, ours, torch.optim.Adagrad)
    push_on_step(steps[2], ours)
    for n, (a, b, y) in enumerate(batches(24), 1):
        losses = []
        for model in (theirs, ours):
            loss = loss_of(model, a, b, y) / 4
            loss.backward()
            losses.append(loss.detach())
        equal(losses[1], losses[0], 1e-5)
        if n % 4 == 0:
            for step in steps:
                step.step()
                step.zero_grad()
    equal(table.pull(np.arange(V)), theirs.embed.weight, 1e-5)


def test_a_step_pushes_once_and_zero_grad_drops_what_waits():
    table = a_table()
    _, ours = both(table)
    optimizer = torch.optim.SGD(ours.parameters(), lr=0.1)
    handle = push_on_step(optimizer, ours)
    for a, b, y in batches(3):
        loss_of(ours, a, b, y).backward()
    assert table.pushes == []
    optimizer.zero_grad()
    optimizer.step()
    assert table.pushes == []
    ours.embed(torch.tensor([5])).sum().backward()
    ours.embed(torch.tensor([5])).sum().backward()
    torch.autograd.grad(ours.embed(torch.tensor([5])).sum(), ours.embed.anchor)  # is no gradient of the step
    optimizer.step()
    optimizer.step()
    assert len(table.pushes) == 1
    equal(pushed(table)[5], np.full(DIM, 2.0, np.float32))
    handle.remove()
    ours.embed(torch.tensor([6])).sum().backward()
    assert touched(table) == {5, 6}


def test_a_step_with_a_closure_pushes_what_the_closure_computed():
    table = a_table()
    _, ours = both(table)
    optimizer = torch.optim.SGD(ours.parameters(), lr=0.1)
    push_on_step(optimizer, ours)
    a, b, y = next(batches(1))

    def closure():
        optimizer.zero_grad()
        loss = loss_of(ours, a, b, y)
        loss.backward()
        return loss

    optimizer.step(closure)
    assert touched(table) == {*a.tolist(), *b.tolist()}


def test_an_optimizer_without_the_layer_is_refused():
    _, ours = both(a_table())
    with pytest.raises(InvalidRequest, match=r"make it of all of model.parameters\(\)"):
        push_on_step(torch.optim.SGD(ours.dense.parameters(), lr=0.1), ours)


def test_bfloat16_autocast_gives_the_losses_of_torch():
    table = a_table(optimizer=SGD(lr=0.1))
    theirs, ours = both(table)
    steps = optimizers_of(theirs, ours)
    for a, b, y in batches(15):
        losses = []
        for model in (theirs, ours):
            with torch.autocast("cpu", torch.bfloat16):
                loss = loss_of(model, a, b, y)
            loss.backward()
            losses.append(loss.detach())
        equal(losses[1], losses[0], 1e-5)
        for step in steps:
            step.step()
            step.zero_grad()
    equal(table.rows, theirs.embed.weight, 1e-5)


@pytest.mark.parametrize("fused", [False, True])
def test_gradients_are_unscaled_and_skipped_as_grad_scaler_does_it(fused):
    table = a_table(optimizer=SGD(lr=0.1))
    theirs, ours = both(table)
    optimizers = [
        torch.optim.SGD([theirs.embed.weight, *theirs.dense.parameters()], lr=0.1, fused=fused),
        torch.optim.SGD(ours.parameters(), lr=0.1, fused=fused),
    ]
    scalers = [torch.amp.GradScaler("cpu", init_scale=2.0**16, growth_interval=5) for _ in range(2)]
    push_on_step(optimizers[1], ours, scaler=scalers[1])
    skipped = 0
    for n, (a, b, y) in enumerate(batches(20)):
        for model, optimizer, scaler in zip((theirs, ours), optimizers, scalers, strict=True):
            rows = model.embed(a)
            if n % 6 == 2:  # only the rows' gradient overflows
                rows.register_hook(lambda grad: grad * float("inf"))
            extra = (rows.sum(1) * y).mean()
            with torch.autocast("cpu", torch.bfloat16):
                loss = loss_of(model, a, b, y) + extra
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()
        skipped += n % 6 == 2
        assert scalers[0].get_scale() == scalers[1].get_scale()
    assert skipped == 3
    assert len(table.pushes) == 20 - skipped
    equal(table.rows, theirs.embed.weight, 1e-5)


def test_the_anchor_adds_nothing_to_a_norm_that_gradients_are_clipped_to():
    theirs, ours = both(a_table())
    a, b, y = next(batches(1))
    for model in (theirs, ours):
        loss_of(model, a, b, y).backward()
    expected = torch.nn.utils.clip_grad_norm_(theirs.dense.parameters(), 0.01)
    equal(torch.nn.utils.clip_grad_norm_(ours.parameters(), 0.01), expected, 1e-7)
    equal(ours.dense[0].weight.grad, theirs.dense[0].weight.grad, 1e-7)


@pytest.mark.parametrize("norm_type", [2.0, 1.0, float("inf")])
@pytest.mark.parametrize("most", [0.01, 1000.0])
@pytest.mark.parametrize("backwards", [1, 2])
def test_gradients_are_clipped_with_those_of_tables_as_torch_clips_a_local_model(norm_type, most, backwards):
    table = a_table(optimizer=SGD(lr=0.1))
    theirs, ours = both(table)
    steps = [torch.optim.SGD(model.parameters(), lr=0.1) for model in (theirs, ours)]
    push_on_step(steps[1], ours)
    for a, b, y in batches(backwards):
        for model in (theirs, ours):
            loss_of(model, a, b, y).backward()
    expected = torch.nn.utils.clip_grad_norm_(theirs.parameters(), most, norm_type)
    equal(clip_grad_norm_(ours, most, norm_type), expected, 1e-5)
    for step in steps:
        step.step()
    equal(table.rows, theirs.embed.weight, 1e-6)
    equal(ours.dense[0].weight, theirs.dense[0].weight, 1e-6)


def test_clipping_counts_gradients_as_they_are_pushed_after_a_scaler():
    table = a_table(optimizer=SGD(lr=0.1))
    theirs, ours = both(table)
    steps = [torch.optim.SGD(model.parameters(), lr=0.1) for model in (theirs, ours)]
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    push_on_step(steps[1], ours, scaler=scaler)
    a, b, y = next(batches(1))
    loss_of(theirs, a, b, y).backward()
    scaler.scale(loss_of(ours, a, b, y)).backward()
    scaler.unscale_(steps[1])
    expected = torch.nn.utils.clip_grad_norm_(theirs.parameters(), 0.01)
    equal(clip_grad_norm_(ours, 0.01), expected, 1e-5)
    steps[0].step()
    scaler.step(steps[1])
    equal(table.rows, theirs.embed.weight, 1e-6)


def test_clipping_of_gradients_that_were_pushed_already_is_refused_and_nan_is_told():
    _, ours = both(a_table())
    with pytest.raises(
        InvalidRequest, match=r"gradients of 't' are pushed .* call push_on_step\(optimizer, model\)"
    ):
        clip_grad_norm_(ours, 1.0)
    push_on_step(torch.optim.SGD(ours.parameters(), lr=0.1), ours)
    (ours.embed(torch.tensor([5])).sum() * float("nan")).backward()
    with pytest.raises(RuntimeError, match=r"the norm of order 2\.0 of the gradients is nan"):
        clip_grad_norm_(ours, 1.0, error_if_nonfinite=True)


def test_the_norm_of_infinite_gradients_was_nan_because_of_the_anchors_where_torch_says_inf():
    theirs, ours = both(a_table())
    push_on_step(torch.optim.SGD(ours.parameters(), lr=0.1), ours)
    for model in (theirs, ours):
        (model.embed(torch.tensor([5])).sum() * float("inf")).backward()
    assert torch.nn.utils.clip_grad_norm_(theirs.parameters(), 1.0) == float("inf")
    assert clip_grad_norm_(ours, 1.0) == float("inf")


@pytest.mark.parametrize(("mode", "sparse"), [("lazy", True), ("dense", False)])
def test_a_batch_of_padding_only_is_a_step_as_in_torch(client, mode, sparse):
    rows = np.arange(20, dtype=np.float32).reshape(10, 2)
    table = client.create_table(TableSpec("steps", 10, dim=2, optimizer=Adam(lr=0.1, mode=mode)))
    table.assign(np.arange(10), rows)
    ours = Embedding(table, padding_idx=0)
    theirs = torch.nn.Embedding.from_pretrained(
        torch.tensor(rows), freeze=False, padding_idx=0, sparse=sparse
    )
    optimizer = (torch.optim.SparseAdam if sparse else torch.optim.Adam)(theirs.parameters(), lr=0.1)
    for ids in ([1], [0, 0], [0, 0], [1]):
        for layer in (ours, theirs):
            layer(torch.tensor(ids)).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    np.testing.assert_allclose(table.pull(np.arange(10)), theirs.weight.detach().numpy(), atol=1e-5)


def test_masked_rows_are_refused_by_from_pretrained(client):
    rows = np.ma.array(np.ones((3, 2), np.float32), mask=[[False, False], [True, False], [False, False]])
    with pytest.raises(InvalidRequest, match=r"embeddings\[1, 0\] is masked, and 1 of 6 are"):
        Embedding.from_pretrained(rows, client=client, name="v")
    assert client.tables() == []


def test_rows_that_are_not_finite_leave_no_table_behind(client):
    rows = np.ones((3, 2), np.float32)
    bad = rows.copy()
    bad[1, 0] = np.nan
    with pytest.raises(InvalidRequest, match=r"rows of id 1 .* is nan"):
        Embedding.from_pretrained(bad, client=client, name="v")
    assert client.tables() == []
    assert Embedding.from_pretrained(rows, client=client, name="v")(torch.tensor([1])).tolist() == [[1, 1]]


@pytest.mark.parametrize("at_step", [False, True])
def test_a_scheduler_that_is_bound_reaches_the_table(client, at_step):
    spec = TableSpec("t", V, DIM, optimizer=SGD(lr=0.2), initializer=Normal(std=0.3))
    table = client.create_table(spec)
    local = torch.nn.Embedding(V, DIM)
    with torch.no_grad():
        local.weight.copy_(torch.from_numpy(table.pull(np.arange(V))))
    torch.manual_seed(1)
    theirs, ours = Model(local), Model(Embedding(table))
    ours.dense.load_state_dict(theirs.dense.state_dict())
    for model in (theirs, ours):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.2)
        if model is ours:
            bind_lr(optimizer, model)
            if at_step:
                push_on_step(optimizer, model)
        scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 2, gamma=0.1)
        for batch in batches(6):
            optimizer.zero_grad()
            loss_of(model, *batch).backward()
            optimizer.step()
            scheduler.step()
    equal(table.pull(np.arange(V)), local.weight, 1e-6)
    assert table.spec.optimizer.lr == pytest.approx(0.002)  # the rate of the last push


def test_rates_that_cannot_be_bound_are_refused():
    layer = Embedding(a_table())
    with pytest.raises(InvalidRequest, match="no anchor of a layer"):
        bind_lr(torch.optim.SGD(torch.nn.Linear(2, 1).parameters(), lr=0.1), layer)
    with pytest.raises(InvalidRequest, match="no layer over a table"):
        bind_lr(torch.optim.SGD(layer.parameters(), lr=0.1), torch.nn.Linear(2, 1))
    with pytest.raises(InvalidRequest, match="rate is 0"):
        bind_lr(torch.optim.SGD(layer.parameters(), lr=0.0), layer)
