"""What other families add to the training of pretrained ones: two sides, whole networks, a hold-out, controls."""

import json
import zipfile

import keras
import numpy as np
import pytest

from mammo_mlflow.data.patches import read_patch_set, targets
from mammo_mlflow.evaluation.metrics import fold_auc
from mammo_mlflow.experiment import ROWS

pytestmark = pytest.mark.usefixtures("keras")

SCRATCH = {"family": "scratch", "backbone": "m2", "blocks": "8/2,16", "dense_batch_norm": True, "pooling": "flatten"}
PAIRS = {"family": "siamese", "backbone": "scratch", "blocks": "8/2,8"}
TEXTURE = {"family": "texture", "backbone": "laws", "dense": "none", "batch_norm": True, "augmentation": "none"}
TEXTURE |= {"learning_rate": 0.1, "epochs": 15, "views": 1}
WIDE = "1024-1024"
"""Hidden layers of a network with more than a million parameters, whose optimizer is compiled."""


def probabilities(done):
    return done.oof["probability"].to_numpy()


def auc(done):
    return fold_auc(*(done.oof[name] for name in ("label", "probability", "fold")))


@pytest.mark.parametrize(
    ("unfrozen", "difference", "pairs", "rate"),
    [(0, "subtract", "joint", 1e-3), (1, "absolute_product", "independent", 3e-4)],
)
def test_cached_siamese_training_is_on_line_training(laboratory, unfrozen, difference, pairs, rate):
    """Without augmentation both see the same pairs in the same order: only rounding is left."""
    values = {"augmentation": "none", "unfrozen_layers": unfrozen, "learning_rate": rate, "tuning_learning_rate": 1e-4}
    values |= {"difference": difference, "pair_augmentation": pairs}
    values |= {"family": "siamese", "holdout": 0.3}
    cached, on_line = (laboratory.run(views=views, **values) for views in (1, 0))
    np.testing.assert_allclose(probabilities(cached), probabilities(on_line), atol=2e-3)
    assert probabilities(cached).std() > 0.01
    for result in on_line.results.values():
        losses = [row["loss"] for row in result.history]
        assert losses[0] - losses[-1] > 0.01  # training moved it further than that


@pytest.mark.parametrize("unfrozen", [0, 1])
def test_siamese_and_pretrained_networks_share_the_activations_of_the_abnormality(laboratory, unfrozen):
    def entries(**values):
        return laboratory.plan(unfrozen_layers=unfrozen, **values).activations()

    pair, single, control = entries(family="siamese"), entries(), entries(control="baseline")
    assert len(pair) == 2 * len(single) == 2 * len(control)
    keys, of_patch, of_baseline = ({entry.key for entry in found} for found in (pair, single, control))
    assert not of_patch & of_baseline
    assert keys == of_patch | of_baseline
    assert {entry.key for entry in pair if entry.job.first == 0} == of_baseline
    assert not {entry.series for entry in single} & {entry.series for entry in control}


def test_two_views_cached_are_two_views_on_line_and_read_what_pretrained_networks_read(laboratory):
    values = {"family": "views", "augmentation": "none", "unfrozen_layers": 1, "holdout": 0.3, "epochs": 8}
    cached, on_line = (laboratory.run(views=views, **values) for views in (1, 0))
    np.testing.assert_allclose(probabilities(cached), probabilities(on_line), atol=2e-3)
    assert probabilities(cached).std() > 0.01
    alone = laboratory.plan(**values | {"family": "pretrained", "views": 1})
    assert [one.key for one in cached.plan.activations()] == [one.key for one in alone.activations()]
    single = int((cached.plan.fits[0].job.places["other_view"] == np.arange(48)).sum())
    assert 0 < single < 48
    assert cached.plan.tags()["mammo.single_views"].startswith(f"{single} training, ")


def test_both_views_of_a_lesion_get_one_answer(laboratory):
    done = laboratory.run(family="views")
    oof = done.oof.sort_values("patch")
    found, other = oof["probability"].to_numpy(), done.plan.fits[0].job.places["other_view"]
    np.testing.assert_allclose(found, found[other], atol=1e-6)
    assert np.unique(found.round(4)).size > 10


