"""Options that several commands share: data, phantom, workers, cache, and how patches are cut from films."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping
from typing import Annotated

from mammo_mlflow import checks
from mammo_mlflow.backbones import LICENCES
from mammo_mlflow.checks import Value
from mammo_mlflow.commands.base import JUDGING, MODEL, WHERE, CommandOptions, Option
from mammo_mlflow.data.cbis_ddsm.settings import CropSettings
from mammo_mlflow.errors import expected
from mammo_mlflow.experiment import TASKS
from mammo_mlflow.jobs.devices import WANTED
from mammo_mlflow.presets import PRESETS

SETTINGS = "mammo_mlflow.data.cbis_ddsm.settings"
TASK = Option("what is told apart", MODEL, checks.one_of(*TASKS))


def _executor(name: str, value: object) -> None:
    from mammo_mlflow.jobs.executors import check_executor  # brings NumPy, which other checks can do without

    check_executor(str(value))


EXECUTOR = Option(
    "where jobs run: each in a process of its own, inline, in that of the command, or on the nodes of a Ray cluster",
    check=_executor,
    choices="mammo_mlflow.jobs.executors:EXECUTORS",
)


def one_objective(name: str, value: str) -> None:
    """Check that a text is the name of one metric of predictions. Raises `UserError`."""
    from mammo_mlflow.evaluation.objectives import parse_objectives  # brings NumPy

    if len(parse_objectives(value)) > 1:
        raise expected(name, "one name", f"'{value}'")


CACHE_DIR = Option("cache directory; by default $MAMMO_CACHE_DIR or the user's cache", path=True)


class PhantomOptions(CommandOptions):
    """Options of the synthetic data set."""

    phantom_train: Annotated[int, Option("training abnormalities of the phantom")] = 320
    phantom_test: Annotated[int, Option("test abnormalities of the phantom")] = 128
    phantom_size: Annotated[int, Option("side of the phantom's patches in pixels")] = 150
    phantom_seed: Annotated[int, Option("seed of the phantom")] = 0
    phantom_views: Annotated[
        int, Option("views of each of the phantom's lesions: 1, one or two alike; 2, two that have to be compared")
    ] = 1


class DataOptions(PhantomOptions):
    """Options of the data set, real or synthetic."""

    data: Annotated[str, Option("directory of the four arrays, or phantom", path=True)] = "phantom"
    duplicates: Annotated[
        str,
        Option(
            "patches that are in the data set twice, such as in training and test", check=checks.one_of("warn", "error")
        ),
    ] = "warn"


def licence(name: str, value: str) -> None:
    """Check that a text names a licence of weights, or none. Raises `UserError`."""
    if value:
        checks.one_of(*LICENCES)(name, value)


class WorkbenchOptions(DataOptions):
    """Options of the data set, the cache, and where jobs run."""

    executor: Annotated[str, EXECUTOR] = "process"
    retries: Annotated[
        int,
        Option(
            "how often a job is started again whose process was killed or hangs",
            check=checks.whole_number(0, 10),
        ),
    ] = 1
    resume: Annotated[bool, Option("reuse folds and models that an earlier command finished")] = True
    accept_licence: Annotated[
        str, Option("weights whose licence you accept, where it asks for that", check=licence)
    ] = ""
    cache_dir: Annotated[str, CACHE_DIR] = ""
    cache_limit_gb: Annotated[float, Option("size limit of the cached activations in GB", check=checks.positive)] = 20.0


class DeviceOptions(CommandOptions):
    """Options of what fits compute with."""

    devices: Annotated[
        str,
        Option(
            "what computes: cards (gpu), the processor (cpu), or cards where there are some",
            check=checks.one_of(*WANTED),
        ),
    ] = "auto"
    card_memory_gb: Annotated[
        float,
        Option("memory of each card that this command may take in GB; 0: what is free", check=checks.at_least_zero),
    ] = 0.0


class TrainingOptions(WorkbenchOptions, DeviceOptions):
    """Options of every command that trains models, beside the parameters of its experiments."""

    preset: Annotated[
        str,
        Option(
            "table of parameter values: the paper's, its chapter 4's protocols (table, scratch alone), quick ones, or "
            "the paper's with what helps beside them (best); auto is quick on phantom data, else paper",
            MODEL,
            checks.one_of("auto", *PRESETS),
        ),
    ] = "auto"
    seeds: Annotated[int, Option("repeat the whole with this many seeds", JUDGING, checks.whole_number(1, 1000))] = 1
    workers: Annotated[
        int, Option("folds at once on each card, or on the processor; 0 fits them to it", check=checks.at_once)
    ] = 0
    deterministic: Annotated[
        bool,
        Option("the same bits whatever the number of threads: 1 a fold, as many folds at once; slower on cards"),
    ] = False
    dry_run: Annotated[bool, Option("say what would be done, and its time and disk, and stop")] = False

    def given(self) -> dict[str, Value]:
        """The parameters that were given; what is deterministic has one thread, whose number moves the last bits."""
        return super().given() | ({"threads": 1} if self.deterministic else {})

    @property
    def preset_name(self) -> str:
        """The name of the preset, with `auto` resolved: the paper's settings, but on phantom data quick ones."""
        if self.preset != "auto":
            return self.preset
        return "quick" if self.data == "phantom" else "paper"


