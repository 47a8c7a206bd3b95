"""The command `controls`: a network and its controls: baselines alone, shuffled labels, texture features."""

from __future__ import annotations

from typing import Annotated

from mammo_mlflow import checks
from mammo_mlflow.commands.base import JUDGING, MODEL, Command, Option, with_parameters
from mammo_mlflow.commands.shared import TASK, TrainingOptions

CONTROLS = ("baseline", "shuffled", "texture")
NETWORK = {"pretrained": "vgg16", "scratch": "m1_balanced", "siamese": "vgg16", "views": "vgg16"}
"""The families that have controls, and the network of each that is compared with them by default."""
WITHOUT_BASELINE = ("siamese", "views")
"""The families without the control of baselines alone: one sees them anyway, the other joins a lesion's views."""
DEFAULT = "default"


class ControlsOptions(TrainingOptions):
    """The options of the command `controls`."""

    task: Annotated[str, TASK]
    control: Annotated[str, Option("what the network is compared with", JUDGING, checks.one_of(*CONTROLS, "all"))] = (
        "all"
    )
    family: Annotated[str, Option("family of the network", MODEL, checks.one_of(*NETWORK))] = "pretrained"
    backbone: Annotated[
        str, Option(f"network of the family; {DEFAULT}: {', '.join(NETWORK.values())} of these families", MODEL)
    ] = DEFAULT


COMMAND = Command(
    name="controls",
    summary="train a network beside its controls: baselines alone, shuffled labels, simple texture features",
    stage="beside and beyond them",
    options=with_parameters("ControlsCommandOptions", ControlsOptions, leave_out=("backbone", "control")),
    run="mammo_mlflow.workflows.controls:run",
    shown=("task", "control", "family", "backbone", "data"),
    example="--task mass_calc --backbone resnet50",
    sets={"final": "none"},
)
