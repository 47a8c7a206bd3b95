"""What a cross-validation will do, settled and checked before any run exists: folds, weights, cuts, fits, keys."""

from __future__ import annotations

import hashlib
import json
import os
import platform
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mammo_mlflow.data.patches import PatchSet, targets
from mammo_mlflow.data.splits import folds_frame, folds_sha256, inner_holdout, make_folds
from mammo_mlflow.errors import UserError
from mammo_mlflow.evaluation.thresholds import parse_policy
from mammo_mlflow.experiment import RESULTS_VERSION, Experiment, ModelSpec, TrainingSpec, canonical_json
from mammo_mlflow.models.backbones import BACKBONES, check_backbone
from mammo_mlflow.models.weights import Weights, file_sha256, find_weights
from mammo_mlflow.training.cache import Cache
from mammo_mlflow.training.executors import Executor
from mammo_mlflow.training.jobs import CalibrateJob, Cut, DescribeJob, Description, Job, Network

CALIBRATION_PATCHES = 32
RANDOM_ROOM = 4.4  # bytes a parameter: float32, and what HDF5 adds
REFIT = "refit"


@dataclass(frozen=True)
class Fit:
    """One fit: a fold (`fold 1` …) or the refit, which validates nothing. Rows index the training abnormalities."""

    name: str
    fold: int | None
    key: str
    seed: int
    train_rows: np.ndarray
    inner_rows: np.ndarray
    validation_rows: np.ndarray


@dataclass(frozen=True)
class Activations:
    """One cache entry: the activations of every training abnormality at one cut."""

    key: str
    cut: Cut
    bytes: int
    line: str
    """What entries share that can be computed from one another, the deeper from the shallower."""
    pooling: str | None
    """How the features are pooled; None for an inner cut."""


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

    @property
    def name(self) -> str:
        """The run's name; phantom data and random weights say so in it."""
        model = self.experiment.model
        which = f" last {model.unfrozen_layers} unfrozen" if model.unfrozen_layers else ""
        which += f" seed {self.experiment.cv.seed}" if self.experiment.cv.seed else ""
        said = " [phantom]" if self.patch_set.phantom else ""
        said += " [random weights]" if self.weights.label == "random" else ""
        return f"{self.experiment.task} {self.experiment.family} {model.backbone}{which}{said}"

    @property
    def note(self) -> str | None:
        """What every figure of this experiment must say."""
        said = ["phantom data: no medical result"] if self.patch_set.phantom else []
        said += ["random weights"] if self.weights.label == "random" else []
        return "; ".join(said) or None

    def activations(self) -> tuple[Activations, ...]:
        """The cache entries it needs, the shallowest first; none when training on-line."""
        training = self.experiment.training
        if training.views == 0:
            return ()
        cuts = [cut for cut in (self.description.tuned, self.description.features) if cut is not None]
        return tuple(self._entry(cut) for cut in cuts)

    def scratch_bytes(self) -> int:
        """About what the fits' tails and the final model, written and fetched back, take on the disk for a while."""
        widths = (int(np.prod(self.description.features.shape)), *self.experiment.model.widths, 1)
        head = sum(below * above for below, above in pairwise(widths))
        model = BACKBONES[self.experiment.model.backbone].parameters + head
        tail = model if self.description.tuned else head
        return 4 * (tail * len(self.fits) + (0 if self.experiment.final.final == "none" else 2 * model))

    def _entry(self, cut: Cut) -> Activations:
        training = self.experiment.training
        line = {
            "data": self.patch_set.files["train_tensor.npy"],
            "backbone": self.experiment.model.backbone,
            "weights": self.weights.identity,
            "augmentation": training.augmentation,
            "views": training.views,
            "precision": self.network.precision,
            "backend": keras_backend(),
            "results_version": RESULTS_VERSION,
        }
        # the same layer index means another layer under another pooling, where it is the features
        pooling = self.experiment.model.pooling if cut == self.description.features else None
        key = canonical_json(line | {"cut": asdict(cut), "pooling": pooling})
        size = cut.bytes_per_view() * len(self.labels) * (training.views + 1)
        digests = [hashlib.sha256(text.encode()).hexdigest() for text in (key, canonical_json(line))]
        return Activations(digests[0], cut, size, digests[1], pooling)

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
            "mammo.weights": self.weights.label,
            "mammo.weights_source": self.weights.source,
            "mammo.weights_sha256": self.weights.sha256,
            "mammo.keras_backend": keras_backend(),
            "mammo.phantom": str(self.patch_set.phantom).lower(),
        }

    def folds_frame(self) -> pd.DataFrame:
        """The saved folds."""
        return folds_frame(self.patch_set.train, self.folds)


