"""Write `MLproject` and docs/commands.md from the commands that `mammo_mlflow/commands/` declares.

python scripts/command_tables.py
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from mammo_mlflow.commands import COMMANDS
from mammo_mlflow.commands.base import GROUPS, STAGES, Command, options_of, spelled
from mammo_mlflow.commands.help import told

ROOT = Path(__file__).parents[1]
MAIN = "pretrained"
"""What `mlflow run .` runs where no entry point is named."""
HEAD = """\
# Written by `python scripts/command_tables.py` from mammo_mlflow/commands/.
name: mammo_mlflow

conda_env: conda.yaml

# Parameters not declared here are handed on too: every option of `python -m mammo_mlflow COMMAND --help` is
# `-P some_name=value` of the entry point of that name.
entry_points:
"""
PAGE = """\
# Commands

Each is `python -m mammo_mlflow COMMAND --some-name VALUE`, and by MLflow
`mlflow run . -e COMMAND -P some_name=VALUE --env-manager local`. `--help` narrows what presets give to the options
beside it (`pretrained --task mass_calc --backbone vgg16 --data DIR --help`), and `settings COMMAND …` prints what a
command resolves to. This page is written by `python scripts/command_tables.py` from `mammo_mlflow/commands/`.
"""


def entry_point(name: str, command: Command) -> str:
    """An entry point of `MLproject`, called `name`."""
    lines = [f"  {name}:", "    parameters:"]
    for option in command.shown:
        field = command.options.model_fields[option]
        default = "" if field.is_required() else f", default: {json.dumps(str(field.default))}"
        lines.append(f"      {option}: {{type: string{default}}}")
    words = " ".join(f"--{spelled(option)} {{{option}}}" for option in command.shown)
    return "\n".join([*lines, f'    command: "python -m mammo_mlflow {command.name} {words}"', ""])


def project() -> str:
    """The text of `MLproject`."""
    entries = [entry_point("main", COMMANDS[MAIN]), *(entry_point(*one) for one in COMMANDS.items())]
    return HEAD + "".join(entries)


def page() -> str:
    """The text of docs/commands.md."""
    return "\n".join([PAGE, *(line for stage in STAGES for line in _stage(stage))]).rstrip() + "\n"


def _stage(stage: str) -> Iterator[str]:
    yield f"## {stage[0].upper()}{stage[1:]}\n"
    for command in COMMANDS.values():
        if command.stage == stage:
            yield f"### {command.name}\n\n{command.summary[0].upper()}{command.summary[1:]}.\n"
            if command.example:
                yield f"```bash\npython -m mammo_mlflow {command.name} {command.example}\n```\n"
            yield from _options(command)


def _options(command: Command) -> Iterator[str]:
    yield "| option | group | what it is |\n|---|---|---|"
    for group in GROUPS:
        for name, about in sorted(options_of(command.options).items(), key=lambda one: one[0] not in command.shown):
            if about.group == group:
                yield f"| `{name}` | {group} | {told(command, name, {}).replace('|', '/')} |"
    yield ""


if __name__ == "__main__":
    (ROOT / "MLproject").write_text(project(), encoding="utf-8")
    (ROOT / "docs" / "commands.md").write_text(page(), encoding="utf-8")
