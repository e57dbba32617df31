"""Rows of words as text or bytes: word2vec (text and binary) and GloVe."""

from __future__ import annotations

import codecs
import contextlib
import itertools
import mmap
import os
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ...proto.atomic_file import AtomicFile
from ...proto.errors import InvalidRequest
from ..urls import UnreadableFile
from ..vocabulary import Vocabulary
from .contract import RowSink, RowSource, StoredVocabulary, words_in_order

_HEADER = re.compile(rb"\s*(\d+)\s+(\d*[1-9]\d*)\s*\n?")  # rows have one number at least
_LONGEST_WORD = 64 << 10
_MARK = codecs.BOM_UTF8  # some editors begin a file with it; it is no part of the first word
_CONTROL = re.compile(rb"[\x00-\x1f\x7f]")
_ENDS = b"\r\n \t"


def header_of(path: Path) -> tuple[int, int] | None:
    """(rows, dim) if the first line is the header of a word2vec file, else None."""
    with open(path, "rb") as f:
        found = _HEADER.fullmatch(f.readline(100).removeprefix(_MARK))
    return (int(found[1]), int(found[2])) if found else None


def open_words(path: Path, format: str, row_shape: tuple[int, ...] | None) -> TextSource | BinarySource:
    """The rows of a file of word vectors.

    Args:
        path: the file.
        format: "word2vec" (a header line, then text), "word2vec-binary" or "glove" (text without a header; one
            that is there is passed over, whatever it counts).
        row_shape: what a row should be, if known.

    Raises:
        InvalidRequest: empty, or no header where one belongs.
    """
    header = header_of(path)
    if format != "glove" and header is None:
        raise InvalidRequest(
            f"{path} has no header of two numbers, as word2vec files have; try format='glove'"
        )
    if format == "word2vec-binary":
        assert header is not None
        return BinarySource(path, header, row_shape)
    if format == "glove" and header is not None and not _is_above_rows(path, header[1]):
        header = None
    return TextSource(path, header, row_shape, counted=format == "word2vec")


def _is_above_rows(path: Path, dim: int) -> bool:
    """Whether the first line is a header indeed: the second has as many numbers as that says."""
    with open(path, "rb") as f:
        f.readline()
        return len(f.readline().split()) > dim


