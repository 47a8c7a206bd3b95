"""Open a command's data, planner, executors, store, and folder of temporary files."""

from __future__ import annotations

import functools
import logging
import shutil
import uuid
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path

import numpy as np

from mammo_mlflow.commands.shared import PhantomOptions, TrainingOptions, WorkbenchOptions
from mammo_mlflow.data.patches import LESION_COLUMNS, TYPES, PatchSet, read_patch_set
from mammo_mlflow.data.phantom import PhantomSettings, make_phantom
from mammo_mlflow.ending import told_to_end
from mammo_mlflow.errors import UserError
from mammo_mlflow.evaluation import figures
from mammo_mlflow.files import Taken, locked
from mammo_mlflow.jobs.cache import Cache
from mammo_mlflow.jobs.devices import Devices, environment, find_devices
from mammo_mlflow.jobs.executors import JobFailed, machines, make_executors
from mammo_mlflow.jobs.workbench import Workbench
from mammo_mlflow.planning.plan import Plan
from mammo_mlflow.planning.planner import Planner
from mammo_mlflow.terminal import TerminalProgress
from mammo_mlflow.tracking.runs import Writer
from mammo_mlflow.tracking.store import TrackingError, check_store, open_writer
from mammo_mlflow.tracking.tracked_run import TrackedRun
from mammo_mlflow.training.fit_runs import plan_dataset
from mammo_mlflow.whereabouts import remember
from mammo_mlflow.wording import INTERRUPTED, first_line, in_words, reason, without_paths

SHEET_ROWS = 2

_log = logging.getLogger(__name__)


@contextmanager
def open_workbench(
    options: WorkbenchOptions,
    threads: int,
    tags: Mapping[str, str] | None = None,
    workers: int = 0,
    probe: bool = False,
    store: bool = True,
) -> Iterator[tuple[Workbench, Planner]]:
    """Open the data set, check it, and yield the workbench and planner of a command.

    Each fold uses `threads` threads; `workers` folds are trained at once (0: as many as cards or cores allow). `tags`
    go on every run. However the command ends, none of its runs is left RUNNING. Without `store` it has none to write
    to. Raises `UserError`.
    """
    if store:
        check_store()
    devices = devices_of(options)
    _log.info("%s", devices.line)
    cache = Cache(Path(options.cache_dir).expanduser() if options.cache_dir else None, options.cache_limit_gb)
    with ExitStack() as stack:
        progress = stack.enter_context(TerminalProgress())
        patch_set = load_data(options.data, options, cache, progress, options.duplicates)
        stack.enter_context(environment(devices, cache.programs))  # before any process starts
        cores = machines(options.executor)
        if not devices.cards or options.executor == "ray":  # else its executor knows how many fits a card holds
            workers = workers or max(1, sum(number // threads for number in cores))
        made = make_executors(options.executor, workers, devices, options.retries)
        executor, side = (stack.enter_context(closing(one)) for one in made)
        stack.callback(cache.release)

        @functools.cache
        def open_once() -> tuple[Writer, Path]:
            writer = open_writer(tags or {}, cache.root)
            scratch = stack.enter_context(_scratch(cache.root))
            stack.enter_context(ending_runs(writer))
            return writer, scratch

        bench = Workbench(
            executor=executor,
            side=side,
            cache=cache,
            progress=progress,
            workers=workers,
            # in one process TensorFlow's threads are set once, so that everything uses what the folds use
            cores=threads if options.executor == "inline" else max(cores),
            resume=options.resume,
            open_store=open_once if store else None,
        )
        yield bench, Planner(patch_set, side, cache, probe, devices, options.accept_licence)


def devices_of(options: WorkbenchOptions) -> Devices:
    """Find what a command computes with: what its options ask for, or the processor where it trains nothing."""
    if isinstance(options, TrainingOptions):
        return find_devices(options.devices, options.card_memory_gb)
    return Devices.of_environment("nothing is trained")


def load_data(
    data: str, phantom: PhantomOptions, cache: Cache, progress: TerminalProgress, duplicates: str = "warn"
) -> PatchSet:
    """Read and check the data set, a directory or `phantom`, which is made; its warnings are logged."""
    directory = Path(data).expanduser().resolve()
    if data == "phantom":
        settings = PhantomSettings(
            phantom.phantom_train,
            phantom.phantom_test,
            phantom.phantom_size,
            phantom.phantom_seed,
            phantom.phantom_views,
        )
        directory = make_phantom(
            settings, cache.root, lambda done, total: progress.update("making the phantom", done, total)
        )
    patch_set = read_patch_set(directory, duplicates)
    remember(directory, patch_set.train_sha256, patch_set.test_sha256)
    for warning in patch_set.warnings:
        _log.warning("%s: %s", directory, warning)
    if patch_set.train.patient_ids is None:
        _log.warning(
            "%s: no train_groups.csv: patients are unknown, so views of one may stand on two sides of a fold", directory
        )
    elif patch_set.train.lesions is None or patch_set.test.lesions is None:
        _log.info("%s: no scores by lesion: groups files lack one of %s", directory, ", ".join(LESION_COLUMNS))
    return patch_set


def log_data(plan: Plan, run: TrackedRun) -> None:
    """Log a plan's data set on a run: its identity, its class counts and some of its patches."""
    plan_dataset(plan, run, "training")
    patch_set = plan.patch_set
    train, counts, note = patch_set.train, patch_set.class_counts(), plan.disclosure.note
    run.log_figure(figures.class_distribution(counts, "Abnormalities of each class", note), "classes")
    sheet = [
        (f"{TYPES[kind]}, patch {row}", np.asarray(train.baseline[row]), np.asarray(train.abnormality[row]))
        for kind in sorted(set(train.types.tolist()))
        for row in np.flatnonzero(train.types == kind)[:SHEET_ROWS]
    ]
    run.log_figure(figures.patch_sheet(sheet, "Training patches beside their baselines", note), "patches")


@contextmanager
def _scratch(root: Path) -> Iterator[Path]:
    """Make a locked folder for files on their way to the store; remove those that killed processes left."""
    for old in left_scratch(root):
        remove_scratch(old)
    path = root / f"scratch-{uuid.uuid4().hex}"
    with locked(path.with_suffix(".lock")):
        path.mkdir()
        try:
            yield path
        finally:
            remove_scratch(path)


def left_scratch(root: Path) -> list[Path]:
    """Find the folders for files on their way to the store that killed processes left."""
    found = []
    for lock in root.glob("scratch-*.lock"):
        with suppress(Taken), locked(lock, Taken()):
            found.append(lock.with_suffix(""))
    return found


def remove_scratch(path: Path) -> None:
    """Remove such a folder and its lock."""
    shutil.rmtree(path, ignore_errors=True)
    path.with_suffix(".lock").unlink(missing_ok=True)


@contextmanager
def ending_runs(writer: Writer) -> Iterator[None]:
    """Context: end every open run of `writer` as FAILED or KILLED where the block raises."""
    try:
        yield
    except BaseException as problem:
        if told_to_end() or isinstance(problem, (KeyboardInterrupt, SystemExit)):
            writer.abandon("KILLED", INTERRUPTED)
            raise
        why = reason(problem)
        if isinstance(problem, (UserError, JobFailed)):
            why = in_words(str(problem).strip().splitlines()[-1])
        elif isinstance(problem, TrackingError):
            why = f"the tracking store refused a request: {first_line(problem)}"
        writer.abandon("FAILED", without_paths(why))
        raise
