"""Words to ids and back: specials, buckets, nesting, files, metadata."""

import json
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rowloom.client.vocabulary import Vocabulary, stable_hash
from rowloom.proto.errors import InvalidRequest
from rowloom.proto.spec import TableSpec

WORDS = ["cat", "dog", "bird"]


def test_ids_are_pad_unk_words_buckets_in_this_order():
    v = Vocabulary(WORDS, buckets=4)
    assert (v.pad_id, v.unk_id, v.id_of("cat"), len(v)) == (0, 1, 2, 9)
    assert 5 <= v.id_of("whale") < 9
    bare = Vocabulary(WORDS, unk=None, pad=None)
    assert bare.encode(WORDS).tolist() == [0, 1, 2]
    assert (bare.pad_id, bare.unk_id, len(bare)) == (None, None, 3)


def test_a_special_among_the_words_has_one_id():
    v = Vocabulary(["cat", "<unk>", "dog"])
    assert v.words == ["<pad>", "<unk>", "cat", "dog"]


def test_an_unknown_word_gets_unk_its_bucket_or_an_error():
    assert Vocabulary(WORDS).id_of("whale") == 1
    v = Vocabulary(WORDS, buckets=1000)
    assert v.id_of("whale") == 5 + stable_hash("whale") % 1000
    with pytest.raises(InvalidRequest, match=r"'whale' is not in the vocabulary of 3 words; give it unk="):
        Vocabulary(WORDS, unk=None, pad=None).encode(["cat", "whale"])


def test_the_hash_is_the_same_in_another_process_and_in_the_golden_value():
    code = "from rowloom.client.vocabulary import stable_hash; print(stable_hash('wörld'))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(out.stdout) == stable_hash("wörld") == 11870211508777590314


def test_buckets_are_used_evenly():
    v = Vocabulary([], unk=None, pad=None, buckets=8)
    counts = np.bincount(v.encode([f"w{i}" for i in range(8000)]), minlength=8)
    assert counts.min() > 850
    assert counts.max() < 1150


@pytest.mark.parametrize(
    ("words", "ids"),
    [
        ("dog", 3),
        (b"dog", 3),
        (["dog", "whale"], [3, 1]),
        (np.array([["cat", "dog"], ["x", "bird"]]), [[2, 3], [1, 4]]),
        (np.array([b"cat", b"dog"]), [2, 3]),
        (np.array(["cat", "dog"], object), [2, 3]),
        ([["cat"], ["dog", "cat"], []], [[2, 0], [3, 2], [0, 0]]),
        ([[["cat"]], [["dog", "dog"], ["bird"]]], [[[2, 0], [0, 0]], [[3, 3], [4, 0]]]),
        ([], []),
    ],
)
def test_encode_keeps_the_shape_and_fills_short_lists_up(words, ids):
    got = Vocabulary(WORDS).encode(words)
    assert got.dtype == np.int64
    assert got.tolist() == ids


def test_unequal_lists_need_a_pad_word():
    with pytest.raises(InvalidRequest, match="unequal lengths; give the vocabulary a pad word"):
        Vocabulary(WORDS, pad=None).encode([["cat"], ["dog", "cat"]])


@pytest.mark.parametrize("words", [[1], ["cat", None], [["cat"], "dog"], [{"cat"}]])
def test_what_is_no_word_is_refused(words):
    with pytest.raises(InvalidRequest, match=r"string|side by side"):
        Vocabulary(WORDS).encode(words)


def test_decode_gives_the_words_in_the_shape_of_the_ids():
    v = Vocabulary(WORDS, buckets=2)
    assert v.decode([[2, 3], [0, 1]]).tolist() == [["cat", "dog"], ["<pad>", "<unk>"]]
    assert v.decode(4) == "bird"
    assert v.decode([5, 6]).tolist() == ["<unk>", "<unk>"]
    assert Vocabulary(WORDS, unk=None, buckets=2).decode([4, 5]).tolist() == ["<bucket 0>", "<bucket 1>"]
    for bad in (-1, 7):
        with pytest.raises(InvalidRequest, match=f"id {bad} is not in the vocabulary, which has 7 ids"):
            v.decode([0, bad])
    with pytest.raises(InvalidRequest, match="ids must be integers, got float64"):
        v.decode([1.5])


@given(st.lists(st.text(min_size=1), unique=True), st.integers(0, 5))
def test_decode_undoes_encode_and_json_undoes_json(words, buckets):
    v = Vocabulary(words, buckets=buckets)
    assert list(v.decode(v.encode(list(words)))) == list(words)
    assert Vocabulary.from_json(json.loads(json.dumps(v.to_json()))) == v