def test_a_siamese_network_trained_whole_stores_no_activations(laboratory):
    plan = laboratory.plan(**PAIRS)
    assert plan.activations() == ()
    assert plan.description.trained.index == 0


@pytest.fixture(scope="module")
def planted(tmp_path_factory, phantom):
    """Data of noise, by side: this side of a pair is the brighter one where the abnormality is a calcification."""

    def plant(side):
        where = tmp_path_factory.mktemp("planted")
        rng = np.random.default_rng(0)
        for path in phantom.iterdir():
            (where / path.name).write_bytes(path.read_bytes())
        for stem in ("train", "public_test"):
            labels = targets(np.load(where / f"{stem}_labels.npy")[1::2].astype(int), "mass_calc")
            patches = rng.integers(20_000, 40_000, (2 * len(labels), 32, 32)).astype(np.uint16)
            patches[ROWS[side] :: 2] += 20_000 * labels[:, None, None].astype(np.uint16)
            np.save(where / f"{stem}_tensor.npy", patches)
        return read_patch_set(where)

    return {side: plant(side) for side in ROWS}


@pytest.fixture(scope="module")
def found(laboratory, planted):
    """found(side, control): the AUC of simple texture features on such data; one fold does where all is clear."""

    def find(side, control="none", holdout=0.3):
        done = laboratory.run(**TEXTURE, patch_set=planted[side], control=control, holdout=holdout)
        np.testing.assert_array_equal(done.oof["label"], done.plan.labels[done.oof["patch"]])
        return auc(done)

    return find


def test_the_baseline_control_sees_the_baselines_and_nothing_else(found):
    assert found("baseline", "baseline") > 0.99
    assert found("baseline", holdout=0) < 0.85


def test_the_shuffled_control_loses_what_a_network_finds(found):
    assert found("patch") > 0.99
    assert found("patch", "shuffled", holdout=0) < 0.85


@pytest.mark.parametrize("values", [SCRATCH | {"control": "baseline"}, PAIRS])
def test_networks_trained_on_line_see_the_baselines_too(laboratory, planted, values):
    done = laboratory.run(**values, patch_set=planted["baseline"], holdout=0.3, epochs=8, learning_rate=1e-2)
    assert auc(done) > 0.99


def test_the_shuffled_control_has_other_labels_and_the_same_folds(laboratory):
    network, control = laboratory.plan(), laboratory.plan(control="shuffled")
    assert sorted(control.labels) == sorted(network.labels)
    assert not np.array_equal(control.labels, network.labels)
    np.testing.assert_array_equal(control.labels, laboratory.plan(control="shuffled", epochs=7).labels)
    assert not np.array_equal(control.labels, laboratory.plan(control="shuffled", seed=1).labels)
    np.testing.assert_array_equal(control.folds, network.folds)
    assert not {fit.key for fit in control.fits} & {fit.key for fit in network.fits}


def test_a_holdout_is_one_fold(laboratory):
    done = laboratory.cross_validate(laboratory.plan(holdout=0.3, early_stop=2), figures=True)
    (fit,) = done.plan.fits
    assert (fit.name, fit.fold) == ("fold 1", 0)
    patients = laboratory.patch_set.train.patient_ids
    parts = fit.job.train_rows, fit.job.inner_rows, fit.validation_rows
    sides = [set(patients[rows]) for rows in parts]
    assert all(sides)
    assert not (sides[0] & sides[1] or sides[0] & sides[2] or sides[1] & sides[2])
    assert sorted(np.concatenate(parts)) == list(range(48))
    assert len(fit.validation_rows) == pytest.approx(0.3 * 48, abs=3)
    assert done.oof["patch"].tolist() == list(fit.validation_rows)
    np.testing.assert_array_equal(probabilities(done), done.results["fold 1"].probabilities)
    metrics = laboratory.client.get_run(done.run.id).data.metrics
    assert metrics["fold_accuracy_mean"] == done.fold_scores["accuracy"][0]
    assert metrics["oof_accuracy"] == metrics["fold_accuracy_mean"]
    assert not [name for name in metrics if name.endswith("_sd")]
    drawn = {item.path for item in laboratory.client.list_artifacts(done.run.id, "figures")}
    assert {"figures/folds.png", "figures/roc_folds.png", "figures/calibration_oof.png"} <= drawn


