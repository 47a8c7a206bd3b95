"""Make a registered model: threshold, assembling, logging, fetching back, predicting, judging, registering.

One sequence for the final model of every family and for ensembles. A `ModelBuilder` says what differs between them.
What an earlier command registered under the same key is taken instead of being made again.
"""

from __future__ import annotations

import json
import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from mammo_mlflow.data.patches import TASKS, PatchSet
from mammo_mlflow.disclosure import INTENDED_USE
from mammo_mlflow.estimate import Estimate
from mammo_mlflow.evaluation.intervals import cluster_note
from mammo_mlflow.evaluation.out_of_fold import OutOfFold
from mammo_mlflow.evaluation.thresholds import choose_threshold
from mammo_mlflow.experiment import SEVERAL
from mammo_mlflow.jobs.contracts import AssembleJob, EnsembleJob, PredictJob
from mammo_mlflow.jobs.workbench import Workbench
from mammo_mlflow.names import Artifact, Metric, Tag
from mammo_mlflow.tracking.compared import compared_tag, tell_compared
from mammo_mlflow.tracking.descriptions import describe_version
from mammo_mlflow.tracking.logged_models import log_model
from mammo_mlflow.tracking.orphans import close_orphaned_runs
from mammo_mlflow.tracking.registry import (
    Version,
    find_version,
    make_candidate,
    register,
    registered_run,
)
from mammo_mlflow.tracking.run_queries import fetch_artifacts, finished_runs
from mammo_mlflow.tracking.runs import Writer
from mammo_mlflow.tracking.tracked_run import TrackedRun
from mammo_mlflow.training.log_test import JudgedModel, log_test

EXAMPLE_PATCHES = 2
_COPIED = (Tag.REGISTERED_NAME, Tag.VERSION, Tag.MODEL_ID, Tag.INTERVALS, Tag.NO_INTERVAL)

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Final:
    """A registered model with its test results.

    `test` are its stored test predictions, as `log_test` makes them. `comparison` says how an ensemble compares with
    its members there; it is "" for other models.
    """

    registered_name: str
    version: int
    run_id: str
    threshold: float
    accuracy: Estimate
    roc_auc: Estimate
    test: pd.DataFrame
    comparison: str = ""

    def tell(self, run: TrackedRun) -> None:
        """Log the model's test scores and registered version on a parent run."""
        run.log_metrics({Metric.TEST_ACCURACY: self.accuracy.value, Metric.TEST_ROC_AUC: self.roc_auc.value})
        run.set_tags({Tag.REGISTERED_NAME: self.registered_name, Tag.VERSION: self.version})


@dataclass(frozen=True, kw_only=True)
class ModelRecipe:
    """Everything that is known about a registered model before it is made: names, tags, data, threshold policy.

    `parent`: the run in which the model's run is nested; None where that is the top run of a command.
    `tags`: on its run and on its version; `run_tags`: on its run alone; `params`: the run's parameters.
    `policy`: how the threshold is chosen on `predictions`, which `chosen_on` names in words; `transferred` where these
    are not of the registered model itself but of the folds'; `unit` (of `UNITS`) is what they are of.
    `sides`, `constants`, `places`: its inputs, as in jobs; `predict_job`: the job that asks it.
    `parts`: the registered models that it is made of; `settings`: how many settings it is the best of.
    `reuses_runs`: whether a finished run of the same key is copied. Otherwise a registered version of that key is
    reused, and judged anew.
    """

    registered_name: str
    key: str
    model_name: str
    run_name: str
    parent: TrackedRun | None
    tags: Mapping[str, str]
    run_tags: Mapping[str, str] = field(default_factory=dict)
    params: Mapping[str, object]
    judged: JudgedModel
    policy: str
    predictions: OutOfFold
    chosen_on: str
    transferred: bool
    unit: str = "patch"
    sides: dict[str, int]
    constants: dict[str, np.ndarray] = field(default_factory=dict)
    places: dict[str, np.ndarray] = field(default_factory=dict)
    predict_job: type[PredictJob] = PredictJob
    parts: Sequence[Version] = ()
    settings: int = 1
    reuses_runs: bool

    @property
    def description(self) -> str:
        """The model's description in the registry: name, inputs, and the class whose probability is the output."""
        inputs, positive = ", ".join([*self.sides, *self.constants]), TASKS[self.judged.task][1]
        return f"{self.judged.name}: raw 16-bit patches in ({inputs}), probability of '{positive}' out"

    def threshold_record(self, threshold: float) -> dict[str, object]:
        """The record of how the threshold was chosen, which is stored with the model as JSON."""
        record = {"threshold": threshold, "policy": self.policy, "chosen_on": self.chosen_on}
        # chosen for the fold models; the refit, or their mean, may be calibrated differently
        return record | (
            {SEVERAL[self.unit]: len(self.predictions.labels), "transferred": True} if self.transferred else {}
        )


