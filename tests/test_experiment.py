import json

import pytest

from mammo_mlflow import experiment, training_spec
from mammo_mlflow.data.augmentation import POLICIES
from mammo_mlflow.data.patches import TASKS
from mammo_mlflow.errors import UserError
from mammo_mlflow.experiment import build, parameters
from mammo_mlflow.files import canonical_json


def test_names_are_those_of_the_rooms():
    assert tuple(POLICIES) == training_spec.AUGMENTATIONS
    assert tuple(TASKS) == experiment.TASKS


def test_flat_gives_back_what_build_was_given():
    values = {"backbone": "resnet50", "learning_rate": 0.5, "folds": 7, "threshold": "youden", "views": 0}
    made = build("mass_calc", values)
    flat = made.flat()
    assert {name: flat[name] for name in values} == values
    assert {item.name for item in parameters("pretrained")} | {"family", "task"} == set(flat)
    assert build(flat.pop("task"), {name: flat[name] for name in flat if name != "family"}) == made


def test_unknown_parameter_names_the_nearest():
    with pytest.raises(UserError, match="parameter: unknown 'learning_rat', did you mean 'learning_rate'"):
        build("mass_calc", {"learning_rat": 1})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("learning_rate", 0.0),
        ("learning_rate", -1e-3),
        ("learning_rate", float("nan")),
        ("learning_rate", float("inf")),
        ("tuning_learning_rate", -1.0),
        ("folds", 1),
        ("seed", -1),
        ("epochs", 0),
        ("batch_size", 0),
        ("views", -1),
        ("unfrozen_layers", -1),
        ("threads", 0),
        ("dense", "0"),
        ("dropout", 1.0),
        ("dropout", -0.1),
        ("early_stop", -1),
        ("backbone", "vgg61"),
        ("pooling", "mean"),
        ("optimizer", "adm"),
        ("precision", "float16"),
        ("augmentation", "papers"),
        ("final", "refits"),
        ("class_weights", "1:0"),
        ("class_weights", "1:-2"),
        ("class_weights", "equal"),
    ],
)
def test_impossible_value_is_named(name, value):
    with pytest.raises(UserError, match=f"^{name}: ") as problem:
        build("mass_calc", {name: value})
    assert str(value) in str(problem.value)


def test_all_impossible_values_are_told_at_once():
    with pytest.raises(UserError) as problem:
        build("mass_calc", {"folds": 1, "epochs": 0, "pooling": "mean"})
    assert all(f"{name}: " in str(problem.value) for name in ("folds", "epochs", "pooling"))


@pytest.mark.parametrize("text", ["none", "balanced", "1:1.3", "2:1"])
def test_class_weights_that_are_possible(text):
    assert build("mass_calc", {"class_weights": text}).training.class_weights == text


def test_a_key_tells_apart_what_moves_results_and_nothing_else():
    made, parts = build("mass_calc", {}), ("model", "training", "cv")
    key = made.key(*parts, fold=1)
    assert build("mass_calc", {"threshold": "youden", "final": "none"}).key(*parts, fold=1) == key
    changes = {"learning_rate": 0.5, "seed": 1, "folds": 5, "threads": 2, "views": 4, "unfrozen_layers": 1}
    others = [build("mass_calc", {name: value}).key(*parts, fold=1) for name, value in changes.items()]
    others += [build("benign_malignant", {}).key(*parts, fold=1), made.key(*parts, fold=2)]
    assert len({key, *others}) == len(others) + 1


def test_key_changes_with_the_results_version(monkeypatch):
    before = build("mass_calc", {}).key("model")
    monkeypatch.setattr(experiment, "RESULTS_VERSION", experiment.RESULTS_VERSION + 1)
    assert build("mass_calc", {}).key("model") != before


def test_canonical_json_does_not_depend_on_order():
    made = build("mass_calc", {})
    assert canonical_json({"b": 1, "a": made}) == canonical_json({"a": made, "b": 1})
    assert json.loads(canonical_json({"a": made}))["a"]["training"]["epochs"] == 40
    with pytest.raises(TypeError, match="set"):
        canonical_json({"a": {1}})


def test_set_and_registered_name_say_what_is_tuned():
    frozen, tuned = build("mass_calc", {}), build("benign_malignant", {"backbone": "resnet50", "unfrozen_layers": 2})
    assert (frozen.model_set, frozen.registered_name) == ("pretrained", "mammo-mass_calc-pretrained-vgg16")
    assert (tuned.model_set, tuned.registered_name) == ("tuned", "mammo-benign_malignant-pretrained-resnet50-tuned")


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"backbone": "resnet50+densnet121"}, "backbone: unknown 'densnet121', did you mean 'densenet121'"),
        ({"backbone": "resnet50+"}, "backbone: unknown ''"),
        ({"backbone": "vgg16+resnet50+vgg16"}, "backbone: expected each of the joined names once, found 'vgg16+"),
        ({"backbone": "vgg16+resnet50", "unfrozen_layers": 1}, "unfrozen_layers: expected 0 for joined backbones"),
        ({"backbone": "vgg16+resnet50", "views": 0}, "views: expected at least 1 for joined backbones"),
    ],
)
def test_what_cannot_be_joined(values, said):
    with pytest.raises(UserError) as caught:
        build("mass_calc", values)
    (line,) = caught.value.lines
    assert line.startswith(said)


def test_backbones_are_joined_in_the_pretrained_family_alone():
    joined = build("mass_calc", {"backbone": "resnet50+densenet121"})
    assert joined.model.backbones == ("resnet50", "densenet121")
    assert joined.registered_name == "mammo-mass_calc-pretrained-resnet50_densenet121"
    for family in ("siamese", "views"):
        with pytest.raises(UserError, match=r"backbone: unknown 'resnet50\+densenet121'"):
            build("mass_calc", {"backbone": "resnet50+densenet121"}, family)
