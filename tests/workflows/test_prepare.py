"""From DICOM to answers: `prepare`, a family on what it made, and a registered model asked of a film."""

import json
import re

import numpy as np
import pandas as pd
import pytest
from support import Running, Store, wait_for
from support_collection import FILM, MASK, plan, published_path, write_collection

ROWS = plan(80)
WITHOUT = next(row for index, row in enumerate(ROWS) if index % 3 != 2 and row.split == "Test")
"""A row whose mask is missing."""
QUICK = ["--backbone", "vgg16", "--weights", "random", "--epochs", "1", "--views", "1"]
NAME = "mammo-mass_calc-pretrained-vgg16"


@pytest.fixture(scope="module")
def where(tmp_path_factory):
    """A directory with a collection of 80 films."""
    root = tmp_path_factory.mktemp("prepare")
    write_collection(root / "collection", ROWS)
    (root / "collection" / published_path(WITHOUT.subject, MASK, 1)).unlink()
    return root


@pytest.fixture(scope="module")
def prepared(where, cache, run_command, kill):
    """`prepare`, killed half way, and issued again."""
    arguments = ("--source", "collection", "--out", "patches", "--size", "32", "--workers", "2")
    running = Running(where, cache, *arguments, name="prepare")
    wait_for(lambda: running.process.poll() is not None or list(where.glob("patches.partial/films/*.npz")))
    kill(running.process)
    running.process.wait()
    killed = not (where / "patches").exists()
    outcome = run_command(where, cache, *arguments, name="prepare")
    assert outcome.code == 0, outcome.err
    return outcome, killed


@pytest.fixture(scope="module")
def store(where, prepared):
    return Store(where)


@pytest.fixture(scope="module")
def trained(where, prepared, cache, run_command):
    """`pretrained` on what `prepare` made."""
    outcome = run_command(where, cache, "--task", "mass_calc", "--data", "patches", *QUICK)
    assert outcome.code == 0, outcome.err
    return outcome


def test_it_says_what_it_made_and_left_out(prepared, where):
    lines = prepared[0].out.splitlines()
    train, test = (len(pd.read_csv(where / "patches" / f"{stem}_groups.csv")) for stem in ("train", "public_test"))
    assert [line.split()[0] for line in lines[2:4]] == ["train", "test"]
    assert [int(line.split()[-1]) for line in lines[2:4]] == [train, test]
    assert "left out, listed in" in lines[4] and "patient in both splits" in lines[4]
    assert lines[-1].startswith("PHANTOM DATA")
    assert prepared[0].complaints == []


def test_the_run_has_counts_rows_and_sheets(store, where):
    runs = store.runs(family="prepare")
    run = runs[-1]
    assert run.info.status == "FINISHED"
    assert run.data.tags["mammo.phantom"] == "true"
    assert run.data.params["size"] == "32"
    table = pd.read_csv(where / "patches" / "left_out.csv")
    assert run.data.metrics["left_out_patient_in_both_splits"] == len(table) - 1
    assert run.data.metrics["left_out_no_mask_of_the_film_s_size"] == 1
    counts = [value for name, value in run.data.metrics.items() if name.startswith(("train_", "test_"))]
    assert sum(counts) == len(ROWS) - len(table)
    artifacts = store.artifacts(run)
    sheets = [name for name in artifacts if name.startswith("sheets/")]
    assert len(sheets) == 8
    assert {"left_out.csv", "prepare.json", "train_groups.csv", "figures/classes.png"} <= set(artifacts)
    for name in artifacts:
        assert b"Doe" not in store.fetch(run, name).read_bytes()


def test_a_killed_commands_run_is_ended_by_the_next(store, prepared):
    _, killed = prepared
    assert killed
    assert [run.info.status for run in store.runs(family="prepare")] == ["KILLED", "FINISHED"]


def test_folds_of_prepared_data_hold_patients_together(store, trained, where):
    (top,) = store.runs(family="pretrained", fit=None, phantom="true")[:1]
    folds = store.frame(top, "folds.parquet")
    patients = pd.read_csv(where / "patches" / "train_groups.csv")["patient_id"]
    held = pd.DataFrame({"patient": patients, "fold": folds["fold"]}).groupby("patient")["fold"].nunique()
    assert held.max() == 1
    assert top.data.tags["mammo.data_sha256"] == store.runs(family="prepare")[-1].data.tags["mammo.data_sha256"]
    assert "PHANTOM DATA" in trained.out


