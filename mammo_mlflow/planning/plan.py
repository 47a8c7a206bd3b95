"""The plan of a cross-validation: folds, weights, layer cuts, keys, and its fits with their jobs and cache entries."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd

from mammo_mlflow.data.patches import PatchSet, Split, targets
from mammo_mlflow.data.splits import folds_frame, folds_sha256
from mammo_mlflow.disclosure import Disclosure
from mammo_mlflow.experiment import ABNORMALITY_TYPE, OTHER_VIEW, Experiment
from mammo_mlflow.files import sha256
from mammo_mlflow.jobs.contracts import FitJob, Part
from mammo_mlflow.jobs.descriptions import Description, Network
from mammo_mlflow.jobs.devices import Devices
from mammo_mlflow.models.weights import NetworkWeights
from mammo_mlflow.names import Tag
from mammo_mlflow.planning.activations import Activations
from mammo_mlflow.tracking.registry import Version

REFIT = "refit"
"""The name of the fit on all training patches."""


def other_views(split: Split) -> dict[str, np.ndarray]:
    """Which abnormalities of a split the input `other_view` reads, by its name. Raises `UserError` as `Split` does."""
    return {OTHER_VIEW: split.other_views()}


@dataclass(frozen=True, kw_only=True)
class Fit:
    """One fit of a plan: a fold (`fold 1` …), or the refit, whose `fold` is None and which predicts no rows.

    `job` trains it, once its input and output files are filled in. `features` and `tuned` are the cache entries, by
    input, that its first and its second stage read.
    """

    name: str
    fold: int | None
    key: str
    job: FitJob
    features: Mapping[str, Activations]
    tuned: Mapping[str, Activations]

    @property
    def validation_rows(self) -> np.ndarray:
        """The training abnormalities that the fit predicts, int (m,); none in the refit."""
        return self.job.validation_rows


@dataclass(frozen=True, kw_only=True)
class BaseParts:
    """The trained parts of a conditioned model's base models; without `condition` the true type is an input.

    With `as_class` the condition is a class. `sides` has the image inputs of both, and the first row of each in a file.
    """

    features: Part
    condition: Part | None
    as_class: bool
    sides: dict[str, int]
    versions: tuple[Version, ...]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """An experiment made ready to run: data, folds, weights, layer cuts and fits, all found and checked.

    `folds`, int16 (n,), and `labels`, float32 (n,), are of the training abnormalities; `devices` are what its fits
    compute with; `base` has the base models of a conditioned model.
    """

    experiment: Experiment
    patch_set: PatchSet
    network: Network
    weights: NetworkWeights
    description: Description
    folds: np.ndarray
    labels: np.ndarray
    fits: tuple[Fit, ...]
    key: str
    devices: Devices
    base: BaseParts | None = None

    @property
    def name(self) -> str:
        """The name of the plan's MLflow run, which also tells of phantom data and random weights.

        What tells runs apart comes first: a column of MLflow's table shows 18 letters.
        """
        experiment = self.experiment
        unfrozen, seed = experiment.model.unfrozen_layers, experiment.cv.seed
        which = f" seed {seed}" if seed else ""
        which += f" last {unfrozen} unfrozen" if unfrozen else ""
        which += " [condition: class]" if self.base is not None and self.base.as_class else ""
        which += "" if experiment.cv.control == "none" else f" [control: {experiment.cv.control}]"
        which += f" {experiment.judged_by}" if experiment.cv.holdout or experiment.stops_on_scored else ""
        return f"{experiment.model.backbone}{which} {experiment.family} {experiment.task}{self.disclosure.suffix}"

    @property
    def disclosure(self) -> Disclosure:
        """The facts to disclose beside every result: phantom data, random weights, a control, optimistic scores."""
        weights, control, scored = self.weights.label, self.experiment.cv.control, self.experiment.stops_on_scored
        return Disclosure.of(phantom=self.patch_set.phantom, weights=weights, control=control, scored=scored)

    @property
    def sides(self) -> dict[str, int]:
        """The image inputs of the whole model, and the first row of each in a tensor file."""
        return self.experiment.sides if self.base is None else self.base.sides

    def constants(self, types: np.ndarray) -> dict[str, np.ndarray]:
        """The inputs of the whole model that are numbers, float32 (n,), for abnormalities of these types (n,)."""
        if self.base is None or self.base.condition is not None:
            return {}
        return {ABNORMALITY_TYPE: targets(types, "mass_calc").astype(np.float32)}

    def part(self, tails: Iterable[Path]) -> Part:
        """The network, weights and layer cut that make a whole model with these tails."""
        # of a single backbone there are none
        each = zip(self.network.each, self.weights.joined, self.description.joined, strict=False)
        joined = tuple(Part(one, weights, described.features.index, ()) for one, weights, described in each)
        return Part(self.network, self.weights, self.description.trained.index, tuple(tails), joined)

    def activations(self) -> tuple[Activations, ...]:
        """The cache entries that the fits read, each once; none in on-line training."""
        found = [entry for fit in self.fits for entry in (*fit.tuned.values(), *fit.features.values())]
        return tuple({entry.key: entry for entry in found}.values())

    def scratch_bytes(self) -> int:
        """The approximate size in bytes of the fits' tails and the final model, saved and fetched back."""
        widths = (int(np.prod(self.description.head)), *self.experiment.model.widths, 1)
        head = sum(below * above for below, above in pairwise(widths))
        model = self.description.parameters + head
        tail = model if self.description.tuned else head
        return 4 * (tail * len(self.fits) + (0 if self.experiment.final.final == "none" else 2 * model))

    @cached_property
    def places(self) -> dict[str, np.ndarray]:
        """Which test abnormalities an image input reads, int (m,), where these are others than the scored ones."""
        return other_views(self.patch_set.test) if OTHER_VIEW in self.sides else {}

    def _single_views(self) -> dict[str, str]:
        """The tag that counts lesions without another view, where the network asks for one."""
        if OTHER_VIEW not in self.sides:
            return {}
        train = self.fits[0].job.places[OTHER_VIEW]
        counts = [int((places == np.arange(len(places))).sum()) for places in (train, self.places[OTHER_VIEW])]
        return {Tag.SINGLE_VIEWS: f"{counts[0]} training, {counts[1]} test"}

    def tags(self) -> dict[str, str]:
        """The tags of every run of this experiment (docs/architecture.md lists them all)."""
        return {
            Tag.TASK: self.experiment.task,
            Tag.FAMILY: self.experiment.family,
            Tag.BACKBONE: self.experiment.model.backbone,
            Tag.UNFROZEN: str(self.experiment.model.unfrozen_layers),
            Tag.SET: self.experiment.model_set,
            Tag.DATA_SHA256: self.patch_set.train_sha256,
            Tag.TEST_SHA256: self.patch_set.test_sha256,
            Tag.FOLDS_SHA256: folds_sha256(self.folds),
            Tag.CONTROL: self.experiment.cv.control,
            Tag.WEIGHTS: self.weights.label,
            Tag.WEIGHTS_SOURCE: self.weights.source,
            Tag.WEIGHTS_SHA256: self.weights.sha256,
            **self.devices.tags,
            **self.disclosure.tags,
            **self._single_views(),
        }

    def final_key(self, registered: str) -> str:
        """The key of the final model of this experiment, registered under the name `registered`."""
        return sha256(f"final {self.key} {registered}")

    def folds_frame(self) -> pd.DataFrame:
        """The folds as a table, a row for each training abnormality (`splits.folds_frame`)."""
        return folds_frame(self.patch_set.train, self.folds)
