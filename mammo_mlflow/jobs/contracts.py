"""What travels between the coordinator and its children: jobs, the events they send meanwhile, their answers.

Kept free of Keras: the coordinator makes jobs and reads answers. A job class names the function of `engine/` that does
it, and the type of that function's answer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Generic, TypeVar

import numpy as np

from mammo_mlflow.checks import Value
from mammo_mlflow.experiment import PATCH, ROWS, Experiment, ModelSpec
from mammo_mlflow.models.weights import NetworkWeights
from mammo_mlflow.wording import in_words

Answer = TypeVar("Answer", covariant=True)

UNSET = Path()
"""The place of a file in a job that a plan carries; it is told as the job is given out."""


@dataclass(frozen=True)
class StepsDone:
    """A job has done so many of its steps (patches, epochs)."""

    done: int
    total: int


@dataclass(frozen=True)
class EpochDone:
    """An epoch of a fit is over, the first one 1: its figures, and when it ended (seconds since 1970)."""

    epoch: int
    metrics: Mapping[str, float]
    time: float


@dataclass(frozen=True)
class Suggestion:
    """A request for the value of a hyperparameter, by its `distribution` (`search.architectures.distribution_from`)."""

    name: str
    distribution: Mapping[str, object]


Event = StepsDone | EpochDone | Suggestion
Reply = Value | None
"""What an event is answered: a `Suggestion` by its value, others by nothing."""
Emit = Callable[[Event], Reply]
"""Sends an event."""


@dataclass(frozen=True, kw_only=True)
class Job(Generic[Answer]):
    """Work for an executor, shown as `name`. `target` is its function `(job, emit) -> answer`, `module:function`."""

    target: ClassVar[str]
    name: str


@dataclass(frozen=True, kw_only=True)
class Network:
    """What a child needs to build a network: everything but its weights. `sides` are its image inputs, by name."""

    family: str
    model: ModelSpec
    image_size: int
    precision: str
    sides: tuple[str, ...] = (PATCH,)


@dataclass(frozen=True)
class LayerCut:
    """A cut of a network: the layer's index, and the shape and dtype of the one tensor it carries."""

    index: int
    shape: tuple[int, ...]
    dtype: str

    def stored_bytes(self, patches: int, views: int) -> int:
        """The size of the stored activations of so many patches, each plain and in `views` augmented views."""
        return int(np.prod(self.shape)) * (2 if self.dtype == "bfloat16" else 4) * patches * (views + 1)


@dataclass(frozen=True, kw_only=True)
class Description:
    """A network's cuts: `features` of one side, `tuned` before the first layer trained but the head (None if frozen).

    `head` is the shape that the head stands on, `parameters` the number of the encoder's.
    """

    features: LayerCut
    tuned: LayerCut | None
    head: tuple[int, ...]
    parameters: int
    patches_per_second: float = float("nan")

    @property
    def trained(self) -> LayerCut:
        """The cut after which everything is trained."""
        return self.tuned or self.features


@dataclass(frozen=True, kw_only=True)
class DescribeJob(Job[Description]):
    """Ask where a network is cut. With `probe`, also how fast it is (patches a second, on `threads` threads)."""

    target = "mammo_mlflow.engine.activations:describe_network"

    network: Network
    threads: int
    probe: bool = False


@dataclass(frozen=True, kw_only=True)
class CalibrateJob(Job[None]):
    """Make a backbone's random weights, whose signal survives, calibrated on synthetic patches; written to `output`."""

    target = "mammo_mlflow.engine.activations:calibrate_weights"

    backbone: str
    threads: int
    output: Path


@dataclass(frozen=True, kw_only=True)
class StoreJob(Job[None]):
    """Compute what a network makes of `views` augmented views, and the plain one, of each patch of `tensor`."""

    tensor: Path
    cut: LayerCut
    views: int
    augmentation: str
    threads: int = 1
    output: Path = UNSET


@dataclass(frozen=True, kw_only=True)
class ActivationJob(StoreJob):
    """Compute the activations at `cut`.

    The patches are those in every second row of `tensor`, the first in row `first`. `source` holds activations at the
    shallower cut `start`, or is None to start from the patches themselves.
    """

    target = "mammo_mlflow.engine.activations:compute_activations"

    network: Network
    weights: NetworkWeights
    start: int = 0
    source: Path | None = None
    first: int = ROWS[PATCH]


@dataclass(frozen=True, kw_only=True)
class FeatureJob(StoreJob):
    """Compute what the head of a trained `tail` stands on.

    `sources` are the activation files of its sides, none where it takes patches: then `sides` are their first rows
    in `tensor`.
    """

    target = "mammo_mlflow.engine.activations:compute_features"

    tail: Path
    sides: dict[str, int]
    sources: dict[str, Path] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
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