def test_counts_order_by_frequency_then_spelling():
    counts = Counter({"b": 3, "a": 3, "rare": 1, "top": 9})
    assert Vocabulary.from_counts(counts, min_count=2).words[2:] == ["top", "a", "b"]
    assert Vocabulary.from_counts(counts, max_words=1, unk=None, pad=None).words == ["top"]


def test_a_file_of_words_and_a_saved_vocabulary_are_read(tmp_path):
    plain = tmp_path / "words.txt"
    plain.write_text("cat\ndog\r\nbird", encoding="utf-8")
    v = Vocabulary.from_file(plain, buckets=3)
    assert v.words[2:] == WORDS
    v.save(tmp_path / "v.json")
    assert Vocabulary.from_file(tmp_path / "v.json") == v
    assert [p.name for p in tmp_path.iterdir() if "part" in p.name] == []
    with pytest.raises(InvalidRequest, match="says itself what unk, pad and buckets are"):
        Vocabulary.from_file(tmp_path / "v.json", buckets=1)


def test_faulty_files_and_arguments_are_refused(tmp_path):
    path = tmp_path / "words.txt"
    path.write_text("cat\n\ndog\n")
    with pytest.raises(InvalidRequest, match=r"words.txt:2 is empty"):
        Vocabulary.from_file(path)
    path.write_text('{"format": "rowloom-vocabulary", "vers')
    with pytest.raises(InvalidRequest, match="is damaged"):
        Vocabulary.from_file(path)
    with pytest.raises(InvalidRequest, match="'cat' is in the vocabulary twice"):
        Vocabulary(["cat", "cat"])
    with pytest.raises(InvalidRequest, match="buckets must be at least 0, got -1"):
        Vocabulary(WORDS, buckets=-1)
    with pytest.raises(InvalidRequest, match="pad and unk must differ"):
        Vocabulary(WORDS, pad="x", unk="x")
    with pytest.raises(InvalidRequest, match="not a vocabulary"):
        Vocabulary.from_json({"format": "another", "version": 1})


def test_it_travels_in_the_metadata_of_its_table():
    v = Vocabulary(WORDS, buckets=2)
    spec = v.attach(TableSpec("words", dim=2, metadata={"from": "here"}))
    assert spec.num_embeddings == 7
    assert spec.metadata["from"] == "here"
    assert Vocabulary.of(TableSpec.from_message(spec.to_message())) == v
    assert Vocabulary.of(TableSpec("words", dim=2)) is None
    with pytest.raises(InvalidRequest, match="num_embeddings is 3, the vocabulary has 7 ids"):
        v.attach(TableSpec("words", 3, dim=2))
    with pytest.raises(InvalidRequest, match="too much for a table's metadata"):
        Vocabulary([f"word-{i}" for i in range(10_000)]).attach(TableSpec("words", dim=2))


def test_its_repr_says_what_it_is():
    assert repr(Vocabulary(WORDS, buckets=2)) == "<Vocabulary 5 words, 2 buckets, unk='<unk>', pad='<pad>'>"


@pytest.mark.parametrize("word", ["\ud800", "a\udfff", b"\xff"], ids=ascii)
def test_a_word_that_is_no_text_is_refused_in_our_words(word):
    with pytest.raises(InvalidRequest, match="a word must be UTF-8 text, got "):
        Vocabulary([word])
    for ask in (
        lambda: Vocabulary(["a"]).encode(["a", word]),
        lambda: Vocabulary([], buckets=3).encode(word),
    ):
        with pytest.raises(InvalidRequest, match="a word must be UTF-8 text, got "):
            ask()


def test_columns_of_other_libraries_are_words():
    class Column:
        """As pandas and Arrow have it: neither a list nor hashable."""

        __hash__ = None

        def __array__(self, dtype=None, copy=None):
            return np.array(["b", "z"], object)

    assert Vocabulary(["a", "b"]).encode(Column()).tolist() == [3, 1]
    pa = pytest.importorskip("pyarrow")
    assert Vocabulary(["a", "b"]).encode(pa.array(["b", "z"])).tolist() == [3, 1]


def test_a_save_that_failed_left_half_a_file_beside_it(tmp_path, monkeypatch):
    def full(*_):
        raise OSError("no space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(OSError, match="no space left"):
        Vocabulary(WORDS).save(tmp_path / "words.json")
    assert list(tmp_path.iterdir()) == []
