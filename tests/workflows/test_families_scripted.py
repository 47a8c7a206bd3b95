"""The other families' commands, their fits scripted: base models found, refused and told, hold-outs, controls."""

import re

import pytest
from support import PHANTOM, SIAMESE, SOURCES, Store, hide_hub

pytestmark = pytest.mark.usefixtures("system")  # whole commands, too slow for the quick tier

FEW = (*PHANTOM, "--epochs", "2")
SMALL_TAIL = ("--dense", "8", "--views", "2")
FROM_BOTH = ("--features-from", SOURCES["features"], "--condition-from", SOURCES["condition"], *SMALL_TAIL)
CONDITIONED = ("--backbone", "a", *FROM_BOTH, *FEW)


@pytest.fixture(scope="module")
def where(tmp_path_factory):
    return tmp_path_factory.mktemp("scripted-families")


@pytest.fixture(scope="module")
def run(where, pretend):
    """A command in one store for all: run("siamese", "--task", …) -> Outcome."""
    return pretend.at(where)


@pytest.fixture(scope="module")
def missing(run):
    """A conditioned model asked for in a store without any model."""
    return run("conditioned", *PHANTOM, code=2)


@pytest.fixture(scope="module")
def store(run, where, missing):
    """Both Siamese models, and the conditioned ones of approaches A and C."""
    for task in ("mass_calc", "benign_malignant"):
        run("siamese", "--task", task, *SIAMESE, *FEW)
    run("conditioned", *CONDITIONED)
    run("conditioned", "--backbone", "c", "--features-from", SOURCES["features"], *SMALL_TAIL, *FEW)
    return Store(where)


@pytest.fixture(scope="module")
def scratch(run, store):
    return run(
        "scratch",
        "--task",
        "mass_calc",
        *FEW,
        "--seeds",
        "2",
        "--backbone",
        "m2",
        "--blocks",
        "8/2,8",
        "--dense",
        "8",
        "--holdout",
        "0.3",
    )


def test_missing_models_are_all_told_with_the_commands_that_make_them(missing):
    wanted = [(family, task) for family in ("siamese", "pretrained") for task in ("mass_calc", "benign_malignant")]
    assert len(missing.complaints) == len(wanted)
    for family, task in wanted:
        backbone = "vgg16" if task == "mass_calc" else "resnet50"
        (line,) = [one for one in missing.complaints if f"no 'mammo-{task}-{family}-{backbone}'" in one]
        assert f"python -m mammo_mlflow {family} --task {task} --backbone {backbone} --phantom-train 48" in line


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--seed", "1"), "features_from: expected a model with the folds of this command, found mammo-benign_"),
        (
            ("--seed", "1"),
            f"make one with: python -m mammo_mlflow siamese --task mass_calc {SIAMESE[0]} scratch --seed 1",
        ),
        (("--folds", "3"), "condition_from: expected a model with the folds of this command"),
        (("--features-from", SOURCES["condition"]), "features_from: expected a model for benign_malignant, found"),
        (
            ("--features-from", "mammo-none@candidate"),
            f"found no 'mammo-none@candidate'; registered for benign_malignant: {SOURCES['features']}\n",
        ),
        (
            ("--features-from", "mammo-benign_malignant-siamese-vgg16-searched"),
            "search --family siamese --task benign_",
        ),
        (
            ("--features-from", f"{SOURCES['features']}/99"),
            f"/99'; registered for benign_malignant: {SOURCES['features']}",
        ),
        (
            ("--features-from", "mammo-benign_malignant-conditioned-c"),
            "a model of pretrained, scratch, siamese, no con",
        ),
        (("--phantom-train", "52"), "trained on other data; make one with: python -m mammo_mlflow siamese"),
        (("--seeds", "2"), "seeds: expected 1 for conditioned models"),
        (("--task", "mass_calc"), "task: expected benign_malignant for conditioned models, found 'mass_calc'"),
        (("--final", "fold_average"), "final: expected refit or none for conditioned models"),
    ],
)
def test_models_that_do_not_fit_are_refused_in_a_line(run, store, arguments, said):
    before = len(store.runs())
    outcome = run("conditioned", *CONDITIONED, *arguments, code=2)
    assert said in outcome.err
    assert all(line.startswith("mammo_mlflow: ") for line in outcome.complaints)
    assert len(store.runs()) == before


