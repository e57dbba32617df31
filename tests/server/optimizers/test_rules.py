"""Every update rule against the whole table in one numpy array, bit for bit; and golden vectors of the libraries."""

import dataclasses
import math

import numpy as np
import pytest

from rowloom import client
from rowloom.client import Constant, Normal, TableSpec
from rowloom.proto.layout import owner
from rowloom.proto.spec import (
    FTRL,
    SGD,
    Adadelta,
    Adagrad,
    Adam,
    AdamW,
    Constraint,
    Cosine,
    Exponential,
    Optimizer,
    RMSprop,
    RowwiseAdagrad,
    TableEntry,
    WarmUp,
)
from rowloom.server.initializers import initial_rows
from rowloom.server.table import ShardTable

F = np.float32
V = 40
RECIPES: list[tuple[Optimizer, Constraint | None]] = [
    (SGD(0.5), None),
    (SGD(0.1, momentum=0.9, weight_decay=0.01), None),
    (SGD(0.1, momentum=0.9, nesterov=True, mode="dense"), None),
    (SGD(0.1, momentum=0.9, nesterov=True, weight_decay=0.1, mode="dense"), None),
    (SGD(0.1, weight_decay=0.1, mode="dense"), None),
    (Adagrad(0.1), None),
    (Adagrad(0.1, eps=0.0, initial_accumulator=0.1), None),
    (Adagrad(0.1, lr_decay=0.3), None),
    (RowwiseAdagrad(0.1, initial_accumulator=0.2), None),
    (Adam(0.01), None),
    (Adam(0.01, mode="dense"), None),
    (Adam(0.01, betas=(0.99, 0.9), mode="dense"), None),
    (Adam(0.01, mode="row"), None),
    (AdamW(0.01, weight_decay=0.1), None),
    (AdamW(0.01, weight_decay=0.1, mode="dense"), None),
    (AdamW(0.01, weight_decay=0.1, mode="row"), None),
    (RMSprop(0.01), None),
    (RMSprop(0.01, mode="dense"), None),
    (RMSprop(0.01, momentum=0.8), None),
    (RMSprop(0.01, momentum=0.8, mode="dense"), None),
    (Adadelta(), None),
    (Adadelta(0.7, rho=0.8, mode="dense"), None),
    (FTRL(0.5), None),
    (FTRL(0.5, l1=0.01, l2=0.02, l2_shrinkage=0.1, beta=0.3), None),
    (SGD(0.5), Constraint(clip_norm=0.7, low=-0.5, high=0.8)),
    (SGD(0.1, momentum=0.9, mode="dense"), Constraint(low=-0.5, high=0.8)),
    (Adam(0.1, mode="dense"), Constraint(clip_norm=1.0, low=-0.5)),
    (AdamW(0.1, weight_decay=0.5, mode="dense"), Constraint(low=0.1)),
    (Adagrad(Exponential(0.5, 10, 0.5)), None),
    (Adam(WarmUp(20, Cosine(0.1, 50, alpha=0.1)), mode="dense"), None),
    (SGD(Exponential(0.1, 5, 0.9, staircase=True), momentum=0.9, mode="dense"), None),
    (AdamW(WarmUp(5, 0.1, start=0.01), mode="dense"), None),
]
NAMES = [f"{optimizer}{constraint or ''}" for optimizer, constraint in RECIPES]


def test_every_optimizer_is_held_to_its_formula():
    public = {
        found for found in vars(client).values() if isinstance(found, type) and issubclass(found, Optimizer)
    }
    assert {type(optimizer) for optimizer, _ in RECIPES} == public - {Optimizer}


def rate(lr, step: int) -> float:
    """The rate of a step from 1, by the formulas of Keras."""
    k = step - 1
    if isinstance(lr, WarmUp):
        if k < lr.steps:
            return lr.start + (rate(lr.after, 1) - lr.start) * k / lr.steps
        return rate(lr.after, step - lr.steps)
    if isinstance(lr, Exponential):
        done = k / lr.decay_steps
        return lr.lr * lr.decay_rate ** (math.floor(done) if lr.staircase else done)
    if isinstance(lr, Cosine):
        half = 0.5 * (1 + math.cos(math.pi * min(1, k / lr.decay_steps)))
        return lr.lr * ((1 - lr.alpha) * half + lr.alpha)
    return lr


