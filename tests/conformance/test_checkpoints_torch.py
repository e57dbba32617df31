"""PyTorch models that are stopped and go on: the bits of a training that nobody stopped, or a refusal."""

import json
import random

import pytest

torch = pytest.importorskip("torch", reason="needs PyTorch: pip install torch")

from resumed import STEPS, a_batch, a_client, assert_same_bits, rows_of  # noqa: E402

from rowloom.client import InvalidRequest, newest_snapshot  # noqa: E402
from rowloom.client.layers_torch import (  # noqa: E402
    Embedding,
    bind_lr,
    load_checkpoint,
    push_on_step,
    save_checkpoint,
)


class Model(torch.nn.Module):
    def __init__(self, client):
        super().__init__()
        torch.manual_seed(0)
        self.users, self.items = Embedding(client.table("users")), Embedding(client.table("items"))
        self.top = torch.nn.Sequential(torch.nn.Linear(8, 6), torch.nn.ReLU(), torch.nn.Linear(6, 1))

    def forward(self, users, items):
        return self.top(torch.cat([self.users(users), self.items(items)], 1))


def made(client):
    """A model, its optimizer and a schedule of its rate."""
    model = Model(client)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    return model, optimizer, torch.optim.lr_scheduler.StepLR(optimizer, 3, 0.5)


def step(model, optimizer, number):
    users, items, labels = map(torch.from_numpy, a_batch(number))
    loss = torch.nn.functional.mse_loss(model(users, items), labels)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.item()


def trained(folder, stop=None, *, bound=""):
    """From the newest checkpoint on, to the end or until it is stopped behind a checkpoint. Losses, rows, weights.

    bound: the tables' rates follow the schedule, from "before" or "after" a checkpoint is loaded on.
    """
    with a_client(folder, newest_snapshot(folder / "snapshots", having="checkpoint")) as client:
        model, optimizer, schedule = made(client)
        begin = 0
        if bound == "before":
            bind_lr(optimizer, model)
        if client.restored:
            begin = load_checkpoint(client, model, optimizer, schedule=schedule)["step"]
        if bound == "after":
            bind_lr(optimizer, model)
        losses = []
        for number in range(begin, STEPS):
            losses.append(step(model, optimizer, number))
            schedule.step()
            if number + 1 == stop:
                save_checkpoint(client, model, optimizer, schedule=schedule, step=stop)
                step(model, optimizer, 99)  # what comes behind a checkpoint is gone
                return losses, None, None
        weights = {k: v.clone() for k, v in model.state_dict().items() if "extra" not in k}
        return losses, rows_of(client), weights


def test_stopped_at_any_step_and_gone_on_is_uninterrupted_to_the_bit(tmp_path):
    losses, rows, weights = trained(tmp_path / "whole")
    for seed in range(3):
        folder, stop = tmp_path / str(seed), random.Random(seed).randrange(1, STEPS)
        before, _, _ = trained(folder, stop)
        after, their_rows, their_weights = trained(folder)
        assert before + after == losses, f"stopped at {stop}"
        assert_same_bits(their_rows, rows)
        assert_same_bits(their_weights, weights)


@pytest.mark.parametrize("bound", ["before", "after"])
def test_rates_that_follow_a_schedule_went_on_from_another_one_or_stood_still(tmp_path, bound):
    losses, rows, weights = trained(tmp_path / "whole", bound=bound)
    before, _, _ = trained(tmp_path / "stopped", 7, bound=bound)
    after, their_rows, their_weights = trained(tmp_path / "stopped", bound=bound)
    assert before + after == losses
    assert_same_bits(their_rows, rows)
    assert_same_bits(their_weights, weights)


def test_what_would_be_half_a_model_is_refused_and_nothing_is_filled(tmp_path):
    trained(tmp_path, 4)
    with a_client(tmp_path, newest_snapshot(tmp_path / "snapshots")) as client:
        model, optimizer, schedule = made(client)
        before = {k: v.clone() for k, v in model.state_dict().items() if "extra" not in k}
        with pytest.raises(InvalidRequest, match="'schedule' was saved too: give it, or None to leave it"):
            load_checkpoint(client, model, optimizer)
        with pytest.raises(InvalidRequest, match="differ: 'scaler' was not saved"):
            load_checkpoint(client, model, None, schedule=None, scaler=schedule)
        step(model, optimizer, 0)
        model.load_state_dict(before | {k: v for k, v in model.state_dict().items() if "extra" in k})
        with pytest.raises(InvalidRequest, match="have changed its rows since: the model of then"):
            load_checkpoint(client, model, optimizer, schedule=schedule)
        assert_same_bits({k: model.state_dict()[k] for k in before}, before)


def test_a_model_alone_is_loaded_for_serving_when_its_optimizer_is_left_in_words(tmp_path):
    trained(tmp_path, 4)
    with a_client(tmp_path, newest_snapshot(tmp_path / "snapshots")) as client:
        model, _, _ = made(client)
        assert load_checkpoint(client, model, None, schedule=None) == {"step": 4}


def test_gradients_that_wait_for_a_step_are_not_left_out_in_silence(tmp_path):
    with a_client(tmp_path) as client:
        model, optimizer, _ = made(client)
        push_on_step(optimizer, model)
        users, items, _ = map(torch.from_numpy, a_batch(0))
        model(users, items).sum().backward()
        with pytest.raises(InvalidRequest, match=r"'users' wait for optimizer.step\(\).*save after it"):
            save_checkpoint(client, model, optimizer)
        optimizer.step()
        save_checkpoint(client, model, optimizer)


def test_a_state_dict_names_the_snapshot_that_has_the_rows(tmp_path):
    with a_client(tmp_path) as client:
        model, optimizer, _ = made(client)

        def named():
            return json.loads(model.state_dict()["users._extra_state"].numpy().tobytes()).get("snapshot")

        assert named() is None
        path = save_checkpoint(client, model, optimizer).path
        assert named() == path
    with a_client(tmp_path, path) as client:
        model, optimizer, _ = made(client)
        load_checkpoint(client, model, optimizer)
        assert json.loads(model.users.get_extra_state().numpy().tobytes())["snapshot"] == path
