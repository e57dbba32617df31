"""Files of any make: what they say comes into the table, or they are refused in one line; never anything else."""

import importlib.util
import os

import numpy as np
import pytest
from file_fuzz import holds, made_or_refused, named_rows, text_files
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

EXAMPLES = int(os.environ.get("ROWLOOM_FILES", "100"))
# Each example writes its file anew; the folder may be that of the one before.
many = settings(
    max_examples=EXAMPLES, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


@many
@given(text_files())
def test_text_gives_the_row_of_each_word_or_a_refusal(tmp_path, file):
    data, truth, must = file
    (tmp_path / "v.txt").write_bytes(data)
    holds(tmp_path / "v.txt", truth, must=must)


@many
@given(text_files(), st.integers(1, 3))
def test_a_word_does_not_depend_on_the_block_that_it_is_read_in(tmp_path, file, block):
    data, _, _ = file
    (tmp_path / "v.txt").write_bytes(data)
    read = []
    for size in (block, 1000):
        done = made_or_refused(tmp_path / "v.txt", block_rows=size)
        read.append(done if isinstance(done, str) else (done.vocabulary.words, done.table.rows.tolist()))
    assert read[0] == read[1]


@many
@given(named_rows(), st.sampled_from(["npy", "safetensors", "parquet"]), st.booleans())
def test_rows_go_to_the_ids_beside_them_or_are_refused(tmp_path, named, suffix, column):
    ids, rows, must = named
    path = tmp_path / f"x.{suffix}"
    if suffix == "npy":
        np.save(path, rows)
        np.save(f"{path}.ids.npy", ids[:, None] if column else ids)
    elif suffix == "safetensors":
        save_file({"weight": rows, "ids": ids[:, None] if column else ids}, path)
    else:
        pa = pytest.importorskip("pyarrow", reason="needs pyarrow")
        import pyarrow.parquet as pq

        kind = pa.list_(pa.from_numpy_dtype(rows.dtype), rows.shape[1]) if column else None
        pq.write_table(pa.table({"id": ids, "row": pa.array(list(rows), kind)}), path)
    must = must and (suffix == "parquet" or not column) and not (suffix == "parquet" and rows.dtype == bool)
    holds(path, dict(zip(ids.tolist(), rows.astype(np.float32), strict=True)), must=must)


@many
@given(st.binary(max_size=200), st.sampled_from(["npy", "safetensors", "parquet", "txt", "vec", "bin"]))
def test_any_bytes_are_read_or_refused(tmp_path, data, suffix):
    if suffix == "parquet":
        pytest.importorskip("pyarrow", reason="needs pyarrow")
    if suffix == "bin" and (b" " not in data[:20] or importlib.util.find_spec("torch") is None):
        data = b"1 1\n" + data  # else it is torch's
    (tmp_path / f"x.{suffix}").write_bytes(data)
    made_or_refused(tmp_path / f"x.{suffix}")
