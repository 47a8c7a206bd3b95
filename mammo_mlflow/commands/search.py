"""The command `search`: run Optuna studies, each trial a whole cross-validation; register the best model."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

from pydantic import model_validator

from mammo_mlflow import checks
from mammo_mlflow.commands.base import MODEL, SEARCHING, Command, CommandOptions, Option, with_parameters
from mammo_mlflow.commands.shared import TrainingOptions
from mammo_mlflow.errors import expected
from mammo_mlflow.experiment import TASKS, FinalSpec

SEARCHED = ("pretrained", "scratch", "siamese")
"""The families that can be searched."""
TRIALS = Option(
    "trials finished in all, those of earlier commands among them; 0: as the time allows",
    SEARCHING,
    checks.whole_number(0, 1_000_000),
)


class SearchSettings(CommandOptions):
    """Options of a study: search space, objectives, sampler, pruner, storage, and how many trials to run."""

    trials: Annotated[int, TRIALS] = 20
    timeout: Annotated[
        float, Option("seconds after which no trial is begun any more; 0: no limit", SEARCHING, checks.at_least_zero)
    ] = 0.0
    space: Annotated[
        str,
        Option(
            "search space, a name such as frozen_head or a file; by default search_spaces/FAMILY-BACKBONE.yaml or "
            "FAMILY.yaml",
            SEARCHING,
            path=True,
        ),
    ] = ""
    objective: Annotated[
        str,
        Option(
            "objective on out-of-fold predictions, or two with a comma between them",
            SEARCHING,
            choices="mammo_mlflow.evaluation.objectives:CHOICES",
        ),
    ] = "roc_auc"
    sampler: Annotated[
        str, Option("what draws the trials", SEARCHING, choices="mammo_mlflow.search.sampling:SAMPLERS")
    ] = "tpe"
    pruner: Annotated[
        str,
        Option(
            "what ends a trial after its first folds; percentile=P takes another share",
            SEARCHING,
            choices="mammo_mlflow.search.pruning:PRUNERS",
        ),
    ] = "auto"
    storage: Annotated[
        str,
        Option(
            "database of the studies, any URL that SQLAlchemy knows; by default optuna.db beside MLflow's store",
            SEARCHING,
        ),
    ] = ""
    study: Annotated[str, Option("name of the study; by default one that tells what is searched", SEARCHING)] = ""
    generation: Annotated[
        str,
        Option(
            "trials drawn at once, from the results of those before; auto: 32 where heads are trained all at once, 4 "
            "where networks take turns on a card, else each when there is room for it",
            SEARCHING,
            checks.auto_or(1, 10_000),
        ),
    ] = "auto"
    repeats: Annotated[
        int,
        Option(
            "how often each trial repeats its folds, under seeds in a row; it is scored by the mean",
            SEARCHING,
            checks.whole_number(1, 100),
        ),
    ] = 1
    keep_tails: Annotated[
        str,
        Option(
            "whose trained tails are kept: the best trials', each when it led, and the paper's (best), or all",
            SEARCHING,
            checks.one_of("best", "all"),
        ),
    ] = "best"
    fresh_seeds: Annotated[
        str,
        Option(
            "seeds under which the best trial is compared with the paper's setting; 0: none; auto: 20 where heads are "
            "trained all at once, else 3",
            SEARCHING,
            checks.auto_or(0, 1000),
        ),
    ] = "auto"


class SearchOptions(TrainingOptions, SearchSettings):
    """The options of the command `search`."""

    family: Annotated[str, Option("family of the networks", MODEL, checks.one_of(*SEARCHED))] = "pretrained"
    task: Annotated[str, Option("what is told apart; all: a study for each", MODEL, checks.one_of(*TASKS, "all"))]
    backbone: Annotated[
        str, Option("a network of the family; all: a study for each, or one of all where its space draws it", MODEL)
    ] = "all"

    @model_validator(mode="after")
    def _ends(self) -> SearchOptions:
        if not (self.trials or self.timeout):
            raise expected("trials", "at least 1, or a timeout", 0)
        return self


SEARCH = Command(
    name="search",
    summary="search parameters by Optuna studies, each trial a whole cross-validation, and register the best model",
    stage="beside and beyond them",
    options=with_parameters("SearchCommandOptions", SearchOptions),
    run="mammo_mlflow.workflows.search:run",
    shown=("family", "task", "backbone", "data", "trials"),
    example="--task benign_malignant --backbone resnet50 --trials 30",
    sets=asdict(FinalSpec()),  # of the best trial's model
)