class Dense:
    """The whole table in one array; a push gives rows that it does not name a gradient of zeros, or leaves them."""

    def __init__(self, spec: TableSpec) -> None:
        self.spec, self.o = spec, spec.optimizer
        self.w = initial_rows(spec, np.arange(V))
        fill = getattr(self.o, "initial_accumulator", 0.0)
        self.a, self.b = np.full_like(self.w, fill), np.zeros_like(self.w)
        self.t, self.count = 0, np.zeros(V, np.int64)
        self.touched = np.zeros(V, bool)

    def push(self, ids: np.ndarray, grads: np.ndarray) -> None:
        self.t += 1
        g = np.zeros_like(self.w)
        for i, row in zip(
            ids, grads, strict=True
        ):  # the sum starts with the first gradient: 0 + -0 is not -0
            g[i] = row if not g[i].any() else g[i] + row
        c = self.spec.constraint
        if c and c.clip_norm is not None:
            for i in set(ids.tolist()):
                norm = math.sqrt(sum(float(x) * float(x) for x in g[i]))
                if norm > c.clip_norm:
                    g[i] *= F(c.clip_norm / norm)
        named = np.isin(np.arange(V), ids)
        self.count += named
        self.touched |= named
        at = np.ones(V, bool) if self.o.dense else named
        with np.errstate(divide="ignore", invalid="ignore", under="ignore"):
            w, self.a[at], self.b[at] = self.update(self.w[at], self.a[at], self.b[at], g[at], self.count[at])
        if c:
            low, high = F(-np.inf if c.low is None else c.low), F(np.inf if c.high is None else c.high)
            # Bounds hold for rows that exist, and for those that a dense weight decay moves.
            moved = np.ones(V, bool) if getattr(self.o, "weight_decay", 0) and self.o.dense else self.touched
            w = np.where(moved[at][:, None], np.clip(w, low, high), w)
        self.w[at] = w

    def update(self, w, a, b, g, count):
        o, lr = self.o, rate(self.o.lr, self.t)
        match o:
            case SGD():
                d = g + F(o.weight_decay) * w if o.weight_decay else g
                if not o.momentum:
                    return w - F(lr) * d, a, b
                b = F(o.momentum) * b + d
                return w - F(lr) * (d + F(o.momentum) * b if o.nesterov else b), a, b
            case Adagrad():
                a = a + g * g
                step = F(lr / (1 + (self.t - 1) * o.lr_decay)) * g / (np.sqrt(a) + F(o.eps))
                return w - step, a, b
            case RowwiseAdagrad():
                mean = [sum(float(x) * float(x) for x in row) / len(row) for row in g]
                a = a + np.array(mean).astype(F)[:, None]
                return w - F(lr) * g / (np.sqrt(a) + F(o.eps)), a, b
            case Adam() | AdamW():
                b1, b2 = o.betas
                t = count[:, None].astype(np.float64) if o.mode == "row" else np.float64(self.t)
                root = np.sqrt(1 - b2**t)
                scale = (lr * root / (1 - b1**t)).astype(F)
                eps = (o.eps * root).astype(F) if isinstance(o, AdamW) else F(o.eps)
                keep = F(1 - lr * o.weight_decay) if isinstance(o, AdamW) else F(1)
                a = a + F(1 - b1) * (g - a)
                b = b + F(1 - b2) * (g * g - b)
                return keep * w - scale * a / (np.sqrt(b) + eps), a, b
            case RMSprop():
                a = F(o.alpha) * a + F(1 - o.alpha) * (g * g)
                if not o.momentum:
                    return w - F(lr) * g / (np.sqrt(a) + F(o.eps)), a, b
                b = F(o.momentum) * b + g / (np.sqrt(a) + F(o.eps))
                return w - F(lr) * b, a, b
            case Adadelta():
                a = F(o.rho) * a + F(1 - o.rho) * (g * g)
                d = np.sqrt(b + F(o.eps)) / np.sqrt(a + F(o.eps)) * g
                return w - F(lr) * d, a, F(o.rho) * b + F(1 - o.rho) * (d * d)
            case FTRL():
                n = a + g * g
                b = b + ((g + F(2 * o.l2_shrinkage) * w) - (np.sqrt(n) - np.sqrt(a)) / F(lr) * w)
                below = np.sqrt(n) / F(lr) + F(2 * o.l2 + o.beta / lr)
                return (np.clip(b, -F(o.l1), F(o.l1)) - b) / below, n, b
        raise AssertionError(o)


