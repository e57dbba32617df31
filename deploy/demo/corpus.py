"""Text for the demo, words as numbers: by default the source of Python's standard library, which every machine has."""

from __future__ import annotations

import random
import re
import sysconfig
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ...client.urls import UnreadableFile

WORD = re.compile(r"[^\W\d]\w+")
FOREIGN = {"site-packages", "dist-packages", "__pycache__"}
MIN_WORDS = 100


@dataclass(frozen=True)
class Corpus:
    """A text as word ids.

    Attributes:
        words: the vocabulary, the most frequent first: `words[i]` is the word of id i.
        counts: [V] int64, how often each occurs.
        tokens: [T] int32, the text; words left out of the vocabulary are skipped.
    """

    words: tuple[str, ...]
    counts: np.ndarray
    tokens: np.ndarray

    def __repr__(self) -> str:
        return f"<Corpus tokens={len(self.tokens)} words={len(self.words)}>"

    def find(self, words: Sequence[str]) -> dict[str, int]:
        """Ids of those of the words that are in the vocabulary."""
        ids = {word: i for i, word in enumerate(self.words)}
        return {word: ids[word] for word in words if word in ids}


def read_corpus(path: Path | None = None, *, min_count: int = 3, seed: int = 0) -> Corpus:
    """Read a text.

    Identifiers count as one word each (`acquire_lock`), lower case, without underscores at the ends; numbers and single
    letters are skipped.

    Args:
        path: a text file, or a folder whose files are all read; none: the `.py` files of the standard library.
        min_count: rarer words are left out.
        seed: of the order of the files, so that any stretch of the text is much like any other.

    Raises:
        InvalidRequest: there is no text there, or too little.
    """
    files = _files(path)
    random.Random(seed).shuffle(files)
    text = [word for file in files for word in _words(file)]
    counted = Counter(text)
    words = tuple(word for word, count in counted.most_common() if count >= min_count)
    if len(words) < MIN_WORDS:
        raise UnreadableFile(
            f"corpus: {str(path)!r} has {len(words)} words that occur {min_count} times or more, "
            f"and {MIN_WORDS} are needed: give more text"
        )
    ids = {word: i for i, word in enumerate(words)}
    tokens = np.fromiter((ids[word] for word in text if word in ids), np.int32)
    return Corpus(words, np.bincount(tokens, minlength=len(words)), tokens)


def _files(path: Path | None) -> list[Path]:
    root = Path(sysconfig.get_path("stdlib")) if path is None else Path(path)
    if root.is_file():
        return [root]
    if not root.is_dir():
        raise UnreadableFile(f"corpus: there is no file or folder {str(root)!r}")
    pattern = "*.py" if path is None else "*"
    files = [file for file in root.rglob(pattern) if file.is_file()]
    return sorted(file for file in files if not FOREIGN & set(file.relative_to(root).parts))


def _words(file: Path) -> Iterator[str]:
    for word in WORD.findall(file.read_text(encoding="utf-8", errors="ignore")):
        word = word.strip("_").lower()
        if len(word) > 1:
            yield word
