"""The members of an ensemble joined into one network answer as each does alone, over flips where it does that."""

import keras
import numpy as np
import pytest
from support_models import TASK, part

from mammo_mlflow.engine.assembly import build_part
from mammo_mlflow.engine.ensemble import join_members
from mammo_mlflow.engine.gradcam import class_activation_maps
from mammo_mlflow.experiment import build
from mammo_mlflow.models.flips import average_flips

pytestmark = pytest.mark.usefixtures("keras")


def seeded(make):
    keras.utils.set_random_seed(0)  # parts without weights: what is drawn stands for them
    return make()


def test_a_member_that_answers_over_flips_does_so_beside_one_that_does_not(tmp_path):
    member = part(build(TASK, {"backbone": "vgg16", "dense": "8"}), tmp_path)
    patches = np.random.default_rng(0).uniform(0, 65535, (3, 32, 32, 1)).astype(np.float32)
    alone = seeded(lambda: build_part(member))
    joined = seeded(lambda: join_members((member, member, member), (False, True, False)))
    expected = [model.predict(patches, verbose=0)[:, 0] for model in (alone, average_flips(alone), alone)]
    assert np.abs(expected[0] - expected[1]).max() > 1e-4
    np.testing.assert_allclose(joined.predict(patches, verbose=0).T, expected, atol=1e-5)
    assert sum(layer.name.startswith("prefix_") for layer in joined.layers) == 1
    (one,) = class_activation_maps(alone, {"patch": patches})
    maps = class_activation_maps(joined, {"patch": patches})
    assert len(maps) == 3
    np.testing.assert_allclose(maps[0], one, atol=1e-4)
    assert maps[1].shape == one.shape
