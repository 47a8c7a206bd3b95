import numpy as np
import pytest

from mammo_mlflow.engine.train import class_weights

pytestmark = pytest.mark.usefixtures("keras")


def test_balanced_gives_each_class_the_others_share():
    found = class_weights("balanced", np.array([1, 1, 1, 0]))
    assert found == {0: 0.75, 1: 0.25}
    assert found[0] * 1 == pytest.approx(found[1] * 3)


def test_a_ratio_is_taken_as_it_is():
    assert class_weights("1:1.3", np.array([0, 1])) == {0: 1.0, 1: 1.3}
    assert class_weights("none", np.array([0, 1])) is None
