"""One whole run of the command, looked at from every side, and what happens when it is interrupted."""

import json
import re
import signal
import subprocess

import numpy as np
import pandas as pd
import psutil
import pytest
from mlflow.tracking import MlflowClient
from support import SMALL, Finished, Running, Server, Store, environment, free_port, wait_for

TAGS = {
    "task": "mass_calc",
    "family": "pretrained",
    "backbone": "vgg16",
    "unfrozen": "0",
    "set": "pretrained",
    "preset": "quick",
    "weights": "random",
    "phantom": "true",
}
NAME = "mammo-mass_calc-pretrained-vgg16"


@pytest.fixture(scope="module")
def store(finished):
    return finished.store


@pytest.fixture(scope="module")
def final(store):
    return store.runs(fit="final")[0]


def test_nothing_but_log_lines_on_standard_error(finished):
    assert finished.outcome.complaints == []
    assert all("\r" not in text and "\x1b" not in text for text in (finished.outcome.out, finished.outcome.err))


def test_the_closing_table(finished, store, final):
    lines = finished.outcome.out.splitlines()
    assert "PHANTOM DATA, no medical result" in lines[0]
    row = next(line for line in lines if line.startswith("vgg16"))
    parent = store.tops()[0].data.metrics
    assert f"{parent['fold_accuracy_mean']:.3f} ± {parent['fold_accuracy_sd']:.3f}" in row
    assert f"{parent['fold_roc_auc_mean']:.3f} ± {parent['fold_roc_auc_sd']:.3f}" in row
    for figure in ("accuracy", "roc_auc"):
        low, high = final.data.metrics[f"test_{figure}_low"], final.data.metrics[f"test_{figure}_high"]
        assert f"{final.data.metrics[f'test_{figure}']:.3f} [{low:.3f}, {high:.3f}]" in row
    assert f"{NAME} v1" in row
    assert any("mlflow ui" in line for line in lines)
    assert any(f"models:/{NAME}/1" in line for line in lines)


def test_runs_are_nested_and_finished(store):
    top = store.tops()
    assert len(top) == 1
    assert "[phantom]" in top[0].info.run_name
    assert "[random weights]" in top[0].info.run_name
    children = store.children(top[0])
    assert sorted(run.data.tags["mammo.fit"] for run in children) == [
        "final",
        *(f"fold {number}" for number in range(1, 5)),
        "refit",
    ]
    assert len(store.runs()) == 7
    column = 18  # letters of a run's name that MLflow's table shows
    assert len({run.info.run_name[:column] for run in store.runs()}) == 7
    assert {run.info.status for run in store.runs()} == {"FINISHED"}


def test_every_run_says_what_it_is(store):
    shared = set()
    for run in store.runs():
        tags = {name.removeprefix("mammo."): value for name, value in run.data.tags.items()}
        assert {name: tags[name] for name in TAGS} == TAGS
        hashes = [tags[name] for name in ("key", "data_sha256", "test_sha256", "folds_sha256")]
        assert all(re.fullmatch("[0-9a-f]{64}", value) for value in hashes)
        shared.add(tuple(hashes[1:]))
        if "fit" in tags:
            assert tags["cv_run_id"] == store.tops()[0].info.run_id
    assert len(shared) == 1
    keys = [run.data.tags["mammo.key"] for run in store.runs()]
    assert len(set(keys)) == len(keys)


def test_every_run_has_its_parameters_and_data(store, phantom):
    for run in store.runs():
        assert run.data.params["learning_rate"] == "0.001"
        assert run.data.params["epochs"] == "2"
        inputs = run.inputs.dataset_inputs
        contexts = {tag.value for one in inputs for tag in one.tags}
        assert contexts == ({"training", "test"} if run.data.tags.get("mammo.fit") == "final" else {"training"})
        profile = json.loads(inputs[0].dataset.profile)
        assert profile["abnormalities"] == {"train": 48, "test": 24}
        assert profile["train_sha256"] == run.data.tags["mammo.data_sha256"]
        assert json.loads(inputs[0].dataset.source)["uri"] == f"mammo-data:/{phantom.name}"


def test_folds_tell_every_epoch(store):
    folds = [run for run in store.runs() if run.data.tags.get("mammo.fit", "").startswith("fold")]
    for run in folds:
        for name in ("loss", "accuracy", "val_loss", "val_accuracy"):
            points = store.client.get_metric_history(run.info.run_id, name)
            assert sorted(point.step for point in points) == [1, 2]
        assert 0 < run.data.metrics["training_seconds"] <= run.data.metrics["seconds"]
        assert run.data.metrics["peak_memory_mb"] > 10
    refit = store.runs(fit="refit")[0]
    assert "val_loss" not in refit.data.metrics
    assert store.client.get_metric_history(refit.info.run_id, "loss")[0].step == 1


