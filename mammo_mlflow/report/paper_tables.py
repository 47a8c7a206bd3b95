"""The paper's tables as data: each row's model, and the parameters of the command that trains it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from mammo_mlflow.backbones import BACKBONES, PAPER_BACKBONES
from mammo_mlflow.presets import KEPT
from mammo_mlflow.report.printed_values import PrintedValue, printed

Column = tuple[str, str]
"""Metric (`accuracy`, `roc_auc`) and split (`train`, `validation`, `test`)."""

ACCURACY, AUC = ("accuracy", "test"), ("roc_auc", "test")
VALIDATION, TRAIN = ("accuracy", "validation"), ("accuracy", "train")
OPTIMISTIC = "weights chosen on the test set"

WORDS = {"mass_calc": "mass/calcification", "benign_malignant": "benign/malignant"}
ENCODERS = {"scratch": "scratch CNN"} | {name: row.application for name, row in BACKBONES.items()}
WEIGHTED = ("vgg16", "resnet50", "inceptionv3")
"""The members of the paper's weighted ensembles."""
SIAMESE = ("scratch", *(name for name in PAPER_BACKBONES if name != "inceptionv3"))
"""The encoders of Siamese networks; InceptionV3 is in none of the paper's tables of them."""
SCRATCH = {
    "m1": ("M1, 30 epochs", "30 epochs"),
    "m1_balanced": ("M1, class balancing", "30 epochs; class balancing"),
    "m1_early_stop": ("M1, class balancing, early stop", "80 epochs; class balancing; early stop"),
    "m2": ("M2, class balancing, early stop", "30 epochs; class balancing; early stop"),
    "m1_10fold": ("M1, 10 folds", "10-fold"),
}
"""The settings of chapter 4: the label of the row, and the protocol as the paper prints it."""
CONDITIONED = {
    "a": "A: Siamese sources",
    "b": "B: sources without baselines",
    "c": "C: the true type",
}


ENSEMBLES = {
    "stack (dense layer)": "dense",
    "weighted (grid)": "grid",
    "weighted (grid), as in the paper": OPTIMISTIC,
}


@dataclass(frozen=True, kw_only=True)
class PaperRow:
    """A row of a table of the paper: its model, and the values printed for it.

    `tuned` is None where the family has no fine-tuning to tell apart, `method` is "" except for ensembles.
    """

    label: str
    task: str
    family: str
    backbone: str
    tuned: bool | None = None
    method: str = ""
    printed: tuple[PrintedValue, ...] = ()

    @property
    def optimistic(self) -> bool:
        """Whether the row's model was chosen on the test set that scores it, as the paper's weighted ensembles were."""
        return self.method == OPTIMISTIC

    @property
    def members(self) -> tuple[PaperRow, ...]:
        """The rows of a weighted ensemble's members."""
        tuned = self.backbone == "tuned"
        row = partial(PaperRow, label="", task=self.task, family="pretrained", tuned=tuned)
        return tuple(row(backbone=one) for one in WEIGHTED)

    def parameters(self) -> dict[str, str]:
        """The parameters of the command that fills the row, by name."""
        if self.family == "ensemble":
            return {"task": self.task, "members": self.backbone, "method": self.method}
        given = {"task": self.task, "backbone": self.backbone}
        if self.tuned:
            given["unfrozen_layers"] = "1"
        return given


@dataclass(frozen=True, kw_only=True)
class PaperTable:
    """A table of the paper: its number, title, task, columns and rows."""

    number: str
    title: str
    task: str
    columns: tuple[Column, ...]
    rows: tuple[PaperRow, ...]

    @property
    def name(self) -> str:
        """The name of the table's files, without the ending."""
        return f"table_{self.number}_{self.task}".replace(".", "_")


def tables() -> tuple[PaperTable, ...]:
    """All tables of the paper, in its order, with their rows."""
    return tuple(
        PaperTable(
            number=number.format(place),
            title=f"{title}, {WORDS[task]}",
            task=task,
            columns=columns,
            rows=tuple(rows(task)),
        )
        for number, title, tasks, columns, rows in _KINDS
        for place, task in enumerate(tasks, 1)
    )


def _scratch(task: str) -> Iterator[PaperRow]:
    """The rows of table 4."""
    return (_row(SCRATCH[name][0], task, "scratch", name) for name in ("m1", *KEPT))


def _ensembles(task: str) -> Iterator[PaperRow]:
    """The rows of table 7."""
    for label, method in ENSEMBLES.items():
        for members in ("pretrained", "tuned"):
            yield _row(f"{label}, {members}", task, "ensemble", members, None, method)


def _conditioned(task: str) -> Iterator[PaperRow]:
    """The rows of table 8."""
    return (_row(label, task, "conditioned", name) for name, label in CONDITIONED.items())


def _frozen_and_tuned(family: str, backbones: Sequence[str], task: str) -> Iterator[PaperRow]:
    """The rows of tables 5 and 6: each backbone frozen and, but for the scratch CNN, fine-tuned."""
    for name in backbones:
        for tuned in (False,) if name == "scratch" else (False, True):
            yield _row(f"{ENCODERS[name]}{', fine tuned' if tuned else ''}", task, family, name, tuned)


def _row(label: str, task: str, family: str, backbone: str, tuned: bool | None = None, method: str = "") -> PaperRow:
    """A row with the values that the paper printed for such a model."""
    mine = tuple(
        one
        for one in printed()
        if (one.task, one.family) == (task, family) and _is(one, family, backbone, tuned, method)
    )
    return PaperRow(label=label, task=task, family=family, backbone=backbone, tuned=tuned, method=method, printed=mine)


def _is(value: PrintedValue, family: str, backbone: str, tuned: bool | None, method: str) -> bool:
    """Whether a printed value is of such a model."""
    if family == "scratch":
        model = backbone.split("_")[0]
        protocol = SCRATCH[backbone][1]
        same = value.protocol.endswith(protocol) if protocol == "10-fold" else value.protocol == protocol
        return value.model == model and same
    if family == "ensemble":
        printed_as = {"dense": "stack", OPTIMISTIC: "weighted"}
        return (value.set, value.model) == (backbone, printed_as.get(method))
    if family == "conditioned":
        return value.model == f"approach_{backbone}"
    return value.model == backbone and value.set.endswith("tuned") == bool(tuned)


_THREE = (VALIDATION, ACCURACY, AUC)
_KINDS: tuple[tuple[str, str, Iterable[str], tuple[Column, ...], Callable[[str], Iterable[PaperRow]]], ...] = (
    ("4.{}", "Scratch models", WORDS, (TRAIN, *_THREE), _scratch),
    ("5.{}", "Pretrained models", WORDS, _THREE, partial(_frozen_and_tuned, "pretrained", PAPER_BACKBONES)),
    ("6.{}", "Siamese models", WORDS, _THREE, partial(_frozen_and_tuned, "siamese", SIAMESE)),
    ("7", "Ensembles", WORDS, (ACCURACY, AUC), _ensembles),
    ("8", "Given mass/calcification", ("benign_malignant",), _THREE, _conditioned),
)
"""The kinds of tables: number, title, tasks, columns, and the function that gives the rows of a task."""
