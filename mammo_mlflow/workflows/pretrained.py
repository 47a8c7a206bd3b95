"""`pretrained`: cross-validated, tested, registered models on a pretrained backbone, compared at the end."""

from __future__ import annotations

from typing import Any

from mammo_mlflow.errors import unknown_name
from mammo_mlflow.experiment import BACKBONES, TASKS, build
from mammo_mlflow.presets import preset_values
from mammo_mlflow.workflows.options import Options
from mammo_mlflow.workflows.running import run_experiments


def run(task: str, backbone: str, values: dict[str, Any], options: Options) -> None:
    """Run one backbone, or all, with a preset's values and those given.

    Raises `UserError` before any run exists for everything that can be known by then.
    """
    if task not in TASKS:
        raise unknown_name("task", task, TASKS)
    if backbone not in (*BACKBONES, "all"):
        raise unknown_name("backbone", backbone, (*BACKBONES, "all"))
    preset = options.preset if options.preset != "auto" else "quick" if options.data == "phantom" else "paper"
    backbones = BACKBONES if backbone == "all" else (backbone,)
    if values.get("early_stop") and "final_epochs" not in values:
        values = values | {"final_epochs": 0}  # the refit then runs for the median of the folds' stops
    experiments = [build(task, preset_values(preset, name, task) | values | {"backbone": name}) for name in backbones]
    run_experiments(experiments, options, {"mammo.preset": preset})
