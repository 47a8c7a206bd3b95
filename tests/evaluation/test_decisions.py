import math

import numpy as np
import pytest
from scipy.stats import binomtest

from mammo_mlflow.evaluation.decisions import holm, mcnemar
from mammo_mlflow.evaluation.figures.overview import net_benefit


def table(both, first, second, neither):
    """Decisions with these counts: right by both, by one alone, by none."""
    a = [True] * (both + first) + [False] * (second + neither)
    b = [True] * both + [False] * first + [True] * second + [False] * neither
    return np.array(a), np.array(b)


def test_a_published_example():
    """Agresti 2002, Categorical Data Analysis, 10.1.1: 794, 150, 86, 570; McNemar's z² is 17.36."""
    a, b = table(794, 150, 86, 570)
    found = mcnemar(a, b, np.arange(len(a)))
    assert (found.first_only, found.second_only) == (150, 86)
    z = math.sqrt(17.36)
    assert found.p == pytest.approx(math.erfc(z / math.sqrt(2)), rel=2e-2)
    assert mcnemar(a, b).p == pytest.approx(binomtest(86, 236).pvalue, rel=1e-12)


def test_patients_whose_patches_agree_count_once():
    a, b = table(10, 12, 3, 10)
    twice = mcnemar(np.repeat(a, 2), np.repeat(b, 2), np.repeat(np.arange(len(a)), 2))
    assert twice.p == pytest.approx(mcnemar(a, b, np.arange(len(a))).p)
    assert mcnemar(np.repeat(a, 2), np.repeat(b, 2), np.arange(2 * len(a))).p < twice.p


def test_equal_decisions_and_patients_that_cancel():
    a = np.array([True, False, True, False])
    assert mcnemar(a, a).p == 1
    assert mcnemar(a, ~a, [0, 0, 1, 1]).p == 1


def test_it_rejects_as_often_as_promised(simulation):
    rng = np.random.default_rng(0)
    patients = np.repeat(np.arange(150), 2)
    rejected = 0
    for _ in simulation(400):
        shared = rng.normal(size=150)[patients]  # patches of a patient are alike
        a, b = (shared + 0.4 * rng.normal(size=300) > -0.5 for _ in range(2))
        rejected += mcnemar(a, b, patients).p < 0.05
    assert 8 <= rejected <= 34


def test_lengths_have_to_fit():
    with pytest.raises(ValueError, match="expected two of one length"):
        mcnemar([True], [True, False])
    with pytest.raises(ValueError, match="groups"):
        mcnemar([True, False], [False, False], [1])


def test_holms_steps():
    np.testing.assert_allclose(holm([0.01, 0.04, 0.03, 0.005]), [0.03, 0.06, 0.06, 0.02])
    np.testing.assert_allclose(holm([0.5, math.nan, 0.9]), [1.0, math.nan, 1.0])
    assert holm([]).size == 0


def test_net_benefit_by_hand():
    labels, probabilities = [1, 1, 0, 0, 0], [0.9, 0.4, 0.6, 0.2, 0.1]
    # at 0.5: one true, one false positive of five; at 0.25: two true, one false
    np.testing.assert_allclose(net_benefit(labels, probabilities, [0.5, 0.25]), [0.2 - 0.2, 0.4 - 0.2 / 3])
