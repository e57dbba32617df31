"""Checkpoints without a framework: one name for all of it, and never half a model."""

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from resumed import V, a_client

from rowloom.client import InvalidRequest, SnapshotCorrupt, newest_snapshot, open_snapshot
from rowloom.client.layers.checkpoints import MOST_INSIDE, Like, load, packed, save, unpacked
from rowloom.proto.errors import Unavailable

LARGE = {"model": bytes(MOST_INSIDE + 1)}


def saved(folder: Path, parts=None, **state):
    with a_client(folder) as client:
        client.table("users").push([1], np.ones((1, 4)))
        return save(client, "numpy", parts or {"model": b"dense"}, state).path


def test_parts_and_state_come_back_on_a_cluster_that_began_with_the_checkpoint(tmp_path):
    path = saved(tmp_path, {"model": b"dense", "more": {"0": np.arange(3)}}, step=7, place="here")
    for shards in (2, 3):
        with a_client(tmp_path, path, shards) as client:
            parts, state = load(client, "numpy", path)
            assert (parts["model"], state) == (b"dense", {"step": 7, "place": "here"})
            assert parts["more"]["0"].tolist() == [0, 1, 2]
            assert client.last_snapshot == path


def test_what_is_too_large_for_the_snapshot_lies_in_its_folder_under_the_same_name(tmp_path):
    path = saved(tmp_path, LARGE, step=7)
    assert len(open_snapshot(path)._stored.extra) == 2
    assert max(file.stat().st_size for file in Path(path).glob("checkpoint-*")) > MOST_INSIDE
    open_snapshot(path).verify()
    with a_client(tmp_path, path) as client:
        assert load(client, "numpy") == (LARGE, {"step": 7})


def test_a_checkpoint_whose_trainer_ended_before_its_file_was_there_is_passed_over_and_refused(tmp_path):
    whole = saved(tmp_path, step=1)
    half = saved(tmp_path, LARGE, step=2)
    folder = tmp_path / "snapshots"
    assert newest_snapshot(folder, having="checkpoint") == half
    (file,) = Path(half).glob("checkpoint-*")
    kept = file.read_bytes()
    file.unlink()
    for key in ("checkpoint", "step"):
        assert newest_snapshot(folder, having=key) == whole
    with a_client(tmp_path, half) as client:
        with pytest.raises(
            SnapshotCorrupt, match=rf"{half} is not whole: its trainer ended before {file.name}"
        ):
            load(client, "numpy")
        file.write_bytes(kept[:-1] + b"x")
        with pytest.raises(SnapshotCorrupt, match="is damaged: its checksum"):
            load(client, "numpy")


def test_a_file_that_cannot_be_written_is_no_checkpoint(tmp_path, monkeypatch):
    monkeypatch.setattr(Path, "write_bytes", lambda *_: (_ for _ in ()).throw(OSError("the disk is full")))
    with pytest.raises(Unavailable, match=r"the checkpoint is not whole.*the disk is full"):
        saved(tmp_path, LARGE)
    assert newest_snapshot(tmp_path / "snapshots", having="checkpoint") is None


def test_rows_of_another_moment_are_refused_with_what_to_do(tmp_path):
    path = saved(tmp_path)
    with a_client(tmp_path) as fresh:
        with pytest.raises(
            InvalidRequest, match=r"began without a snapshot.*local_cluster\(restore=\.\.\.\)"
        ):
            load(fresh, "numpy")
        plain = fresh.snapshot(extra={"step": 1}).path
    with a_client(tmp_path, plain) as other:
        with pytest.raises(InvalidRequest, match=f"began with {plain}, not with {path}"):
            load(other, "numpy", path)
        with pytest.raises(InvalidRequest, match=f"{plain}, which was not taken by save_checkpoint"):
            load(other, "numpy")
    with a_client(tmp_path, path) as client:
        with pytest.raises(
            InvalidRequest, match="was saved by numpy, and this is the load_checkpoint of torch"
        ):
            load(client, "torch")
        load(client, "numpy", Path(path).name)
        client.table("items").assign([3], np.ones((1, 4)))
        with pytest.raises(
            InvalidRequest, match=f"1 requests have changed.*rowloom restore {re.escape(path)}"
        ):
            load(client, "numpy")


