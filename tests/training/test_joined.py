"""Several frozen backbones joined in one head: their activations, the folds' networks, and the registered model."""

from pathlib import Path

import mlflow
import numpy as np
import pytest

from mammo_mlflow.engine.flavor import load_keras_model
from mammo_mlflow.engine.gradcam import class_activation_maps, find_last_convolutions
from mammo_mlflow.errors import UserError
from mammo_mlflow.jobs.executors import make_executor
from mammo_mlflow.planning.activations import ensure_activations, missing_activations
from mammo_mlflow.planning.planner import Planner
from mammo_mlflow.tracking.vetting import vet
from mammo_mlflow.training.final_model import make_final

pytestmark = pytest.mark.usefixtures("keras")

NAMES = ("vgg16", "mobilenetv3large")
BACKBONE = "+".join(NAMES)


@pytest.fixture(scope="module")
def planner(laboratory):
    """One planner for all, which describes each backbone once."""
    return Planner(laboratory.patch_set, make_executor("inline", 1), laboratory.cache)


@pytest.fixture(scope="module")
def joined(laboratory, planner):
    """The plan of joined backbones, and those of each alone."""
    wanted = laboratory.plan().experiment.changed(final="fold_average", tta="views")
    plan, *alone = planner.plans([wanted.changed(backbone=name) for name in (BACKBONE, *NAMES)])
    return plan, alone


@pytest.fixture(scope="module")
def finished(laboratory, joined):
    """The cross-validation of joined backbones, its final model, and that as it is loaded from the registry."""
    mlflow.set_tracking_uri(laboratory.client.tracking_uri)
    session = laboratory.session()
    done = laboratory.cross_validate(joined[0], session)
    final = make_final(session, done)
    path = mlflow.artifacts.download_artifacts(f"models:/{final.registered_name}/{final.version}")
    vet(Path(path))
    yield done, final, load_keras_model(path)
    mlflow.set_tracking_uri(None)


def test_what_the_backbones_alone_read_is_read_again(laboratory, joined):
    plan, alone = joined
    ensure_activations(laboratory.session(), [entry for one in alone for entry in one.activations()])
    assert missing_activations(laboratory.cache, plan.activations()) == []
    assert [entry.key for entry in plan.activations()] == [entry.key for one in alone for entry in one.activations()]
    assert plan.description.head == (sum(one.description.head[0] for one in alone),)
    assert plan.key not in {one.key for one in alone}
    laboratory.cache.release()


def test_every_patch_is_predicted_by_a_fold_that_has_not_seen_it(laboratory, joined, finished):
    plan, _ = joined
    done, *_ = finished
    assert sorted(done.oof["patch"]) == list(range(48))
    assert done.oof["probability"].std() > 0.01
    assert {"fold 1", "fold 2"} <= laboratory.trained(done)
    assert plan.tags()["mammo.weights"] == "random"
    assert plan.name.endswith("[random weights]")


def test_the_registered_model_is_one_graph_whose_answers_are_the_mean_of_the_folds(laboratory, joined, finished):
    """The mean over the flips, too, which test-time augmentation puts around it; each backbone scales for itself."""
    import keras

    plan, _ = joined
    done, final, model = finished
    assert final.registered_name == f"mammo-mass_calc-pretrained-{'_'.join(NAMES)}"
    assert len(final.test) == 24
    assert [one.name for one in model.inputs] == ["patch"]
    whole = next(layer for layer in model.layers if isinstance(layer, keras.Model))
    for name in NAMES:
        assert "input_scaling" in [layer.name for layer in whole.get_layer(name).layers]
    files = ensure_activations(laboratory.session(), plan.activations())
    stored = {name: np.load(files[one.key])[:8, 0] for name, one in zip(NAMES, plan.activations(), strict=True)}
    tails = [keras.saving.load_model(done.results[fit.name].tail, compile=False) for fit in plan.fits]
    answers = np.array([tail(stored) for tail in tails])
    patches = np.asarray(laboratory.patch_set.train.abnormality[:8, ..., None], np.float32)
    np.testing.assert_allclose(whole(patches), answers.mean(axis=0), atol=1e-5)
    assert answers.std(axis=0).max() > 1e-4
    laboratory.cache.release()


def test_maps_are_of_the_last_convolution_of_each_backbone(laboratory, finished):
    patches = np.asarray(laboratory.patch_set.test.abnormality[:2, ..., None], np.float32)
    *_, model = finished
    (places,) = find_last_convolutions(model, {"patch": patches[:1]})
    assert {path.split("/")[-2] for path, _ in places} == set(NAMES)
    assert len(places) == 2
    (maps,) = class_activation_maps(model, {"patch": patches}, [places])
    assert maps.shape == (2, 32, 32)


def test_weights_of_the_users_own_are_one_file_for_each(joined, planner, tmp_path):
    """The parameters of a run name them by their sha256, from which the same plan is made."""
    plan, _ = joined
    for name, one in zip(NAMES, plan.weights.joined, strict=True):
        (tmp_path / f"{name}-own-notop.h5").symlink_to(one.file)
    (given,) = planner.plans([plan.experiment.changed(weights=str(tmp_path))])
    assert given.weights.label == ", ".join(f"{name}-own-notop.h5" for name in NAMES)
    assert given.tags()["mammo.weights_sha256"] == "+".join(one.sha256 for one in plan.weights.joined)
    (again,) = planner.plans([plan.experiment.changed(weights=given.experiment.model.weights)])
    assert again.key == given.key != plan.key
    with pytest.raises(UserError, match=r"weights: expected a sha256 for each of vgg16, mobilenetv3large, with \+"):
        planner.plans([plan.experiment.changed(weights="sha256:abc")])
