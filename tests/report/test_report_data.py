"""Which run stands for a row, and what is never mixed."""

import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import accuracy_score, roc_auc_score
from support import keep_types
from support_store import REAL

from mammo_mlflow.data.patches import read_patch_set
from mammo_mlflow.data.phantom import PhantomSettings, make_phantom
from mammo_mlflow.report import report_data
from mammo_mlflow.report.comparing import subgroups
from mammo_mlflow.report.export import as_csv, as_latex, as_markdown
from mammo_mlflow.report.paper_tables import ACCURACY, AUC, OPTIMISTIC, VALIDATION
from mammo_mlflow.report.plots import draw_all
from mammo_mlflow.report.report_data import gather_report

OTHER = ("1" * 64, "2" * 64)


def read(models, tmp_path, wanted=None):
    return gather_report(models.client, wanted, tmp_path / "files", lambda *_: None)


def row(report, number, label, task=None):
    for table, rows in report.tables:
        for one in rows:
            if (table.number, one.row.label) == (number, label) and task in (None, table.task):
                return one
    raise LookupError(label)


def test_a_row_has_the_runs_own_values_beside_the_papers(models, tmp_path):
    run = models.model()
    found = row(read(models, tmp_path), "5.1", "VGG16")
    metrics = models.client.get_run(run).data.metrics
    assert found.result.run_id == run
    cell = found.cells[ACCURACY]
    assert (cell.value, cell.low, cell.high) == tuple(metrics[f"test_accuracy{end}"] for end in ("", "_low", "_high"))
    assert (cell.paper.value, cell.paper.source) == (0.78, "table 5.1")
    assert cell.difference == pytest.approx(metrics["test_accuracy"] - 0.78)
    assert found.cells[VALIDATION].sd == 0.02 and math.isnan(found.cells[VALIDATION].difference)
    assert any("section 5.2.1: 0.79" in note for note in found.notes)


def test_no_difference_on_another_test_set(models, tmp_path):
    models.model(types={1: 113, 2: 66, 3: 106, 4: 50})
    report = read(models, tmp_path)
    assert not report.runs.is_the_papers
    assert all(math.isnan(cell.difference) for _, rows in report.tables for one in rows for cell in one.cells.values())


def test_no_difference_on_phantom_data_whatever_its_counts(models, tmp_path):
    models.model(phantom=True)
    report = read(models, tmp_path)
    assert not report.runs.is_the_papers
    assert row(report, "5.1", "VGG16").marks == ("phantom data",)


def test_data_sets_are_never_mixed(models, tmp_path):
    models.model(backbone="resnet50", dataset=OTHER)
    models.model(backbone="vgg16")
    models.model(backbone="inceptionv3", dataset=("3" * 64, REAL[1]))  # the same test set, other training patches
    models.model(backbone="inceptionv3", phantom=True, dataset=("4" * 64, "5" * 64))
    report = read(models, tmp_path)
    assert report.dataset in (REAL, ("3" * 64, REAL[1]))
    shown = {one.result.dataset for _, rows in report.tables for one in rows if one.result}
    assert shown == {report.dataset}
    assert len(report.others) == 3
    assert sorted(count for _, count, _, _ in report.others) == [1, 1, 1]


def test_real_data_come_before_a_newer_phantom(models, tmp_path):
    models.model()
    models.model(phantom=True, dataset=OTHER)
    assert read(models, tmp_path).dataset == REAL


def test_the_papers_protocol_and_settings_before_the_newest(models, tmp_path):
    hold = {"folds": "4", "holdout": "0.3"}
    wanted = models.model(family="scratch", backbone="m1_balanced", params=hold, preset="table")
    models.model(family="scratch", backbone="m1_balanced")
    models.model(family="scratch", backbone="m1_balanced", params=hold, preset="quick")
    found = row(read(models, tmp_path), "4.1", "M1, class balancing")
    assert (found.result.run_id, found.others) == (wanted, 2)
    assert found.cells["accuracy", "train"].value == 0.9
    common = models.model(family="scratch", backbone="m2")
    found = row(read(models, tmp_path), "4.1", "M2, class balancing, early stop")
    assert found.result.run_id == common
    assert "common 4 folds" in found.notes[0]


