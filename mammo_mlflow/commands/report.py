"""The command `report`: write the paper's tables and figures beside one's own, from whatever has been run."""

from __future__ import annotations

from typing import Annotated

from mammo_mlflow.commands.base import Command, Option
from mammo_mlflow.commands.shared import PhantomOptions


class ReportOptions(PhantomOptions):
    """The options of the command `report`."""

    out: Annotated[
        str,
        Option(
            "folder to write; an earlier report there is replaced; by default `report` beside MLflow's store",
            path=True,
        ),
    ] = ""
    data: Annotated[
        str,
        Option(
            "data set to report on: a directory or phantom; by default the newest real one that was run, else a "
            "phantom",
            path=True,
        ),
    ] = ""


COMMAND = Command(
    name="report",
    summary="write one page with the paper's tables and figures beside your own, from whatever has been run",
    stage="the whole paper",
    options=ReportOptions,
    run="mammo_mlflow.workflows.report:run",
    shown=("out", "data"),
)
