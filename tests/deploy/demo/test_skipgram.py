"""The demo's mathematics against plain loops and finite differences."""

import math

import numpy as np
import pytest

from rowloom.deploy.demo.skipgram import (
    Negatives,
    chances,
    gradients,
    kept,
    nearest,
    pairs_of,
    sigmoid,
    softplus,
)

LENGTH, K, DIM, WINDOW, WEIGHT = 9, 4, 3, 2, 5.0


@pytest.fixture
def rows():
    rng = np.random.default_rng(5)
    return [rng.standard_normal((n, DIM)).astype(np.float32) for n in (LENGTH, LENGTH, K)]


def plain_loss(words, contexts, negatives):
    """The summed loss, one pair at a time."""
    total = 0.0
    for i in range(LENGTH):
        for j in range(max(0, i - WINDOW), min(LENGTH, i + WINDOW + 1)):
            if i != j:
                total += math.log1p(math.exp(-float(words[i] @ contexts[j])))
                total += sum(math.log1p(math.exp(float(words[i] @ n))) for n in negatives) * WEIGHT / K
    return total


def test_the_loss_is_that_of_a_loop_over_pairs(rows):
    pairs = pairs_of(LENGTH, WINDOW).sum()
    found = gradients(*rows, window=WINDOW, weight=WEIGHT)
    assert found.loss == pytest.approx(plain_loss(*rows) / pairs, rel=1e-5)


@pytest.mark.parametrize("which", [0, 1, 2], ids=["words", "contexts", "negatives"])
def test_gradients_are_those_of_finite_differences(rows, which):
    found = gradients(*rows, window=WINDOW, weight=WEIGHT)
    grads = (found.words, found.contexts, found.negatives)[which]
    wide = [r.astype(np.float64) for r in rows]
    for at in np.ndindex(grads.shape):
        losses = []
        for step in (1e-5, -1e-5):
            moved = [r.copy() for r in wide]
            moved[which][at] += step
            losses.append(plain_loss(*moved))
        assert grads[at] == pytest.approx((losses[0] - losses[1]) / 2e-5, rel=1e-3, abs=1e-4)


def test_a_model_that_knows_nothing_loses_log_2_for_each_pair_and_negative():
    zeros = [np.zeros((n, DIM), np.float32) for n in (LENGTH, LENGTH, K)]
    assert gradients(*zeros, window=WINDOW, weight=WEIGHT).loss == pytest.approx(6 * math.log(2), rel=1e-6)


def test_every_gradient_is_float32(rows):
    found = gradients(*rows, window=WINDOW, weight=WEIGHT)
    assert {a.dtype for a in (found.words, found.contexts, found.negatives)} == {np.dtype(np.float32)}


def test_a_stretch_no_longer_than_the_window_is_refused(rows):
    with pytest.raises(ValueError, match="a stretch of 2 tokens is too short for a window of 2"):
        gradients(rows[0][:2], rows[1][:2], rows[2], window=2, weight=WEIGHT)


def test_large_logits_do_not_overflow():
    x = np.array([-1e4, -200, 0, 200, 1e4], np.float32)
    assert sigmoid(x).tolist() == pytest.approx([0, 0, 0.5, 1, 1])
    assert softplus(x).tolist() == pytest.approx([0, 0, math.log(2), 200, 1e4])


def test_noise_is_drawn_in_proportion_to_count_to_the_three_quarters():
    counts = np.array([10_000, 625, 16])
    drawn = Negatives(counts).draw(200_000, np.random.default_rng(0))
    assert np.bincount(drawn, minlength=3) / 200_000 == pytest.approx(
        [1000 / 1133, 125 / 1133, 8 / 1133], abs=0.004
    )


def test_frequent_words_lose_most_of_their_occurrences_and_rare_ones_none():
    counts = np.array([900_000, 99_990, 10])
    chance = chances(counts, 1e-4)
    assert chance == pytest.approx([math.sqrt(1e-4 / 0.9), math.sqrt(1e-4 / 0.09999), 1])
    tokens = np.repeat([0, 2], [10_000, 50])
    left = np.bincount(kept(tokens, chance, np.random.default_rng(0)), minlength=3)
    assert left[2] == 50
    assert left[0] == pytest.approx(105, abs=40)


def test_nearest_rows_point_the_same_way_and_leave_out_the_row_itself():
    rows = np.array([[1, 0], [5, 0.1], [0, 3], [-1, 0], [0, 0]], np.float32)
    assert nearest(rows, 0, 2) == [1, 2]
