"""The registered models that a conditioned model is built on, found again with their folds and tails.

In fold k the features come from the benign/malignant model that was trained without fold k, and the condition is the
out-of-fold prediction of the mass/calcification model: no patch is described by a model that was trained on it. In the
refit the features come from the registered model itself.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from mammo_mlflow.data.patches import targets
from mammo_mlflow.data.splits import folds_sha256
from mammo_mlflow.errors import Faults, UserError, expected
from mammo_mlflow.experiment import CONDITION, Experiment, build_from_text, canonical_json
from mammo_mlflow.models.weights import Weights
from mammo_mlflow.tracking.registry import CANDIDATE, Version, find_model, registered_names
from mammo_mlflow.tracking.resume import finished_runs
from mammo_mlflow.training.fits import fetch_fit
from mammo_mlflow.training.jobs import Cut, Description, Part
from mammo_mlflow.training.plan import REFIT, Activations, Plan, sha256, stored_bytes
from mammo_mlflow.training.planner import Planner
from mammo_mlflow.training.session import Session

_MADE_OF = ("weights_sha256", "folds_sha256", "keras_backend")
"""The tags that say why a model found again is not what it was."""
_STANDARD = re.compile(r"mammo-(?P<task>[^-]+)-(?P<family>[^-]+)-(?P<backbone>[^-]+)(?P<tuned>-tuned)?")


@dataclass(frozen=True)
class Derived:
    """The features of one fit of a source, as a cache entry, and how they are computed."""

    plan: Plan
    fit: str
    tail: Path
    prefixes: dict[str, Activations]
    entry: Activations


@dataclass(frozen=True)
class Source:
    """A registered model: its plan, the tail of each of its fits, and its out-of-fold predictions (n,)."""

    field: str
    version: Version
    plan: Plan
    tails: dict[str, Path]
    out_of_fold: np.ndarray

    @property
    def part(self) -> Part:
        """The registered model, to be built again."""
        return Part(self.plan.network, self.plan.weights, self.plan.description.trained.index, (self.tails[REFIT],))

    def derived(self, fit: str, asked: Experiment) -> Derived:
        """What the head of a fit's model stands on, in the views of `asked`."""
        training = asked.training
        changes = {"views": training.views, "augmentation": training.augmentation}
        own = self.plan.experiment.flat()
        changed = self.plan.experiment.changed(**{k: v for k, v in changes.items() if k in own})
        plan = replace(self.plan, experiment=changed)
        first, second = plan.inputs(plan.fits[0])
        prefixes = second or first
        # the features of frozen layers are the same in every fold
        whose = "" if prefixes and not second else next(one.key for one in plan.fits if one.name == fit)
        facts = {**changes, "of": [one.key for one in prefixes.values()], "whose": whose}
        facts |= {"data": plan.patch_set.files["train_tensor.npy"], "difference": plan.experiment.model.difference}
        cut = Cut(0, plan.description.head, "float32")
        size = stored_bytes(cut, len(plan.labels), training.views)
        key = sha256(canonical_json(facts))
        derived = Derived(plan, fit, self.tails[fit], prefixes, Activations(key, cut, size, key, None))
        return replace(derived, entry=replace(derived.entry, derived=derived))


@dataclass(frozen=True)
class Sources:
    """What a conditioned model is built on; without `condition` it is given the true type."""

    features: Source
    condition: Source | None

    @property
    def all(self) -> tuple[Source, ...]:
        """Both, or the one."""
        return (self.features,) if self.condition is None else (self.features, self.condition)

    @property
    def weights(self) -> Weights:
        """Which registered models these are, as the identity that keys hash; random weights are said on."""
        said = [source.plan.weights.label for source in self.all]
        label = "random" if "random" in said else ", ".join(dict.fromkeys(said))
        keys = [fit.key for source in self.all for fit in source.plan.fits]
        identity = sha256(canonical_json(keys))
        named = ", ".join(str(source.version) for source in self.all)
        return Weights("none", label, identity, named)

    @property
    def description(self) -> Description:
        """What the head stands on: the features and, beside them, the condition."""
        (width,) = self.features.plan.description.head
        parameters = sum(source.plan.description.parameters for source in self.all)
        speed = self.features.plan.description.patches_per_second
        return Description(Cut(0, (width,), "float32"), None, (width + 1,), parameters, speed)

    def constants(self, types: np.ndarray) -> dict[str, np.ndarray]:
        """The condition (n,) of each training abnormality of these types, from a model that was not trained on it."""
        if self.condition is None:
            return {CONDITION: targets(types, "mass_calc").astype(np.float32)}
        return {CONDITION: self.condition.out_of_fold}

    def check_folds(self, folds: np.ndarray) -> None:
        """Raises `UserError` where a source was cross-validated on other folds."""
        faults = []
        for source in self.all:
            if folds_sha256(source.plan.folds) != folds_sha256(folds):
                cv = source.plan.experiment.cv
                how = f"holdout={cv.holdout}" if cv.holdout else f"folds={cv.folds}"
                found = f"{source.version} with {how}, seed={cv.seed}"
                again = "give this command those, or train that model again"
                faults.append(f"{expected(source.field, 'a model with the folds of this command', found)}: {again}")
        if faults:
            raise Faults(faults)


