"""Scores by lesion, beside those by patch and by patient."""

import pytest
from sklearn.metrics import roc_auc_score
from support import PHANTOM, Store

COMMAND = ("--task", "mass_calc", "--backbone", "m1", *PHANTOM, "--epochs", "2")


@pytest.fixture(scope="module")
def store(tmp_path_factory, pretend):
    where = tmp_path_factory.mktemp("lesions")
    outcome = pretend(where, *COMMAND, name="scratch")
    assert outcome.code == 0, outcome.err
    return Store(where)


def test_lesions_are_scored_out_of_fold_and_on_the_test_set(store):
    (final,), (top,) = store.runs(fit="final"), store.tops()
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
