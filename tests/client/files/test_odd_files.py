"""Files as other programs leave them: rows under their own names, or a refusal; never under the names of others."""

import json
import pickle
import re
import sys
import warnings

import numpy as np
import pytest
from memory_client import MemoryClient
from safetensors.numpy import save_file

from rowloom.client.files import export_table, formats, from_pretrained, import_table
from rowloom.client.vocabulary import Vocabulary
from rowloom.proto.errors import InvalidRequest
from rowloom.proto.spec import TableSpec

ROWS = np.array([[0.5, 1.5], [2.5, 3.5], [4.5, 5.5]], np.float32)
MARK = b"\xef\xbb\xbf"


@pytest.fixture
def memory():
    return MemoryClient()


def made(memory, path, data: bytes, **options):
    path.write_bytes(data)
    return from_pretrained(memory, path, "v", pad=None, unk=None, **options)


@pytest.mark.parametrize(
    "lines",
    [
        b"the\t0.5\t1.5\nof\t2.5\t3.5\nand\t4.5\t5.5\n",
        b"the 0.5 1.5\nof  2.5 3.5\nand 4.5 5.5\n",
        b"the 0.5 1.5\nof\t2.5 3.5\nand 4.5 5.5\n",
        b"the 0.5 1.5\nof 2.5  3.5\nand 4.5 5.5\t\n",
        MARK + b"the 0.5 1.5\nof 2.5 3.5\nand 4.5 5.5\n",
        MARK + b"3 2\nthe 0.5 1.5\nof 2.5 3.5\nand 4.5 5.5\n",
    ],
)
def test_tabs_several_spaces_and_a_byte_order_mark_are_no_part_of_a_word(memory, tmp_path, lines):
    done = made(memory, tmp_path / "v.txt", lines)
    assert done.vocabulary.words == ["the", "of", "and"]
    np.testing.assert_array_equal(done.table.rows, ROWS)


def test_a_file_of_utf16_is_refused_as_what_it_is(memory, tmp_path):
    with pytest.raises(InvalidRequest, match=r"v\.txt is UTF-16: save it as UTF-8"):
        made(memory, tmp_path / "v.txt", "the 0.5 1.5\nof 2.5 3.5\n".encode("utf-16"))
    assert memory.tables() == []


def test_a_word_that_is_a_space_has_its_row(memory, tmp_path):
    done = made(memory, tmp_path / "v.txt", b"  0.5 1.5\n 2.5 3.5\nof 4.5 5.5\n")
    assert done.vocabulary.words == [" ", "", "of"]
    np.testing.assert_array_equal(done.table.rows, ROWS)


def test_words_that_differ_in_bytes_that_are_no_utf8_stay_two(memory, tmp_path):
    done = made(memory, tmp_path / "v.txt", b"pass\xe9 0.5 1.5\npass\xe8 2.5 3.5\nx 4.5 5.5\n")
    assert done.vocabulary.words == ["pass\\xe9", "pass\\xe8", "x"]
    assert (done.rows, done.skipped) == (3, 0)


def test_a_header_that_counts_wrong_is_refused_and_the_rows_can_be_read_without_it(memory, tmp_path):
    data = b"1 2\nthe 0.5 1.5\nof 2.5 3.5\n"
    with pytest.raises(
        InvalidRequest, match=r"more words than it says: 2 words, its header says 1.*format='glove'"
    ):
        made(memory, tmp_path / "v.vec", data)
    done = made(memory, tmp_path / "v.vec", data, format="glove")
    np.testing.assert_array_equal(done.table.rows, ROWS[:2])


def test_a_glove_file_whose_first_word_is_a_number_has_no_header(memory, tmp_path):
    done = made(memory, tmp_path / "v.txt", b"3 2\nx 4\n", format="glove")
    assert done.vocabulary.words == ["3", "x"]
    assert done.table.rows.tolist() == [[2.0], [4.0]]


@pytest.mark.parametrize(
    ("word", "end"), [(b"new york", b"\n"), (b"a b c d e f g", b"\n"), (b"x y", b"\n"), (b"new york", b"")]
)
def test_a_binary_file_with_a_space_in_a_word_is_refused(memory, tmp_path, word, end):
    rows = b"".join(w + b" " + r.tobytes() + end for w, r in zip([b"in", word, b"of"], ROWS, strict=True))
    with pytest.raises(
        InvalidRequest, match=r"word 3 of 3 would be .* one before it has a space|cut short in word 3"
    ):
        made(memory, tmp_path / "v.bin", b"3 2\n" + rows)
    assert memory.tables() == []


