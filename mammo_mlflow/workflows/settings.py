"""The command `settings`: print every value that another command would run with, and where it comes from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from mammo_mlflow import checks
from mammo_mlflow.commands.base import CommandOptions, is_parameter
from mammo_mlflow.commands.controls import ControlsOptions
from mammo_mlflow.commands.ensemble import EnsembleOptions
from mammo_mlflow.commands.families import FamilyOptions, SearchedFamilyOptions
from mammo_mlflow.commands.search import SEARCH, SearchOptions
from mammo_mlflow.commands.settings import SettingsOptions
from mammo_mlflow.commands.shared import TrainingOptions
from mammo_mlflow.evaluation.thresholds import parse_policy
from mammo_mlflow.experiment import DEFAULTS, Experiment, build
from mammo_mlflow.files import default_cache
from mammo_mlflow.jobs.devices import is_usual
from mammo_mlflow.presets import preset_row
from mammo_mlflow.processes import available_cores
from mammo_mlflow.search.parameters import ARCHITECTURES
from mammo_mlflow.search.study_spec import StudySpec
from mammo_mlflow.terminal import say, show_table
from mammo_mlflow.wording import scrubbed
from mammo_mlflow.workflows import controls, ensemble, families, search
from mammo_mlflow.workflows.places import report_folder, storage_url


def run(options: SettingsOptions) -> None:
    """Run `settings`: print the experiments and options that a command would run with. Raises `UserError`."""
    command, asked = options.resolved
    if isinstance(asked, EnsembleOptions):
        checks.one_of(*ensemble.CHOICES)("method", asked.method)
    threshold = getattr(asked, "threshold", None)
    if threshold is not None:  # commands check it later on
        parse_policy(threshold)
    if isinstance(asked, SearchOptions) or (isinstance(asked, SearchedFamilyOptions) and asked.searched):
        for spec in search.study_specs(asked):
            _show_study(asked, spec)
    elif isinstance(asked, ControlsOptions):
        _show(asked, controls.experiments_of(asked))
    elif isinstance(asked, FamilyOptions):
        _show(asked, families.experiments_of(asked))
    rows = [[name, *_option(asked, name)] for name in type(asked).model_fields if not is_parameter(type(asked), name)]
    show_table(f"{command.name}: options", ["option", "value", "from"], rows)


def _show_study(options: TrainingOptions, spec: StudySpec) -> None:
    """Print the experiment of the study's first trial, and what the other trials draw."""
    paper, space = build(spec.task, spec.paper, spec.space.family), spec.space
    drawn = dict.fromkeys(ARCHITECTURES.get(space.architecture or "", ()), f"drawn: architecture {space.architecture}")
    for item in space.parameters:
        of = f"{item.case}: {item.extent}" if item.case else f"drawn: {item.extent}"
        drawn[item.name] = f"{drawn[item.name]}; {of}" if item.case and item.name in drawn else of
    title = f"study of {paper.task} {paper.family} {paper.label}: its first trial is the paper's setting"
    _show(options, [paper], title, ("paper", options.preset_name), drawn)
    final = {name: getattr(options, name, None) for name in search.FINAL}
    kept = {name: SEARCH.sets[name] if value is None else value for name, value in final.items()}
    say(f"the best trial's model: {', '.join(f'{name}={value}' for name, value in kept.items())}")
    say(f"search space: {space.path}")


def _show(
    options: TrainingOptions,
    experiments: Sequence[Experiment],
    title: str = "experiments",
    presets: Sequence[str] = (),
    drawn: Mapping[str, str] | None = None,
) -> None:
    """Print a row for each parameter and a column for each experiment; `drawn` are the parameters that trials draw."""
    flat, rows = [one.flat() for one in experiments], list[list[str]]()
    for name in dict.fromkeys(name for values in flat for name in values):
        sources = (_source(options, one, name, presets) for one in experiments if name in one.flat())
        told = (drawn or {}).get(name) or " or ".join(dict.fromkeys(sources))
        rows.append([name, *(_spelled(values.get(name, "-")) for values in flat), told])
    if drawn is None:
        names = [one.registered_name if one.final.final != "none" else "-" for one in experiments]
        rows.append(["registered as", *names, "the above"])
    show_table(title, ["parameter", *(one.label for one in experiments), "from"], rows)


def _source(options: TrainingOptions, one: Experiment, name: str, presets: Sequence[str]) -> str:
    """Return where a value comes from: given, a preset, the parameter's default, or set by the command itself."""
    value = one.flat()[name]
    if name in options.model_fields_set and getattr(options, name) == value:
        return "given"
    if name in ("family", "task", "backbone"):
        return "command"  # its own, or one of all
    for preset in presets or (options.preset_name if one.family != "texture" else "paper",):
        known = preset_row(preset, one.model.backbone, one.task, one.family) or {}
        if known.get(name) == value:
            return f"preset {preset}"
    return "default" if DEFAULTS.get(name) == value and name not in known else "command"


def _spelled(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _option(options: CommandOptions, name: str) -> tuple[str, str]:
    """Return the value that an option resolves to, and whether it was given."""
    value = getattr(options, name)
    where = "given" if name in options.model_fields_set else "default"
    if isinstance(options, TrainingOptions) and name == "preset":
        value = options.preset_name
    elif name == "storage":
        value = storage_url(value)
    elif name == "workers" and not value and is_usual(getattr(options, "devices", "cpu")):
        value = max(1, available_cores() // (getattr(options, "threads", None) or 1))
    elif name == "cache_dir" and not value:
        value = default_cache()
    elif name == "out" and not value:
        value = report_folder("")
    elif name in ("data", "cache_dir", "source", "out") and value not in ("", "phantom"):
        value = Path(value).expanduser().absolute()
    return scrubbed(_spelled(value)) or "-", where
