"""Ids, words and sizes go with their rows through every format, or the file is refused: never those of another file."""

import numpy as np
import pytest
from memory_client import MemoryClient
from optional import PARQUET
from safetensors.numpy import save_file

from rowloom.client.files import export_table, from_pretrained, import_table
from rowloom.client.vocabulary import Vocabulary
from rowloom.proto.errors import InvalidRequest
from rowloom.proto.spec import TableSpec

WORDS = Vocabulary(["the", "of", "and"], unk="?", pad=None, buckets=2)
ROWS = np.arange(14, dtype=np.float32).reshape(7, 2) / 7  # of 4 words, 2 buckets, and one behind them
FORMATS = ["x.npy", "x.safetensors", PARQUET, "x.vec", "x.txt", "x.bin"]


@pytest.fixture
def memory():
    return MemoryClient()


@pytest.fixture
def table(memory):
    return memory.create_table(WORDS.attach(TableSpec("t", 7, dim=2)), ROWS)


@pytest.mark.parametrize("name", FORMATS)
def test_unk_pad_and_buckets_of_a_vocabulary_come_back_from_every_format(tmp_path, memory, table, name):
    rows = export_table(table, tmp_path / name)
    done = from_pretrained(memory, tmp_path / name, "back")
    assert done.vocabulary == WORDS == Vocabulary.of(done.table)
    assert done.table.spec.num_embeddings == 7
    np.testing.assert_array_equal(done.table.rows[:rows], ROWS[:rows])
    assert rows == (6 if name in ("x.vec", "x.txt", "x.bin") else 7)


@pytest.mark.parametrize("name", FORMATS)
def test_a_vocabulary_of_any_size_comes_back_from_every_format(tmp_path, memory, name, monkeypatch):
    for module in ("array_files", "parquet_files"):
        monkeypatch.setattr(f"rowloom.client.files.{module}.MOST_WORDS_BYTES", 100_000)
    large = Vocabulary([f"word{k}" for k in range(20_000)], buckets=1)
    table = memory.create_table(TableSpec("t", len(large), dim=1))
    export_table(table, tmp_path / name, vocabulary=large)
    done = from_pretrained(memory, tmp_path / name, "back")
    assert done.vocabulary == large
    np.testing.assert_array_equal(done.table.rows, table.rows)


@pytest.mark.parametrize("name", FORMATS)
def test_a_file_without_words_forgets_those_of_the_export_before_it(tmp_path, memory, table, name):
    export_table(table, tmp_path / name)
    plain = Vocabulary(["a", "b", "c", "d", "e"])
    other = memory.create_table(TableSpec("o", 7, dim=2), ROWS + 1)
    export_table(other, tmp_path / name, vocabulary=plain if name in ("x.vec", "x.txt", "x.bin") else None)
    assert [path.name for path in tmp_path.iterdir()] == [name]
    done = from_pretrained(memory, tmp_path / name, "back")
    assert done.vocabulary in (None, plain)
    np.testing.assert_array_equal(done.table.pull(range(7)), other.rows)


def test_words_of_an_older_file_are_not_those_of_the_rows_that_replaced_it(tmp_path, memory, table):
    export_table(table, tmp_path / "x.npy")
    np.save(tmp_path / "x.npy", ROWS[::-1])
    with pytest.raises(InvalidRequest, match=r"x\.npy\.vocabulary\.json has the words of another x\.npy"):
        from_pretrained(memory, tmp_path / "x.npy", "back")
    (tmp_path / "x.npy.vocabulary.json").unlink()
    assert from_pretrained(memory, tmp_path / "x.npy", "back").vocabulary is None


def test_ids_of_an_older_file_are_not_those_of_the_rows_that_replaced_it(tmp_path, memory, table):
    export_table(table, tmp_path / "x.npy", ids=[1, 5])
    export_table(table, tmp_path / "y.npy", ids=[2, 3])
    (tmp_path / "y.npy").replace(tmp_path / "x.npy")
    with pytest.raises(InvalidRequest, match=r"x\.npy\.ids\.npy has the ids of another x\.npy"):
        import_table(table, tmp_path / "x.npy")


def test_ids_and_words_that_people_put_beside_a_file_are_believed(tmp_path, memory):
    np.save(tmp_path / "x.npy.ids.npy", [2, 0, 1])
    Vocabulary(["a"]).save(tmp_path / "x.npy.vocabulary.json")
    np.save(tmp_path / "x.npy", ROWS[:3])
    done = from_pretrained(memory, tmp_path / "x.npy", "back")
    np.testing.assert_array_equal(done.table.rows[[2, 0, 1]], ROWS[:3])
    assert (done.vocabulary, done.table.spec.num_embeddings) == (Vocabulary(["a"]), 3)


def test_a_vocabulary_that_has_more_ids_than_the_file_has_rows_is_refused(tmp_path, memory):
    np.save(tmp_path / "x.npy", ROWS[:3])
    Vocabulary(["a", "b"]).save(tmp_path / "x.npy.vocabulary.json")
    with pytest.raises(InvalidRequest, match="num_embeddings is 3, the vocabulary has 4 ids"):
        from_pretrained(memory, tmp_path / "x.npy", "back")
    assert memory.tables() == []


def test_rows_of_other_words_do_not_go_into_a_table_of_words(tmp_path, memory, table):
    other = memory.create_table(
        Vocabulary(["of", "the", "and"], unk="?", pad=None).attach(TableSpec("o", 7, dim=2))
    )
    before = other.rows.copy()
    export_table(table, tmp_path / "x.npy")
    with pytest.raises(InvalidRequest, match="has rows of other words than table 'o'"):
        import_table(other, tmp_path / "x.npy")
    np.testing.assert_array_equal(other.rows, before)