def test_a_binary_file_that_goes_on_behind_its_words_is_refused(memory, tmp_path):
    rows = b"".join(w + b" " + r.tobytes() for w, r in zip([b"in", b"of"], ROWS, strict=False))
    with pytest.raises(InvalidRequest, match="goes on for 11 bytes behind the 1 words that its header says"):
        made(memory, tmp_path / "v.bin", b"1 2\n" + rows)
    assert memory.tables() == []


def test_a_vocabulary_file_may_begin_with_a_byte_order_mark(tmp_path):
    (tmp_path / "words.txt").write_bytes(MARK + b"the\nof\n")
    assert "the" in Vocabulary.from_file(tmp_path / "words.txt")


def test_a_vocabulary_for_a_file_without_words_is_refused(memory, tmp_path):
    np.save(tmp_path / "w.npy", ROWS)
    words = Vocabulary(["a", "b", "c"], unk=None, pad=None)
    table = memory.create_table(TableSpec("t", 3, dim=2))
    with pytest.raises(InvalidRequest, match=r"by their place in it, not by words; leave vocabulary= out"):
        import_table(table, tmp_path / "w.npy", vocabulary=words)
    with pytest.raises(InvalidRequest, match="leave vocabulary= out"):
        from_pretrained(memory, tmp_path / "w.npy", "v", vocabulary=words)


# ------------------------------------------------------------------------------------------------ Parquet


def parquet(path, columns: dict, index: list[str] = []):  # noqa: B006  # not changed
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    written = pa.table(columns)
    if index:
        pandas = {"index_columns": index, "columns": [], "column_indexes": []}
        written = written.replace_schema_metadata({b"pandas": json.dumps(pandas).encode()})
    pq.write_table(written, path)
    return path


def test_words_that_are_categories_are_words(memory, tmp_path):
    pa = pytest.importorskip("pyarrow")
    words = pa.array(["c", "a", "b"]).dictionary_encode()
    path = parquet(tmp_path / "v.parquet", {"word": words, "row": ROWS.tolist()})
    done = from_pretrained(memory, path, "v", pad=None, unk=None)
    assert done.vocabulary.words == ["c", "a", "b"]
    np.testing.assert_array_equal(done.table.rows, ROWS)


@pytest.mark.parametrize(("name", "keys"), [("id", [5.0, 3.0, 9.0]), ("word", [b"a", b"b", b"c"])])
def test_ids_and_words_of_a_type_that_cannot_be_read_are_refused(memory, tmp_path, name, keys):
    path = parquet(tmp_path / "v.parquet", {name: keys, "row": ROWS.tolist()})
    with pytest.raises(
        InvalidRequest, match=rf"column '{name}' has type \w+; ids must be integers and words text"
    ):
        from_pretrained(memory, path, "v")


def test_an_index_of_pandas_is_no_column_of_the_rows(memory, tmp_path):
    columns = {"e0": ROWS[:, 0], "e1": ROWS[:, 1], "__index_level_0__": [5, 3, 9]}
    path = parquet(tmp_path / "v.parquet", columns, ["__index_level_0__"])
    with pytest.raises(InvalidRequest, match=r"has an index of pandas, '__index_level_0__': call it 'id'"):
        from_pretrained(memory, path, "v")
    path = parquet(tmp_path / "w.parquet", {**columns, "id": [0, 1, 2]}, ["__index_level_0__"])
    assert from_pretrained(memory, path, "w").table.spec.row_shape == (2,)


def framed(path, index: dict) -> None:
    """As pandas writes a frame whose index is a range: it stands in the metadata alone."""
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    about = json.dumps({"index_columns": [{"kind": "range", **index}], "columns": [], "column_indexes": []})
    columns = pa.table({"x": ROWS[:, 0], "y": ROWS[:, 1]})
    pq.write_table(columns.replace_schema_metadata({"pandas": about}), path)


