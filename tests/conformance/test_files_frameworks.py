"""Files of PyTorch, TensorFlow and Parquet: what those libraries wrote is read, and they read what we wrote."""

import pickle

import numpy as np
import pytest
from memory_client import MemoryClient

from rowloom.client.files import export_table, from_pretrained, import_table
from rowloom.client.vocabulary import Vocabulary
from rowloom.proto.errors import InvalidRequest
from rowloom.proto.spec import TableSpec

ROWS = (np.arange(30, dtype=np.float32).reshape(10, 3) - 15) / 7


@pytest.fixture
def table():
    return MemoryClient().create_table(TableSpec("t", 10, dim=3))


def round_trip(table, path, **how):
    """Export, import into an empty table; must be bit-equal."""
    other = MemoryClient().create_table(table.spec, np.zeros_like(table.rows))
    export_table(table, path, block_rows=4, **how)
    import_table(other, path, block_rows=3)
    np.testing.assert_array_equal(other.rows, table.rows)


# --------------------------------------------------------------------------------------------------- PyTorch


@pytest.fixture
def torch():
    return pytest.importorskip("torch", reason="needs PyTorch: pip install torch")


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "bfloat16", "int64", "int8"])
@pytest.mark.parametrize("legacy", [False, True])
def test_state_dicts_of_any_type_and_age(tmp_path, table, torch, dtype, legacy):
    rows = torch.tensor(ROWS).to(getattr(torch, dtype))
    state = {"model": {"emb.weight": rows, "out.bias": torch.zeros(3)}, "epoch": 3}
    torch.save(state, tmp_path / "x.pt", _use_new_zipfile_serialization=not legacy)
    import_table(table, tmp_path / "x.pt", block_rows=4)
    np.testing.assert_array_equal(table.rows, rows.float().numpy())


def test_a_trained_embedding_moves_in_and_out_of_pytorch(tmp_path, torch):
    trained = torch.nn.Embedding(10, 3)
    torch.save(trained.state_dict(), tmp_path / "x.pth")
    done = from_pretrained(MemoryClient(), tmp_path / "x.pth", "t")
    np.testing.assert_array_equal(done.table.rows, trained.weight.detach().numpy())
    export_table(done.table, tmp_path / "y.pt", block_rows=4)
    fresh = torch.nn.Embedding(10, 3)
    fresh.load_state_dict(torch.load(tmp_path / "y.pt", weights_only=True))
    assert torch.equal(fresh.weight, trained.weight)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["x.pth", "y.pt"]


@pytest.mark.parametrize("shape", [(10, 3), (10,), (10, 2, 3), (0, 3)])
def test_pytorch_round_trips(tmp_path, torch, shape):
    spec = TableSpec("t", shape[0], dim=shape[1:])
    round_trip(MemoryClient().create_table(spec), tmp_path / "x.pt", tensor="a.weight")


def test_a_bare_tensor_and_a_transposed_one(tmp_path, table, torch):
    torch.save(torch.tensor(np.ascontiguousarray(ROWS.T)).T, tmp_path / "x.pt")
    import_table(table, tmp_path / "x.pt", block_rows=4)
    np.testing.assert_array_equal(table.rows, ROWS)


def test_code_in_a_file_of_pytorch_is_not_run(tmp_path, table, torch):
    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "owned"), "w"))

    torch.save({"w": Evil()}, tmp_path / "x.pt")
    (tmp_path / "y.pt").write_bytes(pickle.dumps(Evil()))
    for name in ("x.pt", "y.pt"):
        with pytest.raises(
            InvalidRequest, match=name + r" is damaged, (or holds objects that are no tensors|cut short)"
        ):
            import_table(table, tmp_path / name)
    assert not (tmp_path / "owned").exists()


