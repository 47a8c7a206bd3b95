"""Arrays of masses alone: a question needs its own two classes, and says what it lacks."""

import pytest
from support import Store, keep_types

LACKS = "expected mass and calcification abnormalities in train_labels.npy, found "


@pytest.fixture
def masses(phantom, tmp_path):
    return keep_types(phantom, tmp_path / "masses", (1, 2))


@pytest.mark.parametrize(
    ("command", "more", "about"),
    [
        ("pretrained", ["--task", "mass_calc"], "mass_calc"),
        ("pretrained", ["--task", "mass_calc", "--holdout", "0.3", "--final", "fold_average"], "mass_calc"),
        ("scratch", ["--task", "mass_calc"], "mass_calc"),
        ("siamese", ["--task", "mass_calc"], "mass_calc"),
        ("controls", ["--task", "mass_calc"], "mass_calc"),
        ("search", ["--task", "all", "--trials", "2"], "mass_calc"),
        ("ensemble", ["--task", "mass_calc"], "mass_calc"),
        ("conditioned", [], "conditioned"),
        ("reproduce", ["--scale", "full"], "mass_calc"),
    ],
)
def test_what_masses_alone_cannot_answer_is_one_line(cli, masses, tmp_path, command, more, about):
    more = more if command == "reproduce" else [*more, "--executor", "inline"]
    outcome = cli("--data", str(masses), *more, command=command)
    (line,) = outcome.complaints
    assert outcome.code == 2
    assert line.startswith(f"mammo_mlflow: {about}: {LACKS}") and line.endswith(
        "mass and no calcification abnormalities"
    )
    if (tmp_path / "mlflow.db").exists():
        assert Store(tmp_path).runs() == []


def test_every_task_that_lacks_a_class_has_its_line(cli, phantom, tmp_path):
    benign = keep_types(phantom, tmp_path / "benign", (1,))
    outcome = cli("--data", str(benign), "--task", "all", "--trials", "2", "--executor", "inline", command="search")
    assert outcome.code == 2
    assert [line.split(": ")[1] for line in outcome.complaints] == ["mass_calc", "benign_malignant"]


def test_masses_alone_are_learnt_and_a_test_set_of_one_class_is_reported(cli, keras, phantom, tmp_path):
    data = keep_types(phantom, tmp_path / "masses", (1, 2), test=(2,))
    arguments = ["--task", "benign_malignant", "--data", str(data), "--folds", "2", "--executor", "inline"]
    numbers = ["--backbone", "vgg16", "--weights", "random", "--epochs", "1", "--views", "1"]
    outcome = cli(*arguments, *numbers)
    assert outcome.code == 0, outcome.err
    assert "- (patches of one class)" in outcome.out
    store = Store(tmp_path)
    (final,) = store.runs(fit="final")
    metrics = final.data.metrics
    assert {"test_accuracy", "test_sensitivity"} <= set(metrics)
    assert not {"test_roc_auc", "test_specificity", "test_balanced_accuracy"} & set(metrics)
    assert "test_roc_auc: patches of one class" in final.data.tags["mammo.no_interval"]
    assert "figures/roc.png" not in store.artifacts(final) and "figures/confusion.png" in store.artifacts(final)
    outcome = cli("--task", "benign_malignant", "--calibration", "1", "--executor", "inline", command="promote")
    assert outcome.code == 0, outcome.err
    assert "- (patches of one class)" in outcome.out
    outcome = cli("--data", str(data), "--out", str(tmp_path / "report"), command="report")
    assert outcome.code == 0, outcome.err
    page = (tmp_path / "report" / "index.html").read_text()
    assert "no test roc_auc: patches of one class" in page and "not to be had of these training data" in page