def test_an_index_of_pandas_that_is_a_range_names_the_rows_or_is_refused(memory, tmp_path):
    # df[10:16:2].to_parquet(path): its rows were those of ids 0, 1, 2.
    framed(tmp_path / "x.parquet", {"name": "id", "start": 10, "stop": 16, "step": 2})
    done = from_pretrained(memory, tmp_path / "x.parquet", "t")
    np.testing.assert_array_equal(done.table.pull([10, 12, 14]), ROWS)
    framed(tmp_path / "y.parquet", {"name": None, "start": 10, "stop": 16, "step": 2})
    with pytest.raises(InvalidRequest, match=r"has an index of pandas, '10 to 16 by 2': call it 'id' if"):
        from_pretrained(memory, tmp_path / "y.parquet", "u")
    framed(tmp_path / "y.parquet", {"name": "id", "start": 0, "stop": 9, "step": 1})
    with pytest.raises(InvalidRequest, match=r"y\.parquet has 3 rows, its index of pandas 9"):
        from_pretrained(memory, tmp_path / "y.parquet", "u")
    framed(tmp_path / "z.parquet", {"name": None, "start": 0, "stop": 3, "step": 1})
    np.testing.assert_array_equal(from_pretrained(memory, tmp_path / "z.parquet", "v").table.rows, ROWS)


def test_two_columns_that_could_name_the_rows_are_refused(memory, tmp_path):
    # After df.reset_index(): one of them was a number of the rows.
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    pq.write_table(pa.table({"index": [0, 1, 2], "id": [5, 6, 7], "x": ROWS[:, 0]}), tmp_path / "x.parquet")
    with pytest.raises(InvalidRequest, match="has columns 'index', 'id', each of which could name the rows"):
        from_pretrained(memory, tmp_path / "x.parquet", "t")


def test_a_table_of_words_comes_back_from_parquet_with_its_words_and_size(memory, tmp_path):
    pytest.importorskip("pyarrow")
    words = Vocabulary(["the", "of"], unk="?", buckets=3)
    first = memory.create_table(words.attach(TableSpec("first", 9, dim=2)))
    export_table(first, tmp_path / "v.parquet")
    back = from_pretrained(memory, tmp_path / "v.parquet", "v")
    assert (back.table.spec.num_embeddings, back.vocabulary) == (9, words)
    assert Vocabulary.of(back.table) == words
    np.testing.assert_array_equal(back.table.rows, first.rows)


# ------------------------------------------------------------------------------------- safetensors, arrays


@pytest.mark.parametrize("ids", [np.array([[5], [3], [9]]), np.array([5, 3])])
def test_ids_that_do_not_fit_the_rows_are_refused(memory, tmp_path, ids):
    save_file({"weight": ROWS, "ids": ids}, tmp_path / "v.safetensors")
    with pytest.raises(InvalidRequest, match=r"tensor 'ids' has shape .*make it \[3\], an integer for each"):
        from_pretrained(memory, tmp_path / "v.safetensors", "v")


@pytest.mark.parametrize("format", [None, "safetensors"])
def test_a_model_in_several_files_is_read_through_its_index(memory, tmp_path, format):
    save_file({"embed": ROWS}, tmp_path / "model-00001-of-00002.safetensors")
    save_file({"head": ROWS + 1}, tmp_path / "model-00002-of-00002.safetensors")
    index = tmp_path / "model.safetensors.index.json"
    files = {"embed": "model-00001-of-00002.safetensors", "head": "model-00002-of-00002.safetensors"}
    index.write_text(json.dumps({"weight_map": files}))
    done = from_pretrained(memory, index, "v", tensor="embed", format=format)
    np.testing.assert_array_equal(done.table.rows, ROWS)
    with pytest.raises(InvalidRequest, match="2 tensors that fit; say tensor="):
        from_pretrained(memory, index, "w")


@pytest.mark.parametrize(
    "text", ["{", "[]", '{"weight_map": {"w": "../w.safetensors"}}', '{"weight_map": {"w": 1}}']
)
def test_an_index_that_names_no_file_beside_it_is_refused(memory, tmp_path, text):
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(text)
    with pytest.raises(InvalidRequest, match="is damaged, cut short or of another format"):
        from_pretrained(memory, index, "v")


@pytest.mark.parametrize("source", [ROWS, ROWS.astype(">f8"), np.asfortranarray(ROWS), ROWS.tolist()])
def test_rows_that_are_an_array_become_a_table(memory, source):
    np.testing.assert_array_equal(from_pretrained(memory, source, "v").table.rows, ROWS)