class TextSource(RowSource):
    """`word number number ...`, a line each, with spaces or tabs between. Words may hold spaces, as some of GloVe's do.

    Args:
        path: the file.
        header: (rows, dim) where the first line says so.
        row_shape: what a row should be, if known.
        counted: the rows must be as many as the header says.
    """

    words = True

    def __init__(
        self, path: Path, header: tuple[int, int] | None, row_shape: tuple[int, ...] | None, *, counted: bool
    ) -> None:
        self._path, self._skip = path, header is not None
        self.rows = header[0] if header and counted else None
        self._dim = header[1] if header else self._count_numbers()
        self.row_shape = _shape(self._dim, row_shape)

    def _count_numbers(self) -> int:
        with open(self._path, "rb") as f:
            first = f.readline().removeprefix(_MARK)
        if first.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            raise UnreadableFile(f"{self._path} is UTF-16: save it as UTF-8")
        if not first:
            raise UnreadableFile(f"{self._path} is empty")
        dim = len(first.split()) - (not first[:1].isspace())  # a word may be a space, or nothing
        if dim < 1:
            raise UnreadableFile(f"{self._path}: line 1 is {first[:40]!r}, not a word and its numbers")
        return dim

    def _lines(self) -> Iterator[tuple[int, bytes]]:
        """(line number, line without its end); checks the number of lines against the header."""
        count = 0
        with open(self._path, "rb") as f:
            if self._skip:
                f.readline()
            for number, line in enumerate(f, start=1 + self._skip):
                line = (line.removeprefix(_MARK) if number == 1 else line).rstrip(_ENDS)
                if line:
                    count += 1
                    yield number, line
        if self.rows is not None and count != self.rows:
            fault = "is cut short" if count < self.rows else "has more words than it says"
            raise UnreadableFile(
                f"{self._path} {fault}: {count} words, its header says {self.rows}; if they are all there, "
                "format='glove' reads them whatever the header says"
            )
        self.rows = count

    def names(self, size: int) -> Iterator[np.ndarray | list[str]]:
        """As `RowSource.names`."""
        lines = self._lines()
        while some := list(itertools.islice(lines, size)):
            yield [_word(_cut(line, self._dim)[0]) for _, line in some]

    def blocks(self, size: int) -> Iterator[tuple[np.ndarray | list[str], np.ndarray]]:
        """As `RowSource.blocks`."""
        lines = self._lines()
        while some := list(itertools.islice(lines, size)):
            yield self._parsed(some)

    def _parsed(self, lines: list[tuple[int, bytes]]) -> tuple[list[str], np.ndarray]:
        cut = [line.split(b" ", 1) for _, line in lines]
        # A tab may part a word from its numbers, also where a space follows it.
        if all(len(c) == 2 and b"\t" not in c[0] for c in cut):
            with contextlib.suppress(ValueError):
                # One call for a block: 25 % faster than float() on each number.
                rows = np.loadtxt([c[1] for c in cut], np.float32, comments=None, delimiter=" ", ndmin=2)
                if rows.shape == (len(lines), self._dim):
                    return [_word(c[0]) for c in cut], rows.reshape(-1, *self.row_shape)
        # A word with spaces, a tab, or a fault: slowly, so that the message can name the line.
        parsed = [self._parse_line(number, line) for number, line in lines]
        return [word for word, _ in parsed], np.stack([row for _, row in parsed]).reshape(-1, *self.row_shape)

    def _parse_line(self, number: int, line: bytes) -> tuple[str, np.ndarray]:
        parts = _cut(line, self._dim)
        if len(parts) != self._dim + 1:
            raise UnreadableFile(
                f"{self._path}:{number} has {len(parts) - 1} numbers, the others have {self._dim}"
            )
        try:
            return _word(parts[0]), np.array([_number(p) for p in parts[1:]], np.float32)
        except ValueError as e:
            raise UnreadableFile(f"{self._path}:{number} ({_word(parts[0])[:40]!r}): {e}") from e

    def close(self) -> None:
        """Nothing is held open."""


class BinarySource(RowSource):
    """A header line, then for each word: the word, a space, its numbers as little-endian float32."""

    words = True

    def __init__(self, path: Path, header: tuple[int, int], row_shape: tuple[int, ...] | None) -> None:
        self._path, self._dim = path, header[1]
        self.rows = header[0]
        self.row_shape = _shape(self._dim, row_shape)
        with open(path, "rb") as f:
            self._begin = len(f.readline())
            self._data = mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ)

    def _words(self) -> Iterator[tuple[str, int]]:
        """(word, where its numbers begin).

        Raises:
            InvalidRequest: cut short; or out of step, as behind a word with a space in it: what follows would be words
                made of numbers, and rows of garbage.
        """
        at, width = self._begin, self._dim * 4
        ends = len(self._data) > at and self._data[-1:] == b"\n"  # some writers end each row with one
        for k in range(self.rows or 0):
            end = self._data.find(b" ", at, at + _LONGEST_WORD)
            if end < 0 or end + 1 + width > len(self._data):
                raise UnreadableFile(f"{self._path} is cut short in word {k + 1} of {self.rows}")
            raw = self._data[at:end]
            word = raw.lstrip(b"\n")
            if _CONTROL.search(word) or (k and ends and word == raw):
                raise UnreadableFile(
                    f"{self._path}: word {k + 1} of {self.rows} would be {_word(word)[:40]!r}: one before it has a "
                    "space in it, which this format cannot hold, or the header has the wrong number of columns"
                )
            yield _word(word), end + 1
            at = end + 1 + width
        if self._data[at : at + 3].strip(b"\r\n"):
            raise UnreadableFile(
                f"{self._path} goes on for {len(self._data) - at} bytes behind the {self.rows} words that its header "
                "says"
            )

    def names(self, size: int) -> Iterator[np.ndarray | list[str]]:
        """As `RowSource.names`."""
        words = (word for word, _ in self._words())
        while some := list(itertools.islice(words, size)):
            yield some

    def blocks(self, size: int) -> Iterator[tuple[np.ndarray | list[str], np.ndarray]]:
        """As `RowSource.blocks`."""
        placed = self._words()
        while some := list(itertools.islice(placed, size)):
            # Copies: views would keep the mapping from being closed.
            rows = [np.frombuffer(self._data[at : at + self._dim * 4], "<f4") for _, at in some]
            yield [word for word, _ in some], np.stack(rows).reshape(-1, *self.row_shape)

    def close(self) -> None:
        """Closes the mapping."""
        self._data.close()


