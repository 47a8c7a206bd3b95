"""What answers the items of the reporting checklists: sentences of stored values alone, by item.

A sentence stands where the store has every value that it names in braces (`stored_values`); no other word of it says
anything about the study. `rest` is what of the item only the authors know.
"""

from __future__ import annotations

from typing import NamedTuple

CLAIM, TRIPOD = "CLAIM 2024", "TRIPOD+AI"


class Answering(NamedTuple):
    """Sentences that answer some items, by checklist the items' numbers, and what the authors must add."""

    sentences: tuple[str, ...]
    items: dict[str, tuple[str, ...]]
    rest: str = ""


_PHANTOM = "The data are {phantom}."
_COLLECTION = "The patches are of {collection}."
_SIZES = "Abnormalities: {abnormalities}; patients: {patients}."
_SHA = "Training data have the sha256 {data_sha256}, test data {test_sha256}."
_FOLDS = (
    "Cross-validation with folds={set_folds}, seed={set_seed}; {levels}.",
    "Share held out in the place of folds: {set_holdout}.",
)
_NETWORK = "Family {family}, network {backbone}, unfrozen layers: {unfrozen}."
_HEAD = "Head: dense={set_dense}, pooling={set_pooling}, dropout={set_dropout}."
_WEIGHTS = "Initial weights: {weights} ({weights_source})."
_WEIGHTS_SHA = "Their file has the sha256 {weights_sha256}."
_SETTINGS = "Settings of the training: {set_settings}."
_ENSEMBLE = "An ensemble by {method} of {members}."
_VERDICTS = ("{verdict}", "{test_verdict}")
_OOF, _TEST = "Out of fold: {oof_scores}.", "Test set: {test_scores}."
_BY_PATIENT, _BY_LESION = "Test set by patient: {test_by_patient_scores}.", "By lesion: {test_by_lesion_scores}."
_INTERVALS = "Intervals of 95 %: {intervals}."
_NO_INTERVAL = "Without an interval: {no_interval}."
_THRESHOLD = ("Decision threshold {threshold}, by the policy {set_threshold}.", "Chosen on each {set_unit}.")
_RECALIBRATED = "Recalibrated {recalibrated}."
_SOFTWARE = "Packages of the model's environment: {packages}."
_BACKEND = "Keras's backend {keras_backend}, computed on {device}."
_SELECTION = ("The final model is made by final={set_final}.", "Best of {compared} settings compared.")
_STUDY = "Searched by the study {study}."
_DECISION = ("The decision about it as champion: {decision}.", "Its gates stand in {gates}.")