@pytest.mark.parametrize("source", [None, [[1.0], [2.0, 3.0]], [["a"]], 1.0])
def test_what_is_neither_a_path_nor_rows_is_refused(memory, source):
    with pytest.raises(InvalidRequest, match="array"):
        from_pretrained(memory, source, "v")


def test_a_table_of_an_array_is_made_by_a_client(client):
    np.testing.assert_array_equal(client.from_pretrained(ROWS, "v").pull([0, 1, 2]), ROWS)


def test_words_that_the_tables_metadata_cannot_hold_are_not_lost_in_silence(client, tmp_path):
    (tmp_path / "v.txt").write_text("".join(f"word{k:06d} {k}.5 1\n" for k in range(6000)))
    with pytest.warns(
        UserWarning,
        match=r"6002 words of .*v\.txt are too many .*: this handle alone has them, as \.vocabulary",
    ):
        table = client.from_pretrained(tmp_path / "v.txt", "v")
    words = Vocabulary.of(table)
    assert words is table.vocabulary
    np.testing.assert_array_equal(table.pull(words.encode(["word000007"])), [[7.5, 1]])
    assert Vocabulary.of(client.table("v")) is None
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        client.from_pretrained(tmp_path / "v.txt", "w", vocabulary=Vocabulary(["word000001"]))


class Thing:
    """What only a pickle can hold."""


def npy_with(path, rows, cut=None):
    np.save(path, rows, allow_pickle=True)
    if cut is not None:
        path.write_bytes(path.read_bytes()[:cut])
    return path.stat().st_size


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"name: ads\nshards: 2\n", "damaged or no .npy file: it begins with b'name: ' and not with"),
        (pickle.dumps([1.0]), "damaged or no .npy file: it begins with"),
        (b"PK\x03\x04 and no zip file", "damaged or no .npy file: it begins with"),
        (b"", "is empty"),
        (b"\x93NUM", "it has 4 bytes, and its header cannot be read"),
        (b"\x93NUMPY\x01\x00\x05\x00{[(,]", "it has 15 bytes, and its header cannot be read"),
    ],
)
def test_what_is_no_npy_file_was_met_with_the_advice_to_load_it_unsafely(memory, tmp_path, data, words):
    with pytest.raises(InvalidRequest) as caught:
        made(memory, tmp_path / "m.npy", data)
    assert words in str(caught.value)
    assert "pickle" not in str(caught.value)
    assert "unsafe" not in str(caught.value)


def test_an_npy_file_of_objects_is_said_to_hold_no_numbers(memory, tmp_path):
    npy_with(tmp_path / "m.npy", np.array([[Thing, None]], object))
    with pytest.raises(InvalidRequest, match=r"holds objects of Python \(object\), not numbers$"):
        from_pretrained(memory, tmp_path / "m.npy", "v")


def test_an_npy_file_that_is_cut_short_did_not_say_by_how_much(memory, tmp_path):
    whole = npy_with(tmp_path / "m.npy", np.zeros((1000, 8), np.float32))
    npy_with(tmp_path / "m.npy", np.zeros((1000, 8), np.float32), cut=whole - 1001)
    with pytest.raises(
        InvalidRequest, match=f"is cut short: it has {whole - 1001:,} bytes and should have {whole:,}$"
    ):
        from_pretrained(memory, tmp_path / "m.npy", "v")


@pytest.mark.parametrize("name", ["e.txt", "e.vec", "e.pt", "e.safetensors", "e.parquet", "e.bin"])
def test_an_empty_file_is_said_to_be_empty(memory, tmp_path, name):
    # Of a text: "line 1 is b'', not a word and its numbers".
    with pytest.raises(InvalidRequest, match=r"is empty$"):
        made(memory, tmp_path / name, b"")