class Planner:
    """Makes plans on one data set; what experiments share (weights, descriptions, folds) is found out once."""

    def __init__(self, patch_set: PatchSet, executor: Executor, cache: Cache, probe: bool = False) -> None:
        self._patch_set, self._executor, self._cache, self._probe = patch_set, executor, cache, probe
        self._weights: dict[tuple[str, str], Weights] = {}
        self._descriptions: dict[Network, Description] = {}
        self._folds: dict[tuple[int, int], np.ndarray] = {}

    def plans(self, experiments: Sequence[Experiment]) -> list[Plan]:
        """One plan for each. Raises `UserError` for whatever cannot work, before anything is made."""
        settled = []
        for wanted in experiments:
            precision = resolve_precision(wanted.training.precision)
            experiment = replace(wanted, training=replace(wanted.training, precision=precision))
            parse_policy(experiment.final.threshold)
            check_backbone(experiment.model.backbone, self._patch_set.image_size, experiment.model.unfrozen_layers)
            self._find_weights(experiment)
            settled.append((experiment, self._make_folds(experiment)))
        self._describe([experiment for experiment, _ in settled])
        for experiment, _ in settled:
            self._calibrate(experiment)
        return [
            _plan(
                experiment,
                self._patch_set,
                self._weights[_asked_weights(experiment)],
                folds,
                self._descriptions[_shape_of(self._network(experiment))],
            )
            for experiment, folds in settled
        ]

    def _network(self, experiment: Experiment) -> Network:
        return _network(experiment, self._patch_set)

    def _find_weights(self, experiment: Experiment) -> None:
        asked = _asked_weights(experiment)
        if asked not in self._weights:
            data = self._patch_set
            self._weights[asked] = find_weights(*asked, phantom=data.phantom, train_sha256=data.train_sha256)

    def _make_folds(self, experiment: Experiment) -> np.ndarray:
        number, seed = experiment.cv.folds, experiment.cv.seed
        if (number, seed) not in self._folds:
            train, duplicates = self._patch_set.train, self._patch_set.train_duplicates
            self._folds[number, seed] = make_folds(train.types, train.patient_ids, number, seed, duplicates)
        return self._folds[number, seed]

    def _describe(self, experiments: Sequence[Experiment]) -> None:
        """One question for each distinct network; seeds, heads and learning rates share it."""
        distinct = dict.fromkeys(_shape_of(self._network(experiment)) for experiment in experiments)
        threads = experiments[0].training.threads
        jobs = [
            Job(
                f"describe {index}",
                "mammo_mlflow.training.activations:describe",
                DescribeJob(network, threads, self._probe),
            )
            for index, network in enumerate(distinct)
            if network not in self._descriptions
        ]
        for job, answer in self._run(jobs):
            self._descriptions[job.argument.network] = answer

    def _calibrate(self, experiment: Experiment) -> None:
        """Random weights made, once, into the cache: every process then reads the same file."""
        asked, cache = _asked_weights(experiment), self._cache
        weights = self._weights[asked]
        if weights.kind != "random":
            return
        backbone = experiment.model.backbone
        name = hashlib.sha256(f"{weights.identity}-{backbone}".encode()).hexdigest()[:24]
        target = cache.root / f"random-{backbone}-{name}.weights.h5"
        with cache.lock(target.name):
            if not target.exists():
                cache.make_room(0, int(RANDOM_ROOM * BACKBONES[backbone].parameters))
                patches = np.asarray(self._patch_set.train.abnormality[:CALIBRATION_PATCHES])
                job = CalibrateJob(self._network(experiment), patches, experiment.training.threads, target)
                list(self._run([Job("calibrate", "mammo_mlflow.training.activations:calibrate", job)]))
        self._weights[asked] = replace(weights, kind="file", path=target, sha256=file_sha256(target))

    def _run(self, jobs: Sequence[Job]) -> Iterator[tuple[Job, Any]]:
        return self._executor.run(jobs, lambda *_: None, lambda: None)


