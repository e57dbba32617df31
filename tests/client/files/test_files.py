"""Rows from files and into files: formats that need no framework, and every refusal."""

import json
import os

import numpy as np
import pytest
from memory_client import MemoryClient
from safetensors.numpy import load_file, save_file

from rowloom.client.files import export_table, from_pretrained, import_table
from rowloom.client.vocabulary import Vocabulary
from rowloom.proto.errors import InvalidRequest, TableExists, TableNotFound
from rowloom.proto.spec import SGD, TableSpec

ROWS = np.arange(30, dtype=np.float32).reshape(10, 3) / 7


@pytest.fixture
def memory():
    return MemoryClient()


@pytest.fixture
def table(memory):
    return memory.create_table(TableSpec("t", 10, dim=3))


def vectors(path, words, rows, header=True):
    lines = [f"{len(words)} {rows.shape[1]}"] if header else []
    lines += [f"{w} " + " ".join(f"{x:.9g}" for x in row) for w, row in zip(words, rows, strict=True)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def binary(path, words, rows):
    body = b"".join(
        w.encode() + b" " + r.astype("<f4").tobytes() + b"\n" for w, r in zip(words, rows, strict=True)
    )
    path.write_bytes(f"{len(words)} {rows.shape[1]}\n".encode() + body)
    return path


# ---------------------------------------------------------------------------------------------- arrays


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "int64", "uint8", "bool"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_npy_of_any_real_type_and_order(tmp_path, table, dtype, order):
    rows = np.asarray(ROWS.astype(dtype), order=order)
    np.save(tmp_path / "x.npy", rows)
    done = import_table(table, tmp_path / "x.npy", block_rows=4)
    assert done.rows == 10
    np.testing.assert_array_equal(table.rows, rows.astype(np.float32))


@pytest.mark.parametrize("suffix", [".npy", ".safetensors"])
@pytest.mark.parametrize("shape", [(10, 3), (10, 2, 3), (10,), (1, 1), (0, 4)])
def test_export_then_import_gives_the_same_rows_in_every_shape(tmp_path, memory, suffix, shape):
    spec = TableSpec("t", shape[0], dim=shape[1:] if len(shape) != 2 else shape[1])
    a, b = memory.create_table(spec), MemoryClient().create_table(spec, np.zeros(shape, np.float32))
    path = tmp_path / f"x{suffix}"
    assert export_table(a, path, block_rows=3) == shape[0]
    import_table(b, path, block_rows=4)
    np.testing.assert_array_equal(a.rows, b.rows)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_progress_is_told_after_each_block(tmp_path, table):
    np.save(tmp_path / "x.npy", ROWS)
    calls = []
    import_table(table, tmp_path / "x.npy", block_rows=4, progress=lambda *c: calls.append(c))
    export_table(table, tmp_path / "y.npy", block_rows=6, progress=lambda *c: calls.append(c))
    assert calls == [(4, 10), (8, 10), (10, 10), (6, 10), (10, 10)]


def test_a_table_can_be_named_through_its_client(tmp_path, memory, table):
    np.save(tmp_path / "x.npy", ROWS)
    import_table(memory, tmp_path / "x.npy", name="t")
    np.testing.assert_array_equal(table.rows, ROWS)
    assert export_table(memory, tmp_path / "y.npy", name="t") == 10
    with pytest.raises(InvalidRequest, match="which table"):
        import_table(memory, tmp_path / "x.npy")
    with pytest.raises(TableNotFound, match=r"no table 'u'; from_pretrained makes"):
        import_table(memory, tmp_path / "x.npy", name="u")


def test_from_pretrained_makes_a_frozen_table_of_the_files_shape(tmp_path, memory):
    np.save(tmp_path / "x.npy", ROWS)
    done = from_pretrained(memory, tmp_path / "x.npy", "new", partition="div", mod_parts=1)
    spec = done.table.spec
    assert (spec.num_embeddings, spec.dim, spec.frozen, spec.partition) == (10, 3, True, "div")
    np.testing.assert_array_equal(done.table.pull(np.arange(10)), ROWS)
    trained = from_pretrained(
        memory, tmp_path / "x.npy", "tuned", freeze=False, optimizer=SGD(lr=2.0), num_embeddings=12
    )
    assert (trained.table.spec.num_embeddings, trained.table.spec.optimizer) == (12, SGD(lr=2.0))
    with pytest.raises(TableExists, match="'new' is already there; import_table writes rows into it"):
        from_pretrained(memory, tmp_path / "x.npy", "new")


def test_from_pretrained_leaves_no_table_behind_when_the_file_is_bad(tmp_path, memory):
    rows = ROWS.copy()
    rows[9, 1] = np.nan
    np.save(tmp_path / "x.npy", rows)
    with pytest.raises(InvalidRequest, match=r"row 9 has nan in column \[1\]; rows must be finite"):
        from_pretrained(memory, tmp_path / "x.npy", "new", block_rows=2)
    assert memory.tables() == []


def test_a_part_of_a_table_is_filled_from_first_id_on(tmp_path, table):
    np.save(tmp_path / "x.npy", ROWS[:4])
    before = table.rows.copy()
    import_table(table, tmp_path / "x.npy", first_id=6, block_rows=3)
    np.testing.assert_array_equal(table.rows[6:], ROWS[:4])
    np.testing.assert_array_equal(table.rows[:6], before[:6])
    with pytest.raises(InvalidRequest, match="has 4 rows, table 't' 10; say first_id="):
        import_table(table, tmp_path / "x.npy")
    with pytest.raises(InvalidRequest, match="from first_id=7 on they end beyond the 10 ids"):
        import_table(table, tmp_path / "x.npy", first_id=7)
    with pytest.raises(InvalidRequest, match="first_id=-1"):
        import_table(table, tmp_path / "x.npy", first_id=-1)


@pytest.mark.parametrize("n", [1, 2, 3, 7, 10, 13])
def test_runs_dealt_by_mod_find_their_ids(tmp_path, table, n):
    dealt = np.concatenate([ROWS[i::n] for i in range(n)])
    np.save(tmp_path / "x.npy", dealt)
    import_table(table, tmp_path / "x.npy", mod_parts=n, block_rows=3)
    np.testing.assert_array_equal(table.rows, ROWS)


def test_a_table_of_open_ended_ids_is_exported_by_ids(tmp_path, memory):
    open_ended = memory.create_table(TableSpec("o", None, dim=3))
    ids = [700, 3, 42, 3]
    with pytest.raises(InvalidRequest, match="open-ended ids; say which to export"):
        export_table(open_ended, tmp_path / "x.npy")
    for name in ("x.npy", "x.safetensors"):
        assert export_table(open_ended, tmp_path / name, ids=ids, block_rows=2) == 3
        other = from_pretrained(MemoryClient(), tmp_path / name, "o").table
        assert other.spec.num_embeddings is None
        np.testing.assert_array_equal(other.pull([3, 42, 700]), open_ended.pull([3, 42, 700]))
    with pytest.raises(InvalidRequest, match="torch has no place for ids"):
        export_table(open_ended, tmp_path / "x.pt", ids=ids)
    with pytest.raises(InvalidRequest, match="ids must be integers"):
        export_table(open_ended, tmp_path / "x.npy", ids=[1.5])


def test_exporting_all_rows_again_forgets_the_ids_of_last_time(tmp_path, table):
    export_table(table, tmp_path / "x.npy", ids=[1, 2])
    assert np.load(tmp_path / "x.npy.ids.npy").tolist() == [1, 2]
    export_table(table, tmp_path / "x.npy")
    assert [p.name for p in tmp_path.iterdir()] == ["x.npy"]


def test_safetensors_read_what_the_library_wrote_and_the_other_way_round(tmp_path, table):
    other = np.ones((4, 4), np.float32)
    save_file(
        {"model.emb": ROWS.astype(np.float16), "model.w": other, "b": other[0]}, tmp_path / "x.safetensors"
    )
    import_table(table, tmp_path / "x.safetensors", block_rows=3)  # the only one with rows of 3
    np.testing.assert_array_equal(table.rows, ROWS.astype(np.float16).astype(np.float32))
    export_table(table, tmp_path / "y.safetensors", tensor="emb")
    np.testing.assert_array_equal(load_file(tmp_path / "y.safetensors")["emb"], table.rows)


def test_bfloat16_is_read(tmp_path, table):
    import ml_dtypes

    raw = ROWS.astype(ml_dtypes.bfloat16)
    entry = {"w": {"dtype": "BF16", "shape": [10, 3], "data_offsets": [0, raw.nbytes]}}
    header = json.dumps(entry).encode()
    (tmp_path / "x.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + raw.tobytes())
    import_table(table, tmp_path / "x.safetensors")
    np.testing.assert_array_equal(table.rows, raw.astype(np.float32))


def test_a_missing_or_ambiguous_tensor_lists_what_there_is(tmp_path, table):
    save_file({"item_emb": ROWS, "user_emb": ROWS, "bias": ROWS[0]}, tmp_path / "x.safetensors")
    with pytest.raises(InvalidRequest, match=r"no tensor 'item_embs'; nearest: 'item_emb', 'user_emb'"):
        import_table(table, tmp_path / "x.safetensors", tensor="item_embs")
    with pytest.raises(
        InvalidRequest, match=r"2 tensors that fit; say tensor=, one of: 'item_emb', 'user_emb'"
    ):
        import_table(table, tmp_path / "x.safetensors")
    with pytest.raises(InvalidRequest, match=r"rows of shape \(\), table 't' of \(3,\)"):
        import_table(table, tmp_path / "x.safetensors", tensor="bias")
    save_file({"bias": ROWS[0]}, tmp_path / "y.safetensors")
    with pytest.raises(InvalidRequest, match=r"no tensor of rows of shape \(3,\); it has: 'bias'"):
        import_table(table, tmp_path / "y.safetensors")
    np.save(tmp_path / "x.npy", ROWS)
    with pytest.raises(InvalidRequest, match="one array without a name"):
        import_table(table, tmp_path / "x.npy", tensor="w")


@pytest.mark.parametrize("name", ["x.npy", "x.safetensors"])
def test_a_file_cut_anywhere_is_refused(tmp_path, table, name):
    export_table(table, tmp_path / name)
    whole = (tmp_path / name).read_bytes()
    before = table.rows.copy()
    for length in [0, 1, 7, 8, 9, 40, 100, len(whole) // 2, len(whole) - 1]:
        (tmp_path / f"cut{name}").write_bytes(whole[: min(length, len(whole) - 1)])
        with pytest.raises(InvalidRequest, match=r"cut|has \d+ bytes"):
            import_table(table, tmp_path / f"cut{name}")
    np.testing.assert_array_equal(table.rows, before)


def test_a_safetensors_header_that_lies_is_refused(tmp_path, table):
    def write(entry, data=120):
        header = json.dumps({"w": entry}).encode()
        path = tmp_path / "x.safetensors"
        path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(data))
        return path

    good = {"dtype": "F32", "shape": [10, 3], "data_offsets": [0, 120]}
    import_table(table, write(good))
    for wrong in [
        {"shape": [10, 4]},
        {"shape": [-10, -3]},
        {"data_offsets": [0, 119]},
        {"data_offsets": [-1, 119]},
        {"data_offsets": [8, 128]},
        {"data_offsets": [0]},
        {"shape": None},
        {"shape": [2**40, 2**40]},
    ]:
        with pytest.raises(InvalidRequest, match=r"x\.safetensors"):
            import_table(table, write({**good, **wrong}))
    with pytest.raises(InvalidRequest, match="type F8_E4M3 is not supported"):
        import_table(table, write({"dtype": "F8_E4M3", "shape": [10, 3], "data_offsets": [0, 30]}))


def test_objects_text_and_complex_numbers_are_no_rows(tmp_path, table):
    np.save(tmp_path / "o.npy", np.array([{"a": 1}]), allow_pickle=True)
    with pytest.raises(InvalidRequest, match=r"o\.npy"):
        import_table(table, tmp_path / "o.npy")
    for name, array in [("s", np.array(["a"])), ("c", ROWS.astype(complex)), ("z", np.float32(1))]:
        np.save(tmp_path / f"{name}.npy", array)
        with pytest.raises(InvalidRequest, match=r"rows must be real numbers|is a single number"):
            import_table(table, tmp_path / f"{name}.npy")


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e300])
def test_numbers_that_are_not_finite_in_float32_are_refused_and_named(tmp_path, table, bad):
    rows = ROWS.astype(np.float64)
    rows[7, 2] = bad
    np.save(tmp_path / "x.npy", rows)
    with pytest.raises(InvalidRequest, match=r"x\.npy: row 7 has .* in column \[2\]"):
        import_table(table, tmp_path / "x.npy", block_rows=4)


