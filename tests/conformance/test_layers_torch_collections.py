"""Collections of embeddings beside torch.nn.Embedding and EmbeddingBag, one for each feature."""

import copy
import io
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from table_fake import FakeTable
from torch_beside import equal, pushed, torch, touched

from rowloom.client import SGD, Adagrad, Adam, InvalidRequest, Normal, TableExists, TableSpec
from rowloom.client.layers_torch import (
    EmbeddingBagCollection,
    EmbeddingBagConfig,
    EmbeddingCollection,
    EmbeddingConfig,
    push_on_step,
)

SIZES = {"users": (11, 3), "items": (7, 4)}


def tables(**how):
    """Two tables of one client, with rows from a normal distribution."""
    first, second = (
        FakeTable(TableSpec(name, v, dim, **{"optimizer": SGD(lr=1.0), **how}))
        for name, (v, dim) in SIZES.items()
    )
    return first, first.beside(second)


def config(kind, name, *features, **how):
    v, dim = SIZES[name]
    return kind(num_embeddings=v, embedding_dim=dim, name=name, feature_names=features, **how)


def collection(client, **how):
    """Two features of users, one of items."""
    users = config(EmbeddingConfig, "users", "seen", "shown", **how)
    return EmbeddingCollection(client, [users, config(EmbeddingConfig, "items", "bought")])


def bags_of(client, poolings=("sum", "mean"), padding=(None, None), **how):
    users, items = (
        config(EmbeddingBagConfig, name, *features, pooling=pooling, padding_idx=pad)
        for name, features, pooling, pad in zip(
            SIZES, (("seen", "shown"), ("bought",)), poolings, padding, strict=True
        )
    )
    return EmbeddingBagCollection(client, [users, items], **how)


def twins(given, cls=torch.nn.Embedding, **how):
    """PyTorch's module for each table, with its rows."""
    modules = []
    for k, table in enumerate(given):
        module = cls(*table.rows.shape, **{name: value[k] for name, value in how.items()})
        with torch.no_grad():
            module.weight.copy_(torch.from_numpy(table.rows))
        modules.append(module)
    return modules


IDS = {
    "seen": torch.tensor([[1, 2], [3, 1]]),
    "shown": torch.tensor([1, 0], dtype=torch.int32),
    "bought": torch.tensor(6),
}


def loss_of(rows, weights=(1.0, 2.0, 3.0)):
    return sum((w * (one * one).sum() for w, one in zip(weights, rows, strict=True)), torch.zeros(()))


# ------------------------------------------------------------------------------------------------------------- rows


def test_rows_and_pushes_are_those_of_a_torch_embedding_for_each_table():
    users, items = tables()
    theirs = twins((users, items))
    got = collection(users)({**IDS, "label": "left alone"})
    expected = [theirs[0](IDS["seen"]), theirs[0](IDS["shown"]), theirs[1](IDS["bought"])]
    assert list(got) == ["seen", "shown", "bought"]
    for one, other in zip(got.values(), expected, strict=True):
        equal(one, other)
    loss_of(got.values()).backward()
    loss_of(expected).backward()
    for table, module in zip((users, items), theirs, strict=True):
        equal(pushed(table), module.weight.grad, 1e-6)


def test_all_tables_are_pulled_in_one_call_and_pushed_in_one_a_table_once():
    users, items = tables()
    loss_of(collection(users)(IDS).values()).backward()
    assert users.pulled == [["users", "items"]]
    assert users.requests == [["users", "items"]]
    assert (len(users.pushes), len(items.pushes)) == (1, 1)


def test_a_collection_used_twice_in_a_loss_pushes_each_table_once():
    users, _ = tables()
    embed = collection(users)
    rows = [*embed(IDS).values(), *embed(IDS).values()]
    loss_of(rows, (1.0,) * 6).backward()
    assert users.requests == [["users", "items"]]
    once = tables()
    loss_of(collection(once[0])(IDS).values(), (2.0,) * 3).backward()
    equal(pushed(users), pushed(once[0]), 1e-6)


def test_the_gradient_of_padding_is_not_pushed_and_its_row_comes_as_it_is():
    users, _ = tables()
    embed = collection(users, padding_idx=-10)
    rows = embed(IDS)
    equal(rows["seen"][0, 0], torch.from_numpy(users.rows[1].copy()))
    loss_of(rows.values()).backward()
    assert touched(users) == {0, 2, 3}


def test_a_feature_without_a_gradient_trains_nothing():
    users, items = tables()
    collection(users)(IDS)["bought"].sum().backward()
    assert users.requests == [["items"]]
    assert touched(items) == {6}