def spec_of(optimizer: Optimizer, constraint: Constraint | None = None, dim: int = 5, **more) -> TableSpec:
    start = Normal(std=0.1, seed=1)
    return TableSpec("t", V, dim=dim, optimizer=optimizer, constraint=constraint, initializer=start, **more)


def table_of(spec: TableSpec, shard: int = 0, n: int = 1) -> ShardTable:
    return ShardTable(TableEntry(1, spec), shard, n)


def push(table: ShardTable, ids, grads) -> None:
    table.push(np.asarray(ids, np.int64), np.asarray(grads, F), table.next_step())


def pull(table: ShardTable, ids=range(V)) -> np.ndarray:
    ids = np.array(ids, np.int64)
    out = np.empty((len(ids), table.width), F)
    table.pull(ids, out)
    return out


def random_pushes(dim: int, count: int, rng: np.random.Generator, rows: int = V):
    for _ in range(count):
        ids = rng.integers(0, rows, rng.integers(0, 6))
        yield ids, rng.normal(size=(len(ids), dim)).astype(F)


@pytest.mark.parametrize(("optimizer", "constraint"), RECIPES, ids=NAMES)
@pytest.mark.parametrize("dim", [1, 5, 64])
def test_pushes_equal_the_whole_table_in_one_array_bit_for_bit(optimizer, constraint, dim: int) -> None:
    spec = spec_of(optimizer, constraint, dim)
    table, dense = table_of(spec), Dense(spec)
    for k, (ids, grads) in enumerate(random_pushes(dim, 80, np.random.default_rng(dim))):
        push(table, ids, grads)
        dense.push(ids, grads)
        if k % 9 == 0:
            count = len(table)
            np.testing.assert_array_equal(pull(table), dense.w)
            assert len(table) == count, "reading made rows"
    np.testing.assert_array_equal(pull(table), dense.w)
    assert np.isfinite(dense.w).all()


@pytest.mark.parametrize(("optimizer", "constraint"), RECIPES, ids=NAMES)
def test_any_number_of_shards_gives_the_same_bits(optimizer, constraint) -> None:
    pushes = list(random_pushes(5, 30, np.random.default_rng(7)))
    answers = []
    for n, partition in [(1, "mod"), (2, "mod"), (3, "div"), (4, "mod"), (5, "div")]:
        spec = spec_of(optimizer, constraint, partition=partition)
        tables = [table_of(spec, s, n) for s in range(n)]
        out = np.empty((V, 5), F)
        owners = owner(spec, np.arange(V), n)
        for ids, grads in pushes:
            for s, table in enumerate(tables):
                mine = owners[ids] == s
                push(table, ids[mine], grads[mine])
        for s, table in enumerate(tables):
            out[owners == s] = pull(table, np.flatnonzero(owners == s))
        answers.append(out)
    for other in answers[1:]:
        np.testing.assert_array_equal(other, answers[0])


@pytest.mark.parametrize(("optimizer", "constraint"), RECIPES, ids=NAMES)
def test_chunks_of_one_push_share_its_step_and_its_bits(optimizer, constraint) -> None:
    spec = spec_of(optimizer, constraint)
    whole, chunked = table_of(spec), table_of(spec)
    rng = np.random.default_rng(8)
    for _ in range(20):
        ids = rng.permutation(V)[:9]
        grads = rng.normal(size=(9, 5)).astype(F)
        push(whole, ids, grads)
        step = chunked.next_step()
        for begin in range(0, 9, 4):
            chunked.push(ids[begin : begin + 4].astype(np.int64), grads[begin : begin + 4], step)
            pull(chunked)
    np.testing.assert_array_equal(pull(chunked), pull(whole))


