"""The command `ensemble`: join registered models of a task into one, chosen on out-of-fold predictions."""

from __future__ import annotations

from typing import Annotated

from mammo_mlflow import checks
from mammo_mlflow.commands.base import JUDGING, MODEL, Command, CommandOptions, Option
from mammo_mlflow.commands.shared import TASK, WorkbenchOptions, one_objective
from mammo_mlflow.experiment import CALIBRATIONS


class EnsembleSettings(CommandOptions):
    """Options that say what an ensemble is made of and how it is chosen; part of its key."""

    members: Annotated[
        str, Option("scratch, pretrained, tuned, siamese, all, or registered models with commas between", MODEL)
    ] = "pretrained"
    method: Annotated[
        str,
        Option(
            "how it is made; best: by the method with the best nested score; optuna: by a study of blend weights",
            MODEL,
            choices="mammo_mlflow.ensembles.methods:METHODS",
            beside=("best", "optuna"),
        ),
    ] = "best"
    objective: Annotated[
        str,
        Option(
            "what is optimised, on out-of-fold predictions",
            JUDGING,
            one_objective,
            "mammo_mlflow.evaluation.objectives:METRIC_CHOICES",
        ),
    ] = "roc_auc"
    threshold: Annotated[
        str,
        Option(
            "decision threshold: a number, youden, sensitivity=0.9, or with a lower confidence bound, "
            "sensitivity=0.9@95%",
            JUDGING,
        ),
    ] = "0.5"
    folds: Annotated[int, Option("number of folds of the members", JUDGING, checks.whole_number(2, 1000))] = 4
    seed: Annotated[int, Option("seed of the members' folds, and of what is drawn here", JUDGING, checks.seed)] = 0
    calibrate: Annotated[
        str,
        Option(
            "recalibration of the ensemble, fitted on its nested predictions: platt, isotonic, or none; members take "
            "part without their own",
            JUDGING,
            checks.one_of(*CALIBRATIONS),
        ),
    ] = "none"
    coverage: Annotated[
        float,
        Option(
            'answer sets of one class or both ("refer"): how often each class is part of them at least; 0: none',
            JUDGING,
            checks.below_one,
        ),
    ] = 0.0


class EnsembleOptions(WorkbenchOptions, EnsembleSettings):
    """The options of the command `ensemble`."""

    task: Annotated[str, TASK]

    @property
    def settings(self) -> EnsembleSettings:
        """The options that define the ensemble."""
        return EnsembleSettings(**{name: getattr(self, name) for name in EnsembleSettings.model_fields})


COMMAND = Command(
    name="ensemble",
    summary="join registered models of a task into one, chosen on out-of-fold predictions, and register it",
    stage="beside and beyond them",
    options=EnsembleOptions,
    run="mammo_mlflow.workflows.ensemble:run",
    shown=("task", "members", "data"),
    example="--task mass_calc --members tuned",
)
