"""The final model: assembled, logged, loaded back, judged once on the test set, and registered."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from mammo_mlflow.data.patches import TASKS, PatchSet, missing_classes, targets
from mammo_mlflow.estimate import Estimate, log_estimates
from mammo_mlflow.evaluation import figures
from mammo_mlflow.evaluation.intervals import cluster_note, score_estimates
from mammo_mlflow.evaluation.metrics import COUNTS, scores
from mammo_mlflow.evaluation.thresholds import choose_threshold
from mammo_mlflow.evaluation.units import per_patient
from mammo_mlflow.jobs.contracts import AssembleJob, PredictJob
from mammo_mlflow.jobs.workbench import Workbench
from mammo_mlflow.names import METADATA, TRAINING_VALUES, Artifact, Metric, Tag
from mammo_mlflow.pixels import describe_ranges
from mammo_mlflow.planning.plan import REFIT
from mammo_mlflow.tracking.compared import compared_tag
from mammo_mlflow.tracking.registry import find_version, log_model, make_candidate, register, registered_run
from mammo_mlflow.tracking.run_queries import fetch_artifacts, finished_runs
from mammo_mlflow.tracking.runs import TrackedRun
from mammo_mlflow.training.cross_validation import CrossValidation
from mammo_mlflow.training.fit_runs import plan_dataset

EXAMPLE_PATCHES = 2
_COPIED = (Tag.REGISTERED_NAME, Tag.VERSION, Tag.MODEL_ID, Tag.INTERVALS, Tag.NO_INTERVAL)
THRESHOLD_FREE = ("roc_auc", "brier", "log_loss")

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Final:
    """A registered model and its stored test predictions (columns patch, label, probability)."""

    registered_name: str
    version: int
    run_id: str
    threshold: float
    accuracy: Estimate
    roc_auc: Estimate
    test: pd.DataFrame

    def tell(self, run: TrackedRun) -> None:
        """Put its figures and its registered version on a run above its own."""
        run.log_metrics({Metric.TEST_ACCURACY: self.accuracy.value, Metric.TEST_ROC_AUC: self.roc_auc.value})
        run.set_tags({Tag.REGISTERED_NAME: self.registered_name, Tag.VERSION: self.version})


def make_final(
    bench: Workbench, cv: CrossValidation, name: str | None = None, tags: Mapping[str, str] | None = None
) -> Final:
    """Make, judge and register the final model of a cross-validation, or take the one an earlier command finished.

    It is registered under the experiment's name or `name`; `tags` go on its run and its version.
    """
    plan, registered, more = cv.plan, name or cv.plan.experiment.registered_name, dict(tags or {})
    key = plan.final_key(registered)
    if bench.resume and (done := _reuse(bench, cv, key, registered, more)) is not None:
        return done
    run, said, policy = _start(bench, cv, key, **more), cv.predictions, plan.experiment.final.threshold
    threshold = choose_threshold(policy, said.labels, said.probabilities)
    chosen = {
        "threshold": threshold,
        "policy": policy,
        "chosen_on": "out-of-fold predictions",
        "patches": len(said.labels),
        # chosen for the fold models; the refit, or their mean, may be calibrated differently
        "transferred": True,
    }
    run.log_text(json.dumps(chosen, indent=1), Artifact.THRESHOLD)
    assembly = _assembly(cv, chosen, bench.scratch / f"model-{run.id}")
    bench.run_one(assembly)
    bench.writer.drain()
    marks = {**plan.tags(), **more, Tag.KEY: key, Tag.CV_RUN_ID: cv.run.id}
    marks |= {Tag.THRESHOLD: repr(threshold), Tag.THRESHOLD_TRANSFERRED: "true"}
    if plan.base is not None:
        marks |= compared_tag(bench.writer, plan.base.versions)
    backbone, constants = plan.experiment.model.backbone, plan.constants(plan.patch_set.test.types)
    logged = log_model(bench.writer, run.id, backbone, assembly.output, marks, bench.scratch / f"fetched-{run.id}")
    predicted = bench.run_one(
        PredictJob(
            name=f"{backbone} test",
            model=logged.path,
            tensor=plan.patch_set.directory / "public_test_tensor.npy",
            threads=bench.cores,
            sides=plan.sides,
            constants=constants,
        )
    )
    if REFIT in cv.results:
        history = {REFIT: pd.DataFrame(cv.results[REFIT].history)}
        run.log_figure(figures.training_curves(history, f"{plan.name}: final fit", plan.said.note), "final_fit")
    judged = Judged(
        patch_set=plan.patch_set,
        task=plan.experiment.task,
        name=plan.name,
        label=plan.experiment.label,
        note=plan.said.note,
    )
    test = log_test(judged, run, predicted, threshold)
    inputs, positive = ", ".join([*plan.sides, *constants]), TASKS[plan.experiment.task][1]
    description = f"{plan.name}: raw 16-bit patches in ({inputs}), probability of '{positive}' out"
    version = register(bench.writer, registered, logged, run.id, marks, description)
    run.set_tags({Tag.REGISTERED_NAME: registered, Tag.VERSION: version, Tag.MODEL_ID: logged.model_id})
    run.close()
    return _read(bench, run.id, registered, version, test)


def _assembly(cv: CrossValidation, chosen: Mapping[str, object], output: Path) -> AssembleJob:
    """What makes the model, with a few inputs as examples: patches (m, size, size, 1) uint16 and numbers (m, 1)."""
    plan, base, train, experiment = cv.plan, cv.plan.base, cv.plan.patch_set.train, cv.plan.experiment
    refit, values = experiment.final.final == REFIT, describe_ranges(train.patches, plan.sides)
    pairs = train.patches[: 2 * EXAMPLE_PATCHES]
    images = {name: np.asarray(pairs[first::2])[..., None] for name, first in plan.sides.items()}
    numbers = {name: given[:EXAMPLE_PATCHES, None] for name, given in plan.constants(train.types).items()}
    return AssembleJob(
        name=f"{experiment.model.backbone} assembling",
        part=plan.part(cv.results[fit.name].tail for fit in plan.fits if (fit.fold is None) == refit),
        examples=images | numbers,
        metadata={METADATA: {**plan.tags(), **chosen, "classes": TASKS[experiment.task], TRAINING_VALUES: values}},
        output=output,
        features=None if base is None else base.features,
        condition=None if base is None else base.condition,
    )


def _start(bench: Workbench, cv: CrossValidation, key: str, **tags: str) -> TrackedRun:
    run = bench.writer.start_run(
        f"{cv.plan.name} final",
        parent=cv.run,
        tags={**cv.plan.tags(), Tag.FIT: "final", Tag.KEY: key, Tag.CV_RUN_ID: cv.run.id, **tags},
        params=cv.plan.experiment.flat(),
    )
    plan_dataset(cv.plan, run, "training")
    plan_dataset(cv.plan, run, "test")
    return run


@dataclass(frozen=True, kw_only=True)
class Judged:
    """What is judged on the test set: a model for a task, its names, and what every figure must say of it."""

    patch_set: PatchSet
    task: str
    name: str
    label: str
    note: str | None


def log_test(
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
    judged_rows = {Metric.TEST: (labels, predicted, groups)}
    if groups is not None:
        patients = per_patient(labels, predicted, groups)
        judged_rows[Metric.BY_PATIENT] = tuple(patients[k].to_numpy() for k in ("label", "probability", "patient_id"))
        run.log_metrics({Metric.TEST_PATIENTS: patients["patient_id"].nunique()})
    found, cuts = dict(others or {}), {"": 0.5, Metric.AT_THRESHOLD: threshold}
    for name, (actual, answered, who) in judged_rows.items():
        for end, at in cuts.items():
            estimates = score_estimates(actual, answered, at, who)
            found |= {f"{name}{end}{k}": v for k, v in estimates.items() if not end or k not in THRESHOLD_FREE}
    for end, at in cuts.items():
        run.log_metrics({f"{Metric.TEST}{end}{name}": scores(labels, predicted, at)[name] for name in COUNTS})
    run.log_metrics({Metric.TEST_PATCHES: len(labels), Metric.THRESHOLD: threshold})
    log_estimates(run, found, cluster_note(groups))
    run.log_table(test, Artifact.TEST)
    _log_figures(judged, run, test, threshold)
    return test


def _log_figures(judged: Judged, run: TrackedRun, test: pd.DataFrame, threshold: float) -> None:
    labels, predicted = test["label"].to_numpy(), test["probability"].to_numpy()
    groups, classes = judged.patch_set.test.patient_ids, TASKS[judged.task]
    title, note = f"{judged.name}: test", judged.note
    run.log_figure(figures.confusion_matrix(labels, predicted, 0.5, classes, title, note), "confusion")
    if threshold != 0.5:
        at = f"{title} at the chosen threshold"
        run.log_figure(figures.confusion_matrix(labels, predicted, threshold, classes, at, note), "confusion_threshold")
    curves = {judged.label: (labels, predicted, groups)}
    if missing := missing_classes(test["type"], judged.task):
        _log.warning("%s: %s abnormalities: what compares the two classes is left out", title, missing)
    else:
        run.log_figure(figures.roc_curves(curves, title, note), "roc")
    run.log_figure(figures.calibration(labels, predicted, title, note), "calibration")


def _reuse(bench: Workbench, cv: CrossValidation, key: str, name: str, more: Mapping[str, str]) -> Final | None:
    """The final model that an earlier command registered, not made or tested again.

    Where it belongs to another cross-validation's run it is shown again, nested in this one's.
    """
    client, ask = bench.writer.client, bench.writer.ask
    found = ask(lambda: finished_runs(client, [key])).get(key)
    if found is None:  # a command may have been killed between registering the model and ending its run
        registered = ask(lambda: registered_run(client, name, key))
        if registered is None:
            return None
        found, number = registered
        make_candidate(bench.writer, name, number, cv.plan.patch_set.phantom)
        run = bench.writer.reopen_run(found, None, {Tag.REGISTERED_NAME: name, Tag.VERSION: str(number)})
        run.close()
    data = ask(lambda: client.get_run(found)).data
    tags, version = data.tags, data.tags.get(Tag.VERSION)
    if tags.get(Tag.REGISTERED_NAME) != name or version is None:
        return None
    if not ask(lambda: find_version(client, name, int(version))):
        return None
    folder = ask(lambda: fetch_artifacts(client, found, "", bench.scratch / f"reused-{key}"))
    if folder is None or not (folder / Artifact.TEST).exists():
        return None
    if tags[Tag.CV_RUN_ID] == cv.run.id:
        return _read(bench, found, name, int(version), pd.read_parquet(folder / Artifact.TEST))
    copied = {tag: value for tag, value in tags.items() if tag in _COPIED}
    run = _start(bench, cv, key, **{Tag.REUSED_FROM: found, **copied, **more})
    run.log_metrics(data.metrics)
    run.log_folder(folder)
    run.close()
    return _read(bench, run.id, name, int(version), pd.read_parquet(folder / Artifact.TEST))


def _read(bench: Workbench, run_id: str, name: str, version: int, test: pd.DataFrame) -> Final:
    data = bench.writer.ask(lambda: bench.writer.client.get_run(run_id)).data
    names = Metric.TEST_ACCURACY, Metric.TEST_ROC_AUC
    accuracy, roc_auc = (Estimate.read(one, data.metrics, data.tags) for one in names)
    return Final(
        registered_name=name,
        version=version,
        run_id=run_id,
        threshold=data.metrics[Metric.THRESHOLD],
        accuracy=accuracy,
        roc_auc=roc_auc,
        test=test,
    )
