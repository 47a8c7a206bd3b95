"""Answer sets of a cross-validation and of its registered model, the fits being scripted."""

import json

import numpy as np
import pandas as pd
import pytest
from mlflow.models import Model, ModelSignature
from mlflow.pyfunc import PyFuncModel
from mlflow.types import Schema, TensorSpec
from support import PHANTOM, Store

from mammo_mlflow.answer_sets import REFER, read_limits
from mammo_mlflow.evaluation.conformal import answer_limits, cross_fitted_sets
from mammo_mlflow.evaluation.out_of_fold import OutOfFold
from mammo_mlflow.names import METADATA
from mammo_mlflow.tracking.serving import answer_request

COMMAND = ("--task", "mass_calc", "--backbone", "m1", *PHANTOM, "--epochs", "2")


@pytest.fixture(scope="module")
def store(tmp_path_factory, pretend):
    where = tmp_path_factory.mktemp("sets")
    for more in ([], ["--coverage", "0.8"]):
        outcome = pretend(where, *COMMAND, *more, name="scratch")
        assert outcome.code == 0, outcome.err
    return Store(where)


def test_each_fold_is_answered_by_limits_of_the_others(store):
    plain, covered = store.tops()[:2]
    data = OutOfFold.of_frame(store.frame(covered, "oof.parquet"))
    sets, metrics = cross_fitted_sets(data, 0.8), covered.data.metrics
    for value in (0, 1):
        mine = sets[data.labels == value]
        assert metrics[f"oof_coverage_{value}"] == pytest.approx(np.mean((mine == value) | (mine == REFER)))
        assert metrics[f"oof_coverage_{value}_low"] < metrics[f"oof_coverage_{value}_high"]
    assert metrics["oof_referred"] == pytest.approx(np.mean(sets == REFER))
    assert "oof_referred" not in plain.data.metrics
    assert any("mammo.reused_from" in run.data.tags for run in store.children(covered))


def test_the_registered_model_has_limits_of_all_folds(store):
    final = store.runs(fit="final")[-1]
    (version,) = (one for one in store.client.search_model_versions() if one.run_id == final.info.run_id)
    data = OutOfFold.of_frame(store.frame(store.tops()[1], "oof.parquet"))
    limits = read_limits(version.tags)
    assert limits == answer_limits(data.labels, data.probabilities, data.groups, 0.8)
    test = store.frame(final, "test.parquet")
    assert test["set"].tolist() == limits(test["probability"]).tolist()
    assert final.data.metrics["test_referred"] == pytest.approx((test["set"] == REFER).mean())


def test_predict_writes_them(store, pretend):
    final = store.runs(fit="final")[-1]
    name, number = final.data.tags["mammo.registered_name"], final.data.tags["mammo.version"]
    target = store.where / "answers.csv"
    phantom = next(path for path in pretend.cache.glob("phantom-*") if path.is_dir())
    asked = (
        "--model",
        f"models:/{name}/{number}",
        "--input",
        str(phantom),
        "--output",
        str(target),
    )
    outcome = pretend(store.where, *asked, name="predict")
    assert outcome.code == 0, outcome.err
    table = pd.read_csv(target)
    limits = read_limits(final.data.tags)
    assert table["set"].tolist() == limits.in_words(table["probability"], ("mass", "calcification"))


def test_a_served_model_answers_with_them():
    class Half:
        def predict(self, patches):
            return np.array([[0.1], [0.5], [0.9]], np.float32)

    schema = Schema([TensorSpec(np.dtype(np.uint16), (-1, 2, 2, 1))])
    sets = json.dumps({"low": 0.3, "high": 0.7, "coverage": 0.9})
    metadata = {METADATA: {"mammo.answer_sets": sets, "classes": ["benign", "malignant"]}}
    for told, expected in ((metadata, {"set": ["benign", "refer", "malignant"], "coverage": 0.9}), ({}, {})):
        model = PyFuncModel(Model(metadata=told, signature=ModelSignature(schema)), Half())
        body = json.dumps({"inputs": (1000 * np.arange(1, 13)).reshape(3, 2, 2, 1).tolist()}).encode()
        answer = json.loads(answer_request(body, "application/json", model, schema).response)
        assert answer.pop("predictions") == [pytest.approx([one]) for one in (0.1, 0.5, 0.9)]
        assert answer == expected


def test_a_served_ensemble_answers_with_them_beside_its_table():
    class Joined:
        def predict(self, patches):
            p = np.array([0.1, 0.5, 0.9])
            return pd.DataFrame({"probability": p, "decision": [0, 1, 1], "one": 1 - p, "other": p})

    schema = Schema([TensorSpec(np.dtype(np.uint16), (-1, 2, 2, 1))])
    sets = json.dumps({"low": 0.3, "high": 0.7, "coverage": 0.9})
    metadata = {METADATA: {"mammo.answer_sets": sets, "classes": ["benign", "malignant"]}}
    model = PyFuncModel(Model(metadata=metadata, signature=ModelSignature(schema)), Joined())
    body = json.dumps({"inputs": (1000 * np.arange(1, 13)).reshape(3, 2, 2, 1).tolist()}).encode()
    answer = json.loads(answer_request(body, "application/json", model, schema).response)
    assert answer["set"] == ["benign", "refer", "malignant"]
    assert [row["decision"] for row in answer["predictions"]] == [0, 1, 1]


def test_a_hold_out_has_no_other_fold(pretend, tmp_path):
    outcome = pretend(tmp_path, *COMMAND, "--coverage", "0.9", "--holdout", "0.3", name="scratch")
    assert outcome.code == 2
    assert "coverage: expected 0 with a hold-out" in outcome.err
