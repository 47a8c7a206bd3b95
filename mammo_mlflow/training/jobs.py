"""What a child process is asked for, and what it answers. Kept free of Keras: the coordinator makes and reads these."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from mammo_mlflow.experiment import PATCH, ROWS, Experiment, ModelSpec
from mammo_mlflow.models.weights import Weights
from mammo_mlflow.wording import in_words

Event = dict[str, Any]
Emit = Callable[[Event], Any]
QUESTIONS = ("suggest",)
"""The kinds of events that a job waits for an answer to."""


@dataclass(frozen=True)
class Job:
    """Work for an executor: `target` names a function `(argument, emit) -> answer` as `module:function`."""

    name: str
    target: str
    argument: Any


@dataclass(frozen=True)
class Network:
    """What a child needs to build a network: everything but its weights. `sides` are its image inputs, by name."""

    family: str
    model: ModelSpec
    image_size: int
    precision: str
    sides: tuple[str, ...] = (PATCH,)


@dataclass(frozen=True)
class DescribeJob:
    """Ask where a network is cut. With `probe`, also how fast it is (patches a second, on `threads` threads)."""

    network: Network
    threads: int
    probe: bool = False


@dataclass(frozen=True)
class Cut:
    """A cut of a network: the layer's index, and the shape and dtype of the one tensor it carries."""

    index: int
    shape: tuple[int, ...]
    dtype: str

    def bytes_per_view(self) -> int:
        """The size of one stored activation."""
        return int(np.prod(self.shape)) * (2 if self.dtype == "bfloat16" else 4)


@dataclass(frozen=True)
class Description:
    """A network's cuts: `features` of one side, `tuned` before the first layer trained but the head (None if frozen).

    `head` is the shape that the head stands on, `parameters` the number of the encoder's.
    """

    features: Cut
    tuned: Cut | None
    head: tuple[int, ...]
    parameters: int
    patches_per_second: float = float("nan")

    @property
    def trained(self) -> Cut:
        """The cut after which everything is trained."""
        return self.tuned or self.features


@dataclass(frozen=True)
class CalibrateJob:
    """Make a backbone's random weights, whose signal survives, calibrated on synthetic patches; written to `target`."""

    backbone: str
    threads: int
    target: Path


@dataclass(frozen=True)
class ActivationJob:
    """Compute the activations at `cut` of `views` augmented views, and the plain one, of each patch.

    The patches are those in every second row of `tensor`, the first in row `first`. `source` holds activations at the
    shallower cut `start`, or is None to start from the patches themselves.
    """

    network: Network
    weights: Weights
    tensor: Path
    cut: Cut
    views: int
    augmentation: str
    threads: int
    target: Path
    start: int = 0
    source: Path | None = None
    first: int = ROWS[PATCH]


@dataclass(frozen=True)
class FeatureJob:
    """Compute what the head of a trained `tail` stands on, for `views` augmented views and the plain one.

    `sources` are the activation files of its sides, or None where it takes patches: then `sides` are their first rows
    in `tensor`.
    """

    tail: Path
    tensor: Path
    sides: dict[str, int]
    sources: dict[str, Path] | None
    cut: Cut
    views: int
    augmentation: str
    threads: int
    target: Path


@dataclass(frozen=True)
class FitJob:
    """Train one tail on some rows and predict others: a fold, or the refit (no validation rows).

    rows are indices of abnormality patches; labels (n,) cover all of them. `features` and `tuned` are activation
    files by the tail's inputs, empty where the training is on-line. `constants` are inputs of one number a row (n,).
    """

    experiment: Experiment
    network: Network
    weights: Weights
    tensor: Path
    labels: np.ndarray
    train_rows: np.ndarray
    validation_rows: np.ndarray
    inner_rows: np.ndarray
    epochs: int
    tuning_epochs: int
    seed: int
    description: Description
    output: Path
    features: dict[str, Path] = field(default_factory=dict)
    tuned: dict[str, Path] = field(default_factory=dict)
    constants: dict[str, np.ndarray] = field(default_factory=dict)

    @property
    def total_epochs(self) -> int:
        """Epochs of both stages."""
        return self.epochs + (self.tuning_epochs if self.experiment.model.unfrozen_layers else 0)


@dataclass(frozen=True)
class FitResult:
    """What a fit answers: probabilities in the order of its validation rows, history, costs, and its tail."""

    probabilities: np.ndarray
    history: list[dict[str, float | str]]
    best_epochs: dict[str, int]
    seconds: float
    peak_memory: int
    tail: Path
    training_seconds: float = 0.0
    reused_from: str | None = None


@dataclass(frozen=True)
class Part:
    """A trained model: what its prefix is built from, and its tails, which are averaged."""

    network: Network
    weights: Weights
    cut: int
    tails: tuple[Path, ...]


@dataclass(frozen=True)
class AssembleJob:
    """Join prefix and tails into one Keras model and write it as an MLflow model directory.

    `examples` are patches (m, size, size, 1) or numbers (m, 1) by input. A conditioned model has a `part`
    without a prefix, on the features of `features` and on the answer of `condition` (None: on the true type).
    """

    part: Part
    examples: dict[str, np.ndarray]
    metadata: dict[str, Any]
    target: Path
    features: Part | None = None
    condition: Part | None = None


@dataclass(frozen=True)
class PredictJob:
    """Load a logged model and predict every abnormality of a tensor file; `sides` and `constants` as in other jobs."""

    model: Path
    tensor: Path
    threads: int
    sides: dict[str, int]
    constants: dict[str, np.ndarray] = field(default_factory=dict)


@dataclass(frozen=True)
class ExplainJob:
    """Draw Grad-CAM maps of a Keras file's members `names` over every abnormality of a tensor file, into `target`.

    `answers` (n, members) are what the members answered.
    """

    model: Path
    tensor: Path
    threads: int
    sides: dict[str, int]
    names: tuple[str, ...]
    answers: np.ndarray
    title: str
    note: str | None
    target: Path


@dataclass(frozen=True)
class Failure:
    """A job that did not finish: `user` marks a `UserError`'s text; otherwise `reason` is a traceback or a signal.

    `error` is the exception itself where the job ran in this very process.
    """

    reason: str
    user: bool = False
    error: Exception | None = None
    fatal: bool = False
    """Whether another job would fail the same way, as on a full disk."""

    @property
    def line(self) -> str:
        """The reason in one line, in words."""
        return in_words(self.reason.strip().splitlines()[-1])
