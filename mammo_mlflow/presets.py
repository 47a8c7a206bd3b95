"""Presets: tables of parameter values for the paper's experiments, and for quick ones.

Each preset is a table of parameter values by family, network and task. What the paper does not print is marked `not
printed`: the value is then this project's choice. The paper prints the RMSprop rates as 2^-6 and 2^-5; it means 2e-6
and 2e-5.
"""

from __future__ import annotations

from mammo_mlflow import checks
from mammo_mlflow.backbones import BACKBONES, PAPER_BACKBONES
from mammo_mlflow.errors import UserError, expected
from mammo_mlflow.experiment import FAMILIES, NETWORKS, TASKS, network_of
from mammo_mlflow.names import registered_name

Values = dict[str, checks.Value]
Table = dict[tuple[str, str, str], Values]
"""Parameter values by family, network (`backbone`) and task."""

_COMMON: Values = {
    "folds": 4,
    "batch_size": 16,
    "final": "refit",
    "optimizer": "adam",  # not printed for chapters 4 and 8, nor is the learning rate
    "learning_rate": 1e-3,
}

_PAPER_COMMON: Values = _COMMON | {
    "dense": "256",
    "augmentation": "paper",  # rotation 0-360 degrees and both flips
    "class_weights": "none",
    "epochs": 40,
    "tuning_learning_rate": 1e-5,  # not printed
    "tuning_epochs": 20,  # not printed
}
"""What all backbones have; a row of `BACKBONES` says what is otherwise."""

_CHAPTER_5: Table = {
    ("pretrained", name, task): _PAPER_COMMON | {"pooling": row.pooling} | row.settings
    for name, row in BACKBONES.items()
    for task in TASKS
}
_CHAPTER_5["pretrained", "inceptionv3", "mass_calc"] |= {"learning_rate": 2e-5}
"""`python -m mammo_mlflow pretrained --preset paper --task TASK --backbone BACKBONE --data DIR`.

Cost on 2 cores and the real arrays: about the prefix activations of 24,084 views, once a backbone (see
`docs/benchmarks.md`), then minutes. Results of the paper, frozen: fold accuracy 0.78, 0.81, 0.81 (mass/calcification)
and 0.64, 0.65, 0.61 (benign/malignant) for VGG16, ResNet50, InceptionV3; test accuracy 0.78, 0.83, 0.77 and 0.64, 0.57,
0.62. With `--unfrozen-layers 1`: 0.85, 0.83, 0.75 and 0.61, 0.65, 0.57 (Tables 5.1, 5.2).
"""

_M1: Values = _COMMON | {
    "blocks": "32/2-32-32,64-64,128-128,256",  # Scuccimarra's model 1.0.0.35 without its last 512 and pool
    "convolution_batch_norm": True,
    "pool_dropout": 0.1,
    "pooling": "flatten",
    "dense": "2048-2048",
    "dense_batch_norm": True,
    "dropout": 0.5,
    "augmentation": "scratch",  # the paper's rotation and flips, with shifts, shear and zoom (code 4.1)
    "class_weights": "none",
    "epochs": 30,
}

_SCRATCH: dict[str, Values] = {
    "m1": _M1,
    "m1_balanced": _M1 | {"class_weights": "balanced"},
    "m1_early_stop": _M1 | {"class_weights": "balanced", "epochs": 80, "early_stop": 4},
    "m2": _M1 | {"class_weights": "balanced", "early_stop": 4, "l1": 1e-5, "l2": 1e-4},
    "m1_10fold": _M1,
    # the layers of 1.0.0.35 as its author published them (docs/networks.md); everything else is as in `m1`
    "m1_author": _M1
    | {
        "first_pool": 3,
        "pool_padding": "same",
        "convolution_batch_norm_momentum": 0.99,
        "feature_dropout": 0.5,
        "l2": 5e-6,  # TensorFlow 1 halved the sum of squares: 1e-5 there
        "dense_l2": 1.245e-3,  # beside the above, which makes 1.25e-3: 2.5e-3 there
    },
}

