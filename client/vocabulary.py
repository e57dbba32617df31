"""Words and the ids they have in a table, with a place for words that nobody foresaw."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from ..proto.errors import InvalidRequest, version_fault
from ..proto.spec import TableSpec
from .inputs import as_array
from .urls import read_text, write_text

METADATA_KEY = "vocabulary"
# A table's metadata travels with every listing of the tables; more than this belongs into a file.
METADATA_LIMIT_BYTES = 64 << 10
_FORMAT = 1


class HasSpec(Protocol):
    """A table, as far as its words are concerned."""

    @property
    def spec(self) -> TableSpec:
        """What the table is."""
        ...


def stable_hash(word: str) -> int:
    """64 bits of a word's UTF-8 that are the same in every process, machine and year (unlike `hash`)."""
    return int.from_bytes(hashlib.blake2b(word.encode(), digest_size=8).digest(), "little")


class Vocabulary:
    """Which id a word has.

    The ids, in this order: `pad`, `unk`, the words, the hash buckets. `pad` and `unk` take no id where
    they are None; a `pad` or `unk` that is also among the words takes the id of the special and is not
    counted twice.

    Args:
        words: the known words, most frequent first by custom. Bytes are read as UTF-8.
        unk: the word that stands for unknown ones, or None.
        pad: the word that fills short rows up, or None.
        buckets: unknown words are spread over this many ids by `stable_hash`. With 0 they get the id of
            `unk`, and without `unk` they are refused.

    Raises:
        InvalidRequest: a word twice, a word that is not a string, buckets below 0, pad equal to unk.

    Example:
        >>> words = Vocabulary(["cat", "dog"])
        >>> words.encode(["dog", "whale"]), words.encode([["cat"], ["dog", "cat"]]).tolist()
        (array([3, 1]), [[2, 0], [3, 2]])
    """

    def __init__(
        self, words: Iterable[str], *, unk: str | None = "<unk>", pad: str | None = "<pad>", buckets: int = 0
    ) -> None:
        if buckets < 0:
            raise InvalidRequest(f"buckets must be at least 0, got {buckets}")
        if pad is not None and pad == unk:
            raise InvalidRequest(f"pad and unk must differ, both are {pad!r}")
        self.unk, self.pad, self.buckets = unk, pad, buckets
        specials = [s for s in (pad, unk) if s is not None]
        known = dict.fromkeys(specials)
        for word in words:
            word = _text(word)
            if word in known and word not in specials:
                raise InvalidRequest(f"the word {word!r} is in the vocabulary twice")
            known[word] = None
        self._words = list(known)
        self._ids = {word: i for i, word in enumerate(self._words)}

    @classmethod
    def from_counts(
        cls, counts: Mapping[str, int], *, min_count: int = 1, max_words: int | None = None, **arguments: Any
    ) -> Vocabulary:
        """From how often each word was seen: the most frequent first, equals by spelling.

        Args:
            counts: word -> count.
            min_count: rarer words are left out.
            max_words: at most this many, the most frequent ones.
            **arguments: `unk`, `pad`, `buckets`.
        """
        kept = [(-count, _text(word)) for word, count in counts.items() if count >= min_count]
        return cls((word for _, word in sorted(kept)[:max_words]), **arguments)

    @classmethod
    def from_file(cls, path: str | os.PathLike[str], **arguments: Any) -> Vocabulary:
        """From a text file with one word a line (UTF-8), in their order; or from what `save` wrote. Path or URL.

        Raises:
            InvalidRequest: an empty line, a word twice, no UTF-8, or arguments for a file that already has them.
        """
        text = read_text(path)
        if text.startswith('{"format": "rowloom-vocabulary"'):
            if arguments:
                raise InvalidRequest(
                    f"{path} says itself what unk, pad and buckets are; got {sorted(arguments)}"
                )
            return cls.from_json(_json(text, str(path)))
        lines = text.split("\n")
        lines = lines[:-1] if lines[-1] == "" else lines
        lines = [line.removesuffix("\r") for line in lines]
        if "" in lines:
            raise InvalidRequest(f"{path}:{lines.index('') + 1} is empty; a vocabulary has one word a line")
        return cls(lines, **arguments)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes a file that `from_file` reads back; whole or not at all. Path or URL."""
        write_text(path, json.dumps(self.to_json(), ensure_ascii=False))

    def to_json(self) -> dict[str, Any]:
        """As plain dicts, lists, strings and numbers."""
        specials = sum(s is not None for s in (self.unk, self.pad))
        return {
            "format": "rowloom-vocabulary",
            "version": _FORMAT,
            "unk": self.unk,
            "pad": self.pad,
            "buckets": self.buckets,
            "words": self._words[specials:],
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Vocabulary:
        """What `to_json` gave. Raises InvalidRequest for anything else."""
        if value.get("format") != "rowloom-vocabulary":
            raise InvalidRequest(f"not a vocabulary: {str(dict(value))[:80]}")
        if fault := version_fault("the vocabulary", value.get("version"), _FORMAT):
            raise InvalidRequest(fault)
        return cls(value["words"], unk=value["unk"], pad=value["pad"], buckets=value["buckets"])

    def is_small(self) -> bool:
        """Whether it fits into a table's metadata."""
        return len(json.dumps(self.to_json(), ensure_ascii=False).encode()) <= METADATA_LIMIT_BYTES

    def attach(self, spec: TableSpec) -> TableSpec:
        """The spec with this vocabulary in its metadata, and `num_embeddings` if it had none.

        Raises:
            InvalidRequest: more than 64 KiB (save it to a file), or ids that the table does not have.
        """
        text = json.dumps(self.to_json(), ensure_ascii=False)
        if len(text.encode()) > METADATA_LIMIT_BYTES:
            raise InvalidRequest(
                f"a vocabulary of {len(text.encode())} bytes is too much for a table's metadata (at most "
                f"{METADATA_LIMIT_BYTES}); vocabulary.save(path) puts it into a file"
            )
        self.check(spec)
        size = len(self) if spec.num_embeddings is None else spec.num_embeddings
        return dataclasses.replace(spec, num_embeddings=size, metadata={**spec.metadata, METADATA_KEY: text})

    @staticmethod
    def of(table: HasSpec | TableSpec) -> Vocabulary | None:
        """The vocabulary in a table's metadata, or set on its handle; None if it has none."""
        held = getattr(table, "vocabulary", None)
        if isinstance(held, Vocabulary):
            return held
        spec = table if isinstance(table, TableSpec) else table.spec
        text = spec.metadata.get(METADATA_KEY)
        return (
            None
            if text is None
            else Vocabulary.from_json(_json(text, f"the metadata of table {spec.name!r}"))
        )

    def check(self, spec: TableSpec) -> None:
        """Raises InvalidRequest if the table has fewer ids than the vocabulary."""
        if spec.num_embeddings is not None and spec.num_embeddings < len(self):
            raise InvalidRequest(
                f"num_embeddings is {spec.num_embeddings}, the vocabulary has {len(self)} ids "
                f"(table {spec.name!r})"
            )

    def __len__(self) -> int:
        """How many ids there are: specials, words and buckets."""
        return len(self._words) + self.buckets

    def __contains__(self, word: object) -> bool:
        return word in self._ids

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Vocabulary) and self.to_json() == other.to_json()

    __hash__ = None  # type: ignore[assignment]  # equal by value, and the value is too long to hash

    def __repr__(self) -> str:
        size = f"{len(self._words)} words, {self.buckets} buckets"
        return f"<Vocabulary {size}, unk={self.unk!r}, pad={self.pad!r}>"

    @property
    def words(self) -> Sequence[str]:
        """Word of id i at place i; the buckets have none. Do not modify."""
        return self._words

    def names(self) -> dict[str, int]:
        """The id of each name that files may have for one: words, and buckets as word files write them."""
        buckets = {f"<bucket_{k}>": len(self._words) + k for k in range(self.buckets)}
        return {**buckets, **self._ids}

    @property
    def unk_id(self) -> int | None:
        """The id of `unk`."""
        return None if self.unk is None else self._ids[self.unk]

    @property
    def pad_id(self) -> int | None:
        """The id of `pad`."""
        return None if self.pad is None else self._ids[self.pad]

    def id_of(self, word: str) -> int:
        """The id of one word; of its bucket, or of `unk`, if it is unknown; InvalidRequest without either."""
        found = self._ids.get(word)
        if found is not None:
            return found
        if self.buckets:
            return len(self._words) + stable_hash(word) % self.buckets
        if self.unk is None:
            raise InvalidRequest(
                f"{word!r} is not in the vocabulary of {len(self._words)} words; give it unk= or buckets="
            )
        return self._ids[self.unk]

    def encode(self, words: Any) -> np.ndarray:
        """Words as ids.

        Args:
            words: a word, an array or a column of words, or lists of any depth. Lists of unequal length are filled up
                with `pad`.

        Returns:
            int64 of the shape of `words`; of the longest list in each dimension where they differ.

        Raises:
            InvalidRequest: something that is no word; an unknown word without `unk` and buckets; unequal
                lists without `pad`.
        """
        if isinstance(words, str | bytes):
            return np.array(self.id_of(_text(words)), np.int64)
        if hasattr(words, "__array__"):  # columns of pandas and Arrow, TensorFlow's tensors
            words = as_array(words, "words")
        if isinstance(words, np.ndarray):
            flat, shape = words.reshape(-1), words.shape  # pyright: ignore[reportUnknownVariableType]
            return self._encode_flat(flat.tolist()).reshape(shape)  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]
        flat_words: list[Any] = []
        shape = _shape_of(words)
        pads = [0]
        _flatten(words, shape, flat_words, pads)
        if pads[0] and self.pad is None:
            raise InvalidRequest("the lists have unequal lengths; give the vocabulary a pad word")
        return self._encode_flat(flat_words).reshape(shape)

    def _encode_flat(self, words: list[Any]) -> np.ndarray:
        # One dict lookup a word: numpy's unique on strings sorts, and was 6 times slower on a million words.
        known = self._ids
        unknown: dict[Any, int] = {}

        def slow(word: Any) -> int:
            found = unknown.get(word)
            if found is None:
                found = self.pad_id if word is _PAD else self.id_of(_text(word))
                assert found is not None
                unknown[word] = found
            return found

        get: Callable[[Any], int | None] = known.get
        try:
            ids = (i if (i := get(word)) is not None else slow(word) for word in words)
            return np.fromiter(ids, np.int64, len(words))
        except TypeError as e:
            raise InvalidRequest(f"words must be strings in lists of one depth: {e}") from e

    def decode(self, ids: Any) -> np.ndarray | str:
        """Ids as words: an object array of the shape of `ids`, or one word for one id.

        A bucket decodes to `unk`, or to `<bucket k>` without one.

        Raises:
            InvalidRequest: not integers, or an id that the vocabulary does not have.
        """
        array = as_array(ids, "ids")
        if array.dtype.kind not in "iu" and array.size:
            raise InvalidRequest(f"ids must be integers, got {array.dtype}")
        bad = (array < 0) | (array >= len(self))
        if bad.any():
            raise InvalidRequest(
                f"id {int(array[bad].flat[0])} is not in the vocabulary, which has {len(self)} ids"  # pyright: ignore[reportUnknownArgumentType]
            )
        array = array.astype(np.int64)
        names = np.array([*self._words, self.unk], object)
        words = np.asarray(names[np.minimum(array, len(self._words))], object).reshape(-1)
        if self.unk is None and self.buckets:
            for k in np.flatnonzero(array.reshape(-1) >= len(self._words)):
                words[k] = f"<bucket {int(array.reshape(-1)[k]) - len(self._words)}>"
        return words.reshape(array.shape) if array.ndim else words.item()