class ModelBuilder(ABC):
    """Abstract base of the makers of one kind of registered model; `finish_model` calls the methods."""

    recipe: ModelRecipe

    @abstractmethod
    def log_before(self, run: TrackedRun) -> None:
        """Log on the model's run, before the model is made, what is known by then."""

    @abstractmethod
    def assembly(self, output: Path, threshold: float, tags: Mapping[str, str]) -> AssembleJob | EnsembleJob:
        """Make the job that writes the model as an MLflow model directory `output`; `tags` are the version's."""

    def probabilities(self, run: TrackedRun, answers: np.ndarray) -> np.ndarray:
        """The probabilities, float (m,), of the m test abnormalities, taken from the model's output."""
        return answers

    def estimates(self) -> dict[str, Estimate]:
        """The estimates, by name, to log together with those on the test set."""
        return {}

    def log_after(self, run: TrackedRun, test: pd.DataFrame) -> str:
        """Log what is specific to this kind of model, once the test set is predicted; returns `Final.comparison`."""
        return ""


def finish_model(bench: Workbench, builder: ModelBuilder) -> Final:
    """Make, judge, register and describe a model, or take what an earlier command registered under the same key.

    Raises `UserError` where the policy gives no threshold on its predictions.
    """
    final, writer = _finished(bench, builder), bench.writer
    text = _version_description(writer, builder.recipe, final)
    writer.ask(lambda: describe_version(writer.client, final.registered_name, final.version, text))
    return final


def _version_description(writer: Writer, recipe: ModelRecipe, final: Final) -> str:
    """What a version's page says: what it is for, its figures, its threshold, and what it was made of."""
    judged, said, data = recipe.judged, recipe.predictions, recipe.judged.patch_set
    run = writer.ask(lambda: writer.client.get_run(final.run_id)).data
    if Metric.OOF_ROC_AUC not in run.metrics and Tag.CV_RUN_ID in run.tags:
        cv_run_id = run.tags[Tag.CV_RUN_ID]
        run = writer.ask(lambda: writer.client.get_run(cv_run_id)).data
    rows = {
        "ROC AUC": (Metric.OOF_ROC_AUC, final.roc_auc),
        "accuracy at 0.5": (f"{Metric.OOF}accuracy", final.accuracy),
    }
    figures = [
        f"| {name} | {Estimate.read(metric, run.metrics, run.tags) if metric in run.metrics else '-'} | {test} |"
        for name, (metric, test) in rows.items()
    ]
    parts = [
        f"{recipe.description}.",
        f"**{judged.note}**" if judged.note else "",
        "\n".join(["| | out of fold | test set, once |", "|---|---|---|", *figures]),
        f"95 % intervals, {cluster_note(said.groups)}. {len(said.labels)} training and {len(data.test)} test patches; "
        f"data `{data.train_sha256[:12]}`, run `{final.run_id}`.",
        f"Decision threshold {final.threshold:.6g} (policy {recipe.policy}, on {recipe.chosen_on}).",
        INTENDED_USE,
    ]
    return "\n\n".join(filter(None, parts))


def _finished(bench: Workbench, builder: ModelBuilder) -> Final:
    """The model as `finish_model` makes or takes it."""
    recipe, writer = builder.recipe, bench.writer
    earlier = _find_earlier(bench, recipe) if bench.resume else None
    if earlier is not None and recipe.reuses_runs:
        return _take_over(bench, builder, earlier)
    said = recipe.predictions
    threshold = choose_threshold(recipe.policy, said.labels, said.probabilities, said.groups)
    run = _start(bench, builder)
    run.log_text(json.dumps(recipe.threshold_record(threshold), indent=1), Artifact.THRESHOLD)
    tags = {**recipe.tags, Tag.THRESHOLD: repr(threshold)}
    tags |= {Tag.THRESHOLD_TRANSFERRED: "true"} if recipe.transferred else {}
    tags |= compared_tag(writer, recipe.parts, recipe.settings) if recipe.parts else {}
    if earlier is None:
        probabilities, version_number = _make(bench, builder, run, threshold, tags)
    else:
        probabilities, version_number = _reuse_version(bench, builder, run, earlier, tags)
    test = log_test(recipe.judged, run, probabilities, threshold, builder.estimates())
    comparison = builder.log_after(run, test)
    version = version_number()  # a version is there only when its test results are in the store
    run.set_tags({Tag.REGISTERED_NAME: recipe.registered_name, Tag.VERSION: version})
    if recipe.parent is None:
        run.log_metrics({"tracking_seconds": writer.seconds})
    run.close()
    return replace(_read(bench, run.id, recipe.registered_name, version, test), comparison=comparison)


def example_patches(patch_set: PatchSet, sides: Mapping[str, int]) -> dict[str, np.ndarray]:
    """Take a few training patches as a model's input example: uint16 (k, size, size, 1) by input."""
    rows = patch_set.train.patches[: 2 * EXAMPLE_PATCHES]
    return {name: np.asarray(rows[first::2])[..., None] for name, first in sides.items()}


