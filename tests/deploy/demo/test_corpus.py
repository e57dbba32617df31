"""Text as word ids."""

import numpy as np
import pytest

from rowloom.client import InvalidRequest
from rowloom.deploy.demo.corpus import read_corpus


@pytest.fixture
def folder(tmp_path):
    words = [f"word{'abcdefghij'[i // 13]}{'klmnopqrstuvw'[i % 13]}" for i in range(130)]
    (tmp_path / "a.txt").write_text(" ".join(words * 3))
    (tmp_path / "b.txt").write_text("__acquire_lock__ = 7; x9 = Acquire_Lock(1.5)  # x\n" * 4 + "rare rare")
    return tmp_path


def test_identifiers_are_words_without_case_and_outer_underscores(folder):
    text = read_corpus(folder)
    assert text.words[0] == "acquire_lock"
    assert text.counts[0] == 8
    assert "x9" in text.words
    assert not {"x", "7", "__acquire_lock__", "1"} & set(text.words)


def test_words_are_numbered_by_frequency_and_rare_ones_are_left_out(folder):
    text = read_corpus(folder, min_count=3)
    assert (np.diff(text.counts) <= 0).all()
    assert "rare" not in text.words
    assert text.counts.sum() == len(text.tokens)
    assert "rare" in read_corpus(folder, min_count=2).words


def test_tokens_are_the_text_in_its_order(folder):
    text = read_corpus(folder)
    told = " ".join(text.words[i] for i in text.tokens)
    assert "acquire_lock x9 acquire_lock acquire_lock x9" in told
    assert "wordak wordal wordam" in told


def test_the_order_of_files_depends_only_on_the_seed(folder):
    for i in range(6):
        (folder / f"c{i}.txt").write_text(f"only_in_{i} " * 5)
    first, again, other = (read_corpus(folder, seed=seed).tokens.tolist() for seed in (1, 1, 2))
    assert first == again
    assert first != other
    assert sorted(first) == sorted(other)


def test_installed_packages_are_not_read(folder):
    (folder / "site-packages").mkdir()
    (folder / "site-packages" / "p.txt").write_text("foreign " * 50)
    assert "foreign" not in read_corpus(folder).words


def test_words_are_found_by_name(folder):
    text = read_corpus(folder)
    assert text.find(["acquire_lock", "nowhere"]) == {"acquire_lock": 0}


def test_too_little_text_is_refused_with_what_there_is(tmp_path):
    (tmp_path / "t.txt").write_text("one two three " * 5)
    with pytest.raises(InvalidRequest, match="has 3 words that occur 3 times or more, and 100 are needed"):
        read_corpus(tmp_path / "t.txt")


def test_a_path_that_is_not_there_is_refused_by_name(tmp_path):
    with pytest.raises(InvalidRequest, match=r"there is no file or folder .*nowhere"):
        read_corpus(tmp_path / "nowhere")


def test_the_standard_library_has_tens_of_thousands_of_words():
    text = read_corpus()
    assert len(text.words) > 10_000
    assert {"lock", "socket", "json"} <= set(text.words[:20_000])