def test_artifacts(store, final):
    top = store.tops()[0]
    assert {"oof.parquet", "folds.parquet", "figures/folds.png", "figures/roc_folds.png"} <= set(store.artifacts(top))
    assert {"figures/classes.png", "figures/patches.png", "figures/comparison.png"} <= set(store.artifacts(top))
    assert {
        "test.parquet",
        "threshold.json",
        "figures/final_fit.png",
        "figures/confusion.png",
        "figures/roc.png",
        "figures/calibration.png",
    } <= set(store.artifacts(final))
    for run in store.runs():
        fit = run.data.tags.get("mammo.fit", "")
        if fit.startswith("fold"):
            assert set(store.artifacts(run)) == {"fit/fit.json", "fit/predictions.parquet", "fit/tail.keras"}
        if fit == "refit":
            assert set(store.artifacts(run)) == {"fit/fit.json", "fit/tail.keras"}


def test_figures_are_pictures(store):
    for run in store.runs():
        for path in store.artifacts(run):
            if path.endswith(".png"):
                content = store.fetch(run, path).read_bytes()
                assert content.startswith(b"\x89PNG\r\n")
                assert len(content) > 10_000


def test_out_of_fold_predictions_are_those_of_the_folds(store, phantom):
    top = store.tops()[0]
    oof, folds = store.frame(top, "oof.parquet"), store.frame(top, "folds.parquet")
    assert oof["patch"].tolist() == folds["patch"].tolist() == list(range(48))
    np.testing.assert_array_equal(oof["fold"], folds["fold"])
    types = np.load(phantom / "train_labels.npy")[1::2]
    np.testing.assert_array_equal(oof["label"], types >= 3)
    assert oof["probability"].between(0, 1).all()
    patients = pd.read_csv(phantom / "train_groups.csv")["patient_id"]
    assert folds.groupby(patients)["fold"].nunique().max() == 1
    for run in store.children(top):
        if run.data.tags["mammo.fit"].startswith("fold"):
            found = store.frame(run, "fit/predictions.parquet")
            part = oof[oof["fold"] == int(run.data.tags["mammo.fit"].split()[1]) - 1]
            np.testing.assert_array_equal(found["patch"], part["patch"])
            np.testing.assert_array_equal(found["probability"], part["probability"])


def test_parent_and_folds_tell_the_same_figures(store):
    top = store.tops()[0]
    folds = [run for run in store.children(top) if run.data.tags["mammo.fit"].startswith("fold")]
    for name in ("accuracy", "roc_auc", "balanced_accuracy"):
        values = [run.data.metrics[f"fold_{name}"] for run in folds]
        assert top.data.metrics[f"fold_{name}_mean"] == pytest.approx(np.mean(values))
        assert top.data.metrics[f"fold_{name}_sd"] == pytest.approx(np.std(values, ddof=1))
        assert top.data.metrics[f"oof_{name}_low"] <= top.data.metrics[f"oof_{name}"]
        assert top.data.metrics[f"oof_{name}"] <= top.data.metrics[f"oof_{name}_high"]


def test_threshold_was_chosen_on_out_of_fold_predictions(store, final):
    chosen = store.json(final, "threshold.json")
    oof = store.frame(store.tops()[0], "oof.parquet")
    assert chosen["policy"] == "youden"
    assert chosen["chosen_on"] == "out-of-fold predictions"
    assert chosen["transferred"] is True
    positive, negative = (oof.loc[oof["label"] == value, "probability"].to_numpy() for value in (1, 0))

    def youden(at):
        return (positive >= at).mean() + (negative < at).mean()

    best = max(youden(at) for at in [*oof["probability"], 0.0, 1.0])
    assert youden(chosen["threshold"]) == pytest.approx(best)
    assert final.data.metrics["threshold"] == chosen["threshold"]


def test_figures_of_the_test_set_follow_from_the_stored_predictions(store, final):
    test, metrics = store.frame(final, "test.parquet"), final.data.metrics
    for prefix, at in (("test", 0.5), ("test_at_threshold", metrics["threshold"])):
        said, label = test["probability"] >= at, test["label"] == 1
        assert metrics[f"{prefix}_accuracy"] == pytest.approx((said == label).mean())
        assert metrics[f"{prefix}_sensitivity"] == pytest.approx((said & label).sum() / label.sum())
        assert metrics[f"{prefix}_specificity"] == pytest.approx((~said & ~label).sum() / (~label).sum())
        counts = [
            metrics[f"{prefix}_{name}"]
            for name in ("true_negative", "false_positive", "false_negative", "true_positive")
        ]
        assert sum(counts) == 24
        assert counts[3] == (said & label).sum()
    assert metrics["test_brier"] == pytest.approx(((test["probability"] - test["label"]) ** 2).mean())
    assert metrics["test_patients"] == test["patient_id"].nunique() < 24
    assert {"test_by_patient_roc_auc", "test_by_patient_roc_auc_low"} <= set(metrics)


