"""Plain layers whose rows are pulled with one call, beside the same layers that pull each by itself."""

import threading

import numpy as np
import pytest
from table_fake import FakeTable
from torch_beside import equal, pushed, torch, twin

from rowloom.client import SGD, Adagrad, InvalidRequest, Normal, TableNotFound, TableSpec
from rowloom.client.layers_torch import (
    Embedding,
    EmbeddingBag,
    EmbeddingCollection,
    EmbeddingConfig,
    PrefetchLoader,
    prefetched,
    push_on_step,
)

SIZES = {"users": (11, 3), "items": (7, 4)}
IDS = {"users": torch.tensor([[1, 2], [3, 1]]), "items": torch.tensor([[6, 0, 6], [5, 5, 1]])}


def tables():
    users, items = (FakeTable(TableSpec(name, v, d, optimizer=SGD(lr=1.0))) for name, (v, d) in SIZES.items())
    return users, users.beside(items)


def layers(users, items, **how):
    return Embedding(users, padding_idx=2, **how), EmbeddingBag(items, mode="mean", padding_idx=0, **how)


def loss_of(model, ids=IDS):
    rows = [layer(some) for layer, some in zip(model, ids.values(), strict=True)]
    return sum((one * one).sum() for one in rows)


def test_layers_of_a_model_share_a_pull_and_a_push_and_train_as_torch_does():
    users, items = tables()
    ours = layers(users, items)
    theirs = (
        twin(torch.nn.Embedding, users, padding_idx=2),
        twin(torch.nn.EmbeddingBag, items, mode="mean", padding_idx=0),
    )
    with prefetched(users, IDS):
        loss = loss_of(ours)
    equal(loss, loss_of(theirs), 1e-5)
    loss.backward()
    loss_of(theirs).backward()
    for table, module in zip((users, items), theirs, strict=True):
        equal(pushed(table), module.weight.grad, 1e-5)
    assert users.pulled == [["users", "items"]]
    assert [sorted(request) for request in users.requests] == [["items", "users"]]
    assert (users.pulls, items.pulls) == (1, 1)


def test_layers_over_one_table_find_their_parts_of_its_ids():
    users, items = tables()
    first, second = Embedding(users), Embedding(users)
    seen, shown = torch.tensor([9, 4, 9]), torch.tensor([[0], [4]])
    with prefetched(users, {"users": torch.cat([seen, shown.reshape(-1)])}):
        equal(first(seen), users.rows[seen.numpy()])
        equal(second(shown), users.rows[shown.numpy()])
        equal(Embedding(items)(torch.tensor([1])), items.rows[[1]])
    assert (users.pulls, items.pulls) == (1, 1)


@pytest.mark.parametrize("ids", [[10], [0, 1, 2], [5]])
def test_a_layer_whose_ids_are_not_all_there_pulls_by_itself(ids):
    users, _ = tables()
    with prefetched(users, {"users": torch.tensor([1, 2, 8])}):
        equal(Embedding(users)(torch.tensor(ids)), users.rows[ids])
    with prefetched(users, {"users": torch.tensor([], dtype=torch.int64)}):
        equal(Embedding(users)(torch.tensor(ids)), users.rows[ids])
    assert users.pulls == 4


def test_rows_that_a_backward_pass_pushed_to_are_pulled_again():
    users, items = tables()
    model = layers(users, items)
    with prefetched(users, IDS):
        loss_of(model).backward()
        equal(model[0](IDS["users"]), users.rows[IDS["users"].numpy()])
    assert users.pulls == 2


def test_rows_are_forgotten_when_an_optimizer_steps_and_kept_while_gradients_add_up():
    users, items = tables()
    model = torch.nn.ModuleList(layers(users, items))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    push_on_step(optimizer, model)
    with prefetched(users, IDS):
        for _ in range(2):
            loss_of(model).backward()
        assert users.pulled == [["users", "items"]]
        optimizer.step()
        equal(model[0](IDS["users"]), users.rows[IDS["users"].numpy()])
    assert users.requests == [["users", "items"]]


def test_an_inner_block_hides_the_same_tables_only_and_a_push_in_it_reaches_the_outer_one():
    users, items = tables()
    embed, bag = Embedding(users), EmbeddingBag(items)
    with prefetched(users, IDS):
        with prefetched(users, {"users": torch.tensor([7])}):
            bag(IDS["items"])
            embed(torch.tensor([7])).sum().backward()
        assert (users.pulls, items.pulls) == (2, 1)
        equal(embed(IDS["users"]), users.rows[IDS["users"].numpy()])
    assert (users.pulls, items.pulls) == (3, 1)


