"""Keras models that are stopped and go on, and Keras' own ways to keep weights: rows come along, or it is refused."""

import random

import numpy as np
import pytest
from keras_beside import keras, numpy, quiet
from resumed import STEPS, V, a_batch, a_client, assert_same_bits, rows_of

from rowloom.client import InvalidRequest, TableSpec, newest_snapshot
from rowloom.client.layers_keras import (
    Checkpoint,
    Embedding,
    bind_lr,
    load_checkpoint,
    save_checkpoint,
    tables_of,
)

# Where a layer refuses, Keras looks for it in a second place, and says that there is none.
pytestmark = [quiet, pytest.mark.filterwarnings("ignore:Skipping nested container")]


def a_model(client, **how):
    keras.utils.set_random_seed(0)
    users, items = keras.Input((), dtype="int64"), keras.Input((), dtype="int64")
    # One dense layer stands before the embeddings: weights are set and loaded in an order.
    rows = [Embedding(client.table(name), name=name, **how) for name in ("users", "items")]
    x = keras.layers.Concatenate()([rows[0](users), rows[1](items)])
    x = keras.layers.Dropout(0.2, seed=3)(keras.layers.Dense(6, "relu")(x))
    model = keras.Model([users, items], keras.layers.Dense(1)(x))
    model.compile(keras.optimizers.Adam(0.02), "mse")
    return model


def train(model, begin, end):
    """The losses of these steps."""
    losses = []
    for step in range(begin, end):
        users, items, labels = a_batch(step)
        losses.append(float(np.asarray(model.train_on_batch([users, items], labels))))
        model.reset_metrics()
    return losses


def dense_of(model):
    return [numpy(v) for v in [*model.variables, *model.optimizer.variables]]


def trained(folder, stop=None):
    """From the newest checkpoint on, to the end or until it is stopped behind a checkpoint. Losses, rows, weights."""
    with a_client(folder, newest_snapshot(folder / "snapshots", having="checkpoint")) as client:
        model = a_model(client)
        begin = load_checkpoint(client, model)["step"] if client.restored else 0
        losses = train(model, begin, stop or STEPS)
        if stop:
            save_checkpoint(client, model, step=stop)
            train(model, 99, 100)  # what comes behind a checkpoint is gone
        return losses, rows_of(client), dense_of(model)


def test_stopped_at_any_step_and_gone_on_is_uninterrupted_to_the_bit(tmp_path):
    losses, rows, dense = trained(tmp_path / "whole")
    for seed in range(2):
        folder, stop = tmp_path / str(seed), random.Random(seed).randrange(1, STEPS)
        before, _, _ = trained(folder, stop)
        after, their_rows, their_dense = trained(folder)
        assert before + after == losses, f"stopped at {stop}"
        assert_same_bits(their_rows, rows)
        assert_same_bits(their_dense, dense)


@pytest.mark.parametrize("order", ["bind, load", "load, bind"])
@pytest.mark.parametrize("rate", ["schedule", "number", "0 when it was saved"])
def test_a_rate_that_was_bound_before_the_checkpoint_was_loaded_fell_twice(tmp_path, rate, order):
    stop = STEPS // 2

    def trained(folder, begin, end, restore=None):
        with a_client(folder, restore) as client:
            model = a_model(client)
            if rate == "schedule":
                falls = keras.optimizers.schedules.ExponentialDecay(0.02, 3, 0.3)
                model.compile(keras.optimizers.Adam(falls), "mse")
            if order == "bind, load" or restore is None:
                bind_lr(model.optimizer, model)
            if restore is not None:
                load_checkpoint(client, model)
            if order == "load, bind" and restore is not None:
                bind_lr(model.optimizer, model)
            for step in range(begin, end):
                if rate != "schedule":
                    model.optimizer.learning_rate = 0.02 * 0.7**step
                train(model, step, step + 1)
            if rate == "0 when it was saved" and end == stop:
                model.optimizer.learning_rate = 0.0
            save_checkpoint(client, model)
            return rows_of(client), [table.spec.optimizer.lr for table in client.tables()]

    whole, rates = trained(tmp_path / "one", 0, STEPS)
    trained(tmp_path / "two", 0, stop)
    found = newest_snapshot(tmp_path / "two" / "snapshots", having="checkpoint")
    rows, their_rates = trained(tmp_path / "two", stop, STEPS, found)
    assert their_rates == rates
    assert_same_bits(rows, whole)


@pytest.mark.filterwarnings("ignore:layer .*the optimizer's learning rate went")
@pytest.mark.parametrize("order", ["bind, load", "load, bind"])
def test_tables_that_were_bound_after_the_checkpoint_follow_from_there(tmp_path, order):
    with a_client(tmp_path) as client:
        model = a_model(client)
        for rate in (0.02, 0.01):
            model.optimizer.learning_rate = rate
            train(model, 0, 1)
        found = save_checkpoint(client, model).path
    with a_client(tmp_path, found) as client:
        model = a_model(client)
        for what in order.split(", "):
            if what == "bind":
                bind_lr(model.optimizer, model)
            else:
                load_checkpoint(client, model)
        train(model, 1, 2)
        assert sorted(table.spec.optimizer.lr for table in client.tables()) == pytest.approx([0.05, 0.1])
        model.optimizer.learning_rate = 0.005
        train(model, 2, 3)
        assert sorted(table.spec.optimizer.lr for table in client.tables()) == pytest.approx([0.025, 0.05])


