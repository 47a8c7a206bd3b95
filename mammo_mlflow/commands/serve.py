"""The command `serve`: serve a registered model over HTTP by MLflow's own server."""

from __future__ import annotations

from typing import Annotated

from mammo_mlflow import checks
from mammo_mlflow.commands.base import Command, CommandOptions, Option
from mammo_mlflow.commands.predict import CHAMPION_MODEL, REGISTERED


class ServeOptions(CommandOptions):
    """The options of the command `serve`."""

    model: Annotated[str, REGISTERED]
    host: Annotated[str, Option("address to listen at")] = "127.0.0.1"
    port: Annotated[int, Option("port to listen at", check=checks.whole_number(1, 65535))] = 5001
    timeout: Annotated[int, Option("seconds that a request may take", check=checks.whole_number(1, 86_400))] = 600
    arrival: Annotated[
        int, Option("seconds in which a request has to arrive whole", check=checks.whole_number(1, 86_400))
    ] = 30
    max_body_mb: Annotated[
        int, Option("largest body of a request, in MB; a larger one is refused", check=checks.whole_number(1, 1024))
    ] = 32
    workers: Annotated[
        int, Option("processes that answer, each with the model in its memory", check=checks.whole_number(1, 64))
    ] = 1


COMMAND = Command(
    name="serve",
    summary="serve a registered model by HTTP, with MLflow's own server",
    stage="decisions and answers",
    options=ServeOptions,
    run="mammo_mlflow.workflows.serve:run",
    shown=("model", "port"),
    example=f"--model {CHAMPION_MODEL} --port 5001",
)
