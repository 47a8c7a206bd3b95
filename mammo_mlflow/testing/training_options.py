"""The tests of training's options that every engine passes beside `EngineContract`: subclass both.

Optimizers, schedules, losses and averaged weights are compared with Keras's own steps, one after another.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from mammo_mlflow.engine.contract import OPTIMIZERS, Engine, Stage, StageFit
from mammo_mlflow.engine.inputs import PatchReader, StoredActivations
from mammo_mlflow.engine.losses import make_loss
from mammo_mlflow.testing.engines import (
    EQUAL,
    FEATURES,
    HELD_OUT,
    INNER,
    LABELS,
    answers,
    chain,
    convolutional,
    head,
    stage_fit,
    stored_activations,
    tensor_file,
    trained,
)

OPTIONS: dict[str, dict[str, Any]] = {
    "adamw": {"optimizer": "adamw", "weight_decay": 0.9},
    "cosine": {"schedule": "cosine", "warm_up": 0.4, "momentum": 0.9},
    "one_cycle": {"schedule": "one_cycle", "optimizer": "rmsprop"},
    "warm_up": {"warm_up": 0.5, "optimizer": "adam"},
    "label_smoothing": {"label_smoothing": 0.4},
    "focal": {"loss": "focal", "focal_gamma": 3.0, "class_weights": "1:3"},
    "weight_average": {"weight_average": 2},
}
"""Settings of each option, far enough from the plain ones to be told apart after a few steps."""


def step_by_step(fit: StageFit, network: keras.Model) -> tuple[list[list[np.ndarray]], list[float]]:
    """Train another network of the same weights by Keras's steps; its weights and the last loss of each epoch."""
    network.set_weights(fit.network.get_weights())
    spec = fit.spec
    optimizer = OPTIMIZERS[spec.optimizer](1.0, spec)
    loss = make_loss(spec.loss, spec.focal_gamma, spec.label_smoothing)
    network.compile(optimizer, loss=loss)
    ratio = [float(part) for part in spec.class_weights.split(":")] if ":" in spec.class_weights else [1.0, 1.0]
    weights, losses = [], []
    for epoch in range(fit.stage.epochs):
        for step, (rows, views) in enumerate(zip(*fit.batches.draw(epoch), strict=True)):
            optimizer.learning_rate = float(fit.rates[epoch, step])
            importance = np.where(LABELS[rows] > 0.5, ratio[1], ratio[0])
            network.train_on_batch(fit.batches.read(rows, views), LABELS[rows, None], sample_weight=importance)
        weights.append(network.get_weights())
        plain = fit.batches.read(HELD_OUT, np.zeros(len(HELD_OUT), int))
        losses.append(float(network.evaluate(plain, LABELS[HELD_OUT, None], verbose=0)))
    return weights, losses


def normalised(seed: int = 0) -> keras.Model:
    """Build a head with batch normalisation, behind a layer that is trained."""
    keras.utils.set_random_seed(seed)
    layers = keras.layers.Dense(4), keras.layers.BatchNormalization(momentum=0.7)
    return chain((FEATURES,), *layers, keras.layers.Dense(1, activation="sigmoid"))