def test_grad_of_autograd_trains_nothing_and_no_grad_and_a_frozen_collection_push_nothing():
    users, _ = tables()
    embed = collection(users)
    torch.autograd.grad(loss_of(embed(IDS).values()), embed.anchor)
    with torch.no_grad():
        assert not embed(IDS)["seen"].requires_grad
    frozen = collection(users).freeze(True)
    assert not frozen(IDS)["seen"].requires_grad
    assert users.requests == []


def test_a_frozen_table_beside_others_takes_no_gradients():
    users, _ = tables()
    frozen = FakeTable(TableSpec("items", *SIZES["items"], frozen=True))
    users.beside(frozen)
    loss_of(collection(users)(IDS).values()).backward()
    assert users.requests == [["users"]]


def test_a_gradient_that_shares_memory_with_that_of_a_parameter_is_pushed_as_it_was():
    users, _ = tables()
    embed = EmbeddingCollection(users, [config(EmbeddingConfig, "users", "seen")])
    optimizer = torch.optim.SGD(embed.parameters(), lr=0.1)
    push_on_step(optimizer, embed)
    bias = torch.zeros(2, 3, requires_grad=True)
    (embed({"seen": torch.tensor([1, 2])})["seen"] + bias).backward(torch.ones(2, 3))
    bias.grad.zero_()
    optimizer.step()
    equal(pushed(users)[1:3], np.ones((2, 3), np.float32))


def test_ids_may_be_overwritten_before_the_backward_pass():
    users, _ = tables()
    ids = {name: value.clone() for name, value in IDS.items()}
    loss = loss_of(collection(users)(ids).values())
    for value in ids.values():
        value.zero_()
    loss.backward()
    assert touched(users) == {0, 1, 2, 3}


def test_a_feature_of_two_tables_is_named_with_each():
    users, _ = tables()
    embed = EmbeddingCollection(users, [config(EmbeddingConfig, name, "id") for name in SIZES])
    assert embed.embedding_names == ("id@users", "id@items")
    assert {name: rows.shape[1] for name, rows in embed({"id": torch.tensor([1])}).items()} == {
        "id@users": 3,
        "id@items": 4,
    }


# ------------------------------------------------------------------------------------------------------------- bags

BAGS = st.lists(st.lists(st.integers(0, 6), max_size=4), min_size=3, max_size=3)


