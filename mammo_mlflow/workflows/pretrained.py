"""`pretrained`: cross-validated, tested, registered models on a pretrained backbone, compared at the end."""

from __future__ import annotations

import hashlib
import logging
import shutil
import uuid
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from filelock import FileLock, Timeout

from mammo_mlflow.data.patches import TYPES, PatchSet, read_patch_set
from mammo_mlflow.data.phantom import PhantomSettings, make_phantom
from mammo_mlflow.errors import UserError, unknown_name
from mammo_mlflow.evaluation import figures
from mammo_mlflow.evaluation.metrics import mean_sd
from mammo_mlflow.experiment import BACKBONES, TASKS, Experiment, build
from mammo_mlflow.presets import preset_values
from mammo_mlflow.tracking.resume import bury_dead_runs, finished_runs
from mammo_mlflow.tracking.runs import TrackedRun, Writer
from mammo_mlflow.tracking.store import open_store
from mammo_mlflow.training.cache import Cache
from mammo_mlflow.training.cross_validation import CrossValidation, cross_validate, fit_epochs, plan_dataset
from mammo_mlflow.training.executors import JobFailed, make_executor
from mammo_mlflow.training.final import Final, make_final
from mammo_mlflow.training.plan import Plan, make_plans
from mammo_mlflow.training.session import Session
from mammo_mlflow.workflows.options import Options, available_cores
from mammo_mlflow.workflows.terminal import TerminalProgress, say, show_table

SHEET_ROWS = 2
HEAD_SECONDS = 1e-4
TUNED_SHARE = 0.1
OVERHEAD_SECONDS = 20.0

_log = logging.getLogger(__name__)


