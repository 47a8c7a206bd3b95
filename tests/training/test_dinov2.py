"""DINOv2 of keras-hub, two narrow blocks of random weights: trained, found again, registered, explained."""

import shutil
from pathlib import Path

import mlflow
import numpy as np
import pytest
from support import narrow_dinov2, needs_hub
from support_laboratory import Laboratory

from mammo_mlflow.engine.activations import network_encoder
from mammo_mlflow.engine.flavor import load_keras_model
from mammo_mlflow.engine.gradcam import class_activation_maps, find_last_convolutions
from mammo_mlflow.models.network import load_weights
from mammo_mlflow.tracking.vetting import vet
from mammo_mlflow.training.final_model import make_final

pytestmark = [pytest.mark.usefixtures("keras"), needs_hub]


@pytest.fixture(scope="module")
def laboratory(tmp_path_factory, phantom, empty_stores):
    """One of its own, since others read random weights of the row as it is."""
    where = shutil.copytree(empty_stores, tmp_path_factory.mktemp("narrow") / "where")
    with pytest.MonkeyPatch.context() as patch:
        narrow_dinov2(patch)
        yield Laboratory(where, phantom, where / "cache")


@pytest.fixture(scope="module")
def plan(laboratory):
    return laboratory.plan(backbone="dinov2_small", unfrozen_layers=1, holdout=0.3, final="fold_average")


@pytest.fixture(scope="module")
def finished(laboratory, plan):
    """The cross-validation with the last block unfrozen, and the directory of its registered model."""
    mlflow.set_tracking_uri(laboratory.client.tracking_uri)
    session = laboratory.session()
    done = laboratory.cross_validate(plan, session)
    final = make_final(session, done)
    yield done, Path(mlflow.artifacts.download_artifacts(f"models:/{final.registered_name}/{final.version}"))
    mlflow.set_tracking_uri(None)


@pytest.fixture(scope="module")
def model(finished):
    _, path = finished
    vet(path)
    return load_keras_model(path)


def test_its_last_block_is_trained_and_its_fit_is_found_again(laboratory, plan, finished):
    import keras

    done, _ = finished
    assert "fold 1" in laboratory.trained(done)
    assert plan.tags()["mammo.weights"] == "random"
    assert plan.name.endswith("[random weights]")
    tail = keras.saving.load_model(done.results["fold 1"].tail, compile=False)
    base = network_encoder(plan.network)
    load_weights(base, plan.weights)
    before, after = (one.get_layer("layers_1").get_weights() for one in (base, tail))
    assert all((one != other).any() for one, other in zip(before, after, strict=True))
    again = laboratory.cross_validate(plan, laboratory.session(resume=True))
    assert laboratory.trained(again) == set()
    np.testing.assert_array_equal(again.oof["probability"], done.oof["probability"])


def test_its_registered_model_says_what_it_needs(finished):
    _, path = finished
    assert "\nkeras-hub==" in (path / "requirements.txt").read_text()
    assert "keras-hub==" in (path / "conda.yaml").read_text()


def test_its_maps_are_of_the_grid_of_tokens(laboratory, model):
    patches = np.asarray(laboratory.patch_set.test.abnormality[:2, ..., None], np.float32)
    (places,) = find_last_convolutions(model, {"patch": patches[:1]})
    assert {path.rpartition("/")[2] for path, _ in places} == {"token_maps"}
    (maps,) = class_activation_maps(model, {"patch": patches}, [places])
    assert maps.shape == (2, 32, 32)
    assert maps.max() > 0
