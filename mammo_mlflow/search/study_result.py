"""End a study: log trials and figures, make the best trial's final model, compare it with the paper's setting."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace

import pandas as pd
from optuna.trial import FrozenTrial, TrialState

from mammo_mlflow.checks import Value
from mammo_mlflow.estimate import Estimate
from mammo_mlflow.evaluation.metrics import mean_sd
from mammo_mlflow.evaluation.objectives import SECONDS
from mammo_mlflow.experiment import build
from mammo_mlflow.files import below
from mammo_mlflow.names import SEARCHED, Artifact, Metric, Tag, registered_name
from mammo_mlflow.planning.plan import Plan
from mammo_mlflow.search.figures import study_figures
from mammo_mlflow.search.stored_study import best_trial, metric_name, setting_of, trials_table
from mammo_mlflow.search.study import StudyWorker
from mammo_mlflow.search.study_spec import StudySpec
from mammo_mlflow.search.winner_test import WinnerTest, judge, paired_lead, simultaneous
from mammo_mlflow.tracking.compared import tell_compared
from mammo_mlflow.tracking.run_queries import fetch_artifacts
from mammo_mlflow.tracking.tracked_run import TrackedRun
from mammo_mlflow.training.cross_validation import cross_validate_together
from mammo_mlflow.training.final_model import make_final
from mammo_mlflow.training.registered_model import Final

VERSION = 2
"""The version of a study's result, to be raised when a change of the code changes the result of the same trials.

