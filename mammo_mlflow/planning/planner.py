"""Make plans: find and check everything that an experiment needs before any run exists."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import numpy as np

from mammo_mlflow.backbones import BACKBONES, check_backbone
from mammo_mlflow.checks import JOIN
from mammo_mlflow.data.patches import LESION_COLUMNS, PatchSet, check_classes, targets
from mammo_mlflow.data.splits import folds_sha256, inner_holdout, make_folds, make_holdout
from mammo_mlflow.errors import UserError, expected, gathered
from mammo_mlflow.evaluation.thresholds import parse_policy
from mammo_mlflow.experiment import (
    FAMILIES,
    FEATURES,
    OTHER_VIEW,
    CrossValidationSpec,
    Experiment,
    ModelSpec,
    parameters,
    that_move,
)
from mammo_mlflow.files import file_sha256, sha256
from mammo_mlflow.jobs.cache import Cache
from mammo_mlflow.jobs.contracts import CalibrateJob, DescribeJob, FitJob
from mammo_mlflow.jobs.descriptions import Description, Network
from mammo_mlflow.jobs.devices import Devices
from mammo_mlflow.jobs.executors import Answered, AnyJob, Executor
from mammo_mlflow.models.weights import NO_WEIGHTS, WORDS, NetworkWeights, find_weights
from mammo_mlflow.planning.activations import frozen_activations
from mammo_mlflow.planning.base_models import BaseModels
from mammo_mlflow.planning.plan import REFIT, Fit, Plan, other_views
from mammo_mlflow.whereabouts import BY_SHA256, remember

RANDOM_BYTES_PER_PARAMETER = 4.4  # float32, and what HDF5 adds

_log = logging.getLogger(__name__)


class Planner:
    """Makes plans on one data set; weights, layer cuts and folds that experiments share are found once.

    With `probe` the speed of networks is measured too. `devices` are what the plans' fits compute with, `accepted` is
    the licence of weights that the user accepts.
    """

    def __init__(
        self,
        patch_set: PatchSet,
        executor: Executor,
        cache: Cache,
        probe: bool = False,
        devices: Devices | None = None,
        accepted: str = "",
    ) -> None:
        self.patch_set, self._accepted = patch_set, accepted
        self.devices = devices or Devices.of_environment()
        self._executor, self._cache, self._probe = executor, cache, probe
        self._weights: dict[tuple[str, str], NetworkWeights] = {}
        self._descriptions: dict[Network, Description] = {}
        self._folds: dict[tuple[int, float, int, str], np.ndarray] = {}
        self.find_base_models: Callable[[Experiment, np.ndarray], BaseModels] | None = None
        """Finds the base models of a conditioned experiment with its folds (n,); None where there is no store."""

    def plans(self, experiments: Sequence[Experiment], devices: Devices | None = None) -> list[Plan]:
        """Make a plan for each experiment, and draw random weights. Raises `UserError` with the faults of all.

        `devices` are others than the planner's, with which fits were computed that are to be found again.
        """
        devices = devices or self.devices
        gathered(self._check, experiments)  # the faults of all experiments are raised at once
        settled = []
        for wanted in experiments:
            experiment = wanted.changed(precision=resolve_precision(wanted.training.precision, devices))
            parse_policy(experiment.final.threshold)
            for name in experiment.model.backbones:
                if name in BACKBONES:
                    check_backbone(name, self.patch_set.image_size, experiment.model.unfrozen_layers)
            settled.append(self._find_weights(experiment))
        own = [experiment for experiment in settled if experiment.family != "conditioned"]
        if own:
            self._describe(own)
        for experiment in own:
            for one in _wanted_weights(experiment):
                self._calibrate(one, experiment.training.threads)
        return gathered(partial(self._plan, devices), settled)

    def _check(self, experiment: Experiment) -> None:
        """Raise `UserError` where the data lack a class, or folds cannot be made."""
        if experiment.family == "conditioned":
            check_classes(self.patch_set.train.types, "mass_calc", "conditioned")
        if experiment.final.unit == "lesion" and self.patch_set.train.lesions is None:
            raise expected("unit", f"patch where train_groups.csv lacks {' or '.join(LESION_COLUMNS)}", "'lesion'")
        self.folds(experiment.cv, experiment.task)

    def _plan(self, devices: Devices, experiment: Experiment) -> Plan:
        """Make the plan of an experiment whose weights and layer cuts are known. Raises `UserError`."""
        folds = self.folds(experiment.cv, experiment.task)
        data = self.patch_set
        weights = NetworkWeights.join([self._weights[wanted] for wanted in _wanted_weights(experiment)])
        if experiment.family != "conditioned":
            each = _network(experiment, self.patch_set).each
            description = Description.join([self._descriptions[_without_head(one)] for one in each])
            return _build_plan(experiment, data, weights, folds, description, devices)
        if self.find_base_models is None:
            raise expected(
                "family", f"one of {', '.join(f for f in FAMILIES if f != 'conditioned')} here", "'conditioned'"
            )
        base_models = self.find_base_models(experiment, folds)
        description = base_models.description
        return _build_plan(experiment, data, base_models.weights, folds, description, devices, base_models)

    def _find_weights(self, experiment: Experiment) -> Experiment:
        """Find the weights of an experiment's backbones, once; a path becomes their sha256. Raises `UserError`."""
        for wanted in _wanted_weights(experiment):
            if wanted not in self._weights:
                known, phantom = wanted[0] in BACKBONES, self.patch_set.phantom
                self._weights[wanted] = (
                    find_weights(*wanted, phantom=phantom, accepted=self._accepted) if known else NO_WEIGHTS
                )
        each = [self._weights[wanted] for wanted in _wanted_weights(experiment)]
        if experiment.model.weights in WORDS or any(found.path is None for found in each):
            return experiment
        for found in each:
            if found.path is not None:
                remember(found.path, found.sha256)
        named = experiment.changed(weights=BY_SHA256 + JOIN.join(found.sha256 for found in each))
        self._weights |= dict(zip(_wanted_weights(named), each, strict=True))
        return named

    def folds(self, cv: CrossValidationSpec, task: str) -> np.ndarray:
        """The folds of the training abnormalities, int16 (n,). Raises `UserError` where they cannot be made."""
        wanted = (cv.folds, cv.holdout, cv.seed, task)
        if wanted not in self._folds:
            train, duplicates = self.patch_set.train, self.patch_set.train_duplicates
            if cv.holdout:
                made = make_holdout(train.types, train.patient_ids, cv.holdout, cv.seed, task, duplicates)
            else:
                made = make_folds(train.types, train.patient_ids, cv.folds, cv.seed, task, duplicates)
            self._folds[wanted] = made
        return self._folds[wanted]

    def _describe(self, experiments: Sequence[Experiment]) -> None:
        """Find the layer cuts of each distinct network in a worker process; seeds and heads do not change them."""
        networks = [one for experiment in experiments for one in _network(experiment, self.patch_set).each]
        distinct = dict.fromkeys(map(_without_head, networks))
        threads = experiments[0].training.threads
        jobs = [
            DescribeJob(name=f"describe {index}", network=network, threads=threads, probe=self._probe)
            for index, network in enumerate(distinct)
            if network not in self._descriptions
        ]
        if self._probe and jobs:
            _log.info("measuring how fast this machine computes %d network%s", len(jobs), "s" * (len(jobs) != 1))
        self._descriptions |= {job.network: answer for job, answer in self._run(jobs)}

    def _calibrate(self, wanted: tuple[str, str], threads: int) -> None:
        """Draw random weights into the cache, unless they are there; all folds and data sets read this file."""
        cache, weights, backbone = self._cache, self._weights[wanted], wanted[0]
        if weights.kind != "random":
            return
        name = sha256(f"{weights.identity}-{backbone}")[:24]
        target = cache.root / f"random-{backbone}-{name}.weights.h5"
        with cache.lock(target.name):
            if not target.exists():
                cache.make_room(0, int(RANDOM_BYTES_PER_PARAMETER * BACKBONES[backbone].parameters))
                if any(cache.root.glob(f"random-{backbone}-*.weights.h5")):
                    _log.info("%s: folds with random weights of an earlier version are trained again", backbone)
                list(self._run([CalibrateJob(name="calibrate", backbone=backbone, threads=threads, output=target)]))
        self._weights[wanted] = replace(weights, kind="file", path=target, sha256=file_sha256(target))

    def _run(self, jobs: Sequence[AnyJob]) -> Answered[AnyJob]:
        """Run jobs without handling events."""
        return self._executor.run(jobs, lambda *_: None, lambda: None)


