"""`controls`: what a network is to be compared with, so that one sees what it adds.

The same task from the healthy baseline patches alone, from shuffled labels, and from simple texture features with
logistic regression.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mammo_mlflow import checks
from mammo_mlflow.checks import Value
from mammo_mlflow.experiment import NETWORKS, TASKS, build, that_move
from mammo_mlflow.names import Metric, Tag
from mammo_mlflow.presets import preset_values
from mammo_mlflow.tracking.runs import TrackedRun
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


def run(family: str, task: str, backbone: str, control: str, given: Mapping[str, Value], options: Options) -> None:
    """Cross-validate a network and its controls, side by side; none is registered unless `final` says so.

    Raises `UserError` before any run exists for everything that can be known by then.
    """
    checks.one_of(*TASKS)("task", task)
    checks.one_of(*CONTROLS, "all")("control", control)
    checks.one_of(*NETWORK)("family", family)
    backbone = NETWORK[family] if backbone == DEFAULT else backbone
    checks.one_of(*NETWORKS[family])("backbone", backbone)
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
    run_experiments(experiments, options, {Tag.PRESET: preset}, _close)


def _close(top: TrackedRun, rows: Sequence[Outcome]) -> list[str]:
    """What each control reaches, and what the network adds to it, on out-of-fold predictions."""
    said = []
    network = rows[0][0]
    same_folds = [cv for cv, _ in rows if cv.plan.experiment.cv.seed == network.plan.experiment.cv.seed]
    for cv in same_folds:
        auc = cv.predictions.estimate("roc_auc")
        chance = "chance is within its interval" if auc.low <= 0.5 <= auc.high else "its interval leaves chance out"
        if not auc.bounded:
            chance = "so that chance is neither within nor without"
        said.append(f"{cv.plan.experiment.label}: out-of-fold AUC {auc}, {chance}")
    for cv in same_folds[1:]:
        if cv.plan.experiment.cv.control == "shuffled":  # its labels are others: no patch can be paired
            continue
        name, adds = cv.plan.experiment.label, network.predictions.less(cv.predictions)
        top.log_metrics(adds.metrics(f"adds_to_{name}_{Metric.OOF_ROC_AUC}"))
        said.append(f"{network.plan.experiment.label} less {name}: {adds:+.3f}")
    return said
