"""The command `doctor`: look at stores, cache, weights, devices and versions, and close what dead commands left."""

from __future__ import annotations

from typing import Annotated

from mammo_mlflow.commands.base import Command, CommandOptions, Option
from mammo_mlflow.commands.shared import CACHE_DIR


class DoctorOptions(CommandOptions):
    """The options of the command `doctor`."""

    fix: Annotated[bool, Option("do what is safe about what is found: nothing that anyone could want is lost")] = False
    storage: Annotated[
        str, Option("database URL of Optuna's studies; by default optuna.db beside the store", path=False)
    ] = ""
    cache_dir: Annotated[str, CACHE_DIR] = ""


COMMAND = Command(
    name="doctor",
    summary="look at stores, cache, weights, devices and versions, a line for each finding, and say what to do",
    stage="help",
    options=DoctorOptions,
    run="mammo_mlflow.workflows.doctor:run",
    shown=("fix",),
    example="--fix true",
)
