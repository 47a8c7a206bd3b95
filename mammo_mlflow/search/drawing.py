"""Draw the trials of a study, one at a time or a generation at once, and store their parameters.

A trial of a generation is drawn from the results of the generations before it alone, whatever has ended by then, so
that a study goes on after an interruption as it would have. Several processes draw one after another.
"""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import optuna
from optuna.trial import FrozenTrial, TrialState

from mammo_mlflow.checks import Value
from mammo_mlflow.errors import UserError
from mammo_mlflow.experiment import build
from mammo_mlflow.files import canonical_json
from mammo_mlflow.jobs.contracts import DrawJob, Event, Job, Suggestion
from mammo_mlflow.jobs.executors import JobFailed
from mammo_mlflow.jobs.failure import Failure
from mammo_mlflow.jobs.workbench import Workbench
from mammo_mlflow.names import Attribute
from mammo_mlflow.planning.planner import Planner
from mammo_mlflow.processes import this_process
from mammo_mlflow.search.architectures import distribution_from, start_draws
from mammo_mlflow.search.optuna_private import (
    ShownStudy,
    as_drawn,
    as_ended,
    draft_trial,
    enqueued_parameters,
    resume_trial,
    store_trial,
)
from mammo_mlflow.search.sampling import DraftTrial, SuggestValue, TrialProposer, distribution_of
from mammo_mlflow.search.storage import Storage
from mammo_mlflow.search.study_spec import StudySpec
from mammo_mlflow.tracking.orphans import writer_alive

FAILURES = (UserError, JobFailed)

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class DrawnTrial:
    """A trial to be run: its experiment's values, or the `problem` for which it fails; `new`: nobody has begun it."""

    trial: optuna.Trial
    values: Mapping[str, Value]
    problem: str = ""
    new: bool = True