def find_sources(session: Session, planner: Planner, data: str) -> Callable[[Experiment], Sources]:
    """What finds the registered models of an experiment; it raises `UserError` where one is missing or does not fit.

    `data` is how the data set is named on the command line, for the command that the error tells.
    """
    found: dict[tuple[str, str, str], Source] = {}

    def find(experiment: Experiment) -> Sources:
        def one(field: str, task: str) -> Source:
            asked = field, getattr(experiment.model, field), task
            if asked not in found:
                found[asked] = _find(session, planner, experiment, *asked, data)
            return found[asked]

        wanted = {"features_from": "benign_malignant", "condition_from": "mass_calc"}
        if experiment.model.backbone == "c":
            del wanted["condition_from"]
        sources, faults = [], list[str]()
        for field, task in wanted.items():
            try:
                sources.append(one(field, task))
            except UserError as problem:
                faults += problem.lines
        if faults:
            raise Faults(faults)
        return Sources(sources[0], sources[1] if len(sources) > 1 else None)

    return find


def _find(
    session: Session, planner: Planner, experiment: Experiment, field: str, name: str, task: str, data: str
) -> Source:
    writer, make = session.writer, f"mlflow run . {_entry(name, task)}{data}"
    version = writer.ask(lambda: find_model(writer.client, name or "-", CANDIDATE))
    if version is None:
        others = [
            one for one in writer.ask(lambda: registered_names(writer.client)) if one.startswith(f"mammo-{task}-")
        ]
        known = f"; registered for {task}: {', '.join(others)}" if others else ""
        raise UserError(f"{field}: expected a registered model, found no '{name}'; make it with: {make}{known}")
    tags = version.tags
    if tags.get("mammo.task") != task:
        what = tags.get("mammo.task", "a task that is not known here")
        raise expected(field, f"a model for {task}", f"{version}, for {what}")
    if tags.get("mammo.family") == "conditioned" or tags.get("mammo.control", "none") != "none":
        raise expected(field, "a model that is neither conditioned nor a control", f"{version}; make one with: {make}")
    patch_set = planner.patch_set
    if tags.get("mammo.data_sha256") != patch_set.train_sha256:
        raise expected(
            field,
            f"a model trained on {patch_set.directory}",
            f"{version}, trained on other data; make it anew with: {make}",
        )
    run = writer.ask(lambda: writer.client.get_run(version.run_id))
    plan = planner.plans([build_from_text(run.data.params)])[0]
    again = f"train it again with: {make}"
    if tags.get("mammo.key") != plan.final_key(version.name):
        now = plan.tags()
        other = [name for name in _MADE_OF if tags.get(f"mammo.{name}") != now[f"mammo.{name}"]]
        differs = f"with other {' and '.join(other)}" if other else "by other code, or tested on other data"
        raise expected(field, "a model of this code, data and weights", f"{version}, made {differs}; {again}")
    needed = [fit for fit in plan.fits if fit.fold is not None or experiment.final.final == REFIT]
    if experiment.final.final == REFIT and REFIT not in {fit.name for fit in needed}:
        raise expected(
            field, "a model with final=refit", f"{version}, with final={plan.experiment.final.final}; {again}"
        )
    runs = writer.ask(lambda: finished_runs(writer.client, [fit.key for fit in needed]))
    tails, out_of_fold = {}, np.full(len(plan.labels), np.nan)
    for fit in needed:
        result = fetch_fit(session, runs[fit.key], fit) if fit.key in runs else None
        if result is None:
            raise expected(field, "a model whose folds are in the store", f"{version} without {fit.name}; {again}")
        tails[fit.name] = result.tail
        out_of_fold[fit.validation_rows] = result.probabilities
    return Source(field, version, plan, tails, out_of_fold)


def _entry(name: str, task: str) -> str:
    """The entry point, with its parameters, that registers a model under this name."""
    found = _STANDARD.fullmatch(name.partition("@")[0].partition("/")[0])
    if found is None:
        return f"-e siamese -P task={task}"
    tuned = " -P unfrozen_layers=1" if found["tuned"] else ""
    return f"-e {found['family']} -P task={found['task']} -P backbone={found['backbone']}{tuned}"
