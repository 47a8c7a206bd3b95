"""`pretrained`, `scratch`, `siamese`, `conditioned`: cross-validated, tested, registered models, compared."""

from __future__ import annotations

from typing import Any

from mammo_mlflow.errors import unknown_name
from mammo_mlflow.experiment import NETWORKS, TASKS, build
from mammo_mlflow.presets import networks, preset_values
from mammo_mlflow.workflows.options import Options, preset_of
from mammo_mlflow.workflows.running import run_experiments


def run(family: str, task: str, backbone: str, given: dict[str, Any], options: Options) -> None:
    """Run one network of a family, or all, with a preset's values and those given.

    Raises `UserError` before any run exists for everything that can be known by then.
    """
    if task not in TASKS:
        raise unknown_name("task", task, TASKS)
    if backbone not in (*NETWORKS[family], "all"):
        raise unknown_name("backbone", backbone, (*NETWORKS[family], "all"))
    preset, values = preset_of(options), dict(given)
    if values.get("early_stop") and "final_epochs" not in values:
        values["final_epochs"] = 0  # the refit then runs for the median of the folds' stops
    names = networks(family, preset) if backbone == "all" else (backbone,)
    experiments = [build(task, preset_values(preset, name, task, family) | values, family) for name in names]
    run_experiments(experiments, options, {"mammo.preset": preset})