@settings(max_examples=80)
@given(
    st.tuples(BAGS, BAGS, BAGS),
    st.tuples(*[st.sampled_from(["sum", "mean"])] * 2),
    st.tuples(*[st.sampled_from([None, 0, 5])] * 2),
    st.booleans(),
    st.booleans(),
)
def test_bags_and_their_pushes_are_those_of_a_torch_embedding_bag_for_each_table(
    bags, poolings, padding, last, weighted
):
    weighted &= poolings == ("sum", "sum")  # torch has weights with "sum" only
    users, items = tables()
    ours = bags_of(users, poolings, padding, include_last_offset=last)
    theirs = twins(
        (users, items),
        torch.nn.EmbeddingBag,
        mode=poolings,
        padding_idx=padding,
        include_last_offset=(last, last),
    )
    features, expected, weights = {}, [], []
    for k, (name, some) in enumerate(zip(("seen", "shown", "bought"), bags, strict=True)):
        ids = torch.tensor([i for bag in some for i in bag], dtype=torch.int64)
        ends = np.cumsum([0] + [len(bag) for bag in some])
        offsets = torch.tensor(ends if last else ends[:-1])
        pair = [torch.linspace(-1, 1, len(ids)).requires_grad_() for _ in range(2)]
        weights.append(pair)
        features[name] = (ids, offsets, pair[0]) if weighted else (ids, offsets)
        expected.append(theirs[k // 2](ids, offsets, pair[1] if weighted else None))
    out = torch.cat(expected, 1)
    got = ours(features)
    equal(got, out, 1e-6)
    upstream = torch.randn(out.shape, generator=torch.Generator().manual_seed(1))
    got.backward(upstream)
    out.backward(upstream)
    for table, module in zip((users, items), theirs, strict=True):
        equal(pushed(table), module.weight.grad, 1e-5)
    assert len(users.requests) <= 1
    for own, other in weights if weighted else ():
        equal(own.grad, other.grad, 1e-5)


@pytest.mark.parametrize("padding", [None, 2])
@pytest.mark.parametrize("k", [1, 3])
def test_bags_of_two_axes_are_those_of_torch_and_come_as_a_dict_too(k, padding):
    users, items = tables()
    theirs = twins((users, items), torch.nn.EmbeddingBag, mode=("sum", "mean"), padding_idx=(padding,) * 2)
    ids = {name: torch.randint(0, 7, (5, k)) for name in ("seen", "shown", "bought")}
    ids["seen"][0] = 2
    expected = [theirs[0](ids["seen"]), theirs[0](ids["shown"]), theirs[1](ids["bought"])]
    ours = bags_of(users, padding=(padding,) * 2)
    equal(ours(ids), torch.cat(expected, 1), 1e-6)
    named = bags_of(users, padding=(padding,) * 2, as_dict=True)(ids)
    assert tuple(named) == ours.embedding_names
    for got, right in zip(named.values(), expected, strict=True):
        equal(got, right, 1e-6)
    ours(ids).sum().backward()
    torch.cat(expected, 1).sum().backward()
    for table, module in zip((users, items), theirs, strict=True):
        equal(pushed(table), module.weight.grad, 1e-5)
        assert padding not in touched(table)


def test_poolings_of_torchrec_are_taken_and_others_refused():
    class Pooling:
        value = "MEAN"

    assert config(EmbeddingBagConfig, "users", "a", pooling=Pooling()).pooling == "mean"
    with pytest.raises(
        InvalidRequest, match="pooling of table 'users' must be \"sum\" or \"mean\", got 'max'"
    ):
        config(EmbeddingBagConfig, "users", "a", pooling="max")


# --------------------------------------------------------------------------------------------------------- training


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (Adagrad(lr=0.1), lambda p: torch.optim.Adagrad(p, lr=0.1)),
        (Adam(lr=0.1, mode="dense"), lambda p: torch.optim.Adam(p, lr=0.1)),
        (SGD(lr=0.1), lambda p: torch.optim.SGD(p, lr=0.1)),
    ],
)
@pytest.mark.parametrize("accumulated", [1, 3])
def test_training_on_shards_has_the_losses_and_rows_of_local_embeddings(client, ours, theirs, accumulated):
    how = {"optimizer": ours, "initializer": Normal(std=0.5)}
    embed = EmbeddingCollection(
        client,
        [config(EmbeddingConfig, "users", "a", "b", **how), config(EmbeddingConfig, "items", "c", **how)],
    )
    own = [client.table(name) for name in SIZES]
    local = []
    for table in own:
        rows = torch.from_numpy(table.pull(np.arange(table.spec.num_embeddings)))
        local.append(torch.nn.Embedding.from_pretrained(rows, freeze=False))
    steps = [theirs([module.weight for module in local]), torch.optim.SGD(embed.parameters(), lr=0.1)]
    if accumulated > 1:
        push_on_step(steps[1], embed)
    generator = torch.Generator().manual_seed(2)
    for n in range(1, 10):
        ids = {name: torch.randint(0, 7, (6,), generator=generator) for name in "abc"}
        losses = [
            loss_of([local[0](ids["a"]), local[0](ids["b"]), local[1](ids["c"])]),
            loss_of(embed(ids).values()),
        ]
        equal(losses[1], losses[0], 1e-4)
        for loss in losses:
            loss.backward()
        if n % accumulated == 0:
            for step in steps:
                step.step()
                step.zero_grad()
    for table, module in zip(own, local, strict=True):
        equal(table.pull(np.arange(table.spec.num_embeddings)), module.weight, 1e-4)


def test_gradients_that_are_not_finite_show_in_the_anchor():
    users, _ = tables()
    embed = collection(users)
    push_on_step(torch.optim.SGD(embed.parameters(), lr=0.1), embed)
    (embed(IDS)["seen"] * float("inf")).sum().backward()
    assert torch.isnan(embed.anchor.grad).all()


def test_rows_have_the_type_of_the_collection():
    users, _ = tables()
    for dtype in (torch.bfloat16, torch.float64):
        assert {rows.dtype for rows in collection(users).to(dtype)(IDS).values()} == {dtype}
        assert bags_of(users).to(dtype)({name: torch.tensor([[1]]) for name in IDS}).dtype == dtype


# --------------------------------------------------------------------------------------------- tables and refusals


def test_tables_that_are_not_there_are_made_as_torchrec_makes_them(client):
    made = EmbeddingConfig(
        num_embeddings=100, embedding_dim=5, name="new", feature_names=["x"], padding_idx=3
    )
    rows = EmbeddingCollection(client, [made])({"x": torch.arange(100)})["x"].detach()
    assert not rows[3].any()
    assert 0.09 < rows.abs().max() <= 0.1
    assert client.table("new").spec.optimizer == SGD()


