"""Scores by lesion, beside those by patch and by patient."""

import shutil

import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score
from support import PHANTOM, Store

from mammo_mlflow.evaluation.thresholds import choose_threshold

COMMAND = ("--task", "mass_calc", "--backbone", "m1", *PHANTOM, "--epochs", "2")


@pytest.fixture(scope="module")
def store(tmp_path_factory, pretend):
    where = tmp_path_factory.mktemp("lesions")
    outcome = pretend(where, *COMMAND, name="scratch")
    assert outcome.code == 0, outcome.err
    outcome = pretend(where, *COMMAND, "--unit", "lesion", "--threshold", "youden", name="scratch")
    assert outcome.code == 0, outcome.err
    return Store(where)


def test_lesions_are_scored_out_of_fold_and_on_the_test_set(store):
    (final, _), (top, _) = store.runs(fit="final"), store.tops()
    test, metrics = store.frame(final, "test.parquet"), final.data.metrics
    means = test.groupby("lesion")[["label", "probability"]].mean()
    assert metrics["test_lesions"] == len(means) < len(test)
    assert metrics["test_by_lesion_roc_auc"] == pytest.approx(roc_auc_score(means["label"], means["probability"]))
    assert metrics["test_by_lesion_accuracy_low"] <= metrics["test_by_lesion_accuracy"]
    assert "test_by_lesion_at_threshold_sensitivity" in metrics

    oof, metrics = store.frame(top, "oof.parquet"), top.data.metrics
    means = oof.groupby("lesion")[["label", "probability", "fold"]].mean()
    assert (oof.groupby("lesion")["fold"].nunique() == 1).all()
    assert metrics["oof_by_lesion_brier"] == pytest.approx(((means["label"] - means["probability"]) ** 2).mean())
    assert metrics["oof_by_lesion_brier_low"] < metrics["oof_by_lesion_brier"] < metrics["oof_by_lesion_brier_high"]
    assert "oof_by_lesion_roc_auc" in metrics


def test_a_threshold_is_chosen_on_lesions(store):
    (_, final), (_, top) = store.runs(fit="final"), store.tops()
    lesions = store.frame(top, "oof.parquet").groupby("lesion")[["label", "probability"]].mean()
    record = store.json(final, "threshold.json")
    assert record["lesions"] == len(lesions)
    assert record["threshold"] == choose_threshold("youden", lesions["label"].astype(int), lesions["probability"])
    assert final.data.metrics["threshold"] == record["threshold"]


def test_lesions_that_are_not_known_are_said_and_asked_for_in_vain(pretend, phantom, tmp_path):
    data = shutil.copytree(phantom, tmp_path / "data")
    for path in data.glob("*_groups.csv"):
        pd.read_csv(path).drop(columns="side").to_csv(path, index=False)
    outcome = pretend(tmp_path, *COMMAND, "--data", str(data), "--unit", "lesion", name="scratch")
    assert outcome.code == 2
    assert "unit: expected patch where train_groups.csv lacks patient_id or side or abnormality_id" in outcome.err
    assert outcome.err.count("no scores by lesion") == 1