class _Pad:
    """Fills a short list up."""


_PAD = _Pad()


def _text(word: Any) -> str:
    try:
        if isinstance(word, bytes):
            return word.decode()
        if isinstance(word, str):
            if not word.isascii():
                word.encode()
            return str(word)
    except UnicodeError as e:
        raise InvalidRequest(f"a word must be UTF-8 text, got {word!r}: {e.reason}") from None  # type: ignore[attr-defined]
    raise InvalidRequest(f"a word must be a string, got {word!r} ({type(word).__name__})")


def _json(text: str, where: str) -> dict[str, Any]:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as e:
        raise InvalidRequest(f"the vocabulary in {where} is damaged: {e}") from e


def _is_list(value: Any) -> bool:
    return isinstance(value, list | tuple | np.ndarray)


def _shape_of(value: Any) -> tuple[int, ...]:
    """The smallest box around nested lists."""
    if not _is_list(value):
        return ()
    inner = [_shape_of(v) for v in value if _is_list(v)]
    depth = max((len(s) for s in inner), default=0)
    return (len(value), *(max((s[d] for s in inner if len(s) > d), default=0) for d in range(depth)))


def _flatten(value: Any, shape: tuple[int, ...], out: list[Any], pads: list[int]) -> None:
    if not shape:
        out.append(value)
        return
    if not _is_list(value):
        raise InvalidRequest(f"words and lists stand side by side: {value!r} where a list is expected")
    for v in value:
        _flatten(v, shape[1:], out, pads)
    missing = (shape[0] - len(value)) * int(np.prod(shape[1:], dtype=np.int64))
    pads[0] += missing
    out.extend([_PAD] * missing)
