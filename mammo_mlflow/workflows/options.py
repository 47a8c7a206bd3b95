"""The parameters of a command that are not part of an experiment: where data and cache lie, how many work at once."""

from __future__ import annotations

import os
import shlex
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, fields
from typing import TypeVar

from mammo_mlflow import checks
from mammo_mlflow.data.cbis_ddsm.settings import CropSettings, IngestSettings
from mammo_mlflow.errors import UserError, expected
from mammo_mlflow.presets import PRESETS

T = TypeVar("T")


def _executors() -> Collection[str]:
    from mammo_mlflow.jobs.executors import EXECUTORS  # brings NumPy, which `--help` has no need of

    return EXECUTORS


def _parameter(default: T, help: str) -> T:
    return field(default=default, metadata={"help": help})


def _check(options: object, *more: str, **wanted: checks.Check) -> None:
    """Raise `UserError`, one line of all that these checks say of the fields they are named after, and `more`."""
    faults = []
    for name, check in wanted.items():
        try:
            check(name, getattr(options, name))
        except UserError as problem:
            faults.append(str(problem))
    if faults or more:
        raise UserError("; ".join([*faults, *more]))


@dataclass(frozen=True, kw_only=True)
class Options:
    """Raises `UserError` for the impossible ones, all in one line."""

    data: str = _parameter("phantom", "directory of the four arrays, or phantom")
    phantom_train: int = _parameter(320, "training abnormalities of the phantom")
    phantom_test: int = _parameter(128, "test abnormalities of the phantom")
    phantom_size: int = _parameter(150, "side of the phantom's patches in pixels")
    phantom_seed: int = _parameter(0, "seed of the phantom")
    duplicates: str = _parameter("warn", "what equal patches are: warn or error")
    preset: str = _parameter("auto", "paper, table (scratch) or quick; auto is quick on phantom data, else paper")
    seeds: int = _parameter(1, "repeat the whole with this many seeds")
    executor: str = _parameter("process", "where folds run: process or inline")
    workers: int = _parameter(0, "folds at once; 0 fits them to the processor")
    resume: bool = _parameter(True, "reuse folds and models that an earlier command finished")
    dry_run: bool = _parameter(False, "say what would be done, and its time and disk, and stop")
    cache_dir: str = _parameter("", "cache directory; by default $MAMMO_CACHE_DIR or the user's cache")
    cache_limit_gb: float = _parameter(20.0, "size limit of the cached activations in GB")

    def __post_init__(self) -> None:
        """Check what can be checked without touching anything."""
        _check(
            self,
            executor=checks.one_of(*_executors()),
            preset=checks.one_of("auto", *PRESETS),
            duplicates=checks.one_of("warn", "error"),
            seeds=checks.whole_number(1, 1000),
            workers=checks.at_once,
            cache_limit_gb=checks.positive,
        )


SEARCHED = ("pretrained", "scratch", "siamese")
"""The families that can be searched."""


@dataclass(frozen=True, kw_only=True)
class SearchOptions:
    """The parameters of a search that are not part of an experiment. Raises `UserError` for impossible ones."""

    trials: int = _parameter(20, "trials finished in all, those of earlier commands among them; 0: as the time allows")
    timeout: float = _parameter(0.0, "seconds after which no trial is begun any more; 0: no limit")
    space: str = _parameter("", "search space; by default search_spaces/FAMILY-BACKBONE.yaml or FAMILY.yaml")
    objective: str = _parameter("roc_auc", "objective on out-of-fold predictions, or two with a comma between them")
    sampler: str = _parameter("tpe", "sampler, such as tpe, random or grid; an unknown one is told all their names")
    pruner: str = _parameter("auto", "pruner over folds: median, percentile, percentile=P, wilcoxon or none")
    storage: str = _parameter(
        "", "database of the studies, any URL that SQLAlchemy knows; by default optuna.db beside MLflow's store"
    )
    study: str = _parameter("", "name of the study; by default one that tells what is searched")
    fresh_seeds: int = _parameter(3, "seeds under which the best is compared with the paper's setting; 0: none")

    def __post_init__(self) -> None:
        """Check what can be checked without touching anything."""
        endless = [] if self.trials or self.timeout else [str(expected("trials", "at least 1, or a timeout", 0))]
        _check(
            self,
            *endless,
            trials=checks.whole_number(0, 1_000_000),
            timeout=checks.at_least_zero,
            fresh_seeds=checks.whole_number(0, 1000),
        )