def test_specials_that_a_file_says_otherwise_are_refused(tmp_path, memory, table):
    export_table(table, tmp_path / "x.vec")
    with pytest.raises(InvalidRequest, match=r"says itself what unk, pad and buckets are: .*; got unk=None"):
        from_pretrained(memory, tmp_path / "x.vec", "back", unk=None)
    assert from_pretrained(memory, tmp_path / "x.vec", "back", unk="?", pad=None, buckets=2).rows == 6


@pytest.mark.parametrize("suffix", ["npy", "safetensors", "parquet"])
def test_an_id_that_is_there_twice_is_refused_before_anything_is_written(tmp_path, memory, suffix):
    table = memory.create_table(TableSpec("t", 10, dim=2))
    before = table.rows.copy()
    written(tmp_path / f"x.{suffix}", np.array([3, 9, 1, 9]), ROWS[:4])
    with pytest.raises(InvalidRequest, match="rows 1 and 3 both have id 9; which of them is meant"):
        import_table(table, tmp_path / f"x.{suffix}", block_rows=2)
    written(tmp_path / f"x.{suffix}", np.array([3, 9, 10, 1]), ROWS[:4])
    with pytest.raises(InvalidRequest, match=r"row 2 has id 10, table 't' \[0, 10\)"):
        import_table(table, tmp_path / f"x.{suffix}", block_rows=2)
    np.testing.assert_array_equal(table.rows, before)


def written(path, ids, rows) -> None:
    if path.suffix == ".npy":
        np.save(path, rows)
        np.save(f"{path}.ids.npy", ids)
    elif path.suffix == ".safetensors":
        from safetensors.numpy import save_file

        save_file({"weight": rows, "ids": ids}, path)
    else:
        pa = pytest.importorskip("pyarrow", reason="needs pyarrow")
        import pyarrow.parquet as pq

        pq.write_table(pa.table({"id": ids, "row": list(rows)}), path)


def test_no_row_at_all_is_a_failure_and_leaves_no_table(tmp_path, memory, table):
    (tmp_path / "v.txt").write_text("cat 1 2\ndog 3 4\n")
    with pytest.raises(
        InvalidRequest, match=r"none of the 2 words of .*v\.txt, such as \['cat', 'dog'\], is among"
    ):
        import_table(table, tmp_path / "v.txt")
    with pytest.raises(InvalidRequest, match="none of the 2 words"):
        from_pretrained(memory, tmp_path / "v.txt", "new", vocabulary=Vocabulary(["bird"]))
    np.save(tmp_path / "x.npy", np.empty((0, 2), np.float32))
    open_ended = memory.create_table(TableSpec("o", None, dim=2))
    with pytest.raises(InvalidRequest, match=r"x\.npy has no rows: nothing was written into table 'o'"):
        import_table(open_ended, tmp_path / "x.npy")
    assert [one.name for one in memory.tables()] == ["t", "o"]


def test_a_word_is_the_same_whatever_stands_in_other_lines(tmp_path, memory):
    # A tab and a space between a word and its numbers: the tab was part of the word where all lines were so.
    (tmp_path / "v.txt").write_bytes(b"the\t 0.5 1.5\nof 2.5 3.5\n")
    done = from_pretrained(memory, tmp_path / "v.txt", "v", pad=None, unk=None)
    assert done.vocabulary.words == ["the", "of"]
    (tmp_path / "v.txt").write_bytes(b"the 0.5 1_5\nof 2.5 3.5\n")
    with pytest.raises(InvalidRequest, match=r"v\.txt:1 \('the'\): could not convert"):
        from_pretrained(memory, tmp_path / "v.txt", "w", pad=None, unk=None)


def test_a_vocabulary_file_that_is_no_utf8_is_refused_with_its_line(tmp_path):
    (tmp_path / "w.txt").write_bytes(b"one\ntwo\nna\xefve\n")
    with pytest.raises(InvalidRequest, match=r"w\.txt:3 is no UTF-8"):
        Vocabulary.from_file(tmp_path / "w.txt")


@pytest.mark.parametrize("name", ["x.vec", "x.npy"])
@pytest.mark.parametrize("places", [{"first_id": 3}, {"mod_parts": 2}])
def test_rows_that_say_where_they_go_are_not_told_otherwise(tmp_path, table, name, places):
    export_table(table, tmp_path / name, ids=[1, 3])
    before = table.rows.copy()
    with pytest.raises(InvalidRequest, match=rf"names its (ids|words); leave {next(iter(places))}= out, got"):
        import_table(table, tmp_path / name, **places)
    np.testing.assert_array_equal(table.rows, before)


@pytest.mark.parametrize("options", [{}, {"first_id": 6}])
def test_a_npy_file_that_has_lost_its_ids_was_advised_to_be_counted_on_from_one(tmp_path, table, options):
    export_table(table, tmp_path / "x.npy", ids=[1, 5])
    (tmp_path / "x.npy.ids.npy").unlink()
    with pytest.raises(InvalidRequest) as refused:
        import_table(table, tmp_path / "x.npy", **options)
    assert str(refused.value).endswith(
        f". That counts its rows on from one id, in order. If they have other ids, these belong into {tmp_path}/x.npy"
        ".ids.npy, which is not there: an export of chosen ids makes both files, and they stay together"
    )
    import_table(table, tmp_path / "x.npy", first_id=2)


def test_a_file_that_names_no_ids_beside_it_is_not_told_of_any(tmp_path, table):
    save_file({"weight": ROWS[:2]}, tmp_path / "x.safetensors")
    with pytest.raises(InvalidRequest, match=r"say first_id= to fill a part of it$"):
        import_table(table, tmp_path / "x.safetensors")
