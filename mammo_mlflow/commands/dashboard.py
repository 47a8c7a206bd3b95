"""The command `dashboard`: MLflow's pages, Optuna's dashboard and the report, at addresses of this machine."""

from __future__ import annotations

from typing import Annotated

from mammo_mlflow.commands.base import Command, CommandOptions, Option


class DashboardOptions(CommandOptions):
    """The options of the command `dashboard`."""

    storage: Annotated[str, Option("database URL of Optuna's studies; by default optuna.db beside MLflow's store")] = ""
    report: Annotated[str, Option("folder of the report; by default `report` beside MLflow's store", path=True)] = ""


COMMAND = Command(
    name="dashboard",
    summary="show runs, studies and the report in a browser: starts their servers on free ports and prints the links",
    stage="beside and beyond them",
    options=DashboardOptions,
    run="mammo_mlflow.workflows.dashboard:run",
    shown=("storage", "report"),
)
