"""The commands: every `Command` that a module of this folder declares, by name."""

from __future__ import annotations

import importlib
import pkgutil

from mammo_mlflow.commands.base import STAGES, Command


def _declared() -> list[Command]:
    modules = [importlib.import_module(f"{__name__}.{found.name}") for found in pkgutil.iter_modules(__path__)]
    found = [value for module in modules for value in vars(module).values() if isinstance(value, Command)]
    return sorted(found, key=lambda one: STAGES.index(one.stage))


COMMANDS: dict[str, Command] = {command.name: command for command in _declared()}
