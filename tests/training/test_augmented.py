"""Test-time augmentation: fits stay, their answers are means over views, and the registered model does so itself."""

import mlflow
import numpy as np
import pytest

from mammo_mlflow.engine.flavor import load_keras_model
from mammo_mlflow.errors import UserError
from mammo_mlflow.experiment import build
from mammo_mlflow.jobs.workbench import Workbench
from mammo_mlflow.names import Metric
from mammo_mlflow.planning import stored_fits
from mammo_mlflow.training.final_model import make_final

pytestmark = pytest.mark.usefixtures("keras")


def probabilities(done):
    return done.oof["probability"].to_numpy()


def both(laboratory, tta, **values):
    """A cross-validation without test-time augmentation, and one with it, which finds the fits of the first."""
    plain, plan = laboratory.run(**values), laboratory.plan(tta=tta, **values)
    return plain, laboratory.cross_validate(plan, laboratory.session(resume=True))


@pytest.mark.parametrize("tta", ["views", "flips"])
@pytest.mark.parametrize("unfrozen", [0, 1])
def test_folds_are_found_again_and_answer_otherwise(laboratory, frozen, tuned, tta, unfrozen):
    plain = tuned if unfrozen else frozen
    plan = laboratory.plan(unfrozen_layers=unfrozen, tta=tta)
    done = laboratory.cross_validate(plan, laboratory.session(resume=True))
    assert not laboratory.trained(done)
    assert np.ptp(probabilities(done) - probabilities(plain)) > 1e-4
    assert np.corrcoef(probabilities(done), probabilities(plain))[0, 1] > 0.5
    np.testing.assert_array_equal(done.oof["fold"], plain.oof["fold"])
    assert laboratory.client.get_run(done.run.id).data.metrics[Metric.TTA_SECONDS] > 0


def test_heads_have_answered_in_all_views_before_anybody_asks(laboratory, frozen, monkeypatch):
    """So that nothing is computed then; fits of an earlier version, which have not, come to the same answers."""
    plan, bench = laboratory.plan(tta="views"), laboratory.session(resume=True)
    with monkeypatch.context() as patch:
        patch.setattr(Workbench, "run_one", None)
        known = laboratory.cross_validate(plan, bench)
    monkeypatch.setattr(stored_fits, "OVER_VIEWS", "no column")
    later = laboratory.cross_validate(plan, laboratory.session(resume=True))
    np.testing.assert_allclose(probabilities(later), probabilities(known), atol=1e-6)
    assert np.ptp(probabilities(known) - probabilities(frozen)) > 1e-4
    seconds = laboratory.client.get_run(known.run.id).data.metrics[Metric.TTA_SECONDS]
    assert seconds > 1e-3  # what it took in the fits, not what it took to find it


def test_without_augmentation_all_views_are_the_patch(laboratory):
    """So that their mean is the plain answer, and nothing else has changed."""
    plain, averaged = both(laboratory, "views", augmentation="none")
    np.testing.assert_allclose(probabilities(averaged), probabilities(plain), atol=1e-6)
    assert probabilities(plain).std() > 1e-3


@pytest.mark.parametrize("family", ["scratch", "siamese"])
def test_patches_themselves_are_flipped_where_none_are_cached(laboratory, family):
    values = {"backbone": "m1"} if family == "scratch" else {"backbone": "scratch"}
    values |= {"blocks": "4/3-4", "epochs": 1, "pooling": "average", "holdout": 0.3}
    plain, averaged = both(laboratory, "flips", family=family, **values)
    assert 0 < np.abs(probabilities(averaged) - probabilities(plain)).max() < 0.5


def test_the_registered_model_averages_over_flips(laboratory):
    mlflow.set_tracking_uri(laboratory.client.tracking_uri)
    session = laboratory.session()
    final = make_final(session, laboratory.cross_validate(laboratory.plan(final="refit", tta="views"), session))
    path = mlflow.artifacts.download_artifacts(f"models:/{final.registered_name}/{final.version}")
    mlflow.set_tracking_uri(None)
    model = load_keras_model(path)
    patches = np.asarray(laboratory.patch_set.test.abnormality[..., None])
    found = model.predict(patches, verbose=0)
    np.testing.assert_allclose(found[:, 0], final.test["probability"], atol=1e-5)
    np.testing.assert_allclose(model.predict(np.rot90(patches, axes=(1, 2)), verbose=0), found, atol=1e-5)


@pytest.mark.parametrize(
    ("family", "values", "words"),
    [
        ("pretrained", {"tta": "views", "views": 0}, "tta: expected flips or none where no views are cached"),
        ("scratch", {"backbone": "m1", "tta": "views"}, "tta: expected flips or none where no views are cached"),
        ("conditioned", {"backbone": "a", "tta": "flips"}, "tta: expected views or none for conditioned models"),
        ("pretrained", {"tta": "view"}, "tta: unknown 'view'"),
    ],
)
def test_what_cannot_be_averaged_is_refused(family, values, words):
    with pytest.raises(UserError, match=words):
        build("benign_malignant", values, family)