@dataclass(frozen=True, kw_only=True)
class FitJob(Job[FitResult]):
    """Train one tail on some rows and predict others: a fold, or the refit (no validation rows).

    rows are indices of abnormality patches; labels (n,) cover all of them. `features` and `tuned` are activation
    files by the tail's inputs, empty where the training is on-line. `constants` are inputs of one number a row (n,).
    """

    target = "mammo_mlflow.engine.train:train_fit"

    experiment: Experiment
    network: Network
    weights: NetworkWeights
    tensor: Path
    labels: np.ndarray
    train_rows: np.ndarray
    validation_rows: np.ndarray
    inner_rows: np.ndarray
    epochs: int
    tuning_epochs: int
    seed: int
    description: Description
    output: Path = UNSET
    features: dict[str, Path] = field(default_factory=dict)
    tuned: dict[str, Path] = field(default_factory=dict)
    constants: dict[str, np.ndarray] = field(default_factory=dict)

    @property
    def total_epochs(self) -> int:
        """Epochs of both stages."""
        return self.epochs + (self.tuning_epochs if self.experiment.model.unfrozen_layers else 0)


@dataclass(frozen=True)
class Part:
    """A trained model: what its prefix is built from, and its tails, which are averaged."""

    network: Network
    weights: NetworkWeights
    cut: int
    tails: tuple[Path, ...]


@dataclass(frozen=True, kw_only=True)
class AssembleJob(Job[None]):
    """Join prefix and tails into one Keras model and write it as an MLflow model directory.

    `examples` are patches (m, size, size, 1) or numbers (m, 1) by input. A conditioned model has a `part`
    without a prefix, on the features of `features` and on the answer of `condition` (None: on the true type).
    """

    target = "mammo_mlflow.engine.assembly:assemble"

    part: Part
    examples: dict[str, np.ndarray]
    metadata: dict[str, object]
    output: Path
    features: Part | None = None
    condition: Part | None = None


@dataclass(frozen=True, kw_only=True)
class ModelJob(Job[Answer]):
    """Show a model every abnormality of a tensor file; `sides` and `constants` as in other jobs."""

    model: Path
    tensor: Path
    threads: int
    sides: dict[str, int]
    constants: dict[str, np.ndarray] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class PredictJob(ModelJob[np.ndarray]):
    """Ask a logged model: probabilities (n,)."""

    target = "mammo_mlflow.engine.assembly:predict"


@dataclass(frozen=True, kw_only=True)
class AnswerJob(PredictJob):
    """Ask a logged ensemble: answers (n, 2 + members)."""

    target = "mammo_mlflow.engine.ensemble:predict_ensemble"


@dataclass(frozen=True, kw_only=True)
class TryJob(Job[dict[str, np.ndarray]]):
    """Ask the model of a directory, as MLflow serves it, about its own input example: answers by column (n,)."""

    target = "mammo_mlflow.engine.assembly:predict_example"

    model: Path


@dataclass(frozen=True, kw_only=True)
class ExplainJob(ModelJob[int]):
    """Draw Grad-CAM maps of a Keras file's members `names` over the patches, into `output`.

    `answers` (n, members) are what the members answered.
    """

    target = "mammo_mlflow.engine.gradcam:explain"

    names: tuple[str, ...]
    answers: np.ndarray
    title: str
    note: str | None
    output: Path


@dataclass(frozen=True, kw_only=True)
class EnsembleJob(Job[None]):
    """Write the ensemble as an MLflow model directory `output`.

    `code` is the script that answers and the modules beside it; `parts` are the members in the order of `names`;
    `level1` is the file of arrays, `examples` patches (m, size, size, 1) by input. The threshold decides; `metadata`
    is kept in the model.
    """

    target = "mammo_mlflow.engine.ensemble:assemble"

    code: tuple[Path, ...]
    parts: tuple[Part, ...]
    names: tuple[str, ...]
    level1: Path
    threshold: float
    examples: dict[str, np.ndarray]
    metadata: dict[str, object]
    output: Path


@dataclass(frozen=True, kw_only=True)
class DrawJob(Job[dict[str, Value]]):
    """Ask a child for one draw of an architecture; `network.model` holds what is not drawn.

    `head` is the shape that the network's head stands on, where the architecture leaves the rest as it is.
    """

    target = "mammo_mlflow.engine.hypermodels:draw_architecture"

    architecture: str
    network: Network
    head: tuple[int, ...]


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
