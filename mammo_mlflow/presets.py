"""The paper's experiments, and a quick one, as data.

Each preset is a table of parameter values by backbone and task. What the paper does not print is marked `not printed`:
the value is then this project's choice. The paper prints the RMSprop rates as 2^-6 and 2^-5; it means 2e-6 and 2e-5.
"""

from __future__ import annotations

from typing import Any

from mammo_mlflow.errors import unknown_name
from mammo_mlflow.experiment import BACKBONES, TASKS

Values = dict[str, Any]

_PAPER_COMMON: Values = {
    "folds": 4,
    "batch_size": 16,
    "dense": "256",
    "augmentation": "paper",  # rotation 0-360 degrees and both flips
    "class_weights": "none",
    "final": "refit",
    "tuning_epochs": 20,  # not printed
}

_VGG16: Values = _PAPER_COMMON | {
    "optimizer": "rmsprop",
    "learning_rate": 2e-6,
    "epochs": 40,
    "final_epochs": 50,
    "pooling": "flatten",  # not printed
    "tuning_learning_rate": 1e-6,  # not printed
}

_RESNET50: Values = _PAPER_COMMON | {
    "optimizer": "adam",
    "learning_rate": 1e-3,
    "batch_norm": True,
    "epochs": 50,
    "final_epochs": 200,
    "pooling": "average",  # not printed
    "tuning_learning_rate": 1e-5,  # not printed
}

_INCEPTIONV3: Values = _PAPER_COMMON | {
    "optimizer": "rmsprop",
    "epochs": 40,
    "final_epochs": 50,
    "pooling": "flatten",  # not printed
    "tuning_learning_rate": 1e-6,  # not printed
}

PAPER: dict[tuple[str, str], Values] = {
    ("vgg16", "mass_calc"): _VGG16,
    ("vgg16", "benign_malignant"): _VGG16,
    ("resnet50", "mass_calc"): _RESNET50,
    ("resnet50", "benign_malignant"): _RESNET50,
    ("inceptionv3", "mass_calc"): _INCEPTIONV3 | {"learning_rate": 2e-5},
    ("inceptionv3", "benign_malignant"): _INCEPTIONV3 | {"learning_rate": 2e-6},
}
"""Chapter 5: `python -m mammo_mlflow pretrained --preset paper --task TASK --backbone BACKBONE --data DIR`.

Cost on 2 cores and the real arrays: about the prefix activations of 24,084 views, once a backbone (see
`docs/benchmarks.md`), then minutes. Figures of the paper, frozen: fold accuracy 0.78, 0.81, 0.81 (mass/calcification)
and 0.64, 0.65, 0.61 (benign/malignant) for VGG16, ResNet50, InceptionV3; test accuracy 0.78, 0.83, 0.77 and 0.64, 0.57,
0.62. With `--unfrozen-layers 1`: 0.85, 0.83, 0.75 and 0.61, 0.65, 0.57 (Tables 5.1, 5.2).
"""

_QUICK: Values = {
    "optimizer": "adam",
    "learning_rate": 1e-3,
    "pooling": "average",
    "epochs": 12,
    "views": 4,
    "tuning_epochs": 4,
    "tuning_learning_rate": 1e-4,
}

QUICK: dict[tuple[str, str], Values] = {(backbone, task): _QUICK for backbone in BACKBONES for task in TASKS}
"""A first look in minutes: Adam 1e-3, average pooling, 12 epochs over 4 cached views. Not a setting of the paper."""

PRESETS: dict[str, dict[tuple[str, str], Values]] = {"paper": PAPER, "quick": QUICK}


def preset_values(preset: str, backbone: str, task: str) -> Values:
    """The parameter values of a preset for one backbone and task, the backbone included.

    Raises `UserError` for an unknown preset, backbone or task.
    """
    for field, name, choices in (("preset", preset, PRESETS), ("backbone", backbone, BACKBONES), ("task", task, TASKS)):
        if name not in choices:
            raise unknown_name(field, name, choices)
    return {"backbone": backbone} | PRESETS[preset][backbone, task]
