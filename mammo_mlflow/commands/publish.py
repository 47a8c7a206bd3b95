"""The command `publish`: write one directory about a registered model for a paper and whoever checks it."""

from __future__ import annotations

from typing import Annotated

from pydantic import model_validator

from mammo_mlflow.commands.base import MODEL, Command, CommandOptions, Option
from mammo_mlflow.commands.predict import CHAMPION_MODEL, REGISTERED
from mammo_mlflow.errors import Faults, expected


class PublishOptions(CommandOptions):
    """The options of the command `publish`."""

    out: Annotated[str, Option("folder to write, which must not exist yet", path=True)]
    model: Annotated[str, REGISTERED] = ""
    run: Annotated[str, Option("id of a run with one registered model below it, in the place of model", MODEL)] = ""
    with_model: Annotated[bool, Option("put the model's files into the folder, without its input examples")] = True
    identities: Annotated[bool, Option("patients and lesions by their own names, not by pseudonyms")] = False
    pixels: Annotated[bool, Option("put the figure of patches and the model's input examples into the folder")] = False

    @model_validator(mode="after")
    def _one_of_both(self) -> PublishOptions:
        if bool(self.model) == bool(self.run):
            found = "both" if self.model else "neither"
            raise Faults([str(expected("model", "a registered model, or the id of a run as run", found))])
        return self


COMMAND = Command(
    name="publish",
    summary="write one directory about a model for a paper: card, checklists, tables, figures, model, every sha256",
    stage="the whole paper",
    options=PublishOptions,
    run="mammo_mlflow.workflows.publish:run",
    shown=("model", "out"),
    example=f"--model {CHAMPION_MODEL} --out publication",
)
