"""Running experiments, whichever family: data, plans, runs, comparison. The rails of every workflow."""

from __future__ import annotations

import hashlib
import logging
import shutil
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
from filelock import FileLock, Timeout

from mammo_mlflow.data.patches import TYPES, PatchSet, read_patch_set
from mammo_mlflow.data.phantom import PhantomSettings, make_phantom
from mammo_mlflow.errors import UserError
from mammo_mlflow.evaluation import figures
from mammo_mlflow.experiment import Experiment, build
from mammo_mlflow.tracking.resume import bury_dead_runs, finished_runs
from mammo_mlflow.tracking.runs import TrackedRun, Writer
from mammo_mlflow.tracking.store import open_store
from mammo_mlflow.training.cache import Cache
from mammo_mlflow.training.cross_validation import cross_validate
from mammo_mlflow.training.executors import JobFailed, make_executor
from mammo_mlflow.training.final import make_final
from mammo_mlflow.training.fits import plan_dataset
from mammo_mlflow.training.plan import Plan, Planner
from mammo_mlflow.training.session import Session
from mammo_mlflow.workflows.comparison import Outcome, log_comparison, show_comparison
from mammo_mlflow.workflows.dry_run import show_dry_run
from mammo_mlflow.workflows.options import Options, available_cores
from mammo_mlflow.workflows.terminal import TerminalProgress

SHEET_ROWS = 2

_log = logging.getLogger(__name__)


