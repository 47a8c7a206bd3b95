"""Ensembles of registered models, as a user makes and serves them."""

import json
import marshal
import subprocess
import sys
from pathlib import Path

import keras
import mlflow
import numpy as np
import pandas as pd
import pytest
from mlflow.pyfunc.scoring_server.client import ScoringServerClient
from support import PHANTOM, Server, Store, call_command, command, environment, free_port, inline_commands

from mammo_mlflow.ensembles.stackers import STACKERS
from mammo_mlflow.evaluation.metrics import out_of_fold

pytestmark = pytest.mark.usefixtures("keras")

FEW = (*PHANTOM, "--epochs", "2", "--folds", "2", "--weights", "random", "--dense", "8", "--views", "2")
MEMBERS = (
    "mammo-mass_calc-pretrained-vgg16",
    "mammo-mass_calc-pretrained-vgg16-tuned",
    "mammo-mass_calc-siamese-vgg16",
)
NAME = "mammo-mass_calc-ensemble-selected"
REFUSED = "patch 0: expected raw 16-bit values, whole numbers from 0 to 65535, found "
ASKED = ("--task", "mass_calc", "--members", ",".join(MEMBERS), "--folds", "2", *PHANTOM)


@pytest.fixture(scope="module")
def where(tmp_path_factory):
    return tmp_path_factory.mktemp("ensembles")


@pytest.fixture(scope="module")
def run(where, cache, system):
    with inline_commands(where, cache) as run:
        yield run


@pytest.fixture(scope="module")
def nothing(run):
    """An ensemble asked for in a store without any model."""
    return run("ensemble", "--task", "mass_calc", *PHANTOM, code=2)


@pytest.fixture(scope="module")
def store(run, where, nothing):
    """VGG16 frozen and tuned, a Siamese VGG16, and the ensemble of them."""
    run("pretrained", "--task", "mass_calc", "--backbone", "vgg16", *FEW)
    run(
        "pretrained",
        "--task",
        "mass_calc",
        "--backbone",
        "vgg16",
        *FEW,
        "--unfrozen-layers",
        "1",
        "--tuning-epochs",
        "1",
    )
    run("siamese", "--task", "mass_calc", "--backbone", "vgg16", *FEW)
    return Store(where)


@pytest.fixture(scope="module")
def made(run, store):
    return run("ensemble", *ASKED, "--method", "greedy", "--threshold", "youden")


@pytest.fixture(scope="module")
def top(store, made):
    (found,) = [one for one in store.tops() if one.data.tags["mammo.family"] == "ensemble"]
    return found


@pytest.fixture(scope="module")
def answers(store, top, phantom):
    """What the registered model answers to the test set."""
    import mlflow

    tensor = np.load(phantom / "public_test_tensor.npy")
    mlflow.set_tracking_uri(store.uri)
    try:
        model = mlflow.pyfunc.load_model(f"models:/{NAME}@candidate")
    finally:
        mlflow.set_tracking_uri(None)
    assert sorted(one.name for one in model.metadata.signature.inputs) == ["baseline", "patch"]
    return model.predict({"patch": tensor[1::2][..., None], "baseline": tensor[0::2][..., None]})


def test_a_set_of_which_nothing_is_registered_says_what_makes_it(nothing):
    first, *missing = nothing.complaints
    assert "members: expected at least 2 registered models" in first
    assert "found 0 in 'pretrained'" in first
    for backbone in ("vgg16", "resnet50", "inceptionv3"):
        command = f"python -m mammo_mlflow pretrained --task mass_calc --backbone {backbone} --phantom-train 48"
        assert any(command in line for line in missing)


def test_the_registered_model_answers_as_its_members_did_alone(store, top, answers):
    names = ["pretrained-vgg16", "pretrained-vgg16-tuned", "siamese-vgg16"]
    assert list(answers) == ["probability", "decision", *names]
    for name in names:
        version = store.client.get_model_version_by_alias(f"mammo-mass_calc-{name}", "candidate")
        stored = store.frame(store.client.get_run(version.run_id), "test.parquet")["probability"]
        np.testing.assert_allclose(answers[name], stored, atol=1e-5)
    test = store.frame(top, "test.parquet")
    np.testing.assert_allclose(answers["probability"], test["probability"], atol=1e-5)
    weights = pd.read_csv(store.fetch(top, "weights.csv"), index_col="method").loc["greedy", names]
    assert weights.sum() == pytest.approx(1)
    np.testing.assert_allclose(answers["probability"], answers[names].to_numpy() @ weights.to_numpy(), atol=1e-9)
    threshold = store.json(top, "threshold.json")["threshold"]
    assert (answers["decision"] == (answers["probability"] >= threshold)).all()