def test_a_checkpoint_is_refused_when_a_server_that_counts_anew_may_hide_pushes(tmp_path):
    """`rowloom down --keep` and `up` start servers whose counters are 0, with all the rows that were pushed."""
    from rowloom.deploy import local_cluster

    path = saved(tmp_path)
    with local_cluster(2, storage=tmp_path, restore=path) as cluster, cluster.connect() as client:
        assert client.pushes_since_restored() == 0
        cluster.scale(3)
        client.table("items").assign([2], np.ones((1, 4)))  # of the third shard, which then goes
        cluster.scale(2)
        assert client.pushes_since_restored() is None  # it was 0 once
        with pytest.raises(
            InvalidRequest, match=r"it was scaled down, or more than once, so nobody knows what was pushed"
        ):
            load(client, "numpy")


def test_a_checkpoint_was_refused_after_a_scale_to_more_shards_though_nobody_had_pushed(tmp_path):
    from rowloom.deploy import local_cluster

    path = saved(tmp_path)
    with local_cluster(2, storage=tmp_path, restore=path) as cluster, cluster.connect() as client:
        cluster.scale(3)
        assert client.pushes_since_restored() == 0
        load(client, "numpy")
        before = client.moment()
        client.table("items").assign([1, 2], np.ones((2, 4)))  # of a shard that was there, and of the new one
        assert client.pushes_since_restored() == 2
        cluster.scale(2)
        assert client.moment() != before


def test_a_moment_has_another_name_after_any_push_and_the_same_after_none(client):
    from resumed import USERS

    table = client.create_table(USERS)
    before = client.moment()
    table.pull(np.arange(V))
    assert client.moment() == before
    seen = {before}
    for change in (
        lambda: table.push([1], np.ones((1, 4))),
        lambda: table.assign([1], np.ones((1, 4))),
        lambda: table.renorm([1], 0.1),
    ):
        change()
        seen.add(client.moment())
    assert len(seen) == 4
    assert client.pushes_since_restored() is None


def test_state_cannot_take_the_place_of_the_model(tmp_path):
    with pytest.raises(InvalidRequest, match="state cannot have 'checkpoint'"):
        saved(tmp_path, checkpoint=1)
    assert not list((tmp_path / "snapshots").glob("*"))


def test_arrays_come_back_as_they_were_or_the_first_that_differs_is_named():
    import ml_dtypes

    arrays = [("a", np.arange(6, dtype=np.float16).reshape(2, 3)), ("b", np.ones(2, ml_dtypes.bfloat16))]
    part = packed(arrays)
    likes = [Like(name, array.shape, array.dtype.name) for name, array in arrays]
    for (_, mine), back in zip(arrays, unpacked(part, "the model", likes), strict=True):
        assert back.dtype == mine.dtype
        np.testing.assert_array_equal(back, mine)
    with pytest.raises(
        InvalidRequest, match=r"the model differs from the checkpoint's at 1: .*'b', shape=\(2,\)"
    ):
        unpacked(part, "the model", [likes[0], likes[1]._replace(shape=(3,))])
    with pytest.raises(InvalidRequest, match="the model has 1 arrays, the checkpoint's has 2"):
        unpacked(part, "the model", likes[:1])
    with pytest.raises(SnapshotCorrupt, match="in no form that is known"):
        unpacked({"0": {}}, "the model", likes)


def test_a_checkpoint_needs_its_folder_only_where_it_has_a_file(tmp_path):
    path = saved(tmp_path)
    with a_client(tmp_path / "other", path) as client:
        shutil.rmtree(path)
        assert load(client, "numpy")[0] == {"model": b"dense"}
