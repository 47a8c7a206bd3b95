"""Run the trials of a study: draw their parameters, train their folds, and tell Optuna the result.

Several coordinators (processes, also on several machines) can work on one study.

Optuna is told of a trial only after the tracker has all of it. A trial that was cut off stays RUNNING in the study
until a coordinator takes it up again: it has the same parameters, and the folds that were finished are not trained
again.
"""

from __future__ import annotations

import json
import logging
import math
import time
import uuid
import warnings
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path

import optuna
from optuna import Study as Study  # what callers of this module are given
from optuna.trial import FrozenTrial, TrialState

from mammo_mlflow.checks import Value
from mammo_mlflow.errors import UserError, expected
from mammo_mlflow.experiment import build
from mammo_mlflow.files import canonical_json
from mammo_mlflow.jobs.contracts import DrawJob, Event, FitJob, FitResult, Job, Suggestion
from mammo_mlflow.jobs.executors import JobFailed
from mammo_mlflow.jobs.executors.base import raise_failure
from mammo_mlflow.jobs.failure import Failure
from mammo_mlflow.jobs.workbench import Workbench
from mammo_mlflow.names import Attribute, Metric, Tag
from mammo_mlflow.planning.activations import ensure_activations
from mammo_mlflow.planning.plan import Plan
from mammo_mlflow.planning.planner import Planner
from mammo_mlflow.search.architectures import distribution_from, start_draws
from mammo_mlflow.search.optuna_private import enqueued_parameters, resume_trial
from mammo_mlflow.search.runs import StudyRuns
from mammo_mlflow.search.sampling import SuggestValue, TrialProposer, distribution_of
from mammo_mlflow.search.storage import Storage
from mammo_mlflow.search.study_spec import StudySpec
from mammo_mlflow.search.trial_progress import Ending, TrialProgress
from mammo_mlflow.tracking.run_queries import close_orphaned_runs, writer_alive
from mammo_mlflow.tracking.runs import TrackedRun, this_process
from mammo_mlflow.training.cross_validation import log_scores
from mammo_mlflow.training.fit_runs import FitRuns

POLL_SECONDS = 1.0
FAILURES = (UserError, JobFailed)
ENDS = {TrialState.COMPLETE: "FINISHED", TrialState.PRUNED: "KILLED", TrialState.FAIL: "FAILED"}
"""The MLflow status with which a trial's run ends, by the trial's state."""

_log = logging.getLogger(__name__)


def open_study(storage: Storage, spec: StudySpec, key: str) -> optuna.Study:
    """Open the Optuna study of a name, or create it. Raises `UserError` where its key is another."""
    directions = [objective.direction for objective in spec.objectives]
    with storage.alone():
        study = optuna.create_study(
            storage=storage.rdb,
            study_name=spec.name,
            sampler=optuna.samplers.RandomSampler(),  # draws nothing: a trial is given what `TrialProposer` settled
            pruner=spec.pruner or optuna.pruners.NopPruner(),
            directions=directions,
            load_if_exists=True,
        )
        asked = study.user_attrs.get(Attribute.KEY, key), [found.name.lower() for found in study.directions]
        if asked != (key, directions):
            wanted = "the name of a new study, or of one with the same data, folds, space and objective"
            raise expected("study", wanted, f"'{study.study_name}'")
        if Attribute.ID not in study.user_attrs:
            with warnings.catch_warnings(action="ignore", category=optuna.exceptions.ExperimentalWarning):
                study.set_metric_names([objective.name for objective in spec.objectives])
            study.set_user_attr(Attribute.KEY, key)
            study.set_user_attr(Attribute.SPACE, canonical_json(spec.space.facts()))
            study.set_user_attr(Attribute.ID, uuid.uuid4().hex)
    return study


