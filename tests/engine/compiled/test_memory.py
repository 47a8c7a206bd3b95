"""What fits the card is computed at once, the rest in turns, in halves, by Keras, or not at all; it is always told."""

import math
import os
import shutil

import jax
import jax.numpy as jnp
import keras
import numpy as np
import pytest

from mammo_mlflow.engine.compiled import training
from mammo_mlflow.engine.compiled.outputs import Outputs
from mammo_mlflow.engine.compiled.program import Program
from mammo_mlflow.engine.compiled.resident import RESIDENT, Resident
from mammo_mlflow.engine.contract import Trained
from mammo_mlflow.engine.inputs import PatchReader, StoredActivations
from mammo_mlflow.errors import UserError
from mammo_mlflow.testing.engines import (
    INNER,
    PATCHES,
    convolutional,
    head,
    stage_fit,
    stored_activations,
    tensor_file,
    trained,
)

pytestmark = pytest.mark.usefixtures("jax_backend")

EQUAL = 1e-6
TOO_MANY = 10**14
"""So many numbers have room on no machine, which JAX itself finds out."""
REFUSED = 7.0
"""The learning rate of a fit that never has room."""


@pytest.fixture
def stored(tmp_path):
    return StoredActivations(stored_activations(tmp_path))


def fits(stored, count=4, **changes):
    return [stage_fit(head(seed), stored, seed=seed, **changes) for seed in range(count)]


@pytest.fixture(scope="module")
def at_once(tmp_path_factory):
    """What four heads give that are trained at once, with early stopping."""
    stored = StoredActivations(stored_activations(tmp_path_factory.mktemp("at_once")))
    said = []
    found = trained(training.make(0, said.append), *fits(stored, inner_rows=INNER, early_stop=2))
    assert said == ["4 heads are trained at once"]
    return [one.predict() for one in found]


def assert_given(found, at_once):
    for one, wanted in zip(found, at_once, strict=True):
        np.testing.assert_allclose(one.predict(), wanted, atol=EQUAL)


def test_heads_that_do_not_fit_the_memory_take_turns(stored, at_once):
    made = fits(stored, inner_rows=INNER, early_stop=2)
    one = 4 * (training.COPIES * made[0].network.count_params() + 3 * 6 * training.EVALUATION_BATCH)
    said = []
    engine = training.make(stored.stored.nbytes + 3 * one, said.append)
    order = [place for place, _ in engine.train(fits(stored))]
    assert (order, said) == ([0, 1, 2, 3], ["4 heads take turns, 2 at once: each needs 0.0048 MB"])
    assert_given(trained(engine, *made), at_once)


class Full(Program):
    """A card that has no room for more than two fits, or for the one of a learning rate, from an epoch on."""

    first, refused = 0, math.nan

    def __init__(self, *given):
        super().__init__(*given)
        really, self.epochs = self.epoch, 0

        def epoch(state, data, source, steps, count):
            if (source.size > 2 and self.epochs >= self.first) or self.refused in np.ravel(steps.rate):
                jnp.zeros(TOO_MANY, jnp.float32).block_until_ready()
            self.epochs += 1
            return really(state, data, source, steps, count)

        self.epoch = epoch


@pytest.mark.parametrize("first", [0, 2])
def test_out_of_memory_halves_the_group_and_everything_ends(stored, at_once, monkeypatch, first):
    """At the first epoch or later, whose epochs are told once nevertheless."""
    monkeypatch.setattr(training, "Program", Full)
    monkeypatch.setattr(Full, "first", first)
    said, events = [], []
    made = fits(stored, inner_rows=INNER, early_stop=2, emit=events.append)
    found = trained(training.make(0, said.append), *made)
    assert_given(found, at_once)
    assert said == ["4 heads are trained at once", "out of memory with 4 heads at once: 2 from now on"]
    assert [event.epoch for event in events].count(1) == 4
    assert len(events) == sum(len(one.history) for one in found)


def test_out_of_memory_halves_what_a_program_is_made_for(stored, at_once, monkeypatch):
    """Copies that fill it up are among what is halved."""
    monkeypatch.setattr(training, "Program", Full)
    said, made = [], fits(stored, inner_rows=INNER, early_stop=2)
    found = dict(training.make(0, said.append).train(made, size=6))
    assert_given([found[place] for place in range(4)], at_once)
    told = [f"out of memory with {number} heads at once: {half} from now on" for number, half in ((6, 3), (3, 1))]
    assert said == ["4 heads are trained at once", *told]


def test_a_fit_that_has_no_room_alone_ends_alone(stored, at_once, monkeypatch):
    monkeypatch.setattr(training, "Program", Full)
    monkeypatch.setattr(Full, "refused", REFUSED)
    made = fits(stored, inner_rows=INNER, early_stop=2)
    made[1] = stage_fit(head(1), stored, rate=REFUSED)
    found = dict(training.make(0, print).train(made))
    assert isinstance(found.pop(1), UserError)
    assert all(isinstance(one, Trained) for one in found.values())
    assert_given([found[0], found[2], found[3]], [at_once[0], at_once[2], at_once[3]])