class TrainingOptionsContract:
    """Tests that an engine trains with every option as Keras's steps do, also beside fits of other options."""

    @pytest.fixture
    def stored(self, tmp_path: Path) -> StoredActivations:
        """Fixture: the reader of stored features."""
        return StoredActivations(stored_activations(tmp_path))

    @pytest.mark.parametrize("option", [name for name in OPTIONS if name != "weight_average"])
    def test_options_train_as_kerass_steps(self, engine: Engine, stored: StoredActivations, option: str) -> None:
        fit, plain = (stage_fit(head(hidden=4), stored, **changes) for changes in (OPTIONS[option], {}))
        weights, losses = step_by_step(fit, head(hidden=4))
        (result,) = trained(engine, fit)
        trained(engine, plain)
        for found, wanted in zip(fit.network.get_weights(), weights[-1], strict=True):
            np.testing.assert_allclose(found, wanted, atol=EQUAL)
        assert [row["val_loss"] for row in result.history] == pytest.approx(losses, abs=EQUAL)
        others = zip(fit.network.get_weights(), plain.network.get_weights(), strict=True)
        assert max(np.abs(found - other).max() for found, other in others) > 100 * EQUAL

    @pytest.mark.parametrize("on_line", [False, True])
    def test_the_last_epochs_are_averaged_and_batch_normalisation_measured_anew(
        self, engine: Engine, stored: StoredActivations, tmp_path: Path, on_line: bool
    ) -> None:
        """The statistics are those that the averaged weights have on the batches of the last epoch."""
        make = convolutional if on_line else normalised
        reader = PatchReader(tensor_file(tmp_path), 1, "paper") if on_line else stored
        fit = stage_fit(make(), reader, epochs=4, weight_average=2, on_line=on_line, validation_rows=HELD_OUT)
        weights, _ = step_by_step(fit, wanted := make())
        wanted.set_weights([(one + other) / 2 for one, other in zip(*weights[-2:], strict=True)])
        (layer,) = [one for one in wanted.layers if isinstance(one, keras.layers.BatchNormalization)]
        before = keras.Model(wanted.input, layer.input)
        drawn = zip(*fit.batches.draw(3), strict=True)
        seen = [np.asarray(before.predict_on_batch(reader(rows, views))) for rows, views in drawn]
        axes = tuple(range(seen[0].ndim - 1))
        layer.moving_mean.assign(np.mean([one.mean(axes) for one in seen], axis=0))
        layer.moving_variance.assign(np.mean([one.var(axes) for one in seen], axis=0))
        (result,) = trained(engine, fit)
        for found, other in zip(fit.network.trainable_variables, wanted.trainable_variables, strict=True):
            np.testing.assert_allclose(np.asarray(found), np.asarray(other), atol=10 * EQUAL)
        for found, other in zip(fit.network.non_trainable_variables, wanted.non_trainable_variables, strict=True):
            np.testing.assert_allclose(np.asarray(found), np.asarray(other), rtol=0.01, atol=10 * EQUAL)
        np.testing.assert_allclose(result.predict(), answers(fit.network, reader, HELD_OUT), atol=1e-6)
        assert (result.kept, len(result.history)) == (4, 4)

    def test_an_average_of_more_epochs_than_there_are(self, engine: Engine, stored: StoredActivations) -> None:
        """It is that of all; so is one of a stage of one epoch that epoch's."""
        fit = stage_fit(head(), stored, weight_average=50)
        weights, _ = step_by_step(fit, head())
        trained(engine, fit)
        for found, *wanted in zip(fit.network.get_weights(), *weights, strict=True):
            np.testing.assert_allclose(found, np.mean(wanted, axis=0), atol=EQUAL)

    def test_fits_of_all_options_give_together_what_each_gives_alone(
        self, engine: Engine, stored: StoredActivations
    ) -> None:
        def made() -> list[StageFit]:
            settings = [*OPTIONS.values(), {"early_stop": 1}, {}]
            return [
                stage_fit(normalised(seed), stored, seed=seed, inner_rows=INNER, epochs=3 + seed % 3, **changes)
                for seed, changes in enumerate(settings)
            ]

        together = made()
        for fit, found, alone in zip(together, trained(engine, *together), made(), strict=True):
            (wanted,) = trained(engine, alone)
            np.testing.assert_allclose(found.predict(), wanted.predict(), atol=5 * EQUAL)
            np.testing.assert_allclose(found.predict(), answers(fit.network, stored, HELD_OUT), atol=1e-6)
            assert found.history[-1] == pytest.approx(wanted.history[-1], abs=10 * EQUAL)

    def test_early_stopping_sees_the_beginning_of_a_schedule(self, engine: Engine, stored: StoredActivations) -> None:
        """Whose rates are those of all epochs, and which begins anew in the next stage."""
        common: dict[str, Any] = {"schedule": "one_cycle", "inner_rows": INNER, "early_stop": 1, "rate": 3.0}
        fit = stage_fit(head(), stored, epochs=30, **common)
        (result,) = trained(engine, fit)
        assert result.kept < len(result.history) < 30
        weights, _ = step_by_step(fit_again := stage_fit(head(), stored, epochs=30, **common), head())
        for found, wanted in zip(fit.network.get_weights(), weights[result.kept - 1], strict=True):
            np.testing.assert_allclose(found, wanted, atol=10 * EQUAL)
        stage = Stage("tuned", 30, 0.3)
        tuned = stage_fit(head(), stored, stage=stage, **common)
        np.testing.assert_allclose(tuned.rates, fit_again.rates / 10, rtol=1e-5)