ANSWERS = (
    Answering(
        ("A neural network of the family {family} ({backbone}) that tells {task}.", _PHANTOM),
        {CLAIM: ("1",), TRIPOD: ("1",)},
        "the title itself",
    ),
    Answering(
        ("To tell {task} on patches.",), {CLAIM: ("4", "6"), TRIPOD: ("4",)}, "objectives and hypotheses of the study"
    ),
    Answering((_PHANTOM, _COLLECTION, _SHA), {CLAIM: ("7",), TRIPOD: ("5a",)}, "whom the data represent"),
    Answering(
        ("Left out of the published rows, by reason: {left_out}.",),
        {CLAIM: ("8",), TRIPOD: ("6b",)},
        "criteria before that",
    ),
    Answering(
        (
            "Patches of {image_size} pixels a side.",
            "Cut from the films with {cutting}.",
            "Values are scaled within the model: input_scaling={set_input_scaling}.",
            "Checks of the data warned of: {warnings}.",
        ),
        {CLAIM: ("9",), TRIPOD: ("7", "9b", "12b")},
        "preparation before the patches",
    ),
    Answering((_SIZES, "Classes: {classes}."), {CLAIM: ("10", "35"), TRIPOD: ("20a",)}, "the flow before the patches"),
    Answering(("Left out, by reason: {left_out}.",), {CLAIM: ("12",), TRIPOD: ("11",)}, "missing values"),
    Answering(_FOLDS, {CLAIM: ("19", "20")}),
    Answering((*_FOLDS, _SIZES), {TRIPOD: ("12a",)}),
    Answering((_SIZES, "Classes: {classes}.", _SHA), {CLAIM: ("21",)}, "how the test set was chosen"),
    Answering((_SIZES,), {TRIPOD: ("10",)}, "how the sample size was arrived at"),
    Answering(
        (_NETWORK, _HEAD, _ENSEMBLE, _RECALIBRATED, "Test-time augmentation: {set_tta}.", "Precision {set_precision}."),
        {CLAIM: ("22",)},
    ),
    Answering((_SOFTWARE, _BACKEND), {CLAIM: ("23",)}),
    Answering((_WEIGHTS, _WEIGHTS_SHA), {CLAIM: ("24",)}),
    Answering(
        (_SETTINGS, "{models}, and the final model by final={set_final}.", _ENSEMBLE),
        {CLAIM: ("25",)},
    ),
    Answering((*_SELECTION, _STUDY, *_DECISION), {CLAIM: ("26",)}),
    Answering((_ENSEMBLE, *_VERDICTS), {CLAIM: ("27",)}),
    Answering((_NETWORK, _ENSEMBLE, _SETTINGS, *_SELECTION, *_FOLDS, _STUDY), {TRIPOD: ("12c",)}),
    Answering(
        ("Stored scores of the test set: {test_scores}.", "Decided at 0.5 and at the threshold {threshold}."),
        {CLAIM: ("28",), TRIPOD: ("12e",)},
        "why these measures",
    ),
    Answering((_INTERVALS, _NO_INTERVAL, *_VERDICTS), {CLAIM: ("29",)}, "other tests of significance between models"),
    Answering((_OOF, *_FOLDS), {CLAIM: ("32",)}),
    Answering(
        ("Recalibration: {set_calibrate}.", _RECALIBRATED), {TRIPOD: ("12f", "24")}, "any other updating of the model"
    ),
    Answering(
        ("The registered model answers the test set: {test_scores}.", "Test-time augmentation: {set_tta}."),
        {TRIPOD: ("12g",)},
    ),
    Answering(("Class weights: {set_class_weights}; loss: {set_loss}.", "Classes: {classes}."), {TRIPOD: ("13",)}),
    Answering((*_THRESHOLD, "Answer sets: {answer_sets}.", "The model tells {task}."), {TRIPOD: ("15",)}),
    Answering(
        ("Classes: {classes}.", _SIZES),
        {CLAIM: ("36",), TRIPOD: ("16", "20b", "20c")},
        "demographics, and differences beside numbers and classes",
    ),
    Answering((_OOF, _TEST), {CLAIM: ("37",)}),
    Answering((_OOF, _TEST, _BY_PATIENT, _BY_LESION, _INTERVALS, _NO_INTERVAL), {CLAIM: ("38",)}),
    Answering(
        (_OOF, _TEST, _BY_PATIENT, _BY_LESION, _INTERVALS, _NO_INTERVAL), {TRIPOD: ("23a",)}, "parts of the test set"
    ),
    Answering(("Test set: {confusion}.",), {CLAIM: ("39",)}, "which abnormalities are missed, and why"),
    Answering(
        (_SIZES, "Classes: {classes}.", "Patients of the test set: {test_patients}; lesions: {test_lesions}."),
        {TRIPOD: ("21",)},
    ),
    Answering(("The files of the registered model have the sha256 {files}.", _NETWORK, _ENSEMBLE), {TRIPOD: ("22",)}),
    Answering(
        ("Data by sha256: {data_sha256} and {test_sha256}.", "The model's files by sha256: {files}."),
        {CLAIM: ("43",), TRIPOD: ("18e",)},
        "where code, models and data can be had",
    ),
)
