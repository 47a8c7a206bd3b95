"""Find the members of an ensemble: registered models of one task, with their out-of-fold and test predictions."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import numpy as np
import pandas as pd

from mammo_mlflow.backbones import PAPER_BACKBONES
from mammo_mlflow.errors import Faults, UserError, expected
from mammo_mlflow.evaluation.weighted import Floats
from mammo_mlflow.experiment import CrossValidationSpec
from mammo_mlflow.files import below
from mammo_mlflow.jobs.workbench import Workbench
from mammo_mlflow.names import Artifact, Tag, registered_name
from mammo_mlflow.planning.base_models import BaseModel
from mammo_mlflow.planning.find_base_models import BaseModelSearch, Command, NotRegistered
from mammo_mlflow.planning.plan import Plan
from mammo_mlflow.planning.planner import Planner
from mammo_mlflow.presets import KEPT
from mammo_mlflow.tracking.registry import Version
from mammo_mlflow.tracking.run_queries import fetch_artifacts

FEWEST = 2

SETS: dict[str, tuple[str, ...]] = {
    "scratch": tuple(f"scratch-{name}" for name in KEPT),
    "pretrained": tuple(f"pretrained-{name}" for name in PAPER_BACKBONES),
    "tuned": tuple(f"pretrained-{name}-tuned" for name in PAPER_BACKBONES),
    "siamese": (
        "siamese-scratch",
        *(f"siamese-{name}" for name in PAPER_BACKBONES),
        *(f"siamese-{name}-tuned" for name in PAPER_BACKBONES),
    ),
}
SETS["all"] = tuple(name for names in SETS.values() for name in names)
"""What `members` may name, and the registered models of each, behind `mammo-<task>-`."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Member:
    """A registered model in an ensemble, with its name there.

    `out_of_fold` float (n,) and `test` float (m,) are its stored probabilities: out of fold those without its
    recalibration, as it takes part, on the test set those that it answers with alone.
    """

    name: str
    base_model: BaseModel
    out_of_fold: Floats
    test: Floats

    @property
    def plan(self) -> Plan:
        """The plan by which the member was trained."""
        return self.base_model.plan

    @property
    def flips(self) -> bool:
        """Whether it answers with the mean over the flips and quarter turns of its patches, alone and here."""
        return self.plan.experiment.final.tta != "none"

    @property
    def recalibrated(self) -> bool:
        """Whether it goes through a map alone, which it does not here."""
        return self.plan.experiment.final.calibrate != "none"


def find_members(
    bench: Workbench,
    planner: Planner,
    task: str,
    members: str,
    cv: CrossValidationSpec,
    folds: np.ndarray,
    command: Command,
) -> list[Member]:
    """Find the models of a set of `SETS`, or of names with commas between (`name`, `name@alias`, `name/3`).

    Of a set, only the registered models are found; missing ones are logged, with the commands that make them. All have
    been trained on the planner's data and on `folds` int (n,), those of `cv`.

    Raises `UserError`: fewer than two, a name that is not registered, a model on other data or folds, a line for each.
    """
    of_set = members in SETS
    prefix = f"{registered_name(task)}-"
    wanted = [f"{prefix}{name}" for name in SETS[members]] if of_set else [one.strip() for one in members.split(",")]
    if len(set(wanted)) < len(wanted):
        raise expected("members", "different names", f"'{members}'")
    found, missing, faults = [], list[str](), list[str]()
    for name in wanted:
        try:
            search = BaseModelSearch(
                bench=bench,
                planner=planner,
                field="members",
                name=name,
                task=task,
                cv=cv,
                folds=folds,
                command=command,
            )
            base_model = search.find()
            found.append(_member(bench, name.removeprefix(prefix), base_model))
        except NotRegistered as problem:
            missing.append(problem.brief if of_set else str(problem))
        except UserError as problem:
            faults += problem.lines
    if not of_set:
        faults = missing + faults
    if faults:
        raise Faults(faults)
    if len(found) < FEWEST:
        sets = f"a set ({', '.join(SETS)}) or registered names with commas between"
        few = f"at least {FEWEST} registered models, by {sets}"
        raise Faults([str(expected("members", few, f"{len(found)} in '{members}'")), *missing])
    for line in missing:
        _log.info("%s", line)
    return found


def _member(bench: Workbench, name: str, base_model: BaseModel) -> Member:
    """A member with its stored probabilities. Raises `UserError` where they are gone."""
    version, out_of_fold = base_model.version, base_model.out_of_fold
    if base_model.plan.experiment.final.tta != "none":  # its fits' own are of the patches as they are
        run_id = version.tags.get(Tag.CV_RUN_ID, "-")
        out_of_fold = _stored(bench, version, run_id, Artifact.OOF, "out-of-fold predictions")
    test = _stored(bench, version, version.run_id, Artifact.TEST, "test predictions")
    member = Member(name=name, base_model=base_model, out_of_fold=out_of_fold, test=test)
    if member.recalibrated:
        _log.info(
            "%s takes part without its recalibration, which it has alone (docs/explanation/answer-sets.md)", version
        )
    return member


def _stored(bench: Workbench, version: Version, run_id: str, name: str, what: str) -> Floats:
    """The stored probabilities of a run's patches, (n,), in their order. Raises `UserError` where they are gone."""
    writer = bench.writer
    target = below(bench.scratch, f"member-{run_id}")
    path = writer.ask(lambda: fetch_artifacts(writer.client, run_id, name, target))
    if path is None:
        raise expected("members", f"a model with its {what}", f"{version} without {name}")
    return pd.read_parquet(path).sort_values("patch")["probability"].to_numpy(np.float64)
