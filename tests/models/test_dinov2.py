"""DINOv2 of keras-hub, of two narrow blocks: its weights, its input and what a model of it needs."""

import keras
import numpy as np
import pytest
from support import narrow_dinov2, needs_hub

from mammo_mlflow.engine.flavor import requirements
from mammo_mlflow.errors import UserError
from mammo_mlflow.models.network import build_base, calibrate_random, load_weights, save_weights
from mammo_mlflow.models.weights import NetworkWeights, find_weights
from mammo_mlflow.testing.backbones import run, smooth_patches

pytestmark = [pytest.mark.usefixtures("keras"), needs_hub]

NAME = "dinov2_small"


@pytest.fixture(autouse=True)
def row(monkeypatch):
    return narrow_dinov2(monkeypatch)


def hub_model(row, side):
    """keras-hub's own, with weights of Keras's random numbers, and positions as large as those of a trained one."""
    import keras_hub

    keras.utils.set_random_seed(1)
    return keras_hub.models.DINOV2Backbone(patch_size=14, image_shape=(side, side, 3), **row.hub)


def test_a_file_of_keras_hub_gives_the_features_that_keras_hub_gives(row, tmp_path):
    """The mean of the patch tokens, of pixels less ImageNet's mean and by its deviation, seen enlarged to 224."""
    whole, patches = hub_model(row, 518), smooth_patches(150)[:2]
    positions = whole.embeddings.interpolated_position_embeddings
    positions.assign(50 * positions)  # they decide as much as the pixels do
    whole.save_weights(tmp_path / row.keras_file)
    found = find_weights(NAME, str(tmp_path), phantom=False)
    assert found.label == row.keras_file
    ours = build_base(NAME, 150, "average", "float32")
    load_weights(ours, found)
    theirs = hub_model(row, 224)
    theirs.load_weights(found.file)
    rgb = np.repeat(patches.astype(np.float32) / 65535, 3, axis=-1)
    rgb = (rgb - np.float32([0.485, 0.456, 0.406])) / np.float32([0.229, 0.224, 0.225])
    seen = keras.ops.image.resize(rgb, (224, 224), interpolation="bilinear")
    tokens = keras.ops.convert_to_numpy(theirs({"images": seen}))
    np.testing.assert_allclose(run(ours, patches), tokens[:, 1:].mean(axis=1), rtol=1e-4, atol=1e-5)


def test_a_file_of_another_size_or_network_is_refused(row, tmp_path):
    hub_model(row, 42).save_weights(tmp_path / row.keras_file)
    with pytest.raises(UserError, match=rf"expected the {row.parameters:,} parameters of DINOv2 ViT-S/14"):
        find_weights(NAME, str(tmp_path), phantom=False)


def test_random_weights_do_not_depend_on_keras_and_fit_patches_of_any_size(tmp_path):
    patches = smooth_patches(32)
    drawn = []
    for seed in (1, 2):
        keras.utils.set_random_seed(seed)
        drawn.append(build_base(NAME, 32, "average", "float32"))
        calibrate_random(drawn[-1], patches.astype(np.float32))
    for one, other in zip(*(base.get_weights() for base in drawn), strict=True):
        np.testing.assert_array_equal(one, other)
    save_weights(drawn[0], path := tmp_path / "some.weights.h5")
    larger = build_base(NAME, 64, "average", "float32")
    load_weights(larger, NetworkWeights(kind="file", label="", identity="", source="", path=path))
    for one, other, weight in zip(drawn[0].get_weights(), larger.get_weights(), larger.weights, strict=True):
        if weight.name != "interpolated_position_embeddings":
            np.testing.assert_array_equal(one, other, err_msg=weight.path)


def test_a_model_of_it_needs_keras_hub_and_others_do_not():
    assert [one for one in requirements(build_base(NAME, 32, "max", "float32")) if one.startswith("keras-hub==")]
    assert not [one for one in requirements(build_base("vgg16", 32, "max", "float32")) if "hub" in one]
