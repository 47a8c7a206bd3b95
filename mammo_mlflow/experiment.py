"""An experiment is data: one frozen, validated object says all a run needs, and its canonical JSON hashes to a key.

Each part is a dataclass whose fields are also the parameters of the command line (`--learning-rate`) and of
`mlflow run` (`-P learning_rate=`): a field's metadata holds its help text and its check.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import Field, asdict, dataclass, field, fields, is_dataclass
from typing import Any, Literal

from mammo_mlflow import checks
from mammo_mlflow.errors import UserError, expected, unknown_name

RESULTS_VERSION = 2
"""Raised whenever a change of the code changes results: finished folds of an older version are then trained again."""

TASKS = ("mass_calc", "benign_malignant")
BACKBONES = ("vgg16", "resnet50", "inceptionv3")
NETWORKS: dict[str, tuple[str, ...]] = {
    "pretrained": BACKBONES,
    "scratch": ("m1", "m1_balanced", "m1_early_stop", "m2", "m1_10fold"),
    "siamese": ("scratch", *BACKBONES),
    "conditioned": ("a", "b", "c"),
    "texture": ("laws",),
}
"""What `backbone` may be in each family: a pretrained base, a setting of chapter 4, an encoder, an approach of chapter
8."""
FAMILIES = tuple(NETWORKS)
POOLINGS = ("flatten", "average", "max")
OPTIMIZERS = ("adam", "rmsprop", "sgd")
AUGMENTATIONS = ("paper", "scratch", "rotation5", "shift", "none")
PRECISIONS = ("auto", "bfloat16", "float32")
FINALS = ("refit", "fold_average", "none")
DIFFERENCES = ("subtract", "absolute", "concatenate", "absolute_product")
PAIRINGS = ("joint", "independent")
CONTROLS = ("none", "baseline", "shuffled")
COMMON_FOLDS = 4
PATCH, BASELINE, ABNORMALITY_TYPE = "patch", "baseline", "abnormality_type"
"""The inputs of models as they are served: raw 16-bit patches, and 0 for a mass or 1 for a calcification."""
FEATURES, CONDITION = "features", "condition"
"""What the trained part of a conditioned model takes: features, and the probability of a calcification beside them."""
ROWS = {BASELINE: 0, PATCH: 1}
"""Which rows of a data file hold them: the even or the odd ones."""


def _parameter(
    default: Any, help: str, check: checks.Check, only: tuple[str, ...] = FAMILIES, added: bool = False
) -> Any:
    """A field; `only` are the families that have it.

    One that was `added` to families that had results already is in their keys only where it is not the default.
    """
    return field(default=default, metadata={"help": help, "check": check, "families": only, "added": added})


_ENCODED = ("pretrained", "scratch", "siamese", "texture")
_FROZEN = ("pretrained", "siamese")
_CONVOLVED = ("scratch", "siamese")
_CACHED = ("pretrained", "siamese", "conditioned", "texture")


@dataclass(frozen=True)
class ModelSpec:
    """What is built: an encoder, how much of it is trained, and the head on top."""

    backbone: str = _parameter("vgg16", "network: a backbone, a setting, an encoder or an approach", checks.anything)
    weights: str = _parameter(
        "imagenet", "backbone weights: imagenet, random, or a directory of weight files", checks.anything, _FROZEN
    )
    blocks: str = _parameter(
        "32/2-32-32,64-64,128-128,256",
        "filters of the 3x3 convolutions trained from scratch; /2 is a stride, a pool follows each block",
        checks.blocks,
        _CONVOLVED,
    )
    convolution_batch_norm: bool = _parameter(
        True, "batch normalisation after each convolution trained from scratch", checks.anything, _CONVOLVED
    )
    pool_dropout: float = _parameter(0.0, "dropout rate after each pool of such convolutions", checks.share, _CONVOLVED)
    l1: float = _parameter(0.0, "L1 penalty on the kernels trained from scratch", checks.at_least_zero, _CONVOLVED)
    l2: float = _parameter(0.0, "L2 penalty on the kernels trained from scratch", checks.at_least_zero, _CONVOLVED)
    pooling: str = _parameter(
        "average",
        "pooling before the head: flatten, average or max",
        checks.one_of(*POOLINGS),
        ("pretrained", *_CONVOLVED),
    )
    difference: str = _parameter(
        "subtract",
        f"how baseline and abnormality are joined: {', '.join(DIFFERENCES)}",
        checks.one_of(*DIFFERENCES),
        ("siamese",),
    )
    dense: str = _parameter("256", "widths of the head's hidden layers, such as 256 or 256-64, or none", checks.widths)
    batch_norm: bool = _parameter(False, "batch normalisation of the features before the hidden layer", checks.anything)
    dense_batch_norm: bool = _parameter(
        False, "batch normalisation after each hidden layer", checks.anything, added=True
    )
    dropout: float = _parameter(0.0, "dropout rate after each hidden layer", checks.share)
    unfrozen_layers: int = _parameter(
        0, "number of last convolutional layers trained after the head", checks.whole(0, 1000), _FROZEN
    )
    features_from: str = _parameter(
        "",
        "registered benign/malignant model that gives the features; by default the approach's",
        checks.anything,
        ("conditioned",),
    )
    condition_from: str = _parameter(
        "", "registered mass/calcification model that gives the condition", checks.anything, ("conditioned",)
    )

    @property
    def widths(self) -> tuple[int, ...]:
        """The widths of the head's hidden layers."""
        return () if self.dense == "none" else tuple(int(width) for width in self.dense.split("-"))


