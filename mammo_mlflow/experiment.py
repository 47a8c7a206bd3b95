"""An experiment is data: one frozen, validated object says all a run needs, and its canonical JSON hashes to a key.

Each part is a dataclass whose fields are also the parameters of the command line (`--learning-rate`) and of
`mlflow run` (`-P learning_rate=`): a field's metadata holds its help text and its check.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import Field, asdict, dataclass, field, fields, is_dataclass
from typing import Any, Literal

from mammo_mlflow.errors import UserError, expected, unknown_name

RESULTS_VERSION = 2
"""Raised whenever a change of the code changes results: finished folds of an older version are then trained again."""

FAMILIES = ("pretrained",)
TASKS = ("mass_calc", "benign_malignant")
BACKBONES = ("vgg16", "resnet50", "inceptionv3")
POOLINGS = ("flatten", "average", "max")
OPTIMIZERS = ("adam", "rmsprop", "sgd")
AUGMENTATIONS = ("paper", "scratch", "rotation5", "shift", "none")
PRECISIONS = ("auto", "bfloat16", "float32")
FINALS = ("refit", "fold_average", "none")

Check = Callable[[str, Any], None]


def _one_of(*choices: str) -> Check:
    def check(name: str, value: Any) -> None:
        if value not in choices:
            raise unknown_name(name, value, choices)

    return check


def _at_least(low: float) -> Check:
    def check(name: str, value: Any) -> None:
        if not value >= low:
            raise expected(name, f"at least {low}", value)

    return check


def _seed(name: str, value: Any) -> None:
    if not 0 <= value < 2**32:
        raise expected(name, "a whole number from 0 to 4294967295", value)


def _positive(name: str, value: Any) -> None:
    if not 0 < value < float("inf"):
        raise expected(name, "a number above 0", value)


def _share(name: str, value: Any) -> None:
    if not 0 <= value < 1:
        raise expected(name, "a number from 0 up to, not including, 1", value)


def _class_weights(name: str, value: Any) -> None:
    if value in ("none", "balanced"):
        return
    match = re.fullmatch(r"(\d+(?:\.\d+)?):(\d+(?:\.\d+)?)", value)
    if match is None or not all(float(part) > 0 for part in match.groups()):
        raise expected(name, "'none', 'balanced' or a ratio such as '1:1.3'", f"'{value}'")


def _widths(name: str, value: Any) -> None:
    if not re.fullmatch(r"[1-9]\d*(-[1-9]\d*)*", str(value)):
        raise expected(name, "a width, or several such as 256-64", f"'{value}'")


def _anything(name: str, value: Any) -> None:
    """For booleans, and for values that another room checks (weights, threshold policies)."""


def _parameter(default: Any, help: str, check: Check) -> Any:
    return field(default=default, metadata={"help": help, "check": check})


@dataclass(frozen=True)
class ModelSpec:
    """What is built: a backbone, how much of it is trained, and the head on top."""

    backbone: str = _parameter("vgg16", "backbone network: vgg16, resnet50 or inceptionv3", _one_of(*BACKBONES))
    weights: str = _parameter(
        "imagenet", "backbone weights: imagenet, random, or a directory of weight files", _anything
    )
    pooling: str = _parameter("average", "pooling before the head: flatten, average or max", _one_of(*POOLINGS))
    dense: str = _parameter("256", "widths of the head's hidden layers, such as 256 or 256-64", _widths)
    batch_norm: bool = _parameter(False, "batch normalisation of the features before the hidden layer", _anything)
    dropout: float = _parameter(0.0, "dropout rate after each hidden layer", _share)
    unfrozen_layers: int = _parameter(0, "number of last convolutional layers trained after the head", _at_least(0))

    @property
    def widths(self) -> tuple[int, ...]:
        """The widths of the head's hidden layers."""
        return tuple(int(width) for width in self.dense.split("-"))


@dataclass(frozen=True)
class TrainingSpec:
    """How it is trained."""

    optimizer: str = _parameter("adam", "optimizer: adam, rmsprop or sgd", _one_of(*OPTIMIZERS))
    momentum: float = _parameter(0.9, "Nesterov momentum of sgd; the others have none", _share)
    learning_rate: float = _parameter(1e-3, "learning rate of the head", _positive)
    epochs: int = _parameter(40, "epochs of the head in each fold", _at_least(1))
    tuning_learning_rate: float = _parameter(1e-5, "learning rate once the last layers are unfrozen", _positive)
    tuning_epochs: int = _parameter(10, "epochs once the last layers are unfrozen", _at_least(1))
    batch_size: int = _parameter(16, "patches a step", _at_least(1))
    class_weights: str = _parameter("none", "class weights: none, balanced, or a ratio such as 1:1.3", _class_weights)
    augmentation: str = _parameter("paper", f"augmentation policy: {', '.join(AUGMENTATIONS)}", _one_of(*AUGMENTATIONS))
    views: int = _parameter(
        8, "cached augmented views of each patch; 0 trains on-line through the whole network", _at_least(0)
    )
    early_stop: int = _parameter(
        0, "early stopping patience in epochs on an inner tenth of the patients; 0 is off", _at_least(0)
    )
    precision: str = _parameter("auto", f"precision of the backbone: {', '.join(PRECISIONS)}", _one_of(*PRECISIONS))
    threads: int = _parameter(
        1, "processor threads of each fold; part of its key, since it moves results", _at_least(1)
    )