class TrialDrawer:
    """Draws trials of a study for this process, and takes up those that a process which has died left behind.

    `ended` has the state and the values of trials that have ended here, though the storage may not know yet.
    """

    def __init__(self, bench: Workbench, planner: Planner, storage: Storage, study: optuna.Study, spec: StudySpec):
        self._bench, self._planner, self._storage, self._study, self._spec = bench, planner, storage, study, spec
        self._proposer = TrialProposer(spec.sampler, spec.seed, spec.space.points(spec.base))
        self._started: set[int] = set()
        self.ended: dict[int, tuple[TrialState, Sequence[float] | None]] = {}
        self.exhausted = False

    def trials(self) -> list[FrozenTrial]:
        """All trials of the study as they are stored now."""
        return self._study.get_trials(deepcopy=False)

    def next_one(self) -> list[DrawnTrial]:
        """A trial that was cut off, or a new one, drawn from all results there are; none where the study has all."""
        with self._storage.alone():
            trials = self.trials()
            shown = ShownStudy(self._study, trials)
            cut_off = next((trial for trial in trials if self._is_cut_off(trial)), None)
            if cut_off is not None:
                return [self._take_up(cut_off, shown)]
            return [self._ask(shown)] if self._may_begin(trials) else []

    def next_generation(self) -> list[DrawnTrial]:
        """The trials of the first generation that has not ended: those that were cut off, and new ones.

        None where the study has all, and while another process is at work on that generation.
        """
        with self._storage.alone():
            trials = self.trials()
            cut_off = [trial for trial in trials if self._is_cut_off(trial)]
            first = min((trial.number for trial in cut_off), default=len(trials))
            number = first // self._spec.generation
            running = [trial for trial in trials if trial.state == TrialState.RUNNING and trial not in cut_off]
            if any(self.generation_of(one) <= number for one in running if one.number not in self._started):
                return []
            shown = self.shown(number, trials)
            drawn = [self._take_up(trial, shown) for trial in cut_off if self.generation_of(trial) == number]
            while any(trial.state == TrialState.WAITING for trial in shown.shown) and self._may_begin(shown.shown):
                drawn.append(self._ask(shown))
            while len(shown.shown) < (number + 1) * self._spec.generation and self._may_begin(shown.shown):
                drawn.append(self._new(shown))
            return drawn

    def generation_of(self, trial: FrozenTrial | optuna.Trial) -> int:
        """The number of the generation that a trial belongs to, from 0 on."""
        return trial.number // self._spec.generation

    def shown(self, generation: int, trials: Sequence[FrozenTrial]) -> ShownStudy:
        """The study as a generation sees it: with results of those before it alone."""

        def seen(trial: FrozenTrial) -> FrozenTrial:
            if self.generation_of(trial) >= generation and trial.state != TrialState.WAITING:
                return as_drawn(trial)
            return as_ended(trial, *self.ended[trial.number]) if trial.number in self.ended else trial

        return ShownStudy(self._study, [seen(trial) for trial in trials])

    def _is_cut_off(self, trial: FrozenTrial) -> bool:
        """Whether a trial is RUNNING although the process that ran it has died. Needs the lock."""
        if trial.state != TrialState.RUNNING or trial.number in self._started:
            return False
        # set under the lock that is held here: without one, its process died
        owner = trial.user_attrs.get(Attribute.PROCESS)
        begun = time.time() if trial.datetime_start is None else trial.datetime_start.timestamp()
        return owner is None or not writer_alive(self._bench.writer.client, owner, begun)

    def _may_begin(self, trials: Sequence[FrozenTrial]) -> bool:
        """Whether a new trial may begin: neither the trials nor the time nor the search space are used up."""
        spec = self._spec
        counted = sum(trial.state != TrialState.WAITING for trial in trials)
        late = time.monotonic() > (spec.deadline or math.inf)
        if counted >= (spec.trials or math.inf) or (late and counted):
            return False
        self.exhausted = self._proposer.exhausted([trial.params for trial in trials])
        return not self.exhausted

    def _take_up(self, cut_off: FrozenTrial, shown: ShownStudy) -> DrawnTrial:
        """Take up a trial that was cut off, with the parameters that it has."""
        _log.info("trial %d was cut off and goes on", cut_off.number)
        return self._settle(resume_trial(self._study, cut_off), shown, new=False)

    def _ask(self, shown: ShownStudy) -> DrawnTrial:
        """Begin the next trial of the storage: one that a user has put in line, with his parameters, or a new one."""
        return self._settle(self._study.ask(), shown, new=True)

    def _settle(self, trial: optuna.Trial, shown: ShownStudy, new: bool) -> DrawnTrial:
        """Draw and store the parameters of a stored trial where that has not been done yet."""
        trial.set_user_attr(Attribute.PROCESS, this_process())
        self._started.add(trial.number)
        frozen = self.trials()[trial.number]
        stored = frozen.user_attrs.get(Attribute.SETTING)
        values, problem = {} if stored is None else json.loads(stored), ""
        if stored is None:
            try:
                draft = self._propose(shown, frozen, {**enqueued_parameters(frozen), **frozen.params})
                draft.store(trial)
                values = self._values(trial.number, draft)
                for name, value in self._attributes(trial.number, values).items():
                    trial.set_user_attr(name, value)
            except FAILURES as error:
                problem = Failure(str(error)).line
        shown.shown[trial.number :] = [as_drawn(self.trials()[trial.number]), *shown.shown[trial.number + 1 :]]
        return DrawnTrial(trial, values, problem, new)

    def _new(self, shown: ShownStudy) -> DrawnTrial:
        """Draw a new trial, and store it with all that belongs to it at once."""
        number, attributes, values, problem = len(shown.shown), {Attribute.PROCESS: this_process()}, {}, ""
        template = draft_trial(number, user_attrs=attributes)
        try:
            draft = self._propose(shown, template, {})
            values = self._values(number, draft)
            template = draft.as_trial(number, attributes | self._attributes(number, values), shown.noted)
        except FAILURES as error:
            problem = Failure(str(error)).line
        trial = store_trial(self._study, template)
        self._started.add(trial.number)
        shown.shown.append(template)
        return DrawnTrial(trial, values, problem)

    def _propose(self, shown: ShownStudy, trial: FrozenTrial, known: Mapping[str, Value]) -> DraftTrial:
        """Draw a trial's parameters, of which some are known."""
        first = trial.number == 0
        known = {**known, **self._paper_draws()} if first else known
        return self._proposer.propose(shown, trial, self._draw, known, known_only=first)

    def _values(self, number: int, draft: DraftTrial) -> dict[str, Value]:
        """The values of a trial's experiment; the first trial is the paper's setting."""
        return draft.values if number else dict(self._spec.paper)

    def _attributes(self, number: int, values: Mapping[str, Value]) -> dict[str, str]:
        """What is stored with a trial beside its parameters."""
        return ({} if number else {Attribute.PRESET: "paper"}) | {Attribute.SETTING: canonical_json(values)}

    def _paper_draws(self) -> dict[str, Value]:
        """The parameters of the first trial, which is the paper's setting."""
        space, paper = self._spec.space, self._spec.paper
        drawn = {item.label: paper[item.name] for item in space.parameters if item.name in paper}
        return drawn | (start_draws(space.architecture, paper) if space.architecture else {})

    def _draw(self, suggest: SuggestValue) -> dict[str, Value]:
        """An experiment's values with parameters from `suggest`, those of an architecture drawn by a child process."""
        space = self._spec.space
        values = space.draw(self._spec.base, lambda item: suggest(item.label, distribution_of(item)))
        if space.architecture is None:
            return values
        # what the head stands on does not depend on what is unfrozen, nor may an impossible number hinder the draw
        frozen = {name: 0 for name in values if name == "unfrozen_layers"}
        plan = self._planner.plans([build(self._spec.task, {**values, **frozen}, space.family)])[0]
        job = DrawJob(
            name="architecture",
            architecture=space.architecture,
            network=plan.network,
            head=plan.description.head,
        )

        def answer(_: Job[dict[str, Value]], event: Event) -> Value | None:
            return suggest(event.name, distribution_from(event.distribution)) if isinstance(event, Suggestion) else None

        return values | self._bench.run_one(job, answer)
