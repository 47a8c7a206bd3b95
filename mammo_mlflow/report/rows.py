"""The study's tables as data: what each row is, which run can stand for it, and the command that fills it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from mammo_mlflow.backbones import BACKBONES
from mammo_mlflow.presets import KEPT
from mammo_mlflow.report.paper_figures import Figure, printed

Column = tuple[str, str]
"""Metric (`accuracy`, `roc_auc`) and split (`train`, `validation`, `test`)."""

ACCURACY, AUC = ("accuracy", "test"), ("roc_auc", "test")
VALIDATION, TRAIN = ("accuracy", "validation"), ("accuracy", "train")
OPTIMISTIC = "weights chosen on the test set"

WORDS = {"mass_calc": "mass/calcification", "benign_malignant": "benign/malignant"}
ENCODERS = {"scratch": "scratch CNN"} | {name: row.application for name, row in BACKBONES.items()}
WEIGHTED = ("vgg16", "resnet50", "inceptionv3")
"""The members of the study's weighted ensembles."""
SIAMESE = ("scratch", *(name for name in BACKBONES if name != "inceptionv3"))
"""The encoders of Siamese networks; InceptionV3 is in none of the study's tables of them."""
SCRATCH = {
    "m1": ("M1, 30 epochs", "30 epochs"),
    "m1_balanced": ("M1, class balancing", "30 epochs; class balancing"),
    "m1_early_stop": ("M1, class balancing, early stop", "80 epochs; class balancing; early stop"),
    "m2": ("M2, class balancing, early stop", "30 epochs; class balancing; early stop"),
    "m1_10fold": ("M1, 10 folds", "10-fold"),
}
"""The settings of chapter 4: what a row is called, and the protocol that the study prints."""
CONDITIONED = {
    "a": "A: Siamese sources",
    "b": "B: sources without baselines",
    "c": "C: the true type",
}


@dataclass(frozen=True, kw_only=True)
class Row:
    """A row of a table. `tuned` and `method` are None and "" where a model has no such thing."""

    label: str
    task: str
    family: str
    backbone: str
    tuned: bool | None = None
    method: str = ""
    printed: tuple[Figure, ...] = ()

    @property
    def optimistic(self) -> bool:
        """Whether its figure was chosen where it is measured: the study's weighted ensembles."""
        return self.method == OPTIMISTIC

    def parameters(self) -> dict[str, str]:
        """The parameters of the entry point that fills the row."""
        if self.family == "ensemble":
            return {"task": self.task, "members": self.backbone, "method": self.method}
        given = {"task": self.task, "backbone": self.backbone}
        if self.tuned:
            given["unfrozen_layers"] = "1"
        return given


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table of the study: its number, what it is about, and its columns."""

    number: str
    title: str
    task: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]

    @property
    def name(self) -> str:
        """The name of its files."""
        return f"table_{self.number}_{self.task}".replace(".", "_")


def tables() -> tuple[Table, ...]:
    """All tables, in the order of the study."""
    return tuple(_tables())


def _tables() -> Iterator[Table]:
    for number, task in (("4.1", "mass_calc"), ("4.2", "benign_malignant")):
        rows = tuple(_row(SCRATCH[name][0], task, "scratch", name) for name in ("m1", *KEPT))
        yield Table(
            number=number,
            title=f"Scratch models, {WORDS[task]}",
            task=task,
            columns=(TRAIN, VALIDATION, ACCURACY, AUC),
            rows=rows,
        )
    for number, task in (("5.1", "mass_calc"), ("5.2", "benign_malignant")):
        rows = _frozen_and_tuned("pretrained", tuple(BACKBONES), task)
        yield Table(
            number=number,
            title=f"Pretrained models, {WORDS[task]}",
            task=task,
            columns=(VALIDATION, ACCURACY, AUC),
            rows=rows,
        )
    for number, task in (("6.1", "mass_calc"), ("6.2", "benign_malignant")):
        rows = _frozen_and_tuned("siamese", SIAMESE, task)
        yield Table(
            number=number,
            title=f"Siamese models, {WORDS[task]}",
            task=task,
            columns=(VALIDATION, ACCURACY, AUC),
            rows=rows,
        )
    for task in WORDS:
        rows = tuple(
            _row(f"{words_of}, {members}", task, "ensemble", members, None, method)
            for words_of, method in (
                ("stack (dense layer)", "dense"),
                ("weighted (grid)", "grid"),
                ("weighted (grid), as in the study", OPTIMISTIC),
            )
            for members in ("pretrained", "tuned")
        )
        yield Table(number="7", title=f"Ensembles, {WORDS[task]}", task=task, columns=(ACCURACY, AUC), rows=rows)
    task = "benign_malignant"
    rows = tuple(_row(label, task, "conditioned", name) for name, label in CONDITIONED.items())
    yield Table(
        number="8",
        title=f"Given mass/calcification, {WORDS[task]}",
        task=task,
        columns=(VALIDATION, ACCURACY, AUC),
        rows=rows,
    )


def _frozen_and_tuned(family: str, backbones: tuple[str, ...], task: str) -> tuple[Row, ...]:
    return tuple(
        _row(f"{ENCODERS[name]}{', fine tuned' if tuned else ''}", task, family, name, tuned)
        for name in backbones
        for tuned in ((False,) if name == "scratch" else (False, True))
    )


def _row(label: str, task: str, family: str, backbone: str, tuned: bool | None = None, method: str = "") -> Row:
    mine = tuple(
        one
        for one in printed()
        if (one.task, one.family) == (task, family) and _is(one, family, backbone, tuned, method)
    )
    return Row(label=label, task=task, family=family, backbone=backbone, tuned=tuned, method=method, printed=mine)


def _is(figure: Figure, family: str, backbone: str, tuned: bool | None, method: str) -> bool:
    """Whether a printed figure is of such a model."""
    if family == "scratch":
        model = backbone.split("_")[0]
        protocol = SCRATCH[backbone][1]
        same = figure.protocol.endswith(protocol) if protocol == "10-fold" else figure.protocol == protocol
        return figure.model == model and same
    if family == "ensemble":
        printed_as = {"dense": "stack", OPTIMISTIC: "weighted"}
        return (figure.set, figure.model) == (backbone, printed_as.get(method))
    if family == "conditioned":
        return figure.model == f"approach_{backbone}"
    return figure.model == backbone and figure.set.endswith("tuned") == bool(tuned)
