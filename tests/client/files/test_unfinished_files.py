"""Exports that fail, are interrupted or were killed: what they leave, and what is in the way of the next one."""

import errno
import os
import threading
from types import SimpleNamespace

import fsspec
import numpy as np
import pytest
from memory_client import MemoryClient
from safetensors.numpy import load_file

from rowloom.client.files import export_table, import_table, places, room
from rowloom.client.vocabulary import Vocabulary
from rowloom.proto.spec import TableSpec, Zeros


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


def _disk(monkeypatch, free):
    monkeypatch.setattr(room.shutil, "disk_usage", lambda _: SimpleNamespace(total=1 << 40, free=free))


@pytest.mark.parametrize(
    ("name", "least"),
    [("x.npy", 120), ("x.safetensors", 120), ("x.pt", 240), ("x.vec", 60), ("x.bin", 120), ("x.parquet", 15)],
)
def test_a_table_larger_than_the_disk_was_written_until_that_was_full(
    tmp_path, table, monkeypatch, name, least
):
    _disk(monkeypatch, least - 1)
    with pytest.raises(OSError, match="nothing was written") as raised:
        export_table(table, tmp_path / name, vocabulary=Vocabulary([f"w{k}" for k in range(8)]))
    assert raised.value.errno == errno.ENOSPC
    assert raised.value.filename == str(tmp_path / name)
    assert f"take at least {least} bytes, and the disk of {tmp_path} has {least - 1} bytes free" in str(
        raised.value
    )
    assert "say ids=table.ids() for only those rows that were ever pushed to or assigned" in str(raised.value)
    assert table.pulls == 0
    assert list(tmp_path.iterdir()) == []


def test_an_export_of_chosen_ids_that_does_not_fit_is_not_told_to_choose_them(tmp_path, table, monkeypatch):
    _disk(monkeypatch, 39)
    with pytest.raises(OSError, match="nothing was written: 2 rows take at least 40 bytes") as raised:
        export_table(table, tmp_path / "x.npy", ids=[1, 5])
    assert raised.value.strerror.endswith("has 39 bytes free; make room there, or say another place")
    _disk(monkeypatch, 40)
    assert export_table(table, tmp_path / "x.npy", ids=[1, 5]) == 2


def test_equal_rows_in_parquet_or_a_disk_that_says_nothing_of_its_room_are_no_reason_to_refuse(
    tmp_path, table, monkeypatch
):
    pytest.importorskip("pyarrow", reason="needs pyarrow")
    _disk(monkeypatch, 0)
    zeros = MemoryClient().create_table(
        TableSpec("z", 10, dim=3, initializer=Zeros()), np.zeros((10, 3), np.float32)
    )
    assert export_table(zeros, tmp_path / "z.parquet") == 10
    monkeypatch.setattr(room.shutil, "disk_usage", lambda _: SimpleNamespace(total=0, free=0))
    assert export_table(table, tmp_path / "x.npy") == 10


def test_a_disk_that_filled_up_under_an_export_said_only_that(tmp_path, table, monkeypatch):
    (tmp_path / "x.safetensors").write_bytes(b"what was there")

    def full(ids, **_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(table, "pull", full)
    with pytest.raises(
        OSError, match="what was written is removed: 10 rows take at least 120 bytes"
    ) as raised:
        export_table(table, tmp_path / "x.safetensors")
    assert f"the disk of {tmp_path} filled up; with that removed it has" in str(raised.value)
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"what was there"]


def test_a_library_that_does_not_say_that_the_disk_is_full_is_not_believed(tmp_path, table, monkeypatch):
    def broken(ids, **_):
        _disk(monkeypatch, 4096)
        raise RuntimeError("PytorchStreamWriter failed writing file data/0: file write failed")

    monkeypatch.setattr(table, "pull", broken)
    with pytest.raises(OSError, match=r"filled up; with that removed it has 4\.0 KiB free"):
        export_table(table, tmp_path / "x.npy")
    assert list(tmp_path.iterdir()) == []


def test_an_export_to_a_store_says_that_the_folder_for_temporary_files_is_too_small(table, monkeypatch):
    _disk(monkeypatch, 100)
    with pytest.raises(OSError, match="where it is made whole first, has 100 bytes free") as raised:
        export_table(table, "memory://bucket/x.npy")
    assert raised.value.filename == "memory://bucket/x.npy"
    assert "or another folder (the variable TMPDIR)" in str(raised.value)


def test_a_url_whose_copy_finds_no_room_here_was_called_unreadable(table, monkeypatch):
    export_table(table, "memory://bucket/full.npy")

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(places, "_fetch", full)
    with pytest.raises(OSError, match="finds no room in the folder for temporary files") as raised:
        import_table(table, "memory://bucket/full.npy")
    assert raised.value.filename == "memory://bucket/full.npy"
    fsspec.filesystem("memory").rm("bucket", recursive=True)