def test_a_version_that_fits_is_found_behind_a_candidate_that_does_not(run, store):
    """Trained on other folds, a newer version is the candidate; the older one, on these folds, is what is meant."""
    name = SOURCES["features"]
    run("siamese", "--task", "benign_malignant", *SIAMESE, *FEW, "--folds", "3")
    assert int(store.client.get_model_version_by_alias(name, "candidate").version) == 2
    try:
        run("conditioned", *CONDITIONED, "--learning-rate", "0.002")
        said = run("conditioned", *CONDITIONED, "--features-from", f"{name}/2", code=2).err
        assert f"found {name} v2 with folds=3, seed=0; make one with: python -m mammo_mlflow siamese" in said
    finally:
        store.client.set_registered_model_alias(name, "candidate", "1")


def test_a_project_run_is_told_a_project_run(run, store, monkeypatch):
    given = store.client.create_run(store.experiment_id).info.run_id
    monkeypatch.setenv("MLFLOW_RUN_ID", given)
    said = run("conditioned", *CONDITIONED, "--condition-from", "mammo-mass_calc-pretrained-vgg16-tuned", code=2).err
    wanted = "mlflow run . -e pretrained -P task=mass_calc -P backbone=vgg16 -P unfrozen_layers=1 -P phantom_train=48"
    assert wanted in said
    assert "--env-manager local; registered for mass_calc: mammo-mass_calc-siamese-scratch" in said
    store.client.delete_run(given)


@pytest.mark.parametrize(
    ("name", "arguments", "said"),
    [
        (
            "siamese",
            ("--task", "mass_calc", *SIAMESE, "--views", "3"),
            "views: expected no value beside siamese scratch",
        ),
        (
            "siamese",
            ("--task", "mass_calc", "--backbone", "vgg16", "--blocks", "8"),
            "blocks: expected no value beside",
        ),
        (
            "scratch",
            ("--task", "mass_calc", "--holdout", "0.3", "--folds", "5"),
            "folds: expected no value beside a hold",
        ),
        (
            "conditioned",
            ("--backbone", "c", "--condition-from", "x"),
            "condition_from: expected no value beside approach",
        ),
        (
            "scratch",
            ("--task", "mass_calc", "--backbone", "m1", "--early-stop-on", "scored"),
            "early_stop_on: expected inner where nothing is stopped early (early_stop=0), found 'scored'",
        ),
        (
            "search",
            ("--task", "mass_calc", "--backbone", "m2", "--family", "scratch", "--early-stop-on", "scored"),
            "early_stop_on: expected inner in a search, whose trials are compared by what they score, found 'scored'",
        ),
        (
            "conditioned",
            ("--backbone", "c", "--condition", "class"),
            "condition: expected no value beside approach c, which is given the true type, found class",
        ),
    ],
)
def test_what_a_network_would_ignore_is_refused(run, name, arguments, said):
    outcome = run(name, *arguments, *PHANTOM, code=2)
    (line,) = outcome.complaints
    assert said in line


def test_a_model_whose_runs_were_deleted_can_be_made_again(run, store):
    """By the very command that is told: the version without a run is not taken for it."""
    arguments = ("--task", "benign_malignant", *SIAMESE, *FEW, "--seed", "5")
    run("siamese", *arguments)
    name = SOURCES["features"]
    gone = store.client.get_model_version_by_alias(name, "candidate")
    for one in [one for one in store.runs(family="siamese") if one.data.params.get("seed") == "5"]:
        store.client.delete_run(one.info.run_id)
    said = run("conditioned", *CONDITIONED, "--seed", "5", code=2).err
    assert (
        f"features_from: expected a model whose run is in the store, found {name} v{gone.version} without its run"
        in said
    )
    run("siamese", *arguments)
    assert int(store.client.get_model_version_by_alias(name, "candidate").version) == int(gone.version) + 1


