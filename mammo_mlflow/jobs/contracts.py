"""The messages between coordinator and worker processes: jobs, the events they emit, and their answers (return values).

Without Keras, since the coordinator makes jobs and reads answers. A job class names the function of `engine/` that runs
it, and the type of the answer.
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
"""Stands for the output path of a job in a plan; the path is filled in when the job is run."""


@dataclass(frozen=True)
class StepsDone:
    """Event: a job has done `done` of `total` steps (patches or epochs)."""

    done: int
    total: int


@dataclass(frozen=True)
class EpochDone:
    """Event: an epoch of a fit, from 1 on, has ended, with its metrics and the time in seconds since 1970."""

    epoch: int
    metrics: Mapping[str, float]
    time: float


@dataclass(frozen=True)
class Suggestion:
    """Event: a job asks for a value of a hyperparameter, by its distribution (`search.architectures`)."""

    name: str
    distribution: Mapping[str, object]


Event = StepsDone | EpochDone | Suggestion
Reply = Value | None
"""The reply to an event: the value to a `Suggestion`, None to others."""
Emit = Callable[[Event], Reply]
"""Sends an event to the coordinator, and returns the reply."""


@dataclass(frozen=True, kw_only=True)
class Job(Generic[Answer]):
    """Work for an executor, displayed as `name`. `target`, `module:function`, is called with the job and `emit`."""

    target: ClassVar[str]
    name: str


@dataclass(frozen=True, kw_only=True)
class Network:
    """A network to build, without its weights: family, parameters, patch size in pixels, precision, image inputs."""

    family: str
    model: ModelSpec
    image_size: int
    precision: str
    sides: tuple[str, ...] = (PATCH,)


@dataclass(frozen=True)
class LayerCut:
    """A layer cut of a network: the index of the layer before it, and shape and dtype of that layer's output."""

    index: int
    shape: tuple[int, ...]
    dtype: str

    def stored_bytes(self, patches: int, views: int) -> int:
        """The bytes of the stored activations of `patches` patches, each plain and in `views` augmented views."""
        return int(np.prod(self.shape)) * (2 if self.dtype == "bfloat16" else 4) * patches * (views + 1)


@dataclass(frozen=True, kw_only=True)
class Description:
    """The layer cuts and sizes of a network.

    `features` is the cut after the encoder, of one side; `tuned` the cut before the first trained layer of the encoder
    (None if all are frozen). `head` is the shape of the head's input, `parameters` the number of the encoder's weights,
    `patches_per_second` its measured speed, NaN if not measured.
    """

    features: LayerCut
    tuned: LayerCut | None
    head: tuple[int, ...]
    parameters: int
    patches_per_second: float = float("nan")

    @property
    def trained(self) -> LayerCut:
        """The layer cut behind which everything is trained: the start of the tail."""
        return self.tuned or self.features


@dataclass(frozen=True, kw_only=True)
class DescribeJob(Job[Description]):
    """Find the layer cuts of a network; with `probe` also measure its speed on `threads` threads."""

    target = "mammo_mlflow.engine.activations:describe_network"

    network: Network
    threads: int
    probe: bool = False


@dataclass(frozen=True, kw_only=True)
class CalibrateJob(Job[None]):
    """Draw a backbone's random weights, calibrate them on synthetic patches, and write them to `output`."""

    target = "mammo_mlflow.engine.activations:calibrate_weights"

    backbone: str
    threads: int
    output: Path


@dataclass(frozen=True, kw_only=True)
class StoreJob(Job[None]):
    """Compute and store the activations of each patch of `tensor`, plain and in `views` augmented views."""

    tensor: Path
    cut: LayerCut
    views: int
    augmentation: str
    threads: int = 1
    output: Path = UNSET


@dataclass(frozen=True, kw_only=True)
class ActivationJob(StoreJob):
    """Compute the activations of a network at `cut`.

    The patches are every second row of `tensor`, from row `first` on. `input_file` holds activations at the shallower
    layer `start`; with None the patches themselves are the input.
    """

    target = "mammo_mlflow.engine.activations:compute_activations"

    network: Network
    weights: NetworkWeights
    start: int = 0
    input_file: Path | None = None
    first: int = ROWS[PATCH]


