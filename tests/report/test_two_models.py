"""Two models on the same patches: what is compared, what differs, and where they disagree."""

import numpy as np
import pandas as pd
import pytest

from mammo_mlflow.errors import UserError
from mammo_mlflow.evaluation.metrics import scores
from mammo_mlflow.report.two_models import MOST_PATCHES, ComparedModel, compare

N = 120
LABELS = np.arange(N) % 2
DATA = ("a" * 64, "mass_calc")


def predictions(seed, **columns):
    p = np.clip(0.4 + 0.2 * LABELS + np.random.default_rng(seed).normal(0, 0.2, N), 0.01, 0.99)
    frame = {"patch": np.arange(N), "label": LABELS, "probability": p, "patient_id": np.arange(N) // 2}
    return pd.DataFrame(frame | columns)


def model(label, seed, **values):
    oof = predictions(seed, fold=np.arange(N) // 2 % 3)
    given = {"oof": oof, "test": predictions(seed + 1), "trained_on": DATA, "tested_on": DATA}
    return ComparedModel(label=label, **given | values)


def test_the_difference_is_the_first_less_the_second_whatever_the_order_of_rows():
    first, second = model("a", 0), model("b", 10)
    shuffled = model("b", 10, test=second.test.sample(frac=1, random_state=0))
    aucs = [scores(one.test["label"], one.test["probability"])["roc_auc"] for one in (first, second)]
    for other in (second, shuffled):
        found = compare(first, other, "roc_auc")
        assert list(found.verdicts) == ["out-of-fold", "test"]
        (verdict, patches) = found.verdicts["test"]
        assert patches == N
        assert verdict.lead.value == pytest.approx(aucs[0] - aucs[1])
        assert verdict.lead.low < verdict.lead.value < verdict.lead.high


def test_a_model_chosen_among_many_has_a_wider_interval():
    one, many = (compare(model("a", 0, chosen_among=n), model("b", 10), "accuracy") for n in (1, 200))
    width, wider = (found.verdicts["out-of-fold"][0].lead for found in (one, many))
    assert wider.high - wider.low > width.high - width.low


def test_only_what_is_of_the_same_patches_is_compared():
    first = model("a", 0)
    untested = compare(first, model("b", 10, test=None), "roc_auc")
    assert list(untested.verdicts) == ["out-of-fold"] and untested.predictions == "out-of-fold"
    elsewhere = compare(first, model("b", 10, trained_on=("b" * 64, "mass_calc")), "roc_auc")
    assert list(elsewhere.verdicts) == ["test"]
    other = {"trained_on": ("b" * 64, "mass_calc"), "tested_on": ("b" * 64, "mass_calc")}
    with pytest.raises(UserError, match=r"^compare: expected models of the same patches and folds, found a, and b"):
        compare(first, model("b", 10, **other), "roc_auc")


def test_settings_that_only_one_has_differ():
    first = model("a", 0, settings={"dense": "16", "epochs": "2", "seed": "0"})
    second = model("b", 10, settings={"epochs": "2", "seed": "1", "method": "greedy"})
    assert compare(first, second, "roc_auc").settings == [
        ("dense", "16", ""),
        ("seed", "0", "1"),
        ("method", "", "greedy"),
    ]


def test_patches_are_decided_at_each_models_own_threshold():
    first, second = model("a", 0, decided_at=0.3), model("b", 10, decided_at=0.6)
    found = compare(first, second, "roc_auc")
    p, q = (one.test["probability"].to_numpy() for one in (first, second))
    assert found.decided_otherwise == int(((p >= 0.3) != (q >= 0.6)).sum()) > 0
    table = found.disagreements
    assert len(table) == MOST_PATCHES
    gaps = (table["first"] - table["second"]).abs()
    assert gaps.is_monotonic_decreasing and gaps.iloc[0] == np.abs(p - q).max()
    for row in table.itertuples():
        right = {"first": (p[row.patch] >= 0.3) == row.label, "second": (q[row.patch] >= 0.6) == row.label}
        said = {"both": {"first", "second"}, "neither": set()}.get(row.right, {row.right})
        assert said == {name for name, yes in right.items() if yes}
