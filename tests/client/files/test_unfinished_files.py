"""Exports that fail, are interrupted or were killed: what they leave, and what is in the way of the next one."""

import errno
import os
import threading

import numpy as np
import pytest
from memory_client import MemoryClient
from safetensors.numpy import load_file

from rowloom.client.files import export_table
from rowloom.client.vocabulary import Vocabulary
from rowloom.proto.spec import TableSpec


@pytest.fixture
def table():
    return MemoryClient().create_table(TableSpec("t", 10, dim=3))


def test_a_disk_with_room_for_the_rows_and_none_for_their_ids_kept_the_rows(tmp_path, table, monkeypatch):
    from rowloom.client.files import array_files

    real = array_files.take_room

    def full(path, size):
        if ".ids." in path.name:
            raise OSError(errno.ENOSPC, "no space left on device")
        real(path, size)

    def interrupted(path, size):
        raise KeyboardInterrupt

    for broken, raised in ((full, OSError), (interrupted, KeyboardInterrupt)):
        monkeypatch.setattr(array_files, "take_room", broken)
        with pytest.raises(raised):
            export_table(table, tmp_path / "x.npy", ids=[1, 5])
        assert list(tmp_path.iterdir()) == []


def test_what_a_killed_export_left_under_the_same_process_number_is_in_the_way_of_none(tmp_path, table):
    left = f".part-{os.getpid()}-{threading.get_ident()}"
    for name in ("x.npy", "x.npy.ids.npy", "x.safetensors", "x.vec"):
        (tmp_path / f"{name}{left}").write_bytes(b"left" * 1000)
    for name in ("x.npy", "x.safetensors", "x.vec"):
        export_table(table, tmp_path / name, ids=[1, 5], vocabulary=Vocabulary("abc"))
    assert np.load(tmp_path / "x.npy").shape == (2, 3)
    assert load_file(tmp_path / "x.safetensors")["ids"].tolist() == [1, 5]
    assert len((tmp_path / "x.vec").read_text().splitlines()) == 3
    assert not list(tmp_path.glob("*.part*"))


def test_a_parquet_export_that_was_interrupted_as_it_began_left_a_file(tmp_path, table, monkeypatch):
    parquet = pytest.importorskip("pyarrow.parquet", reason="needs pyarrow")

    def interrupted(path, *_):
        path.write_bytes(b"PAR1")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(parquet, "ParquetWriter", interrupted)
        with pytest.raises(KeyboardInterrupt):
            export_table(table, tmp_path / "x.parquet")
    assert list(tmp_path.iterdir()) == []

    def interrupt(ids, **_):
        raise KeyboardInterrupt

    monkeypatch.setattr(table, "pull", interrupt)
    with pytest.raises(KeyboardInterrupt):
        export_table(table, tmp_path / "x.parquet")
    assert list(tmp_path.iterdir()) == []
