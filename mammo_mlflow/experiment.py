"""Experiments as data: frozen, checked dataclasses that define a cross-validated model and hash to its keys.

Each part is a dataclass whose fields are also the parameters of the command line (`--learning-rate`) and of
`mlflow run` (`-P learning_rate=`): a field's metadata holds its help text and its check.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import Field, dataclass, field, fields
from typing import Any, Literal

from mammo_mlflow import checks, roles
from mammo_mlflow.errors import Faults, UserError, expected, unknown_name
from mammo_mlflow.files import json_sha256
from mammo_mlflow.model_spec import DIFFERENCES as DIFFERENCES
from mammo_mlflow.model_spec import ModelSpec
from mammo_mlflow.names import registered_name
from mammo_mlflow.roles import FAMILIES, network_of, parameter
from mammo_mlflow.roles import NETWORKS as NETWORKS
from mammo_mlflow.training_spec import TrainingSpec as TrainingSpec

RESULTS_VERSION = 2
"""The version of fits and plans: raised where the code gives a fit other numbers, so that all are trained again.

What else changes has a version where it is made: random weights (`models/weights.py`), cached activations
(`planning/activations.py`), ensembles (`ensembles/methods.py`). Raising one of them trains no fold again.
"""

TASKS = ("mass_calc", "benign_malignant")
FINALS = ("refit", "fold_average", "none")
TTAS = ("none", "flips", "views")
UNITS = ("patch", "lesion")
"""What thresholds are chosen on and gates judge; a lesion's views are averaged."""
SEVERAL = {"patch": "patches", "lesion": "lesions"}
"""The plural of each of `UNITS`."""
CALIBRATIONS = ("none", "platt", "isotonic")
CONTROLS = ("none", "baseline", "shuffled")
COMMON_FOLDS = 4
PATCH, BASELINE, OTHER_VIEW, ABNORMALITY_TYPE = "patch", "baseline", "other_view", "abnormality_type"
"""The inputs of served models: raw 16-bit patches (n, size, size, 1), and 0 for a mass or 1 for a calcification.

`other_view` is the abnormality of another row: the same lesion in its other view (`data.patches.Split.other_views`).
"""
FEATURES, CONDITION = "features", "condition"
"""The inputs of a conditioned model's tail: features, and the probability or class of a calcification."""
FLIPS = tuple((transposed, rows, columns) for transposed in (0, 1) for rows in (0, 1) for columns in (0, 1))
"""The eight flips and quarter turns of a square: whether it is transposed, then its rows and its columns reversed."""
ROWS = {BASELINE: 0, PATCH: 1, OTHER_VIEW: 1}
"""Where each lies in a data file: baselines in the even rows, abnormalities in the odd ones."""


@dataclass(frozen=True)
class CrossValidationSpec:
    """The parameters of cross-validation: folds or a hold-out, their seed, and the control."""

    folds: int = roles.judging(4, "number of folds", checks.whole_number(2, 1000))
    holdout: float = roles.judging(
        0.0,
        "share of the patients held out once instead of folds; 0: folds",
        checks.below_one,
        roles.ENCODED,
        added=True,
    )
    seed: int = roles.judging(0, "seed of folds, weights, order and augmentation", checks.seed)
    control: str = parameter(
        "none",
        "control experiment: baseline (the healthy patches alone), shuffled (labels) or none",
        checks.one_of(*CONTROLS),
        roles.ENCODED,
        added=True,
        moves="judging activations",
    )


