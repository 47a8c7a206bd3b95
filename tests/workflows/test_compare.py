"""Two models side by side on one page, as a user asks for them."""

import base64
import io
import re

import numpy as np
import pytest
from PIL import Image
from support import PHANTOM, Store

from mammo_mlflow.data.patches import read_patch_set
from mammo_mlflow.evaluation.objectives import parse_objectives
from mammo_mlflow.evaluation.paired import verdict
from mammo_mlflow.report.two_models_page import difference_cells
from mammo_mlflow.tracking.compared import chosen_among_run

pytestmark = pytest.mark.usefixtures("system")  # whole commands, too slow for the quick tier

SETTING = ("--task", "mass_calc", "--backbone", "vgg16", "--weights", "random", *PHANTOM, "--folds", "2")
NAMES = ("mammo-mass_calc-pretrained-vgg16/1", "models:/mammo-mass_calc-pretrained-vgg16-tuned/1")


@pytest.fixture(scope="module")
def compared(pretend, tmp_path_factory):
    """Compares in a store with a frozen and a tuned network, and one without a final model; and the store's place."""
    where = tmp_path_factory.mktemp("compared")
    for more in ((), ("--unfrozen-layers", "1"), ("--seed", "3", "--final", "none")):
        assert pretend(where, *SETTING, *more).code == 0

    def compare(*arguments):
        return pretend(where, *arguments, name="compare", executor=False)

    compare.where = where
    return compare


def test_the_page_has_differences_settings_patches_and_curves_and_asks_for_nothing(compared):
    outcome = compared(*NAMES, "--out", "two.html")
    assert outcome.code == 0, outcome.err
    assert "settings that differ: 1;" in outcome.out and "PHANTOM DATA" in outcome.out
    text = (compared.where / "two.html").read_text()
    assert '<th scope="row">unfrozen_layers</th><td title="0">0</td><td title="1">1</td>' in text
    assert 'Of both: <span class="mark">phantom data</span> <span class="mark">random weights</span>' in text
    assert text.count('<figure><img src="data:image/png') == 2  # out of fold and test; runs have none here
    assert not re.search(r"(?:src|href)=\"(?!data:|#)", text)
    store = Store(compared.where)
    value = store.runs(fit="final")[0].data.metrics["test_roc_auc"]
    assert f'<th scope="row">test</th><td>ROC AUC</td><td class="n">{value:.3f} [' in text


def test_the_patches_shown_are_those_named(compared, phantom):
    assert compared(*NAMES, "--out", "shown.html").code == 0
    text = (compared.where / "shown.html").read_text()
    named = re.findall(
        r'<tr><th scope="row">(\d+)</th><td><img class="patch" src="(.*?)" alt="test patch (\d+), ', text
    )
    test = read_patch_set(phantom).test
    assert len(named) == 12
    for row, uri, told in named:
        with Image.open(io.BytesIO(base64.b64decode(uri.removeprefix("data:image/png;base64,")))) as image:
            seen = np.asarray(image)
        patch = test.abnormality[int(row)]
        low, high = np.percentile(patch, [0.5, 99.5])
        assert row == told and seen.dtype == np.uint8
        assert np.abs(seen - 255 * np.clip((patch - low) / (high - low), 0, 1)).max() <= 0.5


def test_without_the_data_a_line_stands_for_the_patches(compared, monkeypatch, tmp_path):
    monkeypatch.setattr("mammo_mlflow.whereabouts.default_cache", lambda: tmp_path)
    outcome = compared(*NAMES, "--out", "blind.html")
    assert outcome.code == 0 and "no patches are shown: the data set is not where it was" in outcome.out
    text = (compared.where / "blind.html").read_text()
    assert "(without pictures: the data set is not where it was)" in text and "<img class" not in text


