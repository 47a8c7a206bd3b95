"""`experiment.json`: what a publication says of its model so that it can be made again and compared."""

from __future__ import annotations

from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict, ValidationError

from mammo_mlflow.data.phantom import PhantomSettings
from mammo_mlflow.errors import expected
from mammo_mlflow.files import read_small

FILE = "experiment.json"
FORMAT = 1
"""The version of the format, to be raised when an earlier `verify` would misread it."""


class PublishedExperiment(BaseModel):
    """What is published of a model: its experiment, data, keys and commands.

    `parameters` are those of its run as texts, `tags` those that say what it was trained on and with. `folds` has the
    key of each fold's fit by name, `files` the sha256 of the data's files, `phantom` the settings of the phantom that
    they are, or None. `decided_at` is the threshold.
    """

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    format: int
    version: str
    results_version: int
    model: str
    family: str
    parameters: dict[str, str]
    tags: dict[str, str]
    folds: dict[str, str]
    files: dict[str, str]
    phantom: PhantomSettings | None
    decided_at: float
    commands: list[str]

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Read the file of a publication. Raises `UserError` where it is not what `publish` writes."""
        try:
            found = cls.model_validate_json(read_small(folder / FILE))
        except ValidationError as problem:
            first = problem.errors()[0]
            where = ".".join(map(str, first["loc"]))
            raise expected(f"publication: {FILE}: {where}", "what `publish` writes", first["msg"]) from None
        except (OSError, ValueError) as problem:
            raise expected(f"publication: {FILE}", "what `publish` writes", str(problem).splitlines()[0]) from None
        if found.format != FORMAT:
            raise expected(f"publication: {FILE}: format", f"{FORMAT}", found.format)
        return found
