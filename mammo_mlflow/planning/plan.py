"""What a cross-validation will do: its folds, weights, cuts, fits and keys, and the cache entries that it reads."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from mammo_mlflow.data.patches import PatchSet, targets
from mammo_mlflow.data.splits import folds_frame, folds_sha256
from mammo_mlflow.experiment import (
    ABNORMALITY_TYPE,
    FEATURES,
    PATCH,
    ROWS,
    Experiment,
    canonical_json,
)
from mammo_mlflow.jobs.contracts import Cut, Description, Network
from mammo_mlflow.models.weights import Weights

if TYPE_CHECKING:
    from mammo_mlflow.planning.base_models import Derived, Sources

REFIT = "refit"
ACTIVATIONS_VERSION = 2
"""The version of cached activations: raised where their files change, so that they are computed again.

Where that gives fits other numbers, as another augmentation does, `RESULTS_VERSION` is raised too.
"""


@dataclass(frozen=True)
class Fit:
    """One fit: a fold (`fold 1` …) or the refit, which validates nothing. Rows index the training abnormalities.

    Early stopping watches the `inner_rows`, if any.
    """

    name: str
    fold: int | None
    key: str
    seed: int
    train_rows: np.ndarray
    inner_rows: np.ndarray
    validation_rows: np.ndarray


@dataclass(frozen=True)
class Activations:
    """One cache entry: the activations of every training abnormality, or of every baseline, at one cut."""

    key: str
    cut: Cut
    bytes: int
    line: str
    """What entries share that can be computed from one another, the deeper from the shallower."""
    pooling: str | None
    """How the features are pooled; None for an inner cut."""
    first: int = ROWS[PATCH]
    """The first of the rows of the data file whose patches they are of, every second one."""
    derived: Derived | None = None
    """The trained model that they are computed by, where they are more than a frozen prefix."""


@dataclass(frozen=True)
class Plan:
    """An experiment with everything it needs found and checked."""

    experiment: Experiment
    patch_set: PatchSet
    network: Network
    weights: Weights
    description: Description
    folds: np.ndarray
    labels: np.ndarray
    fits: tuple[Fit, ...]
    key: str
    sources: Sources | None = None
    """The registered models that a conditioned one is built on."""

    @property
    def name(self) -> str:
        """The run's name; phantom data and random weights say so in it."""
        experiment = self.experiment
        unfrozen, seed = experiment.model.unfrozen_layers, experiment.cv.seed
        which = f" last {unfrozen} unfrozen" if unfrozen else ""
        which += " [condition: class]" if self.sources is not None and self.sources.as_class else ""
        which += "" if experiment.cv.control == "none" else f" [control: {experiment.cv.control}]"
        which += f" {experiment.judged_by}" if experiment.cv.holdout or experiment.stops_on_scored else ""
        which += f" seed {seed}" if seed else ""
        said = " [phantom]" if self.patch_set.phantom else ""
        said += " [random weights]" if self.weights.label == "random" else ""
        return f"{experiment.task} {experiment.family} {experiment.model.backbone}{which}{said}"

    @property
    def note(self) -> str | None:
        """What every figure of this experiment must say."""
        said = ["phantom data: no medical result"] if self.patch_set.phantom else []
        said += ["random weights"] if self.weights.label == "random" else []
        control = self.experiment.cv.control
        said += {"baseline": ["control: baseline patches alone"], "shuffled": ["control: shuffled labels"]}.get(
            control, []
        )
        said += ["early stopping watched the scored patches: optimistic"] if self.experiment.stops_on_scored else []
        return "; ".join(said) or None

    @property
    def sides(self) -> dict[str, int]:
        """The image inputs of the whole model, and the first of the rows each sees."""
        if self.sources is None:
            return self.experiment.sides
        seen = [source.plan.sides for source in self.sources.all]
        return dict(sorted({name: first for sides in seen for name, first in sides.items()}.items()))

    def constants(self, types: np.ndarray) -> dict[str, np.ndarray]:
        """The inputs of the whole model that are numbers (n,), for abnormalities of these types."""
        if self.sources is None or self.sources.condition is not None:
            return {}
        return {ABNORMALITY_TYPE: targets(types, "mass_calc").astype(np.float32)}

    def activations(self) -> tuple[Activations, ...]:
        """The cache entries it needs, the shallowest first; none when training on-line."""
        found = [entry for fit in self.fits for stage in reversed(self.inputs(fit)) for entry in stage.values()]
        return tuple({entry.key: entry for entry in found}.values())

    def inputs(self, fit: Fit) -> tuple[dict[str, Activations], dict[str, Activations]]:
        """The cache entries that a fit reads in its first stage, and with unfrozen layers, by input of its network."""
        if self.sources is not None:
            return {FEATURES: self.sources.features.derived(fit.name, self.experiment).entry}, {}
        if self.experiment.views == 0:
            return {}, {}
        cuts = self.description.features, self.description.tuned
        first, second = (
            {} if cut is None else {side: self._entry(cut, row) for side, row in self.experiment.sides.items()}
            for cut in cuts
        )
        return first, second

    def scratch_bytes(self) -> int:
        """About what the fits' tails and the final model, written and fetched back, take on the disk for a while."""
        widths = (int(np.prod(self.description.head)), *self.experiment.model.widths, 1)
        head = sum(below * above for below, above in pairwise(widths))
        model = self.description.parameters + head
        tail = model if self.description.tuned else head
        return 4 * (tail * len(self.fits) + (0 if self.experiment.final.final == "none" else 2 * model))

    def _entry(self, cut: Cut, first: int) -> Activations:
        training = self.experiment.training
        line = {
            "data": self.patch_set.files["train_tensor.npy"],
            "backbone": self.experiment.model.backbone,
            "weights": self.weights.identity,
            "augmentation": training.augmentation,
            "views": training.views,
            "precision": self.network.precision,
            "backend": keras_backend(),
            "results_version": ACTIVATIONS_VERSION,  # the name it had when one version counted for everything
        }
        if first != ROWS[PATCH]:
            line["rows"] = first
        # the same layer index means another layer under another pooling, where it is the features
        pooling = self.experiment.model.pooling if cut == self.description.features else None
        key = canonical_json(line | {"cut": asdict(cut), "pooling": pooling})
        size = stored_bytes(cut, len(self.labels), training.views)
        return Activations(sha256(key), cut, size, sha256(canonical_json(line)), pooling, first)

    def tags(self) -> dict[str, str]:
        """The tags that every run of this experiment carries (docs/architecture.md names them all)."""
        return {
            "mammo.task": self.experiment.task,
            "mammo.family": self.experiment.family,
            "mammo.backbone": self.experiment.model.backbone,
            "mammo.unfrozen": str(self.experiment.model.unfrozen_layers),
            "mammo.set": self.experiment.model_set,
            "mammo.data_sha256": self.patch_set.train_sha256,
            "mammo.test_sha256": self.patch_set.test_sha256,
            "mammo.folds_sha256": folds_sha256(self.folds),
            "mammo.control": self.experiment.cv.control,
            "mammo.weights": self.weights.label,
            "mammo.weights_source": self.weights.source,
            "mammo.weights_sha256": self.weights.sha256,
            "mammo.keras_backend": keras_backend(),
            "mammo.phantom": str(self.patch_set.phantom).lower(),
        }

    def final_key(self, registered: str) -> str:
        """What a final model of this experiment is found by, under the name that it is registered as."""
        return sha256(f"final {self.key} {registered}")

    def folds_frame(self) -> pd.DataFrame:
        """The saved folds."""
        return folds_frame(self.patch_set.train, self.folds)


def sha256(text: str) -> str:
    """The sha256 of a text, in hexadecimal."""
    return hashlib.sha256(text.encode()).hexdigest()


def stored_bytes(cut: Cut, patches: int, views: int) -> int:
    """The size of the stored activations of so many patches, each plain and in `views` augmented views."""
    return cut.bytes_per_view() * patches * (views + 1)


def keras_backend() -> str:
    """The backend that children will use, as Keras finds it, without importing Keras."""
    if os.environ.get("KERAS_BACKEND"):
        return os.environ["KERAS_BACKEND"]
    config = Path(os.environ.get("KERAS_HOME", Path.home() / ".keras")) / "keras.json"
    try:
        return str(json.loads(config.read_text()).get("backend", "tensorflow"))
    except (OSError, ValueError, AttributeError, RecursionError):
        return "tensorflow"