def test_the_papers_early_stop_is_said_and_never_the_best(models, tmp_path):
    stops = {"folds": "4", "early_stop": "4"}
    models.model(family="scratch", backbone="m2", params=stops, skill=0.3)
    models.model(family="scratch", backbone="m1_early_stop", params=stops | {"early_stop_on": "scored"}, skill=3.0)
    models.model(family="scratch", backbone="m1_balanced", params={"folds": "4", "early_stop_on": "scored"}, skill=0.2)
    report = read(models, tmp_path)
    found = row(report, "4.1", "M1, class balancing, early stop")
    assert "optimistic validation" in found.marks
    assert "early stopping watched the patches of its validation scores, as in the paper" in found.notes
    assert "optimistic validation" not in row(report, "4.1", "M1, class balancing").marks  # it did not stop early
    assert report.tasks[0].best == "M2, class balancing, early stop"


def test_a_condition_given_as_a_class_is_said(models, tmp_path):
    models.model("benign_malignant", "conditioned", "a", params={"condition": "class"})
    found = row(read(models, tmp_path), "8", "A: Siamese sources")
    assert "given the class, as in the paper, not the probability" in found.notes


def test_rows_of_different_devices_say_so(models, tmp_path):
    models.model(keras_backend="jax", device="gpu", device_name="NVIDIA H200")
    models.model(backbone="resnet50", keras_backend="tensorflow", device="cpu")
    models.model(backbone="inceptionv3")  # of an earlier version
    report = read(models, tmp_path)
    assert "computed on NVIDIA H200 with JAX" in row(report, "5.1", "VGG16").notes
    for label in ("ResNet50", "InceptionV3"):
        assert not any("computed on" in note for note in row(report, "5.1", label).notes)


def test_random_weights_and_other_settings_stand_behind(models, tmp_path):
    settings = {"folds": "4", "holdout": "0.0", "epochs": "40", "learning_rate": "2e-06"}
    wanted = models.model(params=settings)
    changed = models.model(params={**settings, "epochs": "1"})
    models.model(weights="random", params=settings)
    report = read(models, tmp_path)
    assert row(report, "5.1", "VGG16").result.run_id == wanted
    models.client.delete_run(wanted)
    found = row(read(models, tmp_path), "5.1", "VGG16")
    assert found.result.run_id == changed
    assert "not the paper's settings: epochs=1" in found.notes


def test_a_hold_out_of_another_size_is_not_the_papers(models, tmp_path):
    models.model(family="scratch", backbone="m2", params={"folds": "4", "holdout": "0.5"})
    found = row(read(models, tmp_path), "4.1", "M2, class balancing, early stop")
    assert any("not the protocol" in note for note in found.notes)


def test_models_that_do_not_say_their_data_stand_for_nothing(models, tmp_path):
    models.model()
    models.model(backbone="resnet50", dataset=("", ""))
    assert row(read(models, tmp_path), "5.1", "ResNet50").result is None


@pytest.mark.parametrize(
    "spoil",
    [
        lambda frame: frame.drop(columns="type"),
        lambda frame: frame.assign(probability=[float("nan")] + [0.5] * (len(frame) - 1)),
        lambda frame: frame.assign(probability=1.5),
        lambda frame: frame.head(0),
    ],
)
def test_damaged_predictions_cost_their_model_alone(models, tmp_path, spoil):
    models.model()
    bad = models.model(backbone="resnet50", params={"holdout": "none", "folds": "x"})
    path = models.client.download_artifacts(bad, "test.parquet", str(tmp_path))
    spoil(pd.read_parquet(path)).to_parquet(path)
    models.client.log_artifact(bad, path)
    report = read(models, tmp_path)
    assert [model.label for model in report.tasks[0].models] == ["VGG16"]
    assert report.warnings[0].startswith("mammo-mass_calc-pretrained-resnet50 v2")