def test_members_on_one_base_share_it_in_the_model(store, top):
    """Three members on one VGG16: a prefix up to the tuned cut and one from there, no third set of weights."""
    import mlflow

    mlflow.set_tracking_uri(store.uri)
    try:
        path = Path(mlflow.artifacts.download_artifacts(f"models:/{NAME}@candidate"))
    finally:
        mlflow.set_tracking_uri(None)
    (members,) = path.rglob("members.keras")
    model = keras.saving.load_model(members, compile=False, safe_mode=True)
    prefixes = [layer for layer in model.layers if layer.name.startswith("prefix_")]
    assert len(prefixes) == 2
    kernels = [weight for layer in prefixes for weight in layer.weights if len(weight.shape) == 4]
    assert len(kernels) == 13
    assert not list(path.rglob("*.pkl"))


def test_its_run_tells_members_methods_and_the_verdict(store, made, top):
    oof = store.frame(top, "oof.parquet")
    assert len(oof) == 48
    found = out_of_fold("roc_auc", oof["label"], oof["probability"], oof["fold"])
    assert top.data.metrics["nested_greedy"] == pytest.approx(found)
    assert top.data.metrics["oof_roc_auc_low"] <= found <= top.data.metrics["oof_roc_auc_high"]
    assert {
        "figures/members_joining.png",
        "figures/methods.png",
        "figures/disagreement.png",
        "figures/roc_members.png",
    } <= {path for path in store.artifacts(top)}
    assert top.data.tags["mammo.members"].count(" v1") == 3
    assert top.data.tags["mammo.phantom"] == "true"
    assert made.complaints == []
    verdict = top.data.tags["mammo.verdict"]
    assert verdict in made.out
    assert "its best member" in verdict
    assert "PHANTOM DATA" in made.out
    methods = pd.read_csv(store.fetch(top, "methods.csv"))["method"].tolist()
    assert methods == ["average", "grid", "grid_fine", "greedy", *STACKERS, "optuna"]


def test_the_same_command_again_registers_nothing(run, store, made):
    before = len(store.client.search_model_versions(f"name = '{NAME}'"))
    outcome = run("ensemble", *ASKED, "--method", "greedy", "--threshold", "youden")
    assert "was made of the same before and is reused" in outcome.err
    assert len(store.client.search_model_versions(f"name = '{NAME}'")) == before


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ("--seed", "1"),
            "members: expected a model with the folds of this command, found mammo-mass_calc-pretrained-vgg16 v1",
        ),
        (("--members", MEMBERS[0]), "members: expected at least 2 registered models"),
        (("--members", f"{MEMBERS[0]},{MEMBERS[0]}"), "members: expected different names"),
        (("--members", f"{MEMBERS[0]},nothing"), "members: expected a registered model, found no 'nothing'"),
        (("--method", "gredy"), "method: unknown 'gredy', did you mean 'greedy'"),
        (("--objective", "roc_auc,accuracy"), "objective: expected one name"),
        (("--objective", "seconds"), "objective: expected 'seconds' only as the second of two"),
        (("--threshold", "2"), "threshold: expected a number in (0, 1)"),
        (("--task", "mass"), "task: unknown 'mass', did you mean 'mass_calc'"),
        (("--phantom-train", "52"), "trained on other data"),
        (("--backbone", "vgg16"), "option: unknown '--backbone'"),
    ],
)
def test_what_cannot_work_is_a_line_and_no_run(run, store, arguments, said):
    before = len(store.runs())
    outcome = run("ensemble", *ASKED, *arguments, code=2)
    assert any(said in line for line in outcome.complaints), outcome.err
    assert len(store.runs()) == before


@pytest.mark.parametrize("name", [NAME, MEMBERS[2]])
def test_predict_writes_what_the_stored_test_has(run, store, top, phantom, tmp_path, name):
    version = store.client.get_model_version_by_alias(name, "candidate")
    written = tmp_path / "out.csv"
    outcome = predicted(f"models:/{name}@candidate", phantom, written)
    assert f"24 abnormalities by {name} v1" in outcome.out
    assert "PHANTOM DATA" in outcome.out
    table = pd.read_csv(written)
    assert table["row"].tolist() == list(range(1, 48, 2))
    stored = store.frame(store.client.get_run(version.run_id), "test.parquet")["probability"]
    np.testing.assert_allclose(table["probability"], stored, atol=1e-5)
    assert (table["decision"] == (table["probability"] >= float(version.tags["mammo.threshold"]))).all()
    assert (len(table.columns) == 7) == (name == NAME)
    assert table["warning"].isna().all()
    assert not outcome.warnings