class StudyWorker:
    """Runs trials of a study in this process, the coordinator, until the study has all or its time is over."""

    def __init__(
        self,
        bench: Workbench,
        planner: Planner,
        storage: Storage,
        study: optuna.Study,
        spec: StudySpec,
        runs: StudyRuns,
        top: TrackedRun,
        activations: Mapping[str, Path],
    ) -> None:
        self.bench, self.planner, self._storage = bench, planner, storage
        self.study, self.spec, self.runs, self.top = study, spec, runs, top
        self._activations = dict(activations)
        self._open: dict[int, TrialProgress] = {}
        self._jobs: dict[str, TrialProgress] = {}
        self._started: set[int] = set()
        points = spec.space.points(spec.base)
        self._proposer = TrialProposer(spec.sampler, spec.seed, points)
        self.exhausted = False

    def run(self, wait: bool) -> None:
        """Run trials until the study has all or its time is over; with `wait`, then wait for others' trials."""
        while True:
            for job, answer in self.bench.stream(self._next_job, self._on_event):
                self._on_answer(job, answer)
            if not (wait and any(trial.state == TrialState.RUNNING for trial in self._trials())):
                return
            time.sleep(POLL_SECONDS)
            self.bench.writer.flush()

    def _trials(self) -> list[FrozenTrial]:
        """All trials of the study as they are stored now."""
        return self.study.get_trials(deepcopy=False)

    # -- the next job

    def _next_job(self) -> FitJob | None:
        """The next fold to train, of an open trial or of a new one; None where there is none now."""
        # a pruner looks at each fold of a trial before the next one starts, while there are other trials to work on
        side_by_side = self.spec.pruner is None
        while (job := self._fold_job(side_by_side)) is None:
            if not self._begin():
                return self._fold_job(True)
        return job

    def _fold_job(self, side_by_side: bool) -> FitJob | None:
        """The next fold of the first open trial that has one waiting; `side_by_side`, also while another of it runs."""
        for progress in self._open.values():
            if progress.waiting and progress.ending is None and (side_by_side or not progress.running):
                job = progress.runs.job(progress.waiting.popleft(), self._activations)
                progress.running += 1
                self._jobs[job.name] = progress
                return job
        return None

    def _begin(self) -> bool:
        """Resume a trial whose process died, or begin a new one. Returns whether there was one."""
        with self._storage.alone():
            cut_off = next((trial for trial in self._trials() if self._is_cut_off(trial)), None)
            if cut_off is not None:
                trial = resume_trial(self.study, cut_off)
                _log.info("trial %d was cut off and goes on", trial.number)
                writer = self.bench.writer  # its fold's run, too, may have been left RUNNING
                writer.ask(lambda: close_orphaned_runs(writer.client, writer.experiment_id, self.top.id, []))
            elif self._may_ask():
                trial = self.study.ask()
            else:
                return False
            trial.set_user_attr(Attribute.PROCESS, this_process())
            self._started.add(trial.number)
            try:
                setting, problem = self._settle_values(trial), ""
            except FAILURES as error:
                setting, problem = {}, Failure(str(error)).line
        self._open_trial(trial, setting, problem, new=cut_off is None)
        return True

    def _is_cut_off(self, trial: FrozenTrial) -> bool:
        """Whether a trial is RUNNING although the process that ran it has died. Needs the lock."""
        if trial.state != TrialState.RUNNING or trial.number in self._started:
            return False
        # set under the lock that is held here: without one, its process died
        owner = trial.user_attrs.get(Attribute.PROCESS)
        return owner is None or not writer_alive(owner)

    def _may_ask(self) -> bool:
        """Whether a new trial may begin: neither the trials nor the time nor the search space are used up."""
        spec, trials = self.spec, self._trials()
        counted = sum(trial.state != TrialState.WAITING for trial in trials)
        late = time.monotonic() > (spec.deadline or math.inf)
        if counted >= (spec.trials or math.inf) or (late and counted):
            return False
        self.exhausted = self._proposer.exhausted([trial.params for trial in trials])
        return not self.exhausted

    # -- the parameters of a trial

    def _settle_values(self, trial: optuna.Trial) -> dict[str, Value]:
        """The experiment's values of a trial, drawn and stored where that has not been done yet."""
        frozen = self._trials()[trial.number]
        if Attribute.SETTING in frozen.user_attrs:
            return json.loads(frozen.user_attrs[Attribute.SETTING])
        spec, first = self.spec, trial.number == 0
        known = {**enqueued_parameters(frozen), **frozen.params}
        if first:
            known |= self._paper_draws()
        taken = [other.params for other in self._trials() if other.number != trial.number]
        draft = self._proposer.propose(self.study, frozen, taken, self._draw, known, known_only=first)
        draft.store(trial)
        values = dict(spec.paper) if first else draft.values
        if first:
            trial.set_user_attr(Attribute.PRESET, "paper")
        trial.set_user_attr(Attribute.SETTING, canonical_json(values))
        return values

    def _paper_draws(self) -> dict[str, Value]:
        """The parameters of the first trial, which is the paper's setting."""
        space, paper = self.spec.space, self.spec.paper
        drawn = {item.name: paper[item.name] for item in space.parameters if item.name in paper}
        return drawn | (start_draws(space.architecture, paper) if space.architecture else {})

    def _draw(self, suggest: SuggestValue) -> dict[str, Value]:
        """An experiment's values with parameters from `suggest`, those of an architecture drawn by a child process."""
        space = self.spec.space
        values = space.draw(self.spec.base, lambda item: suggest(item.name, distribution_of(item)))
        if space.architecture is None:
            return values
        # what the head stands on does not depend on what is unfrozen, nor may an impossible number hinder the draw
        frozen = {name: 0 for name in values if name == "unfrozen_layers"}
        plan = self.planner.plans([build(self.spec.task, {**values, **frozen}, space.family)])[0]
        job = DrawJob(
            name="architecture",
            architecture=space.architecture,
            network=plan.network,
            head=plan.description.head,
        )

        def answer(_: Job[dict[str, Value]], event: Event) -> Value | None:
            return suggest(event.name, distribution_from(event.distribution)) if isinstance(event, Suggestion) else None

        return values | self.bench.run_one(job, answer)

    # -- an open trial

    def _open_trial(self, trial: optuna.Trial, setting: Mapping[str, Value], problem: str, new: bool) -> None:
        """Plan a trial, open its run and find the folds that are trained already; a trial with a `problem` fails."""
        plan: Plan | None = None
        if not problem:
            try:
                plan = self.planner.plans([build(self.spec.task, setting, self.spec.space.family)])[0]
                missing = [entry.key for entry in plan.activations() if entry.key not in self._activations]
                if missing:
                    self._activations |= ensure_activations(self.bench, plan.activations())
            except FAILURES as error:
                problem = Failure(str(error)).line
        first = {Tag.PRESET: "paper"} if trial.number == 0 else {}
        tags = {**first, Tag.TRIAL: str(trial.number)}
        tags |= {} if plan is None else {**plan.tags(), Tag.KEY: plan.key}
        params = setting if plan is None else plan.experiment.flat()
        name = f"trial {trial.number}" if plan is None else f"trial {trial.number}: {plan.name}"
        run = self.runs.open("trial", str(trial.number), name, self.top, tags, params, new)
        link = self.bench.writer.link(run.id)
        trial.set_user_attr(Attribute.LINK, link)
        what = ": the paper's setting" if trial.number == 0 else ""
        write_note(trial, f"[MLflow run]({link}){what}")
        if plan is None:
            self._tell(trial, run, (TrialState.FAIL, problem))
            return
        marks = {**self.runs.tags, Tag.TRIAL: str(trial.number)}
        fits = FitRuns(self.bench, plan, run, f"trial {trial.number} ", marks)
        results = fits.reuse(elsewhere=self.bench.resume)
        waiting = deque(fit for fit in plan.fits if fit.name not in results)
        progress = self._open[trial.number] = TrialProgress(
            trial=trial, plan=plan, run=run, runs=fits, results=results, waiting=waiting
        )
        self._advance(progress)

    def _on_event(self, job: FitJob, event: Event) -> None:
        """Log an event of a fold's training."""
        self._jobs[job.name].runs.on_event(job, event)

    def _on_answer(self, job: FitJob, answer: FitResult | Failure) -> None:
        """Take the result of a fold, or its failure, which fails the trial."""
        progress = self._jobs.pop(job.name)
        progress.running -= 1
        if isinstance(answer, Failure):
            if answer.fatal:
                raise_failure(job, answer)
            progress.runs.fail(job, answer.line)
            if progress.ending is None or progress.ending[0] != TrialState.FAIL:
                progress.ending = TrialState.FAIL, f"{progress.runs.fit_of(job).name}: {answer.line}"
        else:
            progress.runs.finish(job, answer)
            progress.results[progress.runs.fit_of(job).name] = answer
        self._advance(progress)

    def _advance(self, progress: TrialProgress) -> None:
        """Report new results to the pruner, and end the trial where it is over and none of its folds is running."""
        if progress.ending is None:
            progress.report(self.spec.objectives, self.spec.pruner)
        if progress.ending is not None and not progress.running:
            del self._open[progress.trial.number]
            self._end(progress, progress.ending)

    def _end(self, progress: TrialProgress, ending: Ending) -> None:
        """Log the scores of a trial and tell Optuna its objectives."""
        state, reason = ending
        if state == TrialState.FAIL:
            self._tell(progress.trial, progress.run, ending)
            return
        log_scores(progress.collect())
        objectives = self.spec.objectives
        values = progress.values(objectives) if state == TrialState.COMPLETE else [progress.reported]
        progress.run.log_metrics({metric_name(o.name): v for o, v in zip(objectives, values, strict=True)})
        if state == TrialState.PRUNED:
            for run_id in progress.runs.run_ids.values():
                self.bench.writer.attach(run_id).set_tags({Tag.PRUNED: "true"})
        self._tell(progress.trial, progress.run, ending, values if state == TrialState.COMPLETE else None)
        shown = reason or ", ".join(f"{o.name} {v:.4g}" for o, v in zip(objectives, values, strict=True))
        _log.info("trial %d: %s%s", progress.trial.number, shown, self._summary())

    def _tell(
        self, trial: optuna.Trial, run: TrackedRun, ending: Ending, values: Sequence[float] | None = None
    ) -> None:
        """End the run of a trial, and then the trial: Optuna is told once MLflow has everything."""
        state, reason = ending
        run.set_tags({Tag.TRIAL_STATE: state.name} | ({Tag.REASON: reason[:500]} if reason else {}))
        run.finish(ENDS[state])
        self.bench.writer.drain()
        if reason:
            trial.set_user_attr(Attribute.REASON, reason)
        self.study.tell(trial, values, state=state)
        if state == TrialState.FAIL:
            _log.warning("trial %d failed: %s", trial.number, reason)

    def _summary(self) -> str:
        """How many trials are finished and which is the best, in words for the log."""
        finished = sum(trial.state.is_finished() for trial in self._trials())
        wanted = f" of {self.spec.trials}" if self.spec.trials else ""
        best = best_trial(self.study)
        return f" ({finished}{wanted} finished" + (f", best: trial {best.number})" if best is not None else ")")


def is_full(study: optuna.Study, spec: StudySpec) -> bool:
    """Whether the study has all its trials, and none of them is running."""
    states = [trial.state for trial in study.get_trials(deepcopy=False)]
    finished = sum(state.is_finished() for state in states)
    return finished >= (spec.trials or math.inf) and TrialState.RUNNING not in states


def best_trial(study: optuna.Study) -> FrozenTrial | None:
    """The complete trial with the best first objective, of equal ones the first; None without a complete trial."""
    complete = [trial for trial in study.get_trials(deepcopy=False) if trial.state == TrialState.COMPLETE]
    sign = -1 if study.directions[0] == optuna.study.StudyDirection.MAXIMIZE else 1
    return min(complete, key=lambda trial: (sign * trial.values[0], trial.number), default=None)


def write_note(what: optuna.Trial | optuna.Study, text: str) -> None:
    """Store a note in Markdown, which optuna-dashboard shows with a trial or study."""
    from optuna_dashboard import save_note  # takes a second, which is better spent while folds train

    save_note(what, text)


def metric_name(objective: str) -> str:
    """The name of an objective's MLflow metric, which may not contain `=`."""
    return f"{Metric.OBJECTIVE}{objective.replace('=', '_')}"
