"""What a table may be, what is refused and in which words, and that specs cross the wire unchanged."""

import dataclasses
import pickle

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from rowloom.proto import rowloom_pb2 as pb
from rowloom.proto import spec as specs
from rowloom.proto.errors import InvalidRequest
from rowloom.proto.spec import (
    FTRL,
    SGD,
    Adagrad,
    Adam,
    Constant,
    Constraint,
    Cosine,
    Exponential,
    Normal,
    Recipe,
    TableEntry,
    TableSpec,
    TruncatedNormal,
    TwoSided,
    Uniform,
    WarmUp,
    Zeros,
)

NAN, INF = float("nan"), float("inf")


def refused(make, message: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        make()
    assert message in str(caught.value)


# --------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": ""}, "table name must be 1 to 128 letters, digits, '.', '_' or '-'"),
        ({"name": "-users"}, "not starting with a sign; got '-users'"),
        ({"name": "users/items"}, "got 'users/items'"),
        ({"name": "a" * 129}, "1 to 128"),
        ({"name": "users\n"}, r"got 'users\n'"),
        ({"name": "größe"}, "got 'größe'"),
        ({"name": 7}, "got 7"),
        ({"num_embeddings": -1}, "num_embeddings must be None or in [0, 2**63), got -1 (table 'users')"),
        ({"num_embeddings": 2**63}, "got 9223372036854775808"),
        ({"num_embeddings": True}, "got True"),
        ({"dim": 0}, "dim must be at least 1, got 0 (table 'users')"),
        ({"dim": -4}, "got -4"),
        ({"dim": 2.5}, "got 2.5"),
        ({"dim": (2, 0)}, "got (2, 0)"),
        ({"dim": True}, "got True"),
        ({"dim": 4097}, "dim must be at most 4096 columns, got 4097"),
        ({"dim": (64, 65)}, "dim must be at most 4096 columns, got (64, 65)"),
        ({"partition": "hash"}, 'partition must be "mod" or "div", got \'hash\''),
        ({"partition": "div"}, 'partition must be "mod" for a table of open-ended ids'),
        (
            {"partition": "div", "num_embeddings": 9, "hash_ids": True},
            'hash_ids must be False unless partition is "mod"',
        ),
        ({"optimizer": "adagrad"}, "optimizer must be an optimizer such as Adagrad(lr=0.05), got 'adagrad'"),
        ({"optimizer": Zeros()}, "optimizer must be an optimizer"),
        ({"initializer": 0.0}, "initializer must be an initializer such as Normal(std=0.01), got 0.0"),
        ({"initializer": SGD()}, "initializer must be an initializer"),
        ({"dtype": "float64"}, "got 'float64'"),
    ],
)
def test_a_wrong_table_is_refused_with_the_value_and_what_would_be_right(arguments, message):
    refused(lambda: TableSpec(**{"name": "users", **arguments}), message)


@pytest.mark.parametrize(
    ("cls", "arguments", "message"),
    [
        (SGD, {"lr": -0.1}, "SGD: lr must be finite and at least 0, got -0.1"),
        (SGD, {"lr": NAN}, "SGD: lr must be"),
        (SGD, {"momentum": 1.0}, "SGD: momentum must be in [0, 1), got 1.0"),
        (SGD, {"nesterov": True}, "SGD: nesterov must be False without momentum, got True"),
        (SGD, {"weight_decay": -1.0}, "SGD: weight_decay must be"),
        (SGD, {"weight_decay": INF}, "SGD: weight_decay must be"),
        (Adagrad, {"lr": INF}, "Adagrad: lr must be"),
        (Adagrad, {"eps": -1e-9}, "Adagrad: eps must be"),
        (Adagrad, {"initial_accumulator": -1.0}, "Adagrad: initial_accumulator must be"),
        (Adam, {"betas": (0.9, 1.0)}, "Adam: betas must be two numbers in [0, 1), got (0.9, 1.0)"),
        (Adam, {"betas": (0.9,)}, "Adam: betas must be two numbers"),
        (Adam, {"betas": (NAN, 0.9)}, "Adam: betas must be two numbers"),
        (Adam, {"eps": NAN}, "Adam: eps must be"),
        (Constant, {"value": NAN}, "Constant: value must be finite, got nan"),
        (Uniform, {"low": 1.0, "high": 0.0}, "Uniform: high must be finite and at least low=1.0, got 0.0"),
        (Uniform, {"low": -INF}, "Uniform: low must be finite, got -inf"),
        (Normal, {"std": -1.0}, "Normal: std must be at least 0, got -1.0"),
        (Normal, {"mean": INF}, "Normal: mean must be finite, got inf"),
        (TruncatedNormal, {"std": -1.0}, "TruncatedNormal: std must be at least 0, got -1.0"),
        (TwoSided, {"low": -0.1}, "TwoSided: low must be at least 0, got -0.1"),
        (TwoSided, {"low": 1.0, "high": 0.5}, "TwoSided: high must be finite and at least low=1.0, got 0.5"),
    ],
)
def test_a_wrong_recipe_is_refused_with_its_argument_and_value(cls, arguments, message):
    refused(lambda: cls(**arguments), message)


