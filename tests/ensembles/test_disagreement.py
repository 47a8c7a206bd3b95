from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score

from mammo_mlflow.ensembles.disagreement import disagreement


@pytest.mark.parametrize("thresholds", [0.5, [0.3, 0.5, 0.6]])
def test_pairs_one_by_one(made, thresholds):
    data = made()
    found = disagreement(data.labels, data.probabilities, thresholds)
    decided = data.probabilities >= np.broadcast_to(thresholds, 3)
    for a in range(3):
        for b in range(3):
            assert found.different[a, b] == pytest.approx((decided[:, a] != decided[:, b]).mean())
            assert found.kappa[a, b] == pytest.approx(cohen_kappa_score(decided[:, a], decided[:, b]))
            both = (decided[:, a] != data.labels) & (decided[:, b] != data.labels)
            assert found.double_fault[a, b] == pytest.approx(both.mean())
    np.testing.assert_allclose(found.correlation, np.corrcoef(data.probabilities.T))


def test_what_is_undefined_is_nan():
    found = disagreement([0, 1, 1], [[0.9, 0.2], [0.9, 0.8], [0.9, 0.6]])
    assert np.isnan(found.correlation[0]).all()
    assert np.isnan(found.kappa[0, 0])
    assert found.kappa[0, 1] == pytest.approx(0)
    with pytest.raises(ValueError, match="expected \\(n, m\\)"):
        disagreement([0, 1], [0.1, 0.2])
