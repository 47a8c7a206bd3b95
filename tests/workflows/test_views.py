"""A model of a lesion's two views from its folds to a champion, with its jobs scripted."""

import json

import numpy as np
import pytest
from support import PHANTOM, Store

from mammo_mlflow.commands.controls import COMMAND
from mammo_mlflow.workflows.controls import experiments_of

TWO = (*PHANTOM, "--phantom-views", "2")
FEW = ("--task", "mass_calc", *TWO, "--weights", "random", "--epochs", "2", "--views", "2", "--threshold", "youden")
MODEL = "mammo-mass_calc-views-convnexttiny-tuned"


@pytest.fixture(scope="module")
def where(tmp_path_factory):
    return tmp_path_factory.mktemp("views")


@pytest.fixture(scope="module")
def run(where, pretend):
    """A command in one store for all."""
    return pretend.at(where)


@pytest.fixture(scope="module")
def store(run, where):
    """The store with a model of views, with all that is asked of it after training."""
    own = ("--unfrozen-layers", "2", "--tta", "flips", "--calibrate", "platt", "--coverage", "0.8", "--unit", "lesion")
    run("views", *FEW, "--backbone", "convnexttiny", *own)
    return Store(where)


@pytest.fixture(scope="module")
def data(store, pretend):
    """The phantom's directory."""
    (found,) = pretend.cache.glob("phantom-*2views")
    return found


def test_it_has_figures_by_lesion_and_tells_single_views(store, data):
    (final,) = [one for one in store.runs(family="views", fit="final")]
    assert {"test_by_lesion_roc_auc", "test_by_lesion_roc_auc_low", "test_lesions"} <= set(final.data.metrics)
    assert final.data.metrics["test_lesions"] < 24
    assert "mammo.single_views" in final.data.tags
    folds = store.frame(next(one for one in store.runs(family="views", backbone="convnexttiny")), "folds.parquet")
    assert folds.groupby("patient_id")["fold"].nunique().max() == 1


def test_predict_and_request_find_the_other_view(run, cli, data, where):
    out = where / "out.csv"
    run("predict", "--model", f"models:/{MODEL}@candidate", "--input", str(data), "--output", str(out))
    assert out.read_text().startswith("row,probability,decision,set")
    request = where / "request.json"
    arguments = ("--inputs", "patch,other_view", "--size", "32", "--output", str(request))
    assert cli("--input", str(data), *arguments, command="request").code == 0
    patches = np.load(data / "public_test_tensor.npy")[1::2]
    given = {name: np.array(one)[..., 0] for name, one in json.loads(request.read_text())["inputs"].items()}
    np.testing.assert_array_equal(given["patch"], patches)
    assert {one.tobytes() for one in given["other_view"].astype(np.uint16)} <= {one.tobytes() for one in patches}
    assert (given["other_view"] != given["patch"]).any()


def test_patches_alone_do_not_tell_the_other_view(run, store, data):
    tensor = str(data / "public_test_tensor.npy")
    outcome = run("predict", "--model", f"models:/{MODEL}@candidate", "--input", tensor, "--output", "o.csv", code=2)
    (line,) = outcome.complaints
    assert "input: expected a data directory, whose public_test_groups.csv tells the views of a lesion" in line


@pytest.mark.parametrize("command", [("views",), ("controls", "--family", "views")])
def test_baselines_have_no_other_view(run, command):
    (line,) = run(*command, *FEW, "--control", "baseline", code=2).complaints
    assert "control: expected shuffled or none for networks of a lesion's two views, found 'baseline'" in line


def test_its_controls_are_shuffled_labels_and_texture():
    options = COMMAND.options(task="mass_calc", family="views", data="phantom")
    found = [(one.family, one.model.backbone, one.cv.control) for one in experiments_of(options)]
    assert found == [("views", "vgg16", "none"), ("views", "vgg16", "shuffled"), ("texture", "laws", "none")]


def test_gates_judge_its_lesions(run):
    said = run("promote", "--task", "mass_calc", "--unit", "lesion", "--calibration", "1").out
    assert "the same 25 lesions and folds" in said
    assert "expected a calibration error of at most 1, found none: fewer than 10 patches of a fold" in said
    assert f"champion of mass_calc: none, as before: {MODEL} v1 fails the gate 'calibrated'" in said
