from dataclasses import replace

import numpy as np
import pytest

from mammo_mlflow.disclosure import RANDOM, Disclosure
from mammo_mlflow.errors import UserError
from mammo_mlflow.experiment import build
from mammo_mlflow.jobs.cache import Cache
from mammo_mlflow.jobs.devices import Card, Devices
from mammo_mlflow.planning.planner import Planner, resolve_precision


def test_folds_and_refit(laboratory):
    plan = laboratory.plan(final="refit", folds=3)
    assert [fit.name for fit in plan.fits] == ["fold 1", "fold 2", "fold 3", "refit"]
    *folds, refit = plan.fits
    assert sorted(np.concatenate([fit.validation_rows for fit in folds])) == list(range(48))
    for fit in folds:
        assert sorted([*fit.job.train_rows, *fit.validation_rows]) == list(range(48))
    assert list(refit.job.train_rows) == list(range(48))
    assert len(refit.validation_rows) == 0
    assert len({fit.job.seed for fit in plan.fits}) == len({fit.key for fit in plan.fits}) == 4


@pytest.mark.parametrize("seed", range(3))
def test_no_patient_is_on_two_sides_of_anything(laboratory, seed):
    patients = laboratory.patch_set.train.patient_ids
    assert len(set(patients)) < len(patients)
    for fit in laboratory.plan(early_stop=2, seed=seed, folds=3).fits:
        sides = [set(patients[rows]) for rows in (fit.job.train_rows, fit.job.inner_rows, fit.validation_rows)]
        assert all(sides)
        assert not (sides[0] & sides[1] or sides[0] & sides[2] or sides[1] & sides[2])
        rows = [*fit.job.train_rows, *fit.job.inner_rows, *fit.validation_rows]
        assert sorted(rows) == list(range(48))


def test_early_stopping_can_watch_what_is_scored(laboratory):
    """As in the study: all others are trained on, and the note, the name and the set say so."""
    plan = laboratory.plan(early_stop=2, early_stop_on="scored", folds=3, final="refit")
    *folds, refit = plan.fits
    for fit in folds:
        np.testing.assert_array_equal(fit.job.inner_rows, fit.validation_rows)
        assert sorted([*fit.job.train_rows, *fit.validation_rows]) == list(range(48))
    assert len(refit.job.inner_rows) == 0
    assert plan.disclosure.note.endswith("early stopping watched the scored patches: optimistic")
    assert "stopped early on what is scored" in plan.name
    assert plan.tags()["mammo.set"] == "protocol"  # never brought to the gates of a champion
    assert plan.experiment.registered_name == "mammo-mass_calc-pretrained-vgg16-scored-stop"


def test_what_would_be_watched_is_in_no_key_without_early_stopping(laboratory):
    keys = [fit.key for fit in laboratory.plan().fits]
    scored = laboratory.plan(early_stop_on="scored")
    assert [fit.key for fit in scored.fits] == keys
    assert "optimistic" not in (scored.disclosure.note or "")
    stopped = [laboratory.plan(early_stop=2, early_stop_on=watched).fits[0].key for watched in ("inner", "scored")]
    assert len({keys[0], *stopped}) == 3


def test_both_tasks_have_the_same_folds_and_other_labels(laboratory):
    one, other = laboratory.plan("mass_calc"), laboratory.plan("benign_malignant")
    np.testing.assert_array_equal(one.folds, other.folds)
    assert one.tags()["mammo.folds_sha256"] == other.tags()["mammo.folds_sha256"]
    assert not np.array_equal(one.labels, other.labels)
    assert not {fit.key for fit in one.fits} & {fit.key for fit in other.fits}


def test_keys_change_with_what_changes_results_only(laboratory):
    keys = {fit.name: fit.key for fit in laboratory.plan().fits}

    def changed(**values):
        return {fit.name for fit in laboratory.plan(**values).fits if keys.get(fit.name) not in (None, fit.key)}

    assert changed() == changed(threshold="youden") == changed(final="refit") == set()
    for values in ({"learning_rate": 0.5}, {"seed": 1}, {"views": 3}):
        assert changed(**values) == set(keys)