@dataclass(frozen=True, kw_only=True)
class EnsembleOptions:
    """The parameters of an ensemble that are not where its data lie. Raises `UserError` for impossible ones."""

    members: str = _parameter(
        "pretrained", "scratch, pretrained, tuned, siamese, all, or registered models with commas between"
    )
    method: str = _parameter(
        "best", "method, such as average or dense, or best by the nested figure; an unknown one is told all their names"
    )
    objective: str = _parameter("roc_auc", "what is optimised, on out-of-fold predictions")
    threshold: str = _parameter("0.5", "decision threshold: a number, youden, or sensitivity=0.9")
    folds: int = _parameter(4, "number of folds of the members")
    seed: int = _parameter(0, "seed of the members' folds, and of what is drawn here")

    def __post_init__(self) -> None:
        """Check what can be checked without touching anything."""
        checks.whole_number(2, 1000)("folds", self.folds)
        checks.seed("seed", self.seed)


NOT_OF_ENSEMBLES = ("preset", "seeds", "workers", "dry_run")
"""The options that an ensemble has no use for."""


@dataclass(frozen=True, kw_only=True)
class PromoteOptions:
    """The parameters of a decision about a champion. Raises `UserError` for impossible ones."""

    candidate: str = _parameter("all", "all candidates of the task, or registered models with commas between")
    objective: str = _parameter("roc_auc", "what a candidate must lead in, on out-of-fold predictions")
    calibration: float = _parameter(0.15, "largest calibration error that passes")
    specificity_loss: float = _parameter(0.05, "loss of specificity against the champion that is allowed")
    rollback: bool = _parameter(False, "go back to the champion before")
    executor: str = _parameter("process", "where a candidate is tried: process or inline")

    def __post_init__(self) -> None:
        """Check what can be checked without touching anything."""
        if not 0 < self.calibration <= 1:
            raise expected("calibration", "a number in (0, 1]", self.calibration)
        if not 0 <= self.specificity_loss < 1:
            raise expected("specificity_loss", "a number in [0, 1)", self.specificity_loss)
        checks.one_of(*_executors())("executor", self.executor)


@dataclass(frozen=True, kw_only=True)
class ServeOptions:
    """The parameters of a server. Raises `UserError` for impossible ones."""

    host: str = _parameter("127.0.0.1", "address to listen at")
    port: int = _parameter(5001, "port to listen at")
    timeout: int = _parameter(600, "seconds that a request may take")
    workers: int = _parameter(1, "processes that answer, each with the model in its memory")

    def __post_init__(self) -> None:
        """Check what can be checked without touching anything."""
        for name, low, high in (("port", 1, 65535), ("timeout", 1, 86_400), ("workers", 1, 64)):
            checks.whole_number(low, high)(name, getattr(self, name))


@dataclass(frozen=True, kw_only=True)
class CropOptions:
    """How patches are cut from films; the defaults are the paper's. Raises `UserError` for impossible ones."""

    margin: float = _parameter(CropSettings.margin, "context around the box, as a share of its sides")
    interpolation: str = _parameter(CropSettings.interpolation, "nearest, area, bilinear or bicubic")
    baseline_side: str = _parameter(
        CropSettings.baseline_side, "left, right, above or below, several with commas in order of preference, or any"
    )
    tissue: float = _parameter(CropSettings.tissue, "least part of a baseline that lies in the breast")
    locate: str = _parameter(
        CropSettings.locate,
        "how far an odd mask is followed: mask (as it is), rescale (no specks, to its film) or match (also by crop)",
    )

    def cut(self, size: int = CropSettings.size) -> CropSettings:
        """The same for patches of a size."""
        return CropSettings(size=size, **{item.name: getattr(self, item.name) for item in fields(CropOptions)})

    def __post_init__(self) -> None:
        """Check them all."""
        self.cut()


