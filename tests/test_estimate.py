"""An estimate as it is spelled, logged and read back."""

from __future__ import annotations

import math

from mammo_mlflow.estimate import Estimate, log_estimates

ESTIMATES = {
    "test_accuracy": Estimate(0.8, 0.7, 0.9),
    "test_roc_auc": Estimate(0.9, reason="fewer than 3 patients of a class"),
    "test_brier": Estimate(0.25, reason="all losses are equal"),
}


class Run:
    """Keeps what is logged, as the writer does: what is not a number is left out."""

    def __init__(self):
        self.metrics, self.tags = {}, {}

    def log_metrics(self, metrics):
        self.metrics |= {name: value for name, value in metrics.items() if not math.isnan(value)}

    def set_tags(self, tags):
        self.tags |= tags


def test_an_estimate_formats_itself():
    assert str(Estimate(0.8124, 0.771, 0.85)) == "0.812 [0.771, 0.850]"
    assert f"{Estimate(0.8124, 0.771, 0.85):.1f}" == "0.8 [0.8, 0.8]"
    assert str(Estimate(0.8124)) == "0.812"
    assert str(Estimate()) == "undefined"
    assert str(ESTIMATES["test_brier"]) == "0.250 (no interval: all losses are equal)"
    assert str(Estimate(reason="patches of one class")) == "- (patches of one class)"


def test_estimates_are_logged_and_read():
    run = Run()
    log_estimates(run, ESTIMATES, "patients as clusters")
    assert run.metrics == {
        "test_accuracy": 0.8,
        "test_accuracy_low": 0.7,
        "test_accuracy_high": 0.9,
        "test_roc_auc": 0.9,
        "test_brier": 0.25,
    }
    assert run.tags == {
        "mammo.intervals": "patients as clusters",
        "mammo.no_interval": "test_roc_auc: fewer than 3 patients of a class; test_brier: all losses are equal",
    }
    for name, one in ESTIMATES.items():
        assert str(Estimate.read(name, run.metrics, run.tags)) == str(one)
    assert Estimate.read("test_accuracy", run.metrics, run.tags) == ESTIMATES["test_accuracy"]
    assert str(Estimate.read("test_roc_auc", run.metrics, {})) == "0.900"
    assert str(Estimate.read("test_recall", run.metrics, run.tags)) == "undefined"


def test_estimates_that_all_have_intervals_leave_no_reasons():
    run = Run()
    log_estimates(run, {"lead": Estimate(0.1, 0.0, 0.2)})
    assert not run.tags