def test_activations_are_shared_where_they_can_be(laboratory):
    def entries(**values):
        return [entry.key for entry in laboratory.plan(**values).activations()]

    (key,) = entries()
    assert entries(learning_rate=0.5, epochs=7, dense="9", folds=3, final="refit") == [key]
    assert entries(views=0) == []
    assert entries(seed=1) == [key]
    for values in ({"views": 3}, {"augmentation": "shift"}, {"pooling": "max"}):
        assert entries(**values) != [key]
    shallow, deep = entries(unfrozen_layers=1)
    assert deep == key != shallow
    assert entries(unfrozen_layers=1, pooling="max")[0] == shallow


def test_sizes_are_those_of_the_files(laboratory, tuned):
    for entry in tuned.plan.activations():
        path = laboratory.cache.find(entry.key)
        assert np.load(path, mmap_mode="r").nbytes == entry.bytes
        assert path.stat().st_size - entry.bytes < 1000
    laboratory.cache.release()


def test_the_name_says_what_is_not_real(laboratory):
    plan = laboratory.plan(unfrozen_layers=1)
    assert plan.name == "vgg16 last 1 unfrozen pretrained mass_calc [phantom] [random weights]"
    assert plan.disclosure.note == "phantom data: no medical result; random weights"


@pytest.mark.parametrize(
    "values", [{}, {"control": "baseline"}, {"control": "shuffled"}, {"early_stop": 2, "early_stop_on": "scored"}]
)
def test_what_was_said_of_an_experiment_is_read_back_from_its_run(laboratory, values):
    plan = laboratory.plan(**values)
    texts = {name: str(value) for name, value in plan.experiment.flat().items()}
    assert Disclosure.read(plan.tags(), texts) == plan.disclosure
    assert len(plan.disclosure) == 2 + bool(values)
    real = laboratory.plan(patch_set=replace(laboratory.patch_set, train_sha256="real", phantom=False))
    assert Disclosure.read(real.tags(), {}) == real.disclosure == (RANDOM,)


def test_random_weights_are_made_once_for_every_data_set_size_and_precision(laboratory):
    plan = laboratory.plan()
    before = plan.weights.file.stat().st_mtime_ns
    other = replace(laboratory.patch_set, train_sha256="other", phantom=False)
    for again in (laboratory.plan(seed=3), laboratory.plan(precision="bfloat16"), laboratory.plan(patch_set=other)):
        assert again.weights == plan.weights
        assert again.weights.file.stat().st_mtime_ns == before
    assert len(list(laboratory.cache.root.glob("random-vgg16-*"))) == 1


def test_random_weights_of_an_earlier_version_are_told(laboratory, tmp_path, caplog):
    caplog.set_level("INFO")
    asked = build("mass_calc", {"weights": "random"})
    jobs = []

    class Fake:
        def run(self, given, *_):
            for job in given:
                jobs.append(job)
                job.output.write_bytes(b"weights")
                yield job, None

    for earlier in (False, True):
        cache = Cache(tmp_path / str(earlier))
        if earlier:
            (cache.root / "random-vgg16-0123456789abcdef01234567.weights.h5").touch()
        planner = Planner(laboratory.patch_set, Fake(), cache)
        planner._find_weights(asked)
        planner._calibrate(("vgg16", "random"), threads=1)
        assert ("random weights of an earlier version" in caplog.text) == earlier
    assert [job.backbone for job in jobs] == ["vgg16", "vgg16"]


def test_patches_too_small_for_a_backbone(laboratory):
    with pytest.raises(UserError, match="inceptionv3 expected patches of at least 75 pixels, found 32"):
        laboratory.plan(backbone="inceptionv3")


def test_precision():
    assert resolve_precision("float32", Devices()) == "float32"
    assert resolve_precision("bfloat16", Devices()) == "bfloat16"
    assert resolve_precision("auto", Devices()) in ("float32", "bfloat16")
    card = Card(number=0, name="a card", memory=1, free=1, bfloat16=True)
    older = replace(card, number=1, bfloat16=False)
    of_cards = {
        cards: resolve_precision("auto", Devices(kind="gpu", cards=cards)) for cards in ((card,), (card, older))
    }
    assert of_cards == {(card,): "bfloat16", (card, older): "float32"}
