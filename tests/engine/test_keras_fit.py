import mmap
from typing import ClassVar

import keras
import numpy as np
import pytest

from mammo_mlflow.engine.backend import fastest_feed
from mammo_mlflow.engine.batches import Batches
from mammo_mlflow.engine.contract import Stage, StageFit, class_weights, private_memory_bytes
from mammo_mlflow.engine.keras_fit import KerasEngine
from mammo_mlflow.experiment import TrainingSpec

pytestmark = pytest.mark.usefixtures("keras")

LABELS = np.arange(40) % 2
ROWS = np.arange(4, 40)


class Store:
    """Inputs that tell their row and view, all of which fit in memory."""

    table = np.stack(np.broadcast_arrays(np.arange(40.0)[:, None], np.arange(4.0)), axis=-1).astype(np.float32)

    def __call__(self, rows, views):
        return self.table[rows, views]

    def in_memory(self, limit):
        return self.table


class Apart(Store):
    """The same, of which nothing fits."""

    def in_memory(self, limit):
        return None


def batches(views=3, seed=(0, 0), batch=16, read=None):
    return Batches(read or Store(), ROWS, LABELS, batch, views, list(seed))


def test_an_epoch_sees_each_patch_at_most_once_and_whole_batches_only():
    made = batches()
    rows, views = made.draw(0)
    assert rows.shape == views.shape == (len(made), 16) == (2, 16)
    assert len(set(rows.ravel())) == rows.size
    assert set(rows.ravel()) <= set(ROWS)


def test_every_augmented_view_is_drawn_and_the_plain_one_never():
    drawn = {view for epoch in range(5) for view in batches().draw(epoch)[1].ravel().tolist()}
    assert drawn == {1, 2, 3}


def test_epochs_differ_and_depend_on_seed_and_number_alone():
    made = batches()
    first = made.draw(0)
    assert not np.array_equal(made.draw(1)[0], first[0])
    np.testing.assert_array_equal(batches().draw(0), first)
    assert not np.array_equal(batches(seed=(1, 0)).draw(0)[0], first[0])


class Spy(keras.layers.Layer):
    """Writes down which rows and views a model is trained on."""

    seen: ClassVar[list] = []

    def call(self, inputs, training=False):
        if training:
            self.seen.append(keras.ops.convert_to_numpy(inputs))
        return inputs


@pytest.mark.parametrize("in_memory", [True, False])
def test_training_sees_the_drawn_batches_epoch_by_epoch(in_memory, monkeypatch):
    made = batches(read=Store() if in_memory else Apart())
    net = keras.Sequential([keras.layers.Input((2,)), Spy(), keras.layers.Dense(1, activation="sigmoid")])
    compile_model = net.compile
    eager = {"run_eagerly": True, "steps_per_execution": 1, "jit_compile": False}
    monkeypatch.setattr(net, "compile", lambda *a, **settings: compile_model(*a, **{**settings, **eager}))
    Spy.seen.clear()
    train(net, made=made)
    wanted = [Store()(rows, views) for epoch in range(3) for rows, views in zip(*batches().draw(epoch), strict=True)]
    np.testing.assert_array_equal(Spy.seen, wanted)


def test_on_line_epochs_have_a_fresh_view_and_the_same_order():
    on_line, cached = batches(views=None), batches()
    for epoch in range(3):
        rows, views = on_line.draw(epoch)
        assert set(views.ravel()) == {epoch + 1}
        np.testing.assert_array_equal(rows, cached.draw(epoch)[0])


def test_fewer_patches_than_a_batch():
    made = batches(batch=100)
    assert len(made) == 1
    assert made.draw(0)[0].shape == (1, len(ROWS))


def test_what_does_not_fit_in_memory_is_fed_as_it_is():
    made = batches(read=Apart())
    assert fastest_feed(made, 3) == (made, None)