def _start(bench: Workbench, builder: ModelBuilder, **tags: str) -> TrackedRun:
    recipe, writer = builder.recipe, bench.writer
    run = writer.start_run(
        recipe.run_name,
        parent=recipe.parent,
        tags={**recipe.tags, **recipe.run_tags, **tags},
        params=recipe.params,
    )
    if recipe.parent is None:
        writer.ask(lambda: close_orphaned_runs(writer.client, writer.experiment_id, run.id, {recipe.key}))
    builder.log_before(run)
    return run


def _make(
    bench: Workbench, builder: ModelBuilder, run: TrackedRun, threshold: float, tags: Mapping[str, str]
) -> tuple[np.ndarray, Callable[[], int]]:
    """Assemble, log and ask a new model; returns its test probabilities (m,), and the function that registers it."""
    recipe, writer = builder.recipe, bench.writer
    directory = bench.scratch / f"model-{run.id}"
    bench.run_one(builder.assembly(directory, threshold, tags))
    writer.drain()
    logged = log_model(writer, run.id, recipe.model_name, directory, tags, bench.scratch / f"fetched-{run.id}")
    if recipe.reuses_runs:
        run.set_tags({Tag.MODEL_ID: logged.model_id})
    job = recipe.predict_job(
        name=f"{recipe.model_name} test",
        model=logged.path,
        tensor=recipe.judged.patch_set.directory / "public_test_tensor.npy",
        threads=bench.cores,
        sides=recipe.sides,
        constants=recipe.constants,
        places=recipe.places,
    )
    probabilities = builder.probabilities(run, bench.run_one(job))
    return probabilities, partial(register, writer, recipe.registered_name, logged, run.id, tags, recipe.description)


@dataclass(frozen=True)
class _Earlier:
    """The run and version that an earlier command made under the same key, with its artifacts in `folder`.

    `ended` where the run came to its end: a command may be killed between registering the model and ending its run.
    """

    run_id: str
    version: int
    folder: Path
    ended: bool

    @property
    def test(self) -> pd.DataFrame:
        """Its stored test predictions."""
        return pd.read_parquet(self.folder / Artifact.TEST)


def _find_earlier(bench: Workbench, recipe: ModelRecipe) -> _Earlier | None:
    """Find what an earlier command made under the same key, if its version and test predictions still exist."""
    client, ask, name = bench.writer.client, bench.writer.ask, recipe.registered_name
    ended = ask(lambda: finished_runs(client, [recipe.key])).get(recipe.key) if recipe.reuses_runs else None
    if ended is not None:
        tags = ask(lambda: client.get_run(ended)).data.tags
        run_id, number = ended, int(tags.get(Tag.VERSION, 0))
        if tags.get(Tag.REGISTERED_NAME) != name or not ask(lambda: find_version(client, name, number)):
            return None
    else:
        registered = ask(lambda: registered_run(client, name, recipe.key))
        if registered is None:
            return None
        run_id, number = registered
    wanted = "" if recipe.reuses_runs else Artifact.TEST
    folder = bench.scratch / f"reused-{recipe.key}"
    fetched = ask(lambda: fetch_artifacts(client, run_id, wanted, folder))
    if fetched is None or not (folder / Artifact.TEST).exists():
        return None
    if ended is None:
        make_candidate(bench.writer, name, number, recipe.judged.patch_set.phantom)
    return _Earlier(run_id, number, folder, ended is not None)


def _take_over(bench: Workbench, builder: ModelBuilder, earlier: _Earlier) -> Final:
    """Take the model of an earlier run, which is not made or tested again.

    Where that run is nested in another cross-validation, a copy of it is nested in this one.
    """
    recipe, writer = builder.recipe, bench.writer
    name, number = recipe.registered_name, earlier.version
    if not earlier.ended:
        writer.reopen_run(earlier.run_id, None, {Tag.REGISTERED_NAME: name, Tag.VERSION: str(number)}).close()
    data = writer.ask(lambda: writer.client.get_run(earlier.run_id)).data
    if data.tags[Tag.CV_RUN_ID] == recipe.tags[Tag.CV_RUN_ID]:
        return _read(bench, earlier.run_id, name, number, earlier.test)
    copied = {tag: value for tag, value in data.tags.items() if tag in _COPIED}
    run = _start(bench, builder, **{Tag.REUSED_FROM: earlier.run_id, **copied})
    run.log_metrics(data.metrics)
    run.log_folder(earlier.folder)
    run.close()
    return _read(bench, run.id, name, number, earlier.test)


def _reuse_version(
    bench: Workbench, builder: ModelBuilder, run: TrackedRun, earlier: _Earlier, tags: Mapping[str, str]
) -> tuple[np.ndarray, Callable[[], int]]:
    """Take an earlier version; returns its stored test probabilities (m,), and a function that answers its number."""
    writer, name, number = bench.writer, builder.recipe.registered_name, earlier.version
    _log.info("%s v%d was made of the same before and is reused", name, number)
    run.set_tags({Tag.REUSED_FROM: earlier.run_id})
    if Tag.COMPARED in tags:  # a version made before the number was kept has none
        tell_compared(writer, name, number, int(tags[Tag.COMPARED]))
    return earlier.test["probability"].to_numpy(np.float64), lambda: number


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
