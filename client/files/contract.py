"""What every file format offers: a source of rows or a sink for them, a block at a time."""

from __future__ import annotations

import contextlib
import difflib
import importlib.util
import json
import math
import os
import tokenize
import zipfile
from collections.abc import Collection, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, Protocol

import numpy as np

from ...proto.errors import InvalidRequest, RowloomError
from ...proto.spec import TableSpec
from ..urls import UnreadableFile
from ..vocabulary import HasSpec, Vocabulary

# How every `.npy` file begins, and what numpy raises of one that it cannot read.
_NPY = b"\x93NUMPY"
_DISLIKED = (
    *(ValueError, EOFError, SyntaxError, TypeError, ArithmeticError, tokenize.TokenError),
    *(RecursionError, MemoryError),  # a header that is nested deeply
)
# One pull or assign of this much keeps the shards busy, and any machine can hold a few of them.
BLOCK_BYTES = 8 << 20
# A vocabulary in a file's own metadata; readers of Parquet refuse metadata that is much longer, safetensors' too.
MOST_WORDS_BYTES = 16 << 20
# Formats whose files name no ids, so that only whole tables are written.
WITHOUT_IDS = ("torch", "tensorflow")


class RowTable(HasSpec, Protocol):
    """A table, as far as files are concerned."""

    @property
    def name(self) -> str:
        """Its name."""
        ...

    def pull(self, ids: Any, *, wire: str | None = None) -> np.ndarray:
        """Rows of ids [N]: [N, *row_shape] float32."""
        ...

    def assign(self, ids: Any, rows: Any) -> None:
        """Overwrite rows [N, *row_shape] of ids [N]."""
        ...


class TableMaker(Protocol):
    """A client, as far as files are concerned: what makes, finds and drops tables."""

    def create_table(self, spec: TableSpec) -> RowTable:
        """Make a table."""
        ...

    def table(self, name: str) -> RowTable:
        """The table of that name. Raises TableNotFound."""
        ...

    def tables(self) -> Sequence[RowTable]:
        """All tables."""
        ...

    def drop_table(self, name: str) -> None:
        """Drop a table."""
        ...


@dataclass(frozen=True)
class StoredVocabulary:
    """The words of the table that a file was exported from.

    Attributes:
        words: the vocabulary.
        num_embeddings: ids of that table; None where nobody wrote it down.
    """

    words: Vocabulary
    num_embeddings: int | None

    def to_json(self) -> dict[str, Any]:
        """As plain dicts, lists, strings and numbers; `Vocabulary.from_json` reads it too."""
        return {**self.words.to_json(), "num_embeddings": self.num_embeddings}

    @classmethod
    def parsed(cls, text: str | bytes, path: Path) -> tuple[StoredVocabulary, dict[str, Any]]:
        """What `to_json` gave, as the text of JSON in a file; and all that stands there. Raises UnreadableFile."""
        try:
            value = dict(json.loads(text))
            size = value.get("num_embeddings")
            return cls(Vocabulary.from_json(value), None if size is None else int(size)), value
        except (ValueError, KeyError, TypeError, RecursionError) as e:  # InvalidRequest too
            damaged(path, e)


class RowSource(Protocol):
    """A file that is read a block at a time; sources derive from it, so that the type checker holds them to it.

    Attributes:
        rows: rows in the file, or None before it was read to the end.
        row_shape: the shape of one row.
        has_ids: whether blocks name their ids; otherwise row k of the file has id k.
        words: whether blocks name words instead of ids.
        stored: the vocabulary of the table that the file was exported from, if it was and had one.
    """

    rows: int | None
    row_shape: tuple[int, ...]
    has_ids: bool = False
    words: bool = False
    stored: StoredVocabulary | None = None

    def names(self, size: int) -> Iterator[np.ndarray | list[str]]:
        """The ids or words of `blocks`, without the rows."""
        return (names for names, _ in self.blocks(size))

    def blocks(self, size: int) -> Iterator[tuple[np.ndarray | list[str], np.ndarray]]:
        """Blocks of at most `size` rows: (ids [N] int64 or N words, rows [N, *row_shape], any real type)."""
        ...

    def close(self) -> None:
        """Lets go of the file."""
        ...


