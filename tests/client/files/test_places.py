"""Files that lie wherever fsspec reaches: read and written by their URL, and named by it in every message."""

import json

import fsspec
import numpy as np
import pytest
from memory_client import MemoryClient
from optional import PARQUET
from safetensors.numpy import save_file

from rowloom.client.files import export_table, from_pretrained, import_table
from rowloom.client.vocabulary import Vocabulary
from rowloom.proto.errors import InvalidRequest, Unavailable
from rowloom.proto.spec import TableSpec

ROWS = np.arange(30, dtype=np.float32).reshape(10, 3) / 7


@pytest.fixture
def store():
    """URL of an empty folder of a file system that has no folder here."""
    fs = fsspec.filesystem("memory")
    fs.store.clear()
    fs.pseudo_dirs[:] = [""]
    yield "memory://bucket/folder"
    fs.store.clear()
    fs.pseudo_dirs[:] = [""]


def names(store) -> list[str]:
    fs, path = fsspec.core.url_to_fs(store)
    return sorted(one.rpartition("/")[2] for one in fs.ls(path, detail=False))


@pytest.fixture
def memory():
    return MemoryClient()


@pytest.fixture
def table(memory):
    return memory.create_table(TableSpec("t", 10, dim=3), ROWS)


@pytest.mark.parametrize("name", ["x.npy", "x.safetensors", PARQUET, "x.vec", "x.txt", "x.bin"])
def test_a_table_goes_to_a_url_and_comes_back(store, table, name):
    words = Vocabulary(list("abcdefgh"))
    assert export_table(table, f"{store}/{name}", vocabulary=words) == 10
    done = from_pretrained(MemoryClient(), f"{store}/{name}", "back")
    np.testing.assert_array_equal(done.table.rows, ROWS)
    assert done.vocabulary == words


def test_the_ids_of_a_npy_file_go_with_it_and_go_away_with_it(store, memory, table):
    export_table(table, f"{store}/x.npy", ids=[7, 2])
    assert names(store) == ["x.npy", "x.npy.ids.npy"]
    other = memory.create_table(TableSpec("o", 10, dim=3), np.zeros((10, 3), np.float32))
    import_table(other, f"{store}/x.npy")
    np.testing.assert_array_equal(other.rows[[2, 7]], ROWS[[2, 7]])
    export_table(table, f"{store}/x.npy")
    assert names(store) == ["x.npy"]


def test_a_model_in_several_files_is_fetched_through_its_index(store, memory, tmp_path):
    save_file({"emb.weight": ROWS}, tmp_path / "model-1.safetensors")
    index = json.dumps({"weight_map": {"emb.weight": "model-1.safetensors"}})
    (tmp_path / "model.safetensors.index.json").write_text(index)
    fs, path = fsspec.core.url_to_fs(store)
    fs.put(str(tmp_path), path, recursive=True)
    done = from_pretrained(memory, f"{store}/model.safetensors.index.json", "new")
    np.testing.assert_array_equal(done.table.rows, ROWS)


def test_a_file_url_is_a_path(table, tmp_path):
    export_table(table, f"file://{tmp_path}/x.npy")
    np.testing.assert_array_equal(np.load(tmp_path / "x.npy"), ROWS)
    import_table(table, f"file://{tmp_path}/x.npy")


def test_what_is_not_at_a_url_is_one_line_that_names_it(store, memory, table):
    with pytest.raises(FileNotFoundError, match=f"^no file {store}/none.npy$"):
        import_table(table, f"{store}/none.npy")
    with pytest.raises(FileNotFoundError, match=f"^no file {store}/none.txt$"):
        Vocabulary.from_file(f"{store}/none.txt")
    with pytest.raises(InvalidRequest, match=r"'nonsense://x/y\.npy' cannot be used"):
        from_pretrained(memory, "nonsense://x/y.npy", "new")
    assert [one.name for one in memory.tables()] == ["t"]


def test_a_fault_in_a_file_is_told_of_its_url_not_of_the_copy(store, memory):
    fs, path = fsspec.core.url_to_fs(store)
    fs.pipe_file(f"{path}/x.txt", b"a 1 2\nb 1 x\n")
    with pytest.raises(InvalidRequest, match=f"^{store}/x.txt:2 "):
        from_pretrained(memory, f"{store}/x.txt", "new")
    assert memory.tables() == []


def test_an_export_that_fails_leaves_nothing_at_the_url(store, table, monkeypatch):
    monkeypatch.setattr(table, "pull", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        export_table(table, f"{store}/x.npy")
    assert not fsspec.filesystem("memory").store


def test_a_store_that_takes_nothing_is_one_line_that_names_the_url(store, table, monkeypatch):
    def refused(*_, **__):
        raise RuntimeError("403:\nforbidden")

    monkeypatch.setattr(type(fsspec.filesystem("memory")), "put_file", refused)
    with pytest.raises(Unavailable, match=f"^{store}/x.npy cannot be written: RuntimeError: 403: forbidden$"):
        export_table(table, f"{store}/x.npy")


def test_a_vocabulary_is_saved_and_read_by_url(store):
    words = Vocabulary(["a", "b"], buckets=3)
    words.save(f"{store}/words.json")
    assert Vocabulary.from_file(f"{store}/words.json") == words


@pytest.mark.parametrize("named", [".", "/", "memory://"])
def test_a_path_that_ends_in_no_name_was_an_internal_error(store, table, tmp_path, monkeypatch, named):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InvalidRequest, match=f"^{named} is a folder without a TensorFlow checkpoint in it"):
        import_table(table, named)
    with pytest.raises(InvalidRequest, match=f"^{named} is a folder: name a file in it, such as"):
        export_table(table, named, format="npy")
    (tmp_path / ".index").write_text("")  # of a checkpoint without a name
    with pytest.raises(InvalidRequest, match=r"^cannot tell the format of \.index from its name"):
        import_table(table, ".index")
    (tmp_path / "checkpoint").write_text('model_checkpoint_path: ""')
    with pytest.raises(InvalidRequest, match="is a folder without a TensorFlow checkpoint in it"):
        import_table(table, tmp_path)


@pytest.mark.parametrize("format", [None, "npy", "safetensors", "parquet", "glove", "word2vec-binary"])
def test_a_missing_file_or_folder_is_one_line_whatever_its_format(table, tmp_path, format):
    with pytest.raises(FileNotFoundError, match=f"^no file {tmp_path}/none.npy$"):
        import_table(table, tmp_path / "none.npy", format=format)
    with pytest.raises(InvalidRequest, match="is a folder without a TensorFlow checkpoint"):
        import_table(table, tmp_path, format=format)
    with pytest.raises(FileNotFoundError, match=f"^no folder {tmp_path}/none to write x.npy into$"):
        export_table(table, tmp_path / "none" / "x.npy", format=format)


def test_a_folder_to_export_into_was_said_to_have_a_name_without_a_format(table, tmp_path):
    (tmp_path / "rows.npy").mkdir()
    (tmp_path / "small").mkdir()
    for named in (f"{tmp_path}/new/", f"{tmp_path}/small", f"{tmp_path}/rows.npy", "memory://new/"):
        for format in (None, "npy"):
            with pytest.raises(InvalidRequest, match=f"^{named} is a folder: name a file in it, such as"):
                export_table(table, named, format=format)
    with pytest.raises(InvalidRequest, match="unknown format 'h5'"):
        export_table(table, tmp_path / "x.h5", format="h5")