def resolve_precision(wanted: str, devices: Devices) -> str:
    """The precision to compute in; `auto` means bfloat16 on devices that all compute in it, float32 on others."""
    if wanted != "auto":
        return wanted
    return "bfloat16" if devices.bfloat16 else "float32"


def _wanted_weights(experiment: Experiment) -> list[tuple[str, str]]:
    """The backbones of an experiment, and which weights each has to have. Raises `UserError`."""
    names, weights = experiment.model.backbones, experiment.model.weights
    each = [weights] * len(names)
    if weights.startswith(BY_SHA256):
        each = [BY_SHA256 + one for one in weights.removeprefix(BY_SHA256).split(JOIN)]
    if len(each) != len(names):
        raise expected("weights", f"a sha256 for each of {', '.join(names)}, with + between", f"'{weights}'")
    return list(zip(names, each, strict=True))


def _without_head(network: Network) -> Network:
    """The network with default values of the parameters that do not change its layer cuts, those of the head."""
    return replace(network, model=ModelSpec(**{name: getattr(network.model, name) for name in that_move("cut")}))


def _network(experiment: Experiment, patch_set: PatchSet) -> Network:
    """The network of an experiment on patches of this data set."""
    return Network(
        family=experiment.family,
        model=experiment.model,
        image_size=patch_set.image_size,
        precision=experiment.training.precision,
        sides=tuple(experiment.sides),
    )


