"""What an engine is: it trains fits and computes activations. There are two: `keras_fit`, Keras's own, and `compiled`.

Which one trains is decided by `jobs.devices.engine_of`, from Keras's backend.
"""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple, Protocol

import keras
import numpy as np
import psutil

from mammo_mlflow.engine.batches import Batches
from mammo_mlflow.engine.inputs import ModelInput, Reader
from mammo_mlflow.engine.schedules import learning_rates
from mammo_mlflow.errors import UserError, expected
from mammo_mlflow.experiment import TrainingSpec
from mammo_mlflow.jobs.contracts import Emit, EpochDone, Notice
from mammo_mlflow.jobs.devices import engine_of

EVALUATION_BATCH = 64
"""The number of patches that are predicted at once."""

MODULES = {"keras_fit": "mammo_mlflow.engine.keras_fit", "compiled": "mammo_mlflow.engine.compiled.training"}
"""The module of each engine, whose `make` makes it."""

OPTIMIZERS: dict[str, Callable[[float, TrainingSpec], keras.optimizers.Optimizer]] = {
    "adam": lambda rate, _: keras.optimizers.Adam(rate),
    "rmsprop": lambda rate, _: keras.optimizers.RMSprop(rate),
    "sgd": lambda rate, spec: keras.optimizers.SGD(rate, momentum=spec.momentum, nesterov=spec.momentum > 0),
    "adamw": lambda rate, spec: keras.optimizers.AdamW(rate, weight_decay=spec.weight_decay),
}
"""Each optimizer by name: a function of learning rate and parameters of training that makes it."""

Rebuild = Callable[[type[keras.Layer], bool], keras.Model]
"""A function of a class of dropout layers, and of whether hidden layers are filled up, that builds a network."""
History = list[dict[str, float | str]]
"""The metrics of each epoch of a fit, with its stage and its number from 1 on."""


class Stage(NamedTuple):
    """A stage of a fit: `head`, `tuned` (the last convolutions with it), or `network` (all at once)."""

    name: str
    epochs: int
    learning_rate: float


@dataclass(frozen=True, kw_only=True)
class StageFit:
    """A fit in one of its stages: the network, which is trained in place, and what it is trained and scored on.

    `validation_rows` and `inner_rows`, int (m,), are read in the plain view; early stopping watches the inner ones.
    `start` is the number of epochs before this stage. `rebuild` builds a head's network anew, with dropout layers of a
    class that are there whatever the rate, and where asked with hidden layers filled up (`ModelSpec.filled`). Fits with
    one `program` (`FitJob.program`) can share compiled programs, also those of one job and another.
    """

    network: keras.Model
    batches: Batches
    spec: TrainingSpec
    stage: Stage
    validation_rows: np.ndarray
    inner_rows: np.ndarray
    start: int
    emit: Callable[[EpochDone], object]
    rebuild: Rebuild | None = None
    program: Hashable = None

    @property
    def patience(self) -> int:
        """The epochs without a lower inner loss after which the fit is stopped; 0: never."""
        return self.spec.early_stop if len(self.inner_rows) else 0

    @cached_property
    def rates(self) -> np.ndarray:
        """The learning rate of each step of the stage, float32 (epochs, batches)."""
        return learning_rates(self.spec, self.stage.learning_rate, self.stage.epochs, len(self.batches))

    @property
    def averages(self) -> bool:
        """Whether the weights of several epochs are averaged (`share`); then batch normalisation is measured anew.

        Statistics of moving weights are none of the averaged ones. So these pass once over the batches of the last
        epoch, in training mode, and its mean statistics are theirs (Izmailov et al. 2018, section 3.2).
        """
        return self.spec.weight_average > 1

    def share(self, epoch: int) -> float:
        """The share of the weights of an epoch of the stage, from 0 on, in the mean of the last epochs until then."""
        number = epoch + 1 - max(0, self.stage.epochs - self.spec.weight_average)
        return 1 / number if number > 0 else 0.0

    def report(self, epoch: int, metrics: dict[str, float], history: History) -> None:
        """Put the metrics of an epoch of the stage, from 0 on, into `history`, and send them.

        Raises `UserError` where the loss is not finite.
        """
        number = self.start + epoch + 1
        if not np.isfinite(metrics.get("loss", 0.0)):
            raise divergence_error(f"{metrics['loss']} in epoch {number} ({self.stage.name})")
        history.append({"stage": self.stage.name, "epoch": number, **metrics})
        self.emit(EpochDone(number, metrics, time.time()))


@dataclass(frozen=True, kw_only=True)
class Trained:
    """What came of a stage: the history, the number of epochs kept, and the fit's share of the seconds.

    `memory` is the most that this process took meanwhile, `card_memory` what it took of a card, in bytes. `predict`
    gives the probabilities, float64 (m,), of the validation rows.
    """

    history: History
    kept: int
    seconds: float
    memory: int
    predict: Callable[[], np.ndarray]
    card_memory: int = 0


class Engine(Protocol):
    """The protocol of engines. An engine is made for one job, and may keep what its stages have in common."""

    def train(self, fits: Sequence[StageFit], size: int = 0) -> Iterator[tuple[int, Trained | UserError]]:
        """Train fits; yield the place of each, as it ends, with what came of it, or the error that ended it.

        With early stopping the weights of the epoch with the least inner loss are kept. All losses told are the one
        that is minimised, but for class weights on held-out rows, and those of the epoch's own weights, also where some
        are averaged. The fits' networks have one structure, and their stages one name. Of heads that can be rebuilt,
        rates of dropout may differ, and numbers of epochs. A head gets the same numbers whatever beside it, to the last
        digit, in all calls of one `size`: the most heads of such a call; with 0 roundings may differ.
        """
        ...

    def outputs(
        self, network: keras.Model, reader: Reader[ModelInput], patches: int, views: int
    ) -> Iterator[np.ndarray]:
        """Yield a network's outputs for a reader's `patches` rows, block by block, float32 (m, views + 1, ...)."""
        ...

    def written(self, path: Path) -> None:
        """Hear that all `outputs` were written to a file, which a later job may read."""
        ...


def make_engine(memory: int, notice: Callable[[str], None]) -> Engine:
    """Make the engine of this process, for a job that may take `memory` bytes of the card; it tells by `notice`."""
    module = importlib.import_module(MODULES[engine_of(keras.backend.backend())])
    return module.make(memory, notice)


def notify(emit: Emit, text: str) -> None:
    """Tell whoever started the command a sentence."""
    emit(Notice(text))


def class_weights(name: str, labels: np.ndarray) -> dict[int, float] | None:
    """The class weights for labels (n,) of 0 and 1: `balanced` gives each class the other's fraction, `a:b` a and b."""
    if name == "none":
        return None
    if name == "balanced":
        positive = float(np.mean(labels))
        return {0: positive, 1: 1 - positive}
    negative, positive = (float(part) for part in name.split(":"))
    return {0: negative, 1: positive}


def divergence_error(found: str) -> UserError:
    """Make the `UserError` for a fit whose loss or predictions are not finite."""
    return expected("learning_rate", "a loss that stays a number", f"{found}; a lower rate may help")


def private_memory_bytes() -> int:
    """The memory that belongs to this process alone, in bytes: anonymous on Linux, else the resident set.

    The resident set also counts mapped cache files, whose memory the system can free at any time.
    """
    try:
        with Path("/proc/self/status").open() as status:
            return next(int(line.split()[1]) * 1024 for line in status if line.startswith("RssAnon"))
    except (OSError, StopIteration):
        return psutil.Process().memory_info().rss
