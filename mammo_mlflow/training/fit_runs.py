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
from mammo_mlflow.names import DATA_URI, Artifact, Metric, Tag
from mammo_mlflow.planning.plan import Fit, Plan
from mammo_mlflow.planning.stored_fits import OVER_VIEWS, fetch_fit
from mammo_mlflow.tracking.run_queries import LEFT_OUT, finished_runs, finished_under
from mammo_mlflow.tracking.tracked_run import TrackedRun
from mammo_mlflow.wording import without_paths

KEPT = "kept"
FACTS = ("history", "best_epochs", "seconds", "training_seconds", "views_seconds", "peak_memory", "card_memory")
"""The fields of a `FitResult` that are kept in `fit.json`."""

_log = logging.getLogger(__name__)


class FitRuns:
    """The runs of a plan's fits, nested in `parent`; `label` begins their jobs' names, `tags` go on their runs.

    A fit's run is made when it is first written to. Without `fold_tails` the tails of folds are neither
    needed nor kept, but by `keep_tails`. `runs`: those runs by the fits' names, those that are reused among them.
    """

    def __init__(
        self,
        bench: Workbench,
        plan: Plan,
        parent: TrackedRun,
        label: str,
        tags: Mapping[str, str] | None = None,
        fold_tails: bool = True,
    ) -> None:
        self._bench, self._plan, self._parent, self._label = bench, plan, parent, label
        self._tags, self._fold_tails = tags or {}, fold_tails
        self.runs: dict[str, TrackedRun] = {}
        self._done_before: set[str] = set()
        self._epochs: dict[str, int] = {}
        self._fits = {fit.name: fit for fit in plan.fits}

    def job(self, fit: Fit, activations: Mapping[str, Path]) -> FitJob:
        """Make the job that trains a fit; `activations` are the files of its cache entries, by key."""
        output = self._bench.scratch / fit.key
        output.mkdir(parents=True, exist_ok=True)
        features, tuned = (
            {name: activations[entry.key] for name, entry in stage.items()} for stage in (fit.features, fit.tuned)
        )
        # a head takes milliseconds for what a process of its own, for test-time augmentation later, takes seconds
        over_views = self._fold_tails and fit.fold is not None and fit.job.is_head
        return replace(
            fit.job,
            name=self._label + fit.name,
            output=output,
            features=features,
            tuned=tuned,
            over_views=over_views,
        )

    def fit_of(self, job: FitJob) -> Fit:
        """The fit that a job, made by `job`, trains."""
        return self._fits[job.name.removeprefix(self._label)]

    def on_event(self, job: FitJob, event: Event) -> None:
        """Log the scores of an epoch; the first one starts the fit's run."""
        total = job.total_epochs
        if isinstance(event, EpochDone):
            fit = self.fit_of(job)
            self._bench.progress.update(job.name, min(event.epoch, total - 1), total)
            if event.epoch > self._epochs.get(fit.name, 0):  # or it comes again, from a job that was started again
                self._epochs[fit.name] = event.epoch
                self._run(fit).log_metrics(event.metrics, event.epoch, event.time)

    def finish(self, job: FitJob, result: FitResult) -> None:
        """Log the result of a fit and end its run."""
        fit, total = self.fit_of(job), job.total_epochs
        self._bench.progress.update(job.name, total, total)
        self._log_fit(self._run(fit), fit, result)

    def fail(self, job: FitJob, reason: str) -> None:
        """End the run of a fit that failed as FAILED, with the reason as a tag."""
        run = self._run(self.fit_of(job))
        run.set_tags({Tag.REASON: without_paths(reason)})
        run.finish("FAILED")

    def keep_tails(self, results: Mapping[str, FitResult]) -> None:
        """Keep the tails of these fits after all, as far as they were made or copied here."""
        for name, result in results.items():
            if result.tail is not None and name not in self._done_before:
                self.runs[name].log_file(result.tail, Artifact.FIT)
                self.runs[name].set_tags({Tag.TAIL: KEPT})

    def drop_tails(self, results: Mapping[str, FitResult]) -> None:
        """Delete the files of tails that are not kept."""
        for result in results.values():
            if result.tail is not None:
                result.tail.unlink(missing_ok=True)

    def reuse(self, elsewhere: bool = True) -> dict[str, FitResult]:
        """Find finished fits under this parent or, if `elsewhere`, any other; return their results by name.

        Those of another parent get a run here too, a copy that names the original.
        """
        bench, plan = self._bench, self._plan
        found, own = self._find(elsewhere)
        results = {}
        for fit in plan.fits:
            if fit.key not in found:
                continue
            result = fetch_fit(bench, found[fit.key], fit, self._tail_kept(fit))
            if result is None:
                _log.warning("%s: the files of %s are gone from the store; it is trained again", plan.name, fit.name)
                continue
            if fit.key in own:
                self._done_before.add(fit.name)
                self.runs[fit.name] = bench.writer.attach(own[fit.key])
            else:
                run = self._start(fit, **{Tag.REUSED_FROM: found[fit.key]})
                for row in result.history:
                    run.log_metrics(
                        {k: float(v) for k, v in row.items() if k not in ("stage", "epoch")}, int(row["epoch"])
                    )
                self._log_fit(run, fit, result)
            results[fit.name] = result
        if results:
            _log.info("%s: %d of %d fits were finished before and are reused", plan.name, len(results), len(plan.fits))
        return results

    def _find(self, elsewhere: bool) -> tuple[dict[str, str], dict[str, str]]:
        """The finished runs of the plan's fits by their keys, and those of them that are nested in the parent."""
        writer, keys = self._bench.writer, [fit.key for fit in self._plan.fits]
        tails, own = self._fold_tails, dict[str, str]()
        if self._parent.known:
            own = writer.ask(lambda: finished_under(writer.client, writer.experiment_id, self._parent.id, tails))
            missing = [key for key in keys if key not in own]
            return (writer.ask(lambda: finished_runs(writer.client, missing, tails)) if elsewhere else {}) | own, own
        # a new parent: nothing that still waits in the queue is its own, and one fit tells whether there are others;
        # while the server is away training goes on all the same
        found: dict[str, str] = {}
        if elsewhere and writer.ask_unless_away(lambda: finished_runs(writer.client, keys[:1], tails), found):
            found = writer.ask_at_once(lambda: finished_runs(writer.client, keys, tails))
        return found, own

    def _tail_kept(self, fit: Fit) -> bool:
        return self._fold_tails or fit.fold is None

    def _run(self, fit: Fit) -> TrackedRun:
        return self.runs.get(fit.name) or self._start(fit)

    def _start(self, fit: Fit, **tags: str) -> TrackedRun:
        plan = self._plan
        marks = {Tag.FIT: fit.name, Tag.KEY: fit.key, Tag.CV_RUN_ID: self._parent}
        marks |= {} if self._tail_kept(fit) else {Tag.TAIL: LEFT_OUT}
        run = self._bench.writer.start_run(
            f"{fit.name} {plan.name}",
            parent=self._parent,
            tags={**plan.tags(), **self._tags, **marks, **tags},
            params={**plan.experiment.flat(), "fold": fit.name},
            later=True,
        )
        plan_dataset(plan, run, "training")
        self.runs[fit.name] = run
        return run

    def _log_fit(self, run: TrackedRun, fit: Fit, result: FitResult) -> None:
        """Log the result of a fit, with its files, and end its run."""
        labels = self._plan.labels[fit.validation_rows].astype(int)
        if len(labels):
            found = scores(labels, result.probabilities)
            # not under their plain names: `accuracy` is that of each training epoch
            run.log_metrics({f"{Metric.FOLD}{name}": found[name] for name in RATES})
            told = {"patch": fit.validation_rows, "label": labels, "probability": result.probabilities}
            if result.over_views is not None:
                told[OVER_VIEWS] = result.over_views
            run.log_table(pd.DataFrame(told), f"{Artifact.FIT}/{Artifact.PREDICTIONS}")
        run.log_metrics(
            {
                "seconds": result.seconds,
                "training_seconds": result.training_seconds,
                "peak_memory_mb": result.peak_memory / 2**20,
            }
            | ({"peak_card_memory_mb": result.card_memory / 2**20} if result.card_memory else {})
        )
        run.log_text(json.dumps({name: getattr(result, name) for name in FACTS}), f"{Artifact.FIT}/{Artifact.FACTS}")
        if result.tail is not None and self._tail_kept(fit):
            run.log_file(result.tail, Artifact.FIT)
        run.finish()


def plan_dataset(plan: Plan, run: TrackedRun, context: str) -> None:
    """Log the plan's data set as an input of the run, by name and sha256; `context` is `training` or `test`."""
    patch_set = plan.patch_set
    run.log_dataset(
        name="phantom" if patch_set.phantom else patch_set.directory.name,
        digest=patch_set.test_sha256 if context == "test" else patch_set.train_sha256,
        source=json.dumps({"uri": f"{DATA_URI}{patch_set.directory.name}"}),
        profile=json.dumps(patch_set.describe(), default=str),
        context=context,
    )
