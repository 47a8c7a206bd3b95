"""The command `predict`: a registered model's predictions for patches in a file, or for places on a film."""

from __future__ import annotations

from typing import Annotated

from mammo_mlflow.commands.base import MODEL, Command, Option
from mammo_mlflow.commands.shared import EXECUTOR, FilmOptions
from mammo_mlflow.experiment import TASKS
from mammo_mlflow.names import CHAMPION, registered_name

CHAMPION_MODEL = f"models:/{registered_name(TASKS[0])}@{CHAMPION}"
REGISTERED = Option("models:/NAME/VERSION or models:/NAME@ALIAS", MODEL)


class PredictOptions(FilmOptions):
    """The options of the command `predict`."""

    model: Annotated[str, REGISTERED]
    output: Annotated[
        str,
        Option("the table to write, as CSV, a line for each abnormality; `row` is its place in the array", path=True),
    ]
    overlays: Annotated[
        str, Option("folder for Grad-CAM maps over the patches, a PNG for each; none if empty", path=True)
    ] = ""
    executor: Annotated[str, EXECUTOR] = "process"


COMMAND = Command(
    name="predict",
    summary="write a registered model's answers for patches in a file, or for places on a film",
    stage="decisions and answers",
    options=PredictOptions,
    run="mammo_mlflow.workflows.predict:run",
    shown=("model", "input", "output"),
    example=f"--model {CHAMPION_MODEL} --input phantom --output predictions.csv",
)
