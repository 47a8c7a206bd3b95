"""The command `promote`: decide about a task's champion on the candidates' stored out-of-fold predictions."""

from __future__ import annotations

import tempfile
from pathlib import Path

from mammo_mlflow.commands.promote import PromoteOptions
from mammo_mlflow.disclosure import PHANTOM
from mammo_mlflow.evaluation.intervals import cluster_note
from mammo_mlflow.evaluation.objectives import Objective, parse_objectives
from mammo_mlflow.names import CHAMPION, registered_name
from mammo_mlflow.promotion.candidates import BEST, Candidate, PromotionSpec, champion_name, disclosure_of
from mammo_mlflow.promotion.decision import Decision, decide, roll_back
from mammo_mlflow.terminal import say, show_table
from mammo_mlflow.tracking.champions import deciding
from mammo_mlflow.tracking.store import open_writer
from mammo_mlflow.workflows.workbench import ending_runs


def run(options: PromoteOptions) -> str:
    """Run `promote`: decide about a task's champion; return the id of the decision's run.

    Raises `UserError`, where possible before any run exists.
    """
    task, (objective,) = options.task, parse_objectives(options.objective)
    spec = PromotionSpec(**options.model_dump())
    writer = open_writer({})
    with tempfile.TemporaryDirectory() as folder, deciding(writer.client, task) as lock, ending_runs(writer):
        if options.rollback:
            run_id, now, before = roll_back(writer, spec, Path(folder), lock)
            say(f"champion of {task}: {champion_name(now)} again, {champion_name(before)} before")
            return run_id
        decision = decide(writer, spec, objective, Path(folder), lock)
        _show(task, objective, decision)
        return decision.run_id


def _ended(one: Candidate) -> str:
    """How a candidate ended: the gate that it failed first, if any."""
    if one.failed is None:
        return "all passed"
    return "none, outscored" if one.failed.name == BEST else one.failed.name


def _show(task: str, objective: Objective, decision: Decision) -> None:
    """The candidates, the gates of the best one, the champion, and the commands that use it, on the terminal."""
    before = champion_name(decision.before)
    if decision.unreal:
        say(f"the champion, {before}, was trained on {PHANTOM.mark}: nothing real to beat")
    rows = [
        [str(one.version), f"{one.score}", f"{test or '-'}", _ended(one)]
        for one, test in zip(decision.candidates, decision.tests, strict=True)
    ]
    header = ["candidate", f"out-of-fold {objective.name}", "test roc_auc, no gate", "failed gate"]
    known = [one.predictions for one in decision.candidates if one.predictions is not None]
    note = f", {cluster_note(known[0].groups)}" if known else ""
    show_table(f"{task}: candidates{note}{disclosure_of(decision.candidates).title}", header, rows)
    best = decision.best
    for gate in best.gates:
        say(f"  {'passed' if gate.passed else 'FAILED'}  {gate.name}: {gate.said}")
    if decision.after is None:
        why = "" if best.failed is None else f": {best.version} fails the gate '{best.failed.name}'"
        say(f"champion of {task}: {before}, as before{why}")
        return
    say(f"champion of {task}: {champion_name(decision.after)}, {before} before")
    uri = f"models:/{registered_name(task)}@{CHAMPION}"
    say(f"predict:  python -m mammo_mlflow predict --model {uri} --input DIR --output out.csv")
    say(f"serve:    python -m mammo_mlflow serve --model {uri}")
    say(f"go back:  python -m mammo_mlflow promote --task {task} --rollback true")
