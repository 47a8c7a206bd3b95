"""Describe a command's run on its page in MLflow: what was asked, what came of it, and how to repeat it."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from mammo_mlflow.commands.base import Command, CommandOptions, options_of, spelled
from mammo_mlflow.terminal import Listing
from mammo_mlflow.tracking.descriptions import describe_run, figures_told


def describe(command: Command, options: CommandOptions, run_id: str, said: Sequence[Listing | str]) -> None:
    """Write the description of a command's run; `said` is what the command printed."""
    parts = [f"{command.summary[0].upper()}{command.summary[1:]}.", *map(_markdown, said)]
    if figures := figures_told(run_id):
        parts.append("Figures, among the artifacts: " + ", ".join(f"`{name}`" for name in figures))
    describe_run(run_id, "\n\n".join([*parts, f"The same again:\n\n```\n{command_line(command, options)}\n```"]))


def command_line(command: Command, options: CommandOptions) -> str:
    """The line that repeats a command with what was given; of paths the last names, since stores hold no others."""
    given, about = options.model_dump(include=options.model_fields_set, exclude_none=True), options_of(type(options))
    words = []
    for name, value in given.items():
        shown = ";".join(Path(one).name for one in str(value).split(";")) if about[name].path else str(value)
        words += [f"--{spelled(name)}", shown]
    return shlex.join(["python", "-m", "mammo_mlflow", command.name, *words])


def _markdown(result: Listing | str) -> str:
    if isinstance(result, str):
        return result.replace("|", "\\|")
    lines = [result.header, ["---"] * len(result.header), *result.rows]
    table = ["| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines]
    return "\n".join([f"**{result.title}**", "", *table])