def test_the_refit_beside_a_holdout_sees_every_patient(laboratory):
    _, refit = laboratory.plan(holdout=0.3, final="refit").fits
    assert list(refit.job.train_rows) == list(range(48))
    assert not np.array_equal(laboratory.plan(holdout=0.3, seed=1).folds, laboratory.plan(holdout=0.3).folds)


@pytest.fixture(scope="module", params=[("float32", "16", 0), ("bfloat16", WIDE, 0.3)], ids=["float32", "bfloat16"])
def whole(request, laboratory):
    """A cross-validated network without frozen layers."""
    precision, dense, holdout = request.param
    regular = {"pool_dropout": 0.1, "dropout": 0.2, "l1": 1e-5, "l2": 1e-4}
    return laboratory.run(**SCRATCH, **regular, precision=precision, dense=dense, holdout=holdout)


def used(config):
    """The modules and classes of a saved model's layers."""
    if isinstance(config, list):
        return {found for one in config for found in used(one)}
    if not isinstance(config, dict):
        return set()
    own = (
        {(config["module"], config["class_name"], config["registered_name"])} if "registered_name" in config else set()
    )
    return own | {found for one in config.values() for found in used(one)}


def test_a_network_trained_whole_is_saved_as_keras_own_layers(laboratory, whole):
    patches = laboratory.patch_set.train.abnormality[..., None].astype(np.float32)
    for fit in whole.plan.fits:
        path = whole.results[fit.name].tail
        with zipfile.ZipFile(path) as file:
            named = used(json.loads(file.read("config.json")))
        assert {module.partition(".")[0] for module, _, _ in named if module} == {"keras"}
        tail = keras.saving.load_model(path, compile=False, safe_mode=True)
        normalised = [layer for layer in tail._flatten_layers() if "batch_norm" in layer.name]
        assert {type(layer) for layer in normalised} == {keras.layers.BatchNormalization}
        assert len(normalised) == 2 + len(whole.plan.experiment.model.widths)
        assert all(np.abs(np.asarray(layer.moving_variance) - 1).max() > 1e-3 for layer in normalised)
        found = tail.predict(patches[fit.validation_rows], verbose=0)[:, 0]
        np.testing.assert_allclose(found, whole.results[fit.name].probabilities, atol=1e-5)
    assert probabilities(whole).std() > 1e-3


def test_a_network_trained_whole_is_trained_in_one_stage(whole):
    for result in whole.results.values():
        assert [(row["stage"], row["epoch"]) for row in result.history] == [("network", 1), ("network", 2)]
        assert result.best_epochs == {"network": 2}


def test_its_folds_are_found_again(laboratory, whole):
    again = laboratory.cross_validate(whole.plan, laboratory.session(resume=True))
    assert laboratory.trained(again) == set()
    np.testing.assert_array_equal(probabilities(again), probabilities(whole))
    assert [result.best_epochs for result in again.results.values()] == [{"network": 2}] * len(whole.plan.fits)


def test_its_refit_stops_where_the_folds_did(laboratory):
    small = SCRATCH | {"blocks": "8/2", "dense": "none", "final": "refit"}
    plan = laboratory.plan(**small, epochs=12, early_stop=1, learning_rate=0.01, seed=1)
    done = laboratory.cross_validate(plan)
    stops = [done.results[f"fold {number}"].best_epochs["network"] for number in (1, 2)]
    assert len(done.results["refit"].history) == int(np.median(stops)) < 12
    for name in ("fold 1", "fold 2"):
        losses = [row["inner_loss"] for row in done.results[name].history]
        assert done.results[name].best_epochs["network"] == int(np.argmin(losses)) + 1
