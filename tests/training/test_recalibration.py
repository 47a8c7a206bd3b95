"""Recalibration of a cross-validation's predictions and of its final model, the fits being scripted."""

import pytest
from support import PHANTOM, Store

from mammo_mlflow.evaluation.calibration import calibration_error
from mammo_mlflow.evaluation.out_of_fold import OutOfFold
from mammo_mlflow.evaluation.recalibration import PlattMap, fit_platt

COMMAND = ("--task", "mass_calc", "--backbone", "m1", *PHANTOM, "--epochs", "2")


@pytest.fixture(scope="module")
def store(tmp_path_factory, pretend):
    where = tmp_path_factory.mktemp("recalibration")
    for more in ([], ["--calibrate", "platt", "--threshold", "youden"]):
        outcome = pretend(where, *COMMAND, *more, name="scratch")
        assert outcome.code == 0, outcome.err
    return Store(where)


def test_no_fold_is_trained_again_and_none_is_judged_by_a_map_of_its_own(store):
    plain, calibrated = store.tops()
    before, after = (store.frame(run, "oof.parquet") for run in (plain, calibrated))
    assert before["probability"].equals(after["probability"])
    assert all(
        "mammo.reused_from" in run.data.tags
        for run in store.children(calibrated)
        if "mammo.fit" in run.data.tags and run.data.tags["mammo.fit"] != "final"
    )
    for fold, mine in after.groupby("fold"):
        rest = after[after["fold"] != fold]
        found = fit_platt(rest["label"].to_numpy(), rest["probability"].to_numpy())
        assert mine["calibrated"].to_numpy() == pytest.approx(found(mine["probability"].to_numpy()))


def test_calibration_is_measured_before_and_after(store):
    plain, calibrated = (run.data.metrics for run in store.tops())
    assert calibrated["oof_uncalibrated_brier"] == plain["oof_brier"]
    oof = store.frame(store.tops()[1], "oof.parquet")
    assert calibrated["oof_brier"] == pytest.approx(((oof["label"] - oof["calibrated"]) ** 2).mean())
    squares = [
        len(one) * calibration_error(one["label"], one["calibrated"]) ** 2 / len(oof) for _, one in oof.groupby("fold")
    ]
    # a fold whose square is below what chance adds takes from the others
    assert calibrated["oof_calibration_error"] <= sum(squares) ** 0.5 + 1e-9
    for name in ("oof_uncalibrated_calibration_slope", "oof_calibration_slope", "oof_calibration_intercept"):
        assert calibrated[f"{name}_low"] < calibrated[name] < calibrated[f"{name}_high"]
    assert "oof_calibration_slope" not in plain


def test_the_registered_model_says_what_its_map_comes_from(store):
    _, final = store.runs(fit="final")
    record = store.json(final, "recalibration.json")
    oof = OutOfFold.of_frame(store.frame(store.tops()[1], "oof.parquet").drop(columns="calibrated"))
    assert PlattMap(record["slope"], record["intercept"]) == fit_platt(oof.labels, oof.probabilities)
    (version,) = (one for one in store.client.search_model_versions() if one.run_id == final.info.run_id)
    assert version.tags["mammo.recalibrated"] == final.data.tags["mammo.recalibrated"] == record["said"]
    assert record["said"].endswith("this model, refit on all patches, may be calibrated otherwise")
    assert "test_calibration_slope" in final.data.metrics


def test_a_hold_out_has_no_other_fold_to_fit_a_map_on(pretend, tmp_path):
    outcome = pretend(tmp_path, *COMMAND, "--calibrate", "isotonic", "--holdout", "0.3", name="scratch")
    assert outcome.code == 2
    assert "calibrate: expected none with a hold-out" in outcome.err