def test_every_refusal_is_also_a_value_error():
    with pytest.raises(ValueError, match="dim must be at least 1"):
        TableSpec("users", dim=0)


@pytest.mark.parametrize("name", ["a", "A.b_c-9", "0", "x" * 128, "a..b"])
def test_names_of_letters_digits_and_signs_are_accepted(name):
    assert TableSpec(name).name == name


def test_the_extremes_are_accepted():
    assert TableSpec("t", num_embeddings=0).id_limit == 0
    assert TableSpec("t", num_embeddings=2**63 - 1).id_limit == 2**63 - 1
    assert TableSpec("t", dim=4096).width == TableSpec("t", dim=(64, 64)).width == 4096
    assert TableSpec("t", dim=()).width == 1


# ----------------------------------------------------------------------------------------------------- shapes


@pytest.mark.parametrize(
    ("dim", "shape", "width"), [(8, (8,), 8), ((2, 5), (2, 5), 10), ((), (), 1), ([3], (3,), 3)]
)
def test_a_row_has_the_shape_that_was_asked_for(dim, shape, width):
    spec = TableSpec("t", dim=dim)
    assert (spec.row_shape, spec.width) == (shape, width)


def test_metadata_that_every_client_would_have_to_be_told_is_bounded():
    # 63 MB of it made every new client, status and scaling fail.
    most = {"k": "ä" * ((specs.MAX_METADATA_BYTES - 1) // 2)}
    assert TableSpec("t", metadata=most).metadata == most
    refused(
        lambda: TableSpec("t", metadata={**most, "x": "yz"}),
        "metadata must be at most 131072 bytes in all (put what is longer into a file, and its path here), got 131074",
    )


def test_a_row_of_millions_of_axes_once_stalled_every_server_that_was_told_of_it():
    most = (1,) * specs.MAX_AXES
    assert TableSpec.from_message(TableSpec("t", dim=most).to_message()).dim == most
    said = "dim must be a shape of at most 16 axes, got 17 axes (table 't')"
    refused(lambda: TableSpec("t", dim=(*most, 1)), said)
    message = TableSpec("t", dim=most).to_message()
    message.row_shape.append(1)
    refused(lambda: TableSpec.from_message(message), said)


def test_a_spec_as_a_message_has_a_bound_of_its_own():
    # Metadata is bounded by its letters: entries of one letter each take several times as much.
    metadata = {chr(0x4E00 + k % 20_000) * (k // 20_000 + 1): "" for k in range(30_000)}
    spec = TableSpec("t", metadata=metadata)
    refused(spec.to_message, f"at most {specs.MAX_SPEC_BYTES} bytes as a message, got")
    message = TableSpec("t").to_message()
    message.constraint.name = "x" * specs.MAX_SPEC_BYTES
    refused(
        lambda: TableSpec.from_message(message), f"at most {specs.MAX_SPEC_BYTES} bytes as a message, got"
    )


def test_differences_of_long_values_are_short():
    here, there = (TableSpec("t", metadata={"note": word * 100_000}) for word in "ab")
    (difference,) = here.differences(there)
    assert len(difference) < 600
    assert "... (100012 characters)" in difference


def test_numpy_integers_are_taken_as_integers():
    spec = TableSpec("t", num_embeddings=np.int64(9), dim=np.int32(4))  # type: ignore[arg-type]
    assert spec == TableSpec("t", num_embeddings=9, dim=4)
    assert type(spec.dim) is int


def test_specs_are_frozen_values_that_can_be_pickled():
    spec = TableSpec("t", num_embeddings=9, dim=(2, 3), optimizer=Adam(), metadata={"a": "b"})
    with pytest.raises(dataclasses.FrozenInstanceError):
        spec.name = "u"  # type: ignore[misc]
    assert pickle.loads(pickle.dumps(spec)) == spec


def test_differences_name_each_argument_with_both_values():
    a, b = TableSpec("t", dim=8, optimizer=SGD(lr=0.1)), TableSpec("t", dim=16, optimizer=SGD(lr=0.2))
    first, second = a.differences(b)
    assert first == "dim: 8 here, 16 there"
    assert second.startswith("optimizer: SGD(lr=0.1")
    assert a.differences(a) == []


# --------------------------------------------------------------------------------------------------- the wire

positive = st.floats(0, 1e6, allow_subnormal=False)
unit = st.floats(0, 0.999)
seeds = st.integers(0, 2**53)
finite = st.floats(-1e6, 1e6)
optimizers = st.one_of(
    st.builds(SGD, positive, st.floats(0.001, 0.999), st.booleans(), positive),
    st.builds(Adagrad, positive, positive, positive),
    st.builds(Adam, positive, st.tuples(unit, unit), positive),
)
initializers = st.one_of(
    st.just(Zeros()),
    st.builds(Constant, finite),
    st.builds(lambda low, wide, seed: Uniform(low, low + wide, seed), finite, positive, seeds),
    st.builds(Normal, finite, positive, seeds),
    st.builds(TruncatedNormal, finite, positive, seeds),
    st.builds(lambda low, wide, seed: TwoSided(low, low + wide, seed), positive, positive, seeds),
)
row_shapes = st.one_of(st.integers(1, 4096), st.lists(st.integers(1, 8), max_size=4).map(tuple))


@st.composite
def table_specs(draw):
    v = draw(st.one_of(st.none(), st.integers(0, 2**63 - 1)))
    partition = draw(st.sampled_from(["mod", "div"] if v is not None else ["mod"]))
    return TableSpec(
        draw(st.from_regex(specs.NAME, fullmatch=True).filter(str.isascii)),
        num_embeddings=v,
        dim=draw(row_shapes.filter(lambda d: not isinstance(d, tuple) or len(d) != 1)),
        partition=partition,
        optimizer=draw(optimizers),
        initializer=draw(initializers),
        hash_ids=draw(st.booleans()) and partition == "mod",
        frozen=draw(st.booleans()),
        metadata=draw(st.dictionaries(st.text(max_size=5), st.text(max_size=5), max_size=2)),
        wire=draw(st.sampled_from(specs.WIRES)),
    )


@given(table_specs())
def test_a_spec_crosses_the_wire_unchanged(spec):
    message = pb.TableSpec.FromString(spec.to_message().SerializeToString())
    assert TableSpec.from_message(message) == spec


@given(st.one_of(optimizers, initializers))
def test_recipes_keep_their_types_on_the_wire(recipe):
    back = Recipe.from_message(pb.Recipe.FromString(recipe.to_message().SerializeToString()))
    assert back == recipe
    for field in dataclasses.fields(recipe):
        assert type(getattr(back, field.name)) is type(getattr(recipe, field.name)), field.name


@given(table_specs(), st.integers(0, 2**32 - 1), st.one_of(st.none(), positive), st.integers(0, 2**32 - 1))
def test_an_entry_crosses_the_wire_and_knows_the_rate_in_force(spec, number, lr, version):
    entry = TableEntry(number, spec, lr, version)
    back = TableEntry.from_message(pb.TableEntry.FromString(entry.to_message().SerializeToString()))
    assert back == entry
    assert back.current_lr == (spec.optimizer.lr if lr is None else lr)


def test_an_open_ended_table_is_not_an_empty_one_on_the_wire():
    for v in (None, 0):
        message = pb.TableSpec.FromString(TableSpec("t", num_embeddings=v).to_message().SerializeToString())
        assert TableSpec.from_message(message).num_embeddings == v


def test_what_a_message_leaves_out_takes_the_documented_default():
    message = TableSpec("t").to_message()
    message.ClearField("wire")
    assert TableSpec.from_message(message) == TableSpec("t", wire="float32")
    assert Recipe.from_message(pb.Recipe(name="Adam")) == Adam()
    assert Recipe.from_message(pb.Recipe(name="Adagrad", numbers={"lr": 0.5})) == Adagrad(lr=0.5)


def test_an_unknown_recipe_or_argument_is_refused_with_the_known_ones():
    refused(lambda: Recipe.from_message(pb.Recipe(name="Lion")), "unknown recipe 'Lion'; known: ")
    wrong = pb.Recipe(name="Adagrad", numbers={"learning_rate": 0.1})
    refused(lambda: Recipe.from_message(wrong), "Adagrad has no argument 'learning_rate'; it has: lr, eps")


def test_a_spec_from_the_wire_is_checked_like_any_other():
    message = TableSpec("t", num_embeddings=9, dim=4).to_message()
    message.partition = "range"
    refused(lambda: TableSpec.from_message(message), "partition must be")


numbers = st.dictionaries(
    st.sampled_from(
        ["lr", "betas.0", "betas.1", "betas.x", "eps", "seed", "std", "low", "name", "a.b.c", ""]
    ),
    st.floats(),
    max_size=3,
)
words = st.dictionaries(st.sampled_from(["lr", "seed", "value", "x"]), st.text(max_size=3), max_size=2)
names = st.sampled_from([*sorted(Recipe.kinds), ""])
flat = st.builds(lambda name, n, w: pb.Recipe(name=name, numbers=n, words=w), names, numbers, words)
inner_recipes = st.dictionaries(st.sampled_from(["lr", "value", "x"]), flat, max_size=1)
messages = st.builds(
    lambda name, n, inner: pb.Recipe(name=name, numbers=n, recipes=inner), names, numbers, inner_recipes
)


@given(st.one_of(flat, messages))
def test_any_recipe_from_the_wire_is_a_good_one_or_refused(message):
    try:
        recipe = Recipe.from_message(message)
    except InvalidRequest:
        return
    assume(isinstance(recipe, Recipe))
    assert Recipe.from_message(recipe.to_message()) == recipe


@pytest.mark.parametrize("seed", [2**53 + 1, 2**63 - 1, 2**64 - 1])
def test_a_large_seed_is_kept_exactly_or_refused(seed):
    try:
        recipe = Normal(seed=seed)
    except InvalidRequest:
        return
    assert Recipe.from_message(recipe.to_message()) == recipe


@pytest.mark.parametrize(
    "make",
    [
        lambda: TableSpec("t", num_embeddings=1.5),  # type: ignore[arg-type]
        lambda: TableSpec("t", num_embeddings="9"),  # type: ignore[arg-type]
        lambda: TableSpec("t", dim="8"),  # type: ignore[arg-type]
        lambda: TableSpec("t", metadata={"a": 1}),  # type: ignore[dict-item]
        lambda: SGD(lr="fast"),  # type: ignore[arg-type]
        lambda: Adam(betas=0.9),  # type: ignore[arg-type]
        lambda: Normal(std=None),  # type: ignore[arg-type]
        lambda: Normal(seed=1.5),  # type: ignore[arg-type]
        lambda: Normal(seed=-1),
        lambda: Uniform(low="a"),  # type: ignore[arg-type]
    ],
)
def test_a_value_of_the_wrong_type_is_refused_like_any_other(make):
    with pytest.raises(InvalidRequest):
        make()


# ---------------------------------------------------------------------------------------------------- configs


@pytest.mark.parametrize(
    ("value", "recipe"),
    [
        ({"adagrad": {"lr": 0.05}}, Adagrad(lr=0.05)),
        ({"name": "Adagrad", "lr": 0.05}, Adagrad(lr=0.05)),
        ({"SGD": None}, SGD()),
        ({"name": "adam", "betas": [0.8, 0.9]}, Adam(betas=(0.8, 0.9))),
    ],
)
def test_configs_write_an_optimizer_in_either_way(value, recipe):
    assert specs.Optimizer.from_mapping(value) == recipe


def test_a_config_with_the_wrong_family_or_argument_is_refused():
    refused(lambda: specs.Optimizer.from_mapping({"zeros": {}}), "unknown optimizer 'zeros'; known: ")
    refused(
        lambda: specs.Initializer.from_mapping({"normal": {"sdt": 1}}),
        "Normal has no argument 'sdt'; it has: mean",
    )
    refused(lambda: specs.Optimizer.from_mapping({"lr": 1, "eps": 2}), "write it as {name: ..., arguments}")


BEYOND = [
    (SGD, "lr"),
    (SGD, "weight_decay"),
    (Adagrad, "eps"),
    (Adagrad, "initial_accumulator"),
    (Adagrad, "lr_decay"),
    (FTRL, "l1"),
    (FTRL, "l2"),
    (FTRL, "l2_shrinkage"),
    (FTRL, "beta"),
    (Exponential, "lr"),
    (Cosine, "lr"),
    (WarmUp, "after"),
    (WarmUp, "start"),
    (Constraint, "clip_norm"),
    (Constraint, "high"),
    (Constant, "value"),
    (Uniform, "high"),
    (TwoSided, "high"),
    (Normal, "mean"),
    (Normal, "std"),
    (TruncatedNormal, "std"),
]


@pytest.mark.parametrize("value", [1e39, 10**400], ids=["1e39", "10**400"])
@pytest.mark.parametrize(("recipe", "argument"), BEYOND, ids=lambda x: getattr(x, "__name__", x))
def test_numbers_beyond_float32_no_longer_make_infinite_rows(recipe, argument, value):
    with pytest.raises(InvalidRequest, match=r"no more than float32 holds, 3\.4028235e\+38, got"):
        recipe(**{argument: value})


@pytest.mark.parametrize(("recipe", "argument"), [(Constant, "value"), (Uniform, "low"), (Constraint, "low")])
def test_numbers_below_what_float32_holds_no_longer_make_infinite_rows(recipe, argument):
    with pytest.raises(InvalidRequest, match=r"no more than float32 holds, 3\.4028235e\+38, got -1e\+39"):
        recipe(**{argument: -1e39})


@pytest.mark.parametrize("drawn", [Normal, TruncatedNormal])
def test_a_normal_whose_tails_float32_does_not_hold_is_refused(drawn):
    with pytest.raises(InvalidRequest, match=r"std must be at most 5\.3\d+e\+37, .* got 1e\+38"):
        drawn(std=1e38)
    with pytest.raises(InvalidRequest, match="std must be at most 0, "):
        drawn(mean=np.finfo(np.float32).max, std=1.0)
    assert drawn(std=5e37).std == 5e37


def test_an_epsilon_that_is_zero_in_float32_is_not_above_zero():
    with pytest.raises(InvalidRequest, match=r"eps must be above 0 .* at least 1\.18e-38, got 1e-46"):
        Adam(mode="dense", eps=1e-46)


def test_a_number_of_numpy_becomes_a_number_of_python():
    made = SGD(lr=np.float32(0.5), momentum=np.float64(0.25), nesterov=np.True_)  # type: ignore[arg-type]
    assert repr(made) == "SGD(lr=0.5, momentum=0.25, nesterov=True, weight_decay=0.0, mode='lazy')"
    assert repr(Adam(betas=(np.float32(0.5), np.float64(0.75)))).startswith(
        "Adam(lr=0.001, betas=(0.5, 0.75)"
    )  # type: ignore[arg-type]
    spec = TableSpec("t", np.int64(9), dim=np.int32(4), hash_ids=np.True_, frozen=np.False_)  # type: ignore[arg-type]
    assert (spec.num_embeddings, spec.dim, spec.hash_ids, spec.frozen) == (9, 4, True, False)
    assert {type(v) for v in (spec.num_embeddings, spec.dim)} == {int}
    assert TableSpec.from_message(spec.to_message()) == spec


@pytest.mark.parametrize("argument", ["hash_ids", "frozen"])
def test_a_word_is_no_flag(argument):
    with pytest.raises(InvalidRequest, match=f"{argument} must be True or False, got 'false'"):
        TableSpec("t", **{argument: "false"})  # type: ignore[arg-type]


def test_metadata_that_cannot_be_sent_is_refused_where_it_is_written():
    with pytest.raises(InvalidRequest, match="metadata must be strings by strings, without lone surrogates"):
        TableSpec("t", metadata={"words": "\ud800"})
    with pytest.raises(InvalidRequest, match="metadata must be strings by strings"):
        TableSpec("t", metadata=["words"])  # type: ignore[arg-type]
    assert TableSpec("t", metadata={"words": "\U0001f600é"}).metadata["words"] == "\U0001f600é"


def test_the_spec_in_force_has_the_rate_that_was_set():
    spec = TableSpec("t", optimizer=Adagrad(lr=WarmUp()))
    assert TableEntry(1, spec).current_spec == spec
    now = TableEntry(1, spec, lr=0.5, lr_version=1).current_spec
    assert now.optimizer == Adagrad(lr=0.5)
    assert now.differences(spec) == [f"optimizer: {Adagrad(lr=0.5)!r} here, {Adagrad(lr=WarmUp())!r} there"]


def test_arguments_that_come_twice_or_with_gaps_are_refused() -> None:
    """The last one silently won, and of a tuple with gaps the rest moved up."""
    for change, message in [
        (
            lambda m: m.recipes["lr"].CopyFrom(Exponential(0.1, 10, 0.5).to_message()),
            "argument 'lr' comes twice",
        ),
        (lambda m: m.words.update({"lr": "x"}), "argument 'lr' comes twice"),
        (lambda m: m.numbers.update({"betas": 0.5}), "argument 'betas' comes twice"),
        (lambda m: m.numbers.update({"betas.3": 0.5}), "no argument 'betas.3'"),
        (lambda m: m.numbers.update({"betas.01": 0.5}), "no argument 'betas.01'"),
        (lambda m: m.numbers.update({"betas." + "9" * 5000: 0.5}), "no argument 'betas.999"),
    ]:
        recipe = Adam().to_message()
        change(recipe)
        with pytest.raises(InvalidRequest, match=message):
            Recipe.from_message(recipe)