@dataclass(frozen=True)
class TrainingSpec:
    """How it is trained."""

    optimizer: str = _parameter("adam", "optimizer: adam, rmsprop or sgd", checks.one_of(*OPTIMIZERS))
    momentum: float = _parameter(0.9, "Nesterov momentum of sgd; the others have none", checks.share)
    learning_rate: float = _parameter(
        1e-3, "learning rate of the head, or of all that is trained from scratch", checks.positive
    )
    epochs: int = _parameter(
        40, "epochs of the head, or of all that is trained from scratch, in each fold", checks.epochs
    )
    tuning_learning_rate: float = _parameter(
        1e-5, "learning rate once the last layers are unfrozen", checks.positive, _FROZEN
    )
    tuning_epochs: int = _parameter(10, "epochs once the last layers are unfrozen", checks.epochs, _FROZEN)
    batch_size: int = _parameter(16, "patches a step", checks.whole(1, 65_536))
    class_weights: str = _parameter(
        "none", "class weights: none, balanced, or a ratio such as 1:1.3", checks.class_weights
    )
    augmentation: str = _parameter(
        "paper", f"augmentation policy: {', '.join(AUGMENTATIONS)}", checks.one_of(*AUGMENTATIONS)
    )
    pair_augmentation: str = _parameter(
        "joint",
        "transforms of a baseline and its abnormality: joint (the same) or independent",
        checks.one_of(*PAIRINGS),
        ("siamese",),
    )
    views: int = _parameter(
        8,
        "cached augmented views of each patch; 0 trains on-line through the whole network",
        checks.whole(0, 1000),
        _CACHED,
    )
    early_stop: int = _parameter(
        0, "early stopping patience in epochs on an inner tenth of the patients; 0 is off", checks.whole(0, 100_000)
    )
    precision: str = _parameter(
        "auto", f"precision of the convolutions: {', '.join(PRECISIONS)}", checks.one_of(*PRECISIONS)
    )
    threads: int = _parameter(
        1, "processor threads of each fold; part of its key, since it moves results", checks.whole(1, 1024)
    )


@dataclass(frozen=True)
class CrossValidationSpec:
    """How it is judged."""

    folds: int = _parameter(4, "number of folds", checks.whole(2, 1000))
    holdout: float = _parameter(
        0.0, "share of the patients held out once instead of folds; 0: folds", checks.share, _ENCODED, added=True
    )
    seed: int = _parameter(0, "seed of folds, weights, order and augmentation", checks.seed)
    control: str = _parameter(
        "none",
        "control experiment: baseline (the healthy patches alone), shuffled (labels) or none",
        checks.one_of(*CONTROLS),
        _ENCODED,
        added=True,
    )


