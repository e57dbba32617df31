"""Optimizers, schedules and constraints as values: what is refused, round trips, and what they keep beside a row."""

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rowloom.proto import rowloom_pb2 as pb
from rowloom.proto.errors import InvalidRequest
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
    Initializer,
    Optimizer,
    Recipe,
    RMSprop,
    RowwiseAdagrad,
    Schedule,
    TableEntry,
    TableSpec,
    WarmUp,
)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SGD(mode="eager"), 'SGD: mode must be "lazy" or "dense", got \'eager\''),  # type: ignore[arg-type]
        (lambda: Adam(mode=3), 'Adam: mode must be "lazy" or "dense" or "row", got 3'),  # type: ignore[arg-type]
        (
            lambda: Adam(eps=0, mode="dense"),
            'Adam: eps must be above 0 with mode="dense", and at least 1.18e-38',
        ),
        (lambda: AdamW(weight_decay=-1), "AdamW: weight_decay must be at least 0, got -1"),
        (lambda: Adagrad(lr_decay=-1), "Adagrad: lr_decay must be at least 0, got -1"),
        (lambda: RowwiseAdagrad(eps=float("nan")), "RowwiseAdagrad: eps must be at least 0, got nan"),
        (lambda: RMSprop(alpha=1), "RMSprop: alpha must be in [0, 1), got 1"),
        (lambda: RMSprop(momentum=-0.1), "RMSprop: momentum must be in [0, 1), got -0.1"),
        (lambda: Adadelta(rho="x"), "Adadelta: rho must be in [0, 1), got 'x'"),  # type: ignore[arg-type]
        (lambda: FTRL(lr_power=0.5), "FTRL: lr_power must be in [-1, 0], got 0.5"),
        (lambda: FTRL(l1=-1), "FTRL: l1 must be at least 0, got -1"),
        (lambda: SGD(lr=Constraint()), "SGD: lr must be finite and at least 0"),  # type: ignore[arg-type]
        (lambda: Exponential(decay_steps=0), "decay_steps must be a whole number above 0, got 0"),
        (lambda: Exponential(decay_rate=1.5), "Exponential: decay_rate must be in (0, 1], got 1.5"),
        (lambda: Cosine(alpha=2), "Cosine: alpha must be in [0, 1], got 2"),
        (lambda: Cosine(decay_steps=1.5), "decay_steps must be a whole number"),  # type: ignore[arg-type]
        (lambda: WarmUp(after=WarmUp()), "WarmUp: after must be a rate of at least 0, Exponential or Cosine"),
        (lambda: WarmUp(start=-1), "WarmUp: start must be finite and at least 0, got -1"),
        (lambda: Constraint(clip_norm=0), "Constraint: clip_norm must be None or above 0, got 0"),
        (
            lambda: Constraint(low=1, high=0),
            "Constraint: high must be None, or finite and at least low=1, got 0",
        ),
        (
            lambda: TableSpec("t", constraint=0.5),
            "constraint must be None or such as Constraint(clip_norm=1.0)",
        ),  # type: ignore[arg-type]
    ],
)
def test_what_cannot_be_is_refused_with_the_value_and_what_would_be_right(make, message: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        make()
    assert message in str(caught.value)


positive, unit, modes = st.floats(0.001, 1e3), st.floats(0, 0.999), st.sampled_from(["lazy", "dense"])
plain = st.one_of(
    positive,
    st.builds(Exponential, positive, st.integers(1, 10**6), st.floats(0.01, 1), st.booleans()),
    st.builds(Cosine, positive, st.integers(1, 10**6), st.floats(0, 1)),
)
rates = st.one_of(plain, st.builds(WarmUp, st.integers(1, 10**6), plain, positive))
pairs = st.tuples(unit, unit)
three = st.sampled_from(["lazy", "dense", "row"])
optimizers = st.one_of(
    st.builds(SGD, rates, st.floats(0.01, 0.99), st.booleans(), positive, modes),
    st.builds(Adagrad, rates, positive, positive, positive),
    st.builds(RowwiseAdagrad, rates, positive, positive),
    st.builds(Adam, rates, pairs, positive, three),
    st.builds(AdamW, rates, pairs, positive, positive, three),
    st.builds(RMSprop, rates, unit, positive, unit, modes),
    st.builds(Adadelta, rates, unit, positive, modes),
    st.builds(FTRL, rates, st.floats(-1, 0), positive, positive, positive, positive, positive),
)
maybe = st.one_of(st.none(), positive)
constraints = st.one_of(
    st.none(), st.builds(Constraint, maybe, st.one_of(st.none(), st.floats(-9, 0)), maybe)
)


@given(optimizers, constraints)
def test_tables_with_them_cross_the_wire_unchanged(optimizer, constraint) -> None:
    entry = TableEntry(1, TableSpec("t", 9, optimizer=optimizer, constraint=constraint))
    back = TableEntry.from_message(pb.TableEntry.FromString(entry.to_message().SerializeToString()))
    assert back == entry
    assert back.current_lr == optimizer.lr
    for field in dataclasses.fields(optimizer):
        assert type(getattr(back.spec.optimizer, field.name)) is type(getattr(optimizer, field.name))


@given(optimizers)
def test_what_changes_untouched_rows_or_follows_a_schedule_counts_steps(optimizer) -> None:
    if optimizer.dense or isinstance(optimizer.lr, Schedule):
        assert optimizer.counts_steps
    assert all(width > 0 for width in optimizer.slot_widths(3))


def test_slots_of_each_kind() -> None:
    kept = {
        SGD(): [],
        SGD(mode="dense"): [],
        SGD(momentum=0.9): [8],
        SGD(momentum=0.9, mode="dense"): [8, 2],
        SGD(weight_decay=0.1, mode="dense"): [2],
        Adagrad(): [8],
        RowwiseAdagrad(): [1],
        Adam(): [8, 8],
        Adam(mode="dense"): [8, 8, 2],
        AdamW(mode="row"): [8, 8, 1],
        RMSprop(): [8],
        RMSprop(momentum=0.5, mode="dense"): [8, 8, 2],
        Adadelta(): [8, 8],
        FTRL(): [8, 8],
    }
    assert {o: o.slot_widths(8) for o in kept} == kept


def test_configs_write_schedules_inside_of_optimizers() -> None:
    written = {"adam": {"lr": {"warmup": {"steps": 5, "after": {"cosine": {"lr": 0.5}}}}, "mode": "dense"}}
    assert Optimizer.from_mapping(written) == Adam(WarmUp(5, Cosine(0.5)), mode="dense")
    assert Constraint.from_mapping({"name": "constraint", "clip_norm": 2.0}) == Constraint(2.0)
    with pytest.raises(InvalidRequest, match="SGD: lr must be finite"):
        Optimizer.from_mapping({"sgd": {"lr": {"zeros": {}}}})


def test_helpers_of_the_family_are_no_recipes() -> None:
    assert not [name for name in Recipe.kinds if name.startswith("_")]


@pytest.mark.parametrize("family", [Optimizer, Initializer, Schedule, Recipe])
def test_the_base_of_a_family_was_known_and_taken_as_a_member_of_it(family) -> None:
    # `rowloom import ... --optimizer 'Optimizer(lr=1)'` was an internal error of the shards.
    name = family.__name__
    assert name not in Recipe.kinds
    with pytest.raises(InvalidRequest, match=f"^{name} is what several have in common.* take one of: "):
        family()
    with pytest.raises(InvalidRequest, match=f"^unknown recipe '{name}'; known: Adadelta") as sent:
        Recipe.from_message(pb.Recipe(name=name))
    with pytest.raises(InvalidRequest, match=f"unknown {name.lower()} '{name}'; known: ") as named:
        family.from_mapping({name: {}})
    for error in (sent, named):
        assert not {name, "Optimizer", "Initializer", "Schedule"} & set(
            str(error.value).partition("known: ")[2].split(", ")
        )
