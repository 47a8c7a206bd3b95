"""The commands that train, test and register a family's models: `pretrained`, `scratch`, `siamese` and the others."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import model_validator

from mammo_mlflow.commands.base import MODEL, Command, Option, with_parameters
from mammo_mlflow.commands.search import SEARCHED, TRIALS, SearchSettings
from mammo_mlflow.commands.shared import TASK, TrainingOptions
from mammo_mlflow.errors import expected
from mammo_mlflow.experiment import network_of


class FamilyOptions(TrainingOptions):
    """The options of a command that trains the models of a family."""

    family: ClassVar[str]
    task: Annotated[str, TASK]
    backbone: Annotated[str, Option("network of the family, or all", MODEL)] = "all"


class SearchedFamilyOptions(FamilyOptions, SearchSettings):
    """The options of a family that can be searched: `trials` or `timeout` starts a study."""

    trials: Annotated[int, TRIALS._replace(help=f"{TRIALS.help}; without trials and timeout nothing is searched")] = 0

    @property
    def searched(self) -> bool:
        """Whether the options start an Optuna study instead of single experiments."""
        return bool(self.trials or self.timeout)

    @model_validator(mode="after")
    def _endless(self) -> SearchedFamilyOptions:
        if not self.searched:
            for name, field in SearchSettings.model_fields.items():
                if name != "trials" and getattr(self, name) != field.default:
                    raise expected("trials", f"a number of trials beside '{name}', which is for searches", 0)
        return self


def _command(family: str, networks: str, summary: str, example: str, task: str | None = None) -> Command:
    base: type[FamilyOptions] = SearchedFamilyOptions if family in SEARCHED else FamilyOptions
    backbone = Option(f"{networks}, or all and a comparison", MODEL, network_of(family, "all"))
    own = {"backbone": (Annotated[str, backbone], "all")}
    if task is not None:
        own["task"] = (Annotated[str, Option("what is told apart, which is always this", MODEL)], task)
    options = with_parameters(f"{family.capitalize()}Options", base, family, own=own)
    options.family = family  # type: ignore[attr-defined]
    return Command(
        name=family,
        summary=summary,
        stage="models",
        options=options,
        run="mammo_mlflow.workflows.families:run",
        shown=("task", "backbone", "data"),
        example=example,
        family=family,
    )


PRETRAINED = _command(
    "pretrained",
    "pretrained network, several with + between to join their frozen features",
    "train, test and register models on a pretrained backbone",
    "--task mass_calc --backbone resnet50 --unfrozen-layers 1",
)
SCRATCH = _command(
    "scratch",
    "setting of the paper's chapter 4",
    "train, test and register convolutional networks from scratch",
    "--task benign_malignant --backbone m2",
)
SIAMESE = _command(
    "siamese",
    "encoder of both patches",
    "train, test and register Siamese networks, which compare an abnormality with its baseline patch",
    "--task mass_calc --backbone vgg16",
)
VIEWS = _command(
    "views",
    "encoder of both views",
    "train, test and register networks that join the two views, CC and MLO, of a lesion",
    "--task benign_malignant --backbone vgg16 --phantom-views 2",
)
CONDITIONED = _command(
    "conditioned",
    "approach: a on Siamese models, b on models without baselines, c given the true type",
    "train, test and register benign/malignant models that are given mass or calcification, by registered models",
    "--backbone a",
    task="benign_malignant",
)