def test_patches_are_those_of_the_row(models, tmp_path):
    models.model()
    models.model(backbone="resnet50", types={1: 20, 2: 20, 3: 20, 4: 20})
    models.model(backbone="inceptionv3", files=False)
    report = read(models, tmp_path)
    assert row(report, "5.1", "VGG16").patches == row(report, "5.1", "InceptionV3").patches == 336
    assert row(report, "5.1", "ResNet50").result is None  # on other patches than the rest: it stands for nothing


def test_the_papers_matrices_are_told(models, tmp_path):
    found = row(read(models, tmp_path), "5.2", "VGG16, fine tuned")
    assert "the paper's confusion matrix, figure 5.24: 187 32 | 100 17" in found.notes
    assert any(
        "figure 8.3: 137 82 | 50 67" in note for note in row(read(models, tmp_path), "8", "A: Siamese sources").notes
    )


def test_controls_searches_and_unfinished_runs_do_not_stand(models, tmp_path):
    models.model(control="shuffled")
    models.model(study="x")
    models.model(task="benign_malignant")
    tags = {"task": "mass_calc", "family": "pretrained", "backbone": "vgg16", "fit": "final"}
    models.run(tags, {"test_roc_auc": 0.9}, status="FAILED")
    found = row(read(models, tmp_path), "5.1", "VGG16")
    assert found.result is None
    assert "python -m mammo_mlflow pretrained --task mass_calc --backbone vgg16" in found.command


def task_of(report, name="mass_calc"):
    return next(task for task in report.tasks if task.name == name)


def test_models_that_stand_for_no_row_are_shown_beside_those_that_do(models, tmp_path):
    older, run, _ = (models.model(backbone="densenet121"), models.model(backbone="densenet121"), models.model())
    both = models.model(family="views", backbone="resnet50", skill=1.5)
    models.model(task="benign_malignant", backbone="densenet121")
    report = read(models, tmp_path)
    task = task_of(report)
    found = {model.label: model.result.run_id for model in task.models}
    assert found == {
        "VGG16": row(report, "5.1", "VGG16").result.run_id,
        "pretrained-densenet121 v2": run,  # its newest version
        "views-resnet50 v4": both,
    }
    groups = {group.title: [model.label for model in group.models] for group in task.groups}
    assert groups == {
        "Other models": ["views-resnet50 v4", "pretrained-densenet121 v2"],
        "Pretrained models, frozen": ["VGG16"],
    }
    assert task.best == "views-resnet50 v4"
    assert len(task.pairs) == 3
    assert {*found.values()} <= {one.run_id for one in report.named}
    assert older not in {one.run_id for one in report.named}


@pytest.mark.parametrize("tags", [{"study": "x"}, {"control": "baseline"}])
def test_a_model_that_a_study_chose_and_a_control_are_shown_and_never_the_best(models, tmp_path, tags):
    models.model(skill=0.5)
    models.model(backbone="densenet121", skill=2.0, **tags)
    task = task_of(read(models, tmp_path))
    assert [model.label for model in task.models] == ["VGG16", "pretrained-densenet121 v2"]
    assert task.best == "VGG16"


def test_of_many_models_that_stand_for_no_row_the_newest_are_shown(models, tmp_path, monkeypatch):
    monkeypatch.setattr(report_data, "MOST_OTHERS", 2)
    for backbone in ("densenet121", "xception", "convnexttiny"):
        models.model(backbone=backbone)
    report = read(models, tmp_path)
    assert [model.label for model in task_of(report).models] == ["pretrained-convnexttiny v3", "pretrained-xception v2"]
    assert "mass_calc: of 3 models that fill no row the 2 newest are shown" in report.warnings


def test_fine_tuned_models_stand_in_their_own_rows(models, tmp_path):
    run = models.model(unfrozen=1)
    report = read(models, tmp_path)
    assert row(report, "5.1", "VGG16").result is None
    assert row(report, "5.1", "VGG16, fine tuned").result.run_id == run


