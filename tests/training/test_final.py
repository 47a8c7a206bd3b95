import mlflow
import numpy as np
import pytest

from mammo_mlflow.engine.assembly import assemble_model, predict
from mammo_mlflow.engine.flavor import load_keras_model
from mammo_mlflow.jobs.contracts import AssembleJob, Part, PredictJob
from mammo_mlflow.training.final_model import make_final

pytestmark = pytest.mark.usefixtures("keras")


@pytest.fixture(scope="module")
def average(laboratory):
    """The mean of the fold models, fine-tuned, as a final model."""
    mlflow.set_tracking_uri(laboratory.client.tracking_uri)
    session = laboratory.session()
    plan = laboratory.plan(final="fold_average", unfrozen_layers=1, threshold="sensitivity=0.9")
    yield make_final(session, laboratory.cross_validate(plan, session)), session, plan
    mlflow.set_tracking_uri(None)


def test_the_average_of_the_folds_is_one_model(laboratory, average):
    final, _, _ = average
    path = mlflow.artifacts.download_artifacts(f"models:/{final.registered_name}/{final.version}")
    model = load_keras_model(path)
    patches = laboratory.patch_set.test.abnormality[..., None]
    found = model.predict(np.asarray(patches), verbose=0)[:, 0]
    np.testing.assert_allclose(found, final.test["probability"], atol=1e-5)
    assert final.registered_name == "mammo-mass_calc-pretrained-vgg16-tuned"
    assert not model.trainable_variables


def test_the_average_is_the_mean_of_its_tails(laboratory, average):
    """On a training patch, one of its tails is that of the fold that did not see it."""
    final, session, plan = average
    done = laboratory.cross_validate(plan, laboratory.session(resume=True))
    singles = []
    for number, fit in enumerate(plan.fits):
        target = session.scratch / f"single-{number}"
        part = Part(plan.network, plan.weights, plan.description.tuned.index, (done.results[fit.name].tail,))
        job = AssembleJob(
            name="assembling",
            part=part,
            examples={"patch": np.zeros((1, 32, 32, 1), np.uint16)},
            metadata={},
            output=target,
        )
        assemble_model(job, lambda event: None)
        job = PredictJob(
            name="test",
            model=target,
            tensor=laboratory.patch_set.directory / "public_test_tensor.npy",
            threads=1,
            sides=plan.sides,
        )
        singles.append(predict(job, lambda event: None))
    np.testing.assert_allclose(np.mean(singles, axis=0), final.test["probability"], atol=1e-5)
    assert np.std(singles, axis=0).max() > 1e-4


def test_the_averages_threshold_is_its_own(laboratory, average):
    final, _, _ = average
    run = laboratory.client.get_run(final.run_id)
    assert run.data.metrics["threshold"] == final.threshold
    version = laboratory.client.get_model_version(final.registered_name, str(final.version))
    assert float(version.tags["mammo.threshold"]) == final.threshold
    assert version.tags["mammo.set"] == "tuned"


def test_a_wanted_sensitivity_is_reached_out_of_fold(laboratory, average):
    final, _, plan = average
    oof = laboratory.cross_validate(plan, laboratory.session(resume=True)).oof
    positive = oof.loc[oof["label"] == 1, "probability"]
    assert (positive >= final.threshold).mean() >= 0.9
