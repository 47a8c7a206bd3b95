"""Parts of `large.py` that touch every patch: checking, planning, folds, scores, figures, comparisons."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd

FULL, FRACTION, TEST, SIDE, FOLDS, MODELS = 50_000, 5, 1_000, 150, 5, 8
A_PATIENT = 2.5
"""Abnormalities a patient."""
ROOM, SMALLER = 15e9, 20_000
"""The free bytes that the full size needs, and the size where there are fewer."""


def make(folder: Path) -> list[int]:
    """Make the directories that are missing; the two sizes."""
    full = FULL if shutil.disk_usage(folder).free > ROOM or _of(folder, FULL).exists() else SMALLER
    for size in (full // FRACTION, full):
        if not _of(folder, size).exists():
            part = folder / "data-making"
            shutil.rmtree(part, ignore_errors=True)
            part.mkdir()
            for stem, count, seed in (("train", size, 1), ("public_test", TEST, 2)):
                _write(part, stem, count, seed)
            part.rename(_of(folder, size))
    return [full // FRACTION, full]


def _of(folder: Path, size: int) -> Path:
    return folder / f"data-{size}"


def _write(where: Path, stem: str, count: int, seed: int) -> None:
    """Patches cut from one noise tile: no two are alike, since each has its number in its first pixels."""
    random = np.random.default_rng(seed)
    tile = random.integers(2_000, 60_000, (1_024, 1_024), np.uint16)
    shape = (2 * count, SIDE, SIDE)
    tensor = np.lib.format.open_memmap(where / f"{stem}_tensor.npy", mode="w+", dtype="<u2", shape=shape)
    offsets = random.integers(0, 1_024 - SIDE, (2 * count, 2))
    for row, (y, x) in enumerate(offsets):
        tensor[row] = tile[y : y + SIDE, x : x + SIDE]
        tensor[row, 0, :3] = row % 60_000 + 1, row // 60_000 + 1, seed
    tensor.flush()
    labels = np.zeros(2 * count, np.int64)
    labels[1::2] = random.integers(1, 5, count)
    np.save(where / f"{stem}_labels.npy", labels)
    patients = [f"{stem}_{number:05}" for number in random.integers(0, int(count / A_PATIENT), count)]
    pd.DataFrame({"patient_id": patients}).to_csv(where / f"{stem}_groups.csv", index=False)


def _made_up(size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Types, patients, folds, labels and probabilities (n, m) of so many patches."""
    random = np.random.default_rng(size)
    patients = random.integers(0, int(size / A_PATIENT), size)
    types = random.integers(1, 5, size).astype(np.int8)
    labels = ((types - 1) // 2).astype(np.int64)
    of_patients = random.normal(size=patients.max() + 1)[patients]
    noise = random.normal(size=(size, MODELS)) + of_patients[:, None] + random.normal(size=(size, 1))
    probabilities = 1 / (1 + np.exp(-(2 * labels[:, None] - 1) - noise))
    return types, patients, patients % FOLDS, labels, probabilities


def _check(folder: Path, size: int) -> Callable[[], None]:
    from mammo_mlflow.data.patches import read_patch_set

    return lambda: _drop(read_patch_set(_of(folder, size)))


def _drop(found: object) -> None:
    """Nothing is told of it."""


def _dry(family: str, *more: str) -> Callable[[Path, int], Callable[[], object]]:
    def prepare(folder: Path, size: int) -> Callable[[], object]:
        from large import command

        store = folder / "empty"
        store.mkdir(exist_ok=True)
        words = ("--task", "mass_calc", "--data", str(_of(folder, size)), "--dry-run", "true", *more)
        return command(store, family, *words)

    return prepare


def _folds(folder: Path, size: int) -> Callable[[], None]:
    from mammo_mlflow.data.splits import inner_holdout, make_folds

    types, patients, *_ = _made_up(size)

    def run() -> None:
        folds = make_folds(types, patients, FOLDS, 0, "mass_calc", np.arange(size))
        for fold in range(FOLDS):
            inner_holdout(np.flatnonzero(folds != fold), types, patients, "mass_calc", duplicate_groups=np.arange(size))

    return run


def _evaluation(name: str) -> Callable[[Path, int], Callable[[], object]]:
    def prepare(folder: Path, size: int) -> Callable[[], object]:
        from mammo_mlflow.evaluation.calibration import calibration_error
        from mammo_mlflow.evaluation.figures import calibration, roc_curves
        from mammo_mlflow.evaluation.intervals import score_estimates
        from mammo_mlflow.evaluation.objectives import parse_objectives
        from mammo_mlflow.evaluation.out_of_fold import OutOfFold
        from mammo_mlflow.evaluation.paired import verdict
        from mammo_mlflow.evaluation.thresholds import choose_threshold
        from mammo_mlflow.evaluation.units import per_patient

        _, patients, folds, y, p = _made_up(size)
        names = np.array([f"P{number:05}" for number in patients])
        frame = pd.DataFrame({"label": y, "probability": p[:, 0], "fold": folds, "patient_id": names})
        curve = {"one": (y, p[:, 0], names)}
        objective = parse_objectives("roc_auc")[0]
        work: dict[str, Callable[[], object]] = {
            "out-of-fold object": lambda: OutOfFold.of_frame(frame),
            "scores with intervals": lambda: score_estimates(y, p[:, 0], groups=names),
            "ROC AUC within folds": lambda: OutOfFold.of_frame(frame).estimate("roc_auc"),
            "sensitivity at 0.9": lambda: OutOfFold.of_frame(frame).estimate("sensitivity_at_specificity=0.9"),
            "paired test": lambda: verdict(objective, y, p[:, 0], p[:, 1], folds, names),
            "threshold and calibration": lambda: (
                choose_threshold("youden", y, p[:, 0]),
                calibration_error(y, p[:, 0]),
            ),
            "per patient": lambda: per_patient(y, p[:, 0], names),
            "figure: ROC with band": lambda: _drawn(roc_curves(curve, "one")),
            "figure: calibration": lambda: _drawn(calibration(y, p[:, 0], "one")),
        }
        return lambda: _drop(work[name]())

    return prepare


def _drawn(figure: object) -> None:
    from io import BytesIO

    figure.savefig(BytesIO(), format="png", dpi=150)


def _log_data(folder: Path, size: int) -> Callable[[], None]:
    """What `log_data` draws and describes of a data set, without the store."""
    from types import SimpleNamespace

    from mammo_mlflow.data.patches import read_patch_set
    from mammo_mlflow.disclosure import Disclosure
    from mammo_mlflow.workflows.workbench import log_data

    found = read_patch_set(_of(folder, size))
    run = SimpleNamespace(log_dataset=lambda **named: None, log_figure=lambda figure, name: _drawn(figure))
    plan = SimpleNamespace(patch_set=found, disclosure=Disclosure.of(phantom=False))
    return lambda: log_data(plan, run)


def _models(size: int) -> tuple[list[object], pd.DataFrame]:
    from mammo_mlflow.report.fill_rows import ReportedModel
    from mammo_mlflow.tracking.results import Result

    types, patients, _, y, p = _made_up(size)
    made = []
    for number in range(MODELS):
        table = {"patch": np.arange(size), "type": types, "label": y, "probability": p[:, number]}
        frame = pd.DataFrame({**table, "patient_id": [f"P{one:05}" for one in patients]})
        tags = {"mammo.threshold": "0.5"}
        result = Result(run_id=str(number), experiment_id="0", ended=0, tags=tags, params={}, metrics={}, data="")
        made.append(ReportedModel(f"model {number}", result, frame, 0.0))
    groups = pd.DataFrame({"density": (patients % 4).astype(str), "view": np.where(patients % 2, "CC", "MLO")})
    return made, groups


def _pairs(folder: Path, size: int) -> Callable[[], None]:
    from mammo_mlflow.report.comparing import compare_pairs

    models, _ = _models(size)
    return lambda: _drop(compare_pairs(models))


def _subgroups(folder: Path, size: int) -> Callable[[], None]:
    from mammo_mlflow.report.comparing import subgroups

    models, groups = _models(size)
    return lambda: _drop(subgroups(models, groups))


def _method(name: str) -> Callable[[Path, int], Callable[[], None]]:
    def prepare(folder: Path, size: int) -> Callable[[], None]:
        from mammo_mlflow.ensembles.methods import fit_ensembles
        from mammo_mlflow.evaluation.objectives import parse_objectives
        from mammo_mlflow.evaluation.out_of_fold import OutOfFold

        _, patients, folds, y, p = _made_up(size)
        data = OutOfFold(labels=y, probabilities=p[:, :4], folds=folds, groups=patients)
        objective = parse_objectives("roc_auc")[0]
        return lambda: _drop(fit_ensembles(data, objective, [name]))

    return prepare


PARTS: dict[str, Callable[[Path, int], Callable[[], object]]] = {
    "opening and checking": _check,
    "folds and inner hold-outs": _folds,
    "pretrained --dry-run": _dry("pretrained", "--backbone", "vgg16", "--weights", "random"),
    "siamese --dry-run": _dry("siamese", "--backbone", "vgg16", "--weights", "random"),
    "scratch --dry-run": _dry("scratch", "--backbone", "m1"),
    **{
        name: _evaluation(name)
        for name in (
            "out-of-fold object",
            "scores with intervals",
            "ROC AUC within folds",
            "sensitivity at 0.9",
            "paired test",
            "threshold and calibration",
            "per patient",
            "figure: ROC with band",
            "figure: calibration",
        )
    },
    "data on a run": _log_data,
    "report: 28 pairs of models": _pairs,
    "report: subgroups of 8 models": _subgroups,
    **{f"ensemble of 4: {name}": _method(name) for name in ("greedy", "grid", "logistic", "mlp", "knn", "svm")},
}
"""The parts by name: each prepares its inputs, and returns what is timed."""