def _keyed(experiment: Experiment) -> Experiment:
    """The experiment as keys hash it: parameters that cannot change its results are set to fixed values.

    These are the way in which weights are named (their identity is hashed instead), the fine-tuning of a frozen model,
    what an absent early stopping watches, and the momentum of an optimizer without one.
    """
    known = parameters(experiment.family)
    unused = {item.name: item.default for item in known if not item.metadata["users"].counts(experiment)}
    return experiment.changed(**unused, **dict.fromkeys(that_move("source", family=experiment.family), ""))


def _build_plan(
    experiment: Experiment,
    patch_set: PatchSet,
    weights: NetworkWeights,
    folds: np.ndarray,
    description: Description,
    devices: Devices,
    base_models: BaseModels | None = None,
) -> Plan:
    """Make a plan: the rows, seed, key and job of each fit. Raises `UserError` where a fit has no training rows."""
    network, train = _network(experiment, patch_set), patch_set.train
    training, final = experiment.training, experiment.final
    facts = {"data": patch_set.train_sha256, "weights": weights.identity, **devices.facts}
    facts["folds"] = folds_sha256(folds)
    keyed, labels, everything = _keyed(experiment), _labels(experiment, train.types), np.arange(len(folds))
    features, tuned = frozen_activations(experiment, patch_set, network, weights, description, devices)
    places = other_views(train) if OTHER_VIEW in experiment.sides else {}
    fits = []
    for fold in [*range(folds.max() + 1), *([None] if final.final == REFIT else [])]:
        name = REFIT if fold is None else f"fold {fold + 1}"
        seed = int(np.random.SeedSequence([experiment.cv.seed, 0 if fold is None else fold + 1]).generate_state(1)[0])
        rows = everything if fold is None else everything[folds != fold]
        held_out = inner = np.zeros(0, int)
        if fold is not None:
            held_out = everything[folds == fold]
            if experiment.stops_on_scored:
                inner = held_out
            elif training.early_stop:
                rows, inner = inner_holdout(
                    rows,
                    train.types,
                    train.patient_ids,
                    experiment.task,
                    seed=seed,
                    duplicate_groups=patch_set.train_duplicates,
                )
        if len(rows) == 0:
            raise UserError(f"folds: expected training patches for {name}, found none")
        length = final.final_epochs if fold is None else 0
        job = FitJob(
            name=name,
            experiment=experiment,
            network=network,
            weights=weights,
            tensor=patch_set.directory / "train_tensor.npy",
            labels=labels,
            train_rows=rows,
            validation_rows=held_out,
            inner_rows=inner,
            epochs=length or training.epochs,
            tuning_epochs=training.tuning_epochs,
            seed=seed,
            description=description,
            on_card=devices.kind == "gpu",
            constants={} if base_models is None else base_models.constants(train.types),
            places=places,
        )
        key = keyed.key("model", "training", "cv", **facts, fold=fold, final_epochs=length)
        if base_models is not None:
            features = {FEATURES: base_models.features.features(name, experiment, devices)}
        fits.append(Fit(name=name, fold=fold, key=key, job=job, features=features, tuned=tuned))
    return Plan(
        experiment=experiment,
        patch_set=patch_set,
        network=network,
        weights=weights,
        description=description,
        folds=folds,
        labels=labels,
        fits=tuple(fits),
        key=keyed.key("model", "training", "cv", "final", **facts, test=patch_set.test_sha256),
        devices=devices,
        base=None if base_models is None else base_models.parts,
    )


def _labels(experiment: Experiment, types: np.ndarray) -> np.ndarray:
    """The target of each training abnormality, float32 (n,); permuted in the control `shuffled`."""
    labels = targets(types, experiment.task).astype(np.float32)
    if experiment.cv.control == "shuffled":
        return np.random.default_rng([experiment.cv.seed, len(labels)]).permutation(labels)
    return labels
