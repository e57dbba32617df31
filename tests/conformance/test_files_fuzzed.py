"""Files of gensim and pandas, made up at random: what they say comes into the table, or a refusal.

`ROWLOOM_FILES=5000` makes it and `tests/client/files/test_fuzzed_readers.py` run longer.
"""

import os

import numpy as np
import pytest
from file_fuzz import INTEGERS, holds, made_or_refused
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from memory_client import MemoryClient

from rowloom.client.files import export_table
from rowloom.client.vocabulary import Vocabulary
from rowloom.proto.spec import TableSpec

many = settings(
    max_examples=int(os.environ.get("ROWLOOM_FILES", "200")),
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
WORDS = st.text(st.characters(categories=["L", "N", "P", "S"]), min_size=1, max_size=6)
SIZES = st.integers(1, 4)


@st.composite
def vectors(draw) -> tuple[list[str], np.ndarray]:
    words, dim = draw(st.lists(WORDS, min_size=1, max_size=8, unique=True)), draw(SIZES)
    numbers = st.floats(width=32, allow_nan=False, allow_infinity=False)
    flat = draw(st.lists(numbers, min_size=len(words) * dim, max_size=len(words) * dim))
    return words, np.array(flat, np.float32).reshape(-1, dim)


@pytest.fixture
def gensim():
    return pytest.importorskip("gensim.models", reason="needs gensim")


@many
@given(vectors(), st.booleans())
def test_what_gensim_wrote_is_read(gensim, tmp_path, made, binary):
    words, rows = made
    vectors = gensim.KeyedVectors(rows.shape[1])
    vectors.add_vectors(words, rows)
    path = tmp_path / ("v.bin" if binary else "v.vec")
    vectors.save_word2vec_format(str(path), binary=binary)
    if not binary:  # numpy's short form of a float32 gives it back
        truth = gensim.KeyedVectors.load_word2vec_format(str(path))
        rows = np.stack([truth[word] for word in words])
    holds(path, dict(zip(words, rows, strict=True)), must=True)


@many
@given(vectors(), st.booleans())
def test_gensim_reads_what_was_exported(gensim, tmp_path, made, binary):
    words, rows = made
    vocabulary = Vocabulary(words, unk=None, pad=None)
    table = MemoryClient().create_table(TableSpec("t", len(words), dim=rows.shape[1]), rows)
    path = tmp_path / ("v.bin" if binary else "v.vec")
    export_table(table, path, vocabulary=vocabulary)
    theirs = gensim.KeyedVectors.load_word2vec_format(str(path), binary=binary)
    assert list(theirs.index_to_key) == words
    np.testing.assert_array_equal(theirs.vectors, rows)


@pytest.fixture
def pd():
    pytest.importorskip("pyarrow", reason="needs pyarrow")
    return pytest.importorskip("pandas", reason="needs pandas")


KEYS = [*INTEGERS, "float64", "text", "category", "category of ids", "nullable", "bool"]


@many
@given(
    st.data(), st.sampled_from(KEYS), st.sampled_from(["id", "word", "key", "index", "other"]), st.booleans()
)
def test_a_frame_of_pandas_gives_the_rows_of_its_keys_or_a_refusal(pd, tmp_path, data, kind, name, as_index):
    n, dim = data.draw(SIZES), data.draw(SIZES)
    ids = data.draw(st.lists(st.integers(0, 100), min_size=n, max_size=n, unique=True))
    keys = {
        "text": lambda: pd.Series([f"w{i}" for i in ids]),
        "category": lambda: pd.Series(pd.Categorical([f"w{i}" for i in ids])),
        "category of ids": lambda: pd.Series(pd.Categorical(ids)),
        "nullable": lambda: pd.Series(ids, dtype="Int64"),
        "bool": lambda: pd.Series([i % 2 == 1 for i in ids]),
    }.get(kind, lambda: pd.Series(ids).astype(kind))()
    rows = np.arange(n * dim, dtype=np.float32).reshape(n, dim) / 7
    frame = pd.DataFrame({f"x{k}": rows[:, k] for k in range(dim)})
    if data.draw(st.booleans()):
        frame = pd.DataFrame({"row": list(rows)})
    frame.insert(data.draw(st.integers(0, 1)), name, keys)
    if as_index:
        frame = frame.set_index(name)
    frame.to_parquet(tmp_path / "x.parquet")
    named = name != "other"
    textual = kind in ("text", "category")
    words = {f"w{i}": row for i, row in zip(ids, rows, strict=True)}
    truth = words if textual else dict(zip(ids, rows, strict=True))
    must = named and (
        name in ("word", "key") if textual else name != "word" and kind not in ("float64", "bool")
    )
    if not named:  # by place; a column of numbers among the others is one of the row's
        made_or_refused(tmp_path / "x.parquet")
    else:
        holds(tmp_path / "x.parquet", truth, must=must)


@many
@given(st.binary(max_size=400))
def test_any_bytes_as_a_file_of_pytorch_are_read_or_refused(tmp_path, data):
    pytest.importorskip("torch", reason="needs PyTorch")
    (tmp_path / "x.pt").write_bytes(data)
    made_or_refused(tmp_path / "x.pt")