def test_the_papers_weighted_ensemble_is_repeated_and_called_optimistic(models, tmp_path):
    for backbone, skill in (("vgg16", 1), ("resnet50", 2), ("inceptionv3", 0.2)):
        models.model(backbone=backbone, skill=skill, weights="random" if backbone == "inceptionv3" else "imagenet")
    report = read(models, tmp_path)
    found = next(one for table, rows in report.tables for one in rows if one.row.method == OPTIMISTIC)
    assert found.marks == ("random weights", "optimistic")
    assert len(found.members) == 3
    tests = [report.runs.tests[one.run_id] for one in found.members]
    labels = tests[0]["label"].to_numpy()
    best = max(
        accuracy_score(labels, w @ np.stack([t["probability"] for t in tests]) >= 0.5)
        for levels in np.ndindex(4, 4, 4)
        if sum(levels)
        for w in [np.array([0, 0.34, 0.67, 1])[list(levels)]]
        for w in [w / w.sum()]
    )
    assert found.cells[ACCURACY].value == pytest.approx(best)
    assert found.cells[ACCURACY].paper.value == 0.8542


def test_all_pairs_against_scikit_learn_and_the_critical_view(models, tmp_path):
    for backbone, skill in (("vgg16", 0.2), ("resnet50", 2.0), ("inceptionv3", 2.0)):
        models.model(backbone=backbone, skill=skill, seed=len(backbone))
    task = read(models, tmp_path).tasks[0]
    assert len(task.pairs) == 3
    for _, pair in task.pairs.iterrows():
        a, b = (next(m for m in task.models if m.label == pair[name]).test for name in ("first", "second"))
        wanted = roc_auc_score(a["label"], a["probability"]) - roc_auc_score(b["label"], b["probability"])
        assert pair["auc_difference"] == pytest.approx(wanted, abs=1e-9)
        assert pair["low"] < wanted < pair["high"]
        assert pair["delong_p_holm"] >= pair["delong_p"]
    said = " ".join(task.critical)
    assert "better than, VGG16" in said and "within noise" in said


def test_the_reference_of_the_critical_view_is_chosen_out_of_fold(models, tmp_path):
    """The model that is best on the test set is not what the others are held against."""
    models.model(backbone="vgg16", skill=1.0)
    key = models.model(backbone="resnet50", skill=3.0)
    parent = models.client.get_run(key).data.tags["mammo.cv_run_id"]
    models.client.log_metric(parent, "oof_roc_auc", 0.51, timestamp=models.clock + 10**6, step=1)
    models.model(family="scratch", backbone="m2", skill=5.0, params={"holdout": "0.3"})  # of a part of the patients
    assert read(models, tmp_path).tasks[0].best == "VGG16"


def test_predictions_that_are_gone_or_of_other_patches_are_told(models, tmp_path):
    models.model(backbone="vgg16")
    models.model(backbone="resnet50")
    models.model(backbone="inceptionv3", files=False)
    models.model(unfrozen=1, types={1: 10, 2: 10, 3: 10, 4: 10})
    report = read(models, tmp_path)
    assert [line.split(":")[0] for line in report.warnings[:2]] == [
        "mammo-mass_calc-pretrained-inceptionv3 v3",
        "mammo-mass_calc-pretrained-vgg16-tuned v4",
    ]
    assert [model.label for model in report.tasks[0].models] == ["VGG16", "ResNet50"]


def test_tables_as_files(models, tmp_path):
    models.model(weights="random")
    report = read(models, tmp_path)
    table, rows = next(one for one in report.tables if one[0].number == "5.1")
    frame = pd.read_csv(pd.io.common.StringIO(as_csv(report.tables, report.intervals)))
    mine = frame[(frame["table"].astype(str) == "5.1") & (frame["row"] == "VGG16")].set_index(["metric", "split"])
    assert mine.loc[ACCURACY, "study"] == 0.78
    assert mine.loc[AUC, "study_source"] == "figure 5.18"
    assert mine.loc[ACCURACY, "patches"] == 336
    assert set(mine["marks"]) == {"random weights"}
    markdown = as_markdown(table, rows, "caption").splitlines()
    assert len({line.count("|") for line in markdown if line.startswith("|")}) == 1
    assert any(line.startswith("(1) section 5.1.1: 0.77") for line in markdown)
    latex = as_latex(table, rows, "100 % of a_b")
    assert r"100 \% of a\_b" in latex and r"$\pm$" in latex
    columns = {line.count("&") for line in latex.splitlines() if line.endswith(r"\\")}
    assert len(columns) == 1


