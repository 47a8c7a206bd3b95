"""The fits of one cross-validation: their jobs, and their MLflow runs, which are started, logged, ended or reused."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pandas as pd

from mammo_mlflow.evaluation.metrics import RATES, scores
from mammo_mlflow.jobs.contracts import EpochDone, Event, FitJob, FitResult
from mammo_mlflow.jobs.workbench import Workbench
from mammo_mlflow.names import Artifact, Metric, Tag
from mammo_mlflow.planning.plan import Fit, Plan
from mammo_mlflow.planning.stored_fits import fetch_fit
from mammo_mlflow.tracking.run_queries import finished_runs, finished_under
from mammo_mlflow.tracking.runs import TrackedRun

FACTS = ("history", "best_epochs", "seconds", "training_seconds", "peak_memory", "card_memory")
"""The fields of a `FitResult` that are kept in `fit.json`."""

_log = logging.getLogger(__name__)


class FitRuns:
    """The runs of a plan's fits, nested in `parent`; `label` begins their jobs' names, `tags` go on their runs."""

    def __init__(
        self, bench: Workbench, plan: Plan, parent: TrackedRun, label: str, tags: Mapping[str, str] | None = None
    ) -> None:
        self._bench, self._plan, self._parent, self._label = bench, plan, parent, label
        self._tags = tags or {}
        self._runs: dict[str, TrackedRun] = {}
        self.run_ids: dict[str, str] = {}
        self._fits = {fit.name: fit for fit in plan.fits}

    def job(self, fit: Fit, activations: Mapping[str, Path]) -> FitJob:
        """Make the job that trains a fit; `activations` are the files of its cache entries, by key."""
        output = self._bench.scratch / fit.key
        output.mkdir(parents=True, exist_ok=True)
        features, tuned = (
            {name: activations[entry.key] for name, entry in stage.items()} for stage in (fit.features, fit.tuned)
        )
        return replace(fit.job, name=self._label + fit.name, output=output, features=features, tuned=tuned)

    def fit_of(self, job: FitJob) -> Fit:
        """The fit that a job, made by `job`, trains."""
        return self._fits[job.name.removeprefix(self._label)]

    def on_event(self, job: FitJob, event: Event) -> None:
        """Log the scores of an epoch; the first one starts the fit's run."""
        total = job.total_epochs
        if isinstance(event, EpochDone):
            self._bench.progress.update(job.name, min(event.epoch, total - 1), total)
            self._run(self.fit_of(job)).log_metrics(event.metrics, event.epoch, event.time)

    def finish(self, job: FitJob, result: FitResult) -> None:
        """Log the result of a fit and end its run."""
        fit, total = self.fit_of(job), job.total_epochs
        self._bench.progress.update(job.name, total, total)
        _log_fit(self._run(fit), self._plan, fit, result)
        self._bench.writer.flush()

    def fail(self, job: FitJob, reason: str) -> None:
        """End the run of a fit that failed as FAILED, with the reason as a tag."""
        run = self._run(self.fit_of(job))
        run.set_tags({Tag.REASON: reason})
        run.finish("FAILED")

    def reuse(self, elsewhere: bool = True) -> dict[str, FitResult]:
        """Find finished fits under this parent or, if `elsewhere`, any other; return their results by name.

        Those of another parent get a run here too, a copy that names the original.
        """
        bench, plan = self._bench, self._plan
        writer = bench.writer
        own = writer.ask(lambda: finished_under(writer.client, writer.experiment_id, self._parent.id))
        keys = [fit.key for fit in plan.fits if fit.key not in own]
        found = (writer.ask(lambda: finished_runs(writer.client, keys)) if elsewhere else {}) | own
        results = {}
        for fit in plan.fits:
            if fit.key not in found:
                continue
            result = fetch_fit(bench, found[fit.key], fit)
            if result is None:
                _log.warning("%s: the files of %s are gone from the store; it is trained again", plan.name, fit.name)
                continue
            self.run_ids[fit.name] = found[fit.key]
            if fit.key not in own:
                run = self._start(fit, **{Tag.REUSED_FROM: found[fit.key]})
                for row in result.history:
                    run.log_metrics(
                        {k: float(v) for k, v in row.items() if k not in ("stage", "epoch")}, int(row["epoch"])
                    )
                _log_fit(run, plan, fit, result)
            results[fit.name] = result
        if results:
            _log.info("%s: %d of %d fits were finished before and are reused", plan.name, len(results), len(plan.fits))
        return results

    def _run(self, fit: Fit) -> TrackedRun:
        if fit.name not in self._runs:
            self._runs[fit.name] = self._start(fit)
        return self._runs[fit.name]

    def _start(self, fit: Fit, **tags: str) -> TrackedRun:
        plan = self._plan
        marks = {Tag.FIT: fit.name, Tag.KEY: fit.key, Tag.CV_RUN_ID: self._parent.id}
        run = self._bench.writer.start_run(
            f"{plan.name} {fit.name}",
            parent=self._parent,
            tags={**plan.tags(), **self._tags, **marks, **tags},
            params={**plan.experiment.flat(), "fold": fit.name},
        )
        plan_dataset(plan, run, "training")
        self.run_ids[fit.name] = run.id
        return run


def plan_dataset(plan: Plan, run: TrackedRun, context: str) -> None:
    """Log the plan's data set as an input of the run; `context` is `training` or `test`."""
    patch_set = plan.patch_set
    run.log_dataset(
        name="phantom" if patch_set.phantom else patch_set.directory.name,
        digest=patch_set.test_sha256 if context == "test" else patch_set.train_sha256,
        source=json.dumps({"uri": str(patch_set.directory)}),
        profile=json.dumps(patch_set.describe(), default=str),
        context=context,
    )


def _log_fit(run: TrackedRun, plan: Plan, fit: Fit, result: FitResult) -> None:
    folder = result.tail.parent
    labels = plan.labels[fit.validation_rows].astype(int)
    if len(labels):
        found = scores(labels, result.probabilities)
        # not under their plain names: `accuracy` is that of each training epoch
        run.log_metrics({f"{Metric.FOLD}{name}": found[name] for name in RATES})
        pd.DataFrame({"patch": fit.validation_rows, "label": labels, "probability": result.probabilities}).to_parquet(
            folder / Artifact.PREDICTIONS
        )
    run.log_metrics(
        {
            "seconds": result.seconds,
            "training_seconds": result.training_seconds,
            "peak_memory_mb": result.peak_memory / 2**20,
        }
        | ({"peak_card_memory_mb": result.card_memory / 2**20} if result.card_memory else {})
    )
    facts = {name: getattr(result, name) for name in FACTS}
    (folder / Artifact.FACTS).write_text(json.dumps(facts))
    for path in sorted(folder.iterdir()):
        run.log_file(path, Artifact.FIT)
    run.finish()
