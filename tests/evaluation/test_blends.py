from __future__ import annotations

import numpy as np
import pytest

from mammo_mlflow.evaluation import blends, weighted
from mammo_mlflow.evaluation.blends import Blends

METRICS = ("roc_auc", "accuracy", "balanced_accuracy", "log_loss", "sensitivity_at_specificity=0.8")


def draw(n, members, decimals, seed=0):
    random = np.random.default_rng(seed)
    labels = random.integers(0, 2, n)
    p = np.round(np.clip(random.normal(0.4 + 0.2 * labels[:, None], 0.25, (n, members)), 0, 1), decimals)
    weights = random.dirichlet(np.ones(members), 40)
    return p, labels, random.permutation(np.arange(n) % 3), np.vstack([weights, np.eye(members)])


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("decimals", [12, 1])  # 1: many ties, and zeros and ones
def test_blends_are_scored_as_one_at_a_time(metric, decimals, monkeypatch):
    p, labels, folds, weights = draw(90, 3, decimals)
    labels[folds == 2] = 1  # a fold of one class
    kept = np.array([[1, 1, 1], [0, 1, 1], [1, 1, 0], [0, 0, 1]], dtype=float)
    found = Blends(metric, p, labels, folds).scores(weights, kept)
    for row, weight in enumerate(weights):
        blend = np.clip(np.round(p @ weight, 12), 0, 1)
        for column, choice in enumerate(kept):
            rows = np.isin(folds, np.flatnonzero(choice))
            one = weighted.statistic(metric, labels[rows], blend[rows], folds[rows])(np.ones((1, rows.sum())))[0]
            assert found[row, column] == pytest.approx(one, abs=1e-9, nan_ok=True)
    monkeypatch.setattr(blends, "BLOCK_CELLS", 500)  # many blocks, in threads
    np.testing.assert_array_equal(Blends(metric, p, labels, folds).scores(weights, kept), found)


def test_blends_that_differ_in_rounding_alone_tie():
    labels = np.array([1, 0])
    p = np.array([[0.2, 0.4], [0.3, 0.3]])
    assert Blends("roc_auc", p, labels, np.zeros(2, int)).scores(np.array([[0.5, 0.5]]))[0, 0] == 0.5


def test_another_metric_is_refused():
    with pytest.raises(ValueError, match=r"^metric: expected one of roc_auc, .*, found 'f1'$"):
        Blends("f1", np.full((2, 1), 0.5), np.array([0, 1]), np.zeros(2, int))
