import pytest

from mammo_mlflow.backbones import PAPER_BACKBONES
from mammo_mlflow.errors import UserError
from mammo_mlflow.experiment import build
from mammo_mlflow.presets import PRESETS, networks, preset_values

M1S = ("m1", "m1_author")


@pytest.mark.parametrize(("preset", "entry"), [(name, key) for name, table in PRESETS.items() for key in table])
def test_every_preset_is_an_experiment(preset, entry):
    family, backbone, task = entry
    values = preset_values(preset, backbone, task, family)
    made = build(task, values, family)
    assert made.model.backbone == backbone
    assert {name: made.flat()[name] for name in values} == values


@pytest.mark.parametrize(
    ("backbone", "task", "optimizer", "rate", "epochs", "final_epochs", "batch_norm"),
    [
        ("vgg16", "mass_calc", "rmsprop", 2e-6, 40, 50, False),
        ("vgg16", "benign_malignant", "rmsprop", 2e-6, 40, 50, False),
        ("resnet50", "mass_calc", "adam", 1e-3, 50, 200, True),
        ("resnet50", "benign_malignant", "adam", 1e-3, 50, 200, True),
        ("inceptionv3", "mass_calc", "rmsprop", 2e-5, 40, 50, False),
        ("inceptionv3", "benign_malignant", "rmsprop", 2e-6, 40, 50, False),
    ],
)
def test_the_papers_settings(backbone, task, optimizer, rate, epochs, final_epochs, batch_norm):
    made = build(task, preset_values("paper", backbone, task))
    training = made.training
    assert (training.optimizer, training.learning_rate, training.epochs) == (optimizer, rate, epochs)
    assert (made.final.final_epochs, made.model.batch_norm) == (final_epochs, batch_norm)
    assert (made.cv.folds, training.batch_size, made.model.dense) == (4, 16, "256")
    assert training.augmentation == "paper"


def test_what_all_networks_trained_from_scratch_are():
    """The author's M1 is asked for by its name alone."""
    kept = ("m1_balanced", "m1_early_stop", "m2", "m1_10fold")
    assert networks("scratch", "paper") == networks("scratch", "quick") == kept
    assert networks("scratch", "table") == ("m1", *kept)
    assert networks("siamese", "paper") == ("scratch", *PAPER_BACKBONES)


def test_the_authors_m1_differs_from_m1_in_its_layers_alone():
    m1, author = (build("mass_calc", preset_values("paper", name, "mass_calc", "scratch"), "scratch") for name in M1S)
    assert (m1.training, m1.cv, m1.final) == (author.training, author.cv, author.final)
    assert m1.model.blocks == author.model.blocks
    assert (author.model_set, author.registered_name) == ("scratch", "mammo-mass_calc-scratch-m1_author")


@pytest.mark.parametrize("preset", [name for name in PRESETS if name != "table"])
def test_joined_backbones_have_the_settings_of_one_without_its_own(preset):
    values = preset_values(preset, "vgg16+inceptionv3", "mass_calc")
    assert values == preset_values(preset, "densenet121", "mass_calc") | {"backbone": "vgg16+inceptionv3"}


@pytest.mark.parametrize(
    ("preset", "backbone", "task", "message"),
    [
        ("papper", "vgg16", "mass_calc", "preset: unknown 'papper', did you mean 'paper'"),
        ("paper", "vgg61", "mass_calc", "backbone: unknown 'vgg61', did you mean 'vgg16'"),
        ("paper", "vgg16", "mas_calc", "task: unknown 'mas_calc', did you mean 'mass_calc'"),
    ],
)
def test_unknown_names(preset, backbone, task, message):
    with pytest.raises(UserError, match=message):
        preset_values(preset, backbone, task)
