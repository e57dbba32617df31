"""Which snapshot a way out names."""

import shutil
from pathlib import Path

import pytest
from snapshot_life import SnapshotLife

from rowloom.deploy.health.ways_out import ways_out
from rowloom.deploy.snapshots.usable import looked_beside
from rowloom.proto.snapshots.manifest import MANIFEST
from rowloom.server.snapshots.target import target_of


@pytest.fixture
def snapshots(tmp_path) -> Path:
    """s1, s2 that is made upon it, and s3, which needs no other."""
    folder = tmp_path / "storage/snapshots"
    life = SnapshotLife(seed=1)
    life.create(0)
    upon = None
    for id in ("s1", "s2", "s3"):
        life.push(3)
        upon = life.snapshot(target_of(folder / id), id, upon=upon if id == "s2" else None)
    return folder


def said(url: Path | str, cluster_id: str = "") -> str:
    """The ways out of a cluster whose newest snapshot that is known is at a URL."""
    shard = {"index": 0, "health": "lost", "bytes": 0}
    known = {"id": str(url).rpartition("/")[2], "url": str(url), "age_s": 60.0}
    return ways_out(
        {
            "shards": [shard],
            "durability": "memory",
            "snapshot": known,
            "cluster_id": cluster_id,
            "name": "ads",
        }
    )


def test_a_way_out_says_what_a_restore_loses(snapshots):
    assert f"`rowloom restore {snapshots}/s3 CONFIG`" in said(snapshots / "s3")
    assert " old, without what was pushed after it\n- " in said(snapshots / "s3")
    assert "that can be read" not in said(snapshots / "s3")


def test_a_way_out_named_a_snapshot_that_cannot_be_restored(snapshots):
    (snapshots / "s3" / MANIFEST).write_text("{")
    now = said(snapshots / "s3")
    assert f"`rowloom restore {snapshots}/s2 CONFIG`" in now
    assert "from the newest snapshot that can be read (s3: " in now
    next(one for one in (snapshots / "s1").rglob("*") if one.is_file() and one.name != MANIFEST).unlink()
    now = said(snapshots / "s3")  # s2 was made upon it
    assert "rowloom restore" not in now
    assert "no snapshot can be restored (s3: " in now
    assert f"`rowloom snapshots {snapshots}` lists all" in now


def test_a_way_out_named_a_snapshot_that_is_gone(snapshots):
    shutil.rmtree(snapshots)
    now = said(snapshots / "s3")
    assert "rowloom restore" not in now
    assert "no snapshot can be restored (s3: it is not there; `rowloom snapshots " in now


def test_of_a_storage_that_this_machine_does_not_see_the_way_out_says_what_the_cluster_knows():
    assert looked_beside("/no/such/storage/snapshots/s3") is None
    assert "`rowloom restore /no/such/storage/snapshots/s3 CONFIG`" in said("/no/such/storage/snapshots/s3")
    assert "(its files cannot be looked at from here)" in said("/no/such/storage/snapshots/s3")