def test_shapes_formats_and_paths_that_do_not_fit_say_so(tmp_path, table):
    np.save(tmp_path / "x.npy", np.ones((10, 4), np.float32))
    with pytest.raises(InvalidRequest, match=r"rows of shape \(4,\), table 't' of \(3,\)"):
        import_table(table, tmp_path / "x.npy")
    with pytest.raises(FileNotFoundError, match="no file"):
        import_table(table, tmp_path / "nothing.npy")
    with pytest.raises(InvalidRequest, match="unknown format 'h5'; known: npy"):
        import_table(table, tmp_path / "x.npy", format="h5")
    with pytest.raises(InvalidRequest, match="folder without a TensorFlow checkpoint"):
        import_table(table, tmp_path)
    (tmp_path / "x.h5").write_bytes(b"?")
    with pytest.raises(InvalidRequest, match="cannot tell the format of"):
        import_table(table, tmp_path / "x.h5")
    with pytest.raises(InvalidRequest, match="block_rows must be at least 1"):
        import_table(table, tmp_path / "x.npy", block_rows=0)
    np.save(tmp_path / "y.npy", ROWS)
    with pytest.raises(InvalidRequest, match="mod_parts must be at least 1"):
        import_table(table, tmp_path / "y.npy", mod_parts=0)