def test_the_callback_keeps_epochs_and_fit_goes_on_behind_them(tmp_path):
    users, items, labels = map(np.concatenate, zip(*map(a_batch, range(8)), strict=True))

    def fitted(folder, epochs):
        with a_client(folder, newest_snapshot(folder / "snapshots", having="checkpoint")) as client:
            model = a_model(client)
            begin = load_checkpoint(client, model)["epoch"] if client.restored else 0
            how = {
                "batch_size": 8,
                "shuffle": False,
                "verbose": 0,
                "callbacks": [Checkpoint(client, every=2)],
            }
            model.fit([users, items], labels, initial_epoch=begin, epochs=epochs, **how)
            return begin, rows_of(client), dense_of(model)

    _, rows, dense = fitted(tmp_path / "whole", 4)
    assert fitted(tmp_path / "stopped", 3)[0] == 0
    begin, their_rows, their_dense = fitted(tmp_path / "stopped", 4)
    assert begin == 2
    assert_same_bits(their_rows, rows)
    assert_same_bits(their_dense, dense)
    with pytest.raises(InvalidRequest, match="every must be at least 1, got 0"):
        Checkpoint(None, 0)


def test_a_checkpoint_of_another_model_or_another_moment_is_refused_and_nothing_is_filled(tmp_path):
    trained(tmp_path, 3)
    with a_client(tmp_path, newest_snapshot(tmp_path / "snapshots")) as client:
        other = keras.Sequential([Embedding(client.table("users")), keras.layers.Dense(2)])
        with pytest.raises(InvalidRequest, match="is not built"):
            load_checkpoint(client, other)
        other.build((None, 1))
        with pytest.raises(
            InvalidRequest, match="the checkpoint has model, optimizer, this model model: compile"
        ):
            load_checkpoint(client, other)
        other.compile("adam", "mse")
        with pytest.raises(InvalidRequest, match="the model differs from the checkpoint's at 1"):
            load_checkpoint(client, other)
        model = a_model(client)
        train(model, 0, 1)
        before = dense_of(model)
        with pytest.raises(InvalidRequest, match="have changed its rows since"):
            load_checkpoint(client, model)
        assert_same_bits(dense_of(model), before)


# ------------------------------------------------------------------------------------------- Keras' own, with rows


class Losses(keras.callbacks.Callback):
    """Says which losses epochs had, so that the first one is the best; keeps what the model was then."""

    def __init__(self, client):
        super().__init__()
        self.client, self.seen = client, []

    def on_epoch_end(self, epoch, logs=None):
        logs["loss"] = float(epoch)
        self.seen.append((rows_of(self.client), [numpy(v) for v in self.model.trainable_variables]))


def fit(model, epochs, *callbacks):
    users, items, labels = map(np.concatenate, zip(*map(a_batch, range(4)), strict=True))
    how = {"batch_size": 8, "shuffle": False, "verbose": 0, "callbacks": list(callbacks)}
    model.fit([users, items], labels, epochs=epochs, **how)


def test_early_stopping_brings_the_best_rows_back_with_the_best_weights(tmp_path):
    with a_client(tmp_path) as client:
        model, losses = a_model(client, rows_in_weights=True), Losses(client)
        best = keras.callbacks.EarlyStopping("loss", patience=2, restore_best_weights=True)
        fit(model, 9, losses, best)
        assert len(losses.seen) == 3
        rows, dense = losses.seen[0]
        assert not np.array_equal(losses.seen[-1][0]["users"], rows["users"])
        assert_same_bits(rows_of(client), rows)
        assert_same_bits([numpy(v) for v in model.trainable_variables], dense)


def test_early_stopping_without_rows_is_refused_at_the_first_epoch(tmp_path):
    """It put the dense weights of the best epoch beside the rows of the last one, and said nothing."""
    with a_client(tmp_path) as client:
        model, losses = a_model(client), Losses(client)
        best = keras.callbacks.EarlyStopping("loss", patience=2, restore_best_weights=True)
        with pytest.raises(InvalidRequest, match=r"'users' are not among the weights.*rows_in_weights=True"):
            fit(model, 9, losses, best)
        assert len(losses.seen) == 1
        assert_same_bits(rows_of(client), losses.seen[0][0])
        assert_same_bits([numpy(v) for v in model.trainable_variables], losses.seen[0][1])
        fit(model, 2, Losses(client), keras.callbacks.EarlyStopping("loss", patience=0))