@dataclass(frozen=True)
class CrossValidationSpec:
    """How it is judged."""

    folds: int = _parameter(4, "number of folds", _at_least(2))
    seed: int = _parameter(0, "seed of folds, weights, order and augmentation", _seed)


@dataclass(frozen=True)
class FinalSpec:
    """The model that is registered, and its decision threshold."""

    final: Literal["refit", "fold_average", "none"] = _parameter(
        "refit", "final model: refit on all training patches, fold_average, or none", _one_of(*FINALS)
    )
    final_epochs: int = _parameter(0, "epochs of the head in the refit; 0 takes the folds' own", _at_least(0))
    threshold: str = _parameter("0.5", "decision threshold: a number, youden, or sensitivity=0.9", _anything)


@dataclass(frozen=True)
class Experiment:
    """Everything a cross-validated model needs to be known by. Raises `UserError` for the first impossible value."""

    task: str
    model: ModelSpec = field(default_factory=ModelSpec)
    training: TrainingSpec = field(default_factory=TrainingSpec)
    cv: CrossValidationSpec = field(default_factory=CrossValidationSpec)
    final: FinalSpec = field(default_factory=FinalSpec)
    family: str = "pretrained"

    def __post_init__(self) -> None:
        _one_of(*FAMILIES)("family", self.family)
        _one_of(*TASKS)("task", self.task)
        problems = []
        for part in (self.model, self.training, self.cv, self.final):
            for item in fields(part):
                try:
                    item.metadata["check"](item.name, getattr(part, item.name))
                except UserError as problem:
                    problems.append(str(problem))
        if problems:
            raise UserError("; ".join(problems))

    def flat(self) -> dict[str, Any]:
        """Every parameter by its own name, for the tracker and the command line."""
        return {"family": self.family, "task": self.task} | {
            name: value
            for part in (self.model, self.training, self.cv, self.final)
            for name, value in asdict(part).items()
        }

    @property
    def model_set(self) -> str:
        """The paper's name for the group of models: `pretrained`, or `tuned` where convolutions are unfrozen."""
        return "tuned" if self.model.unfrozen_layers else "pretrained"

    @property
    def registered_name(self) -> str:
        """The name of the registered model, e.g. `mammo-mass_calc-pretrained-vgg16-tuned`."""
        tuned = "-tuned" if self.model.unfrozen_layers else ""
        return f"mammo-{self.task}-{self.family}-{self.model.backbone}{tuned}"

    def key(self, *parts: str, **facts: Any) -> str:
        """A sha256 over the named parts of this experiment, the results version and `facts` (fingerprints, fold)."""
        body = {"task": self.task, "family": self.family, "results_version": RESULTS_VERSION, **facts}
        body |= {part: asdict(getattr(self, part)) for part in parts}
        return hashlib.sha256(canonical_json(body).encode()).hexdigest()


PARTS: tuple[type, ...] = (ModelSpec, TrainingSpec, CrossValidationSpec, FinalSpec)


def parameters() -> Iterator[Field[Any]]:
    """Every parameter of an experiment but task and family, in order."""
    for part in PARTS:
        yield from fields(part)


def convert(name: str, text: str, kind: type) -> Any:
    """The value of type `kind` that a text spells. Raises `UserError`, a line about `name`, where it spells none."""
    if kind is bool:
        if text.lower() not in ("true", "false"):
            raise expected(name, "true or false", f"'{text}'")
        return text.lower() == "true"
    try:
        return kind(text)
    except ValueError:
        wanted = {int: "a whole number", float: "a number"}[kind]
        raise expected(name, wanted, f"'{text}'") from None


def build(task: str, values: dict[str, Any]) -> Experiment:
    """An experiment from flat parameter values; those not given take their defaults.

    Raises `UserError` for an unknown name or an impossible value.
    """
    known = [item.name for item in parameters()]
    for name in values:
        if name not in known:
            raise unknown_name("parameter", name, known)
    parts = [part(**{f.name: values[f.name] for f in fields(part) if f.name in values}) for part in PARTS]
    return Experiment(task, *parts)


def canonical_json(value: Any) -> str:
    """JSON with sorted keys and no spaces: the same text for the same content."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), default=_plain)


def _plain(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    raise TypeError(f"cannot be written as JSON: {type(value).__name__}")
