"""The command `controls`: train a network beside its controls, to see what it adds.

The controls: the same task from the healthy baseline patches alone, from shuffled labels, and from simple texture
features with logistic regression.
"""

from __future__ import annotations

from collections.abc import Sequence

from mammo_mlflow.commands.controls import COMMAND, CONTROLS, DEFAULT, NETWORK, WITHOUT_BASELINE, ControlsOptions
from mammo_mlflow.experiment import Experiment, build, network_of, that_move
from mammo_mlflow.names import Metric, Tag, plain_name
from mammo_mlflow.presets import preset_values
from mammo_mlflow.tracking.tracked_run import TrackedRun
from mammo_mlflow.workflows.comparison import Outcome
from mammo_mlflow.workflows.families import settled
from mammo_mlflow.workflows.running import run_experiments

SHARED = set(that_move("judging", "final", "place")) - set(that_move("activations", "training"))
"""What the texture features take over from the network: how they are judged, and where they are computed."""


def run(options: ControlsOptions) -> str | None:
    """Run `controls`: cross-validate a network and its controls; none is registered unless `final` says so.

    Returns the id of the top run; None for a dry run. Raises `UserError` before any run exists for everything that can
    be known by then.
    """
    return run_experiments(experiments_of(options), options, {Tag.PRESET: options.preset_name}, _compare)


def experiments_of(options: ControlsOptions) -> list[Experiment]:
    """Return the network's experiment, then its controls'. Raises `UserError`."""
    family, task, control = options.family, options.task, options.control
    backbone = NETWORK[family] if options.backbone == DEFAULT else options.backbone
    network_of(family)("backbone", backbone)
    values = {**COMMAND.sets} | settled(family, backbone, options.given())
    left_out = ("baseline",) if family in WITHOUT_BASELINE else ()
    chosen = [control] if control != "all" else [one for one in CONTROLS if one not in left_out]
    network = build(task, preset_values(options.preset_name, backbone, task, family) | values, family)
    experiments = [network]
    for one in chosen:
        if one == "texture":
            shared = {name: value for name, value in values.items() if name in SHARED}
            experiments.append(build(task, preset_values("paper", "laws", task, "texture") | shared, "texture"))
        else:
            experiments.append(network.changed(control=one))
    return experiments


def _compare(top: TrackedRun, rows: Sequence[Outcome]) -> list[str]:
    """Log and tell each control's out-of-fold ROC AUC, and by how much the network exceeds it."""
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
        top.log_metrics(adds.metrics(f"adds_to_{plain_name(name)}_{Metric.OOF_ROC_AUC}"))
        said.append(f"{network.plan.experiment.label} less {name}: {adds:+.3f}")
    return said