@dataclass(frozen=True)
class FinalSpec:
    """The model that is registered, and its decision threshold."""

    final: Literal["refit", "fold_average", "none"] = _parameter(
        "refit", "final model: refit on all training patches, fold_average, or none", checks.one_of(*FINALS)
    )
    final_epochs: int = _parameter(
        0, "epochs of the head in the refit; 0 takes the folds' own", checks.whole(0, 100_000)
    )
    threshold: str = _parameter("0.5", "decision threshold: a number, youden, or sensitivity=0.9", checks.anything)


@dataclass(frozen=True)
class Experiment:
    """Everything a cross-validated model needs to be known by. Raises `UserError` for the impossible values."""

    task: str
    model: ModelSpec = field(default_factory=ModelSpec)
    training: TrainingSpec = field(default_factory=TrainingSpec)
    cv: CrossValidationSpec = field(default_factory=CrossValidationSpec)
    final: FinalSpec = field(default_factory=FinalSpec)
    family: str = "pretrained"

    def __post_init__(self) -> None:
        checks.one_of(*FAMILIES)("family", self.family)
        checks.one_of(*TASKS)("task", self.task)
        parts = (self.model, self.training, self.cv, self.final)
        problems = faults({item.name: getattr(part, item.name) for part in parts for item in fields(part)})
        for check in (self._check_network, self._check_family):
            try:
                check()
            except UserError as problem:
                problems.append(str(problem))
        if problems:
            raise UserError("; ".join(problems))

    def _check_network(self) -> None:
        checks.one_of(*NETWORKS[self.family])("backbone", self.model.backbone)

    def _check_family(self) -> None:
        if self.family == "conditioned":
            if self.task != "benign_malignant":
                raise expected("task", "benign_malignant, which is what is conditioned", f"'{self.task}'")
            if self.final.final == "fold_average":
                raise expected("final", "refit or none for conditioned models", "'fold_average'")
            if self.training.views == 0:
                raise expected("views", "at least 1 for conditioned models", 0)
        if self.family == "siamese" and self.cv.control == "baseline":
            raise expected(
                "control", "shuffled or none for Siamese networks, which see the baseline anyway", "'baseline'"
            )
        if self.trained_whole and self.model.unfrozen_layers:
            raise expected("unfrozen_layers", "0 for an encoder trained from scratch", self.model.unfrozen_layers)

    @property
    def trained_whole(self) -> bool:
        """Whether no layer is frozen: the whole network is trained, on line."""
        return self.family == "scratch" or (self.family == "siamese" and self.model.backbone == "scratch")

    @property
    def views(self) -> int:
        """Cached views of each patch; 0 where training is on line."""
        return 0 if self.trained_whole else self.training.views

    @property
    def sides(self) -> dict[str, int]:
        """The image inputs of the network, and which rows of a data file each sees (`ROWS`)."""
        if self.family == "siamese":
            return {BASELINE: ROWS[BASELINE], PATCH: ROWS[PATCH]}
        return {PATCH: ROWS[BASELINE if self.cv.control == "baseline" else PATCH]}

    def flat(self) -> dict[str, Any]:
        """Every parameter of its family by its own name, for the tracker and the command line."""
        parts = (self.model, self.training, self.cv, self.final)
        values = {name: value for part in parts for name, value in asdict(part).items()}
        return {"family": self.family, "task": self.task} | {
            item.name: values[item.name] for item in parameters(self.family)
        }

    def changed(self, **values: Any) -> Experiment:
        """The same experiment but for these parameters. Raises as `build`."""
        return build_from(self.flat() | values)

    @property
    def model_set(self) -> str:
        """The group of models it belongs to, as the paper names them.

        `pretrained`, or `tuned` where convolutions are unfrozen; `scratch` for the four settings that chapter 4 keeps;
        else the family. Controls are a group of their own, and so are protocols that only serve a table.
        """
        if self.cv.control != "none" or self.family == "texture":
            return "control"
        if self._protocol or (self.family, self.model.backbone) == ("scratch", "m1"):
            return "protocol"
        if self.family == "pretrained":
            return "tuned" if self.model.unfrozen_layers else "pretrained"
        return self.family

    @property
    def _protocol(self) -> str:
        if self.cv.holdout:
            return "-holdout"
        return f"-{self.cv.folds}folds" if self.family == "scratch" and self.cv.folds != COMMON_FOLDS else ""

    @property
    def registered_name(self) -> str:
        """The name of the registered model, e.g. `mammo-mass_calc-pretrained-vgg16-tuned`."""
        control = "" if self.cv.control == "none" else f"-{self.cv.control}"
        tuned = "-tuned" if self.model.unfrozen_layers else ""
        return f"mammo-{self.task}-{self.family}-{self.model.backbone}{tuned}{self._protocol}{control}"

    @property
    def label(self) -> str:
        """What it is called beside others: its network, and which control it is."""
        return self.model.backbone + ("" if self.cv.control == "none" else f"-{self.cv.control}")

    @property
    def judged_by(self) -> str:
        """How it is judged, in words."""
        return f"{self.cv.holdout:.0%} held out" if self.cv.holdout else f"{self.cv.folds} folds"

    def key(self, *parts: str, **facts: Any) -> str:
        """A sha256 over the named parts of this experiment, the results version and `facts` (fingerprints, fold)."""
        body = {"task": self.task, "family": self.family, "results_version": RESULTS_VERSION, **facts}
        body |= {part: self._keyed(getattr(self, part)) for part in parts}
        return hashlib.sha256(canonical_json(body).encode()).hexdigest()

    def _keyed(self, part: Any) -> dict[str, Any]:
        counted = [item for item in fields(part) if self.family in item.metadata["families"]]
        values = {item.name: (getattr(part, item.name), item) for item in counted}
        return {k: v for k, (v, item) in values.items() if not (item.metadata["added"] and v == item.default)}


