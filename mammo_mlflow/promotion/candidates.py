"""The candidates of a decision about a task's champion, with their stored out-of-fold predictions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from mammo_mlflow.data.patches import LESION_COLUMNS
from mammo_mlflow.disclosure import PHANTOM, Disclosure
from mammo_mlflow.errors import UserError, expected
from mammo_mlflow.estimate import Estimate
from mammo_mlflow.evaluation.gates import Gate
from mammo_mlflow.evaluation.objectives import Objective
from mammo_mlflow.evaluation.out_of_fold import OutOfFold
from mammo_mlflow.files import below
from mammo_mlflow.names import Artifact, Metric, Tag
from mammo_mlflow.tracking.champions import candidates_of, origin, rolled_back, why_never_champion
from mammo_mlflow.tracking.registry import Version, find_model, find_run, threshold_of
from mammo_mlflow.tracking.run_queries import fetch_artifacts
from mammo_mlflow.tracking.runs import Writer

ALL = "all"
"""As the candidate: every candidate of the task."""
BEST = "best"
"""The gate that all but one of the candidates fail which passed all others: that one has a better score."""


@dataclass(frozen=True, kw_only=True)
class PromotionSpec:
    """The options of the command `promote` that define a decision about a task's champion."""

    task: str
    candidate: str
    objective: str
    calibration: float
    specificity_loss: float
    unit: str
    rollback: bool
    executor: str

    @property
    def params(self) -> dict[str, object]:
        """The parameters of the decision's run."""
        return asdict(self)


@dataclass(kw_only=True)
class Candidate:
    """A model version that may become champion, and its results of the gates up to the first it failed.

    `predictions` are its stored out-of-fold predictions, without which it fails the gate `data`; `score` is their value
    of the objective.
    `compared` is the number of settings that it is the best of.
    """

    version: Version
    predictions: OutOfFold | None = None
    compared: int = 1
    gates: list[Gate] = field(default_factory=list)
    score: Estimate = field(default_factory=Estimate)

    @property
    def failed(self) -> Gate | None:
        """The gate that the candidate failed; None if there is none."""
        return next((gate for gate in self.gates if not gate.passed), None)


def find_candidates(
    writer: Writer, spec: PromotionSpec, objective: Objective, champion: Version | None, folder: Path
) -> list[Candidate]:
    """Find the candidates that the options name, fetch their predictions below `folder`, sort the best score first.

    With `all`, those that were champion before are left out.
    Raises `UserError` where there is none, or one that is asked for by name is of another task or no candidate.
    """
    versions = _all_candidates(writer, spec, champion) if spec.candidate == ALL else _named_candidates(writer, spec)
    if not versions:
        others = "" if champion is None else f" beside the champion, {champion_name(champion)}"
        raise expected(
            "candidate", f"a registered model of {spec.task}{others}", "none; `ensemble` or a family makes one"
        )
    found = []
    for version in versions:
        one = Candidate(version=version)
        try:
            one.predictions = stored_predictions(writer, version, folder, spec.unit)
            one.score = one.predictions.estimate(objective.name)
        except UserError as problem:
            one.gates.append(Gate("data", False, str(problem)))
        found.append(one)
    sign = 1 if objective.direction == "maximize" else -1
    return sorted(found, key=lambda one: np.nan_to_num(-sign * one.score.value, nan=np.inf))


def _named_candidates(writer: Writer, spec: PromotionSpec) -> list[Version]:
    spelled = [one.strip() for one in spec.candidate.split(",")]
    found = list({str(one): one for one in (find_model(writer.client, name) for name in spelled)}.values())
    for version in found:
        other = version.tags.get(Tag.TASK, "a task not known here")
        if other != spec.task:
            raise expected("candidate", f"a model for {spec.task}", f"{version}, for {other}")
        if why := why_never_champion(version):
            raise expected("candidate", "a model that could be champion", f"{version}, {why}")
    return found


def _all_candidates(writer: Writer, spec: PromotionSpec, champion: Version | None) -> list[Version]:
    past = rolled_back(writer.client, spec.task) | {origin(champion) if champion else ""}
    return [one for one in candidates_of(writer.client, spec.task) if str(one) not in past]


def stored_predictions(writer: Writer, version: Version, folder: Path, unit: str) -> OutOfFold:
    """Fetch a version's stored out-of-fold predictions, nested ones of an ensemble, with its threshold.

    They are of patches or lesions (`unit`), and fetched below `folder`. Raises `UserError` where they are gone or
    damaged, or lesions are not known.
    """
    run_id = version.tags.get(Tag.CV_RUN_ID, version.run_id) or "-"
    path = None
    if writer.ask(lambda: find_run(writer.client, run_id)) is not None:
        path = writer.ask(lambda: fetch_artifacts(writer.client, run_id, Artifact.OOF, below(folder, run_id)))
    if path is None:
        raise expected(f"{version}", "its out-of-fold predictions in the store", "none")
    try:
        frame = pd.read_parquet(path).sort_values("patch")
        by_patch = OutOfFold.of_frame(frame, threshold_of(version))
        found = by_patch if unit == "patch" else by_patch.by_lesion
    except (OSError, ValueError, KeyError, TypeError, UserError) as problem:
        said = str(problem).split("\n")[0]
        raise expected(f"{version}: {Artifact.OOF}", "out-of-fold predictions", said) from None
    if found is None:
        wanted = f"lesions for unit=lesion, of data whose train_groups.csv has {', '.join(LESION_COLUMNS)}"
        raise expected(f"{version}: {Artifact.OOF}", wanted, "patches alone")
    return found


def stored_test(writer: Writer, version: Version) -> Estimate | None:
    """Read a version's stored test ROC AUC, which no gate looks at; None where it was not tested."""
    run = writer.ask(lambda: find_run(writer.client, version.run_id or "-"))
    tested = {Metric.TEST_ACCURACY, Metric.TEST_ROC_AUC}  # the latter may not exist
    if run is None or not tested & set(run.data.metrics):
        return None
    return Estimate.read(Metric.TEST_ROC_AUC, run.data.metrics, run.data.tags)


def data_of(version: Version) -> tuple[str, ...]:
    """The sha256 of the data and of the folds that a version was trained on."""
    return tuple(version.tags.get(name, "") for name in (Tag.DATA_SHA256, Tag.FOLDS_SHA256))


def disclosure_of(candidates: Sequence[Candidate]) -> Disclosure:
    """The facts to disclose of a decision between versions: phantom data where all were trained on it."""
    return Disclosure.of(phantom=all(PHANTOM in one.version.disclosure for one in candidates))


def champion_name(version: Version | None) -> str:
    """Name a champion by its version and the version it was promoted from; "none" for None."""
    if version is None:
        return "none"
    return f"{version} ({version.tags[Tag.PROMOTED_FROM]})" if Tag.PROMOTED_FROM in version.tags else str(version)
