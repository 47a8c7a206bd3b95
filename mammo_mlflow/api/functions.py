"""Every command as a function of its options, its signature and docstring made of what the command declares."""

from __future__ import annotations

import importlib.util
import inspect
import os
import re
import shlex
import sys
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic.fields import FieldInfo

from mammo_mlflow.api.host import as_before, cleaned, ending_as_commands_do, errors_for_users
from mammo_mlflow.checks import OneOf
from mammo_mlflow.cli import NO_WINDOWS, get_ready, issue
from mammo_mlflow.commands import COMMANDS
from mammo_mlflow.commands.base import GROUPS, Command, CommandOptions, kind_of, option_of, options_of
from mammo_mlflow.commands.help import told, usual_order
from mammo_mlflow.commands.shared import TrainingOptions
from mammo_mlflow.errors import Faults, UserError, expected, unknown_name
from mammo_mlflow.experiment import DEFAULTS
from mammo_mlflow.terminal import Listing, kept

if TYPE_CHECKING:  # commands are checked before anything heavy is imported
    from mammo_mlflow.api.shown import Shown

_SERVERS = ("dashboard", "serve")
"""The commands that say where they listen, and go on."""
_RESULTS = {
    "predict": "WrittenResult",
    "request": "WrittenResult",
    "report": "WrittenResult",
    "compare": "WrittenResult",
    "publish": "WrittenResult",
    "prepare": "RunResult",
    "reproduce": "RunResult",
    "ensemble": "EnsembleResult",
    "search": "SearchResult | SeveralResults | Shown",
    "promote": "PromotionResult",
}
"""The classes of what the functions of commands return that train no family's models."""


class CommandFunction:
    """A command as a function of keyword arguments, its options; see docs/python.md.

    Where a room of the package has the command's name, what is in the room is found through it too.
    """

    def __init__(self, command: Command) -> None:
        self.command = command
        self.__name__ = self.__qualname__ = command.name
        self.__module__ = "mammo_mlflow"
        self.__signature__ = signature(command)

    def __call__(self, *positional: object, **given: object) -> Any:
        """Run the command and return what it made. Raises `UserError`, `CommandFailed`, `KeyboardInterrupt`."""
        if positional:
            raise expected(self.__name__, "every option by its name", f"{len(positional)} without one")
        return call(self.command, given)

    @property
    def __doc__(self) -> str:  # type: ignore[override] # made when it is asked for, since its choices bring imports
        return docstring(self.command)

    def __getattr__(self, name: str) -> object:
        if not name.startswith("__"):
            room = f"mammo_mlflow.{self.__name__}"
            if importlib.util.find_spec(room) is not None:
                return getattr(importlib.import_module(room), name)
        raise AttributeError(name)

    def __repr__(self) -> str:
        return f"<mammo_mlflow.{self.__name__}{inspect.signature(self)}>"


def call(command: Command, given: Mapping[str, object]) -> Shown:
    """Run a command with options by name, as the command line does; return what it made.

    Raises `UserError`, `CommandFailed` and `KeyboardInterrupt`.
    """
    with cleaned():
        if sys.platform == "win32":
            raise UserError(NO_WINDOWS)
        options = read_options(command, given)
    with as_before(), ending_as_commands_do():
        with cleaned():
            get_ready(options)
        # a server says where it listens, and goes on
        keeping: AbstractContextManager[list[Listing | str]] = nullcontext([]) if command.name in _SERVERS else kept()
        with errors_for_users():
            made, said = issue(command, options, keeping)
        from mammo_mlflow.api.shown import Shown, WrittenResult
        from mammo_mlflow.api.store import Store

        if isinstance(made, str):
            return Store().result(made, said)
        if isinstance(made, Path):
            return WrittenResult(made, said)
        return Shown(said, made if isinstance(made, int) else 0)


