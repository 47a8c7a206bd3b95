"""The tests that every engine passes: subclass `EngineContract` with a fixture `engine`.

What an engine gives is compared with training by hand: a logistic regression in NumPy, and Keras's own steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from mammo_mlflow.engine.batches import Batches
from mammo_mlflow.engine.contract import Engine, Stage, StageFit, Trained, class_weights
from mammo_mlflow.engine.inputs import (
    CombinedReader,
    ModelInput,
    NumberReader,
    PatchReader,
    Reader,
    StoredActivations,
    all_views,
)
from mammo_mlflow.errors import UserError
from mammo_mlflow.experiment import TrainingSpec
from mammo_mlflow.jobs.contracts import EpochDone

PATCHES, VIEWS, FEATURES, SIZE = 60, 3, 6, 12
"""Of the stored activations and of the tensor file: patches, augmented views, features, pixels of a side."""
LABELS = (np.arange(PATCHES) % 2).astype(np.float32)
TRAINED, HELD_OUT, INNER = np.arange(40), np.arange(40, 52), np.arange(52, 59)
BROKEN = PATCHES - 1
"""A row whose stored activations are not numbers."""
EQUAL = 2e-5
"""By how much predictions of the same training may differ: rounding in float32 over some epochs."""


def stored_activations(folder: Path, shape: tuple[int, ...] = (FEATURES,), seed: int = 0) -> Path:
    """Write activations, float32 (patches, views + 1, ...), from which labels can be told; return the file."""
    rng = np.random.default_rng(seed)
    made = rng.normal(size=(PATCHES, VIEWS + 1, *shape)).astype(np.float32)
    made[..., 0] += 0.7 * (2 * LABELS - 1).reshape(-1, *[1] * (made.ndim - 2))
    made[BROKEN] = np.nan
    path = folder / f"activations-{'x'.join(map(str, shape))}-{seed}.npy"
    np.save(path, made)
    return path


def tensor_file(folder: Path) -> Path:
    """Write a tensor file of baselines and patches, uint16 (2 x patches, size, size); patches of class 1 are bright."""
    rng = np.random.default_rng(0)
    made = rng.integers(0, 30_000, (2 * PATCHES, SIZE, SIZE))
    made[1::2] += (15_000 * LABELS[:, None, None]).astype(int)
    path = folder / "tensor.npy"
    np.save(path, made.astype(np.uint16))
    return path


def head(seed: int = 0, hidden: int = 0) -> keras.Model:
    """Build a head on the stored features, with `hidden` units between."""
    keras.utils.set_random_seed(seed)
    middle = [keras.layers.Dense(hidden, activation="relu")] if hidden else []
    return chain((FEATURES,), *middle, keras.layers.Dense(1, activation="sigmoid"))


def deep(seed: int) -> keras.Model:
    """Build a head of linear layers, whose answers overflow where its weights do."""
    keras.utils.set_random_seed(seed)
    return chain((FEATURES,), *(keras.layers.Dense(4) for _ in range(2)), keras.layers.Dense(1, activation="sigmoid"))


def chain(shape: tuple[int, ...], *layers: keras.Layer) -> keras.Model:
    """Build a network of layers one behind another."""
    tensor = first = keras.Input(shape)
    for layer in layers:
        tensor = layer(tensor)
    return keras.Model(first, tensor)


def convolutional(seed: int = 0) -> keras.Model:
    """Build a network on raw patches, with batch normalisation."""
    keras.utils.set_random_seed(seed)
    return chain(
        (SIZE, SIZE, 1),
        keras.layers.Rescaling(1 / 30_000),
        keras.layers.Conv2D(3, 3, activation="relu"),
        keras.layers.BatchNormalization(momentum=0.8),
        keras.layers.GlobalAveragePooling2D(),
        keras.layers.Dense(1, activation="sigmoid"),
    )


def of_two_inputs() -> keras.Model:
    """Build a network that takes the features and a number, by name."""
    features, condition = keras.Input((FEATURES,), name="features"), keras.Input((1,), name="condition")
    joined = keras.layers.Concatenate()([features, condition])
    answer = keras.layers.Dense(1, activation="sigmoid")(joined)
    return keras.Model({"features": features, "condition": condition}, answer)


def stage_fit(
    network: keras.Model,
    reader: Reader[Any],
    *,
    rows: np.ndarray = TRAINED,
    labels: np.ndarray = LABELS,
    seed: int = 0,
    batch: int = 8,
    epochs: int = 3,
    rate: float = 0.05,
    on_line: bool = False,
    **changes: Any,
) -> StageFit:
    """Make a fit by SGD; `changes` are other fields of it and of its `TrainingSpec`."""
    own = {name: changes.pop(name) for name in tuple(changes) if name in StageFit.__dataclass_fields__}
    settings = {"optimizer": "sgd", "momentum": 0.0, **changes}
    made = StageFit(
        network=network,
        batches=Batches(reader, rows, labels, batch, None if on_line else VIEWS, [seed, 0]),
        spec=TrainingSpec(**settings),
        stage=Stage("network" if on_line else "head", epochs, rate),
        validation_rows=HELD_OUT,
        inner_rows=INNER[:0],
        start=0,
        emit=lambda event: None,
    )
    return replace(made, **own)


def trained(engine: Engine, *fits: StageFit) -> list[Trained]:
    """Train fits, all of which end well."""
    found = dict(engine.train(fits))
    assert sorted(found) == list(range(len(fits)))
    assert not [one for one in found.values() if isinstance(one, UserError)]
    return [found[place] for place in range(len(fits))]  # type: ignore[misc]


def by_hand(fit: StageFit, weights: Sequence[np.ndarray], backwards: bool = False) -> list[np.ndarray]:
    """Train a logistic regression in NumPy, in the order and the views of `Batches.draw`, or another order."""
    kernel, bias = (one.astype(np.float64) for one in weights)
    labels = fit.batches.labels
    ratio = class_weights(fit.spec.class_weights, labels[fit.batches.rows]) or {0: 1.0, 1: 1.0}
    for epoch in range(fit.stage.epochs):
        steps = list(zip(*fit.batches.draw(epoch), strict=True))
        for rows, views in steps[::-1] if backwards else steps:
            inputs = np.asarray(fit.batches.read(rows, views), np.float64)
            said = 1 / (1 + np.exp(-(inputs @ kernel + bias)))[:, 0]
            error = (said - labels[rows]) * np.where(labels[rows] > 0.5, ratio[1], ratio[0]) / len(rows)
            kernel -= fit.stage.learning_rate * (inputs.T @ error)[:, None]
            bias -= fit.stage.learning_rate * error.sum()
    return [kernel, bias]


def step_by_step(fit: StageFit, network: keras.Model) -> keras.Model:
    """Train another network of the same weights by Keras's steps, one batch of `Batches.draw` after another."""
    network.set_weights(fit.network.get_weights())
    network.compile(keras.optimizers.SGD(fit.stage.learning_rate), loss="binary_crossentropy")
    for epoch in range(fit.stage.epochs):
        for rows, views in zip(*fit.batches.draw(epoch), strict=True):
            network.train_on_batch(fit.batches.read(rows, views), fit.batches.labels[rows])
    return network


