"""The command `promote`: bring candidates to a task's gates, make the best one that passes the champion."""

from __future__ import annotations

from typing import Annotated

from pydantic import model_validator

from mammo_mlflow import checks
from mammo_mlflow.commands.base import JUDGING, MODEL, Command, CommandOptions, Option
from mammo_mlflow.commands.shared import EXECUTOR, TASK, one_objective
from mammo_mlflow.errors import Faults, expected
from mammo_mlflow.experiment import UNITS


class PromoteOptions(CommandOptions):
    """The options of the command `promote`."""

    task: Annotated[str, TASK]
    candidate: Annotated[str, Option("all candidates of the task, or registered models with commas between", MODEL)] = (
        "all"
    )
    objective: Annotated[
        str,
        Option(
            "what a candidate must lead in, on out-of-fold predictions",
            JUDGING,
            one_objective,
            "mammo_mlflow.evaluation.objectives:METRIC_CHOICES",
        ),
    ] = "roc_auc"
    calibration: Annotated[float, Option("largest calibration error that passes", JUDGING)] = 0.15
    specificity_loss: Annotated[float, Option("loss of specificity against the champion that is allowed", JUDGING)] = (
        0.05
    )
    unit: Annotated[
        str, Option("what the gates judge: patch, or lesion, whose views are averaged", JUDGING, checks.one_of(*UNITS))
    ] = "patch"
    rollback: Annotated[bool, Option("go back to the champion before", JUDGING)] = False
    executor: Annotated[str, EXECUTOR] = "process"

    @model_validator(mode="after")
    def _bounds(self) -> PromoteOptions:
        problems = []
        if not 0 < self.calibration <= 1:
            problems.append(expected("calibration", "a number in (0, 1]", self.calibration))
        if not 0 <= self.specificity_loss < 1:
            problems.append(expected("specificity_loss", "a number in [0, 1)", self.specificity_loss))
        if problems:
            raise Faults(map(str, problems))
        return self


COMMAND = Command(
    name="promote",
    summary="make the best candidate that passes every gate a task's champion, or go back to the one before",
    stage="decisions and answers",
    options=PromoteOptions,
    run="mammo_mlflow.workflows.promote:run",
    shown=("task", "candidate", "rollback"),
    example="--task mass_calc",
)
