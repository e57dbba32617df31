"""Skip-gram with negative sampling, on the rows of one stretch of text: numbers in, loss and gradients out.

L tokens in a stretch, K negatives, D columns, w the window. The stretch is compared with itself shifted by 1 to w
places, so that pairs need no gathering: every step is a product of whole arrays.
Mikolov et al., "Distributed Representations of Words and Phrases and their Compositionality", 2013.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class StretchGradients:
    """What one stretch asks of its rows.

    Attributes:
        loss: mean over the pairs; (1 + negatives) * ln 2 for a model that knows nothing.
        words: [L, D] float32, for the rows of the input table.
        contexts: [L, D] float32, for the rows of the output table, of the same tokens.
        negatives: [K, D] float32, for the rows of the output table, of the negatives.
    """

    loss: float
    words: np.ndarray
    contexts: np.ndarray
    negatives: np.ndarray


def gradients(
    words: np.ndarray, contexts: np.ndarray, negatives: np.ndarray, *, window: int, weight: float
) -> StretchGradients:
    """Gradients of the summed loss; every token meets each of its neighbours in the window, and all negatives.

    Args:
        words: [L, D] float32, input rows of the tokens.
        contexts: [L, D] float32, output rows of the tokens.
        negatives: [K, D] float32, output rows of the negatives, which all tokens of the stretch share.
        window: neighbours on each side; below L.
        weight: negatives per pair.

    Raises:
        ValueError: the stretch is no longer than the window.
    """
    length, k = len(words), len(negatives)
    if length <= window:
        raise ValueError(f"a stretch of {length} tokens is too short for a window of {window}")
    grad_words, grad_contexts = np.zeros_like(words), np.zeros_like(contexts)
    loss = 0.0
    for shift in range(1, window + 1):
        early, late = slice(None, -shift), slice(shift, None)
        for a, b in ((early, late), (late, early)):
            logits = np.einsum("ld,ld->l", words[a], contexts[b])
            slope = (sigmoid(logits) - 1)[:, None]
            loss += float(softplus(-logits).sum())
            grad_words[a] += slope * contexts[b]
            grad_contexts[b] += slope * words[a]
    # Each token stands for as many pairs as it has neighbours, and each pair for `weight` negatives.
    per_negative = (pairs_of(length, window) * np.float32(weight / k))[:, None]
    logits = words @ negatives.T  # pyright: ignore[reportUnknownVariableType]
    slopes = sigmoid(logits) * per_negative  # pyright: ignore[reportUnknownArgumentType]
    loss += float((softplus(logits) * per_negative).sum())  # pyright: ignore[reportUnknownArgumentType]
    grad_words += slopes @ negatives
    pairs = window * (2 * length - window - 1)
    return StretchGradients(loss / pairs, grad_words, grad_contexts, slopes.T @ words)  # pyright: ignore[reportUnknownArgumentType]


def pairs_of(length: int, window: int) -> np.ndarray:
    """Neighbours that each token of a stretch has. Returns [L] float32."""
    place = np.arange(length)
    return (np.minimum(place, window) + np.minimum(length - 1 - place, window)).astype(np.float32)


def sigmoid(x: np.ndarray) -> np.ndarray:
    """1 / (1 + exp(-x)), without overflow. x: float32 of any shape."""
    return np.float32(0.5) * (np.tanh(np.float32(0.5) * x) + np.float32(1))  # pyright: ignore[reportUnknownArgumentType]


def softplus(x: np.ndarray) -> np.ndarray:
    """log(1 + exp(x)), without overflow. x: float32 of any shape."""
    return np.log1p(np.exp(-np.abs(x))) + np.maximum(x, 0)


class Negatives:
    """Draws words as noise: in proportion to count ** 0.75, as word2vec does."""

    def __init__(self, counts: np.ndarray) -> None:
        """counts: [V], how often each word occurs."""
        total = np.cumsum(np.asarray(counts, np.float64) ** 0.75)
        self._cumulative = total / total[-1]

    def draw(self, k: int, rng: np.random.Generator) -> np.ndarray:
        """[k] int64 word ids, may repeat."""
        return np.searchsorted(self._cumulative, rng.random(k), side="right")


def chances(counts: np.ndarray, threshold: float) -> np.ndarray:
    """How likely an occurrence of each word is kept: of frequent words few are, "self" says little of its neighbours.

    Args:
        counts: [V], how often each word occurs in the whole text.
        threshold: words rarer than this share of the text are always kept.

    Returns:
        [V] float64 in (0, 1].
    """
    share = counts / counts.sum()
    return np.sqrt(threshold / np.maximum(share, threshold))


def kept(tokens: np.ndarray, chance: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The tokens that chance keeps, in the same order.

    tokens: [T] word ids. chance: [V], as `chances` gives it. Returns [<= T] word ids.
    """
    return tokens[rng.random(len(tokens)) < chance[tokens]]


def nearest(rows: np.ndarray, word: int, k: int) -> list[int]:
    """The k rows whose direction is closest to that of row `word`, the closest first, itself left out.

    rows: [V, D] float32.
    """
    unit = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    likeness = unit @ unit[word]
    likeness[word] = -np.inf
    return [int(i) for i in np.argsort(-likeness, kind="stable")[:k]]
