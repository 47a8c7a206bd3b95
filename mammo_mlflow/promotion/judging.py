"""Bring candidates to the gates: data, lead over the champion, calibration, coverage, rates, signature."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from mammo_mlflow.answer_sets import read_limits
from mammo_mlflow.disclosure import PHANTOM
from mammo_mlflow.errors import UserError
from mammo_mlflow.evaluation.gates import Gate, better, calibrated, covered, no_loss
from mammo_mlflow.evaluation.objectives import Objective
from mammo_mlflow.evaluation.out_of_fold import OutOfFold
from mammo_mlflow.experiment import ABNORMALITY_TYPE, SEVERAL
from mammo_mlflow.files import below
from mammo_mlflow.jobs.contracts import TryJob
from mammo_mlflow.jobs.executors import Executor, make_executor
from mammo_mlflow.names import CHAMPION, Tag, registered_name
from mammo_mlflow.promotion.budget import Budget, budget_of
from mammo_mlflow.promotion.candidates import BEST, Candidate, PromotionSpec, data_of
from mammo_mlflow.tracking.compared import compared_of, verdict_of
from mammo_mlflow.tracking.registry import Version, verified_model
from mammo_mlflow.tracking.runs import Writer


@dataclass(frozen=True, kw_only=True)
class Rival:
    """The champion that candidates have to beat, with its stored out-of-fold predictions."""

    version: Version
    predictions: OutOfFold


def judge_candidates(
    writer: Writer,
    spec: PromotionSpec,
    objective: Objective,
    candidates: Sequence[Candidate],
    rival: Rival | None,
    folder: Path,
) -> Budget | None:
    """Judge every candidate, the best first, by the gates, and store the gates' results in the candidate.

    The last gate, for which a model is fetched below `folder` and asked, is tried until one candidate has passed all.
    Returns the error that this spends; None where there was no champion to beat.
    """
    # without a champion: the newest real candidate, else the newest
    newest = max((one.version for one in candidates), key=lambda v: (PHANTOM not in v.disclosure, v.created))
    for one in candidates:
        if one.failed is None:
            one.gates.append(_same_data(one, rival, newest, spec))
    budget = None if rival is None else _budget(writer, spec, objective, candidates, rival.version)
    outdone = None
    with closing(make_executor(spec.executor, 1)) as executor:
        for one in candidates:
            p = one.predictions
            if one.failed is not None or p is None:
                continue
            if rival is not None and budget is not None:
                one.gates.append(_better(writer, one.version, p, rival, objective, budget))
            one.gates.append(calibrated(p, spec.calibration, Tag.RECALIBRATED in one.version.tags))
            if (limits := read_limits(one.version.tags)) is not None:
                one.gates.append(covered(p, limits.coverage))
            if rival is not None:
                one.gates.append(no_loss("sensitivity", p, rival.predictions))
                one.gates.append(no_loss("specificity", p, rival.predictions, spec.specificity_loss))
            if one.failed is None:
                one.gates.append(outdone or _answers(writer, one.version, executor, folder))
            if one.failed is None:
                outdone = Gate(BEST, False, "another candidate that passed has a better score")
    return budget


def how_to_start_anew(task: str) -> str:
    """Advice for a task whose champion was trained on data that candidates cannot be compared on."""
    return f"to start anew on other data, delete the alias '{CHAMPION}' of {registered_name(task)}"


def _same_data(one: Candidate, rival: Rival | None, newest: Version, spec: PromotionSpec) -> Gate:
    """The candidate's predictions are there, and of the champion's patches and folds."""
    whose = "the newest candidate" if rival is None else "the champion"
    data, p = data_of(newest if rival is None else rival.version), one.predictions
    if p is None or data_of(one.version) != data or (rival is not None and not p.same_patches(rival.predictions)):
        how = "" if rival is None else f"; {how_to_start_anew(spec.task)}"
        return Gate("data", False, f"trained on other data or folds than {whose}{how}")
    return Gate("data", True, f"the same {len(p.labels)} {SEVERAL[spec.unit]} and folds as {whose}")


def _budget(
    writer: Writer, spec: PromotionSpec, objective: Objective, candidates: Sequence[Candidate], champion: Version
) -> Budget | None:
    """The error of this decision; None where no candidate is left to be compared."""
    for one in candidates:
        if one.failed is None:
            try:
                one.compared = writer.ask(partial(compared_of, writer.client, one.version))
            except UserError as problem:
                one.gates.append(Gate("better", False, str(problem)))
    standing = [(one.version, one.compared) for one in candidates if one.failed is None]
    compared = objective.name if spec.unit == "patch" else f"{objective.name} by {spec.unit}"
    return budget_of(writer, spec.task, compared, champion, standing) if standing else None


def _better(
    writer: Writer, version: Version, own: OutOfFold, rival: Rival, objective: Objective, budget: Budget
) -> Gate:
    """The gate `better`, whose words also tell the budget and the verdict of the study that the candidate is of."""
    gate = better(own, rival.predictions, objective, budget.error, budget.compared)
    verdict = writer.ask(lambda: verdict_of(writer.client, version))
    study = f"; its study: {verdict}" if verdict else ""
    return replace(gate, said=f"{gate.said}; {budget}{study}")


def _answers(writer: Writer, version: Version, executor: Executor, folder: Path) -> Gate:
    """The files are those that were registered, and the model answers its input example as its signature says."""
    try:
        found = verified_model(writer.client, f"{version.name}/{version.number}", below(folder, f"{version}"))
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
        return Gate("signature", False, f"expected {', '.join(columns)}, found {', '.join(answer)} or no probability")
    return Gate("signature", True, f"{probability.size} patches answered, {', '.join(found.made_of.inputs)} in")