@dataclass(frozen=True, kw_only=True)
class ReportOptions:
    """The parameters of a report."""

    out: str = _parameter(
        "", "folder to write; an earlier report there is replaced; by default `report` beside MLflow's store"
    )
    data: str = _parameter(
        "", "data set to report on: a directory or phantom; by default the newest real one that was run, else a phantom"
    )
    phantom_train: int = _parameter(Options.phantom_train, "training abnormalities of the phantom")
    phantom_test: int = _parameter(Options.phantom_test, "test abnormalities of the phantom")
    phantom_size: int = _parameter(Options.phantom_size, "side of the phantom's patches in pixels")
    phantom_seed: int = _parameter(Options.phantom_seed, "seed of the phantom")


SCALES = ("small", "full")


@dataclass(frozen=True, kw_only=True)
class ReproduceOptions:
    """The parameters of the whole study. Raises `UserError` for impossible ones."""

    scale: str = _parameter("small", "small: quick settings on a small phantom; full: the study's, on `data`")
    data: str = _parameter("phantom", "directory of the four arrays, for scale=full")
    out: str = _parameter("", "folder for the report; by default `report` beside MLflow's store")
    resume: bool = _parameter(True, "go on after the steps that an earlier command finished")

    def __post_init__(self) -> None:
        """Check what can be checked without touching anything."""
        checks.one_of(*SCALES)("scale", self.scale)
        if self.scale == "small" and self.data != "phantom":
            raise expected("data", "phantom, which scale=small is on (scale=full takes a directory)", f"'{self.data}'")


@dataclass(frozen=True, kw_only=True)
class FilmOptions(CropOptions):
    """Where to look on a film that a model is asked of, and how it is cut. Raises `UserError` for impossible ones."""

    box: str = _parameter("", "on a film: x,y,width,height in its pixels, several with semicolons between")
    mask: str = _parameter("", "on a film: a mask of its size, DICOM of two values, several with semicolons between")


@dataclass(frozen=True, kw_only=True)
class RequestOptions(FilmOptions):
    """The parameters of a request. Raises `UserError` for impossible ones."""

    inputs: str = _parameter("patch", "what the model takes: patch, or patch,baseline")
    size: int = _parameter(CropSettings.size, "side of its patches in pixels")

    def __post_init__(self) -> None:
        """Check what can be checked without touching anything."""
        self.cut(self.size)


@dataclass(frozen=True, kw_only=True)
class PrepareOptions(CropOptions):
    """The parameters of an ingest. Raises `UserError` for impossible ones."""

    size: int = _parameter(CropSettings.size, "side of a patch in pixels")
    csv: str = _parameter("", "directory of the case descriptions; by default the source")
    without_callback: str = _parameter("benign", "what BENIGN_WITHOUT_CALLBACK is: benign or exclude")
    shared_patients: str = _parameter("drop-train", "training rows of patients in the test set: drop-train or keep")
    workers: int = _parameter(0, "films at once; 0: as many as there are cores")

    def __post_init__(self) -> None:
        """Check what can be checked without touching anything."""
        self.settings()
        checks.at_once("workers", self.workers)

    def settings(self) -> IngestSettings:
        """What decides the patches."""
        return IngestSettings(self.cut(self.size), self.without_callback, self.shared_patients)


def preset_of(options: Options) -> str:
    """The preset that `auto` means: the paper's settings, but on phantom data quick ones."""
    if options.preset != "auto":
        return options.preset
    return "quick" if options.data == "phantom" else "paper"


def same_data(options: Options, entry: str, values: Mapping[str, checks.Value]) -> str:
    """The command of an entry point on the data set of these options, spelled as this command was given."""
    names = [f.name for f in fields(Options) if f.name in ("data", "preset", "cache_dir") or f.name[:8] == "phantom_"]
    given = {name: getattr(options, name) for name in names if getattr(options, name) != getattr(Options, name)}
    quoted = {name: shlex.quote(str(value)) for name, value in {**values, **given}.items()}
    if os.environ.get("MLFLOW_RUN_ID", "").strip():
        return f"mlflow run . -e {entry} {' '.join(f'-P {k}={v}' for k, v in quoted.items())} --env-manager local"
    spelled = {name.replace("_", "-"): value for name, value in quoted.items()}
    return f"python -m mammo_mlflow {entry} {' '.join(f'--{k} {v}' for k, v in spelled.items())}"


def available_cores() -> int:
    """The processors this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