def test_another_error_of_jax_is_no_want_of_memory(stored, monkeypatch):
    def broken(*_):
        raise jax.errors.JaxRuntimeError("INTERNAL: something else")

    monkeypatch.setattr(Full, "__init__", broken)
    monkeypatch.setattr(training, "Program", Full)
    with pytest.raises(jax.errors.JaxRuntimeError, match="something else"):
        list(training.make(0, print).train(fits(stored)))


def test_out_of_memory_makes_blocks_of_activations_smaller(tmp_path, monkeypatch):
    """From the block on that was cut off; what was computed is the same, and is not kept on the card."""
    fetch, fetched = Outputs._fetch, []

    def refuse_second(self, out, count):
        fetched.append(count)
        if len(fetched) == 2:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory")
        return fetch(self, out, count)

    network, reader = convolutional(), PatchReader(tensor_file(tmp_path), 1, "paper")
    views, count = 9, len(reader.patches)
    wanted = np.concatenate(list(training.make(0, print).outputs(network, reader, count, views)))
    monkeypatch.setattr(Outputs, "_fetch", refuse_second)
    said = []
    engine = training.make(0, said.append)
    found = list(engine.outputs(network, reader, count, views))
    assert [len(one) for one in found[:2]] == [3, 1]
    np.testing.assert_allclose(np.concatenate(found), wanted, atol=1e-6)
    assert said == ["out of memory: activations of 16 views at once from now on"]
    engine.written(tmp_path / "nowhere")


def test_data_that_do_not_fit_come_from_the_host(tmp_path):
    reader = PatchReader(tensor_file(tmp_path), 1, "paper")
    made = [stage_fit(convolutional(), reader, on_line=True, epochs=2) for _ in range(2)]
    said = []
    (on_card,) = trained(training.make(0, said.append), made[0])
    assert said == []
    (from_host,) = trained(training.make(reader.patches.nbytes, said.append), made[1])
    assert said == ["the data do not fit the card beside a network: batches come from the host, which takes longer"]
    np.testing.assert_allclose(from_host.predict(), on_card.predict(), atol=1e-4)


class Reads:
    """Reads an array, and counts how often."""

    def __init__(self, array):
        self.array, self.count = array, 0

    def __call__(self):
        self.count += 1
        return self.array


def test_a_file_stays_known_by_another_name_and_is_read_anew_when_written_anew(tmp_path):
    path, held = tmp_path / "a", Resident(10**6)
    path.write_bytes(b"one")
    reads = Reads(np.ones(3, np.float32))
    held.get(path, reads)
    path = path.rename(tmp_path / "b")
    assert held.get(path, reads).sum() == 3
    assert reads.count == 1
    held.get(path, reads, part=1)
    assert reads.count == 2
    path.write_bytes(b"longer")
    reads.array = np.zeros(3, np.float32)
    assert held.get(path, reads).sum() == 0
    assert reads.count == 3


def test_the_least_recently_used_leave_the_card_first(tmp_path):
    held = Resident(2 * 400)
    paths = [tmp_path / name for name in "abc"]
    reads = [Reads(np.zeros(100, np.float32)) for _ in paths]
    for path in paths:
        path.write_text(path.name)
    for number in (0, 1, 0, 2, 0, 1):
        held.get(paths[number], reads[number])
    assert [one.count for one in reads] == [1, 2, 1]
    large = Reads(np.zeros(1000, np.float32))
    (tmp_path / "large").touch()
    for _ in range(2):
        assert held.get(tmp_path / "large", large).nbytes == 4000  # given, not kept
    assert large.count == 2
    held.clear()
    held.get(paths[0], reads[0])
    assert reads[0].count == 2


def test_what_was_computed_on_the_card_is_not_read_from_the_disk(tmp_path, monkeypatch):
    """The file is spoilt behind the engine's back, its size and time kept, and put into its place by another name."""
    RESIDENT.clear()
    reader = StoredActivations(stored_activations(tmp_path, (12,)))
    network = keras.Sequential([keras.Input((12,)), keras.layers.Dense(6, activation="tanh")])
    engine, path = training.make(0, print), tmp_path / "made.npy"
    network = keras.Model(network.inputs, network.outputs)
    made = np.concatenate(list(engine.outputs(network, reader, PATCHES, 3)))
    np.save(path, made)
    shutil.copy(path, tmp_path / "true.npy")
    engine.written(path)
    about = path.stat()
    path.write_bytes(path.read_bytes()[:-4000] + bytes(4000))
    os.utime(path, ns=(about.st_atime_ns, about.st_mtime_ns))
    path = path.rename(tmp_path / "entry.npy")

    def answer(file):
        (found,) = trained(training.make(0, print), stage_fit(head(), StoredActivations(file)))
        return found.predict()

    resident, true = answer(path), answer(tmp_path / "true.npy")
    np.testing.assert_allclose(resident, true, atol=EQUAL)
    RESIDENT.clear()
    assert np.abs(answer(path) - true).max() > 1e-3