def test_a_value_without_an_interval_says_why(models, tmp_path):
    models.model(no_interval="test_roc_auc: fewer than 3 patients of a class")
    (row,) = [one for _, rows in read(models, tmp_path).tables for one in rows if one.result]
    assert "no interval of test roc_auc: fewer than 3 patients of a class" in row.notes


def test_the_least_size_of_a_part_counts_patients(models, tmp_path):
    """Thirty patients of one class, and of the other nine with four patches each: thirty-six patches are not enough."""
    patients = np.append(np.repeat(np.arange(9), 4), 100 + np.arange(30))
    labels = (patients < 100).astype(int)
    test = pd.DataFrame({"label": labels, "probability": np.where(labels, 0.9, 0.1), "patient_id": patients})
    models.model()
    (model,) = read(models, tmp_path).tasks[0].models
    model = replace(model, test=test)
    groups = pd.DataFrame({"patient_id": patients, "view": "CC"})
    assert subgroups([model], groups).empty
    more = test.assign(patient_id=np.append(np.arange(36) // 3, patients[36:]))
    (part,) = subgroups([replace(model, test=more)], groups).to_dict("records")
    assert (part["patches"], part["patients"], part["class_1"]) == (66, 42, 36)
    for name in ("roc_auc", "sensitivity", "specificity"):
        low, high = (float(end) for end in part[name].split("[")[1].rstrip("]").split(", "))
        assert part[name].startswith("1.000 ") and 0.6 < low < 0.95 and high == 1
    (alone,) = subgroups([replace(model, test=test.drop(columns="patient_id"))], groups).to_dict("records")
    assert alone["patients"] == ""


def test_a_test_set_of_one_class_leaves_out_what_does_not_exist_and_says_why(models, tmp_path):
    one = {1: 60, 3: 40}  # benign all
    for backbone in ("vgg16", "resnet50", "inceptionv3"):
        models.model("benign_malignant", backbone=backbone, types=one, skill=len(backbone) / 10)
        models.model("benign_malignant", backbone=backbone, types=one, unfrozen=1)
    report = read(models, tmp_path)
    found = row(report, "5.2", "VGG16")
    assert 0 < found.cells[ACCURACY].value < 1 and math.isnan(found.cells[AUC].value)
    assert "no test roc_auc: patches of one class" in found.notes
    weighted = [of for _, rows in report.tables for of in rows if of.row.method == OPTIMISTIC]
    assert any("no weights can be chosen on a test set of one class" in of.notes for of in weighted)
    (task,) = (one for one in report.tasks if one.models)
    assert task.critical[1].startswith("The test set has patches of one class")
    assert task.pairs["delong_p"].isna().all() and task.pairs["mcnemar_p"].notna().all()
    plots = draw_all(report, tmp_path / "figures", lambda *_: None)
    assert {figure.name.split("_")[0] for figure in plots} == {"confusion", "cost", "forest"}
    for table, rows in report.tables:
        if table.number == "5.2":
            assert "| - |" in as_markdown(table, rows, "")


def test_rows_that_masses_alone_cannot_fill_say_so_in_place_of_a_command(models, tmp_path):
    source = make_phantom(PhantomSettings(train=48, test=24, size=32), tmp_path / "cache")
    data = read_patch_set(keep_types(source, tmp_path / "masses", (1, 2)))
    dataset = (data.train_sha256, data.test_sha256)
    types = {kind: int((data.test.types == kind).sum()) for kind in (1, 2)}
    models.model("benign_malignant", types=types, phantom=True, dataset=dataset, data=data.directory)
    report = read(models, tmp_path, data)
    assert not report.runs.is_the_papers
    lacking = f"not to be had of these training data: {len(data.train)} mass and no calcification"
    for table, rows in report.tables:
        for one in rows:
            if table.task == "mass_calc" or one.row.family == "conditioned":
                assert (one.command, lacking in one.notes) == ("", one.row.method != OPTIMISTIC)
            elif one.result is None:
                assert one.command.startswith("python -m mammo_mlflow ")
    draw_all(report, tmp_path / "figures", lambda *_: None)