def test_objects_in_a_file_of_torch_were_met_with_the_advice_to_run_them(memory, tmp_path):
    torch = pytest.importorskip("torch", reason="needs torch")
    torch.save({"w": Thing()}, tmp_path / "m.pt")
    with pytest.raises(InvalidRequest, match="holds objects that are no tensors") as caught:
        from_pretrained(memory, tmp_path / "m.pt", "v")
    assert "weights_only" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "package", "install"),
    [
        ("x.parquet", "pyarrow", "'rowloom[parquet]'"),
        ("x.pt", "torch", "'rowloom[torch]'"),
    ],
)
def test_a_package_that_a_format_lacks_was_named_without_how_to_install_it(
    memory, tmp_path, monkeypatch, name, package, install
):
    monkeypatch.setitem(sys.modules, package, None)
    table = memory.create_table(TableSpec("t", 4, dim=2))
    with pytest.raises(ImportError, match=re.escape(f"{package}: pip install {install}")):
        export_table(table, tmp_path / name)
    (tmp_path / name).write_bytes(b"something")
    with pytest.raises(ImportError, match=re.escape(f"{package}: pip install {install}")):
        from_pretrained(memory, tmp_path / name, "v")


# ---------------------------------------------------------------------------- what a file makes libraries raise


DEEP = b"[" * 100_000


def hostile_tensors(header: bytes) -> bytes:
    return len(header).to_bytes(8, "little") + header + bytes(24)


def one_tensor(shape: str, offsets: str = "[0, 24]") -> bytes:
    return hostile_tensors(
        f'{{"w": {{"dtype": "F32", "shape": {shape}, "data_offsets": {offsets}}}}}'.encode()
    )


HOSTILE = {
    "deep.safetensors": hostile_tensors(DEEP),
    "floats.safetensors": one_tensor("[2.0, 3]"),
    "bools.safetensors": one_tensor("[true, 6]"),
    "offsets.safetensors": one_tensor("[2, 3]", "[0.0, 24.0]"),
    "huge.safetensors": one_tensor("[0, 4611686018427387904]", "[0, 0]"),
    "list.safetensors": hostile_tensors(b'{"__metadata__": [1]}'),
    "deep.safetensors.index.json": DEEP,
    "list.safetensors.index.json": b'{"weight_map": [1]}',
    "nul.safetensors.index.json": b'{"weight_map": {"w": "a\\u0000b"}}',
    "up.safetensors.index.json": b'{"weight_map": {"w": ".."}}',
    "deep.npy": b"\x93NUMPY\x01\x00\x89\x13{'shape': " + b"-" * 5000,
}


@pytest.mark.parametrize("name", HOSTILE)
def test_what_a_file_made_its_reader_raise_was_an_internal_error_without_its_name(memory, tmp_path, name):
    (tmp_path / name).write_bytes(HOSTILE[name])
    refused_by_name(memory, tmp_path / name)


def refused_by_name(memory, path, words=None):
    with pytest.raises(InvalidRequest, match=words) as caught:
        from_pretrained(memory, path, "v")
    assert str(caught.value).startswith(str(path))
    assert memory.tables() == []


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"id": [1, 2], "row": [[[1.0]], [[2.0]]]}, "column 'row' has type list<.*rows are numbers"),
        ({"id": [1, 2], "row": [["a"], ["b"]]}, "column 'row' has type list<.*rows are numbers"),
        ([("id", [1, 2]), ("a", [1.0, 2.0]), ("a", [5.0, 6.0])], "has 2 columns 'a'; give each a name"),
    ],
)
def test_columns_that_are_no_rows_of_numbers_were_an_internal_error(memory, tmp_path, columns, words):
    pa = pytest.importorskip("pyarrow", reason="needs pyarrow")
    import pyarrow.parquet as pq

    pairs = columns if isinstance(columns, list) else list(columns.items())
    table = pa.Table.from_arrays([pa.array(v) for _, v in pairs], names=[name for name, _ in pairs])
    pq.write_table(table, tmp_path / "x.parquet")
    refused_by_name(memory, tmp_path / "x.parquet", words)


@pytest.mark.parametrize("key", ["pandas", "rowloom.vocabulary"])
def test_metadata_of_parquet_that_is_nested_deeply_was_an_internal_error(memory, tmp_path, key):
    pa = pytest.importorskip("pyarrow", reason="needs pyarrow")
    import pyarrow.parquet as pq

    table = pa.table({"id": [1, 2], "row": [[1.0], [2.0]]}).replace_schema_metadata({key: DEEP})
    pq.write_table(table, tmp_path / "x.parquet")
    refused_by_name(memory, tmp_path / "x.parquet", "RecursionError")


