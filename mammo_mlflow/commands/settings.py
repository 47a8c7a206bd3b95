"""The command `settings`: print the values that another command would run with, without running it."""

from __future__ import annotations

from typing import Annotated

from pydantic import ConfigDict, model_validator

from mammo_mlflow.commands.base import MODEL, Command, CommandOptions, Option
from mammo_mlflow.errors import unknown_name


class SettingsOptions(CommandOptions):
    """The options of the command `settings`; further ones are those of the `command` whose values are printed."""

    model_config = ConfigDict(extra="allow")

    command: Annotated[str, Option("the command whose options follow", MODEL)]

    @property
    def resolved(self) -> tuple[Command, CommandOptions]:
        """The command whose values are printed, and its checked options. Raises `UserError`."""
        from mammo_mlflow.commands import COMMANDS  # which this module is one of

        others = {name: command for name, command in COMMANDS.items() if name != COMMAND.name}
        if self.command not in others:
            raise unknown_name("command", self.command, others)
        return others[self.command], others[self.command].options(**self.model_extra or {})

    @model_validator(mode="after")
    def _of_the_command(self) -> SettingsOptions:
        self.resolved  # noqa: B018 - its faults are told at once
        return self


COMMAND = Command(
    name="settings",
    summary="print what a command resolves to: every parameter of its experiments, every option, and why",
    stage="help",
    options=SettingsOptions,
    run="mammo_mlflow.workflows.settings:run",
    shown=("command",),
    example="--command pretrained --task mass_calc --backbone vgg16",
)
