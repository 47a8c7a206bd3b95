"""The command `compare`: write one page with two models side by side."""

from __future__ import annotations

from typing import Annotated

from mammo_mlflow.commands.base import JUDGING, MODEL, Command, CommandOptions, Option
from mammo_mlflow.commands.predict import CHAMPION_MODEL
from mammo_mlflow.commands.shared import one_objective
from mammo_mlflow.experiment import TASKS
from mammo_mlflow.names import registered_name


class CompareOptions(CommandOptions):
    """The options of the command `compare`."""

    first: Annotated[str, Option("models:/NAME/VERSION, models:/NAME@ALIAS or the id of a run", MODEL)]
    second: Annotated[str, Option("the model to compare with, named likewise", MODEL)]
    objective: Annotated[
        str,
        Option(
            "what the models are compared in, on the same patches",
            JUDGING,
            one_objective,
            "mammo_mlflow.evaluation.objectives:METRIC_CHOICES",
        ),
    ] = "roc_auc"
    out: Annotated[str, Option("HTML file to write; an earlier one is replaced", path=True)] = "comparison.html"


COMMAND = Command(
    name="compare",
    summary="write one page with two models side by side: settings that differ, paired tests, curves, patches",
    stage="the whole paper",
    options=CompareOptions,
    run="mammo_mlflow.workflows.compare:run",
    shown=("first", "second", "out"),
    example=f"--first {CHAMPION_MODEL} --second models:/{registered_name(TASKS[0], 'pretrained', 'vgg16')}/1",
)
