"""The parameters of training as data: optimizer, rates, loss, epochs, augmentation, early stopping."""

from __future__ import annotations

from dataclasses import dataclass

from mammo_mlflow import checks, roles
from mammo_mlflow.roles import parameter

OPTIMIZERS = ("adam", "rmsprop", "sgd", "adamw")
SCHEDULES = ("none", "cosine", "one_cycle")
LOSSES = ("crossentropy", "focal")
AUGMENTATIONS = ("paper", "scratch", "rotation5", "shift", "none")
PRECISIONS = ("auto", "bfloat16", "float32")
PAIRINGS = ("joint", "independent")
WATCHED = ("inner", "scored")
VECTOR = "training vector"
"""What a parameter of training moves in which the fits of one compiled program can differ (`roles`)."""


@dataclass(frozen=True, kw_only=True)
class TrainingSpec:
    """The parameters of training."""

    optimizer: str = roles.of_heads("adam", "optimizer", checks.one_of(*OPTIMIZERS))
    momentum: float = parameter(
        0.9, "Nesterov momentum of sgd; the others have none", checks.below_one, roles.SGD, moves=VECTOR
    )
    learning_rate: float = parameter(
        1e-3, "learning rate of the head, or of all that is trained from scratch", checks.positive, moves=VECTOR
    )
    epochs: int = roles.of_heads(
        40, "epochs of the head, or of all that is trained from scratch, in each fold", checks.epochs
    )
    tuning_learning_rate: float = parameter(
        1e-5, "learning rate once the last layers are unfrozen", checks.positive, roles.TUNED, moves=VECTOR
    )
    tuning_epochs: int = roles.of_heads(10, "epochs once the last layers are unfrozen", checks.epochs, roles.TUNED)
    batch_size: int = parameter(16, "patches a step", checks.whole_number(1, 65_536))
    class_weights: str = parameter(
        "none", "class weights: none, balanced, or a ratio such as 1:1.3", checks.spelled_class_weights, moves=VECTOR
    )
    augmentation: str = roles.stored("paper", "augmentation policy", checks.one_of(*AUGMENTATIONS))
    pair_augmentation: str = parameter(
        "joint",
        "transforms of a baseline and its abnormality: joint (the same) or independent",
        checks.one_of(*PAIRINGS),
        roles.PAIRED,
    )
    views: int = roles.precise(
        8,
        "cached augmented views of each patch; 0 trains on-line through the whole network",
        checks.whole_number(0, 1000),
        roles.CACHED,
    )
    early_stop: int = parameter(
        0,
        "early stopping patience in epochs on an inner tenth of the patients; 0 is off",
        checks.whole_number(0, 100_000),
        moves=VECTOR,
    )
    early_stop_on: str = parameter(
        "inner",
        "what early stopping watches: that inner tenth, or scored, the patches that are scored, which is optimistic",
        checks.one_of(*WATCHED),
        roles.STOPPED,
        added=True,
        moves="judging training vector",
    )
    weight_decay: float = parameter(
        0.004,
        "share of each weight, times the learning rate, that a step of adamw takes away; the others have none",
        checks.below_one,
        roles.ADAMW,
        added=True,
        moves=VECTOR,
    )
    schedule: str = parameter(
        "none",
        "course of the learning rate over each stage: none (constant), cosine (down to 0) or one_cycle (up, then down)",
        checks.one_of(*SCHEDULES),
        added=True,
        moves=VECTOR,
    )
    warm_up: float = parameter(
        0.0,
        "share of the steps of each stage in which the learning rate rises from 0; one_cycle has its own rise",
        checks.below_one,
        roles.WARMED,
        added=True,
        moves=VECTOR,
    )
    loss: str = parameter(
        "crossentropy", "what training minimises: crossentropy or focal", checks.one_of(*LOSSES), added=True
    )
    focal_gamma: float = parameter(
        2.0,
        "how much less the focal loss counts patches that are answered well already",
        checks.number_from(1, 10),  # below 1 its gradient is infinite where a probability is 0 or 1
        roles.FOCAL,
        added=True,
        moves=VECTOR,
    )
    label_smoothing: float = parameter(
        0.0, "share of each label that training moves towards 0.5", checks.below_one, added=True, moves=VECTOR
    )
    weight_average: int = parameter(
        1,
        "last epochs of each stage whose weights are averaged; 1 takes those of the last alone",
        checks.whole_number(1, 100_000),
        added=True,
        moves=VECTOR,
    )
    precision: str = roles.precise("auto", "precision of the convolutions", checks.one_of(*PRECISIONS))
    threads: int = roles.place(
        1, "processor threads of each fold; part of its key, since it moves results", checks.whole_number(1, 1024)
    )
