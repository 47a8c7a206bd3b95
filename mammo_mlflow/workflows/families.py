"""The commands of the families, such as `pretrained`: cross-validate, test, register and compare models."""

from __future__ import annotations

from collections.abc import Mapping

from mammo_mlflow.checks import Value
from mammo_mlflow.commands.families import FamilyOptions, SearchedFamilyOptions
from mammo_mlflow.errors import Faults, expected
from mammo_mlflow.experiment import Experiment, build, parameters
from mammo_mlflow.names import Tag
from mammo_mlflow.presets import networks, preset_values
from mammo_mlflow.search.parameters import idle
from mammo_mlflow.workflows.running import run_experiments


def run(options: FamilyOptions) -> str | None:
    """Run a family's command: train one network or all, by preset and given values; with `trials`, run a study.

    Returns the id of the top run; None for a dry run. Raises `UserError` before any run exists for everything that can
    be known by then.
    """
    if isinstance(options, SearchedFamilyOptions) and options.searched:
        from mammo_mlflow.workflows import search  # brings Optuna, which takes a second

        return search.run(options)
    return run_experiments(experiments_of(options), options, {Tag.PRESET: options.preset_name})


def experiments_of(options: FamilyOptions) -> list[Experiment]:
    """Return the experiments that the options ask for, one for each network. Raises `UserError`."""
    family, backbone, task, given = options.family, options.backbone, options.task, options.given()
    if family == "conditioned" and options.seeds != 1:
        wanted = "1 for conditioned models, each built on models of one seed (give it with 'seed')"
        raise expected("seeds", wanted, options.seeds)
    preset, values = options.preset_name, settled(family, backbone, given)
    names = networks(family, preset) if backbone == "all" else (backbone,)
    experiments = [build(task, preset_values(preset, name, task, family) | values, family) for name in names]
    if given.get("early_stop_on") == "scored" and not any(one.stops_on_scored for one in experiments):
        raise expected("early_stop_on", "inner where nothing is stopped early (early_stop=0)", "'scored'")
    return experiments


def settled(family: str, backbone: str, given: Mapping[str, Value]) -> dict[str, Value]:
    """Return the given parameters and those whose values follow from them.

    Raises `UserError` for parameters that the network would ignore.
    """
    values = dict(given)
    ignored = {} if backbone == "all" else dict.fromkeys(idle(family, backbone), f"{family} {backbone}")
    if backbone == "c":
        ignored |= dict.fromkeys(("condition_from", "condition"), "approach c, which is given the true type")
    if values.get("holdout"):
        ignored["folds"] = "a hold-out, which has none"
    defaults = {item.name: item.default for item in parameters(family)}
    faults = [
        str(expected(name, f"no value beside {why}", values[name]))
        for name, why in ignored.items()
        if values.get(name, defaults[name]) != defaults[name]
    ]
    if faults:
        raise Faults(faults)
    if values.get("early_stop") and "final_epochs" not in values:
        values["final_epochs"] = 0  # the refit then runs for the median of the folds' stops
    return values