def test_predict_draws_a_phantom_of_the_models_size(run, store, top, tmp_path):
    outcome = predicted(f"models:/{MEMBERS[2]}@candidate", "phantom", tmp_path / "out.csv")
    assert f"128 abnormalities by {MEMBERS[2]} v1" in outcome.out
    assert len(pd.read_csv(tmp_path / "out.csv")) == 128


def test_served_it_answers_a_thousand_patches_and_refuses_what_is_none(store, top, cache, phantom, tmp_path):
    """One server, asked of everything, right and wrong, and at the end of what MLflow's own client sends."""
    tensor = np.load(phantom / "public_test_tensor.npy")
    rows = np.arange(1000) % (len(tensor) // 2)
    stored = store.frame(top, "test.parquet")["probability"].to_numpy()
    many = {"patch": tensor[1::2][rows][..., None].tolist(), "baseline": tensor[0::2][rows][..., None].tolist()}
    one = {side: values[:1] for side, values in many.items()}
    pixels = tensor[1:2, ..., None]
    malformed = {
        b"{": "request: expected valid JSON",
        b"[]": "request: expected a JSON dictionary",
        json.dumps({"input": one}).encode(): "did you mean 'inputs'",
        json.dumps({"inputs": {"ptch": 1, "baseline": 1}}).encode(): "did you mean 'patch'",
        json.dumps({"inputs": {"patch": one["patch"]}}).encode(): "inputs: expected baseline, patch, found no baseline",
        json.dumps({"inputs": one | {"patch": [[[[1]]]]}}).encode(): "patch: shape: expected (n, 32, 32, 1)",
        json.dumps({"inputs": one | {"patch": "x"}}).encode(): "'x'",
        json.dumps({"inputs": one | {"patch": []}}).encode(): "found no row",
        json.dumps({"inputs": one | {"patch": many["patch"][:2]}}).encode(): "rows as of patch",
        json.dumps({"dataframe_split": {"columns": ["a"], "data": [[1]]}}).encode(): "dataframe_split: unknown 'a'",
    }
    wrong = {"0.5": 0.5, "12836.5": 12836.5, '"12836"': "12836", "NaN": np.nan, "null": None, "-1": -1, "65536": 65536}
    for found, value in wrong.items():
        values = pixels.astype(object)
        values[0, 3, 4, 0] = value
        body = json.dumps({"inputs": one | {"patch": values.tolist()}}).encode()
        malformed[body] = f"inputs: {REFUSED}{found}"
    scaled = {"patch": (tensor[1:2, ..., None] / 65535).tolist(), "baseline": (tensor[:1, ..., None] / 65535).tolist()}
    malformed[json.dumps({"inputs": scaled}).encode()] = f"inputs: {REFUSED}0."
    odd = {"patch": many["patch"][:3], "baseline": many["baseline"][:3]}
    odd["patch"][1:] = (pixels // 257).tolist() + (pixels * 0).tolist()
    line = [*command("--model", f"models:/{NAME}/1", name="serve"), "--port", str(free_port())]
    with Server(line, None, environment(cache, MLFLOW_TRACKING_URI=store.uri)) as server:
        for body, said in malformed.items():
            status, text = server.post(body)
            refused = json.loads(text)
            assert (status, refused["error_code"]) == (400, "BAD_REQUEST")
            assert "Traceback" not in text
            assert said in refused["message"]
            assert "\n" not in refused["message"]
        status, text = server.post(b"a,b\n1,2\n", "text/csv")
        assert (status, "found 'text/csv'" in text) == (400, True)
        status, text = server.post({"inputs": odd})
        assert status == 200
        first, second = json.loads(text)["warnings"]
        assert first.startswith("patch: no value above 255, as of 8 bits (training patches reach ")
        assert first.endswith("): 1 of 3 (row 1)")
        assert second == "patch: all values are 0: 1 of 3 (row 2)"
        table = pd.DataFrame({side: [np.ravel(one).astype(float).tolist() for one in many[side][3:5]] for side in many})
        client = ScoringServerClient("127.0.0.1", server.port)
        by_client = client.invoke(table).get_predictions()
        assert len(client.invoke(json.dumps({"inputs": odd})).get_predictions()) == 3
        status, text = server.post({"inputs": many})
    assert status == 200
    assert set(json.loads(text)) == {"predictions"}
    answers = pd.DataFrame(json.loads(text)["predictions"])
    np.testing.assert_allclose(answers["probability"], stored[rows], atol=1e-5)
    np.testing.assert_allclose(by_client["probability"], stored[3:5], atol=1e-5)
    assert list(answers)[:2] == ["probability", "decision"]


def test_predict_refuses_what_the_server_does_with_the_same_line(run, store, top, phantom, tmp_path):
    tensor = np.load(phantom / "public_test_tensor.npy")
    spoilt = tensor.astype(float)
    np.save(tmp_path / "patches.npy", spoilt / 65535)
    (line,) = predicted(f"models:/{NAME}/1", tmp_path / "patches.npy", tmp_path / "out.csv", code=2).complaints
    assert f"patches.npy: {REFUSED}0." in line
    for name, value in {"0.5": 0.5, "12836.5": 12836.5, "NaN": np.nan, "-1.0": -1, "65536.0": 65536}.items():
        spoilt[1, 3, 4] = value
        np.save(tmp_path / "patches.npy", spoilt)
        (line,) = predicted(f"models:/{NAME}/1", tmp_path / "patches.npy", tmp_path / "out.csv", code=2).complaints
        assert line.endswith(f"patches.npy: {REFUSED}{name}")
    np.save(tmp_path / "patches.npy", tensor.astype(str))
    (line,) = predicted(f"models:/{NAME}/1", tmp_path / "patches.npy", tmp_path / "out.csv", code=2).complaints
    assert "patches.npy: dtype: expected uint16, found str" in line
    assert not (tmp_path / "out.csv").exists()


def test_predict_takes_whole_numbers_and_warns_of_other_scales(run, store, top, phantom, tmp_path):
    tensor = np.load(phantom / "public_test_tensor.npy")[:8].astype(float)
    tensor[2], tensor[3], tensor[7] = tensor[2] // 257, 0, tensor[7] // 257
    np.save(tmp_path / "patches.npy", tensor)
    outcome = predicted(f"models:/{NAME}/1", tmp_path / "patches.npy", tmp_path / "out.csv")
    tensor[0::2] = np.nan  # a model of patches alone looks at no baseline
    np.save(tmp_path / "alone.npy", tensor)
    predicted(f"{MEMBERS[0]}@candidate", tmp_path / "alone.npy", tmp_path / "alone.csv")
    assert "(training patches reach " in pd.read_csv(tmp_path / "alone.csv")["warning"][3]
    table = pd.read_csv(tmp_path / "out.csv", keep_default_na=False)
    stored = store.frame(top, "test.parquet")["probability"]
    np.testing.assert_allclose(table["probability"][[0, 2]], stored[[0, 2]], atol=1e-5)
    clean, both, _, eight = table["warning"]
    assert (clean, table["warning"][2]) == ("", "")
    assert both.startswith("baseline: no value above 255, as of 8 bits (training patches reach ")
    assert both.endswith("); patch: all values are 0")
    assert eight.startswith("patch: no value above 255, as of 8 bits (")
    (warned,) = [line for line in outcome.warnings if "values as of another scale" in line]
    assert "patch: all values are 0: 1 of 4 (row 3)" in warned
    assert "): 1 of 4 (row 7)" in warned


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--model", "nothing/1"), "model: unknown 'nothing' (one of: mammo-mass_calc-"),
        (("--model", f"{NAME}/1", "--timeout", "0"), "timeout: expected a whole number from 1"),
        (("--model", f"{NAME}/1", "--port", "0"), "port: expected a whole number from 1"),
        (("--model", f"{NAME}/1", "--host", "nowhere.invalid"), "port: expected a host and port to listen at"),
    ],
)
def test_what_cannot_be_served_is_a_line(run, store, top, arguments, said):
    (line,) = call_command("serve", *arguments, code=2).complaints
    assert said in line


def test_overlays_show_every_member(run, store, top, phantom, tmp_path):
    outcome = predicted(f"models:/{NAME}/1", phantom, tmp_path / "out.csv", "--overlays", str(tmp_path / "maps"))
    assert len(list((tmp_path / "maps").glob("row-*.png"))) == 24
    assert "Grad-CAM maps" in outcome.out
    (tmp_path / "file").touch()
    refused = predicted(f"models:/{NAME}/1", phantom, tmp_path / "b.csv", "--overlays", str(tmp_path / "file"), code=2)
    assert "overlays: expected a folder" in refused.complaints[0]
    assert not (tmp_path / "b.csv").exists()


def test_promoted_it_is_the_champion(run, store, top):
    """Of the three members and their ensemble one becomes champion, whatever its score, and answers."""
    asked = ("--task", "mass_calc", "--candidate", f"{NAME}@candidate", "--calibration", "1", "--executor", "inline")
    said = call_command("promote", *asked).out
    assert f"champion of mass_calc: mammo-mass_calc v1 ({NAME} v1), none before" in said
    assert "PHANTOM DATA" in said
    assert store.client.get_model_version_by_alias("mammo-mass_calc", "champion").tags["mammo.method"] == "greedy"


def test_it_stands_beside_a_member_with_all_its_out_of_fold_scores(run, store, top, where):
    assert top.data.tags["mammo.family"] == "ensemble"
    said = run_compare(f"{NAME}/1", f"{MEMBERS[0]}@candidate", where / "joined.html").out
    assert "out-of-fold: " in said and "test: " in said
    text = (where / "joined.html").read_text()
    for metric, name in (("roc_auc", "ROC AUC"), ("accuracy", "accuracy")):
        assert f'<td>{name}</td><td class="n">{top.data.metrics[f"oof_{metric}"]:.3f} [' in text


def run_compare(first, second, out):
    return call_command("compare", "--first", first, "--second", second, "--out", str(out))


def predicted(model, source, output, *more, code=0):
    arguments = ["--model", model, "--input", str(source), "--output", str(output), "--executor", "inline", *more]
    return call_command("predict", *arguments, code=code)


def model_folder(store):
    """Where the store has the files of the registered ensemble."""
    version = store.client.get_model_version_by_alias(NAME, "candidate")
    model = store.client.get_logged_model(version.source.removeprefix("models:/"))
    return Path(model.artifact_location.removeprefix("file://"))


LOAD = "import sys, mlflow; mlflow.pyfunc.load_model(sys.argv[1])"


def test_what_mlflow_compiled_as_it_loaded_the_model_is_left_out(run, store, top, cache, phantom, tmp_path):
    """Python writes compiled code beside the ensemble's: it changes nothing, and is never run in its place."""
    surroundings = environment(cache, MLFLOW_TRACKING_URI=mlflow.get_tracking_uri())
    for name in ("PYTHONDONTWRITEBYTECODE", "PYTHONPYCACHEPREFIX"):
        surroundings.pop(name, None)
    subprocess.run([sys.executable, "-c", LOAD, f"models:/{NAME}@candidate"], env=surroundings, check=True)
    (compiled,) = (model_folder(store) / "__pycache__").iterdir()
    compiled.write_bytes(
        compiled.read_bytes()[:16] + marshal.dumps(compile("raise SystemExit('ran')", "served", "exec"))
    )
    predicted(f"models:/{NAME}@candidate", phantom, tmp_path / "out.csv")
    assert compiled.exists()  # the store is as it was


def test_changed_files_are_refused_before_they_are_loaded(run, store, top, phantom, tmp_path):
    """A byte more in the code of the registered ensemble, which loading would have run."""
    script = model_folder(store) / "served.py"
    before = script.read_text()
    script.write_text(f"raise SystemExit('ran')\n{before}")
    try:
        outcome = predicted(f"models:/{NAME}/1", phantom, tmp_path / "out.csv", code=2)
    finally:
        script.write_text(before)
    (line,) = outcome.complaints
    assert f"model: expected files of {NAME} v1 with sha256" in line
    assert "they were changed" in line
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("model", "source", "said"),
    [
        ("models:/none@champion", None, "model: unknown 'none' (one of: mammo-mass_calc"),
        (f"models:/{NAME}/99", None, f"model: expected one of {NAME}/"),
        (f"{NAME}@candidate", "nowhere.npy", "nowhere.npy: expected a file, found none"),
        (f"{NAME}@candidate", "small.npy", "small.npy: shape: expected (2n, 32, 32), found (2, 8, 8)"),
    ],
)
def test_what_predict_cannot_do_is_a_line(run, store, top, phantom, tmp_path, model, source, said):
    np.save(tmp_path / "small.npy", np.zeros((2, 8, 8), np.uint16))
    given = phantom if source is None else tmp_path / source
    (line,) = predicted(model, given, tmp_path / "out.csv", code=2).complaints
    assert said in line
    assert not (tmp_path / "out.csv").exists()


def test_another_version_makes_the_ensemble_anew_of_the_same_folds(run, store, made, monkeypatch):
    """The last test here: the version that it registers is the newest."""

    def versions():
        return {one.version for one in store.client.search_model_versions(f"name = '{NAME}'")}

    before, runs = versions(), len(store.runs())
    monkeypatch.setattr("mammo_mlflow.ensembles.registered_ensemble.ENSEMBLE_VERSION", 99)
    outcome = run("ensemble", *ASKED, "--method", "greedy", "--threshold", "youden")
    assert "is reused" not in outcome.err
    assert len(versions() - before) == 1
    assert len(store.runs()) == runs + 1  # its own: no fold was trained
