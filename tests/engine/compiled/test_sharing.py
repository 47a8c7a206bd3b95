"""Heads of many kinds share a program: what they differ in is a variable of it, or filled up."""

from dataclasses import replace

import keras
import numpy as np
import pytest
from support_engines import HEADS, assert_same, both

from mammo_mlflow.engine.compiled import training
from mammo_mlflow.engine.compiled.program import Program
from mammo_mlflow.engine.compiled.training import CompiledEngine
from mammo_mlflow.engine.inputs import StoredActivations
from mammo_mlflow.experiment import ModelSpec
from mammo_mlflow.models.network import build_head
from mammo_mlflow.testing.engines import EQUAL, FEATURES, INNER, stage_fit, stored_activations, trained

pytestmark = pytest.mark.usefixtures("jax_backend")


@pytest.fixture
def stored(tmp_path):
    return StoredActivations(stored_activations(tmp_path))


class Counted(Program):
    """A program that knows for how many heads it was made."""

    def start(self, fits):
        self.numbers = [*getattr(self, "numbers", []), len(fits)]
        return super().start(fits)


@pytest.fixture
def programs(monkeypatch):
    """The programs that are made."""
    made = []
    monkeypatch.setattr(training, "Program", lambda *arguments: made.append(Counted(*arguments)) or made[-1])
    return made


MIXED = [
    ({"optimizer": "adam", "epochs": 5}, {"dropout": 0.3}),
    ({"optimizer": "rmsprop", "epochs": 3}, {"feature_dropout": 0.2}),
    ({"optimizer": "sgd", "momentum": 0.9, "epochs": 6, "rate": 0.05}, {"dropout": 0.5, "feature_dropout": 0.1}),
    ({"optimizer": "sgd", "momentum": 0.0, "epochs": 9, "early_stop": 1, "rate": 0.5}, {"dropout": 0.1}),
    ({"optimizer": "adam", "epochs": 1}, {}),
]
"""The settings of training and of the model of heads that share a program."""


def mixed(stored, common, chosen=MIXED):
    """Heads of many kinds, on the same features."""
    made = []
    for seed, (training_values, model_values) in enumerate(chosen):
        keras.utils.set_random_seed(seed)
        spec = ModelSpec(**{"dense": "8-4", "dropout": 0.0, **common, **model_values})
        inner = INNER if "early_stop" in training_values else INNER[:0]
        values = {"seed": seed, "rate": 0.003, "inner_rows": inner, **training_values}
        made.append(stage_fit(build_head((FEATURES,), spec), stored, rebuild=rebuilt(spec), **values))
    return made


def rebuilt(spec):
    return lambda dropout, filled: build_head((FEATURES,), spec.filled if filled else spec, dropout)


@pytest.mark.parametrize("common", [{}, {"batch_norm": True, "dense_batch_norm": True}], ids=["plain", "normalised"])
def test_heads_of_other_optimizers_dropout_and_epochs_share_a_program(stored, common, programs):
    """Dropout leaves out the very units that Keras's leaves out."""
    found = list(both(lambda: mixed(stored, common)))
    for one, other in found:
        assert_same(one, other, HEADS)
    assert [len(history) for (_, _, history, _), _ in found] == [5, 3, 6, found[3][1][3] + 1, 1]
    assert [one.epoch._cache_size() for one in programs] == [1]


def test_a_head_ends_with_its_own_epochs(stored):
    """And is answered at once, not with the last one."""
    told = []
    fits = [replace(one, emit=told.append) for one in mixed(stored, {}, MIXED[:2])]
    for place, _ in training.make(0, print).train(fits):
        told.append(place)
    assert [one if isinstance(one, int) else one.epoch for one in told] == [1, 1, 2, 2, 3, 3, 1, 4, 5, 0]


WIDE = [
    ({"optimizer": "adam"}, {"dense": "8-4"}),
    ({"optimizer": "rmsprop"}, {"dense": "5-7"}),
    ({"optimizer": "sgd", "momentum": 0.9, "rate": 0.05}, {"dense": "200-256"}),
]


@pytest.mark.parametrize("common", [{}, {"batch_norm": True, "dense_batch_norm": True}], ids=["plain", "normalised"])
def test_heads_of_many_widths_share_a_program_on_a_card(stored, common, programs, monkeypatch):
    """What comes of them is as wide as they are, and what Keras gives; dropout of the features draws the same units."""
    wide = [(one, two | {"feature_dropout": 0.2}) for one, two in WIDE]
    monkeypatch.setattr(training, "make", lambda memory, notice: CompiledEngine(memory, notice, on_card=True))
    for one, other in both(lambda: mixed(stored, common, wide)):
        assert_same(one, other, HEADS)
    assert [one.epoch._cache_size() for one in programs] == [1]
    assert {one.shape[0] for one in programs[0].network.get_weights() if len(one.shape) == 2} == {FEATURES, 256}


def test_what_a_head_drops_depends_on_itself_alone(stored):
    """On a card too, where units are drawn for the width that it is filled up to."""
    dropping = [(one, two | {"dropout": 0.4}) for one, two in WIDE]
    together = trained(CompiledEngine(0, print, on_card=True), *mixed(stored, {}, dropping))
    for place in range(len(WIDE)):
        fit = mixed(stored, {}, dropping)[place]
        (alone,) = trained(CompiledEngine(0, print, on_card=True), fit)
        np.testing.assert_allclose(alone.predict(), together[place].predict(), atol=EQUAL)
        assert [one.shape for one in fit.network.get_weights()][-2][0] == int(WIDE[place][1]["dense"].split("-")[-1])


@pytest.mark.parametrize(
    ("on_card", "size", "memory", "numbers"),
    [
        (False, 0, 0, [3]),
        (False, 2, 0, [3]),
        (False, 5, 0, [5]),
        (True, 0, 0, [3]),
        (True, 3, 0, [128]),
        (True, 33, 0, [128]),
        (True, 200, 0, [256]),
        (True, 3, 7, [4]),
        (True, 3, 2.5, [2, 2]),
        (False, 5, 2.5, [2, 2]),
    ],
)
def test_for_how_many_heads_a_program_is_made(stored, programs, on_card, size, memory, numbers):
    """`memory` is that of so many heads."""
    fits = [stage_fit(build_head((FEATURES,), ModelSpec(dense="4")), stored, epochs=1) for _ in range(3)]
    one = 4 * (training.COPIES * fits[0].network.count_params() + 3 * FEATURES * training.EVALUATION_BATCH)
    said, room = [], int(memory * one) + stored.stored.nbytes if memory else 0
    engine = CompiledEngine(room, said.append, on_card)
    assert sorted(place for place, _ in engine.train(fits, size)) == [0, 1, 2]
    assert [one.numbers for one in programs] == [numbers]
    assert len(said) == 1
