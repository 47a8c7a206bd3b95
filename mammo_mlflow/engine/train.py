"""Train fits, folds or refits, in a worker process: first the head, then the last convolutions with it.

A network without frozen layers is trained in one stage, from raw patches.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property, partial

import keras
import numpy as np

from mammo_mlflow.engine.activations import network_encoder
from mammo_mlflow.engine.backend import fast_batch_norm, set_threads
from mammo_mlflow.engine.batches import Batches
from mammo_mlflow.engine.contract import (
    Engine,
    History,
    Stage,
    StageFit,
    Trained,
    divergence_error,
    make_engine,
    notify,
    private_memory_bytes,
)
from mammo_mlflow.engine.inputs import ModelInput, PatchReader, Reader, combine_readers, stored_reader
from mammo_mlflow.engine.views import mean_over_views
from mammo_mlflow.errors import UserError
from mammo_mlflow.experiment import BASELINE
from mammo_mlflow.jobs.contracts import Emit, EpochDone, FitJob, FitResult, FitsJob, FitsProgress, Happened, StepsDone
from mammo_mlflow.jobs.failure import Failure
from mammo_mlflow.models.conditioned import build_conditioned
from mammo_mlflow.models.joined import build_joined
from mammo_mlflow.models.network import build_head, build_tail, build_whole, load_weights, suffix, unfreeze
from mammo_mlflow.names import Artifact

REPORT_SECONDS = 1.0
"""The least seconds between two reports of a job of several fits, which may all end an epoch at the same time."""


def train_fit(job: FitJob, emit: Emit) -> FitResult:
    """Train a fit, predict its validation rows, save its tail below `job.output`; emits `EpochDone` for each epoch.

    Raises `UserError` where loss or predictions are not finite.
    """
    emit(StepsDone(0, job.total_epochs))
    engine = make_engine(0, lambda text: notify(emit, text))
    ((_, answer),) = _train_all((job,), lambda _, event: emit(event), engine)
    if isinstance(answer, UserError):
        raise answer
    return answer


def train_fits(job: FitsJob, emit: Emit) -> None:
    """Train several fits, each as `train_fit` does; emits their events and answers as `FitsProgress`."""
    report = _ProgressReport(emit)
    for place, fit in enumerate(job.fits):
        report.add(place, StepsDone(0, fit.total_epochs))
    engine = make_engine(job.memory, lambda text: notify(emit, text))
    if len(job.fits) > 1 and (not job.fits[0].features or job.fits[0].experiment.model.unfrozen_layers):
        notify(emit, f"{len(job.fits)} fits take turns where convolutions are trained")
    for place, answer in _train_all(job.fits, report.add, engine, job.size):
        report.add(place, Failure(str(answer), user=True) if isinstance(answer, UserError) else answer)
    report.send()


class _ProgressReport:
    """Collects what happens to the fits of a job, and sends it at most once in `REPORT_SECONDS`."""

    def __init__(self, emit: Emit) -> None:
        self._emit, self._sent = emit, 0.0
        self._happened: list[tuple[int, Happened]] = []

    def add(self, place: int, what: Happened) -> None:
        """Add an event or the answer of the fit at a place."""
        self._happened.append((place, what))
        if time.monotonic() - self._sent >= REPORT_SECONDS:
            self.send()

    def send(self) -> None:
        """Send what has happened since the last time."""
        if self._happened:
            self._emit(FitsProgress(tuple(self._happened)))
        self._happened, self._sent = [], time.monotonic()


def _train_all(
    jobs: Sequence[FitJob], emit: Callable[[int, EpochDone], object], engine: Engine, size: int = 0
) -> Iterator[tuple[int, FitResult | UserError]]:
    """Train fits; yield the place of each, as it ends, with its result or with the error that ended it.

    The engine gets the heads on stored features all at once. Networks with trained convolutions, which take memory,
    are built and trained one after another.
    """
    numbered = list(enumerate(jobs))
    for group in [numbered] if jobs[0].features else [[one] for one in numbered]:
        fits = {place: _FitInTraining(job, partial(emit, place)) for place, job in group}
        yield from _train_stage(fits, engine, size)
        for place, fit in list(fits.items()):  # those with a stage left
            yield from _train_stage({place: fit}, engine)


def _train_stage(
    fits: dict[int, _FitInTraining], engine: Engine, size: int = 0
) -> Iterator[tuple[int, FitResult | UserError]]:
    """Train the next stage of fits; those that have ended leave `fits`, and are yielded with place and answer."""
    places = list(fits)
    for index, trained in engine.train([fit.next_stage() for fit in fits.values()], size):
        place = places[index]
        try:
            answer = trained if isinstance(trained, UserError) else fits[place].take(trained)
        except UserError as problem:
            answer = problem
        if answer is not None:
            del fits[place]
            yield place, answer


class _FitInTraining:
    """A fit between its stages: what has come of it so far. `seconds` of its result leave out those of other fits."""

    def __init__(self, job: FitJob, emit: Callable[[EpochDone], object]) -> None:
        started = time.perf_counter()
        self._job, self._emit = job, emit
        set_threads(job.experiment.training.threads)
        keras.utils.set_random_seed(job.seed)
        self._network = _FitNetwork(job)
        self._stages = _stages(job)
        self._history: History = []
        self._kept: dict[str, int] = {}
        self._memory, self._card_memory = private_memory_bytes(), 0
        self._training_seconds, self._seconds = 0.0, time.perf_counter() - started

    def next_stage(self) -> StageFit:
        """The fit as the engine takes it for its next stage."""
        started = time.perf_counter()
        job, training, number = self._job, self._job.experiment.training, len(self._kept)
        stage = self._stages[number]
        self._model, read = self._network.stage(stage.name)
        on_line = not job.features
        independent = job.experiment.family == "siamese" and training.pair_augmentation == "independent"
        batches = Batches(
            read,
            job.train_rows,
            job.labels,
            training.batch_size,
            None if on_line else training.views,
            [job.seed, number],
            columns=2 if independent and not on_line else 1,
        )
        self._seconds += time.perf_counter() - started
        return StageFit(
            network=self._model,
            batches=batches,
            spec=training,
            stage=stage,
            validation_rows=job.validation_rows,
            inner_rows=job.inner_rows,
            start=len(self._history),
            emit=self._emit,
            rebuild=self._network.rebuild if job.features and stage.name == "head" else None,
            program=job.program,
        )

    def take(self, trained: Trained) -> FitResult | None:
        """Take what came of a stage; return the fit's result after the last one, else None.

        Raises `UserError` where predictions are not finite.
        """
        self._history += trained.history
        self._kept[self._stages[len(self._kept)].name] = trained.kept
        self._memory = max(self._memory, trained.memory)
        self._card_memory = max(self._card_memory, trained.card_memory)
        self._training_seconds += trained.seconds
        if len(self._kept) < len(self._stages):
            return None
        started = time.perf_counter()
        probabilities = trained.predict()
        if not np.isfinite(probabilities).all():
            raise divergence_error("predictions that are not numbers after the last epoch")
        job, tail = self._job, self._network.tail(self._model)
        over_views, asked = None, time.perf_counter()
        if job.over_views:
            views = job.experiment.training.views
            over_views = mean_over_views(tail, stored_reader(job, job.features, views), job.validation_rows, views)
        views_seconds = time.perf_counter() - asked
        path = job.output / Artifact.TAIL
        tail.save(path)
        return FitResult(
            probabilities=probabilities,
            over_views=over_views,
            views_seconds=views_seconds,
            history=self._history,
            best_epochs=self._kept,
            seconds=self._seconds + self._training_seconds + time.perf_counter() - started,
            peak_memory=max(self._memory, private_memory_bytes()),
            card_memory=self._card_memory,
            tail=path,
            training_seconds=self._training_seconds,
        )


def _stages(job: FitJob) -> list[Stage]:
    """The stages of a fit, in order."""
    training = job.experiment.training
    first = Stage("network" if job.experiment.trained_whole else "head", job.epochs, training.learning_rate)
    if not job.experiment.model.unfrozen_layers:  # also where the whole network is trained
        return [first]
    return [first, Stage("tuned", job.tuning_epochs, training.tuning_learning_rate)]


class _FitNetwork:
    """The network of a fit during its training: all stages share one head, and one encoder where there is one."""

    def __init__(self, job: FitJob) -> None:
        self._job, self._spec = job, job.experiment.model
        self._head = build_head(job.description.head, self._spec)

    def stage(self, name: str) -> tuple[keras.Model, Reader[ModelInput]]:
        """The model that a stage trains, and the reader of its inputs."""
        job, spec, sides = self._job, self._spec, self._job.network.sides
        if name == "tuned":
            self._head = _uncompiled(self._head)
        if job.features and name == "head":
            return self._on_features(self._head), stored_reader(job, job.features, job.experiment.training.views)
        base = self._encoder
        if name == "tuned":
            unfreeze(base, spec.unfrozen_layers)
        if job.features:
            return self._tail(base), stored_reader(job, job.tuned, job.experiment.training.views)
        return build_whole(base, self._head, sides, spec.difference), _patch_reader(job)

    def rebuild(self, dropout: type[keras.Layer], filled: bool) -> keras.Model:
        """The network of the stage `head` anew, for a program of many; see `StageFit`."""
        spec = self._spec.filled if filled else self._spec
        return self._on_features(build_head(self._job.description.head, spec, dropout))

    def tail(self, model: keras.Model) -> keras.Model:
        """The trained tail, not compiled and of Keras's own layers, for `join_tails`."""
        if self._job.features:
            return _uncompiled(model)
        base = self._encoder
        if self._job.experiment.trained_whole:
            kept = network_encoder(self._job.network)
            kept.set_weights(base.get_weights())
            base = kept
        self._head = _uncompiled(self._head)
        return self._tail(base)

    def _on_features(self, head: keras.Model) -> keras.Model:
        """A head on stored features, on those of several backbones, or on features and a condition."""
        job, shape = self._job, self._job.description.features.shape
        if job.experiment.family == "conditioned":
            return build_conditioned(shape, head)
        if joined := job.description.joined:
            shapes = [one.features.shape for one in joined]
            return build_joined(dict(zip(self._spec.backbones, shapes, strict=True)), head)
        return build_tail(None, head, job.network.sides, self._spec.difference, shape)

    def _tail(self, base: keras.Model) -> keras.Model:
        """The head behind the trained layers of an encoder."""
        job = self._job
        trained, shape = suffix(base, job.description.trained.index), job.description.features.shape
        return build_tail(trained, self._head, job.network.sides, self._spec.difference, shape)

    @cached_property
    def _encoder(self) -> keras.Model:
        """The encoder, with its weights; one for all stages."""
        base = network_encoder(self._job.network, fast_batch_norm())
        load_weights(base, self._job.weights)
        return base


def _uncompiled(model: keras.Model) -> keras.Model:
    """The same layers as a model that is not compiled, so that no optimizer is saved with it."""
    return keras.Model(model.input, model.output, name=model.name)


def _patch_reader(job: FitJob) -> Reader[ModelInput]:
    """The reader of patches of each side, for on-line training."""
    training, seed = job.experiment.training, job.experiment.cv.seed
    own = training.pair_augmentation == "independent"
    return combine_readers(
        {
            side: PatchReader(
                job.tensor, first, training.augmentation, seed, own and side == BASELINE, job.places.get(side)
            )
            for side, first in job.experiment.sides.items()
        }
    )