class RowSink(Protocol):
    """A file that is written a block at a time; it appears under its name only when it is whole.

    Attributes:
        holds_words: whether the vocabulary of the table is in the file itself.
    """

    holds_words: bool = False

    def write(self, ids: np.ndarray, rows: np.ndarray) -> None:
        """Adds rows: ids [N] int64, ascending over the whole file; rows [N, *row_shape] float32."""
        ...

    def commit(self) -> None:
        """The file is whole: gives it its name."""
        ...

    def abort(self) -> None:
        """Leaves nothing behind."""
        ...


class ArraySource(RowSource):
    """A source over arrays that lie in mapped files, one after the other: row k has id k, or ids[k].

    Args:
        pieces: arrays of [V_i, *row_shape], mapped, at least one; V is the sum of the V_i.
        what: the file, and the tensor in it, for messages.
        ids: [V] integers, mapped, or None.
    """

    def __init__(self, pieces: Sequence[np.ndarray], *, what: str, ids: np.ndarray | None = None) -> None:
        for piece in pieces:
            check_matrix(piece.shape, what)
            check_real(piece.dtype, what)
        self.rows = sum(len(piece) for piece in pieces)
        self.row_shape = pieces[0].shape[1:]
        if any(piece.shape[1:] != self.row_shape for piece in pieces):
            raise InvalidRequest(f"{what}: its parts have rows of different shapes")
        if ids is not None and (ids.shape != (self.rows,) or ids.dtype.kind not in "iu"):
            raise InvalidRequest(f"{what}: ids must be {self.rows} integers, got {ids.shape} of {ids.dtype}")
        self._pieces, self._ids, self._what = list(pieces), ids, what
        self.has_ids = ids is not None

    def names(self, size: int) -> Iterator[np.ndarray | list[str]]:
        """As `RowSource.names`."""
        ids = np.arange(self.rows or 0) if self._ids is None else self._ids
        for begin in range(0, len(ids), size):
            yield signed_ids(np.asarray(ids[begin : begin + size]), begin, self._what)

    def blocks(self, size: int) -> Iterator[tuple[np.ndarray | list[str], np.ndarray]]:
        """As `RowSource.blocks`."""
        at = 0
        for piece in self._pieces:
            for begin in range(0, len(piece), size):
                rows = piece[begin : begin + size]
                ids = np.arange(at, at + len(rows)) if self._ids is None else self._ids[at : at + len(rows)]
                yield signed_ids(np.asarray(ids), at, self._what), rows
                at += len(rows)

    def close(self) -> None:
        """Drops the mappings."""
        self._pieces, self._ids = [], None


def take_room(path: Path, size: int) -> None:
    """Give a file its bytes on disk before it is mapped: a page that a full disk cannot take would kill the process.

    Raises:
        OSError: there is no room, and then no file either.
    """
    try:
        with open(path, "ab") as f:
            if size:
                os.posix_fallocate(f.fileno(), 0, size)
    except OSError:
        path.unlink(missing_ok=True)
        raise


def signed_ids(ids: np.ndarray, begin: int, what: str) -> np.ndarray:
    """Ids of any integer type as int64; InvalidRequest for one of 2**63 and up. begin: the row of the first."""
    if ids.dtype == np.uint64 and (beyond := ids > np.iinfo(np.int64).max).any():
        k = int(beyond.argmax())
        raise InvalidRequest(f"{what}: row {begin + k} has id {int(ids[k])}, ids are below 2**63")
    return ids.astype(np.int64, copy=False)


def check_ids(blocks: Iterable[np.ndarray | list[str]], spec: TableSpec, what: str) -> None:
    """Raises InvalidRequest, with its row, for the first id that a table lacks, and for one that is there twice."""
    blocks_seen: list[np.ndarray] = []
    ascending, last, begin = True, -1, 0
    for ids in blocks:
        assert isinstance(ids, np.ndarray)
        wrong = (ids < 0) | (ids >= spec.id_limit)
        if wrong.any():
            k = int(wrong.argmax())
            raise InvalidRequest(
                f"{what}: row {begin + k} has id {ids[k]}, table {spec.name!r} [0, {spec.id_limit})"
            )
        ascending = ascending and bool((np.diff(ids, prepend=last) > 0).all())
        last = int(ids[-1]) if len(ids) else last
        begin += len(ids)
        blocks_seen.append(ids)
    if not ascending:
        _refuse_twice(np.concatenate(blocks_seen), what)


