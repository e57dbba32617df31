"""Files as anyone might write them, made up by hypothesis; each with what it says: a row for each word or id.

`holds` is what must come of reading one: what it says, or a refusal.
"""

from pathlib import Path

import numpy as np
from hypothesis import assume
from hypothesis import strategies as st
from memory_client import MemoryClient

from rowloom.client.files import Imported, from_pretrained
from rowloom.proto.errors import InvalidRequest

NUMBERS = st.floats(width=32, allow_nan=False, allow_infinity=False)
_LETTERS = st.characters(categories=["L", "N", "P", "S"], exclude_characters="\ufeff")
GAPS = st.sampled_from([" ", " ", " ", "  ", "\t", " \t", "\t ", "   "])


@st.composite
def text_files(draw) -> tuple[bytes, dict[str, np.ndarray], bool]:
    """(a file of word vectors, its rows by word, whether there is nothing odd that may be refused)."""
    dim = draw(st.integers(1, 4))
    words = draw(st.lists(_words(), min_size=1, max_size=6, unique=True))
    rows = [np.array(draw(st.lists(NUMBERS, min_size=dim, max_size=dim)), np.float32) for _ in words]
    # The first line alone says how many numbers there are: it must not say two things.
    assume(words[0] != "2 3" and not (len(rows[0]) == 1 and words[0].isdigit()))
    clean = not any(" " in word for word in words)
    lines = []
    for word, row in zip(words, rows, strict=True):
        gaps = draw(st.lists(GAPS, min_size=dim, max_size=dim))
        lines.append(word + "".join(f"{gap}{x:.9g}" for gap, x in zip(gaps, row, strict=True)))
        lines[-1] += draw(st.sampled_from(["", "", " ", "\t"]))
    header = draw(st.sampled_from([None, None, (0, 0), (1, 0), (-1, 0), (0, 1)]))
    if header is not None:
        lines.insert(0, f"{len(words) + header[0]}{draw(GAPS)}{dim + header[1]}")
        clean = clean and header == (0, 0)
    end = draw(st.sampled_from(["\n", "\n", "\r\n"]))
    text = end.join(lines) + draw(st.sampled_from(["", end, end + end]))
    coding = draw(st.sampled_from(["utf-8", "utf-8", "utf-8-sig", "utf-16"]))
    return text.encode(coding), dict(zip(words, rows, strict=True)), clean and coding != "utf-16"


def _words():
    plain = st.text(_LETTERS, min_size=1, max_size=5)
    return st.one_of(plain, plain, st.sampled_from(["a b", ". . .", "1", "2 3", "-", "nan", "0x1", "1_0"]))


def made_or_refused(path: Path, **options) -> Imported | str:
    """A table of a file; or what the refusal says, which names the file and leaves no table."""
    memory, refusal = MemoryClient(), ""
    try:
        return from_pretrained(memory, path, "t", **options)
    except InvalidRequest as e:
        refusal = str(e)
    assert memory.tables() == []
    assert str(path) in refusal, f"the refusal does not name the file: {refusal}"
    return refusal


def holds(path: Path, truth: dict, *, must: bool, **options) -> None:
    """Reading the file gives the rows of `truth`, or a refusal in our words; `must`: the rows."""
    done = made_or_refused(path, unk=None, pad=None, **options)
    if isinstance(done, str):
        assert not must, done
        return
    assert done.rows == len(truth), (done.rows, truth)
    keys = list(truth)
    ids = done.vocabulary.encode(keys) if done.vocabulary is not None else np.array(keys, np.int64)
    if done.vocabulary is not None:
        assert set(done.vocabulary.words) == set(keys)
    np.testing.assert_array_equal(done.table.pull(ids), np.stack([truth[key] for key in keys]))


INTEGERS = ["int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"]
REALS = [*INTEGERS, "float16", "float32", "float64", "bool"]


@st.composite
def named_rows(draw) -> tuple[np.ndarray, np.ndarray, bool]:
    """(distinct ids [N] of any type, rows [N, dim] of any type, whether they must be taken)."""
    n, dim = draw(st.integers(1, 6)), draw(st.integers(1, 3))
    rows = np.array(draw(st.lists(st.integers(0, 100), min_size=n * dim, max_size=n * dim)))
    rows = rows.reshape(n, dim).astype(draw(st.sampled_from(REALS)))
    kind = draw(st.sampled_from([*INTEGERS, "float32", "float64", "bool"]))
    most = min(100, np.iinfo(kind).max) if np.dtype(kind).kind in "iu" else 1 if kind == "bool" else 100
    ids = draw(
        st.lists(st.integers(0, most), min_size=min(n, most + 1), max_size=min(n, most + 1), unique=True)
    )
    return np.array(ids, kind), rows[: len(ids)], kind in INTEGERS