@pytest.mark.parametrize("text", [DEEP, b"[]", b"5", b"null"])
def test_a_vocabulary_beside_a_file_that_is_none_is_refused_by_its_name(memory, tmp_path, text):
    np.save(tmp_path / "x.npy", ROWS)
    (tmp_path / "x.npy.vocabulary.json").write_bytes(text)
    refused_by_name(memory, tmp_path / "x.npy", r"x\.npy\.vocabulary\.json is damaged")


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        (np.empty((3, 0)), "dim must be at least 1, got 0"),
        (np.zeros((1, 5000)), "at most 4096 columns, got 5000"),
    ],
)
def test_rows_that_no_table_can_have_were_refused_without_the_name_of_their_file(
    memory, tmp_path, rows, words
):
    np.save(tmp_path / "x.npy", rows)
    refused_by_name(memory, tmp_path / "x.npy", words)


def test_a_fault_of_ours_is_no_damage_of_the_file(memory, tmp_path, monkeypatch):
    def at_fault(*_):
        return memory.no_such_name

    np.save(tmp_path / "x.npy", ROWS)
    monkeypatch.setitem(formats._OPENERS, "npy", at_fault)
    with pytest.raises(AttributeError):
        from_pretrained(memory, tmp_path / "x.npy", "v")
    monkeypatch.setitem(formats._OPENERS, "npy", lambda *_: {}["key"])
    with pytest.raises(InvalidRequest, match="KeyError: 'key'") as caught:
        from_pretrained(memory, tmp_path / "x.npy", "v")
    assert isinstance(caught.value.__cause__, KeyError)


@pytest.mark.parametrize("suffix", ["npy", "safetensors", "parquet", "vec", "bin"])
def test_a_file_without_rows_made_a_table_of_none(memory, tmp_path, suffix):
    path = tmp_path / f"x.{suffix}"
    if suffix == "npy":
        np.save(path, ROWS[:0])
    elif suffix == "safetensors":
        save_file({"w": ROWS[:0]}, path)
    elif suffix == "parquet":
        pa = pytest.importorskip("pyarrow", reason="needs pyarrow")
        import pyarrow.parquet as pq

        pq.write_table(pa.table({"a": pa.array([], pa.float32())}), path)
    else:
        path.write_bytes(b"0 2\n")
    refused_by_name(memory, path, "has no rows to make a table of")


@pytest.mark.parametrize("suffix", ["npy", "safetensors", "parquet"])
@pytest.mark.parametrize("named", [False, True])
def test_a_table_of_rows_with_several_axes_comes_back_from_its_own_export(memory, tmp_path, suffix, named):
    if suffix == "parquet":
        pytest.importorskip("pyarrow", reason="needs pyarrow")
    rows = np.arange(12, dtype=np.float32).reshape(3, 2, 2)
    table = memory.create_table(TableSpec("t", 3, dim=(2, 2)), rows)
    export_table(table, tmp_path / f"x.{suffix}", ids=[0, 2] if named else None)
    done = from_pretrained(memory, tmp_path / f"x.{suffix}", "v")
    assert done.table.spec.row_shape == (2, 2)
    np.testing.assert_array_equal(done.table.pull([0, 2]), rows[[0, 2]])


def test_a_state_dict_of_rows_with_several_axes_comes_back_from_its_own_export(memory, tmp_path):
    pytest.importorskip("torch", reason="needs torch")
    rows = np.arange(12, dtype=np.float32).reshape(3, 2, 2)
    export_table(memory.create_table(TableSpec("t", 3, dim=(2, 2)), rows), tmp_path / "x.pt")
    np.testing.assert_array_equal(from_pretrained(memory, tmp_path / "x.pt", "v").table.rows, rows)


def test_of_several_tensors_none_of_which_is_a_matrix_the_refusal_says_how_to_name_one(memory, tmp_path):
    save_file(
        {"a": np.zeros((3, 2, 2), np.float32), "b": np.zeros(3, np.float32)}, tmp_path / "x.safetensors"
    )
    words = r"no tensor with two dimensions \(tensor= names one that has others\); it has: 'a', 'b'"
    refused_by_name(memory, tmp_path / "x.safetensors", words)
    assert from_pretrained(memory, tmp_path / "x.safetensors", "v", tensor="a").table.spec.dim == (2, 2)