_CHAPTER_4: Table = {
    ("scratch", name, task): {**values, "epochs": 25} if (name, task) == ("m1_10fold", "mass_calc") else values
    for name, values in _SCRATCH.items()
    for task in TASKS
}
"""`python -m mammo_mlflow scratch --preset paper --task TASK --backbone SETTING --data DIR`, on the common 4 folds.

`backbone=all` is the four settings that the paper keeps: class balancing, early stop, M2, and the ten folds' (25 epochs
for mass/calcification, 30 for benign/malignant). `m1_author` stands beside `m1`, with other layers and no result of the
paper. Cost on 2 cores and the real arrays: `docs/benchmarks.md`.
"""

_TABLES_4: Table = {
    key: {**values, "folds": 10} if key[1] == "m1_10fold" else {**values, "holdout": 0.3, "final": "fold_average"}
    for key, values in _CHAPTER_4.items()
}
"""`python -m mammo_mlflow scratch --preset table --task TASK --data DIR`: the five rows of Tables 4.1 and 4.2.

The first four train on 70 % of the patients, and it is that very model that is tested; the last has ten folds. Results
of the paper, test accuracy, mass/calcification: 0.67, 0.72, 0.78, 0.75, 0.80; benign/malignant: 0.43, 0.64, 0.65, 0.65,
0.65. Early stopping watches an inner tenth of the training patients here, not the 30 % that are scored.
"""

_SIAMESE: Values = _PAPER_COMMON | {  # epochs and fine tuning not printed
    "difference": "subtract",  # the second, more successful layer of the paper (code 6.3)
    "pair_augmentation": "independent",  # two generators with a `next` each (code 6.1); a common seed is not printed
}

_SIAMESE_SCRATCH: Values = {
    # three convolutions and a pool, twice; filters not printed, the stride is that of the similar M1
    "blocks": "32/2-32-32,64-64-64",
    "convolution_batch_norm": False,  # not printed
    "pooling": "flatten",
    "learning_rate": 1e-4,  # not printed
}

_CHAPTER_6: Table = {
    **{
        ("siamese", name, task): _SIAMESE | {"pooling": row.pooling}  # not printed
        for name, row in BACKBONES.items()
        for task in TASKS
    },
    **{("siamese", "scratch", task): _SIAMESE | _SIAMESE_SCRATCH for task in TASKS},
}
"""`python -m mammo_mlflow siamese --preset paper --task TASK --backbone ENCODER --data DIR`.

Results of the paper, test accuracy, mass/calcification: scratch 0.67, VGG16 0.81, ResNet50 0.84; with
`--unfrozen-layers 1`: VGG16 0.86, ResNet50 0.83. Benign/malignant: 0.64, 0.67, 0.67; 0.64, 0.68 (Tables 6.1, 6.2).
"""

_CONDITIONED: Values = _COMMON | {
    "dense": "256",
    "class_weights": "1:1.3",
    "epochs": 40,  # not printed
    "augmentation": "paper",
}


def _sources(approach: str, tuned: str) -> Values:
    """The base models of an approach: ResNet50 for the features, VGG16 for the condition, Siamese ones but for B."""
    family = "pretrained" if approach == "b" else "siamese"
    features = registered_name("benign_malignant", family, "resnet50", tuned)
    condition = "" if approach == "c" else registered_name("mass_calc", family, "vgg16", tuned)
    return {"features_from": features, "condition_from": condition}


_CHAPTER_8: Table = {
    ("conditioned", approach, "benign_malignant"): _CONDITIONED | _sources(approach, "tuned")
    for approach in NETWORKS["conditioned"]
}
"""`python -m mammo_mlflow conditioned --preset paper --backbone APPROACH --data DIR`.

Result of the paper: approach A, test accuracy 0.60, both classes found about equally often; B found one class only.
"""

_TEXTURE: Values = _COMMON | {
    "dense": "none",  # logistic regression
    "batch_norm": True,
    "learning_rate": 1e-2,
    "epochs": 60,
    "batch_size": 64,
    "augmentation": "none",
    "views": 1,
}

_CONTROLS: Table = {("texture", "laws", task): _TEXTURE for task in TASKS}

_VIEWS: Table = {
    ("views", name, task): values for (family, name, task), values in _CHAPTER_5.items() if family == "pretrained"
}
"""`python -m mammo_mlflow views --task TASK --backbone BACKBONE --data DIR`.

Not in the paper: the settings of its pretrained networks, so that the two can be compared.
"""

