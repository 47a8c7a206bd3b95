"""`promote`: candidates against the champion of a task, on the out-of-fold predictions that are stored with them."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from mammo_mlflow.commands.promote import PromoteOptions
from mammo_mlflow.disclosure import PHANTOM, Disclosure
from mammo_mlflow.errors import UserError, expected
from mammo_mlflow.estimate import Estimate, log_estimates
from mammo_mlflow.evaluation.gates import Gate, better, calibrated, no_loss
from mammo_mlflow.evaluation.intervals import cluster_note
from mammo_mlflow.evaluation.objectives import SECONDS, Objective, parse_objectives
from mammo_mlflow.evaluation.out_of_fold import OutOfFold
from mammo_mlflow.experiment import ABNORMALITY_TYPE
from mammo_mlflow.jobs.contracts import TryJob
from mammo_mlflow.jobs.executors import Executor, make_executor
from mammo_mlflow.names import CHAMPION, Artifact, Metric, Tag, registered_name
from mammo_mlflow.terminal import say, show_table
from mammo_mlflow.tracking.compared import compared_of, verdict_of
from mammo_mlflow.tracking.promotion import (
    candidates_of,
    champion_of,
    deciding,
    go_back,
    origin,
    previous_of,
    promote,
    rolled_back,
    why_never_champion,
)
from mammo_mlflow.tracking.registry import Version, find_model, find_run, threshold_of, verified_model
from mammo_mlflow.tracking.run_queries import close_orphaned_runs, fetch_artifacts
from mammo_mlflow.tracking.runs import TrackedRun, Writer
from mammo_mlflow.tracking.store import open_store
from mammo_mlflow.workflows.budget import Budget, budget_of
from mammo_mlflow.workflows.workbench import ending_runs

ALL = "all"


@dataclass(kw_only=True)
class Challenge:
    """A candidate, its stored predictions, and the gates it was brought to, up to the first that it failed.

    `compared` is the number of settings that it is the best of.
    """

    version: Version
    predictions: OutOfFold | None = None
    compared: int = 1
    gates: list[Gate] = field(default_factory=list)
    score: Estimate = field(default_factory=Estimate)

    @property
    def failed(self) -> Gate | None:
        """The gate that it did not pass."""
        return next((gate for gate in self.gates if not gate.passed), None)


def run(asked: PromoteOptions) -> None:
    """Decide about the champion of a task. Raises `UserError` before any run exists for what can be known by then."""
    task = asked.task
    objectives = parse_objectives(asked.objective)
    if len(objectives) > 1 or objectives[0].name == SECONDS:
        raise expected("objective", "one metric of predictions", f"'{asked.objective}'")
    writer = Writer(*open_store(), {})
    with tempfile.TemporaryDirectory() as folder, deciding(writer.client, task), ending_runs(writer):
        decision = _Decision(writer, task, asked, objectives[0], Path(folder))
        if asked.rollback:
            decision.roll_back()
        else:
            decision.decide()


class _Decision:
    """One decision about one task's champion."""

    def __init__(self, writer: Writer, task: str, asked: PromoteOptions, objective: Objective, folder: Path) -> None:
        self._writer, self._task, self._asked, self._objective = writer, task, asked, objective
        self._folder = folder
        self._champion = champion_of(writer.client, task)

    def roll_back(self) -> None:
        """Go back to the champion before the present one."""
        before, champion = previous_of(self._writer.client, self._task), self._champion
        if champion is None:
            raise expected("rollback", f"a champion of {self._task}", "none")
        # it can be served
        verified_model(self._writer.client, f"{before.name}/{before.number}", self._folder / "before")
        run = self._start("rolled back", {Tag.CANDIDATE: str(before)})
        self._writer.drain()
        go_back(self._writer.client, champion, before, run.id)
        run.close()
        say(f"champion of {self._task}: {_named(before)} again, {_named(self._champion)} before")

    def decide(self) -> None:
        """Promote the best candidate that passes every gate, or leave all as it was."""
        challenges = self._challenges()
        champion = self._champion
        if champion is not None and PHANTOM in champion.said and PHANTOM not in _said(challenges):
            say(f"the champion, {_named(champion)}, was trained on {PHANTOM.mark}: nothing real to beat")
            champion = None
        rival = None
        if champion is not None:
            try:
                rival = self._predictions(champion)
            except UserError as problem:
                raise UserError(f"{problem}; {_anew(self._task)}") from None
        budget = self._judge(challenges, champion, rival)
        chosen = next((one for one in challenges if one.failed is None), None)
        best = chosen or challenges[0]
        tags = {Tag.CANDIDATE: str(best.version), **best.version.said.tags}
        if budget is not None:
            tags |= budget.tags(promoted=0 if chosen is None else chosen.compared)
        if best.failed is not None:
            tags[Tag.FAILED_GATE] = best.failed.name
        run = self._start("kept" if chosen is None else "promoted", tags)
        self._log(run, challenges, best)
        self._writer.drain()
        made = None if chosen is None else promote(self._writer.client, self._task, chosen.version, run.id)
        run.close()
        self._show(challenges, best, made)

    def _challenges(self) -> list[Challenge]:
        """The candidates with their predictions, the best first."""
        client = self._writer.client
        if self._asked.candidate != ALL:
            spelled = [one.strip() for one in self._asked.candidate.split(",")]
            found = list({str(one): one for one in (find_model(client, name) for name in spelled)}.values())
            for version in found:
                other = version.tags.get(Tag.TASK, "a task not known here")
                if other != self._task:
                    raise expected("candidate", f"a model for {self._task}", f"{version}, for {other}")
                if why := why_never_champion(version):
                    raise expected("candidate", "a model that could be champion", f"{version}, {why}")
        else:
            past = rolled_back(client, self._task) | {origin(self._champion) if self._champion else ""}
            found = [one for one in candidates_of(client, self._task) if str(one) not in past]
        if not found:
            others = "" if self._champion is None else f" beside the champion, {_named(self._champion)}"
            raise expected(
                "candidate", f"a registered model of {self._task}{others}", "none; `ensemble` or a family makes one"
            )
        challenges = []
        for version in found:
            one = Challenge(version=version)
            try:
                one.predictions = self._predictions(version)
                one.score = one.predictions.estimate(self._objective.name)
            except UserError as problem:
                one.gates.append(Gate("data", False, str(problem)))
            challenges.append(one)
        sign = 1 if self._objective.direction == "maximize" else -1
        return sorted(challenges, key=lambda one: np.nan_to_num(-sign * one.score.value, nan=np.inf))

    def _predictions(self, version: Version) -> OutOfFold:
        """The stored out-of-fold predictions of a version, nested ones of an ensemble. Raises `UserError`."""
        writer = self._writer
        run_id = version.tags.get(Tag.CV_RUN_ID, version.run_id) or "-"
        path = None
        if writer.ask(lambda: find_run(writer.client, run_id)) is not None:
            path = writer.ask(lambda: fetch_artifacts(writer.client, run_id, Artifact.OOF, self._folder / run_id))
        if path is None:
            raise expected(f"{version}", "its out-of-fold predictions in the store", "none")
        try:
            frame = pd.read_parquet(path).sort_values("patch")
            return OutOfFold.of_frame(frame, threshold_of(version))
        except (OSError, ValueError, KeyError, TypeError, UserError) as problem:
            found = str(problem).split("\n")[0]
            raise expected(f"{version}: {Artifact.OOF}", "out-of-fold predictions", found) from None

    def _judge(
        self, challenges: Sequence[Challenge], champion: Version | None, rival: OutOfFold | None
    ) -> Budget | None:
        """Bring every candidate to the gates; the last, a real prediction, only until one has passed them all.

        What it says is the error that was spent; None where there was no champion to beat.
        """
        # without a champion: the newest real candidate, else the newest
        newest = max((one.version for one in challenges), key=lambda v: (PHANTOM not in v.said, v.created))
        for one in challenges:
            if one.failed is None:
                one.gates.append(self._same(one, champion, _data(champion or newest), rival))
        budget = None if champion is None else self._budget(challenges, champion)
        outdone = None
        with closing(make_executor(self._asked.executor, 1)) as executor:
            for one in challenges:
                p = one.predictions
                if one.failed is not None or p is None:
                    continue
                if rival is not None and budget is not None:
                    one.gates.append(self._better(one, p, rival, budget))
                one.gates.append(calibrated(p, self._asked.calibration))
                if rival is not None:
                    one.gates.append(no_loss("sensitivity", p, rival))
                    one.gates.append(no_loss("specificity", p, rival, self._asked.specificity_loss))
                if one.failed is None:
                    one.gates.append(outdone or self._answers(one.version, executor))
                if one.failed is None:
                    outdone = Gate("best", False, "another candidate that passed has a better score")
        return budget

    def _budget(self, challenges: Sequence[Challenge], champion: Version) -> Budget | None:
        """The error of this decision; None where no candidate is left to be compared."""
        writer = self._writer
        for one in challenges:
            if one.failed is None:
                try:
                    one.compared = writer.ask(partial(compared_of, writer.client, one.version))
                except UserError as problem:
                    one.gates.append(Gate("better", False, str(problem)))
        standing = [(one.version, one.compared) for one in challenges if one.failed is None]
        return budget_of(writer, self._task, self._objective.name, champion, standing) if standing else None

    def _better(self, one: Challenge, own: OutOfFold, rival: OutOfFold, budget: Budget) -> Gate:
        """The gate's figures also say what was compared, and the verdict of the study that the candidate is of."""
        gate = better(own, rival, self._objective, budget.error, budget.compared)
        verdict = self._writer.ask(lambda: verdict_of(self._writer.client, one.version))
        study = f"; its study: {verdict}" if verdict else ""
        return Gate(gate.name, gate.passed, f"{gate.said}; {budget}{study}")

    def _same(self, one: Challenge, champion: Version | None, data: tuple[str, ...], rival: OutOfFold | None) -> Gate:
        """The candidate's predictions are there, and of the champion's patches and folds."""
        whose = "the champion" if champion is not None else "the newest candidate"
        p = one.predictions
        if p is None or _data(one.version) != data or (rival is not None and not p.same_patches(rival)):
            how = "" if champion is None else f"; {_anew(self._task)}"
            return Gate("data", False, f"trained on other data or folds than {whose}{how}")
        return Gate("data", True, f"the same {len(p.labels)} patches and folds as {whose}")

    def _answers(self, version: Version, executor: Executor) -> Gate:
        """The files are those that were registered, and the model answers its input example as its signature says."""
        try:
            found = verified_model(self._writer.client, f"{version.name}/{version.number}", self._folder / f"{version}")
            if ABNORMALITY_TYPE in found.made_of.inputs:
                return Gate("signature", False, "it is asked with the true type of the abnormality")
            ((_, answer),) = executor.run([TryJob(name="try", model=found.path)], lambda *_: None, lambda: None)
        except UserError as problem:
            return Gate("signature", False, str(problem))
        except Exception as problem:  # whatever a model that somebody made raises, here or in the child
            said = (str(problem).strip().splitlines() or [type(problem).__name__])[-1]
            return Gate("signature", False, f"it cannot be asked: {said}")
        columns = found.made_of.columns or ("probability",)
        probability = np.asarray(answer.get("probability", []), np.float64)
        if tuple(answer) != columns or not probability.size or not ((probability >= 0) & (probability <= 1)).all():
            return Gate(
                "signature", False, f"expected {', '.join(columns)}, found {', '.join(answer)} or no probability"
            )
        return Gate("signature", True, f"{probability.size} patches answered, {', '.join(found.made_of.inputs)} in")

    def _start(self, outcome: str, tags: dict[str, str]) -> TrackedRun:
        """The run of the decision. It is FINISHED only where what it says has come to be."""
        writer, params = self._writer, {"task": self._task, **self._asked.model_dump()}
        marks = {Tag.TASK: self._task, Tag.FAMILY: "promotion", Tag.DECISION: outcome}
        marks |= {Tag.CHAMPION_BEFORE: _named(self._champion), **tags}
        run = writer.start_run(f"{self._task} champion {outcome}", parent=None, tags=marks, params=params)
        writer.ask(lambda: close_orphaned_runs(writer.client, writer.experiment_id, run.id, ()))
        return run

    def _log(self, run: TrackedRun, challenges: Sequence[Challenge], best: Challenge) -> None:
        rows = [[str(one.version), gate.name, gate.passed, gate.said] for one in challenges for gate in one.gates]
        table = pd.DataFrame(rows, columns=["candidate", "gate", "passed", "figures"])
        run.log_text(table.to_csv(index=False), Artifact.GATES)
        log_estimates(run, {f"{Metric.OOF}{self._objective.name.replace('=', '_')}": best.score})

    def _show(self, challenges: Sequence[Challenge], best: Challenge, made: Version | None) -> None:
        rows = [
            [str(one.version), f"{one.score}", self._test(one.version), one.failed.name if one.failed else "all passed"]
            for one in challenges
        ]
        header = ["candidate", f"out-of-fold {self._objective.name}", "test roc_auc, no gate", "failed gate"]
        known = [one.predictions for one in challenges if one.predictions is not None]
        note = f", {cluster_note(known[0].groups)}" if known else ""
        show_table(f"{self._task}: candidates{note}{_said(challenges).title}", header, rows)
        for gate in best.gates:
            say(f"  {'passed' if gate.passed else 'FAILED'}  {gate.name}: {gate.said}")
        if made is None:
            why = "" if best.failed is None else f": {best.version} fails the gate '{best.failed.name}'"
            say(f"champion of {self._task}: {_named(self._champion)}, as before{why}")
            return
        say(f"champion of {self._task}: {_named(made)}, {_named(self._champion)} before")
        uri = f"models:/{registered_name(self._task)}@{CHAMPION}"
        say(f"predict:  python -m mammo_mlflow predict --model {uri} --input DIR --output out.csv")
        say(f"serve:    python -m mammo_mlflow serve --model {uri}")
        say(f"go back:  python -m mammo_mlflow promote --task {self._task} --rollback true")

    def _test(self, version: Version) -> str:
        """The stored test figure, which no gate looks at."""
        writer = self._writer
        run = writer.ask(lambda: find_run(writer.client, version.run_id or "-"))
        tested = {Metric.TEST_ACCURACY, Metric.TEST_ROC_AUC}  # the latter may not exist
        if run is None or not tested & set(run.data.metrics):
            return "-"
        return str(Estimate.read(Metric.TEST_ROC_AUC, run.data.metrics, run.data.tags))


def _anew(task: str) -> str:
    return f"to start anew on other data, delete the alias '{CHAMPION}' of {registered_name(task)}"


def _data(version: Version) -> tuple[str, ...]:
    return tuple(version.tags.get(name, "") for name in (Tag.DATA_SHA256, Tag.FOLDS_SHA256))


def _said(challenges: Sequence[Challenge]) -> Disclosure:
    return Disclosure.of(phantom=all(PHANTOM in one.version.said for one in challenges))


def _named(version: Version | None) -> str:
    """A champion by its version and what it was promoted from."""
    if version is None:
        return "none"
    return f"{version} ({version.tags[Tag.PROMOTED_FROM]})" if Tag.PROMOTED_FROM in version.tags else str(version)