def _refuse_twice(ids: np.ndarray, what: str) -> None:
    order = np.argsort(ids, kind="stable")
    same = np.flatnonzero(ids[order][1:] == ids[order][:-1])
    if len(same):
        first, second = (int(order[same[0] + k]) for k in (0, 1))
        raise InvalidRequest(
            f"{what}: rows {first} and {second} both have id {ids[first]}; which of them is meant? Leave one out"
        )


def check_matrix(shape: Sequence[int], what: str) -> None:
    """Raises InvalidRequest unless the shape is that of rows: at least one dimension, rows first."""
    if len(shape) < 1:
        raise InvalidRequest(f"{what} is a single number, not rows")


def check_real(dtype: np.dtype, what: str) -> None:
    """Raises InvalidRequest for types that are no real numbers."""
    # 'V' is how numpy sees ml_dtypes' bfloat16 before it knows better; its name is right.
    if dtype.kind not in "fiub" and dtype.name != "bfloat16":
        raise InvalidRequest(f"{what} has type {dtype}, rows must be real numbers")


def as_float32(rows: np.ndarray, ids: Sequence[object] | np.ndarray, what: str) -> np.ndarray:
    """Rows as float32; raises InvalidRequest, with the first place, if one is not finite in float32."""
    with np.errstate(over="ignore"):  # too large for float32 becomes inf, which the next lines report
        out = np.ascontiguousarray(rows, np.float32)
    if not np.isfinite(out).all():
        place = np.argwhere(~np.isfinite(out))[0]
        value, name = rows[tuple(place)], ids[place[0]]
        raise InvalidRequest(
            f"{what}: row {name if isinstance(name, np.integer) else repr(name)} has {value} in column "
            f"{list(map(int, place[1:]))}; rows must be finite float32"
        )
    return out


def choose_rows(
    shapes: Mapping[str, Sequence[int]],
    wanted: str | None,
    row_shape: tuple[int, ...] | None,
    *,
    what: str,
    others: Collection[str] = (),
) -> str:
    """The tensor that has the rows: `wanted`, or the only one that can have them, as `choose_tensor`.

    Args:
        shapes: of each tensor, by name.
        wanted: its name, where that is said.
        row_shape: what a row should be, if known; else a matrix is looked for, or the tensor that is there alone.
        what: the file, for messages.
        others: those that are only meant where they are `wanted`.

    Raises:
        InvalidRequest: as `choose_tensor`.
    """
    own = {name: shape for name, shape in shapes.items() if name not in others}
    fitting = [name for name, shape in own.items() if _fits(shape, row_shape)]
    if row_shape is None and not fitting and len(own) == 1:
        fitting = [name for name, shape in own.items() if len(shape) >= 1]
    hint = (
        f"of rows of shape {row_shape}"
        if row_shape is not None
        else "with two dimensions (tensor= names one that has others)"
    )
    return choose_tensor(shapes, wanted, fitting, what=what, hint=hint)


def choose_tensor(
    names: Iterable[str], wanted: str | None, fits: Iterable[str], *, what: str, hint: str = ""
) -> str:
    """The tensor that is meant: `wanted`, or the only one that fits.

    Raises:
        InvalidRequest: no such name (lists the nearest), or none or several fit.
    """
    known = sorted(names)
    if wanted is not None:
        if wanted in known:
            return wanted
        near = difflib.get_close_matches(wanted, known, n=3, cutoff=0.3) or known[:5]
        raise InvalidRequest(f"{what} has no tensor {wanted!r}; nearest: {_listed(near)}")
    fitting = sorted(fits)
    if len(fitting) == 1:
        return fitting[0]
    if not fitting:
        raise InvalidRequest(f"{what} has no tensor {hint or 'of rows'}; it has: {_listed(known)}")
    raise InvalidRequest(
        f"{what} has {len(fitting)} tensors that fit; say tensor=, one of: {_listed(fitting)}"
    )


