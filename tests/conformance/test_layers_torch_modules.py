"""The PyTorch layers as modules: state dicts, copies, compilers, ranks."""

import copy
import io
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from torch_beside import DIM, V, a_table, equal, pushed, torch, touched, twin

from rowloom.client import SGD, InvalidRequest, Normal, TableSpec
from rowloom.client.layers_torch import Embedding, EmbeddingBag, push_on_step


def a_model(table):
    return torch.nn.Sequential(Embedding(table, padding_idx=1), torch.nn.Linear(DIM, 2))


# ------------------------------------------------------------------------------------------------------ state dicts


def test_a_state_dict_says_where_the_table_is_and_has_no_rows():
    state = a_model(a_table()).state_dict()
    assert state["0._extra_state"] == {"table": "t", "num_embeddings": V, "row_shape": [DIM]}
    assert set(state) == {"0._extra_state", "1.weight", "1.bias"}


def test_a_state_dict_names_the_address_of_the_cluster_and_loads_on_another():
    here, there = a_table(), a_table()
    here.client, there.client = SimpleNamespace(address="a:1"), SimpleNamespace(address="b:2")
    state = a_model(here).state_dict()
    assert state["0._extra_state"]["address"] == "a:1"
    a_model(there).load_state_dict(state)


def test_a_saved_state_dict_loads_without_running_code_and_strictly():
    table = a_table()
    file = io.BytesIO()
    torch.save(a_model(table).state_dict(), file)
    file.seek(0)
    fresh = a_model(table)
    result = fresh.load_state_dict(torch.load(file, weights_only=True))
    assert (result.missing_keys, result.unexpected_keys) == ([], [])


def test_a_state_of_another_table_is_refused_with_what_differs():
    state = Embedding(a_table()).state_dict()
    with pytest.raises(InvalidRequest, match="table: 't' there, 'other' here"):
        Embedding(a_table(name="other")).load_state_dict(state)
    with pytest.raises(InvalidRequest, match="num_embeddings: 11 there, 5 here"):
        EmbeddingBag(a_table(5)).load_state_dict(state)


def test_a_state_with_rows_says_how_to_import_them():
    table = a_table()
    state = twin(torch.nn.Embedding, table).state_dict()
    with pytest.raises(RuntimeError, match=r"weight: rows are not loaded .*from_pretrained"):
        Embedding(table).load_state_dict(state)


# ----------------------------------------------------------------------------------------------- copies, places, repr


def test_a_deep_copy_trains_the_same_table_and_holds_nothing():
    table = a_table()
    model = a_model(table)
    push_on_step(torch.optim.SGD(model.parameters(), lr=0.1), model)
    model(torch.tensor([2])).sum().backward()
    twin_model = copy.deepcopy(model)
    assert twin_model[0].table is table
    optimizer = torch.optim.SGD(twin_model.parameters(), lr=0.1)
    push_on_step(optimizer, twin_model)
    twin_model[0](torch.tensor([4])).sum().backward()
    optimizer.step()
    assert touched(table) == {4}


def test_a_whole_model_can_be_saved_and_finds_its_table_again(client):
    table = client.create_table(TableSpec("t", V, DIM, initializer=Normal(), optimizer=SGD(lr=1.0)))
    file = io.BytesIO()
    torch.save(a_model(table), file)
    file.seek(0)
    again = torch.load(file, weights_only=False)
    equal(again[0](torch.tensor([5, 6])), table.pull([5, 6]))
    again[0](torch.tensor([5])).sum().backward()
    assert not np.array_equal(table.pull([5]), again[0].table.client.table("t").pull([6]))
    again[0].table.client.close()


def test_the_anchor_says_which_type_and_device_rows_have():
    layer = Embedding(a_table())
    assert [name for name, _ in layer.named_parameters()] == ["anchor"]
    assert layer.bfloat16()(torch.tensor([1])).dtype == torch.bfloat16
    assert layer.to("meta").anchor.device.type == "meta"


def test_a_layer_shows_what_it_was_made_with():
    layer = Embedding(a_table(), padding_idx=-1, max_norm=2.0)
    assert repr(layer) == f"Embedding({V}, {DIM}, table='t', padding_idx={V - 1}, max_norm=2.0)"
    bag = EmbeddingBag(a_table(v=None), mode="max")
    assert repr(bag) == f"EmbeddingBag(open-ended, {DIM}, table='t', mode='max')"


# -------------------------------------------------------------------------------------------------------- compilers


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the compiler's own imports
def test_a_compiled_model_has_the_losses_and_pushes_of_one_that_is_not():
    plain, compiled = a_table(), a_table()
    models = [a_model(plain), a_model(compiled)]
    models[1].load_state_dict(models[0].state_dict())
    run = [models[0], torch.compile(models[1], backend="aot_eager")]
    for ids in ([1, 2, 3], [4, 4, 1]):
        losses = []
        for model in run:
            loss = (model(torch.tensor(ids)) ** 2).mean()
            loss.backward()
            losses.append(loss.detach())
        equal(losses[1], losses[0], 1e-6)
    equal(pushed(compiled), pushed(plain), 1e-6)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the compiler's own imports
@pytest.mark.filterwarnings(
    "ignore:The .grad attribute of a Tensor that is not a leaf"
)  # its own look at inputs
def test_the_dense_part_compiles_into_one_graph():
    table = a_table()
    layer, dense = Embedding(table), torch.nn.Sequential(torch.nn.Linear(DIM, 2), torch.nn.ReLU())
    compiled = torch.compile(dense, backend="aot_eager", fullgraph=True)
    ids = torch.tensor([3, 4])
    equal(compiled(layer(ids)), dense(layer(ids)), 1e-6)
    compiled(layer(ids)).sum().backward()
    assert touched(table) == {3, 4}


# ------------------------------------------------------------------------------------------------------------ ranks


@pytest.mark.timeout(120)
def test_two_ranks_of_ddp_are_one_process_with_the_whole_batch(cluster, tmp_path):
    from ddp_worker import DIM, ROWS, batches, model_over

    worker = Path(__file__).parents[1] / "support/ddp_worker.py"
    outs = [tmp_path / f"{rank}.npy" for rank in range(2)]
    with cluster.connect() as client:
        spec = TableSpec("t", ROWS, DIM, optimizer=SGD(lr=0.1), initializer=Normal(std=0.3))
        table = client.create_table(spec)
        local = torch.nn.EmbeddingBag(ROWS, DIM, mode="sum")
        with torch.no_grad():
            local.weight.copy_(torch.from_numpy(table.pull(np.arange(ROWS))))
        ranks = [
            subprocess.Popen(
                [sys.executable, worker, str(rank), tmp_path / "store", cluster.address, out],
                stderr=subprocess.PIPE,
                text=True,
            )
            for rank, out in enumerate(outs)
        ]
        try:
            ends = [(rank.communicate(timeout=100)[1], rank.returncode) for rank in ranks]
        finally:
            for rank in ranks:
                rank.kill()
        assert [code for _, code in ends] == [0, 0], ends
        model = model_over(local)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for ids, y in batches():
            optimizer.zero_grad()
            torch.nn.functional.mse_loss(model(ids), y).backward()
            optimizer.step()
        equal(table.pull(np.arange(ROWS)), local.weight, 1e-6)
    dense = torch.cat([p.detach().reshape(-1) for p in model[1].parameters()])
    for out in outs:
        equal(np.load(out), dense, 1e-6)