def run(task: str, backbone: str, values: dict[str, Any], options: Options) -> None:
    """The whole command. Raises `UserError` before any run exists for everything that can be known by then."""
    if task not in TASKS:
        raise unknown_name("task", task, TASKS)
    if backbone not in (*BACKBONES, "all"):
        raise unknown_name("backbone", backbone, (*BACKBONES, "all"))
    preset = options.preset if options.preset != "auto" else "quick" if options.data == "phantom" else "paper"
    backbones = BACKBONES if backbone == "all" else (backbone,)
    if values.get("early_stop") and "final_epochs" not in values:
        values = values | {"final_epochs": 0}  # the refit then runs for the median of the folds' stops
    experiments = [build(task, preset_values(preset, name, task) | values | {"backbone": name}) for name in backbones]
    cache = Cache(Path(options.cache_dir) if options.cache_dir else None, options.cache_limit_gb)
    with ExitStack() as stack:
        progress = stack.enter_context(TerminalProgress())
        patch_set = load_data(options, cache, progress)
        workers = options.workers or max(1, available_cores() // experiments[0].training.threads)
        executor = make_executor(options.executor, workers)
        stack.callback(executor.close)
        stack.callback(cache.release)
        plans = make_plans(_seeded(experiments, options.seeds), patch_set, executor, cache, probe=options.dry_run)
        if options.dry_run:
            show_dry_run(plans, cache, workers)
            return
        client, experiment_id = open_store()
        for plan in plans:  # a disk that is too small is found before any run exists
            if options.resume and len(finished_runs(client, [fit.key for fit in plan.fits])) == len(plan.fits):
                continue  # its activations will not be needed
            missing = sum(entry.bytes for entry in plan.activations() if cache.find(entry.key) is None)
            cache.make_room(missing, plan.scratch_bytes())
        writer = Writer(client, experiment_id, {"mammo.preset": preset})
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


def show_dry_run(plans: Sequence[Plan], cache: Cache, workers: int) -> None:
    """Fits, epochs, disk and a rough time, as if nothing were finished yet.

    Activations, on-line epochs and fine-tuning epochs (a tenth of a whole pass) go at the probed speed; a cached head
    takes `HEAD_SECONDS` a patch and epoch.
    """
    rows = []
    for plan in plans:
        missing = [entry for entry in plan.activations() if not cache.has(entry.key)]
        training = plan.experiment.training
        per_patch = 1 / plan.description.patches_per_second
        head = sum(fit_epochs(plan, fit)[0] for fit in plan.fits)
        tuned = sum(fit_epochs(plan, fit)[1] for fit in plan.fits) if plan.description.tuned else 0
        online = training.views == 0
        head_cost, tuned_cost = (per_patch, per_patch) if online else (HEAD_SECONDS, TUNED_SHARE * per_patch)
        side_by_side = min(workers, len(plan.fits))
        seconds = len(plan.labels) * (head * head_cost + tuned * tuned_cost) / side_by_side + OVERHEAD_SECONDS
        seconds += (
            len(plan.labels) * (training.views + 1) * per_patch * training.threads / available_cores() if missing else 0
        )
        rows.append(
            [
                plan.name,
                str(plan.experiment.cv.seed),
                str(len(plan.fits)),
                str(head + tuned),
                f"{sum(e.bytes for e in missing) / 1e9:.2f} GB",
                f"{plan.scratch_bytes() / 1e9:.2f} GB",
                f"{seconds / 60:.1f} min",
            ]
        )
    header = ["experiment", "seed", "fits", "epochs", "new cache", "models", "about"]
    show_table("dry run: nothing was trained", header, rows)


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
        rows = [_run_plan(session, plan, _start(session, plan, top)) for plan in plans]
    _compare(session, top, rows)
    top.log_metrics({"tracking_seconds": session.writer.seconds})
    top.finish()
    session.writer.drain()
    _show(rows, options)


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


def _run_plan(session: Session, plan: Plan, run: TrackedRun) -> tuple[CrossValidation, Final | None]:
    cv = cross_validate(session, plan, run)
    final = make_final(session, cv) if plan.experiment.final.final != "none" else None
    if final is not None:
        run.log_metrics({"test_accuracy": final.accuracy.value, "test_roc_auc": final.roc_auc.value})
        run.set_tags({"mammo.registered_name": final.registered_name, "mammo.version": final.version})
    run.finish()
    return cv, final


def _compare(session: Session, top: TrackedRun, rows: Sequence[tuple[CrossValidation, Final | None]]) -> None:
    scores = pd.concat([cv.fold_scores for cv, _ in rows], ignore_index=True)
    note = "; ".join(sorted({cv.plan.note for cv, _ in rows if cv.plan.note})) or None
    title = f"{rows[0][0].plan.experiment.task}: folds"
    top.log_figure(figures.fold_overview(scores, title, note), "figures/comparison.png")
    finals = {cv.plan.experiment.model.backbone: final.test for cv, final in rows if final is not None}
    if len(finals) > 1:
        groups = rows[0][0].plan.patch_set.test.patient_ids
        curves = {
            name: (test["label"].to_numpy(), test["probability"].to_numpy(), groups) for name, test in finals.items()
        }
        top.log_figure(
            figures.roc_curves(curves, f"{rows[0][0].plan.experiment.task}: test", note), "figures/comparison_roc.png"
        )
    if len(rows) > 1:
        header, cells = _table(rows)
        top.log_text(pd.DataFrame(cells, columns=header).to_csv(index=False), "comparison.csv")
        for name, part in scores.groupby("backbone", sort=False):
            top.log_metrics(
                {
                    f"{name}_fold_accuracy_mean": part["accuracy"].mean(),
                    f"{name}_fold_roc_auc_mean": part["roc_auc"].mean(),
                }
            )
        for name, means in _seed_means(rows).items():
            if len(means) > 1:
                mean, sd = mean_sd(means)
                top.log_metrics({f"{name}_seeds_roc_auc_mean": mean, f"{name}_seeds_roc_auc_sd": sd})


def _seed_means(rows: Sequence[tuple[CrossValidation, Final | None]]) -> dict[str, list[float]]:
    """The mean fold ROC AUC of each seed, by backbone."""
    means: dict[str, list[float]] = {}
    for cv, _ in rows:
        means.setdefault(cv.plan.experiment.model.backbone, []).append(float(cv.fold_scores["roc_auc"].mean()))
    return means


def _table(rows: Sequence[tuple[CrossValidation, Final | None]]) -> tuple[list[str], list[list[str]]]:
    header = ["backbone", "weights", "seed", "fold accuracy", "fold AUC", "test accuracy", "test AUC", "registered"]
    cells = []
    for cv, final in rows:
        accuracy, auc = mean_sd(cv.fold_scores["accuracy"]), mean_sd(cv.fold_scores["roc_auc"])
        tuned = cv.plan.experiment.model.unfrozen_layers
        cells.append(
            [
                cv.plan.experiment.model.backbone + (f" last {tuned}" if tuned else ""),
                cv.plan.weights.label,
                str(cv.plan.experiment.cv.seed),
                f"{accuracy[0]:.3f} ± {accuracy[1]:.3f}",
                f"{auc[0]:.3f} ± {auc[1]:.3f}",
                f"{final.accuracy}" if final else "-",
                f"{final.roc_auc}" if final else "-",
                f"{final.registered_name} v{final.version}" if final else "-",
            ]
        )
    return header, cells


def _show(rows: Sequence[tuple[CrossValidation, Final | None]], options: Options) -> None:
    plan = rows[0][0].plan
    said = " - PHANTOM DATA, no medical result" if plan.patch_set.phantom else ""
    test = plan.patch_set.test
    header, cells = _table(rows)
    show_table(f"{plan.experiment.task}, {plan.experiment.cv.folds} folds{said}", header, cells)
    known = test.patient_ids is not None
    say(
        f"fold figures: mean ± sd; test figures on {len(test)} patches, decided at 0.5, with 95 % intervals "
        f"({'patients resampled' if known else 'patches assumed independent'})"
    )
    for name, means in _seed_means(rows).items():
        if len(means) > 1:
            mean, sd = mean_sd(means)
            say(f"{name}: fold AUC over {len(means)} seeds {mean:.3f} ± {sd:.3f}")
    final = next((final for _, final in rows if final is not None), None)
    say("compare:  mlflow ui   (then open the run, its children are the folds and the final model)")
    if final is not None:
        say(f"serve:    mlflow models serve -m models:/{final.registered_name}/{final.version} --env-manager local")


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
