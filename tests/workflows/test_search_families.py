"""Studies of networks trained from scratch and of Siamese ones, from the command line to the registered model."""

import json

import optuna
import pytest
from optuna.trial import TrialState
from support import PHANTOM, Store

from mammo_mlflow.experiment import build
from mammo_mlflow.presets import preset_values

CHEAP = ["--task", "mass_calc", *PHANTOM, "--folds", "2", "--precision", "float32"]
CHEAP += ["--fresh-seeds", "0"]
RATES = "learning_rate: {low: 1e-4, high: 1e-2, log: true}"


def found_in(where, outcome):
    """The trials' parameters and settings of a study that ended well, its store and its best trial."""
    assert outcome.code == 0, outcome.err
    assert outcome.complaints == []
    study = optuna.load_study(study_name=None, storage=f"sqlite:///{where}/optuna.db")
    assert {trial.state for trial in study.trials} == {TrialState.COMPLETE}
    trials = [(trial.params, json.loads(trial.user_attrs["setting"])) for trial in study.trials]
    store = Store(where)
    assert {run.info.status for run in store.runs()} == {"FINISHED"}
    assert len(store.runs(level="trial")) == len(trials)
    return trials, store, study.best_trial


@pytest.fixture
def searched(pretend, tmp_path):
    """Makes a study of a space with these lines, its fits and draws scripted, and gives what is in its store."""

    def search(*arguments, lines, command="search"):
        (tmp_path / "space.yaml").write_text("\n".join(lines))
        outcome = pretend(tmp_path, *CHEAP, *arguments, "--space", "space.yaml", name=command)
        return found_in(tmp_path, outcome)

    return search


def is_registered(store, name, best):
    """The best trial's model is registered under this name, and was tested."""
    (version,) = store.client.search_model_versions(f"name = '{name}'")
    assert version.tags["mammo.trial"] == str(best.number)
    top = store.tops()[0].data
    assert (top.tags["mammo.registered_name"], top.tags["mammo.best_trial"]) == (name, str(best.number))
    assert 0 <= top.metrics["test_roc_auc"] <= 1


def test_a_network_trained_from_scratch_is_drawn_trained_and_registered(keras, cli, tmp_path):
    """Drawn by KerasTuner, and trained."""
    arguments = ["--backbone", "m1", "--epochs", "1", "--trials", "2"]
    lines = ["family: scratch", "architecture: scratch", "parameters:", f"  {RATES}"]
    (tmp_path / "space.yaml").write_text("\n".join(lines))
    outcome = cli(*CHEAP, *arguments, "--executor", "inline", "--space", "space.yaml", command="scratch")
    trials, store, best = found_in(tmp_path, outcome)
    params, setting = trials[0]
    paper = preset_values("paper", "m1", "mass_calc", "scratch")
    assert {name: setting[name] for name in ("blocks", "dense", "dropout")} == {
        name: paper[name] for name in ("blocks", "dense", "dropout")
    }
    assert [params[f"filters_{number}"] for number in range(1, params["block_count"] + 1)] == [32, 64, 128, 256]
    assert params["learning_rate"] == 1e-3
    params, setting = trials[1]
    lengths = [len(block.split("-")) for block in setting["blocks"].split(",")]
    assert lengths == [params[f"convolutions_{number}"] for number in range(1, params["block_count"] + 1)]
    assert setting["augmentation"] == "scratch"  # what is not drawn is the preset's
    assert build("mass_calc", setting, "scratch").flat().items() >= setting.items()
    is_registered(store, "mammo-mass_calc-scratch-m1-searched", best)


def test_a_siamese_network_trained_from_scratch(searched):
    lines = ["family: siamese", "parameters:", f"  {RATES}", "  difference: {choices: [subtract, concatenate]}"]
    lines += ["  blocks: {choices: ['4/2', '4/2,8']}", "  dense: '8'", "  pooling: average"]
    arguments = ["--family", "siamese", "--backbone", "scratch", "--dense", "8", "--epochs", "1", "--trials", "2"]
    trials, store, best = searched(*arguments, lines=lines)
    assert trials[0][0].keys() == {"learning_rate", "difference"}  # the paper's blocks are not in this space
    params, setting = trials[1]
    assert params.keys() == {"learning_rate", "difference", "blocks"}
    assert params.items() <= setting.items()
    assert setting["unfrozen_layers"] == 0
    is_registered(store, "mammo-mass_calc-siamese-scratch-searched", best)


def test_a_siamese_network_on_a_pretrained_encoder(searched):
    lines = ["family: siamese", "architecture: head", "parameters:", f"  {RATES}"]
    lines += ["  difference: {choices: [absolute, absolute_product]}", "  unfrozen_layers: {low: 0, high: 1}"]
    arguments = ["--family", "siamese", "--backbone", "vgg16", "--weights", "random", "--views", "1", "--epochs", "1"]
    arguments += ["--tuning-epochs", "1", "--pooling", "average", "--trials", "2", "--final", "none"]
    trials, _, _ = searched(*arguments, lines=lines)
    assert "difference" not in trials[0][0]
    assert trials[0][1]["difference"] == "subtract"
    assert {"difference", "unfrozen_layers", "dense_1"} <= trials[1][0].keys()


def test_one_file_does_not_serve_all_encoders(cli, tmp_path):
    """The fault of the one network that it does not fit is told before anything runs."""
    (tmp_path / "space.yaml").write_text("family: siamese\nparameters: {unfrozen_layers: {low: 0, high: 2}}\n")
    arguments = [*CHEAP, "--family", "siamese", "--backbone", "all", "--weights", "random", "--space", "space.yaml"]
    outcome = cli(*arguments, "--executor", "inline", command="search")
    assert outcome.code == 2
    (line,) = outcome.complaints
    assert "parameters.unfrozen_layers: expected nothing, for siamese scratch has no use for it" in line
    assert not (tmp_path / "optuna.db").exists()


def test_one_study_draws_the_backbone_with_ranges_of_its_own(searched):
    """And registers the best trial's model under the name of its network."""
    lines = [
        "family: pretrained",
        "parameters:",
        "  backbone: {choices: [vgg16, resnet50]}",
        "  learning_rate.vgg16: {low: 1e-6, high: 1e-4, log: true}",
        "  learning_rate.resnet50: {low: 1e-3, high: 1e-2, log: true}",
        "  unfrozen_layers.resnet50: {low: 0, high: 1}",
        "  schedule: {choices: [none, cosine, one_cycle]}",
        "  pooling: average",
    ]
    trials, store, best = searched(
        "--trials", "8", "--pruner", "none", "--weights", "random", lines=lines, command="search"
    )
    assert {setting["backbone"] for _, setting in trials} == {"vgg16", "resnet50"}
    for params, setting in trials[1:]:
        own = setting["backbone"]
        low, high = {"vgg16": (1e-6, 1e-4), "resnet50": (1e-3, 1e-2)}[own]
        assert params[f"learning_rate.{own}"] == setting["learning_rate"]
        assert low <= setting["learning_rate"] <= high
        assert ("unfrozen_layers.resnet50" in params) == (own == "resnet50")
    runs = store.runs(level="trial")
    assert {run.data.tags["mammo.backbone"] for run in runs} == {"vgg16", "resnet50"}
    (study,) = store.tops()
    assert study.data.tags["mammo.backbone"] == "several backbones"
    assert "mass_calc pretrained several backbones" in study.info.run_name
    chosen = trials[best.number][1]["backbone"]
    is_registered(store, f"mammo-mass_calc-pretrained-{chosen}-searched", best)