DENSE = [(o, c) for o, c in RECIPES if o.dense]


@pytest.mark.parametrize(("optimizer", "constraint"), DENSE, ids=repr)
@pytest.mark.parametrize("gap", [40, 3000])
def test_rows_that_were_left_alone_for_long_are_caught_up_exactly(optimizer, constraint, gap: int) -> None:
    spec = spec_of(optimizer, constraint)
    table, dense = table_of(spec), Dense(spec)
    rng = np.random.default_rng(gap)
    nothing = np.empty((0, 5), F)
    for _ in range(2):
        for ids, grads in random_pushes(5, 5, rng, rows=V // 2):
            push(table, ids, grads)
            dense.push(ids, grads)
        for _ in range(gap):
            push(table, [], nothing)
            dense.push(np.empty(0, np.int64), nothing)
        np.testing.assert_array_equal(pull(table), dense.w)
    push(table, np.arange(V), np.ones((V, 5)))
    dense.push(np.arange(V), np.ones((V, 5), F))
    np.testing.assert_array_equal(pull(table), dense.w)


@pytest.mark.parametrize(("optimizer", "constraint"), DENSE, ids=repr)
def test_a_moved_table_goes_on_as_if_it_had_never_moved(optimizer, constraint) -> None:
    spec = spec_of(optimizer, constraint)
    stay, here = table_of(spec), table_of(spec)
    rng = np.random.default_rng(9)
    for ids, grads in random_pushes(5, 20, rng):
        push(stay, ids, grads)
        push(here, ids, grads)
    there = [table_of(spec, s, 3) for s in range(3)]
    for s, table in enumerate(there):
        table.install(*here.read(0, 1 << 20, 3, s)[:3])
        table.step = here.step
    for ids, grads in random_pushes(5, 20, rng):
        push(stay, ids, grads)
        for s, table in enumerate(there):
            push(table, ids[ids % 3 == s], grads[ids % 3 == s])
    for s, table in enumerate(there):
        np.testing.assert_array_equal(pull(table, range(s, V, 3)), pull(stay, range(s, V, 3)))


def test_steps_before_a_new_rate_keep_the_rate_that_they_had() -> None:
    spec = spec_of(Adam(0.1, mode="dense"))
    table, dense = table_of(spec), Dense(spec)
    grads = np.ones((3, 5), F)
    push(table, [1, 2, 3], grads)
    dense.push(np.array([1, 2, 3]), grads)
    for lr, version in [(None, 0), (0.5, 1), (0.01, 2)]:
        if lr:
            table.set_lr(lr, version)
            dense.o = dataclasses.replace(dense.o, lr=lr)
            assert table.lr == lr
        for k in range(10):
            push(table, [4 + k], grads[:1])
            dense.push(np.array([4 + k]), grads[:1])
    np.testing.assert_array_equal(pull(table), dense.w)


def test_assigned_rows_of_a_dense_table_stand_where_they_were_put_and_move_on_from_there() -> None:
    spec = spec_of(SGD(0.1, momentum=0.5, mode="dense"))
    table, dense = table_of(spec), Dense(spec)
    for i in (1, 2, 1, 3):
        push(table, [i], np.ones((1, 5)))
        dense.push(np.array([i]), np.ones((1, 5), F))
    rows = np.full((2, 5), 7, F)
    table.assign(np.array([1, 9]), rows)
    dense.w[[1, 9]] = rows
    np.testing.assert_array_equal(pull(table), dense.w)
    push(table, [5], np.ones((1, 5)))
    dense.push(np.array([5]), np.ones((1, 5), F))
    np.testing.assert_array_equal(pull(table), dense.w)


def test_steps_are_counted_exactly_beyond_what_one_float_holds() -> None:
    table = table_of(spec_of(SGD(0.1, momentum=0.5, mode="dense")))
    table.step = 2**24 + 12344
    push(table, [1], np.ones((1, 5)))
    _, _, slots, _ = table.read(0, 1000)
    np.testing.assert_array_equal(slots[-1], [[1, 12345]])
    before = pull(table, [1])
    push(table, [2], np.ones((1, 5)))
    np.testing.assert_allclose(pull(table, [1]), before - 0.05, rtol=1e-6)


# Golden vectors from TensorFlow's own tests, to 1e-6.
def trained(optimizer: Optimizer, start: float | list[float], grads: list[float], pushes: int) -> np.ndarray:
    spec = TableSpec("golden", V, dim=2, optimizer=optimizer, initializer=Constant(0.0))
    table = table_of(spec)
    if start:
        table.assign(np.array([3]), np.array([start], F))
    for _ in range(pushes):
        push(table, [3], np.array([grads]))
    return pull(table, [3])[0]


@pytest.mark.parametrize(
    ("optimizer", "start", "grads", "pushes", "golden"),
    [
        (Adagrad(3.0, 0.0, 0.1), [1, 2], [0.1, 0.1], 3, [-1.6026098728, -0.6026098728]),
        (Adagrad(3.0, 0.0, 0.1), [3, 4], [0.01, 0.01], 3, [2.7156791687, 3.7156791687]),
        (FTRL(3.0), 0, [0.1, 0.2], 3, [-2.60260963, -4.29698515]),
        (FTRL(3.0), 0, [0.01, 0.02], 3, [-0.28432083, -0.56694895]),
        (FTRL(3.0, l1=0.001), [1, 2], [0.1, 0.2], 10, [-7.66718769, -10.91273689]),
        (FTRL(3.0, l1=0.001, l2=2), [1, 2], [0.1, 0.2], 10, [-0.24059935, -0.46829352]),
        (FTRL(3.0, l1=0.001, l2=2, l2_shrinkage=0.1), [1, 2], [0.1, 0.2], 10, [-0.22578995, -0.44345796]),
    ],
)
def test_golden_vectors_of_tensorflow(optimizer, start, grads, pushes, golden) -> None:
    np.testing.assert_allclose(trained(optimizer, start, grads, pushes), golden, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("power", [-0.5, -1.0, -0.3, 0.0])
@pytest.mark.parametrize(
    ("lr", "grad"),
    [
        (1e-39, 1.0),
        (1.5e-45, 1.0),
        (1e-36, 1.0),
        (0.1, 1e25),
        (1e-39, 1e25),
        (Exponential(1e-3, 1, 1e-41), 1.0),
    ],
)
def test_ftrl_never_makes_what_is_not_finite_of_tiny_rates_or_huge_gradients(lr, grad, power) -> None:
    """inf - inf, and inf * 0; and the logarithm of infinity, on which a shard hung for ever."""
    for start, beta in ((0.0, 0.0), (0.3, 1.0), (50.0, 0.0)):
        o = FTRL(lr, lr_power=power, beta=beta)
        rows = trained(o, [start, start], [grad, -grad], 3)
        assert np.isfinite(rows).all()
        if lr == 1.5e-45:  # beyond what float32 can divide by
            np.testing.assert_array_equal(rows, F(start))


def test_ftrl_with_any_power_equals_its_formula() -> None:
    o = FTRL(0.5, lr_power=-0.3, initial_accumulator=0.2, l1=0.01)
    w, n, z = 0.0, 0.2, 0.0
    for _ in range(5):
        grown = n + 0.3**2
        z += 0.3 - (grown**0.3 - n**0.3) / 0.5 * w
        n = grown
        w = (min(max(z, -0.01), 0.01) - z) / (n**0.3 / 0.5)
    np.testing.assert_allclose(trained(o, 0, [0.3, 0.3], 5), [w, w], rtol=1e-5)


@pytest.mark.parametrize(
    "optimizer",
    [
        Adagrad(0.1, eps=0),
        RowwiseAdagrad(0.1, eps=0),
        Adam(0.1, eps=0),
        Adam(0.1, eps=0, mode="row"),
        RMSprop(0.1, eps=0),
        RMSprop(0.1, eps=0, momentum=0.5),
        Adadelta(eps=0),
        FTRL(initial_accumulator=0),
    ],
    ids=repr,
)
def test_zero_gradients_leave_finite_weights_even_without_eps(optimizer: Optimizer) -> None:
    assert np.isfinite(trained(optimizer, [1, 2], [0.0, 1e-30], 3)).all()