def test_an_export_that_fails_leaves_the_old_file_and_no_other(tmp_path, table, monkeypatch):
    for name in ("x.npy", "x.safetensors", "x.vec"):
        (tmp_path / name).write_bytes(b"old")
        monkeypatch.setattr(table, "pull", lambda ids, **_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            export_table(table, tmp_path / name, vocabulary=Vocabulary("abc"))
        assert (tmp_path / name).read_bytes() == b"old"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["x.npy", "x.safetensors", "x.vec"]


def test_a_file_larger_than_the_memory_that_is_left_is_imported(tmp_path):
    # 2 GiB that take no disk: a hole reads as zeros. Runs in a process that may not have half a GiB.
    import subprocess
    import sys

    code = """
import resource, sys
import numpy as np
from rowloom.client.files import import_table
from rowloom.proto.spec import TableSpec
class Sink:
    spec = TableSpec("t", 8 << 20, dim=64)
    name, rows = "t", 0
    def assign(self, ids, rows):
        self.rows += len(rows)
table = Sink()
resource.setrlimit(resource.RLIMIT_DATA, (512 << 20, 512 << 20))
import_table(table, sys.argv[1])
assert table.rows == 8 << 20
assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < 9 << 20
"""
    path = tmp_path / "big.npy"
    np.lib.format.open_memmap(path, "w+", np.float32, (8 << 20, 64))
    assert os.stat(path).st_blocks < 1000
    subprocess.run([sys.executable, "-c", code, str(path)], check=True, timeout=200)


# ----------------------------------------------------------------------------------------------- words


@pytest.mark.parametrize("kind", ["x.vec", "x.txt", "x.bin"])
def test_word_vectors_become_a_table_and_a_vocabulary(tmp_path, memory, kind):
    words = ["the", "größe", "cat"]
    if kind == "x.bin":
        path = binary(tmp_path / kind, words, ROWS[:3])
    else:
        path = vectors(tmp_path / kind, words, ROWS[:3], header=kind == "x.vec")
    done = from_pretrained(memory, path, "w", block_rows=2)
    v = done.vocabulary
    assert v == Vocabulary(words) == Vocabulary.of(done.table)
    assert (done.rows, done.skipped, done.missing) == (3, 0, 2)
    np.testing.assert_array_equal(done.table.pull(v.encode(words)), ROWS[:3])
    np.testing.assert_array_equal(done.table.pull([v.pad_id])[0], np.zeros(3))
    np.testing.assert_allclose(done.table.pull(v.encode(["whale"]))[0], ROWS[:3].mean(axis=0), rtol=1e-6)


@pytest.mark.parametrize("kind", ["x.vec", "x.txt", "x.bin"])
def test_words_go_out_and_come_back_bit_equal(tmp_path, memory, kind):
    v = Vocabulary(["a", "b", "ç"], buckets=2)
    spec = v.attach(TableSpec("w", dim=3))
    rng = np.random.default_rng(3)
    rows = (rng.normal(size=(7, 3)) * 10.0 ** rng.integers(-30, 30, (7, 3))).astype(np.float32)
    a = memory.create_table(spec, rows)
    b = MemoryClient().create_table(spec, np.zeros_like(rows))
    assert export_table(a, tmp_path / kind, block_rows=2) == 7
    done = import_table(b, tmp_path / kind)
    assert (done.rows, done.skipped) == (7, 0)  # the buckets too
    np.testing.assert_array_equal(b.rows, rows)


def test_a_given_vocabulary_decides_which_words_are_read(tmp_path, memory):
    path = vectors(tmp_path / "x.txt", ["a", "b", "c", "b"], ROWS[:4], header=False)
    v = Vocabulary(["c", "b", "z"])
    table = memory.create_table(TableSpec("w", 6, dim=3))
    before = table.rows.copy()
    done = import_table(table, path, vocabulary=v, block_rows=2)
    assert (done.rows, done.skipped, done.missing) == (2, 2, 3)
    np.testing.assert_array_equal(table.rows[2:4], ROWS[[2, 1]])  # of the two b the first
    np.testing.assert_array_equal(table.rows[4:], before[4:])  # z is as it was
    with pytest.raises(InvalidRequest, match="num_embeddings is 4, the vocabulary has 5"):
        import_table(memory.create_table(TableSpec("small", 4, dim=3)), path, vocabulary=v)
    with pytest.raises(InvalidRequest, match="names rows by words; give vocabulary="):
        import_table(table, path)
    with pytest.raises(InvalidRequest, match="names rows by words; give vocabulary="):
        export_table(table, tmp_path / "y.vec")


def test_words_with_spaces_are_read_as_published_files_have_them(tmp_path, memory):
    path = vectors(tmp_path / "x.txt", ["cat", ". . .", "at name@domain.com"], ROWS[:3], header=False)
    done = from_pretrained(memory, path, "w")
    assert done.vocabulary.words[2:] == ["cat", ". . .", "at name@domain.com"]
    np.testing.assert_array_equal(done.table.pull([2, 3, 4]), ROWS[:3])
    with pytest.raises(InvalidRequest, match=r"'. . .' is empty or has white space"):
        export_table(done.table, tmp_path / "y.vec")


def test_specials_that_the_file_has_keep_their_rows(tmp_path, memory):
    path = vectors(tmp_path / "x.txt", ["cat", "<unk>", "<pad>"], ROWS[1:4], header=False)
    done = from_pretrained(memory, path, "w")
    np.testing.assert_array_equal(done.table.pull([0, 1, 2]), ROWS[[3, 2, 1]])
    bare = from_pretrained(memory, path, "bare", unk=None, pad=None, buckets=2)
    assert (len(bare.vocabulary), bare.table.spec.num_embeddings) == (5, 5)


def test_faulty_word_files_name_the_place(tmp_path, memory):
    def refused(name, data, match):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(InvalidRequest, match=match):
            from_pretrained(memory, tmp_path / name, "w")
        assert memory.tables() == []

    refused("x.txt", b"a 1 2\nb 1\n", r"x\.txt:2 has 1 numbers, the others have 2")
    refused("x.txt", b"a 1 2\nb 1 x\n", r"x\.txt:2 \('b'\): could not convert")
    refused("x.txt", b"a 1 2\nb 1 nan\n", r"row 'b' has nan")
    refused("x.txt", b"", r"x\.txt is empty$")
    refused("x.vec", b"3 2\na 1 2\nb 1 2\n", "cut short: 2 words, its header says 3")
    whole = binary(tmp_path / "y.bin", ["a", "b"], ROWS[:2]).read_bytes()
    refused("x.bin", whole[:-6], "cut short in word 2 of 2")
    with pytest.raises(InvalidRequest, match=r"no header of two numbers.*try format='glove'"):
        from_pretrained(
            memory, vectors(tmp_path / "g.txt", ["a"], ROWS[:1], header=False), "w", format="word2vec"
        )


def test_a_large_vocabulary_is_returned_but_not_put_into_the_metadata(tmp_path, memory):
    words = [f"w{i:07d}" for i in range(9000)]
    path = vectors(tmp_path / "x.txt", words, np.ones((9000, 1), np.float32), header=False)
    done = from_pretrained(memory, path, "w")
    assert Vocabulary.of(done.table) is None
    done.vocabulary.save(tmp_path / "v.json")
    assert (
        export_table(done.table, tmp_path / "y.vec", vocabulary=Vocabulary.from_file(tmp_path / "v.json"))
        == 9002
    )


@pytest.mark.parametrize("suffix", ["npy", "parquet"])
def test_a_hash_of_64_bits_is_named_as_it_was_given(tmp_path, memory, suffix):
    ids, rows, path = (
        np.array([5, 2**63 + 5], np.uint64),
        np.ones((2, 3), np.float32),
        tmp_path / f"x.{suffix}",
    )
    if suffix == "npy":
        np.save(path, rows)
        np.save(f"{path}.ids.npy", ids)
    else:
        pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
        pq.write_table(pa.table({"id": ids, "row": rows.tolist()}), path)
    with pytest.raises(InvalidRequest, match=r"row 1 has id 9223372036854775813, ids are below 2\*\*63"):
        from_pretrained(memory, path, "t")
    assert memory.tables() == []


def test_a_vocabulary_without_words_is_still_the_one_that_was_given(tmp_path, memory):
    table = memory.create_table(Vocabulary(["a"]).attach(TableSpec("t", dim=2)))
    vectors(tmp_path / "x.txt", ["a"], np.ones((1, 2)))
    nothing = Vocabulary([], unk=None, pad=None)
    assert len(nothing) == 0
    with pytest.raises(InvalidRequest, match="none of the 1 words"):
        import_table(table, tmp_path / "x.txt", vocabulary=nothing)
    assert import_table(table, tmp_path / "x.txt").rows == 1


@pytest.mark.parametrize("bad", [0, -1, True, 2.5])
def test_no_rows_at_once_are_not_taken_as_the_default(tmp_path, table, bad):
    for call in (import_table, export_table):
        np.save(tmp_path / "x.npy", table.rows)
        with pytest.raises(InvalidRequest, match="block_rows must be at least 1, got "):
            call(table, tmp_path / "x.npy", block_rows=bad)


def test_an_empty_format_or_optimizer_is_not_taken_as_none(tmp_path, memory, table):
    np.save(tmp_path / "x.npy", table.rows)
    for call in (import_table, export_table):
        with pytest.raises(InvalidRequest, match="format"):
            call(table, tmp_path / "x.npy", format="")
    for wrong in ({"optimizer": 0}, {"initializer": ()}):
        with pytest.raises(InvalidRequest, match=f"{next(iter(wrong))} must be an "):
            from_pretrained(memory, tmp_path / "x.npy", "w", freeze=False, **wrong)