@dataclass(frozen=True, kw_only=True)
class FeatureJob(StoreJob):
    """Compute the features that enter the head of a trained `tail`.

    `input_files` are the activation files of its sides; none where it takes patches: then `sides` has the first row of
    each in `tensor`.
    """

    target = "mammo_mlflow.engine.activations:compute_features"

    tail: Path
    sides: dict[str, int]
    input_files: dict[str, Path] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class FitResult:
    """The result of a fit: probabilities, float64 (m,), of its validation rows, history, costs, and the saved tail.

    `history` has the metrics of each epoch, `best_epochs` the epochs kept in each stage; `peak_memory` is in bytes.
    `reused_from` is the run that an earlier command made it in, if any.
    """

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

    Rows, int (m,), are indices of training abnormalities; `labels`, float32 (n,), cover all of them. `features` and
    `tuned` are the activation files of the two stages by the tail's inputs, empty in on-line training. `constants`,
    (n,), are the inputs of one number a row. The tail is saved below `output`.
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
        """The epochs of both stages together."""
        return self.epochs + (self.tuning_epochs if self.experiment.model.unfrozen_layers else 0)


@dataclass(frozen=True)
class Part:
    """A trained model to build: network, weights and layer cut of its prefix, and its tails, which are averaged."""

    network: Network
    weights: NetworkWeights
    cut: int
    tails: tuple[Path, ...]


@dataclass(frozen=True, kw_only=True)
class AssembleJob(Job[None]):
    """Join prefix and tails into one Keras model and write it as an MLflow model directory.

    `examples` are patches, uint16 (m, size, size, 1), or numbers (m, 1), by input. In a conditioned model `part` has no
    prefix: its inputs are the features of `features` and the prediction of `condition` (None: the true type).
    """

    target = "mammo_mlflow.engine.assembly:assemble_model"

    part: Part
    examples: dict[str, np.ndarray]
    metadata: dict[str, object]
    output: Path
    features: Part | None = None
    condition: Part | None = None


@dataclass(frozen=True, kw_only=True)
class ModelJob(Job[Answer]):
    """Give a model every abnormality of a tensor file.

    `sides` has the first row of each image input in `tensor`, `constants`, (n,), the inputs of one number a row.
    """

    model: Path
    tensor: Path
    threads: int
    sides: dict[str, int]
    constants: dict[str, np.ndarray] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class PredictJob(ModelJob[np.ndarray]):
    """Predict with a logged model: probabilities, float64 (n,)."""

    target = "mammo_mlflow.engine.assembly:predict"


@dataclass(frozen=True, kw_only=True)
class AnswerJob(PredictJob):
    """Predict with a logged ensemble: probability, decision and members' probabilities, float64 (n, 2 + members)."""

    target = "mammo_mlflow.engine.ensemble:predict_ensemble"


@dataclass(frozen=True, kw_only=True)
class TryJob(Job[dict[str, np.ndarray]]):
    """Predict the input example of an MLflow model as MLflow serves it: columns (n,) by name."""

    target = "mammo_mlflow.engine.assembly:predict_example"

    model: Path


@dataclass(frozen=True, kw_only=True)
class ExplainJob(ModelJob[int]):
    """Draw Grad-CAM maps of the members `names` of a Keras file over every patch, as PNG files in `output`.

    `answers`, (n, members), are the members' probabilities; `title` and `note` stand on every figure.
    """

    target = "mammo_mlflow.engine.gradcam:explain"

    names: tuple[str, ...]
    answers: np.ndarray
    title: str
    note: str | None
    output: Path


@dataclass(frozen=True, kw_only=True)
class EnsembleJob(Job[None]):
    """Write an ensemble as an MLflow model directory `output`.

    `code` is the script that predicts and the modules that it imports; `parts` are the members in the order of `names`;
    `level1` is the file of the combiner's arrays, `examples` are patches, uint16 (m, size, size, 1), by input.
    `threshold` is the decision threshold; `metadata` is kept in the model.
    """

    target = "mammo_mlflow.engine.ensemble:assemble_ensemble"

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
    """Draw an architecture once; `network.model` has the parameters that are not drawn.

    `head` is the shape of the head's input, for an architecture of the head alone.
    """

    target = "mammo_mlflow.engine.hypermodels:draw_architecture"

    architecture: str
    network: Network
    head: tuple[int, ...]


@dataclass(frozen=True)
class Failure:
    """A job that failed: `reason` is the text of a `UserError` if `user`, else a traceback or a signal.

    `error` is the exception itself where the job ran in this process.
    """

    reason: str
    user: bool = False
    error: Exception | None = None
    fatal: bool = False
    """Whether every other job would fail for the same reason, as on a full disk."""

    @property
    def line(self) -> str:
        """The reason in one line, for users."""
        return in_words(self.reason.strip().splitlines()[-1])
