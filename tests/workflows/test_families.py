"""The other families as a user runs them, really trained: Siamese models and the conditioned ones on them."""

import json

import keras
import numpy as np
import pytest
from support import PHANTOM, SIAMESE, SOURCES, Server, Store, environment, free_port, inline_commands

from mammo_mlflow.models.siamese import before_head

pytestmark = pytest.mark.usefixtures("keras")

FEW = (*PHANTOM, "--epochs", "2", "--folds", "2")
SMALL_TAIL = ("--dense", "8", "--views", "2")
FROM_BOTH = ("--features-from", SOURCES["features"], "--condition-from", SOURCES["condition"], *SMALL_TAIL)
CONDITIONED = ("--backbone", "a", *FROM_BOTH, *FEW)


@pytest.fixture(scope="module")
def where(tmp_path_factory):
    return tmp_path_factory.mktemp("families")


@pytest.fixture(scope="module")
def run(where, cache, system):
    with inline_commands(where, cache) as run:
        yield run


@pytest.fixture(scope="module")
def store(run, where):
    """Both Siamese models, and the conditioned ones of approaches A and C."""
    for task in ("mass_calc", "benign_malignant"):
        run("siamese", "--task", task, *SIAMESE, *FEW)
    run("conditioned", *CONDITIONED)
    run("conditioned", "--backbone", "c", "--features-from", SOURCES["features"], *SMALL_TAIL, *FEW)
    return Store(where)


@pytest.fixture(scope="module")
def inputs(phantom):
    """The test set as named inputs."""
    tensor = np.load(phantom / "public_test_tensor.npy")
    types = np.load(phantom / "public_test_labels.npy")[1::2]
    return {
        "patch": tensor[1::2][..., None],
        "baseline": tensor[0::2][..., None],
        "abnormality_type": (types > 2).astype(np.float32)[:, None],
    }


def top(store, **tags):
    return next(run for run in store.tops() if all(run.data.tags[f"mammo.{k}"] == v for k, v in tags.items()))


@pytest.mark.parametrize(
    ("tags", "name"),
    [
        ({"family": "siamese", "task": "mass_calc"}, SOURCES["condition"]),
        ({"family": "siamese", "task": "benign_malignant"}, SOURCES["features"]),
        ({"family": "conditioned", "backbone": "a"}, "mammo-benign_malignant-conditioned-a"),
        ({"family": "conditioned", "backbone": "c"}, "mammo-benign_malignant-conditioned-c"),
    ],
)
def test_each_has_folds_figures_and_a_registered_model_that_answers_named_inputs(store, inputs, tags, name):
    import mlflow

    run = top(store, **tags)
    assert run.info.status == "FINISHED"
    assert run.data.tags["mammo.set"] == tags["family"]
    fits = sorted(child.data.tags["mammo.fit"] for child in store.children(run))
    assert fits == ["final", *(f"fold {number}" for number in range(1, 3)), "refit"]
    assert {"figures/folds.png", "figures/roc_folds.png", "oof.parquet"} <= set(store.artifacts(run))
    oof = store.frame(run, "oof.parquet")
    assert len(oof) == 48
    assert oof["probability"].nunique() > 10
    version = store.client.get_model_version_by_alias(name, "candidate")
    mlflow.set_tracking_uri(store.uri)
    try:
        model = mlflow.pyfunc.load_model(f"models:/{name}@candidate")
    finally:
        mlflow.set_tracking_uri(None)
    named = [one.name for one in model.metadata.signature.inputs]
    assert sorted(named) == sorted(
        {"patch", "baseline"} | ({"abnormality_type"} if tags.get("backbone") == "c" else set())
    )
    answer = np.asarray(model.predict({one: inputs[one] for one in named}))[:, 0]
    final = store.client.get_run(version.run_id)
    np.testing.assert_allclose(answer, store.frame(final, "test.parquet")["probability"], atol=1e-5)


def test_nothing_in_a_fold_of_a_conditioned_model_saw_its_patches(store, phantom):
    """Each fold's predictions, computed again by hand from the Siamese run's own fold and out-of-fold predictions."""
    patches = {name: np.load(phantom / "train_tensor.npy")[first::2] for name, first in (("patch", 1), ("baseline", 0))}
    features_run, run = (
        top(store, family="siamese", task="benign_malignant"),
        top(store, family="conditioned", backbone="a"),
    )
    condition = store.frame(top(store, family="siamese", task="mass_calc"), "oof.parquet").set_index("patch")[
        "probability"
    ]
    folds = {child.data.tags["mammo.fit"]: child for child in store.children(run)}
    for child in store.children(features_run):
        fold = child.data.tags["mammo.fit"]
        if not fold.startswith("fold"):
            continue
        predicted = store.frame(folds[fold], "fit/predictions.parquet")
        rows = predicted["patch"].to_numpy()
        assert set(store.frame(child, "fit/predictions.parquet")["patch"]) == set(rows)
        extractor = before_head(keras.saving.load_model(store.fetch(child, "fit/tail.keras"), compile=False))
        found = extractor.predict(
            {name: one[rows].astype(np.float32)[..., None] for name, one in patches.items()}, verbose=0
        )
        tail = keras.saving.load_model(store.fetch(folds[fold], "fit/tail.keras"), compile=False)
        given = condition.loc[rows].to_numpy(np.float32)[:, None]
        answer = tail.predict({"features": found, "condition": given}, verbose=0)[:, 0]
        np.testing.assert_allclose(answer, predicted["probability"], atol=2e-3)  # bfloat16 convolutions, other batches


