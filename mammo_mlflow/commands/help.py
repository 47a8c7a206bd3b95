"""The output of `--help`: a command's options by group, with their choices and the values that presets give."""

from __future__ import annotations

import argparse
from collections.abc import Collection, Mapping

from mammo_mlflow.checks import Value
from mammo_mlflow.commands.base import GROUPS, STAGES, Command, is_parameter, kind_of, option_of, options_of, spelled
from mammo_mlflow.experiment import DEFAULTS, FAMILIES, TASKS, parameters
from mammo_mlflow.presets import PRESETS, networks, preset_values

SHOWN_PRESETS = ("quick", "paper")
"""What `preset=auto` may mean: the first on phantom data."""
KINDS = {bool: "true|false", int: "N", float: "NUMBER", str: "TEXT"}
MOST = 3
"""A preset with more values than this, over networks and tasks, is not spelled out."""


def overview(commands: Mapping[str, Command]) -> str:
    """The help of the program: all commands with their summaries, grouped by stage."""
    width = max(map(len, commands))
    lines = []
    for stage in STAGES:
        lines += [f"\n{stage}:"]
        lines += [f"  {name:{width}}  {one.summary}" for name, one in commands.items() if one.stage == stage]
    return "\n".join(lines).strip()


def add_options(parser: argparse.ArgumentParser, command: Command, given: Mapping[str, str]) -> None:
    """Add a command's options to its parser, in their groups; `given` narrows what presets are shown for."""
    options, groups = options_of(command.options), {}
    for title in GROUPS:
        if any(one.group == title for one in options.values()):
            groups[title] = parser.add_argument_group(title)
    for name in usual_order(command):
        about, kind = options[name], KINDS[kind_of(command.options.model_fields[name])]
        text, metavar = told(command, name, given), "NAME" if about.names() else "PATH" if about.path else kind
        groups[about.group].add_argument(f"--{spelled(name)}", help=text.replace("%", "%%"), metavar=metavar)


def usual_order(command: Command) -> list[str]:
    """The names of a command's options: those of its usage line, then the others by group."""
    shown, options = command.shown, options_of(command.options)
    others = sorted((name for name in options if name not in shown), key=lambda one: GROUPS.index(options[one].group))
    return [*shown, *others]


def told(command: Command, name: str, given: Mapping[str, str]) -> str:
    """The help text of an option: description, choices, and its default or the values that presets give it."""
    field = command.options.model_fields[name]
    about = option_of(field)
    text = about.help + (f"; one of {', '.join(about.names())}" if about.names() else "")
    if is_parameter(command.options, name):
        return f"{text} (default: {_by_preset(command, name, given)})"
    if field.is_required():
        return f"{text} (needed)"
    return text if field.default == "" else f"{text} (default: {_spelled(field.default)})"


def _by_preset(command: Command, name: str, given: Mapping[str, str]) -> str:
    """The values that presets give a parameter, over the networks and tasks that `given` leaves open."""
    family = command.family or given.get("family", "")
    family = family if family in FAMILIES else "pretrained"  # what is wrong beside `--help` is not told
    if name not in {item.name for item in parameters(family)}:
        return f"not in family {family}"
    if name in command.sets:
        return _spelled(command.sets[name])
    preset = given.get("preset", "auto")
    shown = (preset,) if preset in PRESETS else ("paper",) if given.get("data", "phantom") != "phantom" else ()
    found = {one: _values(family, one, name, given, DEFAULTS[name]) for one in shown or SHOWN_PRESETS}
    told = {one: " or ".join(map(_spelled, values)) for one, values in found.items() if len(values) <= MOST}
    told |= {one: "by network" for one in found if one not in told}
    if len(set(told.values())) == 1:
        return next(iter(told.values()))
    return ", ".join(f"{value} in {one}" for one, value in told.items())


def _values(family: str, preset: str, name: str, given: Mapping[str, str], default: Value) -> Collection[Value]:
    found: dict[Value, None] = {}
    backbone, task = given.get("backbone", "all"), given.get("task", "all")
    for network in networks(family, preset):
        for one in TASKS:
            known = (family, network, one) in PRESETS[preset]
            if known and backbone in (network, "all", "default") and task in (one, "all"):
                found[preset_values(preset, network, one, family).get(name, default)] = None
    return found or {default: None}


def _spelled(value: Value) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value) or "none"
