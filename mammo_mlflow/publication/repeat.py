"""Repeat what was published: the model's answers to the test set, and one fold, trained again; compare both."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from mammo_mlflow.data.patches import PatchSet, targets
from mammo_mlflow.data.splits import folds_sha256
from mammo_mlflow.errors import UserError, expected
from mammo_mlflow.experiment import ABNORMALITY_TYPE, OTHER_VIEW, ROWS, Experiment, build_from_text
from mammo_mlflow.jobs.contracts import AnswerJob, PredictJob
from mammo_mlflow.jobs.workbench import Workbench
from mammo_mlflow.names import Tag
from mammo_mlflow.planning.activations import ensure_activations
from mammo_mlflow.planning.plan import Fit, Plan, other_views
from mammo_mlflow.publication.manifest import SHORT
from mammo_mlflow.publication.privacy import OWN
from mammo_mlflow.publication.published_experiment import PublishedExperiment
from mammo_mlflow.publication.write import FOLDS, OUT_OF_FOLD, TEST
from mammo_mlflow.tracking.vetting import vet

BUILT_ON_OTHERS = ("conditioned", "ensemble")
"""The families of models that are built on other registered models, which a publication does not hold."""


@dataclass(frozen=True)
class Comparison:
    """Repeated probabilities against published ones: how many, the largest difference, and the patch that has it."""

    count: int
    largest: float
    patch: int

    @classmethod
    def of(cls, patches: np.ndarray, published: np.ndarray, repeated: np.ndarray) -> Comparison:
        """Compare probabilities, float (n,), of the abnormalities `patches`, int (n,)."""
        apart = np.abs(np.asarray(published, float) - np.asarray(repeated, float))
        worst = int(np.argmax(apart))
        return cls(len(apart), float(apart[worst]), int(patches[worst]))

    def within(self, tolerance: float) -> bool:
        """Whether no difference is larger than `tolerance`; one that is NaN is."""
        return self.largest <= tolerance

    def in_words(self, tolerance: float) -> str:
        """`the same`, `the same within 3e-07`, or what differs."""
        if self.largest == 0:
            return "the same"
        if self.within(tolerance):
            return f"the same within {self.largest:.1g} (largest difference of a probability)"
        return f"NOT the same: patch {self.patch} differs by {self.largest:.3g}, more than {tolerance:g}"


def check_data(published: PublishedExperiment, found: PatchSet) -> None:
    """Check that data are the published ones. Raises `UserError` that names every file with another sha256."""
    files = [
        str(expected(f"data: {name}", f"sha256 {wanted[:SHORT]}…", f"{found.files.get(name, 'no such file')[:SHORT]}…"))
        for name, wanted in published.files.items()
        if found.files.get(name) != wanted
    ]
    for said, tag, actual in (
        ("training data", Tag.DATA_SHA256, found.train_sha256),
        ("test data", Tag.TEST_SHA256, found.test_sha256),
    ):
        wanted = published.tags.get(tag, "")
        if wanted != actual and not files:
            files.append(str(expected(f"data: {said}", f"sha256 {wanted[:SHORT]}…", f"{actual[:SHORT]}…")))
    if files:
        raise UserError("; ".join(files))


def experiment_of(published: PublishedExperiment, weights: str) -> Experiment:
    """The published experiment, with weights from elsewhere where they are given. Raises `UserError`."""
    experiment = build_from_text(published.parameters)
    return experiment.changed(weights=weights) if weights else experiment


def check_plan(published: PublishedExperiment, plan: Plan, fit: Fit) -> str:
    """Check weights and folds of a plan against the published ones; return why numbers may differ, "" if no reason.

    Raises `UserError` where weights or folds are others.
    """
    tags = plan.tags()
    random = published.tags.get(Tag.WEIGHTS) == tags[Tag.WEIGHTS] == "random"  # drawn again, known by their version
    for field, tag in (("weights", Tag.WEIGHTS_SHA256), ("folds", Tag.FOLDS_SHA256)):
        wanted, found = published.tags.get(tag, ""), tags[tag]
        if wanted != found and not (random and tag == Tag.WEIGHTS_SHA256):
            raise expected(field, f"those of sha256 {wanted[:SHORT] or 'none'}…", f"{found[:SHORT] or 'none'}…")
    if published.folds.get(fit.name) == fit.key:
        return ""
    kinds = [one.get(Tag.DEVICE, "cpu") + "/" + one.get(Tag.KERAS_BACKEND, "") for one in (published.tags, tags)]
    if kinds[0] != kinds[1]:
        return f"published from {kinds[0]}, repeated on {kinds[1]}"
    return f"published by version {published.version}, whose code gives fits other keys"


def repeat_fold(bench: Workbench, plan: Plan, fit: Fit, scratch: Path) -> np.ndarray:
    """Train a fold again: probabilities, float (m,), of its validation rows. Raises `UserError` and `JobFailed`."""
    files = ensure_activations(bench, (*fit.features.values(), *fit.tuned.values()))
    features, tuned = ({side: files[entry.key] for side, entry in stage.items()} for stage in (fit.features, fit.tuned))
    together = sum(other.job.program == fit.job.program for other in plan.fits)
    job = replace(fit.job, output=scratch, features=features, tuned=tuned, together=together)
    answer = bench.run_one(job).probabilities
    bench.cache.release()
    return answer


def compare_fold(folder: Path, fit: Fit, repeated: np.ndarray) -> Comparison:
    """Compare a repeated fold with the published predictions of its rows. Raises `UserError` where rows are others."""
    stored = _table(folder / "tables" / OUT_OF_FOLD, "patch", "fold")
    own = stored[stored["fold"] == fit.fold]
    if not np.array_equal(own["patch"], fit.validation_rows):
        raise expected(f"tables/{OUT_OF_FOLD}", f"the {len(fit.validation_rows)} patches of {fit.name}", f"{len(own)}")
    probabilities = own[OWN if OWN in own else "probability"].to_numpy(float)
    return Comparison.of(own["patch"].to_numpy(), probabilities, repeated)


def check_folds(folder: Path, folds: np.ndarray) -> None:
    """Check the published folds against the folds (n,) that the data give. Raises `UserError`."""
    stored = _table(folder / "tables" / FOLDS, "patch", "fold")
    if folds_sha256(stored["fold"].to_numpy()) != folds_sha256(folds):
        raise expected(f"tables/{FOLDS}", "the folds that the data give", "others")


def compare_answers(bench: Workbench, folder: Path, data: PatchSet) -> Comparison:
    """Ask the published model about the test set, and compare with its published answers.

    Raises `UserError` where the model is not what this project makes.
    """
    made_of = vet(folder / "model")
    stored = _table(folder / "tables" / TEST, "patch", "probability")
    job: type[PredictJob] = AnswerJob if made_of.kind == "ensemble" else PredictJob
    types = {ABNORMALITY_TYPE: targets(data.test.types, "mass_calc").astype(np.float32)}
    answers = bench.run_one(
        job(
            name="model",
            model=folder / "model",
            tensor=data.directory / "public_test_tensor.npy",
            threads=bench.cores,
            sides={name: ROWS[name] for name in made_of.inputs if name in ROWS},
            constants={name: values for name, values in types.items() if name in made_of.inputs},
            places=other_views(data.test) if OTHER_VIEW in made_of.inputs else {},
        )
    )
    if not np.array_equal(stored["patch"], np.arange(len(data.test))):
        raise expected(f"tables/{TEST}", f"the {len(data.test)} abnormalities of the test set, in order", len(stored))
    found = answers if answers.ndim == 1 else answers[:, 0]
    return Comparison.of(stored["patch"].to_numpy(), stored["probability"].to_numpy(float), found)


def _table(path: Path, *needed: str) -> pd.DataFrame:
    """Read a published table, every probability to the last bit. Raises `UserError`."""
    try:
        found = pd.read_csv(path, converters={**dict.fromkeys(("probability", OWN), float), "patch": int, "fold": int})
    except (OSError, ValueError) as problem:
        raise expected(f"tables/{path.name}", "a table", str(problem).splitlines()[0]) from None
    if missing := [name for name in needed if name not in found]:
        raise expected(f"tables/{path.name}", f"the column {missing[0]}", ", ".join(map(str, found)))
    return found
