"""Decide about the champion of a task, and keep the decision as a run: promote the best candidate, keep, or go back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from mammo_mlflow.disclosure import PHANTOM
from mammo_mlflow.errors import UserError, expected
from mammo_mlflow.estimate import Estimate, log_estimates
from mammo_mlflow.evaluation.objectives import Objective
from mammo_mlflow.names import Artifact, Metric, Tag
from mammo_mlflow.promotion.candidates import (
    Candidate,
    PromotionSpec,
    champion_name,
    disclosure_of,
    find_candidates,
    stored_predictions,
    stored_test,
)
from mammo_mlflow.promotion.judging import Rival, how_to_start_anew, judge_candidates
from mammo_mlflow.tracking.champions import champion_of, go_back, previous_of, promote
from mammo_mlflow.tracking.lock import Lock
from mammo_mlflow.tracking.orphans import close_orphaned_runs
from mammo_mlflow.tracking.registry import Version, verified_model
from mammo_mlflow.tracking.runs import Writer
from mammo_mlflow.tracking.tracked_run import TrackedRun


@dataclass(frozen=True, kw_only=True)
class Decision:
    """A decision about a champion: `after` is the champion it made, None where it changed nothing.

    `candidates` are judged, the best score first, each with its stored test ROC AUC in `tests`; `best` is the one that
    was promoted or, where none passed all gates, the first; `run_id` is the decision's run.
    `unreal` where the champion before was trained on phantom data and real candidates did not have to beat it.
    """

    run_id: str
    candidates: Sequence[Candidate]
    tests: Sequence[Estimate | None]
    best: Candidate
    before: Version | None
    after: Version | None
    unreal: bool


def decide(writer: Writer, spec: PromotionSpec, objective: Objective, folder: Path, lock: Lock) -> Decision:
    """Promote the best candidate that passes every gate, or change nothing; predictions are fetched into `folder`.

    `lock` is held, and checked before the champion changes. Raises `UserError` where that was lost, and before the
    decision's run exists: no candidate, or a champion without its predictions.
    """
    before = champion_of(writer.client, spec.task)
    candidates = find_candidates(writer, spec, objective, before, folder)
    unreal = before is not None and PHANTOM in before.disclosure and PHANTOM not in disclosure_of(candidates)
    rival = None
    if before is not None and not unreal:
        try:
            rival = Rival(version=before, predictions=stored_predictions(writer, before, folder, spec.unit))
        except UserError as problem:
            raise UserError(f"{problem}; {how_to_start_anew(spec.task)}") from None
    budget = judge_candidates(writer, spec, objective, candidates, rival, folder)
    chosen = next((one for one in candidates if one.failed is None), None)
    best = chosen or candidates[0]
    tags = {Tag.CANDIDATE: str(best.version), **best.version.disclosure.tags}
    if budget is not None:
        tags |= budget.tags(promoted=0 if chosen is None else chosen.compared)
    if best.failed is not None:
        tags[Tag.FAILED_GATE] = best.failed.name
    run = _start_run(writer, spec, "kept" if chosen is None else "promoted", before, tags)
    _log_gates(run, objective, candidates, best)
    writer.drain()
    lock.check()
    after = None if chosen is None else promote(writer.client, spec.task, chosen.version, run.id)
    run.close()
    tests = [stored_test(writer, one.version) for one in candidates]
    return Decision(
        run_id=run.id, candidates=candidates, tests=tests, best=best, before=before, after=after, unreal=unreal
    )


def roll_back(writer: Writer, spec: PromotionSpec, folder: Path, lock: Lock) -> tuple[str, Version, Version]:
    """Go back to the champion before the present one, whose files are fetched into `folder` and checked first.

    `lock` is held. Returns the id of the decision's run, the champion from now on, and the one until now. Raises
    `UserError` where there is none to go back to, or the lock was lost.
    """
    earlier, champion = previous_of(writer.client, spec.task), champion_of(writer.client, spec.task)
    if champion is None:
        raise expected("rollback", f"a champion of {spec.task}", "none")
    # it can be served
    verified_model(writer.client, f"{earlier.name}/{earlier.number}", folder / "before")
    run = _start_run(writer, spec, "rolled back", champion, {Tag.CANDIDATE: str(earlier)})
    writer.drain()
    lock.check()
    go_back(writer.client, champion, earlier, run.id)
    run.close()
    return run.id, earlier, champion


def _start_run(
    writer: Writer, spec: PromotionSpec, outcome: str, before: Version | None, more: dict[str, str]
) -> TrackedRun:
    """The run of the decision. It is FINISHED only where what it says has come to be."""
    tags = {Tag.TASK: spec.task, Tag.FAMILY: "promotion", Tag.DECISION: outcome}
    tags |= {Tag.CHAMPION_BEFORE: champion_name(before), **more}
    run = writer.start_run(f"{outcome} {spec.task} champion", parent=None, tags=tags, params=spec.params)
    writer.ask(lambda: close_orphaned_runs(writer.client, writer.experiment_id, run.id, ()))
    return run


def _log_gates(run: TrackedRun, objective: Objective, candidates: Sequence[Candidate], best: Candidate) -> None:
    rows = [[str(one.version), gate.name, gate.passed, gate.said] for one in candidates for gate in one.gates]
    table = pd.DataFrame(rows, columns=["candidate", "gate", "passed", "figures"])
    run.log_text(table.to_csv(index=False), Artifact.GATES)
    log_estimates(run, {f"{Metric.OOF}{objective.name.replace('=', '_')}": best.score})
