import json
from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
import pytest

pytestmark = pytest.mark.usefixtures("keras")


def probabilities(done):
    return done.oof["probability"].to_numpy()


@pytest.fixture(scope="module")
def many(laboratory):
    return laboratory.plan(epochs=3, seed=11, final="refit")


@pytest.fixture(scope="module")
def inline(laboratory, many):
    return laboratory.cross_validate(many)


def test_where_folds_run_does_not_matter(laboratory, many, inline):
    done = laboratory.cross_validate(many, laboratory.session("process", 2))
    np.testing.assert_array_equal(done.oof["fold"], inline.oof["fold"])
    np.testing.assert_allclose(probabilities(done), probabilities(inline), atol=1e-6)
    assert probabilities(inline).std() > 1e-3
    left, right = ([row["loss"] for row in one.results["refit"].history] for one in (done, inline))
    assert left == pytest.approx(right, abs=1e-6)


def test_another_seed_gives_others(laboratory, frozen):
    other = laboratory.run(seed=1)
    assert not np.array_equal(other.oof["fold"], frozen.oof["fold"])
    assert not np.allclose(probabilities(other), probabilities(frozen), atol=1e-3)


@pytest.mark.parametrize("unfrozen", [0, 1])
def test_cached_training_is_on_line_training(laboratory, unfrozen):
    """Without augmentation both see the same inputs in the same order: only rounding is left."""
    values = {"augmentation": "none", "unfrozen_layers": unfrozen, "tuning_learning_rate": 1e-4}
    values |= {"holdout": 0.3}
    cached, on_line = (laboratory.run(views=views, **values) for views in (1, 0))
    np.testing.assert_allclose(probabilities(cached), probabilities(on_line), atol=2e-3)
    assert probabilities(cached).std() > 0.01
    for result in on_line.results.values():
        losses = [row["loss"] for row in result.history]
        assert losses[0] - losses[-1] > 0.01  # training moved it further than that


def test_fine_tuning_starts_from_the_folds_own_head(laboratory, frozen):
    """With a rate of next to nothing, each fold is left where its own head was."""
    still = laboratory.run(unfrozen_layers=1, tuning_learning_rate=1e-12)
    np.testing.assert_allclose(probabilities(still), probabilities(frozen), atol=1e-4)
    for name, result in still.results.items():
        stages = [row["stage"] for row in result.history]
        assert stages == ["head", "head", "tuned", "tuned"]
        assert [row["epoch"] for row in result.history] == [1, 2, 3, 4]
        for row, same in zip(result.history[:2], frozen.results[name].history, strict=True):
            assert row["loss"] == pytest.approx(same["loss"], abs=1e-5)
        heads = [keras.saving.load_model(one.results[name].tail, compile=False) for one in (still, frozen)]
        tuned_head = heads[0].get_layer("head") if len(heads[0].layers) > 4 else heads[0]
        for left, right in zip(tuned_head.get_weights(), heads[1].get_weights(), strict=True):
            np.testing.assert_allclose(left, right, atol=1e-5)


def test_fine_tuning_moves_the_convolution(tuned, frozen):
    assert not np.allclose(probabilities(tuned), probabilities(frozen), atol=1e-5)
    kernels = [
        keras.saving.load_model(result.tail, compile=False).get_layer("block5_conv3").get_weights()[0]
        for result in tuned.results.values()
    ]
    assert all(not np.array_equal(kernels[0], other) for other in kernels[1:])


def test_early_stopping_never_sees_the_scored_fold(laboratory):
    """Turning the labels of one fold round changes that fold's scores, and nothing about its training."""
    plan = laboratory.plan(seed=24, epochs=6, early_stop=1)
    fit = plan.fits[0]
    assert len(fit.job.inner_rows)
    straight = laboratory.cross_validate(plan)
    labels = plan.labels.copy()
    labels[fit.validation_rows] = 1 - labels[fit.validation_rows]
    fits = tuple(replace(fit, job=replace(fit.job, labels=labels)) for fit in plan.fits)
    turned = laboratory.cross_validate(replace(plan, labels=labels, fits=fits))
    left, right = (done.results["fold 1"] for done in (straight, turned))
    np.testing.assert_allclose(left.probabilities, right.probabilities, atol=1e-6)
    assert left.best_epochs == right.best_epochs
    other = straight.results["fold 2"].probabilities, turned.results["fold 2"].probabilities
    assert not np.allclose(*other, atol=1e-4)


def test_a_folds_files_say_what_happened(laboratory, frozen):
    run = laboratory.fit_runs(frozen)["fold 1"]
    facts = json.loads(Path(laboratory.client.download_artifacts(run.info.run_id, "fit/fit.json")).read_text())
    assert facts["history"] == frozen.results["fold 1"].history
    assert facts["best_epochs"] == {"head": 2}
