"""Train fits by compiled programs: heads on stored features all at once, other networks one after another."""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import keras
import numpy as np

from mammo_mlflow.engine.compiled.feed import Feed, Selection, data_bytes, is_stored, picker
from mammo_mlflow.engine.compiled.memory import FAILURES, card_memory_bytes, is_out_of_memory
from mammo_mlflow.engine.compiled.optimizer import decays_weights
from mammo_mlflow.engine.compiled.outputs import Outputs
from mammo_mlflow.engine.compiled.program import PROGRAMS, Program, State, Steps, keep_share
from mammo_mlflow.engine.compiled.resident import RESIDENT
from mammo_mlflow.engine.compiled.weights import Variables, VectorDropout, write_weights
from mammo_mlflow.engine.contract import (
    EVALUATION_BATCH,
    History,
    StageFit,
    Trained,
    class_weights,
    private_memory_bytes,
)
from mammo_mlflow.engine.inputs import ModelInput, Reader
from mammo_mlflow.engine.keras_fit import KerasEngine
from mammo_mlflow.engine.losses import mean_loss, smoothed
from mammo_mlflow.errors import UserError, expected
from mammo_mlflow.jobs.contracts import EpochDone
from mammo_mlflow.models.network import convolves
from mammo_mlflow.models.tensors import Tensor

COPIES = 6
"""How many arrays of a head's size lie on the card: weights, gradients, two moments, the best weights, a copy."""
FEWEST, FILLED_BYTES = 128, 2**30
"""The fewest heads that a program is made for on a card, where the number that is to come is known; fewer where these
would take more memory than that: so many small heads take a card as long for a step as one, large ones do not."""
DATA_SHARE = 0.8
"""The share of the memory that data may take."""
Outcome = tuple[int, Trained | UserError]