def test_a_run_stands_for_its_model_and_other_folds_or_the_same_model_are_refused(compared):
    tops = [one for one in Store(compared.where).tops() if one.data.params.get("unfrozen_layers") == "0"]
    run, first = (next(one for one in tops if one.data.params["seed"] == seed) for seed in "30")
    found = compared(first.info.run_id, NAMES[1], "--objective", "accuracy", "--out", "again.html")
    assert found.code == 0, found.err
    assert "lead in accuracy " in found.out and "settings that differ: 1;" in found.out
    again = compared(first.info.run_id, NAMES[0])
    assert again.code == 2 and "second: expected another model than the first" in again.err
    other = compared(run.info.run_id, first.info.run_id)
    assert other.code == 2  # another seed has other folds
    assert "expected models of the same patches and folds" in other.err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("x", NAMES[1]), "model: unknown 'x'"),
        ((NAMES[0], NAMES[0]), "second: expected another model than the first, mammo-mass_calc-"),
        ((*NAMES, "--objective", "roc"), "objective: "),
        (
            (*NAMES, "--out", "nowhere/two.html"),
            "out: expected a file in a directory that exists, found 'nowhere/two.html'",
        ),
        (NAMES[:1], "the following options are required: --second"),
    ],
)
def test_what_cannot_be_compared_is_a_line_and_writes_nothing(compared, arguments, said):
    before = sorted(compared.where.iterdir())
    outcome = compared(*arguments)
    assert outcome.code == 2
    assert f"mammo_mlflow: {said}" in outcome.err and len(outcome.complaints) == 1
    assert sorted(compared.where.iterdir()) == before


def test_predictions_that_are_damaged_are_a_line(compared):
    store = Store(compared.where)
    (run,) = [one for one in store.runs(fit="final") if "tuned" in one.data.tags["mammo.registered_name"]]
    (path,) = compared.where.rglob(f"{run.info.run_id}/artifacts/test.parquet")
    whole = path.read_bytes()
    try:
        path.write_bytes(whole[:100])
        outcome = compared(*NAMES)
    finally:
        path.write_bytes(whole)
    assert outcome.code == 2
    assert "test.parquet: expected the predictions that its run stored, found a damaged file" in outcome.err


def test_models_of_one_name_are_told_apart_by_their_runs(compared, pretend):
    for rate in ("0.01", "0.02"):
        more = ("--learning-rate", rate, "--seed", "4", "--final", "none")
        assert pretend(compared.where, *SETTING, *more).code == 0
    tops = [one for one in Store(compared.where).tops() if one.data.params.get("seed") == "4"]
    found = compared(*(one.info.run_id for one in tops), "--out", "alike.html")
    assert found.code == 0, found.err
    text = (compared.where / "alike.html").read_text()
    assert all(f"(run {one.info.run_id[:8]})" in text for one in tops)


def test_recalibrated_models_are_compared_as_they_are_judged(compared, pretend):
    for layers in "01":
        more = ("--seed", "5", "--unfrozen-layers", layers, "--calibrate", "platt", "--final", "none")
        assert pretend(compared.where, *SETTING, *more).code == 0
    store = Store(compared.where)
    tops = [one for one in store.tops() if one.data.params.get("seed") == "5"]
    found = compared(*(one.info.run_id for one in tops), "--out", "mapped.html")
    assert found.code == 0, found.err
    first, second = (store.frame(one, "oof.parquet").sort_values("patch") for one in tops)

    def otherwise(column):
        return int(((first[column].to_numpy() >= 0.5) != (second[column].to_numpy() >= 0.5)).sum())

    assert otherwise("calibrated") != otherwise("probability")
    assert f"decided otherwise: {otherwise('calibrated')} of {len(first)} out-of-fold patches" in found.out


def test_a_trial_is_the_best_of_its_study(compared, pretend):
    (compared.where / "space.yaml").write_text(
        "family: pretrained\nparameters:\n  learning_rate: {low: 1e-4, high: 1e-2, log: true}\n"
    )
    asked = (*SETTING, "--trials", "3", "--final", "none", "--space", "space.yaml")
    outcome = pretend(compared.where, *asked, name="search")
    assert outcome.code == 0, outcome.err
    store = Store(compared.where)
    trial = store.runs(level="trial", status="FINISHED")[0]
    assert chosen_among_run(store.client, trial, None) == 3
    found = compared(trial.info.run_id, NAMES[1], "--out", "trial.html")
    assert found.code == 0, found.err
    assert "98.33 % interval" in found.out


def test_what_is_not_defined_is_no_number():
    (asked,) = parse_objectives("roc_auc")
    probabilities = np.random.default_rng(0).random((2, 20))
    of_one_class = verdict(asked, np.ones(20, int), *probabilities, names=("a", "b"))
    lead, interval, p = difference_cells(of_one_class)
    assert (lead, interval, p) == ("undefined", "", "")
