"""The final model of a cross-validation: the refit or the mean of the fold models, as a registered model."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from functools import cached_property
from pathlib import Path

import pandas as pd

from mammo_mlflow.data.patches import TASKS
from mammo_mlflow.evaluation import figures
from mammo_mlflow.evaluation.recalibration import RECALIBRATIONS, RecalibrationMap
from mammo_mlflow.experiment import FinalSpec
from mammo_mlflow.jobs.contracts import AssembleJob
from mammo_mlflow.jobs.workbench import Workbench
from mammo_mlflow.names import METADATA, TRAINING_VALUES, Artifact, Tag
from mammo_mlflow.pixels import describe_ranges
from mammo_mlflow.planning.plan import REFIT
from mammo_mlflow.tracking.tracked_run import TrackedRun
from mammo_mlflow.training.cross_validation import CrossValidation
from mammo_mlflow.training.fit_runs import plan_dataset
from mammo_mlflow.training.log_test import JudgedModel
from mammo_mlflow.training.registered_model import (
    EXAMPLE_PATCHES,
    Final,
    ModelBuilder,
    ModelRecipe,
    example_patches,
    finish_model,
)


def make_final(
    bench: Workbench, cv: CrossValidation, name: str | None = None, tags: Mapping[str, str] | None = None
) -> Final:
    """Make, judge and register the final model of a cross-validation, or take the one an earlier command finished.

    It is registered under the experiment's name or `name`; `tags` go on its run and its version.
    Raises `UserError` where the experiment's threshold policy gives no threshold on the out-of-fold predictions.
    """
    return finish_model(bench, FinalModelBuilder(cv, name or cv.plan.experiment.registered_name, tags or {}))


class FinalModelBuilder(ModelBuilder):
    """Builds the final model of a cross-validation, in a run nested in the cross-validation's."""

    def __init__(self, cv: CrossValidation, registered_name: str, tags: Mapping[str, str]) -> None:
        self._cv, plan = cv, cv.plan
        experiment, key = plan.experiment, plan.final_key(registered_name)
        self._told = _recalibrated(experiment.final) | (cv.limits.tags if cv.limits else {})
        self.recipe = ModelRecipe(
            registered_name=registered_name,
            key=key,
            model_name=experiment.model.backbone,
            run_name=f"final {plan.name}",
            parent=cv.run,
            tags={**plan.tags(), **self._told, **tags, Tag.KEY: key, Tag.CV_RUN_ID: cv.run.id},
            run_tags={Tag.FIT: "final"},
            params=experiment.flat(),
            judged=JudgedModel(
                patch_set=plan.patch_set,
                task=experiment.task,
                name=plan.name,
                label=experiment.label,
                note=plan.disclosure.note,
                calibrated=experiment.final.calibrate != "none",
                limits=cv.limits,
            ),
            policy=experiment.final.threshold,
            predictions=cv.judged,
            chosen_on="out-of-fold predictions",
            transferred=True,
            unit=experiment.final.unit,
            sides=plan.sides,
            constants=plan.constants(plan.patch_set.test.types),
            places=plan.places,
            parts=() if plan.base is None else plan.base.versions,
            reuses_runs=True,
        )

    def log_before(self, run: TrackedRun) -> None:
        """Log the training and the test data."""
        plan_dataset(self._cv.plan, run, "training")
        plan_dataset(self._cv.plan, run, "test")
        if self._map is not None:
            record = {"calibrate": self._cv.plan.experiment.final.calibrate, **asdict(self._map)}
            run.log_text(
                json.dumps({**record, "said": self.recipe.tags[Tag.RECALIBRATED]}, indent=1), Artifact.RECALIBRATION
            )

    @cached_property
    def _map(self) -> RecalibrationMap | None:
        """The map that the model's answers go through, fitted on all out-of-fold predictions; None without one."""
        fit, data = RECALIBRATIONS.get(self._cv.plan.experiment.final.calibrate), self._cv.uncalibrated
        return None if fit is None else fit(data.labels, data.probabilities)

    def assembly(self, output: Path, threshold: float, tags: Mapping[str, str]) -> AssembleJob:
        """The job that writes the final model as an MLflow model directory `output`."""
        plan = self._cv.plan
        base, train, experiment = plan.base, plan.patch_set.train, plan.experiment
        refit = experiment.final.final == REFIT
        numbers = {name: given[:EXAMPLE_PATCHES, None] for name, given in plan.constants(train.types).items()}
        results = [self._cv.results[fit.name] for fit in plan.fits if (fit.fold is None) == refit]
        metadata = {
            **plan.tags(),
            **self._told,
            **self.recipe.threshold_record(threshold),
            "classes": TASKS[experiment.task],
            TRAINING_VALUES: describe_ranges(train.patches, plan.sides),
        }
        return AssembleJob(
            name=f"{experiment.model.backbone} assembling",
            part=plan.part(result.tail for result in results if result.tail is not None),
            examples=example_patches(plan.patch_set, plan.sides) | numbers,
            metadata={METADATA: metadata},
            output=output,
            flips=experiment.final.tta != "none",
            recalibration=self._map,
            features=None if base is None else base.features,
            condition=None if base is None else base.condition,
        )

    def log_after(self, run: TrackedRun, test: pd.DataFrame) -> str:
        """Draw the training curves of the refit, where there is one."""
        plan, results = self._cv.plan, self._cv.results
        if REFIT in results:
            history = {REFIT: pd.DataFrame(results[REFIT].history)}
            run.log_figure(
                figures.training_curves(history, f"{plan.name}: final fit", plan.disclosure.note), "final_fit"
            )
        return ""


def _recalibrated(final: FinalSpec) -> dict[str, str]:
    """The tag that says how the model is recalibrated; none where it is not."""
    if final.calibrate == "none":
        return {}
    made = "refit on all patches" if final.final == REFIT else "the mean of these models"
    said = f"by a map ({final.calibrate}) of the folds' models, fitted on their out-of-fold predictions"
    return {Tag.RECALIBRATED: f"{said}; this model, {made}, may be calibrated otherwise"}
