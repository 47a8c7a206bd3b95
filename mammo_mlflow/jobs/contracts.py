"""The messages between coordinator and worker processes: jobs, the events they emit, and their answers (return values).

Without Keras, since the coordinator makes jobs and reads answers. A job class names the function of `engine/` that runs
it, and the type of the answer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Generic, TypeVar

import numpy as np

from mammo_mlflow.checks import Value
from mammo_mlflow.experiment import PATCH, ROWS, Experiment, that_move
from mammo_mlflow.jobs.descriptions import Description, LayerCut, Network
from mammo_mlflow.jobs.failure import Failure
from mammo_mlflow.models.weights import NetworkWeights

if TYPE_CHECKING:  # every command imports the jobs, few need what evaluates
    from mammo_mlflow.evaluation.recalibration import RecalibrationMap

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


@dataclass(frozen=True)
class FitsProgress:
    """Event: what has happened to the fits of a `FitsJob`: an event, or the answer of a fit, by the fit's place."""

    happened: tuple[tuple[int, Happened], ...]


@dataclass(frozen=True)
class Notice:
    """Event: a sentence that whoever started the command should read, such as that memory was short."""

    text: str


Event = StepsDone | EpochDone | Suggestion | FitsProgress | Notice
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
class DescribeJob(Job[Description]):
    """Job: find the layer cuts of a network; with `probe` also measure its speed on `threads` threads."""

    target = "mammo_mlflow.engine.activations:describe_network"

    network: Network
    threads: int
    probe: bool = False


@dataclass(frozen=True, kw_only=True)
class CalibrateJob(Job[None]):
    """Job: draw a backbone's random weights, calibrate them on synthetic patches, and write them to `output`."""

    target = "mammo_mlflow.engine.activations:calibrate_weights"

    backbone: str
    threads: int
    output: Path


@dataclass(frozen=True, kw_only=True)
class StoreJob(Job[None]):
    """Base class of jobs that store activations of each patch of `tensor`, plain and in `views` augmented views.

    `memory` is the number of bytes of the card that it may take, 0 for any.
    """

    tensor: Path
    cut: LayerCut
    views: int
    augmentation: str
    threads: int = 1
    memory: int = 0
    output: Path = UNSET


@dataclass(frozen=True, kw_only=True)
class ActivationJob(StoreJob):
    """Job: compute the activations of a network at `cut`.

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
    """Job: compute the features that enter the head of a trained `tail`.

    `input_files` are the activation files of the tail's sides; none if the tail takes patches: then `sides` has the
    first row of each side in `tensor`.
    """

    target = "mammo_mlflow.engine.activations:compute_features"

    tail: Path
    sides: dict[str, int]
    input_files: dict[str, Path] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class FitResult:
    """The result of a fit: probabilities, float64 (m,), of its validation rows, history, costs, and the saved tail.

    `over_views` are the means over all cached views, float64 (m,), if it was asked for them: took `views_seconds`.
    `history` has the metrics of each epoch, `best_epochs` the epochs kept in each stage; `peak_memory` is in bytes, of
    the process, `card_memory` of the card, 0 without one.
    `tail` is None where an earlier command made the fit and did not keep it.
    """

    probabilities: np.ndarray
    history: list[dict[str, float | str]]
    best_epochs: dict[str, int]
    seconds: float
    peak_memory: int
    tail: Path | None
    training_seconds: float = 0.0
    card_memory: int = 0
    over_views: np.ndarray | None = None
    views_seconds: float = 0.0


@dataclass(frozen=True, kw_only=True)
class FitJob(Job[FitResult]):
    """Job: train one tail on some rows and predict others: a fold, or the refit (no validation rows).

    Rows, int (m,), are indices of training abnormalities; `labels`, float32 (n,), cover all of them. `features` and
    `tuned` are the activation files of the two stages by the tail's inputs, empty in on-line training. `constants`,
    (n,), are the inputs of one number a row. `places`, int (n,), are the rows that an input reads instead. The tail is
    saved below `output`. `on_card`: it is trained on a card, where heads of many widths share a program. `together`:
    how many fits its program is made for, 0: for those at hand. `over_views`: it also predicts in all cached views.
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
    on_card: bool = False
    together: int = 0
    over_views: bool = False
    output: Path = UNSET
    features: dict[str, Path] = field(default_factory=dict)
    tuned: dict[str, Path] = field(default_factory=dict)
    constants: dict[str, np.ndarray] = field(default_factory=dict)
    places: dict[str, np.ndarray] = field(default_factory=dict)

    @property
    def total_epochs(self) -> int:
        """The number of epochs of both stages together."""
        return self.epochs + (self.tuning_epochs if self.experiment.model.unfrozen_layers else 0)

    @property
    def is_head(self) -> bool:
        """Whether the fit is a head on stored features, beside which no convolution is trained."""
        return self.experiment.views > 0 and not self.experiment.model.unfrozen_layers

    @property
    def program(self) -> tuple[object, ...]:
        """What fits have in common that share their compiled programs: all but what may be a vector over them.

        The same before and after the job's files are filled in.
        """
        apart = {"task", *that_move("vector", "judging", "final", "source")}
        if not self.is_head:
            apart -= {*that_move("heads")}
        experiment = self.experiment
        if self.is_head and self.on_card:
            experiment = replace(experiment, model=experiment.model.filled)
        values = tuple((name, value) for name, value in experiment.flat().items() if name not in apart)
        shapes = self.description.head, self.network.sides, tuple(self.constants), len(self.labels)
        epochs = () if self.is_head else (self.epochs, self.tuning_epochs)
        return values, self.network.image_size, shapes, epochs


