"""Make an ensemble a registered model: its key, its assembly of members, its comparison with them, its figures."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, fields
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd

from mammo_mlflow.data.patches import TASKS
from mammo_mlflow.disclosure import RANDOM
from mammo_mlflow.ensembles.answers import EnsembleAnswers
from mammo_mlflow.ensembles.fitted_methods import FittedMethods
from mammo_mlflow.ensembles.log_ensemble import log_members_test, log_out_of_fold, log_verdict
from mammo_mlflow.ensembles.members import SETS
from mammo_mlflow.ensembles.methods import ENSEMBLE_VERSION
from mammo_mlflow.estimate import Estimate
from mammo_mlflow.evaluation.paired import Verdict
from mammo_mlflow.evaluation.weighted import Floats
from mammo_mlflow.files import json_sha256
from mammo_mlflow.jobs.contracts import AnswerJob, EnsembleJob
from mammo_mlflow.jobs.workbench import Workbench
from mammo_mlflow.names import METADATA, TRAINING_VALUES, Metric, Tag, registered_name
from mammo_mlflow.pixels import describe_ranges
from mammo_mlflow.tracking.tracked_run import TrackedRun
from mammo_mlflow.tracking.vetting import SERVED_CODE
from mammo_mlflow.training.log_test import JudgedModel
from mammo_mlflow.training.registered_model import Final, ModelBuilder, ModelRecipe, example_patches, finish_model

BEST = "best"
"""As the method: the one with the best nested score."""
OWN = "selected"
"""What an ensemble of members named one by one is called."""
CLOSE = 1e-4
"""How far a member's answers inside of the ensemble may be from its stored ones."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class EnsembleSpec:
    """The options of the command `ensemble` that define an ensemble, as they were given."""

    members: str
    method: str
    objective: str
    threshold: str
    folds: int
    seed: int
    calibrate: str = "none"
    coverage: float = 0.0

    @property
    def keyed(self) -> dict[str, object]:
        """The options that are part of the key: those that were added later only where they are not their default."""
        added = {one.name: one.default for one in fields(self) if one.default is not MISSING}
        return {name: value for name, value in asdict(self).items() if name not in added or value != added[name]}


def ensemble_key(
    member_keys: Sequence[str], method: str, spec: EnsembleSpec, test_sha256: str, flips: Sequence[bool] = ()
) -> str:
    """The key of an ensemble, a sha256: of its members' keys, the method chosen, the options and the test set.

    `flips` are a part of it where any member answers over flips, which members of earlier ensembles did alone only.
    """
    facts: dict[str, object] = {"members": list(member_keys), "method": method, "test": test_sha256}
    facts |= {"asked": spec.keyed} | ({"flips": list(flips)} if any(flips) else {})
    return json_sha256({**facts, "ensemble_version": ENSEMBLE_VERSION})


@dataclass(frozen=True, kw_only=True)
class MadeEnsemble:
    """A registered ensemble, its method, and the verdict on whether it beats its best member out of fold."""

    final: Final
    method: str
    verdict: Verdict


def make_ensemble(bench: Workbench, fitted: FittedMethods, spec: EnsembleSpec) -> MadeEnsemble:
    """Make, judge and register the ensemble of a method, or of the best one, or take a registered one of the same key.

    Raises `UserError` where the threshold policy gives no threshold on the nested predictions.
    """
    builder = EnsembleBuilder(fitted, spec)
    final = finish_model(bench, builder)
    return MadeEnsemble(final=final, method=builder.method, verdict=builder.verdict)