def test_the_registered_model(store, final):
    versions = store.client.search_model_versions(f"name = '{NAME}'")
    assert [version.version for version in versions] in ([1], ["1"])
    version = versions[0]
    assert version.run_id == final.info.run_id
    assert int(store.client.get_model_version_by_alias(NAME, "candidate").version) == 1
    for name, value in TAGS.items():
        if name != "preset":
            assert version.tags[f"mammo.{name}"] == value
    assert float(version.tags["mammo.threshold"]) == final.data.metrics["threshold"]
    assert version.tags["mammo.threshold_transferred"] == "true"
    assert version.tags["mammo.cv_run_id"] == store.tops()[0].info.run_id


@pytest.fixture(scope="module")
def patches(phantom):
    return np.load(phantom / "public_test_tensor.npy")[1::2][..., None]


@pytest.fixture(scope="module")
def stored(store, final):
    return store.frame(final, "test.parquet")["probability"].to_numpy()


@pytest.fixture
def at_the_store(store):
    """MLflow's own functions look where the command wrote."""
    import mlflow

    mlflow.set_tracking_uri(store.uri)
    yield mlflow
    mlflow.set_tracking_uri(None)


def test_the_loaded_models_agree_with_the_stored_predictions(keras, at_the_store, patches, stored):
    mlflow = at_the_store
    keras_model = mlflow.keras.load_model(f"models:/{NAME}/1")
    assert keras_model.input.shape[1:] == (32, 32, 1)
    np.testing.assert_allclose(keras_model.predict(patches, verbose=0)[:, 0], stored, atol=1e-5)
    loaded = mlflow.pyfunc.load_model(f"models:/{NAME}@candidate")
    np.testing.assert_allclose(np.asarray(loaded.predict(patches))[:, 0], stored, atol=1e-5)
    assert stored.std() > 1e-4
    inputs = loaded.metadata.get_input_schema().inputs[0]
    assert (inputs.type, inputs.shape) == (np.dtype("uint16"), (-1, 32, 32, 1))
    example = loaded.input_example
    assert np.asarray(loaded.predict(example)).shape == (len(example), 1)
    assert loaded.metadata.metadata["mammo"]["classes"] == ["mass", "calcification"]


def test_the_served_model_agrees_with_the_stored_predictions(finished, store, patches, stored):
    line = ["mlflow", "models", "serve", "-m", f"models:/{NAME}/1", "--env-manager", "local"]
    line += ["--port", str(free_port())]
    with Server(line, finished.where, environment(finished.cache, MLFLOW_TRACKING_URI=store.uri)) as server:
        status, text = server.post({"inputs": patches.tolist()})
    assert status == 200
    found = np.array(json.loads(text)["predictions"])
    np.testing.assert_allclose(found[:, 0], stored, atol=1e-5)


def test_issued_again_it_trains_nothing(finished: Finished, run_command, store, final):
    outcome = run_command(finished.where, finished.cache, *finished.arguments)
    assert outcome.code == 0
    assert not re.search(r"fold \d: done|refit: done|activations: done|test: done", outcome.err)
    assert outcome.out == finished.outcome.out
    first, second = store.tops()
    before = {run.data.tags["mammo.fit"]: run for run in store.children(first)}
    again = {run.data.tags["mammo.fit"]: run for run in store.children(second)}
    assert set(before) == set(again)
    for name, run in again.items():
        assert run.data.tags["mammo.reused_from"] == before[name].info.run_id
        assert run.info.status == "FINISHED"
    assert len(store.client.search_model_versions(f"name = '{NAME}'")) == 1
    assert again["final"].data.metrics == before["final"].data.metrics
    pd.testing.assert_frame_equal(store.frame(first, "oof.parquet"), store.frame(second, "oof.parquet"))
    pd.testing.assert_frame_equal(
        store.frame(before["final"], "test.parquet"), store.frame(again["final"], "test.parquet")
    )


def test_nothing_is_left_in_the_cache_but_its_entries(finished):
    undelivered = finished.cache / "undelivered"  # a folder that other tests have filled and emptied
    found = [path for path in finished.cache.iterdir() if path != undelivered or any(path.iterdir())]
    names = {re.sub(r"[-.].*", "", path.name) for path in found}
    assert names <= {"activations", "locks", "phantom", "random", "whereabouts"}
    process = finished.store.tops()[0].data.tags["mammo.process"].split(":")[1]
    assert not list((finished.cache / "activations").glob(f"*/lease-{process}-*"))


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory, cache, phantom):
    """A directory for commands that do not end well."""
    return tmp_path_factory.mktemp("interrupted")


