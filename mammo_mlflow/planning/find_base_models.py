"""Find the registered models that conditioned models and ensembles are built on, and fetch their folds and tails."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from mammo_mlflow.checks import Value
from mammo_mlflow.data.splits import folds_sha256
from mammo_mlflow.errors import UserError, expected, gathered
from mammo_mlflow.experiment import (
    COMMON_FOLDS,
    NETWORKS,
    CrossValidationSpec,
    Experiment,
    build,
    build_from_text,
)
from mammo_mlflow.jobs.devices import Devices
from mammo_mlflow.jobs.workbench import Workbench
from mammo_mlflow.names import CANDIDATE, PREFIX, SEARCHED, Tag
from mammo_mlflow.planning.base_models import BaseModel, BaseModels
from mammo_mlflow.planning.plan import REFIT, Fit, Plan
from mammo_mlflow.planning.planner import Planner
from mammo_mlflow.planning.stored_fits import fetch_fit
from mammo_mlflow.tracking.registry import Version, find_models, find_run, registered_names
from mammo_mlflow.tracking.run_queries import finished_runs

_EXPLAINING_TAGS = (Tag.WEIGHTS_SHA256, Tag.FOLDS_SHA256)
"""The tags that explain why a model, planned again, has another key."""
BASE_FAMILIES = ("pretrained", "scratch", "siamese")
"""The families whose models a conditioned one can be built on."""

Command = Callable[[str, Mapping[str, Value]], str]
"""Gives the command line of an entry point with these parameters, on this command's data."""


class NotRegistered(UserError):  # noqa: N818 - names what was found
    """Raised where no model of a name is registered; `brief` says how to make it, the message also names others."""

    def __init__(self, brief: str, others: str) -> None:
        self.brief = brief
        super().__init__(brief + others)


def find_base_models(
    bench: Workbench,
    planner: Planner,
    command: Command,
) -> Callable[[Experiment, np.ndarray], BaseModels]:
    """Make a function that finds the base models of an experiment with folds int (n,); each is fetched once.

    It raises `UserError` where one is missing or does not fit, with the `command` line that makes it.
    """
    found: dict[tuple[str, str, str, str, bool], BaseModel] = {}

    def find(experiment: Experiment, folds: np.ndarray) -> BaseModels:
        def find_one(parameter: tuple[str, str]) -> BaseModel:
            field, task = parameter
            name, refit = getattr(experiment.model, field), experiment.final.final == REFIT
            identity = field, name, task, folds_sha256(folds), refit
            if identity not in found:
                search = BaseModelSearch(
                    bench=bench,
                    planner=planner,
                    field=field,
                    name=name,
                    task=task,
                    cv=experiment.cv,
                    folds=folds,
                    command=command,
                    refit=refit,
                )
                found[identity] = search.find()
            return found[identity]

        wanted = {"features_from": "benign_malignant", "condition_from": "mass_calc"}
        if experiment.model.backbone == "c":
            del wanted["condition_from"]
        base_models = gathered(find_one, wanted.items())
        condition = base_models[1] if len(base_models) > 1 else None
        return BaseModels(base_models[0], condition, condition is not None and experiment.model.condition == "class")

    return find