It is a tag of the study's run, and in no key: a study that is issued again is ended again, its folds are not trained.
"""


@dataclass(frozen=True)
class FreshSeeds:
    """The objective of the best and of the paper's setting under seeds that the search did not use, a value a seed.

    `difference`: best minus paper, with an interval that holds for all settings that competed with the paper's at once.
    """

    best: list[float]
    paper: list[float]
    difference: Estimate


@dataclass(frozen=True, kw_only=True)
class StudyResult:
    """The result of a study: its best trial, the comparison with the paper's setting, the registered model.

    `run_id`: the study's run; `states`: the number of trials by state; `best`: the best trial; `paper`: the objective
    of the paper's setting, the first trial; `final`: the registered model; `fresh`: best and paper's setting under
    fresh seeds; `verdict`: the same comparison on the folds of the search. Each is None where there is none.
    """

    spec: StudySpec
    run_id: str
    states: dict[str, int]
    best: FrozenTrial | None = None
    paper: float | None = None
    final: Final | None = None
    fresh: FreshSeeds | None = None
    verdict: WinnerTest | None = None


class StudyCloser:
    """Ends a study, logging on the study's run `top`. Ending a study again repeats nothing."""

    def __init__(self, worker: StudyWorker, final: Mapping[str, Value], fresh_seeds: int) -> None:
        self._bench = replace(worker.bench, resume=True)  # the study's own folds are at hand
        self._planner, self._study, self._spec = worker.planner, worker.study, worker.spec
        self._runs, self._top = worker.runs, worker.top
        self._final, self._fresh_seeds = final, fresh_seeds

    def close(self, note: str | None) -> StudyResult:
        """Log the trials and their figures, make the best trial's model and compare it with the paper's setting.

        `note` is printed under each figure.
        """
        spec = self._spec
        trials = self._study.get_trials(deepcopy=False)
        states = {state.name: sum(trial.state == state for trial in trials) for state in TrialState}
        best = best_trial(self._study)
        self._log_trials(trials, states, best)
        for name, figure in study_figures(self._study, [o.name for o in spec.objectives], note).items():
            self._top.log_figure(figure, name)
        if best is None:
            return StudyResult(spec=spec, run_id=self._top.id, states=states)
        paper = trials[0].values[0] if trials[0].state == TrialState.COMPLETE else None
        final = self._make_best(best, competed(states))
        verdict = fresh = None
        if paper is not None and best.number != 0 and spec.objectives[0].name != SECONDS:
            verdict = self._judge(best, trials[0], competed(states))
            self._top.set_tags({Tag.VERDICT: verdict.sentence, Tag.CLOSING_VERSION: VERSION})
            fresh = self._compare_fresh(best, competed(states)) if self._fresh_seeds else None
        return StudyResult(
            spec=spec,
            run_id=self._top.id,
            states=states,
            best=best,
            paper=paper,
            final=final,
            fresh=fresh,
            verdict=verdict,
        )

    def _log_trials(self, trials: list[FrozenTrial], states: dict[str, int], best: FrozenTrial | None) -> None:
        """Log the table of trials, metrics over them, and the best trial's parameters and tags."""
        self._top.log_text(trials_table(self._study).to_csv(index=False), Artifact.TRIALS)
        metrics = {f"{Metric.TRIALS}{name.lower()}": float(count) for name, count in states.items()}
        for index, objective in enumerate(self._spec.objectives):
            mean, sd = mean_sd(trial.values[index] for trial in trials if trial.state == TrialState.COMPLETE)
            name = metric_name(objective.name)
            metrics |= {f"{name}_trials_mean": mean, f"{name}_trials_sd": sd}
            if best is not None:
                metrics[f"{Metric.BEST}{name}"] = best.values[index]
        base = self._spec.base
        folds = self._spec.repeats * (1 if base.get("holdout") else int(base["folds"]))
        pruned = sum(len(trial.intermediate_values) for trial in trials if trial.state == TrialState.PRUNED)
        metrics["folds_trained"] = folds * states["COMPLETE"] + pruned
        metrics["folds_without_pruning"] = folds * competed(states)
        self._top.log_metrics(metrics)
        if best is not None:
            shown = {"trial": best.number, "values": best.values, "params": best.params}
            setting = setting_of(best)
            if "weights" in setting:  # a path becomes their sha256
                setting |= {"weights": self._plan(best).experiment.model.weights}
            self._top.log_text(json.dumps({**shown, "setting": setting}, indent=1), Artifact.BEST)
            self._top.set_tags({Tag.BEST_TRIAL: best.number, **{f"best.{k}": v for k, v in best.params.items()}})

    def _make_best(self, best: FrozenTrial, compared: int) -> Final | None:
        """Make the final model of the best trial's cross-validation, whose folds are found by key, and register it.

        Both are on the trial's own run, of a trial with repeats on a run beside it, for the first of these. `compared`:
        the number of settings that it is the best of.
        """
        plan = self._plan(best, **self._final)
        marks = {**self._runs.tags, Tag.TRIAL: str(best.number), Tag.COMPARED: str(compared)}
        level = "trial" if self._spec.repeats == 1 else "best"
        run = self._open(level, str(best.number), plan.name, plan)
        averaged = plan.experiment.final.final == "fold_average"
        (cv,) = cross_validate_together(self._bench, [(plan, run, "best")], fold_tails=averaged)
        final = None
        if plan.experiment.final.final != "none":
            final = make_final(self._bench, cv, searched_name(plan), marks)
            # a version that was registered when the study was ended before may be the best of more by now
            tell_compared(self._bench.writer, final.registered_name, final.version, compared)
            final.tell(self._top)
        run.close()
        return final

    def _judge(self, best: FrozenTrial, paper: FrozenTrial, trials: int) -> WinnerTest:
        """Test the best trial's lead over the paper's setting on the folds of the search."""
        both = [self._out_of_fold(trial) for trial in (best, paper)]
        if both[0] is None or both[1] is None:
            return judge(float("nan"), float("nan"), trials)
        found = paired_lead(self._spec.objectives[0], both[0], both[1])
        return judge(found.value, found.error, trials)

    def _out_of_fold(self, trial: FrozenTrial) -> pd.DataFrame | None:
        """The out-of-fold predictions that the run of a trial holds, those of all repeats; None where they are gone."""
        writer, run_id = self._bench.writer, self._runs.find("trial", str(trial.number)) or ""
        target = below(self._bench.scratch, f"oof-{run_id}")
        path = writer.ask(lambda: fetch_artifacts(writer.client, run_id, Artifact.OOF, target))
        return None if path is None else pd.read_parquet(path)

    def _compare_fresh(self, best: FrozenTrial, trials: int) -> FreshSeeds:
        """Cross-validate both settings under fresh seeds, which decide folds, weights, order and augmentation."""
        objective = self._spec.objectives[0]
        settings = {"best": best, "paper": self._study.get_trials(deepcopy=False)[0]}
        frames: dict[str, list[pd.DataFrame]] = {who: [] for who in settings}
        values: dict[str, list[float]] = {who: [] for who in settings}
        first, begun, whose = self._spec.seed + self._spec.repeats, [], []
        for seed in range(first, first + self._fresh_seeds):
            for who, trial in settings.items():
                plan = self._plan(trial, seed=seed, final="none", calibrate="none")
                run = self._open("fresh", f"{who} {seed}", f"fresh seed {seed}: {who}: {plan.name}", plan)
                begun.append((plan, run, f"fresh seed {seed} {who}"))
                whose.append((who, seed))
        made = cross_validate_together(self._bench, begun, figures=False, fold_tails=False)
        for (who, seed), cv in zip(whose, made, strict=True):
            cv.run.finish()
            values[who].append(objective.value(cv.predictions, 0.0))
            frames[who].append(cv.oof.assign(fold=cv.oof["fold"] + 1000 * seed))
        best_oof, paper_oof = (pd.concat(parts, ignore_index=True) for parts in frames.values())
        difference = simultaneous(paired_lead(objective, best_oof, paper_oof), trials)
        self._top.log_metrics(difference.metrics("lead_fresh_seeds"))
        return FreshSeeds(values["best"], values["paper"], difference)

    def _plan(self, trial: FrozenTrial, **values: Value) -> Plan:
        """The plan of a trial's experiment, with other values for some parameters."""
        setting = {**setting_of(trial), **values}
        return self._planner.plans([build(self._spec.task, setting, self._spec.space.family)])[0]

    def _open(self, level: str, part: str, name: str, plan: Plan) -> TrackedRun:
        """The run of a plan below the study's run (`StudyRuns.open`)."""
        tags = {**plan.tags(), Tag.KEY: plan.key}
        return self._runs.open(level, part, name, self._top, tags, plan.experiment.flat())


def competed(states: Mapping[str, int]) -> int:
    """The number of trials that competed, complete or pruned, from the counts of trials by state."""
    return states["COMPLETE"] + states["PRUNED"]


def searched_name(plan: Plan) -> str:
    """The registered name of a study's best model, which names a control but not whether it is fine-tuned."""
    experiment = plan.experiment
    return registered_name(experiment.task, experiment.family, experiment.label, SEARCHED)
