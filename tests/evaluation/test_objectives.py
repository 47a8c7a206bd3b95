from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest

from mammo_mlflow.errors import UserError
from mammo_mlflow.evaluation.metrics import fold_auc, out_of_fold, scores
from mammo_mlflow.evaluation.objectives import parse_objectives
from mammo_mlflow.evaluation.out_of_fold import OutOfFold


@pytest.fixture
def oof():
    random = np.random.default_rng(0)
    label = random.integers(0, 2, 120)
    p = np.clip(random.normal(0.4 + 0.2 * label, 0.2), 0, 1)
    return pd.DataFrame({"patch": np.arange(120), "fold": np.arange(120) % 4, "label": label, "probability": p})


def test_objectives_by_name(oof):
    pooled = scores(oof["label"], oof["probability"])
    sensitivity = out_of_fold("sensitivity_at_specificity=0.8", oof["label"], oof["probability"], oof["fold"])
    wanted = {
        "roc_auc": ("maximize", fold_auc(oof["label"], oof["probability"], oof["fold"])),
        "accuracy": ("maximize", pooled["accuracy"]),
        "balanced_accuracy": ("maximize", pooled["balanced_accuracy"]),
        "log_loss": ("minimize", pooled["log_loss"]),
        "sensitivity_at_specificity=0.8": ("maximize", sensitivity),
    }
    for name, (direction, value) in wanted.items():
        (objective,) = parse_objectives(name)
        assert (objective.name, objective.direction, objective.value(OutOfFold.of_frame(oof), 5.0)) == (
            name,
            direction,
            value,
        )


def test_a_second_objective_and_spaces():
    first, second = parse_objectives(" sensitivity_at_specificity = .90 , seconds ")
    assert first.name == "sensitivity_at_specificity=0.9"
    assert (second.name, second.direction, second.value(None, 12.5)) == ("seconds", "minimize", 12.5)
    names = [objective.name for objective in parse_objectives("roc_auc,log_loss")]
    assert names == ["roc_auc", "log_loss"]


def test_running_values_of_the_folds_so_far(oof):
    (objective,) = parse_objectives("roc_auc")
    some = oof[oof["fold"] < 2]
    assert objective.value(OutOfFold.of_frame(some), 1.0) == fold_auc(some["label"], some["probability"], some["fold"])
    assert objective.value(OutOfFold.of_frame(some), 1.0) != objective.value(OutOfFold.of_frame(oof), 1.0)
    assert math.isnan(objective.value(OutOfFold.of_frame(some[some["label"] == 1]), 1.0))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("roc_acu", "objective: unknown 'roc_acu', did you mean 'roc_auc'?"),
        ("roc_auc=0.9", "objective: unknown 'roc_auc=0.9'"),
        ("roc_auc,", "objective: unknown ''"),
        ("", "objective: expected one name or two"),
        ("roc_auc,log_loss,seconds", "objective: expected one name or two"),
        ("roc_auc, roc_auc", "objective: expected two different names"),
        ("sensitivity_at_specificity=0.9,sensitivity_at_specificity=.90", "objective: expected two different names"),
        ("seconds", "objective: expected 'seconds' only as the second"),
        ("seconds,roc_auc", "objective: expected 'seconds' only as the second"),
        *(
            (f"sensitivity_at_specificity{end}", "objective: expected 'sensitivity_at_specificity=' and a number in")
            for end in ("", "=", "=1", "=0", "=nan", "=high", "=90")
        ),
    ],
)
def test_what_is_no_objective_is_refused(text, message):
    with pytest.raises(UserError) as raised:
        parse_objectives(text)
    assert str(raised.value).startswith(message)
