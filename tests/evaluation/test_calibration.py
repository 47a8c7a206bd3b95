"""The calibration error where probabilities are equal, few or unevenly spread."""

import math

import numpy as np
import pytest

from mammo_mlflow.evaluation.calibration import SMALLEST_BIN, _bins, calibration_error

DECIMALS = (0, 1, 2, 8)
GATE = 0.15


def draw(seed, n=300, decimals=2):
    """Labels and the probabilities (n,) they were drawn with, which are rounded first and so are tied."""
    random = np.random.default_rng(seed)
    p = np.round(random.beta(2, 2, n), decimals)
    return (random.random(n) < p).astype(int), p


def by_hand(labels, p, bin_of):
    total = 0.0
    for one in set(bin_of):
        rows = [i for i in range(len(p)) if bin_of[i] == one]
        frequency = sum(labels[i] for i in rows) / len(rows)
        chance = frequency * (1 - frequency) / (len(rows) - 1)
        total += len(rows) / len(p) * ((sum(p[i] for i in rows) / len(rows) - frequency) ** 2 - chance)
    return math.sqrt(max(total, 0))


@pytest.mark.parametrize("order", ["shuffled", "by class"])
def test_a_constant_has_the_error_of_its_one_frequency(order):
    labels = np.random.default_rng(0).permutation(np.arange(240) % 2) if order == "shuffled" else np.arange(240) // 120
    assert calibration_error(labels, np.full(240, 0.5)) == 0
    assert calibration_error(labels, np.full(240, 0.9)) == pytest.approx(math.sqrt(0.16 - 0.25 / 239))


@pytest.mark.parametrize("decimals", DECIMALS)
@pytest.mark.parametrize("seed", range(5))
def test_the_order_of_rows_counts_for_nothing(seed, decimals):
    labels, p = draw(seed, decimals=decimals)
    random = np.random.default_rng(seed)
    wanted = calibration_error(labels, p)
    for order in (random.permutation(300), np.argsort(labels), np.argsort(-labels), np.lexsort((labels, p))):
        assert calibration_error(labels[order], p[order]) == wanted


@pytest.mark.parametrize("decimals", DECIMALS)
@pytest.mark.parametrize("n", [10, 11, 29, 150, 151, 2000])
@pytest.mark.parametrize("seed", range(5))
def test_bins_hold_ten_patches_and_cut_no_tie(seed, n, decimals):
    labels, p = draw(seed, n, decimals)
    values, place, counts = np.unique(p, return_inverse=True, return_counts=True)
    bin_of = _bins(counts, min(15, n // SMALLEST_BIN))
    assert len(bin_of) == len(values)  # one bin for each value
    sizes = np.bincount(bin_of, counts)
    assert len(sizes) <= 15
    assert (sizes >= SMALLEST_BIN).all()
    assert (np.diff(bin_of) >= 0).all()
    assert calibration_error(labels, p) == pytest.approx(by_hand(labels, p, bin_of[place]), abs=1e-12)


@pytest.mark.parametrize("n", [10, 149, 157, 1000])
def test_without_ties_bins_are_of_equal_size(n):
    sizes = np.bincount(_bins(np.ones(n, int), min(15, n // SMALLEST_BIN)))
    assert list(sizes) == [len(rows) for rows in np.array_split(np.arange(n), min(15, n // SMALLEST_BIN))]


@pytest.mark.parametrize(
    ("counts", "wanted"),
    [
        ([1, 99], [0, 0]),  # a lone patch has no chance of its own to take off
        ([99, 1], [0, 0]),
        ([5, 90, 5], [0, 0, 0]),
        ([5, 5, 80, 10], [0, 0, 1, 2]),
        ([50, 1, 49], [0, 1, 1]),
        ([100], [0]),
    ],
)
def test_a_bin_too_small_joins_its_neighbour(counts, wanted):
    assert list(_bins(np.array(counts), 10)) == wanted


@pytest.mark.parametrize("decimals", DECIMALS)
def test_ties_leave_the_estimate_without_bias(decimals):
    """A quick form of benchmarks/calibration_ties.py: what is calibrated passes the gate whatever the order of rows."""
    errors = [calibration_error(*(array[np.argsort(labels)] for array in (labels, p))) for labels, p in drawn(decimals)]
    assert np.mean(np.square(errors)) < 0.002
    assert max(errors) < GATE


@pytest.mark.parametrize("decimals", DECIMALS)
def test_a_shift_is_found_through_ties(decimals):
    shifted = [calibration_error(labels, np.clip(p + 0.2, 0, 1)) for labels, p in drawn(decimals, n=2000)]
    if decimals:  # zeros and ones alone are shifted by 0.2 and not at all
        assert np.mean(shifted) == pytest.approx(0.2, abs=0.02)
    else:
        assert np.mean(shifted) == pytest.approx(0.2 * math.sqrt(0.5), abs=0.01)


def drawn(decimals, n=300):
    return [draw(seed, n, decimals) for seed in range(40)]
