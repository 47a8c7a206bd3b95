import hashlib
import json
import multiprocessing
import os

import numpy as np
import pandas as pd
import pytest

from mammo_mlflow.data import phantom
from mammo_mlflow.data.patches import read_patch_set, targets
from mammo_mlflow.data.phantom import PhantomSettings, make_phantom
from mammo_mlflow.errors import UserError

SMALL = PhantomSettings(train=40, test=16, size=32, seed=3)


def contents(directory):
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in directory.iterdir()}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return make_phantom(SMALL, tmp_path_factory.mktemp("root"))


def test_it_reads_back_clean_and_says_what_it_is(made):
    patches = read_patch_set(made, duplicates="error")
    assert patches.phantom
    assert patches.warnings == ()
    assert (len(patches.train), len(patches.test), patches.image_size) == (40, 16, 32)
    content = json.loads((made / "phantom.json").read_text())
    assert {key: content[key] for key in ("train", "test", "size", "seed")} == {
        "train": 40,
        "test": 16,
        "size": 32,
        "seed": 3,
    }
    assert "medical result" in content["note"]


def test_the_same_settings_give_the_same_bytes(made, tmp_path):
    assert contents(make_phantom(SMALL, tmp_path)) == contents(made)


def test_another_seed_gives_other_patches(made, tmp_path):
    other = make_phantom(PhantomSettings(train=40, test=16, size=32, seed=4), tmp_path)
    assert contents(other)["train_tensor.npy"] != contents(made)["train_tensor.npy"]


def test_a_second_call_keeps_what_is_there(tmp_path):
    directory = make_phantom(SMALL, tmp_path)
    before = {path.name: path.stat().st_mtime_ns for path in directory.iterdir()}
    assert make_phantom(SMALL, tmp_path) == directory
    assert {path.name: path.stat().st_mtime_ns for path in directory.iterdir()} == before


def test_classes_follow_the_real_test_set(tmp_path):
    assert phantom._counts_by_type(336).tolist() == [113, 66, 106, 51]
    assert phantom._counts_by_type(16).sum() == 16
    counts = read_patch_set(make_phantom(PhantomSettings(336, 16, 32), tmp_path)).class_counts()["train"]
    assert list(counts.values()) == [113, 66, 106, 51]


def test_patients_have_one_to_four_rows_of_distinct_views(made):
    train, test = pd.read_csv(made / "train_groups.csv"), pd.read_csv(made / "public_test_groups.csv")
    assert list(train.columns) == ["patient_id", "side", "view", "abnormality_id", "density", "subtlety"]
    assert train.groupby("patient_id").size().between(1, 4).all()
    assert train.groupby("patient_id").size().max() > 1
    assert not train.duplicated(["patient_id", "side", "view", "abnormality_id"]).any()
    assert set(train["view"]) == {"CC", "MLO"}
    assert not set(train["patient_id"]) & set(test["patient_id"])


def test_pixels_lie_where_those_of_films_do(tmp_path):
    patches = read_patch_set(make_phantom(PhantomSettings(32, 16, 150), tmp_path)).train.patches.astype(np.float64)
    means, spreads = patches.mean(axis=(1, 2)), patches.std(axis=(1, 2))
    assert means.min() > 8_000
    assert means.max() < 58_000
    assert 1_500 < np.median(spreads) < 6_000
    assert np.median(patches.min(axis=(1, 2))) > 3_000


def rank_auc(scores, labels):
    ranks = pd.Series(scores).rank().to_numpy()
    positive = labels.sum()
    return (ranks[labels == 1].sum() - positive * (positive + 1) / 2) / (positive * (len(labels) - positive))


@pytest.mark.parametrize("statistic", [np.mean, np.std, np.max])
def test_the_baseline_tells_nothing_and_the_lesion_something(tmp_path_factory, statistic):
    root = tmp_path_factory.getbasetemp() / "lesions"
    train = read_patch_set(make_phantom(PhantomSettings(400, 16, 64), root)).train
    baseline = statistic(np.asarray(train.baseline, float), axis=(1, 2))
    for task in ("mass_calc", "benign_malignant"):
        assert abs(rank_auc(baseline, targets(train.types, task)) - 0.5) < 0.1
    middle = np.asarray(train.abnormality, float)[:, 20:44, 20:44].mean(axis=(1, 2))
    around = np.asarray(train.abnormality, float).mean(axis=(1, 2))
    assert 0.65 < rank_auc(around - middle, targets(train.types, "mass_calc")) < 0.97


