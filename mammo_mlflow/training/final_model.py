"""The final model: assembled, logged, loaded back, judged once on the test set, and registered."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from mammo_mlflow.data.patches import TASKS, PatchSet, lacking, targets
from mammo_mlflow.evaluation import figures
from mammo_mlflow.evaluation.intervals import score_estimates
from mammo_mlflow.evaluation.metrics import COUNTS, Estimate, scores, stored_estimate
from mammo_mlflow.evaluation.thresholds import choose_threshold
from mammo_mlflow.evaluation.units import per_patient
from mammo_mlflow.jobs.contracts import AssembleJob, Part, PredictJob
from mammo_mlflow.jobs.session import Session
from mammo_mlflow.pixels import describe_ranges
from mammo_mlflow.planning.plan import REFIT, Plan
from mammo_mlflow.tracking.compared import compared_tag
from mammo_mlflow.tracking.registry import find_version, log_model, make_candidate, register, registered_run
from mammo_mlflow.tracking.resume import fetch_artifacts, finished_runs
from mammo_mlflow.tracking.runs import TrackedRun
from mammo_mlflow.tracking.vetting import TRAINING_VALUES
from mammo_mlflow.training.cross_validation import CrossValidation, log_estimates
from mammo_mlflow.training.fit_runs import plan_dataset

EXAMPLE_PATCHES = 2
_COPIED = ("mammo.registered_name", "mammo.version", "mammo.model_id", "mammo.intervals", "mammo.no_interval")
THRESHOLD_FREE = ("roc_auc", "brier", "log_loss")

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Final:
    """A registered model and its stored test predictions (columns patch, label, probability)."""

    registered_name: str
    version: int
    run_id: str
    threshold: float
    accuracy: Estimate
    roc_auc: Estimate
    test: pd.DataFrame


def make_final(
    session: Session, cv: CrossValidation, name: str | None = None, tags: Mapping[str, str] | None = None
) -> Final:
    """Make, judge and register the final model of a cross-validation, or take the one an earlier command finished.

    It is registered under the experiment's name or `name`; `tags` go on its run and its version.
    """
    plan, registered, more = cv.plan, name or cv.plan.experiment.registered_name, dict(tags or {})
    key = plan.final_key(registered)
    if session.resume:
        done = _reuse(session, cv, key, registered, more)
        if done is not None:
            return done
    run = _start(session, cv, key, **more)
    labels, probabilities = cv.oof["label"].to_numpy(), cv.oof["probability"].to_numpy()
    threshold = choose_threshold(plan.experiment.final.threshold, labels, probabilities)
    refit = plan.experiment.final.final == REFIT
    chosen = {
        "threshold": threshold,
        "policy": plan.experiment.final.threshold,
        "chosen_on": "out-of-fold predictions",
        "patches": len(labels),
        # chosen for the fold models; the refit, or their mean, may be calibrated differently
        "transferred": True,
    }
    run.log_text(json.dumps(chosen, indent=1), "threshold.json")
    tails = (
        [cv.results[REFIT].tail] if refit else [cv.results[fit.name].tail for fit in plan.fits if fit.fold is not None]
    )
    directory = session.scratch / f"model-{run.id}"
    sources = plan.sources
    values = describe_ranges(plan.patch_set.train.patches, plan.sides)
    backbone = plan.experiment.model.backbone
    job = AssembleJob(
        name=f"{backbone} assembling",
        part=Part(plan.network, plan.weights, plan.description.trained.index, tuple(tails)),
        examples=_examples(plan),
        metadata={"mammo": {**plan.tags(), **chosen, "classes": TASKS[plan.experiment.task], TRAINING_VALUES: values}},
        output=directory,
        features=None if sources is None else sources.features.part,
        condition=None if sources is None or sources.condition is None else sources.condition.part,
    )
    session.run_one(job)
    session.writer.drain()
    marks = {**plan.tags(), **more, "mammo.key": key, "mammo.cv_run_id": cv.run.id}
    marks |= {"mammo.threshold": repr(threshold), "mammo.threshold_transferred": "true"}
    if sources is not None:
        marks |= compared_tag(session.writer, [source.version for source in sources.all])
    logged = log_model(session.writer, run.id, backbone, directory, marks, session.scratch / f"fetched-{run.id}")
    predicted = session.run_one(
        PredictJob(
            name=f"{backbone} test",
            model=logged.path,
            tensor=plan.patch_set.directory / "public_test_tensor.npy",
            threads=session.cores,
            sides=plan.sides,
            constants=plan.constants(plan.patch_set.test.types),
        )
    )
    if REFIT in cv.results:
        history = {REFIT: pd.DataFrame(cv.results[REFIT].history)}
        run.log_figure(figures.training_curves(history, f"{plan.name}: final fit", plan.note), "figures/final_fit.png")
    judged = Judged(plan.patch_set, plan.experiment.task, plan.name, plan.experiment.label, plan.note)
    test = log_test(session, judged, run, predicted, threshold)
    inputs = ", ".join([*plan.sides, *plan.constants(plan.patch_set.test.types)])
    description = (
        f"{plan.name}: raw 16-bit patches in ({inputs}), probability of '{TASKS[plan.experiment.task][1]}' out"
    )
    version = register(session.writer, registered, logged, run.id, marks, description)
    run.set_tags(
        {
            "mammo.registered_name": registered,
            "mammo.version": version,
            "mammo.model_id": logged.model_id,
        }
    )
    run.finish()
    session.writer.drain()
    return _read(session, run.id, registered, version, test)


def _examples(plan: Plan) -> dict[str, np.ndarray]:
    """A few inputs of the whole model, by name: patches (m, size, size, 1) uint16 and numbers (m, 1)."""
    train = plan.patch_set.train
    rows = slice(0, 2 * EXAMPLE_PATCHES)
    images = {name: np.asarray(train.patches[rows][first::2])[..., None] for name, first in plan.sides.items()}
    return images | {name: values[:EXAMPLE_PATCHES, None] for name, values in plan.constants(train.types).items()}


def _start(session: Session, cv: CrossValidation, key: str, **tags: str) -> TrackedRun:
    run = session.writer.start_run(
        f"{cv.plan.name} final",
        parent=cv.run,
        tags={**cv.plan.tags(), "mammo.fit": "final", "mammo.key": key, "mammo.cv_run_id": cv.run.id, **tags},
        params=cv.plan.experiment.flat(),
    )
    plan_dataset(cv.plan, run, "training")
    plan_dataset(cv.plan, run, "test")
    return run


@dataclass(frozen=True)
class Judged:
    """What is judged on the test set: a model for a task, its names, and what every figure must say of it."""

    patch_set: PatchSet
    task: str
    name: str
    label: str
    note: str | None


def log_test(
    session: Session,
    judged: Judged,
    run: TrackedRun,
    predicted: np.ndarray,
    threshold: float,
    others: Mapping[str, Estimate] | None = None,
) -> pd.DataFrame:
    """Log what probabilities (m,) of the test abnormalities are worth: metrics, figures and `test.parquet`.

    `others` are estimates of the same run, by name, logged with them: one tag says which have no interval, and why.
    """
    split = judged.patch_set.test
    labels, groups = targets(split.types, judged.task).astype(int), split.patient_ids
    test = pd.DataFrame(
        {"patch": np.arange(len(split)), "type": split.types, "label": labels, "probability": predicted}
    )
    if groups is not None:
        test["patient_id"] = groups
    found = dict(others or {})
    for prefix, at in (("test", 0.5), ("test_at_threshold", threshold)):
        estimates = score_estimates(labels, predicted, at, groups)
        found |= {f"{prefix}_{k}": v for k, v in estimates.items() if prefix == "test" or k not in THRESHOLD_FREE}
        run.log_metrics({f"{prefix}_{name}": scores(labels, predicted, at)[name] for name in COUNTS})
    if groups is not None:
        patients = per_patient(labels, predicted, groups)
        columns = [patients[name].to_numpy() for name in ("label", "probability", "patient_id")]
        for prefix, at in (("test_by_patient", 0.5), ("test_by_patient_at_threshold", threshold)):
            estimates = score_estimates(columns[0], columns[1], at, columns[2])
            found |= {
                f"{prefix}_{k}": v for k, v in estimates.items() if "threshold" not in prefix or k not in THRESHOLD_FREE
            }
        run.log_metrics({"test_patients": patients["patient_id"].nunique()})
    run.log_metrics({"test_patches": len(labels), "threshold": threshold})
    log_estimates(run, found, groups)
    path = session.scratch / f"final-{run.id}" / "test.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    test.to_parquet(path)
    run.log_file(path)
    _log_figures(judged, run, test, threshold)
    return test


def _log_figures(judged: Judged, run: TrackedRun, test: pd.DataFrame, threshold: float) -> None:
    labels, predicted = test["label"].to_numpy(), test["probability"].to_numpy()
    groups, classes = judged.patch_set.test.patient_ids, TASKS[judged.task]
    title, note = f"{judged.name}: test", judged.note
    run.log_figure(figures.confusion_matrix(labels, predicted, 0.5, classes, title, note), "figures/confusion.png")
    if threshold != 0.5:
        at = f"{title} at the chosen threshold"
        run.log_figure(
            figures.confusion_matrix(labels, predicted, threshold, classes, at, note),
            "figures/confusion_threshold.png",
        )
    curves = {judged.label: (labels, predicted, groups)}
    if missing := lacking(test["type"], judged.task):
        _log.warning("%s: %s abnormalities: what compares the two classes is left out", title, missing)
    else:
        run.log_figure(figures.roc_curves(curves, title, note), "figures/roc.png")
    run.log_figure(figures.calibration(labels, predicted, title, note), "figures/calibration.png")


def _reuse(session: Session, cv: CrossValidation, key: str, name: str, more: Mapping[str, str]) -> Final | None:
    """The final model that an earlier command registered, not made or tested again.

    Where it belongs to another cross-validation's run it is shown again, nested in this one's.
    """
    client = session.writer.client
    ask = session.writer.ask
    found = ask(lambda: finished_runs(client, [key])).get(key)
    if found is None:  # a command may have been killed between registering the model and ending its run
        registered = ask(lambda: registered_run(client, name, key))
        if registered is None:
            return None
        found, number = registered
        make_candidate(session.writer, name, number, cv.plan.patch_set.phantom)
        run = session.writer.reopen_run(found, None, {"mammo.registered_name": name, "mammo.version": str(number)})
        run.finish()
        session.writer.drain()
    tags = ask(lambda: client.get_run(found)).data.tags
    version = tags.get("mammo.version")
    if tags.get("mammo.registered_name") != name or version is None:
        return None
    if not ask(lambda: find_version(client, name, int(version))):
        return None
    folder = ask(lambda: fetch_artifacts(client, found, "", session.scratch / f"reused-{key}"))
    if folder is None or not (folder / "test.parquet").exists():
        return None
    if tags["mammo.cv_run_id"] == cv.run.id:
        return _read(session, found, name, int(version), pd.read_parquet(folder / "test.parquet"))
    copied = {tag: value for tag, value in tags.items() if tag in _COPIED}
    run = _start(session, cv, key, **{"mammo.reused_from": found, **copied, **more})
    run.log_metrics(ask(lambda: client.get_run(found)).data.metrics)
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            parent = str(Path(path.relative_to(folder)).parent)
            run.log_file(path, None if parent == "." else parent)
    run.finish()
    session.writer.drain()
    return _read(session, run.id, name, int(version), pd.read_parquet(folder / "test.parquet"))


def _read(session: Session, run_id: str, name: str, version: int, test: pd.DataFrame) -> Final:
    data = session.writer.ask(lambda: session.writer.client.get_run(run_id)).data
    missing = data.tags.get("mammo.no_interval", "")
    accuracy, roc_auc = (stored_estimate(f"test_{metric}", data.metrics, missing) for metric in ("accuracy", "roc_auc"))
    return Final(name, version, run_id, data.metrics["threshold"], accuracy, roc_auc, test)