PAPER: Table = {**_CHAPTER_5, **_CHAPTER_4, **_CHAPTER_6, **_CHAPTER_8, **_CONTROLS, **_VIEWS}

_QUICK: Values = {
    "optimizer": "adam",
    "learning_rate": 1e-3,
    "pooling": "average",
    "epochs": 12,
    "views": 2,
    "tuning_epochs": 4,
    "tuning_learning_rate": 1e-4,
}

_QUICK_SCRATCH: Values = {"epochs": 8, "blocks": "8/3-8-8,16-16,32-32", "dense": "256-256"}

_QUICK_ENCODER: Values = {"epochs": 8, "blocks": "8/3-8-8,16-16-16", "pooling": "average", "learning_rate": 1e-3}

QUICK: Table = {
    **{("pretrained", backbone, task): _QUICK for backbone in BACKBONES for task in TASKS},
    **{
        key: values | _QUICK_SCRATCH | ({"convolution_batch_norm_momentum": 0.9} if key[1] == "m1_author" else {})
        for key, values in _CHAPTER_4.items()
    },
    **{key: values | (_QUICK_ENCODER if key[1] == "scratch" else _QUICK) for key, values in _CHAPTER_6.items()},
    **{key: values | {"epochs": 20, "views": 2} | _sources(key[1], "") for key, values in _CHAPTER_8.items()},
    **_CONTROLS,
    **dict.fromkeys(_VIEWS, _QUICK),
}
"""A first look in minutes: Adam 1e-3, average pooling, 12 epochs over 2 cached views.

What is trained from scratch is a quarter as wide. Not settings of the paper.
"""

BEST: Table = {
    key: values
    | ({"optimizer": "adam", "learning_rate": 1e-3, "pooling": "average"} if key[0] == "pretrained" else {})
    | {"tta": "flips" if key[0] == "scratch" or key[1] == "scratch" else "views"}
    for key, values in PAPER.items()
    if key[0] != "texture"
}
"""The paper's networks with what is known to help since: answers averaged over views, features over their places.

Not settings of the paper. What each choice gains, and what was tried and left out, is in `docs/benchmarks.md`.
"""

PLAIN = "densenet121"
"""A backbone without settings of its own."""

OF_THE_PAPER: dict[str, Table] = {"paper": PAPER, "table": _TABLES_4}
OURS: dict[str, Table] = {"quick": QUICK, "best": BEST}
PRESETS = OF_THE_PAPER | OURS

KEPT = ("m1_balanced", "m1_early_stop", "m2", "m1_10fold")
"""The four settings that chapter 4 keeps: the set `scratch`."""


def preset_values(preset: str, backbone: str, task: str, family: str = "pretrained") -> Values:
    """The parameter values of a preset for one family, network and task, the network's name included.

    Raises `UserError` for an unknown preset, family, backbone or task.
    """
    checks.one_of(*PRESETS)("preset", preset)
    checks.one_of(*FAMILIES)("family", family)
    network_of(family)("backbone", backbone)
    checks.one_of(*TASKS)("task", task)
    found = preset_row(preset, backbone, task, family)
    other = [known for known in TASKS if preset_row(preset, backbone, known, family) is not None]
    if found is None and other:
        raise expected("task", f"{other[0]} for {family} models", f"'{task}'")
    if found is None:
        raise UserError(f"preset: expected one that has {family} {backbone} for {task}, found '{preset}'")
    return {"backbone": backbone} | found


def preset_row(preset: str, backbone: str, task: str, family: str = "pretrained") -> Values | None:
    """The row of a preset's table for a network; None where it has none. Joined backbones have that of `PLAIN`."""
    return PRESETS[preset].get((family, PLAIN if checks.JOIN in backbone else backbone, task))


def networks(family: str, preset: str) -> tuple[str, ...]:
    """The networks that `backbone=all` means for a family and preset."""
    if family == "scratch":
        return ("m1", *KEPT) if preset == "table" else KEPT
    return tuple(name for name in NETWORKS[family] if name not in BACKBONES or name in PAPER_BACKBONES)
