"""What may be named where a snapshot, or a folder of them, is wanted: what is meant, and what is said of all else."""

from pathlib import Path

import pytest
from snapshot_life import SnapshotLife

from rowloom.deploy.snapshots.named import (
    folder_of_snapshots,
    no_snapshot_in_words,
    others_in_words,
    snapshots_in,
    staying_in_words,
)
from rowloom.proto.errors import InvalidRequest
from rowloom.proto.snapshots.folder import SnapshotFolder
from rowloom.server.snapshots.target import target_of


def storage_with_a_snapshot(folder: Path) -> Path:
    """A storage as a cluster leaves it: one snapshot, and logs beside it. Returns the snapshot."""
    life = SnapshotLife(seed=1)
    life.create(0)
    life.push(10)
    life.snapshot(target_of(folder / "snapshots/s1"), "s1")
    (folder / "logs/ads-1/epoch-1").mkdir(parents=True)
    return folder / "snapshots/s1"


def test_the_folders_of_a_storage_were_listed_as_unfinished_snapshots(tmp_path):
    storage_with_a_snapshot(tmp_path)
    for named in (tmp_path, tmp_path / "snapshots"):
        meant = folder_of_snapshots(str(named))
        assert meant == str(tmp_path / "snapshots")
        assert [(one.id, one.problem) for one in snapshots_in(meant)] == [("s1", "")]


def test_a_storage_in_which_no_snapshot_was_taken_yet_has_none(tmp_path):
    (tmp_path / "layout.json").write_text("{}")
    meant = folder_of_snapshots(str(tmp_path))
    assert (meant, snapshots_in(meant)) == (str(tmp_path / "snapshots"), ())
    assert snapshots_in("memory://no/such/storage/snapshots") == ()


def test_a_folder_of_snapshots_may_be_called_anything_and_hold_one_that_is_called_snapshots(tmp_path):
    one = storage_with_a_snapshot(tmp_path / "a")
    one.rename(tmp_path / "a/snapshots/snapshots")
    assert folder_of_snapshots(str(tmp_path / "a/snapshots")) == str(tmp_path / "a/snapshots")


def test_what_is_no_folder_of_snapshots_is_said_to_be_what_it_is(tmp_path):
    one = storage_with_a_snapshot(tmp_path)
    (tmp_path / "file").write_text("")
    for named, words in (
        (tmp_path / "nowhere", "/nowhere does not exist$"),
        (tmp_path / "file", "/file is a file, and a folder is wanted$"),
        (
            one,
            f"is one snapshot, not a folder .* `rowloom snapshots {tmp_path}/snapshots` lists those beside",
        ),
        (tmp_path / "logs", f"has logs of a cluster, .* beside them are in {tmp_path}/snapshots$"),
    ):
        with pytest.raises(InvalidRequest, match=words):
            folder_of_snapshots(str(named))


def test_who_names_a_storage_in_place_of_a_snapshot_hears_which_there_are(tmp_path):
    one = storage_with_a_snapshot(tmp_path)
    said = no_snapshot_in_words(SnapshotFolder(str(tmp_path)))
    assert f"is a storage, whose snapshots are in {tmp_path}/snapshots" in said
    assert f"the newest is {one};" in said
    assert f"has snapshots in it, and one of them is wanted: the newest is {one};" in no_snapshot_in_words(
        SnapshotFolder(str(tmp_path / "snapshots"))
    )
    assert no_snapshot_in_words(SnapshotFolder(str(tmp_path / "nope"))) == f"{tmp_path}/nope does not exist"
    (tmp_path / "empty").mkdir()
    assert "has no MANIFEST.json" in no_snapshot_in_words(SnapshotFolder(str(tmp_path / "empty")))


def test_snapshots_were_said_to_stay_where_there_are_none(tmp_path):
    assert staying_in_words(str(tmp_path)) == ""
    (tmp_path / "snapshots").mkdir()
    assert staying_in_words(str(tmp_path)) == ""
    storage_with_a_snapshot(tmp_path)
    assert staying_in_words(f"{tmp_path}/") == f"; 1 snapshot stays in {tmp_path}/snapshots"
    (tmp_path / "snapshots" / "damaged").mkdir()  # its folder stays too, and was not counted
    assert staying_in_words(str(tmp_path)) == (
        f"; 2 snapshots stay in {tmp_path}/snapshots, of which damaged cannot be read"
    )


def test_who_names_a_damaged_snapshot_was_not_told_which_one_can_be_taken(tmp_path):
    life = SnapshotLife(seed=1)
    life.create(0)
    upon = None
    for id in ("s1", "s2", "s3", "s4"):  # s4 needs s3
        life.push(3)
        upon = life.snapshot(target_of(tmp_path / id), id, upon=upon if id == "s4" else None)

    def said(id: str, why: str) -> str:
        return others_in_words(SnapshotFolder(str(tmp_path / id)), why)

    rest = f"`rowloom verify` reads them; `rowloom snapshots {tmp_path}` lists all"
    before = f"The newest before it that has all its files is {tmp_path}"
    assert said("s3", f"{tmp_path}/s3/x is damaged") == f"{before}/s2: {rest}"
    assert said("s4", f"{tmp_path}/s4/x is damaged") == f"{before}/s3: {rest}"
    assert said("s4", f"{tmp_path}/s3/x is damaged") == f"{before}/s2: {rest}"  # it was made upon that
    (tmp_path / "s2/tables.json").unlink()
    assert said("s3", f"{tmp_path}/s3/x is damaged") == f"{before}/s1: {rest}"
    (tmp_path / "s3/MANIFEST.json").write_text("{")  # so it is not known when it was taken, and s4 needs it
    assert said("s3", "") == f"The newest beside it that has all its files is {tmp_path}/s1: {rest}"
    (tmp_path / "s1/tables.json").unlink()
    assert said("s3", "") == (
        f"No other snapshot beside it can be restored; `rowloom snapshots {tmp_path}` lists all"
    )