Happened = StepsDone | EpochDone | FitResult | Failure
"""What can happen to one fit of a `FitsJob`."""


@dataclass(frozen=True, kw_only=True)
class FitsJob(Job[None]):
    """Job: train several fits that share their programs, in one process; their answers come as `FitsProgress` events.

    `memory` is the number of bytes of the card that they may take. `size` is the number of heads that a job of this
    program may have, where one is to come with others beside these: all jobs of one size give a head the same numbers.
    """

    target = "mammo_mlflow.engine.train:train_fits"

    fits: tuple[FitJob, ...]
    memory: int
    size: int = 0


@dataclass(frozen=True, kw_only=True)
class ViewsJob(Job[list[np.ndarray]]):
    """Job: predict the validation rows of each fit in all views: the means of the probabilities, float64 (m,) each.

    `fits` have their files of activations, of which each is read in `views` views beside the plain one; where there are
    none, the patches themselves are flipped. `tails` are the trained tails of the fits.
    """

    target = "mammo_mlflow.engine.views:predict_views"

    fits: tuple[FitJob, ...]
    tails: tuple[Path, ...]
    views: int
    threads: int


@dataclass(frozen=True)
class Part:
    """A trained model to build: network, weights and layer cut of its prefix, and its tails, which are averaged.

    `joined` are the prefixes of the backbones that it joins, parts without tails; then it has no other.
    """

    network: Network
    weights: NetworkWeights
    cut: int
    tails: tuple[Path, ...]
    joined: tuple[Part, ...] = ()


@dataclass(frozen=True, kw_only=True)
class AssembleJob(Job[None]):
    """Job: join prefix and tails into one Keras model and write it as an MLflow model directory.

    `examples` are patches, uint16 (m, size, size, 1), or numbers (m, 1), by input. In a conditioned model `part` has no
    prefix: its inputs are the features of `features` and the prediction of `condition` (None: the true type). With
    `flips` the model answers with the mean over the flips and quarter turns of its patches. `recalibration` is the map
    that its answers go through last.
    """

    target = "mammo_mlflow.engine.assembly:assemble_model"

    part: Part
    examples: dict[str, np.ndarray]
    metadata: dict[str, object]
    output: Path
    features: Part | None = None
    condition: Part | None = None
    flips: bool = False
    recalibration: RecalibrationMap | None = None


@dataclass(frozen=True, kw_only=True)
class ModelJob(Job[Answer]):
    """Base class of jobs that predict: a model gets every abnormality of a tensor file.

    `sides` has the first row of each image input in `tensor`, `constants`, (n,), the inputs of one number a row,
    `places`, int (n,), which abnormalities an input reads, where these are others.
    """

    model: Path
    tensor: Path
    threads: int
    sides: dict[str, int]
    constants: dict[str, np.ndarray] = field(default_factory=dict)
    places: dict[str, np.ndarray] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class PredictJob(ModelJob[np.ndarray]):
    """Job: predict with a logged model: probabilities, float64 (n,)."""

    target = "mammo_mlflow.engine.assembly:predict"


@dataclass(frozen=True, kw_only=True)
class AnswerJob(PredictJob):
    """Job: predict with an ensemble: probability, decision, members' probabilities, float64 (n, 2 + members)."""

    target = "mammo_mlflow.engine.ensemble:predict_ensemble"


@dataclass(frozen=True, kw_only=True)
class TryJob(Job[dict[str, np.ndarray]]):
    """Job: predict the input example of an MLflow model as MLflow serves it: columns (n,) by name."""

    target = "mammo_mlflow.engine.assembly:predict_example"

    model: Path


@dataclass(frozen=True, kw_only=True)
class ExplainJob(ModelJob[int]):
    """Job: draw Grad-CAM maps of the members `names` of a Keras file over every patch, as PNG files in `output`.

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
    """Job: write an ensemble as an MLflow model directory `output`.

    `code` is the script that predicts and the modules that it imports; `parts` are the members in the order of `names`;
    `flips` says which of them answer with the mean over the flips and quarter turns of their patches.
    `level1` is the file of the combiner's arrays, `examples` are patches, uint16 (m, size, size, 1), by input.
    `threshold` is the decision threshold; `metadata` is kept in the model.
    """

    target = "mammo_mlflow.engine.ensemble:assemble_ensemble"

    code: tuple[Path, ...]
    parts: tuple[Part, ...]
    names: tuple[str, ...]
    flips: tuple[bool, ...]
    level1: Path
    threshold: float
    examples: dict[str, np.ndarray]
    metadata: dict[str, object]
    output: Path


@dataclass(frozen=True, kw_only=True)
class DrawJob(Job[dict[str, Value]]):
    """Job: draw an architecture once; `network.model` has the parameters that are not drawn.

    `head` is the shape of the head's input, for an architecture of the head alone.
    """

    target = "mammo_mlflow.engine.hypermodels:draw_architecture"

    architecture: str
    network: Network
    head: tuple[int, ...]