class EnsembleBuilder(ModelBuilder):
    """Builds the registered model of an ensemble, in a run of its own."""

    def __init__(self, fitted: FittedMethods, spec: EnsembleSpec) -> None:
        self._fitted = fitted
        self.method = fitted.best_method if spec.method == BEST else spec.method
        self._settings = len(fitted.ensembles) if spec.method == BEST else 1
        self._chosen = fitted.ensembles[self.method]
        of_set = spec.members if spec.members in SETS else OWN
        versions = [member.base_model.version for member in fitted.members]
        self._flips = tuple(member.flips for member in fitted.members)
        keys, test = [version.tags[Tag.KEY] for version in versions], fitted.patch_set.test_sha256
        key = ensemble_key(keys, self.method, spec, test, self._flips)
        self._answers = EnsembleAnswers(
            nested=fitted.data.saying(self._chosen.probabilities), calibrate=spec.calibrate, coverage=spec.coverage
        )
        name = f"ensemble {of_set} {fitted.task}{fitted.disclosure.suffix}"
        self.recipe = ModelRecipe(
            registered_name=registered_name(fitted.task, "ensemble", of_set),
            key=key,
            model_name="ensemble",
            run_name=name,
            parent=None,
            tags=self._tags(of_set) | self._answers.tags | {Tag.KEY: key, Tag.MEMBERS: ", ".join(map(str, versions))},
            params={"task": fitted.task, "family": "ensemble", **asdict(spec)},
            judged=JudgedModel(
                patch_set=fitted.patch_set,
                task=fitted.task,
                name=name,
                label=of_set,
                note=fitted.disclosure.note,
                calibrated=self._answers.recalibrated,
                limits=self._answers.limits,
            ),
            policy=spec.threshold,
            predictions=self._answers.predictions,
            chosen_on="nested out-of-fold predictions",
            transferred=False,
            sides=fitted.sides,
            places={name: rows for member in fitted.members for name, rows in member.plan.places.items()},
            predict_job=AnswerJob,
            parts=versions,
            settings=self._settings,
            reuses_runs=False,
        )

    def _tags(self, of_set: str) -> dict[str, str]:
        shared = (Tag.TASK, Tag.DATA_SHA256, Tag.TEST_SHA256, Tag.FOLDS_SHA256, Tag.PHANTOM)
        tags = {tag: value for tag, value in self._fitted.members[0].plan.tags().items() if tag in shared}
        tags |= {Tag.FAMILY: "ensemble", Tag.BACKBONE: of_set, Tag.SET: "ensemble", Tag.METHOD: self.method}
        weights = "random" if RANDOM in self._fitted.disclosure else "of its members"
        return tags | {Tag.WEIGHTS: weights, Tag.CONTROL: "none"}

    @cached_property
    def verdict(self) -> Verdict:
        """The verdict on whether the ensemble beats its best member, on nested out-of-fold predictions."""
        return self._fitted.verdict(self.method, self._settings)

    def log_before(self, run: TrackedRun) -> None:
        """Log how members and methods compare, on out-of-fold predictions."""
        log_out_of_fold(self._fitted, run, self.method, self._answers)
        log_verdict(run, self.verdict)

    def assembly(self, output: Path, threshold: float, tags: Mapping[str, str]) -> EnsembleJob:
        """The job that writes the ensemble's MLflow model directory `output`. Writes the combiner's arrays now."""
        fitted, patch_set = self._fitted, self._fitted.patch_set
        level1 = output.with_name(f"{output.name}-level1.npz")
        self._answers.through_map(self._chosen.combiner).save(level1)
        values = describe_ranges(patch_set.train.patches, fitted.sides)
        return EnsembleJob(
            name="ensemble assembling",
            code=tuple(SERVED_CODE.values()),
            parts=tuple(member.base_model.part for member in fitted.members),
            names=tuple(fitted.names),
            flips=self._flips,
            level1=level1,
            threshold=threshold,
            examples=example_patches(patch_set, dict(sorted(fitted.sides.items()))),
            metadata={METADATA: {**tags, "classes": TASKS[fitted.task], TRAINING_VALUES: values}},
            output=output,
        )

    def probabilities(self, run: TrackedRun, answers: np.ndarray) -> Floats:
        """The ensemble's probabilities: the first column of the answers, float (m, 2 + members).

        The members' columns are compared with their stored test probabilities; a difference is logged as a warning.
        Members stand in an ensemble without their recalibration, and recalibrated ones are not compared.
        """
        members = enumerate(self._fitted.members, 2)
        alike = {n: one.test for n, one in members if not one.recalibrated}
        apart = max((float(np.abs(answers[:, n] - stored).max()) for n, stored in alike.items()), default=0.0)
        run.log_metrics({"member_test_difference_max": apart})
        if apart > CLOSE:
            _log.warning("a member answers up to %.2g differently inside of the ensemble than it did alone", apart)
        return answers[:, 0]

    def estimates(self) -> dict[str, Estimate]:
        """The estimates to log: the nested score of every method, and the out-of-fold scores of this ensemble."""
        nested = {f"{Metric.NESTED}{method}": one.nested for method, one in self._fitted.ensembles.items()}
        objective = self._fitted.objective.name.replace("=", "_")
        found = nested | {f"{Metric.OOF}{objective}": self._chosen.nested}
        found |= {f"{Metric.OOF}{name}": one for name, one in self.recipe.predictions.estimates().items()}
        found |= self._answers.estimates()
        if (by_lesion := self.recipe.predictions.by_lesion) is not None:
            found |= {f"{Metric.OOF_BY_LESION}{name}": one for name, one in by_lesion.estimates().items()}
        return found

    def log_after(self, run: TrackedRun, test: pd.DataFrame) -> str:
        """Log how the ensemble compares with its members on the test set; returns the verdict's sentence."""
        return log_members_test(self._fitted, run, test).sentence