def run_experiments(experiments: Sequence[Experiment], options: Options, tags: Mapping[str, str]) -> None:
    """Cross-validate, finish, compare. `tags` go on every run.

    Raises `UserError` before any run exists for everything that can be known by then.
    """
    cache = Cache(Path(options.cache_dir) if options.cache_dir else None, options.cache_limit_gb)
    with ExitStack() as stack:
        progress = stack.enter_context(TerminalProgress())
        patch_set = load_data(options, cache, progress)
        workers = options.workers or max(1, available_cores() // experiments[0].training.threads)
        executor = make_executor(options.executor, workers)
        stack.callback(executor.close)
        stack.callback(cache.release)
        planner = Planner(patch_set, executor, cache, probe=options.dry_run)
        plans = planner.plans(_seeded(experiments, options.seeds))
        if options.dry_run:
            show_dry_run(plans, cache, workers)
            return
        client, experiment_id = open_store()
        for plan in plans:  # a disk that is too small is found before any run exists
            if options.resume and len(finished_runs(client, [fit.key for fit in plan.fits])) == len(plan.fits):
                continue  # its activations will not be needed
            missing = sum(entry.bytes for entry in plan.activations() if cache.find(entry.key) is None)
            cache.make_room(missing, plan.scratch_bytes())
        writer = Writer(client, experiment_id, tags)
        scratch = stack.enter_context(_scratch(cache.root))
        # in one process TensorFlow's threads are set once, so that everything uses what the folds use
        cores = available_cores() if options.executor == "process" else experiments[0].training.threads
        session = Session(writer, executor, cache, progress, scratch, options.resume, cores)
        with _ending_runs(writer):
            _run_all(session, plans, options)


def load_data(options: Options, cache: Cache, progress: TerminalProgress) -> PatchSet:
    """The checked data set, a phantom made if that is asked for; its warnings are logged."""
    directory = Path(options.data).expanduser().resolve()
    if options.data == "phantom":
        settings = PhantomSettings(
            options.phantom_train, options.phantom_test, options.phantom_size, options.phantom_seed
        )
        directory = make_phantom(
            settings, cache.root, lambda done, total: progress.update("making the phantom", done, total)
        )
    patch_set = read_patch_set(directory, options.duplicates)
    for warning in patch_set.warnings:
        _log.warning("%s: %s", directory, warning)
    if patch_set.train.patient_ids is None:
        _log.warning(
            "%s: no train_groups.csv: patients are unknown, so views of one may stand on two sides of a fold", directory
        )
    return patch_set


def _seeded(experiments: Sequence[Experiment], seeds: int) -> list[Experiment]:
    """Each experiment under `seeds` seeds; only the first gets a final model."""
    repeated = []
    for experiment in experiments:
        for number in range(seeds):
            values = experiment.flat() | {"seed": experiment.cv.seed + number}
            values |= {"final": "none"} if number else {}
            repeated.append(build(experiment.task, {k: v for k, v in values.items() if k not in ("task", "family")}))
    return repeated


def _run_all(session: Session, plans: Sequence[Plan], options: Options) -> None:
    """One plan is the top run itself; several are nested in one that compares them."""
    if len(plans) == 1:
        top = _start(session, plans[0], None)
        _tidy(session, top, plans, plans[0].key)
        rows = [_run_plan(session, plans[0], top)]
    else:
        first, key = plans[0], hashlib.sha256("".join(plan.key for plan in plans).encode()).hexdigest()
        top = session.writer.start_run(
            f"{first.experiment.task} {first.experiment.family} comparison"
            + (" [phantom]" if first.patch_set.phantom else ""),
            parent=None,
            tags={k: v for k, v in first.tags().items() if k in _SHARED_TAGS}
            | {"mammo.backbone": "all", "mammo.key": key},
            params={"task": first.experiment.task, "family": first.experiment.family, "seeds": options.seeds},
        )
        _tidy(session, top, plans, key)
        _log_data(first, top)
        rows = []
        for plan in plans:
            run = _start(session, plan, top)
            rows.append(_run_plan(session, plan, run))
            run.finish()
    log_comparison(top, rows)
    top.log_metrics({"tracking_seconds": session.writer.seconds})
    top.finish()
    session.writer.drain()
    show_comparison(rows)


_SHARED_TAGS = ("mammo.task", "mammo.family", "mammo.data_sha256", "mammo.test_sha256", "mammo.phantom")


def _start(session: Session, plan: Plan, parent: TrackedRun | None) -> TrackedRun:
    run = session.writer.start_run(
        plan.name, parent=parent, tags={**plan.tags(), "mammo.key": plan.key}, params=plan.experiment.flat()
    )
    _log_data(plan, run)
    return run


def _tidy(session: Session, run: TrackedRun, plans: Sequence[Plan], key: str) -> None:
    writer, keys = session.writer, {key, *(plan.key for plan in plans)}
    buried = writer.ask(lambda: bury_dead_runs(writer.client, writer.experiment_id, run.id, keys))
    if buried:
        _log.info("%d runs of an interrupted command were marked KILLED", buried)


def _log_data(plan: Plan, run: TrackedRun) -> None:
    plan_dataset(plan, run, "training")
    patch_set = plan.patch_set
    run.log_figure(
        figures.class_distribution(patch_set.class_counts(), "Abnormalities of each class", plan.note),
        "figures/classes.png",
    )
    sheet = []
    for kind in sorted(set(patch_set.train.types.tolist())):
        for row in np.flatnonzero(patch_set.train.types == kind)[:SHEET_ROWS]:
            name = f"{TYPES[kind]}, patch {row}"
            sheet.append(
                (name, np.asarray(patch_set.train.baseline[row]), np.asarray(patch_set.train.abnormality[row]))
            )
    run.log_figure(
        figures.patch_sheet(sheet, "Training patches beside their baselines", plan.note), "figures/patches.png"
    )


def _run_plan(session: Session, plan: Plan, run: TrackedRun) -> Outcome:
    cv = cross_validate(session, plan, run)
    final = make_final(session, cv) if plan.experiment.final.final != "none" else None
    if final is not None:
        run.log_metrics({"test_accuracy": final.accuracy.value, "test_roc_auc": final.roc_auc.value})
        run.set_tags({"mammo.registered_name": final.registered_name, "mammo.version": final.version})
    return cv, final


@contextmanager
def _scratch(root: Path) -> Iterator[Path]:
    """A directory for files on their way to the store, locked while in use; unlocked ones were left by a kill."""
    for old in root.glob("scratch-*.lock"):
        try:
            with FileLock(old).acquire(timeout=0):
                shutil.rmtree(old.with_suffix(""), ignore_errors=True)
                old.unlink(missing_ok=True)
        except Timeout:
            continue
    path = root / f"scratch-{uuid.uuid4().hex}"
    with FileLock(path.with_suffix(".lock")):
        path.mkdir()
        try:
            yield path
        finally:
            shutil.rmtree(path, ignore_errors=True)
            path.with_suffix(".lock").unlink(missing_ok=True)


@contextmanager
def _ending_runs(writer: Writer) -> Iterator[None]:
    """No run stays RUNNING behind a command that ended, whichever way it ended."""
    try:
        yield
    except (UserError, JobFailed) as problem:
        writer.abandon("FAILED", str(problem).strip().splitlines()[-1])
        raise
    except (KeyboardInterrupt, SystemExit):
        writer.abandon("KILLED", "interrupted")
        raise
    except BaseException as problem:
        writer.abandon("FAILED", repr(problem))
        raise