def test_nothing_is_left_behind_a_block_not_even_by_an_error():
    users, _ = tables()
    with pytest.raises(ZeroDivisionError), prefetched(users, IDS):
        raise ZeroDivisionError
    users.rows += 1
    equal(Embedding(users)(IDS["users"]), users.rows[IDS["users"].numpy()])


def test_another_thread_pulls_by_itself():
    users, _ = tables()
    with prefetched(users, IDS):
        thread = threading.Thread(target=lambda: Embedding(users)(IDS["users"]))
        thread.start()
        thread.join()
    assert users.pulls == 2


def test_a_layer_that_renorms_pulls_what_the_table_has_then():
    users, _ = tables()
    users.rows *= 100
    with prefetched(users, IDS):
        rows = Embedding(users, max_norm=1.0)(IDS["users"])
    assert rows.norm(dim=-1).max() <= 1.001


def test_ids_that_were_prefetched_may_be_overwritten():
    users, _ = tables()
    ids = IDS["users"].clone()
    with prefetched(users, {"users": ids}):
        ids.zero_()
        equal(Embedding(users)(ids), users.rows[ids.numpy()])


def test_a_collection_finds_its_rows_there_too():
    users, items = tables()
    made = [
        EmbeddingConfig(num_embeddings=v, embedding_dim=d, name=name, feature_names=[name])
        for name, (v, d) in SIZES.items()
    ]
    embed = EmbeddingCollection(users, made)
    with prefetched(users, {"users": IDS["users"]}):
        rows = embed(IDS)
    for name, table in (("users", users), ("items", items)):
        equal(rows[name], table.rows[IDS[name].numpy()])
    assert users.pulled == [["users"], ["items"]]


def test_what_cannot_be_pulled_is_refused_at_the_block():
    users, _ = tables()
    with pytest.raises(InvalidRequest, match="is 11, table 'users'"), prefetched(users, {"users": [11]}):
        raise AssertionError
    with pytest.raises(TableNotFound), prefetched(users, {"other": [1]}):
        raise AssertionError


@pytest.mark.parametrize("blocks", ["prefetched", "loader"])
def test_training_on_shards_has_the_losses_and_rows_of_local_layers(client, blocks):
    how = {"optimizer": Adagrad(lr=0.1), "initializer": Normal(std=0.5)}
    own = [client.create_table(TableSpec(name, v, d, **how)) for name, (v, d) in SIZES.items()]
    model = layers(*own)
    local = []
    for layer, table in zip((torch.nn.Embedding, torch.nn.EmbeddingBag), own, strict=True):
        rows = torch.from_numpy(table.pull(np.arange(table.spec.num_embeddings)))
        more = {"padding_idx": 2} if layer is torch.nn.Embedding else {"mode": "mean", "padding_idx": 0}
        local.append(layer.from_pretrained(rows, freeze=False, **more))
    optimizer = torch.optim.Adagrad([module.weight for module in local], lr=0.1)
    generator = torch.Generator().manual_seed(2)
    batches = [{name: torch.randint(0, 7, (6, 2), generator=generator) for name in SIZES} for _ in range(9)]

    def ours():
        if blocks == "prefetched":
            for ids in batches:
                with prefetched(client, ids):
                    yield ids
        else:  # a loop of one batch pulls it after the step before, so its rows are never old
            for ids in batches:
                yield from (batch for batch, _ in PrefetchLoader([ids], client, lambda ids: ids))

    for ids in ours():
        loss, expected = loss_of(model, ids), loss_of(local, ids)
        equal(loss, expected, 1e-4)
        loss.backward()
        expected.backward()
        optimizer.step()
        optimizer.zero_grad()
    for table, module in zip(own, local, strict=True):
        equal(table.pull(np.arange(table.spec.num_embeddings)), module.weight, 1e-4)


def test_layers_in_the_loop_of_a_loader_pull_nothing_by_themselves():
    users, items = tables()
    users.later = lambda call, *args: _now(call(*args))
    model = layers(users, items)
    batches = [IDS] * 4
    rounds = 0
    for batch, rows in PrefetchLoader(batches, users, lambda ids: ids, depth=2):
        equal(model[0](batch["users"]), rows["users"])
        loss_of(model, batch).backward()
        rounds += 1
    assert rounds == 4
    assert users.pulled == [["users", "items"]] * 4
    model[0](IDS["users"])
    assert users.pulls == 5


def _now(value):
    from concurrent.futures import Future

    future: Future = Future()
    future.set_result(value)
    return future