@pytest.mark.parametrize("weights_only", [False, True])
def test_model_checkpoint_brings_rows_back(tmp_path, weights_only):
    file = str(tmp_path / ("best.weights.h5" if weights_only else "best.keras"))
    with a_client(tmp_path) as client:
        model, losses = a_model(client, rows_in_weights=True), Losses(client)
        how = {"save_best_only": True, "save_weights_only": weights_only}
        fit(model, 3, losses, keras.callbacks.ModelCheckpoint(file, "loss", **how))
        if weights_only:
            model.load_weights(file)
        else:
            with tables_of(client):
                model = keras.models.load_model(file)
        assert_same_bits(rows_of(client), losses.seen[0][0])
        assert_same_bits([numpy(v) for v in model.trainable_variables], losses.seen[0][1])


@pytest.mark.parametrize("weights_only", [False, True])
def test_a_file_without_rows_is_loaded_until_rows_change_and_refused_then(tmp_path, weights_only):
    """ModelCheckpoint's best epoch came back beside the rows of the last one."""
    file = str(tmp_path / ("m.weights.h5" if weights_only else "m.keras"))
    with a_client(tmp_path) as client:
        model = a_model(client)
        train(model, 0, 2)
        (model.save_weights if weights_only else model.save)(file)

        def load(**how):
            with tables_of(client, **how):
                if not weights_only:
                    return keras.models.load_model(file)
                model.load_weights(file)
                return model

        dense = [numpy(v) for v in model.trainable_variables]
        assert_same_bits([numpy(v) for v in load().trainable_variables], dense)
        train(model, 2, 3)
        with pytest.raises(ValueError, match=r"(?s)'users', and rows of its cluster may have changed since"):
            load()
        assert_same_bits([numpy(v) for v in load(as_they_are=True).trainable_variables], dense)


def test_backup_and_restore_is_refused_after_its_cluster_began_anew(tmp_path):
    backup = str(tmp_path / "backup")
    with a_client(tmp_path / "one") as client:
        model = a_model(client)
        callback = keras.callbacks.BackupAndRestore(backup, delete_checkpoint=False)
        fit(model, 1, callback)
    with a_client(tmp_path / "two") as client, pytest.raises(ValueError, match="may have changed since"):
        fit(a_model(client), 2, keras.callbacks.BackupAndRestore(backup, delete_checkpoint=False))


def test_weights_without_rows_are_neither_got_nor_set_unless_in_words(tmp_path):
    with a_client(tmp_path) as client:
        model = a_model(client)
        with tables_of(client, as_they_are=True):
            kept = model.get_weights()
            assert len(kept) == 6
            model.set_weights(kept)
        with pytest.raises(InvalidRequest, match="the rows of table 'users' are not among the weights"):
            model.get_weights()
        with pytest.raises(ValueError, match="weight"):
            model.set_weights(kept)
        model.summary(print_fn=lambda *_, **__: None)
        assert len(model.layers[-1].get_weights()) == 2


def test_rows_among_the_weights_are_set_in_the_table_only_where_they_differ(tmp_path):
    with a_client(tmp_path) as client:
        model = a_model(client, rows_in_weights=True)
        train(model, 0, 2)
        kept, rows = model.get_weights(), rows_of(client)
        pushes = client.moment()
        model.set_weights(kept)
        assert client.moment() == pushes
        client.table("items").assign([3, 5], np.ones((2, 4)))
        model.set_weights(kept)
        assert_same_bits(rows_of(client), rows)
        wrong = [w[:5] if w.shape == (V, 4) else w for w in kept]
        with pytest.raises(ValueError, match="shape"):
            model.set_weights(wrong)


def test_files_with_and_without_rows_are_not_taken_for_each_other(tmp_path):
    with a_client(tmp_path) as client:
        with_rows, without = a_model(client, rows_in_weights=True), a_model(client)
        with_rows.save_weights(tmp_path / "with.weights.h5")
        without.save_weights(tmp_path / "without.weights.h5")
        with pytest.raises(ValueError, match="the file has the rows of table 'users'"):
            without.load_weights(tmp_path / "with.weights.h5")
        with pytest.raises(ValueError, match="the file has no rows of table 'users', and rows_in_weights"):
            with_rows.load_weights(tmp_path / "without.weights.h5")


def test_a_frozen_table_needs_no_rows_among_the_weights(client):
    rows = np.arange(8, dtype=np.float32).reshape(4, 2)
    table = client.from_pretrained(rows, "frozen")
    model = keras.Sequential([Embedding(table), keras.layers.Flatten(), keras.layers.Dense(1)])
    model.build((None, 2))
    client.create_table(TableSpec("other", 3, 2)).push([1], np.ones((1, 2)))
    model.set_weights(model.get_weights())


def test_tables_too_large_for_weights_are_refused_when_the_layer_is_made(client):
    for size, shown in ((10**9, "1000000000 x"), (None, "open-ended")):
        table = client.create_table(TableSpec(f"large{size}", size, 8))
        with pytest.raises(InvalidRequest, match=rf"{shown}.*rows_in_weights takes at most \d+ bytes"):
            Embedding(table, rows_in_weights=True)