@dataclass(frozen=True)
class FinalSpec:
    """The parameters of the registered model: how it is made of the folds, and its decision threshold."""

    final: Literal["refit", "fold_average", "none"] = roles.finishing(
        "refit", "final model: refit on all training patches, fold_average, or none", checks.one_of(*FINALS)
    )
    final_epochs: int = parameter(
        0,
        "epochs of the head in the refit; 0 takes the folds' own",
        checks.whole_number(0, 100_000),
        moves="final training",
    )
    tta: Literal["none", "flips", "views"] = roles.finishing(
        "none",
        "test-time augmentation, whose answers are averaged: flips, the 8 flips and quarter turns; views, the cached "
        "ones of scored patches, and flips in the registered model; or none",
        checks.one_of(*TTAS),
        roles.TURNED,
        added=True,
    )
    threshold: str = roles.finishing(
        "0.5",
        "decision threshold: a number, youden, sensitivity=0.9, or with a lower confidence bound, sensitivity=0.9@95%",
        checks.anything,
    )
    coverage: float = roles.finishing(
        0.0,
        'answer sets of one class or both ("refer"): how often each class is part of them at least; 0: none',
        checks.below_one,
        added=True,
    )
    unit: Literal["patch", "lesion"] = roles.finishing(
        "patch",
        "what the threshold is chosen on: patch, or lesion, the mean of its views' probabilities",
        checks.one_of(*UNITS),
        added=True,
    )
    calibrate: Literal["none", "platt", "isotonic"] = roles.finishing(
        "none",
        "recalibration fitted on out-of-fold predictions, inside the registered model: platt, isotonic, or none",
        checks.one_of(*CALIBRATIONS),
        added=True,
    )


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """Everything that defines a cross-validated model. Raises `UserError` for all of its impossible values at once."""

    task: str
    model: ModelSpec = field(default_factory=ModelSpec)
    training: TrainingSpec = field(default_factory=TrainingSpec)
    cv: CrossValidationSpec = field(default_factory=CrossValidationSpec)
    final: FinalSpec = field(default_factory=FinalSpec)
    family: str = "pretrained"

    def __post_init__(self) -> None:
        checks.one_of(*FAMILIES)("family", self.family)
        checks.one_of(*TASKS)("task", self.task)
        problems = faults(self._values())
        network = network_of(self.family)
        for check in (lambda: network("backbone", self.model.backbone), self._check_family):
            try:
                check()
            except UserError as problem:
                problems += problem.lines
        if problems:
            raise Faults(problems)

    def _values(self) -> dict[str, checks.Value]:
        """The values of all parameters, also of those that its family does not use."""
        return {name: value for part in PARTS for name, value in vars(getattr(self, part)).items()}

    def _check_family(self) -> None:
        if self.family == "conditioned":
            if self.task != "benign_malignant":
                raise expected("task", "benign_malignant, which is what is conditioned", f"'{self.task}'")
            if self.final.final == "fold_average":
                raise expected("final", "refit or none for conditioned models", "'fold_average'")
            if self.training.views == 0:
                raise expected("views", "at least 1 for conditioned models", 0)
            if self.final.tta == "flips":
                raise expected("tta", "views or none for conditioned models", "'flips'")
        if self.family == "siamese" and self.cv.control == "baseline":
            raise expected(
                "control", "shuffled or none for Siamese networks, which see the baseline anyway", "'baseline'"
            )
        if self.training.weight_average > 1 and self.training.early_stop:
            wanted = "1 beside early_stop, which keeps the weights of one epoch"
            raise expected("weight_average", wanted, self.training.weight_average)
        if self.family == "views" and self.cv.control == "baseline":
            raise expected("control", "shuffled or none for networks of a lesion's two views", "'baseline'")
        if self.final.tta == "views" and self.views == 0:
            raise expected("tta", "flips or none where no views are cached", "'views'")
        if self.final.calibrate != "none" and self.cv.holdout:
            raise expected("calibrate", "none with a hold-out, which has no other fold", f"'{self.final.calibrate}'")
        if self.final.coverage and self.cv.holdout:
            raise expected("coverage", "0 with a hold-out, which has no other fold", self.final.coverage)
        if len(self.model.backbones) > 1 and (unfrozen := self.model.unfrozen_layers):
            raise expected("unfrozen_layers", "0 for joined backbones, which are frozen", unfrozen)
        if len(self.model.backbones) > 1 and self.training.views == 0:
            raise expected("views", "at least 1 for joined backbones, whose features are cached", 0)
        if self.trained_whole and self.model.unfrozen_layers:
            raise expected("unfrozen_layers", "0 for an encoder trained from scratch", self.model.unfrozen_layers)

    @property
    def trained_whole(self) -> bool:
        """Whether no layer is frozen, so that the whole network is trained, on line."""
        return self.family == "scratch" or (self.family == "siamese" and self.model.backbone == "scratch")

    @property
    def views(self) -> int:
        """The number of augmented views cached of each patch; 0 in on-line training."""
        return 0 if self.trained_whole else self.training.views

    @property
    def sides(self) -> dict[str, int]:
        """The image inputs of the network by name, each with the first row it reads of a tensor file (`ROWS`)."""
        if self.family == "siamese":
            return {BASELINE: ROWS[BASELINE], PATCH: ROWS[PATCH]}
        if self.family == "views":
            return {PATCH: ROWS[PATCH], OTHER_VIEW: ROWS[OTHER_VIEW]}
        return {PATCH: ROWS[BASELINE if self.cv.control == "baseline" else PATCH]}

    def flat(self) -> dict[str, checks.Value]:
        """Task, family and every parameter that the family uses, by name, as MLflow and the command line have them."""
        values = self._values()
        used = {item.name: values[item.name] for item in parameters(self.family)}
        return {"family": self.family, "task": self.task, **used}

    def changed(self, **values: object) -> Experiment:
        """A copy of the experiment with other values of some parameters. Raises `UserError` as `build` does."""
        return build_from(self.flat() | values)

    @property
    def model_set(self) -> str:
        """The set of models that the experiment's model belongs to, as the paper groups them.

        `pretrained`, or `tuned` where convolutions are unfrozen; `scratch` for the four settings that chapter 4 keeps
        and for `m1_author`; else the family. Controls are a group of their own, and so are protocols that only serve a
        table.
        """
        if self.cv.control != "none" or self.family == "texture":
            return "control"
        if self._protocol or (self.family, self.model.backbone) == ("scratch", "m1"):
            return "protocol"
        if self.family == "pretrained":
            return "tuned" if self.model.unfrozen_layers else "pretrained"
        return self.family

    @property
    def stops_on_scored(self) -> bool:
        """Whether early stopping watches the very patches that are scored, so that their scores are optimistic."""
        return self.training.early_stop > 0 and self.training.early_stop_on == "scored"

    @property
    def _protocol(self) -> list[str]:
        folds = f"{self.cv.folds}folds" if self.family == "scratch" and self.cv.folds != COMMON_FOLDS else ""
        return [*filter(None, ("holdout" if self.cv.holdout else folds, "scored-stop" if self.stops_on_scored else ""))]

    @property
    def registered_name(self) -> str:
        """The name of the registered model, e.g. `mammo-mass_calc-pretrained-vgg16-tuned`."""
        control = "" if self.cv.control == "none" else self.cv.control
        tuned = "tuned" if self.model.unfrozen_layers else ""
        return registered_name(self.task, self.family, self.model.backbone, tuned, *self._protocol, control)

    @property
    def label(self) -> str:
        """The experiment's short name in tables and plots: the network, and the control if it is one."""
        return self.model.backbone + ("" if self.cv.control == "none" else f"-{self.cv.control}")

    @property
    def judged_by(self) -> str:
        """How the experiment's model is scored, in words: `4 folds`, `30% held out`."""
        said = f"{self.cv.holdout:.0%} held out" if self.cv.holdout else f"{self.cv.folds} folds"
        return said + (", stopped early on what is scored" if self.stops_on_scored else "")

    def key(self, *parts: str, **facts: object) -> str:
        """The sha256 of some parts of the experiment (names of `PARTS`), task, family, results version and `facts`."""
        body = {"task": self.task, "family": self.family, "results_version": RESULTS_VERSION, **facts}
        return json_sha256(body | {part: self._keyed(part) for part in parts})

    def _keyed(self, part: str) -> dict[str, checks.Value]:
        values, counted = vars(getattr(self, part)), parameters(self.family, part)
        kept = [item for item in counted if not (item.metadata["added"] and values[item.name] == item.default)]
        return {item.name: values[item.name] for item in kept}


