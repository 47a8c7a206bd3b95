"""The command `reproduce`: run every experiment of the paper in order, then the report."""

from __future__ import annotations

from typing import Annotated

from pydantic import model_validator

from mammo_mlflow import checks
from mammo_mlflow.commands.base import Command, Option
from mammo_mlflow.commands.shared import DeviceOptions
from mammo_mlflow.errors import expected


class ReproduceOptions(DeviceOptions):
    """The options of the command `reproduce`."""

    scale: Annotated[
        str,
        Option(
            "small: quick settings on a small phantom; full: the paper's, on `data`",
            check=checks.one_of("small", "full"),
        ),
    ] = "small"
    data: Annotated[str, Option("directory of the four arrays, for scale=full", path=True)] = "phantom"
    out: Annotated[str, Option("folder for the report; by default `report` beside MLflow's store", path=True)] = ""
    resume: Annotated[bool, Option("go on after the steps that an earlier command finished")] = True

    @model_validator(mode="after")
    def _phantom(self) -> ReproduceOptions:
        if self.scale == "small" and self.data != "phantom":
            raise expected("data", "phantom, which scale=small is on (scale=full takes a directory)", f"'{self.data}'")
        return self


COMMAND = Command(
    name="reproduce",
    summary="run every experiment of the paper in order, and end with the report",
    stage="the whole paper",
    options=ReproduceOptions,
    run="mammo_mlflow.workflows.reproduce:run",
    shown=("scale", "data", "out"),
    example="--scale small",
)