def test_a_hold_out_scores_its_share_once_and_never_takes_the_name_of_the_common_folds(store, scratch, phantom):
    comparison = next(one for one in store.tops() if one.data.tags["mammo.family"] == "scratch")
    runs = store.children(comparison)
    backbones = [one.data.tags["mammo.backbone"] for one in runs]
    assert backbones == ["m2", "m2"]
    for one in runs:
        assert one.data.tags["mammo.set"] == "protocol"
        oof = store.frame(one, "oof.parquet")
        assert 9 <= len(oof) <= 20
        folds = store.frame(one, "folds.parquet")
        assert not set(folds[folds["fold"] == 0]["patient_id"]) & set(folds[folds["fold"] != 0]["patient_id"])
    assert runs[0].data.tags["mammo.registered_name"] == "mammo-mass_calc-scratch-m2-holdout"
    assert "30% held out" in scratch.out


def test_controls_stand_beside_the_network_and_register_nothing(run, store):
    known = {model.name for model in store.client.search_registered_models()}
    arguments = (
        "--task",
        "mass_calc",
        "--family",
        "scratch",
        "--backbone",
        "m1",
        *FEW,
        "--blocks",
        "8/2,8",
        "--dense",
        "8",
    )
    outcome = run("controls", *arguments)
    rows = [line.split()[0] for line in outcome.out.splitlines()[2:6]]
    assert rows == ["m1", "m1-baseline", "m1-shuffled", "laws"]
    for label in rows:
        assert f"{label}: out-of-fold AUC" in outcome.out
    assert "m1 less m1-baseline: " in outcome.out
    assert "m1 less laws: " in outcome.out
    assert "chance is within its interval" in outcome.out or "leaves chance out" in outcome.out
    comparison = store.tops()[-1]
    assert {"adds_to_laws_oof_roc_auc_low", "adds_to_m1-baseline_oof_roc_auc"} <= set(comparison.data.metrics)
    children = store.children(comparison)
    assert [one.data.tags["mammo.control"] for one in children] == ["none", "baseline", "shuffled", "none"]
    assert [one.data.tags["mammo.set"] for one in children] == [
        "protocol",
        "control",
        "control",
        "control",
    ]
    truth = {one.info.run_id: store.frame(one, "oof.parquet")["label"].to_numpy() for one in children}
    labels = [truth[one.info.run_id] for one in children]
    assert (labels[0] == labels[1]).all()
    assert (labels[0] == labels[3]).all()
    assert labels[2].sum() == labels[0].sum()
    assert (labels[2] != labels[0]).any()
    assert {model.name for model in store.client.search_registered_models()} == known


def test_joined_backbones_from_training_to_a_search(pretend, tmp_path):
    """Of the family's own search space, too, what is frozen is not drawn; MLflow's names have no plus in them."""
    joined = ("--task", "mass_calc", "--backbone", "vgg16+resnet50", "--weights", "random", "--folds", "2", *FEW)
    trained = pretend(tmp_path, *joined, "--seeds", "2", "--final", "none", name="pretrained")
    assert trained.code == 0, trained.err
    searched = pretend(tmp_path, *joined, "--trials", "2", "--fresh-seeds", "0", name="search")
    assert searched.code == 0, searched.err
    store = Store(tmp_path)
    (registered,) = store.client.search_registered_models()
    assert registered.name == "mammo-mass_calc-pretrained-vgg16_resnet50-searched"
    trials = store.runs(level="trial")
    assert [run.data.params["unfrozen_layers"] for run in trials] == ["0", "0"]
    assert {run.data.tags["mammo.backbone"] for run in trials} == {"vgg16+resnet50"}
    seeds = [run for run in store.tops() if "vgg16_resnet50_seeds_roc_auc_mean" in run.data.metrics]
    assert len(seeds) == 1


def test_a_backbone_of_keras_hub_without_it_is_a_line(run, monkeypatch):
    how = hide_hub(monkeypatch)
    for backbone in ("dinov2_small", "vgg16+dinov2_small"):
        outcome = run("pretrained", "--task", "mass_calc", "--backbone", backbone, *PHANTOM, code=2)
        line = f"backbone: expected the package keras-hub for 'dinov2_small' {how}$"
        assert re.search(line, outcome.err.strip())