PARTS: dict[str, type] = {"model": ModelSpec, "training": TrainingSpec, "cv": CrossValidationSpec, "final": FinalSpec}
DEFAULTS: dict[str, checks.Value] = {name: value for part in PARTS.values() for name, value in vars(part()).items()}
"""The value of every parameter that nothing gives."""


def parameters(family: str | None = None, *parts: str) -> Iterator[Field[Any]]:
    """The parameters that a family's experiments use, in order; of all families by default, without task and family.

    `parts` are names of `PARTS`, all by default.
    """
    for part in parts or PARTS:
        for item in fields(PARTS[part]):
            if family is None or family in item.metadata["users"].families:
                yield item


def that_move(*what: str, family: str | None = None) -> tuple[str, ...]:
    """The names of the parameters, of one or all families, with any of these roles (the words of `roles`)."""
    return tuple(item.name for item in parameters(family) if not item.metadata["moves"].isdisjoint(what))


def faults(values: Mapping[str, object]) -> list[str]:
    """The error messages of all parameter values that fail their own check; empty where all pass."""
    found = []
    for item in parameters():
        if item.name in values:
            try:
                item.metadata["check"](item.name, values[item.name])
            except UserError as problem:
                found.append(str(problem))
    return found


def convert(name: str, text: str, kind: type) -> checks.Value:
    """Convert a text to a value of type `kind`. Raises `UserError`, one line about `name`, where that is impossible."""
    if kind is bool:
        if text.lower() not in ("true", "false"):
            raise expected(name, "true or false", f"'{text}'")
        return text.lower() == "true"
    try:
        return kind(text)
    except ValueError:
        wanted = {int: "a whole number", float: "a number"}[kind]
        raise expected(name, wanted, f"'{text}'") from None


def build(task: str, values: Mapping[str, object], family: str = "pretrained") -> Experiment:
    """Build an experiment from parameter values by name; parameters that are not given have their defaults.

    Raises `UserError` for an unknown name, one of another family, or an impossible value.
    """
    checks.one_of(*FAMILIES)("family", family)
    known = [item.name for item in parameters(family)]
    for name in values:
        if name not in known:
            raise unknown_name("parameter", name, known)
    parts = {
        name: part(**{item.name: values[item.name] for item in fields(part) if item.name in values})
        for name, part in PARTS.items()
    }
    return Experiment(task=task, family=family, **parts)


def build_from(flat: Mapping[str, object]) -> Experiment:
    """Build an experiment from the values that `Experiment.flat` gave. Raises as `build`."""
    values = dict(flat)
    return build(str(values.pop("task")), values, str(values.pop("family")))


def build_from_text(texts: Mapping[str, str]) -> Experiment:
    """Build an experiment from the values of `Experiment.flat` as texts, such as an MLflow run's parameters.

    Other names are ignored; parameters that are not given have their defaults. Raises as `build`.
    """
    family = texts.get("family", "")
    kinds = {item.name: type(item.default) for item in parameters(family)}
    values = {name: convert(name, text, kinds[name]) for name, text in texts.items() if name in kinds}
    return build(texts.get("task", ""), values, family)