def ask(root, barrier, answers):
    barrier.wait()
    answers.put(str(make_phantom(SMALL, root)))


def test_processes_that_ask_at_once_get_one_whole_directory(system, made, tmp_path):
    context = multiprocessing.get_context("fork")
    barrier, answers = context.Barrier(3), context.Queue()
    workers = [context.Process(target=ask, args=(tmp_path, barrier, answers)) for _ in range(3)]
    for worker in workers:
        worker.start()
    found = {answers.get(timeout=20) for _ in workers}
    for worker in workers:
        worker.join(20)
        assert worker.exitcode == 0
    assert found == {str(tmp_path / SMALL.directory_name)}
    assert contents(tmp_path / SMALL.directory_name) == contents(made)


def test_it_is_drawn_once_and_appears_only_when_whole(tmp_path, monkeypatch):
    drawn, write = [], phantom._write_phantom

    def watched(settings, directory, progress):
        drawn.append(directory)
        assert not (tmp_path / SMALL.directory_name).exists()
        write(settings, directory, progress)

    monkeypatch.setattr(phantom, "_write_phantom", watched)
    make_phantom(SMALL, tmp_path)
    make_phantom(SMALL, tmp_path)
    assert len(drawn) == 1


def test_a_half_made_one_is_made_again(made, tmp_path, monkeypatch):
    def fail(*arguments):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(phantom, "_draw_pair", fail)
        with pytest.raises(KeyboardInterrupt):
            make_phantom(SMALL, tmp_path)
    assert not (tmp_path / SMALL.directory_name).exists()
    assert contents(make_phantom(SMALL, tmp_path)) == contents(made)
    assert not list(tmp_path.glob("*.partial"))


def test_progress_counts_every_abnormality(tmp_path):
    seen = []
    make_phantom(SMALL, tmp_path, lambda done, total: seen.append((done, total)))
    assert seen == [(done, 56) for done in range(1, 57)]


def test_the_phantom_of_one_view_keeps_its_name_and_its_statement(made):
    assert made.name == "phantom-v1-40-16-32px-seed3"
    assert "views" not in json.loads((made / "phantom.json").read_text())


@pytest.fixture(scope="module")
def two_views(tmp_path_factory):
    settings = PhantomSettings(train=400, test=16, size=32, views=2)
    directory = make_phantom(settings, tmp_path_factory.mktemp("two"))
    assert phantom.settings_from_name(directory) == settings
    return directory


def test_with_two_views_a_lesion_has_both_but_for_the_last_of_a_type(two_views):
    groups = pd.read_csv(two_views / "train_groups.csv")
    views = groups.groupby(["patient_id", "side", "abnormality_id"])["view"].apply(sorted)
    assert sum(found == ["CC", "MLO"] for found in views) >= len(views) - 4
    assert json.loads((two_views / "phantom.json").read_text())["views"] == 2


def test_two_views_have_to_be_compared():
    """A malignant lesion looks suspicious in both or in neither, a benign one in neither or in one."""
    rows = phantom._draw_abnormalities(np.random.default_rng(0), 2000, "P", 2)
    table = pd.DataFrame(rows).groupby(["patient_id", "side", "type"])["suspicion"].agg(["min", "max", "size"])
    table = table[table["size"] == 2].reset_index()
    malignant = table["type"].isin([2, 4])
    both, one = (table["min"] > 0) & (table["max"] > 0), (table["min"] < 0) & (table["max"] > 0)
    assert not one[malignant].any()
    assert not both[~malignant].any()
    assert 0.5 < both[malignant].mean() < 0.8
    assert 0.55 < one[~malignant].mean() < 0.85


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("views", 3),
        ("train", 15),
        ("test", 0),
        ("size", 31),
        ("size", 150.0),
        ("seed", -1),
        ("train", "many"),
        ("test", True),
    ],
)
def test_settings_are_checked(field, value):
    with pytest.raises(UserError, match=f"^phantom: {field}: expected a whole number from") as caught:
        PhantomSettings(**{field: value})
    assert "\n" not in str(caught.value)


def test_a_root_that_is_a_file_is_one_line(tmp_path):
    (tmp_path / "root").write_text("x")
    with pytest.raises(UserError, match="cannot be written") as caught:
        make_phantom(SMALL, tmp_path / "root")
    assert os.linesep not in str(caught.value)
