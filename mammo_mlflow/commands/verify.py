"""The command `verify`: check a published directory, train a fold again and compare predictions."""

from __future__ import annotations

import re
from typing import Annotated

from mammo_mlflow import checks
from mammo_mlflow.checks import Value
from mammo_mlflow.commands.base import JUDGING, MODEL, Command, Option
from mammo_mlflow.commands.shared import CACHE_DIR, EXECUTOR, DeviceOptions, WorkbenchOptions, licence
from mammo_mlflow.errors import expected


def _sha256(name: str, value: Value) -> None:
    if value and not re.fullmatch("[0-9a-f]{64}", str(value)):
        raise expected(name, "64 letters of 0-9 and a-f", f"'{value}'")


class VerifyOptions(DeviceOptions):
    """The options of the command `verify`."""

    publication: Annotated[str, Option("folder that `publish` wrote", path=True)]
    sha256: Annotated[str, Option("sha256 of the publication, as `publish` said it", check=_sha256)] = ""
    data: Annotated[
        str,
        Option("directory of the published data; by default the phantom, made again, or where they were", path=True),
    ] = ""
    weights: Annotated[
        str, Option("directory with the published weights, where they are not found otherwise", MODEL, path=True)
    ] = ""
    fold: Annotated[int, Option("fold to train again", JUDGING, checks.whole_number(1, 1000))] = 1
    tolerance: Annotated[
        float, Option("largest difference of a probability that counts as the same", JUDGING, checks.at_least_zero)
    ] = 0.01
    executor: Annotated[str, EXECUTOR] = WorkbenchOptions.model_fields["executor"].default
    accept_licence: Annotated[
        str, Option("weights whose licence you accept, where it asks for that", check=licence)
    ] = ""
    cache_dir: Annotated[str, CACHE_DIR] = ""


COMMAND = Command(
    name="verify",
    summary="check a published directory: every sha256, the model's answers, and a fold trained again",
    stage="the whole paper",
    options=VerifyOptions,
    run="mammo_mlflow.workflows.verify:run",
    shown=("publication", "data"),
    example="--publication publication",
)