def answers(network: keras.Model, reader: Reader[Any], rows: np.ndarray) -> np.ndarray:
    """What a network predicts for rows in the plain view, (m,)."""
    return np.asarray(network.predict(reader(rows, np.zeros(len(rows), int)), verbose=0))[:, 0]


class EngineContract:
    """Tests that an engine trains what it is given, whatever beside it, keeps the right epoch and tells of each."""

    @pytest.fixture
    def engine(self) -> Engine:
        """Fixture: the engine under test."""
        raise NotImplementedError

    @pytest.fixture
    def stored(self, tmp_path: Path) -> StoredActivations:
        """Fixture: the reader of stored features."""
        return StoredActivations(stored_activations(tmp_path))

    @pytest.fixture
    def patches(self, tmp_path: Path) -> PatchReader:
        """Fixture: the reader of raw patches."""
        return PatchReader(tensor_file(tmp_path), 1, "paper")

    def test_each_epoch_is_reported_once_in_order(self, engine: Engine, stored: StoredActivations) -> None:
        events: list[EpochDone] = []
        stage = Stage("tuned", 3, 0.05)
        fit = stage_fit(head(), stored, start=5, stage=stage, emit=events.append, inner_rows=INNER)
        (result,) = trained(engine, fit)
        assert [event.epoch for event in events] == [row["epoch"] for row in result.history] == [6, 7, 8]
        assert {row["stage"] for row in result.history} == {"tuned"}
        names = {"loss", "accuracy", "val_loss", "val_accuracy", "inner_loss"}
        assert all(set(event.metrics) == names for event in events)
        assert [event.metrics["loss"] for event in events] == [row["loss"] for row in result.history]
        assert events[0].time <= events[-1].time
        assert result.kept == 3
        assert min(result.seconds, result.memory) > 0

    def test_metrics_are_those_of_the_trained_network(self, engine: Engine, stored: StoredActivations) -> None:
        fit = stage_fit(head(), stored)
        (result,) = trained(engine, fit)
        said, labels = answers(fit.network, stored, HELD_OUT).astype(np.float64), LABELS[HELD_OUT]
        last = result.history[-1]
        assert last["val_accuracy"] == pytest.approx(np.mean((said > 0.5) == labels))
        assert last["val_loss"] == pytest.approx(-np.mean(np.log(np.where(labels > 0.5, said, 1 - said))), abs=1e-5)

    def test_rows_that_nobody_scores(self, engine: Engine, stored: StoredActivations) -> None:
        """A refit has neither validation nor inner rows."""
        (result,) = trained(engine, stage_fit(head(), stored, validation_rows=HELD_OUT[:0]))
        assert result.predict().shape == (0,)
        assert set(result.history[0]) == {"stage", "epoch", "loss", "accuracy"}

    @pytest.mark.parametrize("ratio", ["none", "1:3"])
    def test_training_takes_the_drawn_batches_in_their_order(
        self, engine: Engine, stored: StoredActivations, ratio: str
    ) -> None:
        fit = stage_fit(head(), stored, rate=0.5, class_weights=ratio)
        before = fit.network.get_weights()
        trained(engine, fit)
        for found, wanted, other in zip(
            fit.network.get_weights(), by_hand(fit, before), by_hand(fit, before, backwards=True), strict=True
        ):
            np.testing.assert_allclose(found, wanted, atol=EQUAL)
            assert np.abs(found - other).max() > 100 * EQUAL

    def test_on_line_each_epoch_has_views_of_its_own(self, engine: Engine, patches: PatchReader) -> None:
        fit = stage_fit(convolutional(), patches, on_line=True)
        wanted = step_by_step(fit, convolutional())
        before = answers(fit.network, patches, HELD_OUT)
        (result,) = trained(engine, fit)
        np.testing.assert_allclose(result.predict(), answers(wanted, patches, HELD_OUT), atol=10 * EQUAL)
        assert np.abs(result.predict() - before).max() > 1000 * EQUAL

    def test_two_inputs_and_an_input_of_numbers(self, engine: Engine, stored: StoredActivations) -> None:
        reader = CombinedReader({"features": stored, "condition": NumberReader(LABELS - 0.5, VIEWS)})
        fit = stage_fit(of_two_inputs(), reader)
        wanted = step_by_step(fit, of_two_inputs())
        trained(engine, fit)
        for found, other in zip(fit.network.get_weights(), wanted.get_weights(), strict=True):
            np.testing.assert_allclose(found, other, atol=EQUAL)

    def test_each_side_has_views_of_its_own(self, engine: Engine, tmp_path: Path) -> None:
        files = [stored_activations(tmp_path, seed=seed) for seed in (0, 1)]
        reader = CombinedReader({name: StoredActivations(file) for name, file in zip("ab", files, strict=True)})
        fits = []
        for _ in range(2):
            keras.utils.set_random_seed(0)
            inputs = {name: keras.Input((FEATURES,), name=name) for name in "ab"}
            joined = keras.layers.Subtract()([inputs["a"], inputs["b"]])
            fit = stage_fit(keras.Model(inputs, keras.layers.Dense(1, activation="sigmoid")(joined)), reader)
            fits.append(replace(fit, batches=Batches(reader, TRAINED, LABELS, 8, VIEWS, [0, 0], columns=2)))
        fit, other = fits
        wanted = step_by_step(fit, other.network)
        trained(engine, fit)
        for found, hoped in zip(fit.network.get_weights(), wanted.get_weights(), strict=True):
            np.testing.assert_allclose(found, hoped, atol=EQUAL)

    @pytest.mark.parametrize("on_line", [False, True])
    def test_an_input_of_other_places(self, engine: Engine, tmp_path: Path, on_line: bool) -> None:
        places = np.arange(PATCHES) ^ 1
        file = tensor_file(tmp_path) if on_line else stored_activations(tmp_path)
        shape = (SIZE, SIZE, 1) if on_line else (FEATURES,)
        alike, placed = (
            PatchReader(file, 1, "paper", places=given) if on_line else StoredActivations(file, places=given)
            for given in (None, places)
        )
        reader, fits = CombinedReader({"patch": alike, "other_view": placed}), []
        for _ in range(2):
            keras.utils.set_random_seed(0)
            inputs = {name: keras.Input(shape, name=name) for name in reader.readers}
            each = [keras.layers.Rescaling(1e-4 if on_line else 1.0)(one) for one in inputs.values()]
            flat = [keras.layers.Flatten()(one) for one in each]
            out = keras.layers.Dense(1, activation="sigmoid")(keras.layers.Subtract()(flat))
            fits.append(stage_fit(keras.Model(inputs, out), reader, rate=0.01, on_line=on_line))
        wanted = step_by_step(fits[0], fits[1].network)
        trained(engine, fits[0])
        assert np.abs(answers(wanted, reader, HELD_OUT) - 0.5).max() > 0.01
        for found, hoped in zip(fits[0].network.get_weights(), wanted.get_weights(), strict=True):
            np.testing.assert_allclose(found, hoped, atol=EQUAL)

    def test_early_stopping_keeps_the_epoch_of_least_inner_loss(self, engine: Engine, tmp_path: Path) -> None:
        """Inner labels are turned round: the better the training, the worse the inner loss, after a while at least."""
        stored, losses, labels = StoredActivations(stored_activations(tmp_path)), [], LABELS.copy()
        labels[INNER] = 1 - labels[INNER]
        network = head()
        network.set_weights([np.zeros((FEATURES, 1), np.float32), np.full(1, 3.0, np.float32)])
        fit = stage_fit(
            network,
            stored,
            labels=labels,
            inner_rows=INNER,
            early_stop=3,
            epochs=60,
            rate=0.1,
            emit=lambda event: losses.append(event.metrics["inner_loss"]),
        )
        (result,) = trained(engine, fit)
        assert result.kept == int(np.argmin(losses)) + 1 > 1
        assert len(result.history) == len(losses) == result.kept + 3 < 60
        said = answers(network, stored, INNER).astype(np.float64)
        loss = -np.mean(np.log(np.where(labels[INNER] > 0.5, said, 1 - said)))
        assert loss == pytest.approx(min(losses), abs=1e-5)
        np.testing.assert_allclose(result.predict(), answers(network, stored, HELD_OUT), atol=1e-6)

    def test_class_weights_move_the_model(self, engine: Engine, stored: StoredActivations) -> None:
        light, heavy = (stage_fit(head(), stored, class_weights=ratio, rate=0.2) for ratio in ("1:0.05", "0.05:1"))
        found = [result.predict().mean() for result in trained(engine, light, heavy)]
        assert found[1] > found[0] + 0.1

    def test_predictions_are_those_of_the_written_networks(self, engine: Engine, stored: StoredActivations) -> None:
        fits = [
            stage_fit(head(seed), stored, seed=seed, inner_rows=INNER, early_stop=2, epochs=8, rate=rate)
            for seed, rate in enumerate((0.02, 3.0))
        ]
        results = trained(engine, *fits)
        for fit, result in zip(fits, results, strict=True):
            assert result.predict().dtype == np.float64
            np.testing.assert_allclose(result.predict(), answers(fit.network, stored, HELD_OUT), atol=1e-6)

    def test_a_fit_gives_among_others_what_it_gives_alone(self, engine: Engine, stored: StoredActivations) -> None:
        settings: list[dict[str, Any]] = [
            {"rate": 0.01, "momentum": 0.9, "rows": TRAINED},
            {"rate": 0.3, "momentum": 0.0, "rows": TRAINED[:17], "class_weights": "1:4"},
            {"rate": 0.2, "momentum": 0.5, "rows": TRAINED[5:31], "validation_rows": HELD_OUT[:3], "early_stop": 1},
            {"rate": 0.1, "momentum": 0.9, "rows": TRAINED[::2], "validation_rows": HELD_OUT[:0]},
        ]

        def made(number: int) -> StageFit:
            common: dict[str, Any] = {"seed": number, "inner_rows": INNER, "epochs": 5}
            return stage_fit(head(number, hidden=4), stored, **common, **settings[number])

        together = [made(number) for number in range(4)]
        for number, result in list(enumerate(trained(engine, *together)))[1:3]:
            fit = made(number)
            (alone,) = trained(engine, fit)
            np.testing.assert_allclose(result.predict(), alone.predict(), atol=EQUAL)
            for found, wanted in zip(together[number].network.get_weights(), fit.network.get_weights(), strict=True):
                np.testing.assert_allclose(found, wanted, atol=EQUAL)
            assert (result.kept, len(result.history)) == (alone.kept, len(alone.history))
            for row, wanted_row in zip(result.history, alone.history, strict=True):
                assert row == pytest.approx(wanted_row, abs=10 * EQUAL)

    def test_calls_of_one_size_give_the_very_same_numbers(self, engine: Engine, stored: StoredActivations) -> None:
        def made(number: int) -> StageFit:
            common: dict[str, Any] = {"seed": number, "inner_rows": INNER, "early_stop": 2}
            return stage_fit(head(number, hidden=4), stored, rate=0.1 * (number + 1), **common)

        first, *others = (made(number) for number in range(3))
        assert sorted(place for place, _ in engine.train([first], size=4)) == [0]
        again = made(0)
        assert sorted(place for place, _ in engine.train([*others, again], size=4)) == [0, 1, 2]
        for one, wanted in zip(again.network.get_weights(), first.network.get_weights(), strict=True):
            np.testing.assert_array_equal(one, wanted)

    @pytest.mark.parametrize("broken", ["rate", "inputs"])
    def test_a_fit_that_diverges_ends_alone(self, engine: Engine, stored: StoredActivations, broken: str) -> None:
        changes: dict[str, Any] = {"rate": 1e30} if broken == "rate" else {"rows": np.append(TRAINED[:15], BROKEN)}
        fits = [stage_fit(deep(seed), stored, seed=seed, **(changes if seed == 1 else {})) for seed in range(3)]
        found = dict(engine.train(fits))
        assert isinstance(found[1], UserError)
        assert "learning_rate: expected a loss that stays a number, found " in str(found[1])
        (alone,) = trained(engine, stage_fit(deep(2), stored, seed=2))
        assert isinstance(found[0], Trained) and isinstance(found[2], Trained)
        assert np.isfinite(found[0].predict()).all()
        np.testing.assert_allclose(found[2].predict(), alone.predict(), atol=EQUAL)

    def test_outputs_are_the_networks_for_each_view(
        self, engine: Engine, stored: StoredActivations, patches: PatchReader
    ) -> None:
        both = CombinedReader({"features": stored, "condition": NumberReader(LABELS, VIEWS)})
        for network, reader, views in (
            (convolutional(), patches, 2),
            (convolutional(), patches, 0),
            (head(hidden=4), stored, VIEWS),
            (of_two_inputs(), both, VIEWS),
        ):
            self._compare_outputs(engine, network, reader, views)

    def test_outputs_for_activations_that_are_stored_flat(self, engine: Engine, tmp_path: Path) -> None:
        path = stored_activations(tmp_path, (2 * 3 * 3,))
        network = chain((3, 3, 2), keras.layers.Conv2D(2, 2), keras.layers.Flatten())
        self._compare_outputs(engine, network, StoredActivations(path, (3, 3, 2)), VIEWS)

    @staticmethod
    def _compare_outputs(engine: Engine, network: keras.Model, reader: Reader[ModelInput], views: int) -> None:
        blocks = list(engine.outputs(network, reader, BROKEN, views))
        found, rows = np.concatenate(blocks), np.arange(BROKEN)
        wanted = network.predict(all_views(reader, rows, views), verbose=0)
        assert (found.dtype, found.shape) == (np.float32, (BROKEN, views + 1, *network.output.shape[1:]))
        np.testing.assert_allclose(found.reshape(wanted.shape), wanted, rtol=1e-4, atol=1e-5)