class CompiledEngine:
    """Trains fits by compiled programs, which all of its stages share; see `contract.Engine`.

    `memory` is the number of bytes of the card that it may take, 0 for any; `notice` tells a user what to know.
    `on_card`: programs are made for more heads and wider ones than there are, since there compilation takes longer.
    """

    def __init__(self, memory: int, notice: Callable[[str], None], on_card: bool = False) -> None:
        self._memory, self._notice, self._on_card = memory, notice, on_card

    def train(self, fits: Sequence[StageFit], size: int = 0) -> Iterator[Outcome]:
        """Train fits, of heads as many at once as fit the memory; see `contract.Engine`."""
        most = max(data_bytes([fit.batches.read]) for fit in fits)
        if self._memory and most > DATA_SHARE * self._memory:
            self._notice(
                "the data do not fit the card beside a network: batches come from the host, which takes longer"
            )
            yield from KerasEngine().train(fits)
            return
        many = is_head(fits[0])
        fits = [replace(fit, emit=_Once(fit.emit)) for fit in fits]
        kinds = [(fit.batches.size, fit.spec.loss, decays_weights(fit.spec)) for fit in fits]
        for kind in dict.fromkeys(kinds):
            alike = {place: fit for place, fit in enumerate(fits) if kinds[place] == kind}
            yield from self._train_in_turns(alike, many, size if many else 0)

    def outputs(
        self, network: keras.Model, reader: Reader[ModelInput], patches: int, views: int
    ) -> Iterator[np.ndarray]:
        """Yield a network's outputs, and keep them on the card where there is room; see `contract.Engine`."""
        self._outputs = Outputs(network, reader, self._memory, self._notice)
        return self._outputs.blocks(patches, views)

    def written(self, path: Path) -> None:
        """Keep the outputs on the card for the jobs that read the file; see `contract.Engine`."""
        self._outputs.keep(path)

    def _train_in_turns(self, waiting: dict[int, StageFit], many: bool, size: int) -> Iterator[Outcome]:
        """Train fits in groups that fit the memory; smaller ones where the card has less than it said.

        With a `size`, all groups are filled up to one number.
        """
        at_once = self._fitting(list(waiting.values()), size) if many else 1
        tried_alone = False
        while waiting:
            places = list(waiting)[:at_once]
            number = at_once if size else len(places)
            try:
                for index, outcome in self._train_group([waiting[place] for place in places], many, number):
                    del waiting[places[index]]
                    yield places[index], outcome
            except FAILURES as problem:
                if not is_out_of_memory(problem):
                    raise
            else:
                tried_alone = False
                continue
            RESIDENT.clear()
            PROGRAMS.clear()
            gc.collect()  # the error held the group's arrays
            if tried_alone:
                del waiting[places[0]]
                wanted = "room on the card for one such fit"
                yield places[0], expected("devices", wanted, "none; a smaller batch_size needs less")
            elif number > 1:
                at_once = number // 2
                self._notice(f"out of memory with {number} heads at once: {at_once} from now on")
            tried_alone = number == 1 and not tried_alone

    def _fitting(self, heads: Sequence[StageFit], size: int) -> int:
        """How many heads are trained at once: as many as fit the memory, at least 1, beside their data; it is told."""
        first = heads[0]
        network = self._program(first, many=True).network
        features = math.prod(network.inputs[0].shape[1:])
        one = 4 * (COPIES * network.count_params() + 3 * features * max(first.batches.size, EVALUATION_BATCH))
        room = self._memory - data_bytes([fit.batches.read for fit in heads])
        wanted = max(len(heads), size)
        if size and self._on_card:
            small = FILLED_BYTES // one
            wanted = max(FEWEST, 1 << (wanted - 1).bit_length()) if small >= FEWEST else max(wanted, small)
        most = max(1, room // one) if self._memory else wanted
        at_once = -(-wanted // -(-wanted // most))  # groups of one size share a program
        if at_once < wanted and size and self._on_card:
            at_once = 1 << (most.bit_length() - 1)
        if at_once < len(heads):
            self._notice(f"{len(heads)} heads take turns, {at_once} at once: each needs {one / 1e6:.2g} MB")
        elif len(heads) > 1:
            self._notice(f"{len(heads)} heads are trained at once")
        return at_once

    def _program(self, fit: StageFit, many: bool) -> Program:
        """The program of a fit's stage: the one of an earlier job, where it is still there."""

        def make() -> Program:
            network = fit.rebuild(VectorDropout, self._on_card) if many and fit.rebuild else fit.network
            return Program(network, picker(fit.batches.read), many, fit.spec.loss)

        whose = self if fit.program is None else fit.program
        return PROGRAMS.get((whose, fit.stage.name, many, self._on_card, fit.spec.loss), make)

    def _train_group(self, fits: Sequence[StageFit], many: bool, number: int) -> Iterator[Outcome]:
        """Train fits at once, or a single one; yield the index of each as it ends.

        The program gets `number` heads: copies of the first take the places that are left, and nobody asks for them.
        """
        started = time.perf_counter()
        feed = Feed([fit.batches.read for fit in fits])
        program = self._program(fits[0], many)
        courses, open_ones = [_Course(fit) for fit in fits], list(range(len(fits)))
        filled = [*range(len(fits)), *[0] * (number - len(fits))]
        sources = jax.device_put(feed.sources[filled] if many else feed.sources[0])
        held_out, batches = _draw_held_out(fits, feed, many, filled)
        state, kept = program.start([fits[index] for index in filled]), None
        steps, count = _draw_steps(fits, feed, 0, many, filled)
        epochs = max(fit.stage.epochs for fit in fits)
        for epoch in range(epochs):
            taken = steps, count
            state, sums = program.epoch(state, feed.data, sources, *taken)
            found = program.predict(state.weights, feed.data, sources, held_out, batches) if batches else None
            if epoch + 1 < epochs:
                steps, count = _draw_steps(fits, feed, epoch + 1, many, filled)  # while the card is at work
            losses, accuracies = (np.atleast_1d(one) for one in sums)
            answers, memory = _by_fit(found, number), private_memory_bytes()
            for index, course in enumerate(courses):
                if course.running:
                    course.take(epoch, float(losses[index]), float(accuracies[index]), answers[index], memory)
            if any(fit.patience or fit.averages for fit in fits):
                kept = _keep(kept, state, np.array([courses[index].share for index in filled], np.float32), many)
            ended = [index for index in open_ones if not courses[index].running]
            held = averaged = state.weights if kept is None else kept
            if any(fits[index].averages for index in ended):
                averaged = program.measured(held, feed.data, sources, *taken)
                found = program.predict(averaged, feed.data, sources, held_out, batches) if batches else None
                answers = _by_fit(found, number)
            if len(ended) == len(open_ones) and 2 * len(ended) >= number:
                # at once: a thousand networks have some thousand arrays
                held, averaged = jax.device_get((held, averaged))
            share = (time.perf_counter() - started) / len(fits)
            for index in ended:
                open_ones.remove(index)
                own = averaged if fits[index].averages else held
                own = jax.device_get(jax.tree.map(lambda array, at=index: array[at], own) if many else own)
                yield index, courses[index].end(program.network, own, answers[index], share)
            if not open_ones:
                return


def make(memory: int, notice: Callable[[str], None]) -> CompiledEngine:
    """Make the engine; see `contract.make_engine`."""
    return CompiledEngine(memory, notice, on_card=jax.default_backend() == "gpu")


def is_head(fit: StageFit) -> bool:
    """Whether a fit is a head on stored features, small enough to be trained beside hundreds of others."""
    return is_stored(fit.batches.read) and not convolves(fit.network)


class _Once:
    """Sends each epoch of a fit once, also where the fit is begun anew with fewer beside it."""

    def __init__(self, emit: Callable[[EpochDone], object]) -> None:
        self._emit, self._last = emit, 0

    def __call__(self, event: EpochDone) -> None:
        if event.epoch > self._last:
            self._last = event.epoch
            self._emit(event)


class _Course:
    """The course of a fit's training: its history, the epoch that is kept, and when it is over.

    `share`: that of the last epoch's weights in those to keep. Early stopping is Keras's: it waits `patience` epochs.
    """

    def __init__(self, fit: StageFit) -> None:
        self.fit = fit
        self.running, self.share = True, 0.0
        self.error: UserError | None = None
        self._history: History = []
        self._kept, self._least, self._waited = 0, math.inf, 0
        self._probabilities = np.zeros(0, np.float64)
        self._memory = 0

    def take(
        self, epoch: int, loss: float, accuracy: float, answers: tuple[np.ndarray, float] | None, memory: int
    ) -> None:
        """Take an epoch: sums over its steps, the probabilities of the held-out rows with the penalties, memory."""
        fit, steps = self.fit, len(self.fit.batches)
        metrics = {"accuracy": accuracy / steps, "loss": loss / steps}
        inner = math.nan
        probabilities = np.zeros(0)
        if answers is not None:
            said, penalties = answers
            labels, validated = fit.batches.labels, len(fit.validation_rows)
            probabilities = said[:validated]
            if validated:
                right = (probabilities > 0.5) == (labels[fit.validation_rows] > 0.5)
                metrics["val_accuracy"] = float(right.mean())
                metrics["val_loss"] = mean_loss(fit.spec, probabilities, labels[fit.validation_rows]) + penalties
            if len(fit.inner_rows):
                inner = mean_loss(fit.spec, said[validated:][: len(fit.inner_rows)], labels[fit.inner_rows]) + penalties
                metrics["inner_loss"] = inner
        self._memory = max(self._memory, memory)
        try:
            fit.report(epoch, metrics, self._history)
        except UserError as problem:
            self.error, self.running, self.share = problem, False, 0.0
            return
        self._waited += 1
        lower = inner < self._least
        better = not fit.patience or lower or epoch == 0
        self.share = fit.share(epoch) if fit.averages else float(better)
        if lower:
            self._least, self._waited = inner, 0
        if better:
            self._kept, self._probabilities = epoch + 1, probabilities.astype(np.float64)
        self.running = epoch + 1 < fit.stage.epochs and (better or self._waited < fit.patience)

    def end(
        self, traced: keras.Model, weights: Variables, answers: tuple[np.ndarray, float] | None, seconds: float
    ) -> Trained | UserError:
        """Give the network its weights, of those of the traced one, and say what came of it in its share of seconds.

        `answers` are the last ones about the held-out rows.
        """
        if self.error is not None:
            return self.error
        if self.fit.averages and answers is not None:
            self._probabilities = answers[0][: len(self.fit.validation_rows)].astype(np.float64)
        write_weights(traced, self.fit.network, weights)
        return Trained(
            history=self._history,
            kept=self._kept,
            seconds=seconds,
            memory=self._memory,
            card_memory=card_memory_bytes(),
            predict=lambda: self._probabilities,
        )


def _draw_steps(
    fits: Sequence[StageFit], feed: Feed, epoch: int, many: bool, filled: Sequence[int]
) -> tuple[Steps, int]:
    """The steps of an epoch, and the number of those that any fit takes; one whose epochs are over takes none.

    They are as many as all rows would give, so that one program fits every fold. `filled` has the index of the fit in
    each place of the program.
    """
    whole = max(len(fit.batches.labels) // fit.batches.size for fit in fits)
    taken = [len(fit.batches) if epoch < fit.stage.epochs else 0 for fit in fits]

    def of_fit(index: int) -> Steps:
        batches, spec = fits[index].batches, fits[index].spec
        rows, views = (_fill(drawn, whole) for drawn in batches.draw(epoch))
        labels = batches.labels[rows].astype(np.float32)
        weights = class_weights(spec.class_weights, batches.labels[batches.rows]) or {0: 1.0, 1: 1.0}
        importance = np.where(labels > 0.5, weights[1], weights[0]).astype(np.float32)
        rate = np.zeros(whole, np.float32)
        if taken[index]:
            rate[: taken[index]] = fits[index].rates[epoch]
        return Steps(
            drawn=feed.draw(index, rows, views),
            labels=smoothed(labels, spec.label_smoothing).astype(np.float32),
            importance=importance,
            rate=rate,
            gamma=np.full(whole, spec.focal_gamma, np.float32),
            taken=np.arange(whole) < taken[index],
        )

    each = [of_fit(index) for index in range(len(fits))]
    return _stack([each[index] for index in filled], many), max(taken)


def _draw_held_out(fits: Sequence[StageFit], feed: Feed, many: bool, filled: Sequence[int]) -> tuple[Selection, int]:
    """The rows that fits are scored on, validation then inner, in batches; how many of these have any."""
    whole = -(-len(fits[0].batches.labels) // EVALUATION_BATCH)

    def of_fit(index: int) -> Selection:
        rows = np.zeros(2 * whole * EVALUATION_BATCH, int)
        wanted = np.concatenate([fits[index].validation_rows, fits[index].inner_rows]).astype(int)
        rows[: len(wanted)] = wanted
        return feed.draw(index, rows.reshape(-1, EVALUATION_BATCH), None)

    most = max(len(fit.validation_rows) + len(fit.inner_rows) for fit in fits)
    each = [of_fit(index) for index in range(len(fits))]
    return _stack([each[index] for index in filled], many), -(-most // EVALUATION_BATCH)


def _stack(each: Sequence[Steps | Selection], many: bool) -> Tensor:
    """Arrays of fits on the card, with the fits on the second axis; of a single one as they are.

    They are put there, since `jnp.asarray` compiles a program for each shape.
    """
    if not many:
        return jax.device_put(each[0])
    return jax.device_put(jax.tree.map(lambda *arrays: np.stack(arrays, axis=1), *each))


def _fill(array: np.ndarray, length: int) -> np.ndarray:
    """The array with repeated first entries at its end, so that it has `length`."""
    return array if len(array) >= length else np.concatenate([array, np.repeat(array[:1], length - len(array), axis=0)])


def _by_fit(found: tuple[Tensor, Tensor] | None, fits: int) -> list[tuple[np.ndarray, float] | None]:
    """The probabilities of the held-out rows and the penalties of each fit."""
    if found is None:
        return [None] * fits
    answers, penalties = np.asarray(found[0]), np.atleast_1d(found[1])
    each = answers.reshape(len(answers), fits, EVALUATION_BATCH).swapaxes(0, 1).reshape(fits, -1)
    return [(one, float(penalty)) for one, penalty in zip(each, penalties, strict=True)]


def _keep(kept: Variables | None, state: State, shares: np.ndarray, many: bool) -> Variables:
    """The weights that are kept of each fit until now: the best ones, or the mean of the last epochs'."""
    if kept is None or (not many and shares[0] == 1):
        return jax.tree.map(jnp.copy, state.weights)  # the next epoch takes the place of those of the state
    return keep_share(jax.device_put(shares if many else shares[0]), kept, state.weights)