@pytest.fixture
def start(interrupted, cache, kill):
    """Start a command there; none outlives the test."""
    started = []

    def begin(*arguments):
        started.append(Running(interrupted, cache, *arguments))
        return started[-1]

    yield begin
    for one in started:
        kill(one.process)
        one.process.wait()


LONG = ["--task", "mass_calc", *SMALL, "--epochs", "60", "--workers", "1"]


def test_killed_at_any_moment_it_leaves_nobody_and_goes_on_where_it_was(start, interrupted, cache, run_command, kill):
    arguments = [*LONG, "--views", "20"]  # activations of its own
    moments = {
        "the fork server starts": lambda one: len(one.family()) >= 2,
        "activations": lambda one: bool(list((cache / "activations").glob("*.partial"))),
        "the second fold": lambda one: one.said("fold 1: done"),
        "assembling": lambda one: one.said("refit: done"),
    }
    for moment, reached in moments.items():
        running = start(*arguments)
        wait_for(lambda one=running, reached=reached: reached(one))
        family = running.family()
        assert family, moment
        kill(running.process)
        running.process.wait()
        _, alive = psutil.wait_procs(family, timeout=30)
        assert alive == [], moment
    store = Store(interrupted)
    done = {run.data.tags["mammo.key"] for run in store.runs("FINISHED") if "mammo.fit" in run.data.tags}
    assert 4 <= len(done) <= 5
    before = store.tops()
    outcome = run_command(interrupted, cache, *arguments)
    assert outcome.code == 0, outcome.err
    assert store.runs("RUNNING") == []
    *killed, last = store.tops()
    assert last.info.status == "FINISHED"
    assert [run.info.run_id for run in killed] == [run.info.run_id for run in before]
    assert len(killed) >= 2
    for run, next_one in zip(killed, [*killed[1:], last], strict=True):
        assert run.info.status == "KILLED"
        assert run.data.tags["mammo.continued_by"] == next_one.info.run_id
    fits = {run.data.tags["mammo.key"]: run for run in store.children(last)}
    reused = {key for key, run in fits.items() if "mammo.reused_from" in run.data.tags}
    assert reused == done
    assert len(fits) == 6


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_told_to_end_it_marks_its_runs(start, interrupted, cache, sent, code):
    client = MlflowClient(f"sqlite:///{interrupted}/mlflow.db")  # made here: only one process may make it
    if client.get_experiment_by_name("mammo") is None:
        client.create_experiment("mammo", artifact_location=(interrupted / "artifacts").as_uri())
    running = start(*LONG, "--seed", str(100 + sent), "--epochs", "2000")
    wait_for(lambda: len(Store(interrupted).runs("RUNNING")) == 2)
    family = running.family()
    running.process.send_signal(sent)
    assert running.process.wait(60) == code
    _, alive = psutil.wait_procs(family, timeout=30)
    assert alive == []
    store = Store(interrupted)
    assert store.runs("RUNNING") == []
    killed = store.tops()[-1]
    assert killed.info.status == "KILLED"
    assert killed.data.tags["mammo.reason"] == "interrupted"
    assert [run.info.status for run in store.children(killed)] == ["KILLED"]
    assert "Traceback" not in running.log.read_text()
    assert not list(cache.glob("scratch-*"))


@pytest.fixture
def small_disk(tmp_path, system):
    """A file system of 2 MB."""
    place = tmp_path / "disk"
    place.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(place)], capture_output=True).returncode:
        pytest.skip("a small file system cannot be mounted here")
    yield place
    subprocess.run(["umount", str(place)], check=True)


@pytest.mark.parametrize("free", [100_000, 1_000_000])
def test_a_full_disk_is_one_line_and_no_run(tmp_path, small_disk, cache, run_command, free):
    """Too full for the phantom, and for the random weights."""
    (small_disk / "other").write_bytes(b"x" * (2 * 2**20 - free))
    outcome = run_command(tmp_path / "here", cache, "--task", "mass_calc", *SMALL, "--cache-dir", str(small_disk))
    assert outcome.code == 2
    assert len(outcome.complaints) == 1, outcome.err
    assert not (tmp_path / "here" / "mlflow.db").exists()


def test_too_small_a_limit_is_one_line_and_no_run(pretend, tmp_path):
    outcome = pretend(tmp_path, "--task", "mass_calc", *SMALL, "--cache-limit-gb", "0.0000001")
    assert outcome.code == 2
    assert "cache_limit_gb" in outcome.complaints[0]
    assert len(outcome.complaints) == 1
    assert Store(tmp_path).runs() == []