def test_a_model_is_asked_of_a_film_by_box_or_mask(where, cache, run_command, trained, tmp_path):
    whole = tmp_path / "whole.csv"
    ask = ("--model", f"models:/{NAME}@candidate", "--executor", "inline")
    assert run_command(where, cache, *ask, "--input", "patches", "--output", str(whole), name="predict").code == 0
    groups = pd.read_csv(where / "patches" / "public_test_groups.csv")
    line = groups.iloc[3]
    film = where / "collection" / line["source_file"]
    subject = f"{line['source_file'].split('/')[0]}_{line['abnormality_id']}"
    row = next(row for row in ROWS if row.subject == subject)
    swapped = ROWS.index(row) % 3 == 2
    mask = where / "collection" / published_path(subject, *(("cropped images", 0) if swapped else (MASK, 1)))
    box = ",".join(line["box"].split())
    for place in (("--box", box), ("--mask", str(mask))):
        out = tmp_path / "film.csv"
        outcome = run_command(where, cache, *ask, "--input", str(film), *place, "--output", str(out), name="predict")
        assert outcome.code == 0, outcome.err
        answer = pd.read_csv(out)
        assert answer["probability"].tolist() == pytest.approx([pd.read_csv(whole)["probability"][3]], abs=1e-6)
        assert answer[["box", "baseline_box"]].values.tolist() == [[line["box"], line["baseline_box"]]]


def test_a_request_holds_what_prepare_cut(where, cli, prepared, tmp_path):
    groups = pd.read_csv(where / "patches" / "public_test_groups.csv")
    (of_film,) = [rows for _, rows in list(groups.groupby("source_file")) if len(rows) == 2][:1]
    film, out = where / "collection" / of_film["source_file"].iloc[0], tmp_path / "request.json"
    box = "; ".join(of_film["box"])  # a baseline keeps off both
    both = ("--inputs", "patch,baseline", "--size", "32")
    outcome = cli("--input", str(film), "--box", box, "--output", str(out), *both, command="request")
    assert outcome.code == 0, outcome.err
    inputs = json.loads(out.read_text())["inputs"]
    patches = np.load(where / "patches" / "public_test_tensor.npy")
    np.testing.assert_array_equal(np.array(inputs["baseline"])[..., 0], patches[2 * of_film.index])
    np.testing.assert_array_equal(np.array(inputs["patch"])[..., 0], patches[2 * of_film.index + 1])
    assert cli("--input", str(where / "patches"), "--output", str(out), "--size", "32", command="request").code == 0
    assert np.array(json.loads(out.read_text())["inputs"]).shape == (len(groups), 32, 32, 1)


FILM_PATH = published_path(ROWS[0].film, FILM, 0)
MISTAKES = {
    "no source": (
        ("prepare", "--source", "nowhere", "--out", "o"),
        "source: expected a directory, found '.*nowhere', noth",
    ),
    "no csv": (("prepare", "--source", "collection", "--csv", "no", "--out", "o"), "csv: expected a directory, found"),
    "side": (("prepare", "--source", "collection", "--out", "o", "--baseline-side", "lft"), "did you mean 'left'"),
    "callback": (
        ("prepare", "--source", "collection", "--out", "o", "--without-callback", "x"),
        "without_callback: unkn",
    ),
    "taken": (
        ("prepare", "--source", "collection", "--out", "patches"),
        "out: expected a directory that is not there yet",
    ),
    "no place": (
        ("request", "--input", FILM_PATH, "--output", "r.json"),
        "box: expected a box or a mask, to say where",
    ),
    "bad box": (
        ("request", "--input", FILM_PATH, "--output", "r.json", "--box", "1,2"),
        "box: expected x,y,width,height",
    ),
    "outside": (
        ("request", "--input", FILM_PATH, "--output", "r.json", "--box", "0,0,900,9"),
        "box: expected one in the film",
    ),
    "no film": (
        ("request", "--input", "no.dcm", "--output", "r.json", "--box", "0,0,9,9"),
        "input: expected a DICOM file",
    ),
    "no mask": (
        ("request", "--input", FILM_PATH, "--output", "r.json", "--mask", "no.dcm"),
        "mask: expected a DICOM file",
    ),
    "inputs": (("request", "--input", FILM_PATH, "--output", "r.json", "--inputs", "ptch"), "did you mean 'patch'"),
    "box on arrays": (
        ("request", "--input", "patches", "--output", "r.json", "--box", "1,2,3,4"),
        "box: expected a film",
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_are_one_line(where, prepared, cli, monkeypatch, name):
    (command, *arguments), said = MISTAKES[name]
    monkeypatch.chdir(where)
    arguments = [f"collection/{word}" if word == FILM_PATH else word for word in arguments]
    outcome = cli(*arguments, command=command)
    assert outcome.code == 2
    (line,) = outcome.complaints
    assert re.search(said, line), line
    assert not (where / "o").exists() and not (where / "r.json").exists()