def _crop_setting(name: str, value: object) -> None:
    CropSettings(**{name: value})  # type: ignore[arg-type]


SIZE = Option("side of a patch in pixels", check=_crop_setting)


class CropOptions(CommandOptions):
    """Options of how patches are cut from films; the defaults are the paper's."""

    margin: Annotated[float, Option("context around the box, as a share of its sides", check=_crop_setting)] = (
        CropSettings.margin
    )
    interpolation: Annotated[
        str, Option("how a patch is resized", WHERE, _crop_setting, f"{SETTINGS}:INTERPOLATIONS")
    ] = CropSettings.interpolation
    baseline_side: Annotated[
        str,
        Option("left, right, above or below, several with commas in order of preference, or any", check=_crop_setting),
    ] = CropSettings.baseline_side
    tissue: Annotated[float, Option("least part of a baseline that lies in the breast", check=_crop_setting)] = (
        CropSettings.tissue
    )
    locate: Annotated[
        str,
        Option(
            "how far an odd mask is followed: mask (as it is), rescale (to its film's size, without specks) or match "
            "(also by its crop)",
            check=_crop_setting,
        ),
    ] = CropSettings.locate

    def crop(self, size: int = CropSettings.size) -> CropSettings:
        """The crop settings of these options, for patches of `size` pixels a side. Raises `UserError`."""
        return CropSettings(size=size, **{name: getattr(self, name) for name in CropOptions.model_fields})


class FilmOptions(CropOptions):
    """Options of where patches come from: a file, or boxes and masks on a film and how to cut them from it."""

    input: Annotated[
        str,
        Option(
            "a data directory or phantom, for its test set; a .npy of pairs, even rows baselines, odd abnormalities; "
            "or a film as DICOM, with a box or a mask",
            MODEL,
            path=True,
        ),
    ]
    box: Annotated[str, Option("on a film: x,y,width,height in its pixels, several with semicolons between")] = ""
    mask: Annotated[
        str, Option("on a film: a mask of its size, DICOM of two values, several with semicolons between", path=True)
    ] = ""


def same_data(options: DataOptions, entry: str, values: Mapping[str, checks.Value]) -> str:
    """The command line that starts an entry point on the same data set, spelled as this command was started."""
    fields = {name: field for name, field in type(options).model_fields.items() if name in _OF_DATA}
    given = {n: getattr(options, n) for n, field in fields.items() if getattr(options, n) != field.default}
    quoted = {name: shlex.quote(str(value)) for name, value in {**values, **given}.items()}
    if os.environ.get("MLFLOW_RUN_ID", "").strip():
        return f"mlflow run . -e {entry} {' '.join(f'-P {k}={v}' for k, v in quoted.items())} --env-manager local"
    spelled = {name.replace("_", "-"): value for name, value in quoted.items()}
    return f"python -m mammo_mlflow {entry} {' '.join(f'--{k} {v}' for k, v in spelled.items())}"


_OF_DATA = ("data", *PhantomOptions.model_fields, "preset", "cache_dir", *DeviceOptions.model_fields)