def test_the_same_command_again_trains_nothing(run, store):
    outcome = run("conditioned", *CONDITIONED)
    assert "3 of 3 fits were finished before" in outcome.err
    runs = [one for one in store.runs(family="conditioned", backbone="a") if "mammo.fit" in one.data.tags]
    assert sum("mammo.reused_from" in one.data.tags for one in runs) == 4
    assert len(store.client.search_model_versions("name = 'mammo-benign_malignant-conditioned-a'")) == 1


def test_a_condition_joined_as_a_class_is_one_in_folds_and_in_the_registered_model(run, store, inputs, phantom):
    """As in the study. The folds' answers and the model's, computed again by hand."""
    import mlflow

    run("conditioned", *CONDITIONED, "--condition", "class")
    (made,) = [one for one in store.tops() if one.data.params.get("condition") == "class"]
    assert "[condition: class]" in made.info.run_name
    assert not any("mammo.reused_from" in one.data.tags for one in store.children(made))
    features_run = top(store, family="siamese", task="benign_malignant")
    condition = store.frame(top(store, family="siamese", task="mass_calc"), "oof.parquet").set_index("patch")
    patches = {name: np.load(phantom / "train_tensor.npy")[first::2] for name, first in (("patch", 1), ("baseline", 0))}
    sources = {child.data.tags["mammo.fit"]: child for child in store.children(features_run)}
    seen = []
    for child in store.children(made):
        fold = child.data.tags["mammo.fit"]
        if not fold.startswith("fold"):
            continue
        predicted = store.frame(child, "fit/predictions.parquet")
        rows = predicted["patch"].to_numpy()
        extractor = before_head(keras.saving.load_model(store.fetch(sources[fold], "fit/tail.keras"), compile=False))
        found = extractor.predict(
            {name: one[rows].astype(np.float32)[..., None] for name, one in patches.items()}, verbose=0
        )
        tail = keras.saving.load_model(store.fetch(child, "fit/tail.keras"), compile=False)
        given = (condition.loc[rows]["probability"].to_numpy() > 0.5).astype(np.float32)[:, None]
        answer = tail.predict({"features": found, "condition": given}, verbose=0)[:, 0]
        np.testing.assert_allclose(answer, predicted["probability"], atol=2e-3)
        seen += list(given[:, 0])
    assert set(seen) == {0, 1}
    name = "mammo-benign_malignant-conditioned-a"
    version = store.client.get_model_version_by_alias(name, "candidate")
    assert version.tags["mammo.cv_run_id"] == made.info.run_id
    mlflow.set_tracking_uri(store.uri)
    try:
        served = mlflow.pyfunc.load_model(f"models:/{name}@candidate")
        source = mlflow.pyfunc.load_model(f"models:/{SOURCES['condition']}@candidate")
    finally:
        mlflow.set_tracking_uri(None)
    given = {one: inputs[one] for one in ("patch", "baseline")}
    stored = store.frame(store.client.get_run(version.run_id), "test.parquet")["probability"]
    np.testing.assert_allclose(np.asarray(served.predict(given))[:, 0], stored, atol=1e-5)
    network = served.get_raw_model()
    classes = keras.Model(network.input, network.get_layer("class").output).predict(given, verbose=0)
    np.testing.assert_array_equal(classes, np.asarray(source.predict(given)) > 0.5)


def test_controls_are_trained_beside_the_network(run):
    arguments = ("--task", "mass_calc", "--family", "scratch", "--backbone", "m2", *PHANTOM, "--epochs", "1")
    outcome = run("controls", *arguments, "--holdout", "0.3", "--blocks", "8/2", "--dense", "8", "--final", "none")
    assert [line.split()[0] for line in outcome.out.splitlines()[2:6]] == ["m2", "m2-baseline", "m2-shuffled", "laws"]


def test_mlflow_serves_named_inputs(store, cache, inputs):
    """MLflow's own server, asked with JSON, as the README tells it."""
    name = "mammo-benign_malignant-conditioned-c"
    line = ["mlflow", "models", "serve", "-m", f"models:/{name}@candidate", "--env-manager", "local"]
    line += ["--port", str(free_port())]
    with Server(line, None, environment(cache, MLFLOW_TRACKING_URI=store.uri)) as server:
        status, text = server.post({"inputs": {key: values[:3].tolist() for key, values in inputs.items()}})
    assert status == 200
    found = np.array(json.loads(text)["predictions"])[:, 0]
    version = store.client.get_model_version_by_alias(name, "candidate")
    stored = store.frame(store.client.get_run(version.run_id), "test.parquet")["probability"][:3]
    np.testing.assert_allclose(found, stored, atol=1e-5)