def test_faults_in_files_of_pytorch_are_named(tmp_path, table, torch):
    torch.save({"item.weight": torch.tensor(ROWS), "user.weight": torch.tensor(ROWS)}, tmp_path / "x.pt")
    with pytest.raises(InvalidRequest, match="2 tensors that fit; say tensor="):
        import_table(table, tmp_path / "x.pt")
    with pytest.raises(InvalidRequest, match=r"no tensor 'items\.weight'; nearest: 'item\.weight'"):
        import_table(table, tmp_path / "x.pt", tensor="items.weight")
    import_table(table, tmp_path / "x.pt", tensor="item.weight")
    whole = (tmp_path / "x.pt").read_bytes()
    for length in (0, 3, 100, len(whole) // 2, len(whole) - 1):
        (tmp_path / "cut.pt").write_bytes(whole[:length])
        with pytest.raises(InvalidRequest, match=r"cut\.pt is damaged" if length else r"cut\.pt is empty"):
            import_table(table, tmp_path / "cut.pt", tensor="item.weight")
    torch.save({"w": torch.tensor(ROWS).to_sparse()}, tmp_path / "s.pt")
    with pytest.raises(InvalidRequest, match="is sparse, complex or quantized"):
        import_table(table, tmp_path / "s.pt")
    torch.save({"epoch": 3}, tmp_path / "e.pt")
    with pytest.raises(InvalidRequest, match="it has: nothing"):
        import_table(table, tmp_path / "e.pt")


# ------------------------------------------------------------------------------------------------ TensorFlow


@pytest.fixture
def tf():
    return pytest.importorskip("tensorflow", reason="needs TensorFlow: pip install tensorflow-cpu")


def test_object_checkpoints_of_keras_layers(tmp_path, table, tf):
    emb, other = tf.Variable(ROWS), tf.Variable(tf.zeros((10, 4)))
    saved = tf.train.Checkpoint(
        emb=emb, other=other, step=tf.Variable(7, dtype=tf.int64), name=tf.Variable("x")
    )
    prefix = saved.save(str(tmp_path / "ckpt"))
    for path in (prefix, prefix + ".index", tmp_path):
        table.rows[:] = 0
        import_table(table, path, block_rows=4)
        np.testing.assert_array_equal(table.rows, ROWS)
    import_table(table, prefix, tensor="emb/.ATTRIBUTES/VARIABLE_VALUE")
    with pytest.raises(InvalidRequest, match="no tensor 'embs'; nearest: 'emb'"):
        import_table(table, prefix, tensor="embs")


@pytest.mark.parametrize("parts", [1, 2, 3, 4, 7])
def test_partitioned_variables_of_graphs(tmp_path, table, tf, parts):
    v1 = tf.compat.v1
    with tf.Graph().as_default(), v1.Session() as session:
        partitioner = v1.fixed_size_partitioner(parts)
        emb = v1.get_variable("emb", (10, 3), initializer=v1.zeros_initializer(), partitioner=partitioner)
        begin = 0
        session.run(v1.global_variables_initializer())
        for part in emb if parts > 1 else [emb]:
            size = part.shape[0]
            session.run(v1.assign(part, ROWS[begin : begin + size]))
            begin += size
        v1.train.Saver().save(session, str(tmp_path / "model"), write_meta_graph=False)
    import_table(table, tmp_path / "model", tensor="emb", block_rows=2)
    np.testing.assert_array_equal(table.rows, ROWS)


def test_parts_saved_as_variables_of_their_own_are_one(tmp_path, table, tf):
    names, values = ["emb/part_0", "emb/part_1", "emb/part_2"], [ROWS[:4], ROWS[4:7], ROWS[7:]]
    tf.raw_ops.SaveV2(
        prefix=str(tmp_path / "p"),
        tensor_names=names,
        shape_and_slices=[""] * 3,
        tensors=[tf.constant(v) for v in values],
    )
    import_table(table, tmp_path / "p", tensor="emb")
    np.testing.assert_array_equal(table.rows, ROWS)


def test_rows_of_a_variable_trained_with_mod_go_to_their_ids(tmp_path, table, tf):
    parts = [tf.constant(ROWS[i::4]) for i in range(4)]
    ids = np.arange(10)
    np.testing.assert_array_equal(
        tf.compat.v1.nn.embedding_lookup(parts, ids, partition_strategy="mod"), ROWS
    )
    saved = tf.train.Checkpoint(emb=tf.Variable(tf.concat(parts, 0)))
    import_table(table, saved.save(str(tmp_path / "c")), mod_parts=4, block_rows=3)
    np.testing.assert_array_equal(table.rows, ROWS)


@pytest.mark.parametrize("dtype", ["float64", "float16", "bfloat16", "int32", "bool"])
def test_checkpoints_of_any_type(tmp_path, table, tf, dtype):
    rows = tf.cast(tf.constant(ROWS), dtype)
    import_table(table, tf.train.Checkpoint(emb=tf.Variable(rows)).save(str(tmp_path / "c")))
    np.testing.assert_array_equal(table.rows, tf.cast(rows, "float32").numpy())


@pytest.mark.parametrize("shape", [(10, 3), (10,), (10, 2, 3)])
def test_tensorflow_round_trips_and_its_reader_agrees(tmp_path, tf, shape):
    table = MemoryClient().create_table(TableSpec("t", shape[0], dim=shape[1:]))
    round_trip(table, tmp_path / "x.ckpt", tensor="emb")
    np.testing.assert_array_equal(
        tf.train.load_checkpoint(str(tmp_path / "x.ckpt")).get_tensor("emb"), table.rows
    )
    assert not list(tmp_path.glob("*part*"))


def test_a_checkpoint_is_written_in_slices_that_tensorflow_puts_together(tmp_path, table, tf, monkeypatch):
    monkeypatch.setattr("rowloom.client.files.tensorflow_files._PART_BYTES", 40)
    round_trip(table, tmp_path / "x.ckpt", tensor="emb")
    reader = tf.train.load_checkpoint(str(tmp_path / "x.ckpt"))
    np.testing.assert_array_equal(reader.get_tensor("emb"), table.rows)
    assert len(list(tmp_path.glob("x.ckpt.data-*"))) == 3
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        variable = tf.compat.v1.get_variable("emb", (10, 3))
        tf.compat.v1.train.Saver({"emb": variable}).restore(session, str(tmp_path / "x.ckpt"))
        np.testing.assert_array_equal(session.run(variable), table.rows)


def test_large_checkpoints_with_many_names_are_read(tmp_path, table, tf):
    names = [f"layer_{k:04d}/kernel" for k in range(3000)] + ["emb"]
    values = [tf.zeros(1)] * 3000 + [tf.constant(ROWS)]
    prefix = str(tmp_path / "many")
    tf.raw_ops.SaveV2(prefix=prefix, tensor_names=names, shape_and_slices=[""] * len(names), tensors=values)
    import_table(table, prefix)
    np.testing.assert_array_equal(table.rows, ROWS)


def test_faults_in_checkpoints_are_named(tmp_path, table, tf):
    prefix = tf.train.Checkpoint(emb=tf.Variable(ROWS)).save(str(tmp_path / "c"))
    data = tmp_path / "c-1.data-00000-of-00001"
    index = tmp_path / "c-1.index"
    whole, entries = data.read_bytes(), index.read_bytes()
    for length in (0, 10, 48, len(entries) // 2, len(entries) - 1):
        index.write_bytes(entries[:length])
        with pytest.raises(InvalidRequest, match=r"c-1\.index is damaged"):
            import_table(table, prefix)
    index.write_bytes(entries)
    # The small variables come behind the large one, so it takes more than the last byte to hurt it.
    data.write_bytes(whole[:60])
    with pytest.raises(InvalidRequest, match="is cut short: emb"):
        import_table(table, prefix)
    data.unlink()
    with pytest.raises(InvalidRequest, match=r"the file c-1\.data-00000-of-00001 is missing"):
        import_table(table, prefix)
    with pytest.raises(InvalidRequest, match=r"is no checkpoint: there is no"):
        import_table(table, tmp_path / "nothing", format="tensorflow")


# --------------------------------------------------------------------------------------------------- Parquet


@pytest.fixture
def pa():
    pytest.importorskip("pyarrow", reason="needs pyarrow: pip install pyarrow")
    import pyarrow
    import pyarrow.parquet

    return pyarrow


@pytest.mark.parametrize("shape", [(10, 3), (10,), (10, 2, 3)])
def test_parquet_round_trips(tmp_path, pa, shape):
    round_trip(MemoryClient().create_table(TableSpec("t", shape[0], dim=shape[1:])), tmp_path / "x.parquet")


@pytest.mark.parametrize("kind", ["fixed", "list", "large", "columns", "float64"])
def test_parquet_of_any_layout(tmp_path, table, pa, kind):
    order = np.random.default_rng(0).permutation(10)
    rows = ROWS[order]
    ids = {"id": pa.array(order.astype(np.int32))}
    if kind == "columns":
        columns = {f"x{k}": pa.array(rows[:, k]) for k in range(3)}
    else:
        type_ = {
            "fixed": pa.list_(pa.float32(), 3),
            "list": pa.list_(pa.float32()),
            "large": pa.large_list(pa.float32()),
            "float64": pa.list_(pa.float64()),
        }[kind]
        columns = {"row": pa.array(rows.tolist(), type_)}
    pa.parquet.write_table(pa.table({**ids, **columns}), tmp_path / "x.parquet", row_group_size=4)
    import_table(table, tmp_path / "x.parquet", block_rows=3)
    np.testing.assert_array_equal(table.rows, ROWS)


def test_parquet_with_words_is_a_table_with_a_vocabulary(tmp_path, pa):
    columns = {"word": ["cat", "two words"], "vector": ROWS[:2].tolist()}
    pa.parquet.write_table(pa.table(columns), tmp_path / "x.parquet")
    done = from_pretrained(MemoryClient(), tmp_path / "x.parquet", "w")
    assert done.vocabulary == Vocabulary(["cat", "two words"])
    np.testing.assert_array_equal(done.table.pull([2, 3]), ROWS[:2])
    export_table(done.table, tmp_path / "y.parquet")
    out = pa.parquet.read_table(tmp_path / "y.parquet").to_pydict()
    assert (out["id"], out["word"]) == ([0, 1, 2, 3], ["<pad>", "<unk>", "cat", "two words"])
    np.testing.assert_array_equal(np.array(out["weight"], np.float32), done.table.rows)


def test_chosen_ids_go_through_parquet(tmp_path, pa):
    table = MemoryClient().create_table(TableSpec("o", None, dim=3))
    export_table(table, tmp_path / "x.parquet", ids=[900, 7])
    other = from_pretrained(MemoryClient(), tmp_path / "x.parquet", "o").table
    assert other.spec.num_embeddings is None
    np.testing.assert_array_equal(other.pull([7, 900]), table.pull([7, 900]))


def test_faults_in_parquet_are_named(tmp_path, table, pa):
    def refused(columns, match, **how):
        pa.parquet.write_table(pa.table(columns), tmp_path / "x.parquet")
        with pytest.raises(InvalidRequest, match=match):
            import_table(table, tmp_path / "x.parquet", **how)

    lists = ROWS.tolist()
    refused({"row": [*lists[:9], [1.0]]}, "row 9 has 1 numbers, the first 3")
    refused({"row": [*lists[:9], None]}, "a row near 0 is null")
    refused({"row": [*lists[:9], [1.0, None, 2.0]]}, "has a null in it")
    refused({"id": [*range(9), None], "row": lists}, "column 'id' has nulls near row 0")
    refused({"id": [*range(9), 10], "row": lists}, r"has id 10, table 't' \[0, 10\)")
    refused({"id": list(range(10)), "row": lists}, "names its ids; leave first_id= out", first_id=2)
    refused({"a": lists, "b": lists}, "2 tensors that fit; say tensor=")
    refused({"a": lists}, "no tensor 'b'", tensor="b")
    refused({"text": ["a"] * 10}, "no column of lists or of numbers")
    refused({"row": [[1.0, 2.0]] * 10}, r"rows of shape \(2,\), table 't' of \(3,\)")
    export_table(table, tmp_path / "y.parquet")
    whole = (tmp_path / "y.parquet").read_bytes()
    for length in (0, 4, len(whole) // 2, len(whole) - 1):
        (tmp_path / "y.parquet").write_bytes(whole[:length])
        with pytest.raises(
            InvalidRequest, match=r"y\.parquet is damaged" if length else r"y\.parquet is empty"
        ):
            import_table(table, tmp_path / "y.parquet")


def test_an_export_that_fails_leaves_nothing(tmp_path, table, torch, tf, pa, monkeypatch):
    monkeypatch.setattr(table, "pull", lambda ids, **_: 1 / 0)
    for name in ("x.pt", "x.ckpt", "x.parquet"):
        with pytest.raises(ZeroDivisionError):
            export_table(table, tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_rows_go_through_a_real_cluster(tmp_path, client):
    np.save(tmp_path / "x.npy", np.random.default_rng(0).normal(size=(1000, 8)))
    done = from_pretrained(client, tmp_path / "x.npy", "t", partition="div", block_rows=300)
    with pytest.raises(InvalidRequest, match="frozen"):
        done.table.push([1], np.ones((1, 8)))
    assert export_table(client, tmp_path / "y.npy", name="t", block_rows=128) == 1000
    np.testing.assert_array_equal(np.load(tmp_path / "y.npy"), np.load(tmp_path / "x.npy").astype(np.float32))
