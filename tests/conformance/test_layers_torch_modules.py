"""The PyTorch layers as modules: state dicts, copies, compilers, ranks."""

import copy
import io
import json
import os
import re
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from torch_beside import DIM, V, a_table, equal, pushed, torch, touched, twin

from rowloom.client import SGD, Adagrad, Adam, InvalidRequest, Normal, TableSpec
from rowloom.client.layers_torch import Embedding, EmbeddingBag, passes, push_on_step, ranks

safetensors_torch = pytest.importorskip("safetensors.torch")  # it imports torch


def read(state):
    return json.loads(state.numpy().tobytes())


def a_model(table):
    return torch.nn.Sequential(Embedding(table, padding_idx=1), torch.nn.Linear(DIM, 2))


# ------------------------------------------------------------------------------------------------------ state dicts


def test_a_state_dict_says_where_the_table_is_and_has_no_rows():
    state = a_model(a_table()).state_dict()
    assert read(state["0._extra_state"]) == {"table": "t", "num_embeddings": V, "row_shape": [DIM]}
    assert set(state) == {"0._extra_state", "1.weight", "1.bias"}


def test_a_state_dict_names_the_address_of_the_cluster_and_loads_on_another():
    here, there = a_table(), a_table()
    here.client, there.client = SimpleNamespace(address="a:1"), SimpleNamespace(address="b:2")
    state = a_model(here).state_dict()
    assert read(state["0._extra_state"])["address"] == "a:1"
    a_model(there).load_state_dict(state)


def test_a_state_is_a_tensor_of_the_same_size_wherever_the_cluster_is_and_dicts_of_before_load():
    here, there = a_table(), a_table()
    here.client, there.client = SimpleNamespace(address="a:1"), SimpleNamespace(address="another.host:12345")
    sizes = {Embedding(table).get_extra_state().shape for table in (here, there)}
    assert len(sizes) == 1  # distributed checkpoints are read into what is there
    layer = Embedding(here)
    layer.set_extra_state({"table": "t", "num_embeddings": V, "row_shape": [DIM]})
    for wrong in (None, [1], torch.zeros(4, dtype=torch.uint8), torch.zeros(4)):
        with pytest.raises(InvalidRequest, match="the state of a layer over a table"):
            layer.set_extra_state(wrong)


def test_a_model_is_saved_as_safetensors_and_loads_into_a_fresh_one(tmp_path):
    table = a_table()
    saved, fresh = a_model(table), a_model(table)
    safetensors_torch.save_model(saved, tmp_path / "m.safetensors")
    assert safetensors_torch.load_model(fresh, tmp_path / "m.safetensors") == (set(), [])
    equal(fresh[1].weight, saved[1].weight)
    with pytest.raises(InvalidRequest, match="table: 't' there, 'other' here"):
        safetensors_torch.load_model(a_model(a_table(name="other")), tmp_path / "m.safetensors")


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


def started(running: ExitStack, *command):
    """A process that is ended with `running`: how its next line of output is read; it says by itself why it ended."""
    process = running.enter_context(
        subprocess.Popen([sys.executable, *command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    )
    running.callback(process.kill)
    return process.stdout.readline


def said_by_ranks(folder, address, outs, kind):
    """The first line that each of some ranks prints, of which there are as many as outs."""
    worker = Path(__file__).parents[1] / "support/ddp_worker.py"
    with ExitStack() as running:
        what = str(len(outs)), str(STEPS), folder / "store", address
        lines = [started(running, worker, str(rank), *what, out, kind) for rank, out in enumerate(outs)]
        return [line() for line in lines]


STEPS = int(os.environ.get("ROWLOOM_RANK_STEPS", "12"))


@pytest.mark.timeout(30 * STEPS)
@pytest.mark.parametrize(
    ("kind", "ranks", "optimizer"),
    [
        ("ddp", 2, SGD(lr=0.1)),
        ("ddp", 2, Adagrad(lr=0.1)),
        ("ddp", 4, Adam(lr=0.01)),
        ("ddp at step", 2, Adam(lr=0.01)),
        ("fsdp", 2, Adagrad(lr=0.1)),
        ("fsdp whole", 2, SGD(lr=0.1)),
        ("fsdp at step", 2, Adam(lr=0.01)),
        ("fsdp of two axes", 4, Adam(lr=0.01)),
    ],
)
def test_ranks_are_one_process_with_the_whole_batch(cluster, tmp_path, kind, ranks, optimizer):
    """Of optimizers but SGD a table once took a step for each rank; in fully_shard models, of all of them."""
    from ddp_worker import DIM, ROWS, batches, model_over

    outs = [tmp_path / f"{rank}.npy" for rank in range(ranks)]
    with cluster.connect() as client:
        table, alone = (
            client.create_table(TableSpec(name, ROWS, DIM, optimizer=optimizer, initializer=Normal(std=0.3)))
            for name in ("t", "alone")
        )
        alone.assign(np.arange(ROWS), table.pull(np.arange(ROWS)))
        assert said_by_ranks(tmp_path, cluster.address, outs, kind) == ["done\n"] * ranks
        model = model_over(EmbeddingBag(alone, mode="sum"))
        dense = torch.optim.SGD(model.parameters(), lr=0.1)
        at_step = "at step" in kind
        if at_step:
            push_on_step(dense, model)
        for n, (ids, y) in enumerate(batches(STEPS), 1):
            torch.nn.functional.mse_loss(model(ids), y).backward()
            if not at_step or n % 2 == 0:
                dense.step()
                dense.zero_grad()
        equal(table.pull(np.arange(ROWS)), torch.from_numpy(alone.pull(np.arange(ROWS))), 1e-6)
    expected = torch.cat([p.detach().reshape(-1) for p in model[1].parameters()])
    for out in outs:
        equal(np.load(out), expected, 1e-6)


@pytest.mark.parametrize(
    ("kind", "ranks", "match"),
    [
        ("fsdp 1", 2, "in FullyShardedDataParallel: each rank would push by itself"),
        ("fsdp of some", 4, r"over a mesh of shape \(1, 2\) of 4 processes: .* must have one axis"),
    ],
)
def test_ranks_that_cannot_push_together_are_refused_with_what_would_be_right(
    cluster, tmp_path, kind, ranks, match
):
    """A table once took the gradients of the ranks as they were, not averaged, in a step for each."""
    with cluster.connect() as client:
        client.create_table(TableSpec("t", 20, 4))
        outs = [tmp_path / f"{rank}.npy" for rank in range(ranks)]
        said = said_by_ranks(tmp_path, cluster.address, outs, kind)
    assert all(re.search(match, line) for line in said), said


def test_ranks_took_tables_of_one_name_in_two_clusters_for_one_table() -> None:
    mine, other = (SimpleNamespace(name="users", client=object()) for _ in range(2))
    with pytest.raises(NotImplementedError, match=r"two tables named 'users', of two clients.*another name"):
        ranks.push_of_ranks([], [mine, mine, other], None)


def test_a_scale_that_averages_ranks_would_average_them_twice(monkeypatch) -> None:
    monkeypatch.setattr(passes, "ranks_here", lambda mesh: "a group")
    monkeypatch.setattr(ranks.dist, "get_world_size", lambda group: 4)
    with pytest.raises(InvalidRequest, match=r"grad_scale=0\.25 .* 4 ranks.*leave grad_scale out"):
        EmbeddingBag(a_table(), grad_scale=1 / 4)(torch.tensor([[1, 2]]))