def test_a_table_that_is_there_is_used_if_it_fits_whatever_its_optimizer(client):
    spec = TableSpec("users", *SIZES["users"], optimizer=Adagrad(lr=0.3))
    table = client.create_table(spec)
    assert collection(client).gradients.tables[0].spec == table.spec
    with pytest.raises(InvalidRequest, match=r"'users' is there with num_embeddings=11 and rows of \(3,\)"):
        EmbeddingConfig(num_embeddings=12, embedding_dim=3, name="users", feature_names=["x"]).table(client)
    with pytest.raises(TableExists):
        config(EmbeddingConfig, "users", "x", optimizer=SGD(lr=0.3)).table(client)


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda c: EmbeddingCollection(c, []), "tables must be a list of EmbeddingConfig"),
        (lambda c: EmbeddingCollection(c, [c]), "it has a FakeTable"),
        (
            lambda c: EmbeddingBagCollection(c, [config(EmbeddingConfig, "users", "x")]),
            "has a EmbeddingConfig",
        ),
        (lambda c: EmbeddingCollection(c, [config(EmbeddingConfig, "users", "x")] * 2), "a name twice"),
        (lambda c: EmbeddingCollection("127.0.0.1:1", []), "client must be a Client"),
        (lambda c: config(EmbeddingConfig, "users"), "feature_names of table 'users' must be a list"),
        (lambda c: config(EmbeddingConfig, "users", "a", "a"), "has a name twice"),
        (lambda c: collection(c)(torch.tensor([1])), "features must be a dict"),
        (lambda c: collection(c)({"seen": IDS["seen"]}), "features lack 'shown' of table 'users'"),
        (lambda c: collection(c)({**IDS, "seen": [1]}), "feature 'seen' must be a tensor"),
        (lambda c: collection(c)({**IDS, "seen": torch.tensor([1.0])}), "must be int64 or int32"),
        (
            lambda c: collection(c)({**IDS, "seen": torch.tensor([11])}),
            r"is 11, table 'users' has ids in \[0, 11\)",
        ),
        (lambda c: collection(c)({**IDS, "seen": torch.tensor([-1])}), "is -1, table 'users'"),
        (
            lambda c: bags_of(c)({n: torch.zeros(k + 1, 1, dtype=torch.int64) for k, n in enumerate(IDS)}),
            "the same number of bags, got {'seen': 1, 'shown': 2, 'bought': 3}",
        ),
        (
            lambda c: bags_of(c)({n: (torch.tensor([1]), torch.tensor([], dtype=torch.int64)) for n in IDS}),
            "offsets say that there is no bag",
        ),
        (
            lambda c: bags_of(c)({n: (torch.tensor([[1]]), None, torch.ones(1, 1).double()) for n in IDS}),
            "per_sample_weights must be torch.float32",
        ),
    ],
)
def test_what_cannot_be_meant_is_refused(make, match):
    users, _ = tables()
    with pytest.raises(InvalidRequest, match=match):
        make(users)
    assert users.requests == []


# ------------------------------------------------------------------------------------------------------ as a module


def test_a_state_dict_names_the_tables_and_is_refused_for_others():
    users, _ = tables()
    state = collection(users).state_dict()
    assert set(state) == {"_extra_state"}
    assert [t["table"] for t in json.loads(state["_extra_state"].numpy().tobytes())["tables"]] == list(SIZES)
    collection(users).load_state_dict(state)
    one = EmbeddingCollection(users, [config(EmbeddingConfig, "users", "seen")])
    with pytest.raises(InvalidRequest, match="the state is of a layer over another table"):
        one.load_state_dict(state)
    with pytest.raises(RuntimeError, match=r"embeddings\.users\.weight: rows are not loaded"):
        one.load_state_dict({"embeddings.users.weight": torch.zeros(11, 3)})


def test_a_collection_shows_its_tables():
    users, _ = tables()
    assert repr(bags_of(users, padding=(None, 3))) == (
        "EmbeddingBagCollection(\n"
        "  'users': 11, 3, features=['seen', 'shown'], pooling='sum'\n"
        "  'items': 7, 4, features=['bought'], padding_idx=3, pooling='mean'\n"
        ")"
    )


def test_a_deep_copy_trains_the_same_tables_and_a_pickle_finds_them_again(client):
    embed = collection(client)
    other = copy.deepcopy(embed)
    assert other.gradients.tables[0] is embed.gradients.tables[0]
    file = io.BytesIO()
    torch.save(embed, file)
    file.seek(0)
    again = torch.load(file, weights_only=False)
    assert len({id(table.client) for table in again.gradients.tables}) == 1
    before = client.table("users").pull([2])
    again(IDS)["seen"].sum().backward()
    assert not np.array_equal(client.table("users").pull([2]), before)
    again.gradients.tables[0].client.close()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the compiler's own imports
def test_a_compiled_model_pushes_what_one_that_is_not_pushes():
    plain, compiled = tables()[0], tables()[0]
    models = [collection(plain), torch.compile(collection(compiled), backend="aot_eager")]
    for model in models:
        loss_of(model(IDS).values()).backward()
    equal(pushed(compiled), pushed(plain))