PARTS: tuple[type, ...] = (ModelSpec, TrainingSpec, CrossValidationSpec, FinalSpec)


def parameters(family: str | None = None) -> Iterator[Field[Any]]:
    """Every parameter of a family's experiments, or of all families', but task and family; in order."""
    for part in PARTS:
        for item in fields(part):
            if family is None or family in item.metadata["families"]:
                yield item


def faults(values: Mapping[str, Any]) -> list[str]:
    """What the checks of these parameters say of their values, each by itself."""
    found = []
    for item in parameters():
        if item.name in values:
            try:
                item.metadata["check"](item.name, values[item.name])
            except UserError as problem:
                found.append(str(problem))
    return found


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


def build(task: str, values: Mapping[str, Any], family: str = "pretrained") -> Experiment:
    """An experiment from flat parameter values; those not given take their defaults.

    Raises `UserError` for an unknown name, one of another family, or an impossible value.
    """
    checks.one_of(*FAMILIES)("family", family)
    known = [item.name for item in parameters(family)]
    for name in values:
        if name not in known:
            raise unknown_name("parameter", name, known)
    parts = [part(**{f.name: values[f.name] for f in fields(part) if f.name in values}) for part in PARTS]
    model, training, cv, final = parts
    return Experiment(task, model, training, cv, final, family)


def build_from(flat: Mapping[str, Any]) -> Experiment:
    """The experiment of what `flat` gave."""
    values = dict(flat)
    return build(values.pop("task"), values, values.pop("family"))


def build_from_text(texts: Mapping[str, str]) -> Experiment:
    """The experiment of what `flat` gave, as texts; of other names, and names not given, nothing is known here."""
    family = texts.get("family", "")
    kinds = {item.name: type(item.default) for item in parameters(family)}
    values = {name: convert(name, text, kinds[name]) for name, text in texts.items() if name in kinds}
    return build(texts.get("task", ""), values, family)


def canonical_json(value: Any) -> str:
    """JSON with sorted keys and no spaces: the same text for the same content."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), default=_plain)


def _plain(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    raise TypeError(f"cannot be written as JSON: {type(value).__name__}")