def _asked_weights(experiment: Experiment) -> tuple[str, str]:
    return experiment.model.backbone, experiment.model.weights


def _shape_of(network: Network) -> Network:
    """The network without what its cuts do not depend on: the head."""
    model = network.model
    bare = ModelSpec(backbone=model.backbone, pooling=model.pooling, unfrozen_layers=model.unfrozen_layers)
    return replace(network, model=bare)


def resolve_precision(wanted: str) -> str:
    """`auto` is bfloat16 where the processor computes in it, float32 elsewhere."""
    if wanted != "auto":
        return wanted
    try:
        flags = next((line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("flags")), "")
    except OSError:
        flags = platform.processor()
    return "bfloat16" if {"avx512_bf16", "amx_bf16"} & set(flags.split()) else "float32"


def keras_backend() -> str:
    """The backend that children will use, as Keras finds it, without importing Keras."""
    if os.environ.get("KERAS_BACKEND"):
        return os.environ["KERAS_BACKEND"]
    config = Path(os.environ.get("KERAS_HOME", Path.home() / ".keras")) / "keras.json"
    try:
        return str(json.loads(config.read_text()).get("backend", "tensorflow"))
    except (OSError, ValueError):
        return "tensorflow"


def _network(experiment: Experiment, patch_set: PatchSet) -> Network:
    return Network(experiment.model, patch_set.image_size, experiment.training.precision)


def _keyed(experiment: Experiment) -> Experiment:
    """The experiment as keys hash it: without what does not change results under it.

    How the weights were asked for does not count, only which they are; nor do fine-tuning settings of a frozen model
    or the momentum of an optimizer that has none.
    """
    training, unused = experiment.training, TrainingSpec()
    if not experiment.model.unfrozen_layers:
        training = replace(
            training, tuning_epochs=unused.tuning_epochs, tuning_learning_rate=unused.tuning_learning_rate
        )
    if training.optimizer != "sgd":
        training = replace(training, momentum=unused.momentum)
    return replace(experiment, model=replace(experiment.model, weights=""), training=training)


def _plan(
    experiment: Experiment, patch_set: PatchSet, weights: Weights, folds: np.ndarray, description: Description
) -> Plan:
    network = _network(experiment, patch_set)
    train = patch_set.train
    facts = {
        "data": patch_set.train_sha256,
        "weights": weights.identity,
        "backend": keras_backend(),
    }
    keyed = _keyed(experiment)
    fits = []
    everything = np.arange(len(folds))
    for fold in [*range(experiment.cv.folds), *([None] if experiment.final.final == REFIT else [])]:
        seed = int(np.random.SeedSequence([experiment.cv.seed, 0 if fold is None else fold + 1]).generate_state(1)[0])
        rows = everything if fold is None else everything[folds != fold]
        inner = np.zeros(0, int)
        if experiment.training.early_stop and fold is not None:
            rows, inner = inner_holdout(
                rows, train.types, train.patient_ids, seed=seed, duplicate_groups=patch_set.train_duplicates
            )
        length = experiment.final.final_epochs if fold is None else 0
        key = keyed.key("model", "training", "cv", **facts, folds=folds_sha256(folds), fold=fold, final_epochs=length)
        held_out = everything[folds == fold] if fold is not None else np.zeros(0, int)
        fits.append(Fit(REFIT if fold is None else f"fold {fold + 1}", fold, key, seed, rows, inner, held_out))
    for fit in fits:
        if len(fit.train_rows) == 0:
            raise UserError(f"folds: expected training patches for {fit.name}, found none")
    return Plan(
        experiment,
        patch_set,
        network,
        weights,
        description,
        folds,
        targets(train.types, experiment.task).astype(np.float32),
        tuple(fits),
        keyed.key("model", "training", "cv", "final", **facts, folds=folds_sha256(folds), test=patch_set.test_sha256),
    )
