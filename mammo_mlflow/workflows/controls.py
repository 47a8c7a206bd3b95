"""`controls`: what a network is to be compared with, so that one sees what it adds.

The same task from the healthy baseline patches alone, from shuffled labels, and from simple texture features with
logistic regression.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from mammo_mlflow.errors import unknown_name
from mammo_mlflow.evaluation.intervals import bootstrap_difference, fold_auc_estimate
from mammo_mlflow.experiment import NETWORKS, TASKS, build, that_move
from mammo_mlflow.presets import preset_values
from mammo_mlflow.tracking.runs import TrackedRun
from mammo_mlflow.training.cross_validation import CrossValidation
from mammo_mlflow.workflows.comparison import Outcome
from mammo_mlflow.workflows.families import settled
from mammo_mlflow.workflows.options import Options, preset_of
from mammo_mlflow.workflows.running import run_experiments

CONTROLS = ("baseline", "shuffled", "texture")
NETWORK = {"pretrained": "vgg16", "scratch": "m1_balanced", "siamese": "vgg16"}
"""The families that have controls, and the network of each that is compared with them by default."""
DEFAULT = "default"
SHARED = set(that_move("judging", "final", "place")) - set(that_move("activations", "training"))
"""What the texture features take over from the network: how they are judged, and where they are computed."""


def run(family: str, task: str, backbone: str, control: str, given: dict[str, Any], options: Options) -> None:
    """Cross-validate a network and its controls, side by side; none is registered unless `final` says so.

    Raises `UserError` before any run exists for everything that can be known by then.
    """
    tables = (("task", task, TASKS), ("control", control, (*CONTROLS, "all")), ("family", family, tuple(NETWORK)))
    for field, name, choices in tables:
        if name not in choices:
            raise unknown_name(field, name, choices)
    backbone = NETWORK[family] if backbone == DEFAULT else backbone
    if backbone not in NETWORKS[family]:
        raise unknown_name("backbone", backbone, NETWORKS[family])
    preset, values = preset_of(options), {"final": "none"} | settled(family, backbone, given)
    chosen = [control] if control != "all" else [c for c in CONTROLS if (family, c) != ("siamese", "baseline")]
    network = build(task, preset_values(preset, backbone, task, family) | values, family)
    experiments = [network]
    for one in chosen:
        if one == "texture":
            shared = {name: value for name, value in values.items() if name in SHARED}
            experiments.append(build(task, preset_values("paper", "laws", task, "texture") | shared, "texture"))
        else:
            experiments.append(network.changed(control=one))
    run_experiments(experiments, options, {"mammo.preset": preset}, _close)


def _close(top: TrackedRun, rows: Sequence[Outcome]) -> list[str]:
    """What each control reaches, and what the network adds to it, on out-of-fold predictions."""
    said = []
    network = rows[0][0]
    same_folds = [cv for cv, _ in rows if cv.plan.experiment.cv.seed == network.plan.experiment.cv.seed]
    for cv in same_folds:
        auc = fold_auc_estimate(**_columns(cv))
        chance = "chance is within its interval" if auc.low <= 0.5 <= auc.high else "its interval leaves chance out"
        if math.isnan(auc.low) or math.isnan(auc.high):
            chance = "so that chance is neither within nor without"
        said.append(f"{cv.plan.experiment.label}: out-of-fold AUC {auc}, {chance}")
    for cv in same_folds[1:]:
        if cv.plan.experiment.cv.control == "shuffled":  # its labels are others: no patch can be paired
            continue
        columns = _columns(network)
        first, name = columns.pop("probabilities"), cv.plan.experiment.label
        adds = bootstrap_difference(first=first, second=cv.oof["probability"].to_numpy(), **columns)
        values = {"": adds.value, "_low": adds.low, "_high": adds.high}
        top.log_metrics({f"adds_to_{name}_oof_roc_auc{end}": value for end, value in values.items()})
        said.append(f"{network.plan.experiment.label} less {name}: {adds:+.3f}")
    return said


def _columns(cv: CrossValidation) -> dict[str, Any]:
    oof = cv.oof
    columns = {"folds": oof["fold"], "labels": oof["label"], "probabilities": oof["probability"]}
    known = "patient_id" in oof
    return {name: column.to_numpy() for name, column in columns.items()} | {
        "groups": oof["patient_id"].to_numpy() if known else None
    }
