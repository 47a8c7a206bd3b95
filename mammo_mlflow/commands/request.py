"""The command `request`: write patches in a file, or places on a film, as the JSON that a served model takes."""

from __future__ import annotations

from typing import Annotated

from mammo_mlflow.commands.base import MODEL, Command, Option
from mammo_mlflow.commands.shared import SIZE, FilmOptions
from mammo_mlflow.data.cbis_ddsm.settings import CropSettings


class RequestOptions(FilmOptions):
    """The options of the command `request`."""

    output: Annotated[str, Option("the request to write, as JSON", path=True)]
    inputs: Annotated[str, Option("what the model takes: patch; patch,baseline; or patch,other_view", MODEL)] = "patch"
    size: Annotated[int, SIZE] = CropSettings.size


COMMAND = Command(
    name="request",
    summary="write patches in a file, or places on a film, as the JSON that a served model takes",
    stage="decisions and answers",
    options=RequestOptions,
    run="mammo_mlflow.workflows.request:run",
    shown=("input", "output", "box", "mask", "inputs"),
    example="--input film.dcm --box 934,2308,304,261 --output patches.json",
)