def model():
    keras.utils.set_random_seed(0)
    return keras.Sequential([keras.layers.Input((2,)), keras.layers.Dense(1, activation="sigmoid")])


class Flipped(Store):
    """The same, whose rows from 100 on are the first ones again."""

    table = np.concatenate([Store.table, np.zeros((60, 4, 2), np.float32), Store.table / 40])


def train(net, made=None, **changes):
    settings = {
        "spec": TrainingSpec(optimizer="sgd"),
        "stage": Stage("head", 3, 1e-3),
        "start": 0,
        "validation_rows": ROWS[:0],
        "inner_rows": ROWS[:0],
        "emit": lambda event: None,
    }
    ((_, trained),) = KerasEngine().train([StageFit(network=net, batches=made or batches(), **{**settings, **changes})])
    return trained


def test_each_epoch_is_reported_as_it_ends():
    events = []
    trained = train(model(), validation_rows=ROWS, start=5, stage=Stage("tuned", 3, 1e-3), emit=events.append)
    assert [event.epoch for event in events] == [row["epoch"] for row in trained.history] == [6, 7, 8]
    assert {row["stage"] for row in trained.history} == {"tuned"}
    assert set(events[0].metrics) == {"loss", "accuracy", "val_loss", "val_accuracy"}
    assert trained.kept == 3
    assert trained.memory > 0
    assert events[0].time <= events[2].time


def test_early_stopping_keeps_the_best_epoch_on_the_inner_patients():
    """Inner labels are turned round: the better the training, the worse the inner loss, so epoch 1 is the best."""
    labels = np.concatenate([LABELS, np.zeros(60, int), 1 - LABELS])
    made, inner = Batches(Flipped(), ROWS, labels, 16, 3, [0, 0]), ROWS + 100
    spec = TrainingSpec(optimizer="sgd", early_stop=2)
    net = model()
    losses = []
    trained = train(
        net,
        made,
        inner_rows=inner,
        spec=spec,
        stage=Stage("head", 30, 5e-3),
        emit=lambda e: losses.append(e.metrics["inner_loss"]),
    )
    assert trained.kept == int(np.argmin(losses)) + 1
    assert len(trained.history) == trained.kept + 2 < 30
    found = net.evaluate(Flipped()(inner, np.zeros(len(inner), int)), labels[inner], verbose=0)[0]
    assert found == pytest.approx(min(losses), rel=1e-4)


def test_balanced_gives_each_class_the_others_share():
    found = class_weights("balanced", np.array([1, 1, 1, 0]))
    assert found == {0: 0.75, 1: 0.25}
    assert found[0] * 1 == pytest.approx(found[1] * 3)


def test_a_ratio_is_taken_as_it_is():
    assert class_weights("1:1.3", np.array([0, 1])) == {0: 1.0, 1: 1.3}
    assert class_weights("none", np.array([0, 1])) is None


def test_class_weights_move_the_model():
    light, heavy = model(), model()
    for net, ratio in ((light, "1:0.05"), (heavy, "0.05:1")):
        train(net, spec=TrainingSpec(optimizer="sgd", class_weights=ratio), stage=Stage("head", 5, 1e-2))
    inputs = Store()(ROWS, np.zeros(len(ROWS), int))
    assert heavy.predict(inputs, verbose=0).mean() > light.predict(inputs, verbose=0).mean() + 0.1


def test_private_memory_leaves_out_mapped_files(tmp_path):
    np.save(tmp_path / "big.npy", np.ones(40_000_000, np.uint8))
    before = private_memory_bytes()
    mapped = np.load(tmp_path / "big.npy", mmap_mode="r")
    assert mapped.sum() == 40_000_000
    assert private_memory_bytes() - before < 30e6
    # straight from the system: the allocator might have room left from earlier tests
    with mmap.mmap(-1, 40_000_000, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as held:
        for offset in range(0, len(held), mmap.PAGESIZE):
            held[offset] = 1
        assert private_memory_bytes() - before > 30e6