@dataclass(frozen=True, kw_only=True)
class BaseModelSearch:
    """A search for a registered model of a task by `name`, trained on the planner's data with `folds`, int (n,).

    `cv` are the parameters that gave the folds, `field` is the parameter that names the model. With `refit` the tail of
    its refit is needed too.
    """

    bench: Workbench
    planner: Planner
    field: str
    name: str
    task: str
    cv: CrossValidationSpec
    folds: np.ndarray
    command: Command
    refit: bool = True

    @cached_property
    def _bare_name(self) -> str:
        """The name without alias or version."""
        return self.name.partition("@")[0].partition("/")[0]

    @cached_property
    def _make_command(self) -> str | None:
        """The command line that registers such a model, if there is one."""
        entry = self._entry_point(self._bare_name)
        return None if entry is None else self.command(*entry)

    def find(self) -> BaseModel:
        """Find the newest suitable version and fetch its fits.

        Raises `UserError` about the first version if none is suitable, `NotRegistered` if there is none of that name.
        """
        client, data = self.bench.writer.client, self.planner.patch_set
        ask = self.bench.writer.ask
        tags = {Tag.DATA_SHA256: data.train_sha256, Tag.FOLDS_SHA256: folds_sha256(self.folds)}
        versions = ask(lambda: find_models(client, self.name or "-", tags))
        problems = []
        for version in versions:
            try:
                return self._check_version(version)
            except UserError as problem:
                problems.append(problem)
        if problems:
            raise problems[0]
        names = ask(lambda: registered_names(client))
        known = [name for name in names if self._entry_point(name) is not None]
        makes = self._make_command and self.name in (self._bare_name, f"{self._bare_name}@{CANDIDATE}")
        made = f"; make it with: {self._make_command}" if makes else ""
        others = f"; registered for {self.task}: {', '.join(known)}" if known else ""
        raise NotRegistered(f"{self.field}: expected a registered model, found no '{self.name}'{made}", others)

    def _check_version(self, version: Version) -> BaseModel:
        """Check a version's task, family, data, folds and key, and fetch its fits. Raises `UserError`."""
        tags, data = version.tags, self.planner.patch_set
        if tags.get(Tag.TASK) != self.task:
            what = tags.get(Tag.TASK, "a task that is not known here")
            raise self._misfit(f"a model for {self.task}", f"{version}, for {what}")
        family, control = tags.get(Tag.FAMILY, "foreign"), tags.get(Tag.CONTROL, "none")
        if family not in BASE_FAMILIES or control != "none":
            kind = family if control == "none" else f"{control} control"
            raise self._misfit(f"a model of {', '.join(BASE_FAMILIES)}, no control", f"{version}, a {kind} model")
        if tags.get(Tag.DATA_SHA256) != data.train_sha256:
            raise self._misfit(f"a model trained on {data.directory}", f"{version}, trained on other data")
        plan = self._plan(version)
        if folds_sha256(plan.folds) != folds_sha256(self.folds):
            cv = plan.experiment.cv
            how = f"holdout={cv.holdout}" if cv.holdout else f"folds={cv.folds}"
            raise self._misfit("a model with the folds of this command", f"{version} with {how}, seed={cv.seed}")
        run_name = version.tags.get(Tag.REGISTERED_NAME, version.name)
        if tags.get(Tag.KEY) != plan.final_key(run_name):
            now = plan.tags()
            other = [tag.removeprefix(PREFIX) for tag in _EXPLAINING_TAGS if tags.get(tag) != now[tag]]
            differs = f"with other {' and '.join(other)}" if other else "by other code, or tested on other data"
            raise self._misfit("a model of this code, data and weights", f"{version}, made {differs}")
        needed = [fit for fit in plan.fits if fit.fold is not None or self.refit]
        if self.refit and REFIT not in {fit.name for fit in needed}:
            raise self._misfit("a model with final=refit", f"{version}, with final={plan.experiment.final.final}")
        return self._fetch_fits(version, plan, needed)

    def _plan(self, version: Version) -> Plan:
        """Plan the experiment of a version again, from the parameters of its run. Raises `UserError`.

        It is planned with the devices that it was trained with, which its key holds: what is asked of it here, its
        stored predictions and its weights, is theirs wherever this command computes.
        """
        writer = self.bench.writer
        run = writer.ask(lambda: find_run(writer.client, version.run_id))
        if run is None:
            raise self._misfit("a model whose run is in the store", f"{version} without its run")
        try:
            return self.planner.plans([build_from_text(run.data.params)], Devices.of_tags(version.tags))[0]
        except UserError as problem:
            raise self._misfit("a model that can be planned again", f"{version}: {problem}") from None

    def _fetch_fits(self, version: Version, plan: Plan, needed: list[Fit]) -> BaseModel:
        """Fetch the tails and out-of-fold predictions of the needed fits. Raises `UserError` where one is missing."""
        writer = self.bench.writer
        runs = writer.ask(lambda: finished_runs(writer.client, [fit.key for fit in needed]))
        tails, out_of_fold = {}, np.full(len(plan.labels), np.nan)
        for fit in needed:
            result = fetch_fit(self.bench, runs[fit.key], fit) if fit.key in runs else None
            if result is None or result.tail is None:
                raise self._misfit("a model whose folds are in the store", f"{version} without {fit.name}")
            tails[fit.name] = result.tail
            out_of_fold[fit.validation_rows] = result.probabilities
        return BaseModel(field=self.field, version=version, plan=plan, tails=tails, out_of_fold=out_of_fold)

    def _misfit(self, wanted: str, found: str) -> UserError:
        """The error for a version that cannot be used."""
        again = f"; make one with: {self._make_command}" if self._make_command else ""
        return expected(self.field, wanted, f"{found}{again}")

    def _entry_point(self, name: str) -> tuple[str, dict[str, Value]] | None:
        """The entry point and parameters that register a model of this name, on these folds; None for other names."""
        cv = self.cv
        own: dict[str, Value] = {"folds": cv.folds} if cv.folds != COMMON_FOLDS else {}
        own |= {"seed": cv.seed} if cv.seed else {}
        for family in BASE_FAMILIES:
            for backbone in NETWORKS[family]:
                for tuned in ({}, {"unfrozen_layers": 1}):
                    values: dict[str, Value] = {"backbone": backbone, **tuned, **own}
                    try:
                        made = build(self.task, values, family).registered_name
                    except UserError:  # no layers to unfreeze
                        continue
                    if made == name:
                        return family, {"task": self.task, **values}
                    if f"{made}-{SEARCHED}" == name:
                        return "search", {"family": family, "task": self.task, "backbone": backbone, **own}
        return None