def read_options(command: Command, given: Mapping[str, object]) -> CommandOptions:
    """The checked options of a command. Raises `UserError` in Python's words: names as parameters are spelled here."""
    model, known, unknown = command.options, dict(command.options.model_fields), list[str]()
    if model.model_config.get("extra") == "allow":  # the others are options of the command that it names
        inner = COMMANDS.get(str(given.get("command")))
        if inner is not None:
            read_options(inner, {name: one for name, one in given.items() if name != "command"})
            known |= inner.options.model_fields
    else:
        unknown = [str(unknown_name("parameter", name, known)) for name in given if name not in known]
    missing = [name for name, field in model.model_fields.items() if field.is_required() and name not in given]
    if missing or unknown:
        raise Faults([*unknown, *([str(expected(command.name, ", ".join(missing), "none"))] if missing else [])])
    return model(**{name: _as_declared(one, known.get(name)) for name, one in given.items()})


def _as_declared(value: object, field: FieldInfo | None) -> object:
    """A path as a text, and a number as one where the option takes other texts too, such as `fresh_seeds`."""
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, bool) or not isinstance(value, int | float) or field is None:
        return value
    return str(value) if kind_of(field) is str else value


def signature(command: Command) -> inspect.Signature:
    """The signature of a command's function: its options by name, with their types and defaults."""
    fields, kind = command.options.model_fields, inspect.Parameter.KEYWORD_ONLY
    parameters = [
        inspect.Parameter(
            name,
            kind,
            default=inspect.Parameter.empty if fields[name].is_required() else fields[name].default,
            annotation=type_of(name, fields[name]),
        )
        for name in usual_order(command)
    ]
    parameters.sort(key=lambda one: one.default is not inspect.Parameter.empty)
    if command.options.model_config.get("extra") == "allow":
        parameters.append(inspect.Parameter("options", inspect.Parameter.VAR_KEYWORD, annotation=Any))
    return inspect.Signature(parameters, return_annotation=result_type(command))


def type_of(name: str, field: FieldInfo) -> Any:
    """The type of an option's values: a literal where there is a table of all that it can be, else text, path, number.

    What is a text or a number on the command line, such as `threshold`, is both here.
    """
    about, kind, default = option_of(field), kind_of(field), DEFAULTS.get(name, field.default)
    found: Any = kind
    if type(about.check) is OneOf and kind is str:  # not what can be joined, of which there is no table
        found = Literal[tuple(about.check.choices)]
    elif about.path:
        found = str | os.PathLike[str]
    elif kind is str and not about.choices and re.fullmatch(r"auto|\d+(\.\d+)?", str(default)):
        found = str | float
    return found | None if type(None) in getattr(field.annotation, "__args__", ()) else found


def result_type(command: Command) -> str:
    """The classes of what a command's function returns; `Shown` where it can say instead what it would do."""
    trains = issubclass(command.options, TrainingOptions)
    return _RESULTS.get(command.name, "ModelResult | SeveralResults | Shown" if trains else "Shown")


def docstring(command: Command) -> str:
    """The docstring of a command's function: what it does, its parameters by group, and its example."""
    about, lines = options_of(command.options), [f"{command.summary[0].upper()}{command.summary[1:]}.", ""]
    for group in GROUPS:
        names = [name for name in usual_order(command) if about[name].group == group]
        lines += [f"{group[0].upper()}{group[1:]}:", *(f"    {name}: {told(command, name, {})}" for name in names), ""]
        if not names:
            del lines[-2:]
    lines += ["Raises:", "    UserError: one line for each mistake.", "    CommandFailed: a job failed.", ""]
    return "\n".join([*lines, "Example:", f"    >>> mm.{example(command)}  # doctest: +SKIP"])


def example(command: Command) -> str:
    """A command's example as a call in Python."""
    words = shlex.split(command.example)
    fields = command.options.model_fields
    names = [word.removeprefix("--").replace("-", "_") for word in words[::2]]
    spelled = (
        f"{name}={word.title() if kind is bool else word if kind in (int, float) else repr(word)}"
        for name, word in zip(names, words[1::2], strict=True)
        for kind in [kind_of(fields[name]) if name in fields else str]
    )
    return f"{command.name}({', '.join(spelled)})".replace("'", '"')


FUNCTIONS = {name: CommandFunction(command) for name, command in COMMANDS.items()}
"""The functions by the names of their commands."""