def _listed(names: Sequence[str], most: int = 8) -> str:
    rest = f", and {len(names) - most} more" if len(names) > most else ""
    return (", ".join(repr(n) for n in names[:most]) or "nothing") + rest


def _fits(shape: Sequence[int], row_shape: tuple[int, ...] | None) -> bool:
    """Whether a tensor of this shape could be the rows: a matrix, or the row shape where it is known."""
    return len(shape) == 2 if row_shape is None else len(shape) >= 1 and tuple(shape[1:]) == row_shape


def damaged(path: Path, error: BaseException) -> NoReturn:
    """Raises UnreadableFile for a file that its own library cannot read."""
    words = f"{error}" if isinstance(error, ValueError | OSError) else f"{type(error).__name__}: {error}"
    raise UnreadableFile(f"{path} is damaged, cut short or of another format: {words}") from error


# What a file is not to blame for: it says itself what is wrong and where, or it is a fault of ours.
_NOT_OF_FILES = (RowloomError, ImportError, MemoryError, AssertionError, AttributeError, NameError)


@contextlib.contextmanager
def reading(path: Path) -> Generator[None]:
    """Whatever a file makes its reader or a library raise becomes UnreadableFile, with the file's name.

    All that looks at what is in a file does so in this, and it alone decides what a file is to blame for. The error
    itself stays its cause, which `ROWLOOM_TRACEBACK=1` shows.
    """
    try:
        yield
    except _NOT_OF_FILES:
        raise
    except Exception as e:
        if isinstance(e, OSError) and (e.filename is not None or type(e) is not OSError):
            raise  # as that there is no such file; libraries raise a bare one of what they cannot read
        damaged(path, e)


def mapped_array(path: Path) -> np.ndarray:
    """The array of a `.npy` file, mapped. Raises InvalidRequest: damaged, cut short, or several arrays."""
    with open(path, "rb") as f:
        named = f.read(len(_NPY)) == _NPY
    # As of `numpy.savez`; but the numbers of an array may look like a zip's end.
    if not named and zipfile.is_zipfile(path):
        raise InvalidRequest(f"{path} holds several arrays; save one with numpy.save")
    if not named:
        raise UnreadableFile(why_no_npy(path))
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except _DISLIKED:
        # Without numpy's own words: they advise to load the file unsafely, which runs what is in it.
        raise UnreadableFile(why_no_npy(path)) from None


def why_no_npy(path: Path) -> str:
    """In words, why numpy reads no array of numbers from a file, or cannot map it."""
    size = path.stat().st_size
    if not size:
        return f"{path} is empty"
    with open(path, "rb") as f:
        start = f.read(len(_NPY))
        if not _NPY.startswith(start):
            return f"{path} is damaged or no .npy file: it begins with {start!r} and not with {_NPY!r}"
        f.seek(0)
        try:
            version = np.lib.format.read_magic(f)
            read = (
                np.lib.format.read_array_header_1_0
                if version == (1, 0)
                else np.lib.format.read_array_header_2_0
            )
            shape, _, dtype = read(f)
        except Exception:  # a header is read as Python's literals, of which there are many that are none
            return f"{path} is damaged or cut short: it has {size} bytes, and its header cannot be read"
        wanted = f.tell() + math.prod(shape) * dtype.itemsize
    if dtype.hasobject:
        return f"{path} holds objects of Python ({dtype}), not numbers"
    if size < wanted:
        return f"{path} is cut short: it has {size:,} bytes and should have {wanted:,}"
    return f"{path} is damaged: no array of shape {shape} of {dtype}"


def needs(package: str, what: str, install: str) -> None:
    """Raises ImportError, with how to install it, if a package that only some files need is not there.

    Args:
        package: its name, as it is imported.
        what: what needs it, as "a Parquet file needs".
        install: what to tell pip.
    """
    if importlib.util.find_spec(package) is None:
        raise ModuleNotFoundError(f"{what} {package}: pip install {install}", name=package)


def words_in_order(vocabulary: Vocabulary, ids: np.ndarray) -> list[str]:
    """The word of each id, for files that name rows by words; a bucket is `<bucket k>`."""
    known = vocabulary.words
    return [str(known[i]) if i < len(known) else f"<bucket {i - len(known)}>" for i in ids.tolist()]
