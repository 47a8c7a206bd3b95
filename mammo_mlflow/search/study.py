"""Run the trials of a study: train their folds, and tell Optuna the result.

Several coordinators (processes, also on several machines) can work on one study.

Optuna is told of a trial only after the tracker has all of it. A trial that was cut off stays RUNNING in the study
until a coordinator takes it up again: it has the same parameters, and the folds that were finished are not trained
again.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import optuna
from optuna.trial import TrialState

from mammo_mlflow.checks import Value
from mammo_mlflow.experiment import build
from mammo_mlflow.jobs.contracts import Event, FitJob, FitResult
from mammo_mlflow.jobs.executors.base import raise_failure
from mammo_mlflow.jobs.failure import Failure
from mammo_mlflow.jobs.workbench import Workbench
from mammo_mlflow.names import Attribute, Tag
from mammo_mlflow.planning.activations import ensure_activations
from mammo_mlflow.planning.plan import Plan
from mammo_mlflow.planning.planner import Planner
from mammo_mlflow.search.drawing import FAILURES, DrawnTrial, TrialDrawer
from mammo_mlflow.search.runs import StudyRuns
from mammo_mlflow.search.storage import Storage
from mammo_mlflow.search.stored_study import best_trial, metric_name, setting_of, write_note
from mammo_mlflow.search.study_spec import StudySpec
from mammo_mlflow.search.trial_progress import Ending, Repeat, TrialProgress
from mammo_mlflow.tracking.orphans import close_orphaned_runs
from mammo_mlflow.tracking.tracked_run import TrackedRun
from mammo_mlflow.training.cross_validation import log_repeats, log_scores
from mammo_mlflow.training.fit_runs import FitRuns
from mammo_mlflow.wording import without_paths

POLL_SECONDS = 1.0
SHOWN_FITS = 16
"""The most fits of a generation whose progress is displayed one by one."""
ENDS = {TrialState.COMPLETE: "FINISHED", TrialState.PRUNED: "KILLED", TrialState.FAIL: "FAILED"}
"""The MLflow status with which a trial's run ends, by the trial's state."""

_log = logging.getLogger(__name__)


class _NoProgress:
    """Displays nothing."""

    def update(self, name: str, done: int, total: int) -> None:
        """Take note of nothing."""


@dataclass
class _Generation:
    """A generation at work: its name, how many of its fits are done, and how many fits share each program."""

    name: str
    fits: int
    sharing: Counter[object]
    done: int = 0
    ended: list[tuple[int, float]] = field(default_factory=list)
    """The numbers and values of its complete trials."""


class StudyWorker:
    """Runs trials of a study in this process, the coordinator, until the study has all or its time is over.

    By generations, one is written to the tracker while the next one trains; Optuna is told of a trial by the tracker's
    queue, behind all of the trial.
    """

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
        self.bench, self.planner = bench, planner
        self.study, self.spec, self.runs, self.top = study, spec, runs, top
        self._activations = dict(activations)
        self._open: dict[int, TrialProgress] = {}
        self._jobs: dict[str, tuple[TrialProgress, Repeat]] = {}
        self._drawer = TrialDrawer(bench, planner, storage, study, spec)
        self._generation: _Generation | None = None
        self._working = bench  # on a generation: without the progress of each fit where there are many
        best = best_trial(study)
        self._best = None if best is None else (best.number, best.values[0])
        self._first_ended: tuple[float, int] | None = None
        """When the first trial since this process began had ended, and how many had by then."""

    @property
    def exhausted(self) -> bool:
        """Whether every set of parameters that the space allows was tried."""
        return self._drawer.exhausted

    def run(self, wait: bool) -> None:
        """Run trials until the study has all or its time is over; with `wait`, then wait for others' trials.

        A generation that another process is at work on is waited for in any case.
        """
        while True:
            for job, answer in self.bench.stream(self._next_job, self._on_event):
                self._on_answer(job, answer)
            self.bench.writer.drain()
            others = any(trial.state == TrialState.RUNNING for trial in self._drawer.trials())
            if not (others and (wait or self.spec.generation)):
                return
            time.sleep(POLL_SECONDS)

    # -- the next job

    def _next_job(self) -> FitJob | None:
        """The next fold to train, of an open trial or of a new one; None where there is none now."""
        # a pruner looks at each fold of a trial before the next one starts, while there are other trials to work on
        side_by_side = self.spec.pruner is None
        while (job := self._fold_job(side_by_side)) is None:
            if not self._begin():
                # in a generation results must not depend on how long others take
                return None if self.spec.generation else self._fold_job(True)
        return job

    def _fold_job(self, side_by_side: bool) -> FitJob | None:
        """The next fold of the first open trial that has one waiting; `side_by_side`, also while another of it runs."""
        for progress in self._open.values():
            if progress.waiting and progress.ending is None and (side_by_side or not progress.running):
                repeat, fit = progress.waiting.popleft()
                job = repeat.runs.job(fit, self._activations)
                if self._generation is not None:
                    job = replace(job, together=self._generation.sharing[job.program])
                progress.running += 1
                self._jobs[job.name] = progress, repeat
                return job
        return None

    def _begin(self) -> bool:
        """Take up trials whose process died, or begin new ones. Returns whether there were any."""
        if not self.spec.generation:
            drawn = self._drawer.next_one()
        elif self._open:
            return False
        else:
            self._end_generation()
            drawn = self._drawer.next_generation()
        if not all(one.new for one in drawn):
            writer = self.bench.writer  # a fold's run, too, may have been left RUNNING
            writer.ask(lambda: close_orphaned_runs(writer.client, writer.experiment_id, self.top.id, []))
        planned = [self._plan(one) for one in drawn]
        if self.spec.generation and drawn:
            self._begin_generation(drawn, [plan for plans, _ in planned for plan in plans])
        for one, (plans, problem) in zip(drawn, planned, strict=True):
            self._open_trial(one, plans, problem)
        return bool(drawn)

    def _begin_generation(self, drawn: Sequence[DrawnTrial], plans: Sequence[Plan]) -> None:
        """Say what a generation is, and count which of its fits share programs, those done before among them."""
        number = self._drawer.generation_of(drawn[0].trial)
        names = {one.trial.number for one in drawn}
        known = (trial for trial in self._drawer.trials() if self._drawer.generation_of(trial) == number)
        before = [trial for trial in known if trial.number not in names and Attribute.SETTING in trial.user_attrs]
        done = [plan for trial in before for plan in self._plans(setting_of(trial))]
        folds = [fit for plan in (*done, *plans) for fit in plan.fits if fit.fold is not None]
        # folds that a pruner looks at one by one are trained one of each trial at a time
        first = [fit for fit in folds if fit.fold == 0] if self.spec.pruner is not None else folds
        sharing = Counter[object](fit.job.program for fit in first)
        fits = sum(fit.fold is not None for plan in plans for fit in plan.fits)
        of_all = f" of {-(-self.spec.trials // self.spec.generation)}" if self.spec.trials else ""
        self._generation = _Generation(f"generation {number + 1}{of_all}", fits, sharing)
        self._working = self.bench if fits <= SHOWN_FITS else replace(self.bench, progress=_NoProgress())
        which = f"trial {min(names)}" if len(names) == 1 else f"trials {min(names)} to {max(names)}"
        programs = f" in {len(sharing)} program" + "s" * (len(sharing) != 1)
        compiled = any(plan.devices.engine == "compiled" for plan in plans)
        _log.info("%s, %s: %d fits%s", self._generation.name, which, fits, programs if compiled else "")

    def _end_generation(self) -> None:
        """Say how the last generation ended."""
        if self._generation is None:
            return
        if 0 < self._generation.done < self._generation.fits:  # the others were pruned
            self.bench.progress.update(self._generation.name, self._generation.fits, self._generation.fits)
        values, name = [value for _, value in self._generation.ended], self.spec.objectives[0].name
        span = f"{name} {min(values):.4g} to {max(values):.4g}" if values else "no complete trial"
        best = "" if self._best is None else f"; best so far: trial {self._best[0]}, {self._best[1]:.4g}"
        _log.info("%s: %s%s", self._generation.name, span, best)
        self._generation = None

    # -- an open trial

    def _plans(self, values: Mapping[str, Value]) -> list[Plan]:
        """The plans of a trial's repeats."""
        family = self.spec.space.family
        return self.planner.plans([build(self.spec.task, one, family) for one in self.spec.settings(values)])

    def _plan(self, drawn: DrawnTrial) -> tuple[list[Plan], str]:
        """The plans of a drawn trial, whose activations are made, or none and the reason."""
        if drawn.problem:
            return [], drawn.problem
        try:
            plans = self._plans(drawn.values)
            entries = {entry.key: entry for plan in plans for entry in plan.activations()}
            if not entries.keys() <= self._activations.keys():
                self._activations |= ensure_activations(self.bench, list(entries.values()))
        except FAILURES as error:
            return [], Failure(str(error)).line
        return plans, ""

    def _open_trial(self, drawn: DrawnTrial, plans: Sequence[Plan], problem: str) -> None:
        """Open the run of a trial and find the folds that are trained already; a trial with a `problem` fails."""
        trial, number = drawn.trial, drawn.trial.number
        first = {Tag.PRESET: "paper"} if number == 0 else {}
        tags = {**first, Tag.TRIAL: str(number)}
        tags |= {**plans[0].tags(), Tag.KEY: plans[0].key} if plans else {}
        # weights may be a path of the machine, which a plan names by its content
        params = plans[0].experiment.flat() if plans else {k: v for k, v in drawn.values.items() if k != "weights"}
        name = f"trial {number}: {plans[0].name}" if plans else f"trial {number}"
        run = self.runs.open("trial", str(number), name, self.top, tags, params, drawn.new)
        self.bench.writer.add(partial(self._link, trial, run), run)
        if not plans:
            self._tell(trial, run, (TrialState.FAIL, problem))
            return
        repeats = [self._open_repeat(drawn, plan, index, run) for index, plan in enumerate(plans)]
        progress = self._open[number] = TrialProgress(trial=trial, run=run, repeats=repeats)
        progress.waiting.extend(fold for fold in progress.folds if not fold.done)
        self._advance(progress)

    def _open_repeat(self, drawn: DrawnTrial, plan: Plan, index: int, run: TrackedRun) -> Repeat:
        """Open a repeat of a trial; a single one has the trial's run."""
        number, label = drawn.trial.number, f"trial {drawn.trial.number} "
        if self.spec.repeats > 1:
            label += f"repeat {index + 1} "
            tags = {Tag.TRIAL: str(number), **plan.tags(), Tag.KEY: plan.key}
            part, flat = f"{number}.{index + 1}", plan.experiment.flat()
            run = self.runs.open("repeat", part, f"repeat {index + 1}: {plan.name}", run, tags, flat, drawn.new)
        marks = {**self.runs.tags, Tag.TRIAL: str(number)}
        fits = FitRuns(self._working, plan, run, label, marks, fold_tails=False)
        return Repeat(plan=plan, run=run, runs=fits, results=fits.reuse(elsewhere=self.bench.resume))

    def _link(self, trial: optuna.Trial, run: TrackedRun) -> None:
        """Let a trial say in the dashboard which MLflow run it has."""
        link = self.bench.writer.link(run.id)
        trial.set_user_attr(Attribute.LINK, link)
        write_note(trial, f"[MLflow run]({link})" + (": the paper's setting" if trial.number == 0 else ""))

    def _on_event(self, job: FitJob, event: Event) -> None:
        """Log an event of a fold's training."""
        self._jobs[job.name][1].runs.on_event(job, event)

    def _on_answer(self, job: FitJob, answer: FitResult | Failure) -> None:
        """Take the result of a fold, or its failure, which fails the trial."""
        progress, repeat = self._jobs.pop(job.name)
        progress.running -= 1
        fit = repeat.runs.fit_of(job)
        if isinstance(answer, Failure):
            if answer.fatal:
                raise_failure(job, answer)
            repeat.runs.fail(job, answer.line)
            if progress.ending is None or progress.ending[0] != TrialState.FAIL:
                progress.ending = TrialState.FAIL, f"{fit.name}: {answer.line}"
        else:
            repeat.runs.finish(job, answer)
            repeat.results[fit.name] = answer
        if self._generation is not None:
            self._generation.done += 1
            self.bench.progress.update(self._generation.name, self._generation.done, self._generation.fits)
        self._advance(progress)

    def _advance(self, progress: TrialProgress) -> None:
        """Report new results to the pruner, and end the trial where it is over and none of its folds is running."""
        if progress.ending is None:
            progress.report(self.spec.objectives, self.spec.pruner, self._is_pruned)
        if progress.ending is not None and not progress.running:
            del self._open[progress.trial.number]
            self._end(progress, progress.ending)

    def _is_pruned(self, trial: optuna.Trial) -> bool:
        """Whether the pruner ends a trial; in a generation it compares with trials of those before it alone."""
        if not self.spec.generation or self.spec.pruner is None:
            return trial.should_prune()
        trials = self._drawer.trials()
        shown = self._drawer.shown(self._drawer.generation_of(trial), trials)
        return self.spec.pruner.prune(shown, trials[trial.number])

    def _end(self, progress: TrialProgress, ending: Ending) -> None:
        """Log the scores of a trial and tell Optuna its objectives."""
        state, reason = ending[0], without_paths(ending[1])
        trial, run = progress.trial, progress.run
        if state == TrialState.FAIL:
            self._tell(trial, run, ending)
            return
        made = progress.collect()
        for cv in made:
            log_scores(cv)
        if self.spec.repeats > 1:
            log_repeats(run, made)
            for cv in made:
                cv.run.finish(ENDS[state])
        objectives = self.spec.objectives
        values = progress.values(objectives) if state == TrialState.COMPLETE else [progress.reported]
        run.log_metrics({metric_name(o.name): v for o, v in zip(objectives, values, strict=True)})
        if state == TrialState.PRUNED:
            for repeat in progress.repeats:
                for fold in repeat.runs.runs.values():
                    fold.set_tags({Tag.PRUNED: "true"})
        leads = state == TrialState.COMPLETE and self._leads(trial.number, values[0])
        for repeat in progress.repeats:
            if leads or self.spec.all_tails or trial.number == 0:
                repeat.runs.keep_tails(repeat.results)
            else:
                repeat.runs.drop_tails(repeat.results)
        self._tell(trial, run, ending, values if state == TrialState.COMPLETE else None)
        if self._generation is None:
            shown = reason or ", ".join(f"{o.name} {v:.4g}" for o, v in zip(objectives, values, strict=True))
            _log.info("trial %d: %s%s", trial.number, shown, self._summary())
        elif state == TrialState.COMPLETE:
            self._generation.ended.append((trial.number, values[0]))

    def _leads(self, number: int, value: float) -> bool:
        """Whether a trial that has ended is the best one until now."""
        sign = -1 if self.spec.objectives[0].direction == "maximize" else 1
        leads = self._best is None or (sign * value, number) < (sign * self._best[1], self._best[0])
        if leads:
            self._best = number, value
        return leads

    def _tell(
        self, trial: optuna.Trial, run: TrackedRun, ending: Ending, values: Sequence[float] | None = None
    ) -> None:
        """End the run of a trial, and then the trial: Optuna is told once MLflow has everything."""
        state, reason = ending[0], without_paths(ending[1])
        run.set_tags({Tag.TRIAL_STATE: state.name} | ({Tag.REASON: reason[:500]} if reason else {}))
        run.finish(ENDS[state])
        self._drawer.ended[trial.number] = state, values
        self.bench.writer.add(partial(self._tell_optuna, trial, state, reason, values))
        if not self.spec.generation:
            self.bench.writer.send()
        if state == TrialState.FAIL:
            _log.warning("trial %d failed: %s", trial.number, reason)

    def _tell_optuna(self, trial: optuna.Trial, state: TrialState, reason: str, values: Sequence[float] | None) -> None:
        """End a trial in the storage."""
        if reason:
            trial.set_user_attr(Attribute.REASON, reason)
        self.study.tell(trial, values, state=state, skip_if_finished=True)

    def _summary(self) -> str:
        """How many trials are finished, which is the best and how long the others take, in words for the log."""
        finished, now = sum(trial.state.is_finished() for trial in self._drawer.trials()), time.monotonic()
        wanted = f" of {self.spec.trials}" if self.spec.trials else ""
        best = best_trial(self.study)
        leader = f", best: trial {best.number}" if best is not None else ""
        since, before = self._first_ended = self._first_ended or (now, finished)
        remaining, left = (self.spec.trials or 0) - finished, ""
        if finished > before and remaining > 0:  # the first one's time is left out: it may have made activations
            left = f"; about {(now - since) / (finished - before) * remaining:.0f} s of trials left"
        return f" ({finished}{wanted} finished{leader}{left})"