def _cut(line: bytes, dim: int) -> list[bytes]:
    """The word of a line and its numbers; fewer than `dim` where there are no more."""
    parts = line.rsplit(b" ", dim)
    if len(parts) == dim + 1 and all(parts[1:]) and b"\t" not in line and not parts[0].endswith(b" "):
        return parts
    parts = line.rsplit(None, dim)  # tabs, or several spaces in a row
    if len(parts) == dim and line[:1].isspace():
        before = line[: len(line) - len(line.lstrip())]
        return [before[:-1], *parts]  # the word is a space, or nothing
    return parts


def _number(text: bytes) -> float:
    if b"_" in text:  # Python's float takes 1_0 for 10
        raise ValueError(f"could not convert string to float: {text!r}")
    return float(text)


def _word(data: bytes) -> str:
    # Some published files hold words that are cut in the middle of a character, or are in another encoding: what is no
    # UTF-8 becomes \\xe9 and the like, so that two words stay two.
    return data.decode("utf-8", errors="backslashreplace")


def _shape(dim: int, row_shape: tuple[int, ...] | None) -> tuple[int, ...]:
    # A line has no shape; one as long as the row is the row, laid flat.
    if row_shape is not None and int(np.prod(row_shape, dtype=np.int64)) == dim:
        return row_shape
    return (dim,)


class WordsSink(RowSink):
    """Writes any of the three formats. Nine digits give every float32 back exactly."""

    def __init__(
        self, path: Path, format: str, *, rows: int, row_shape: tuple[int, ...], stored: StoredVocabulary
    ) -> None:
        self._part = AtomicFile(path)
        dim = int(np.prod(row_shape, dtype=np.int64))
        self._binary = format == "word2vec-binary"
        self._vocabulary = stored.words
        # The words are in the file; what stands for unknown ones is not, unless it is what readers take it for. A part
        # of the words is a vocabulary of its own.
        plain = Vocabulary(dict.fromkeys(stored.words.words))
        whole = plain == stored.words and stored.num_embeddings == len(plain)
        self.holds_words = whole or rows < len(stored.words)
        self._line = "%s " + " ".join(["%.9g"] * dim) + "\n"
        self._file = open(self._part.path, "wb")  # noqa: SIM115  # commit or abort closes it
        if format != "glove":
            self._file.write(f"{rows} {dim}\n".encode())

    def write(self, ids: np.ndarray, rows: np.ndarray) -> None:
        """As `RowSink.write`."""
        flat = np.ascontiguousarray(rows.reshape(len(rows), -1), "<f4")
        for word, row in zip(words_in_order(self._vocabulary, ids), flat, strict=True):
            if not word or any(c.isspace() for c in word) or _CONTROL.search(word.encode()):
                # A bucket is no word, but a reader must not stumble over it.
                word = word.replace(" ", "_") if word.startswith("<bucket ") else self._refuse(word)
            if self._binary:
                self._file.write(word.encode() + b" " + row.tobytes() + b"\n")
            else:
                self._file.write((self._line % (word, *row.tolist())).encode())

    def _refuse(self, word: str) -> str:
        raise InvalidRequest(
            f"the word {word!r} is empty or has white space or control characters, which {self._part.target} "
            "cannot hold; export to Parquet"
        )

    def commit(self) -> None:
        """As `RowSink.commit`."""
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        self._part.commit()

    def abort(self) -> None:
        """As `RowSink.abort`."""
        self._part.abort()  # first: closing writes what is left, and a full disk takes none of it
        with contextlib.suppress(OSError):
            self._file.close()
