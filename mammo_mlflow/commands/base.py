"""Base classes of commands: a name, a summary, typed options, and the function to run. Imports nothing heavy."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Annotated, NamedTuple, get_args

from pydantic import BaseModel, ConfigDict, ValidationError, ValidationInfo, create_model, field_validator
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails, PydanticCustomError

from mammo_mlflow.checks import Check, OneOf, Value, utf8
from mammo_mlflow.errors import Faults, UserError, unknown_name
from mammo_mlflow.experiment import PARTS, convert, parameters

MODEL, TRAINING, JUDGING, SEARCHING, WHERE = "model", "training", "judging", "searching", "where and how"
GROUPS = (MODEL, TRAINING, JUDGING, SEARCHING, WHERE)
"""The groups of options in `--help`, in order."""
GROUP_OF_PART = {"model": MODEL, "training": TRAINING, "cv": JUDGING, "final": JUDGING}

STAGES = ("data", "models", "beside and beyond them", "decisions and answers", "the whole paper", "help")
"""What a command is for: the headings of `--help`, in order."""


class Option(NamedTuple):
    """The metadata of an option beside its type and default: help text, group, check.

    `choices` names a table of names as `module:TABLE`, which is imported only to be shown, `beside` more names; a check
    `OneOf` shows its own. `path`: the value is a path, several with semicolons between, or a word that stands for one.
    """

    help: str
    group: str = WHERE
    check: Check | None = None
    choices: str = ""
    beside: tuple[str, ...] = ()
    path: bool = False

    def names(self) -> Collection[str]:
        """The names that the option can be set to; empty where other values are possible."""
        if isinstance(self.check, OneOf):
            return self.check.choices
        if not self.choices:
            return ()
        module, _, table = self.choices.partition(":")
        return (*self.beside, *getattr(importlib.import_module(module), table))


class CommandOptions(BaseModel):
    """The options of a command. Raises `Faults`, a line for each mistake, for impossible values.

    Every field is annotated with an `Option`; texts, as a command line gives them, are converted to the field's type.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    def __init__(self, **values: object) -> None:
        try:
            super().__init__(**values)
        except ValidationError as problem:
            raise Faults(_lines(problem.errors(), type(self))) from None

    @field_validator("*", mode="before")
    @classmethod
    def _convert(cls, value: object, info: ValidationInfo) -> object:
        name, kind = str(info.field_name), kind_of(cls.model_fields[str(info.field_name)])
        if isinstance(value, str):
            _one_line(lambda: utf8(name, value))  # pydantic can hold no others, in a message neither
        return _one_line(lambda: convert(name, value, kind)) if isinstance(value, str) and kind is not str else value

    @field_validator("*", mode="after")
    @classmethod
    def _check(cls, value: Value | None, info: ValidationInfo) -> Value | None:
        name, check = str(info.field_name), option_of(cls.model_fields[str(info.field_name)]).check
        if check is not None and value is not None:
            _one_line(lambda: check(name, value))
        return value

    def given(self) -> dict[str, Value]:
        """The options that are parameters of an experiment and were given, by name."""
        names = [item.name for item in parameters() if is_parameter(type(self), item.name)]
        return {name: getattr(self, name) for name in names if getattr(self, name) is not None}


def _one_line(make: Callable[[], object]) -> object:
    """What `make` gives; its `UserError` as one that pydantic gathers with the others."""
    try:
        return make()
    except UserError as problem:
        raise PydanticCustomError("option", "{line}", {"line": str(problem)}) from None


def _lines(problems: list[ErrorDetails], options: type[CommandOptions]) -> list[str]:
    missing = [_with_names(options, str(one["loc"][0])) for one in problems if one["type"] == "missing"]
    lines = [f"the following options are required: {', '.join(missing)}"] if missing else []
    for one in problems:
        name = str(one["loc"][0])
        if one["type"] == "extra_forbidden":
            known = [f"--{spelled(field)}" for field in options.model_fields]
            lines.append(str(unknown_name("option", f"--{spelled(name)}", known)))
        elif one["type"] != "missing":
            lines.append(one["msg"] if one["type"] == "option" else f"{name}: {one['msg']}, found {one['input']}")
    return lines


def _with_names(options: type[CommandOptions], name: str) -> str:
    names = option_of(options.model_fields[name]).names()
    return f"--{spelled(name)}" + (f" (one of: {', '.join(names)})" if names else "")


@dataclass(frozen=True, kw_only=True)
class Command:
    """A command of the command line, which is also an entry point of the MLflow project.

    `run` names the function that is called with the options, as `module:function`; it may return an exit code.
    `shown` are the options in the usage line and in `MLproject`; all others are handed on too. `example` are arguments
    that could be given. `family` is that of the command's experiments, where it is always the same; `sets` are values
    of parameters that the command puts in the place of the presets'.
    """

    name: str
    summary: str
    stage: str
    options: type[CommandOptions]
    run: str
    shown: tuple[str, ...]
    example: str = ""
    family: str | None = None
    sets: Mapping[str, Value] = field(default_factory=dict)

    def call(self, options: CommandOptions) -> object:
        """Run the command and return what it made: a run by its id, a file by its path, or an exit code."""
        module, _, function = self.run.partition(":")
        return getattr(importlib.import_module(module), function)(options)


def with_parameters(
    name: str,
    base: type[CommandOptions],
    family: str | None = None,
    leave_out: Collection[str] = ("backbone",),
    own: Mapping[str, object] | None = None,
) -> type[CommandOptions]:
    """Extend the options `base` by the parameters of a family's experiments, or of all families'; default None.

    `own` are more fields, as `pydantic.create_model` takes them.
    """
    added = dict(own or {})
    for part in PARTS:
        for item in parameters(family, part):
            if item.name not in leave_out:
                about = Option(item.metadata["help"], GROUP_OF_PART[part], item.metadata["check"])
                about = about._replace(path=item.name == "weights")
                added[item.name] = (Annotated[type(item.default) | None, about], None)
    return create_model(name, __base__=base, __module__=base.__module__, **added)  # type: ignore[call-overload]


def kind_of(field: FieldInfo) -> type:
    """The type of an option's values: str, int, float or bool."""
    kinds = [one for one in (*get_args(field.annotation), field.annotation) if one in (str, int, float, bool)]
    return kinds[0] if kinds else str


def is_parameter(options: type[CommandOptions], name: str) -> bool:
    """Whether the option of this name is a parameter of experiments, which presets have values for."""
    return name in options.model_fields and type(None) in get_args(options.model_fields[name].annotation)


def option_of(field: FieldInfo) -> Option:
    """The `Option` of a pydantic field. Raises TypeError for a field that was declared without one."""
    for one in field.metadata:
        if isinstance(one, Option):
            return one
    raise TypeError(f"an option of type {field.annotation}: expected Annotated[..., Option(...)]")


def options_of(options: type[CommandOptions]) -> Mapping[str, Option]:
    """The `Option` of each field of a class of options, by name."""
    return {name: option_of(field) for name, field in options.model_fields.items()}


def spelled(name: str) -> str:
    """An option as the command line spells it, without the dashes before it."""
    return name.replace("_", "-")
