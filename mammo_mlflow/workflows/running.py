"""Run experiments of any family: plan them, cross-validate, make final models, compare."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import groupby

from mammo_mlflow.commands.shared import TrainingOptions, same_data
from mammo_mlflow.disclosure import Disclosure
from mammo_mlflow.experiment import Experiment
from mammo_mlflow.files import sha256
from mammo_mlflow.jobs.workbench import Workbench
from mammo_mlflow.names import Tag
from mammo_mlflow.planning.activations import missing_activations
from mammo_mlflow.planning.find_base_models import find_base_models
from mammo_mlflow.planning.plan import Plan
from mammo_mlflow.tracking.orphans import close_orphaned_runs
from mammo_mlflow.tracking.run_queries import all_finished
from mammo_mlflow.tracking.tracked_run import TrackedRun
from mammo_mlflow.training.cross_validation import cross_validate_together
from mammo_mlflow.training.final_model import make_final
from mammo_mlflow.workflows.comparison import Outcome, log_comparison, show_comparison
from mammo_mlflow.workflows.dry_run import show_dry_run
from mammo_mlflow.workflows.workbench import log_data, open_workbench

Summarise = Callable[[TrackedRun, Sequence[Outcome]], list[str]]
"""Logs what a command has to say beyond its table on the top run, and answers it in sentences."""

_log = logging.getLogger(__name__)


def run_experiments(
    experiments: Sequence[Experiment],
    options: TrainingOptions,
    tags: Mapping[str, str],
    summarise: Summarise | None = None,
) -> str | None:
    """Cross-validate experiments, make their final models and compare them; return the id of the top run.

    `tags` go on every run; `summarise` is called last, with the top run. None for a dry run. Raises `UserError` before
    any run exists for everything that can be known by then.
    """
    with open_workbench(options, experiments[0].training.threads, tags, options.workers, options.dry_run) as (
        bench,
        planner,
    ):
        planner.find_base_models = find_base_models(bench, planner, partial(same_data, options))
        plans = planner.plans(_seeded(experiments, options.seeds))
        if options.dry_run:
            show_dry_run(plans, bench.cache, bench.workers)
            return None
        client, cache = bench.writer.client, bench.cache
        for plan in plans:  # a disk that is too small is found before any run exists
            if options.resume and all_finished(client, [fit.key for fit in plan.fits]):
                continue  # its activations will not be needed
            missing = missing_activations(cache, plan.activations())
            for entry in plan.activations():
                cache.find(entry.key)  # leased: it is not what makes room
            cache.make_room(sum(entry.bytes for entry in missing), plan.scratch_bytes())
        return _run_all(bench, plans, options, summarise)


def _seeded(experiments: Sequence[Experiment], seeds: int) -> list[Experiment]:
    """Return each experiment under `seeds` seeds in a row; only the first seed gets a final model."""
    return [
        experiment.changed(seed=experiment.cv.seed + number, **({"final": "none"} if number else {}))
        for experiment in experiments
        for number in range(seeds)
    ]


def _run_all(bench: Workbench, plans: Sequence[Plan], options: TrainingOptions, summarise: Summarise | None) -> str:
    """Run the plans: one plan is the top run itself, several are nested in a run that compares them. Its id."""
    first, several, writer = plans[0], len(plans) > 1, bench.writer
    task, family = first.experiment.task, first.experiment.family
    key = sha256("".join(plan.key for plan in plans)) if several else first.key
    if several:
        top = writer.start_run(
            f"{family} {task} comparison{Disclosure.of(phantom=first.patch_set.phantom).suffix}",
            parent=None,
            tags={k: v for k, v in first.tags().items() if k in _SHARED_TAGS} | {Tag.BACKBONE: "all", Tag.KEY: key},
            params={"task": task, "family": family, "seeds": options.seeds},
        )
        log_data(first, top)
    else:
        top = _start(bench, first, None)
    keys = {key, *(plan.key for plan in plans)}
    buried = writer.ask(lambda: close_orphaned_runs(writer.client, writer.experiment_id, top.id, keys))
    if buried:
        _log.info("%d runs of an interrupted command were marked KILLED", buried)
    rows: list[Outcome] = []
    for group in _together(plans):
        begun = [(plan, _start(bench, plan, top) if several else top, _label(plan, group)) for plan in group]
        for cv in cross_validate_together(bench, begun):
            final = make_final(bench, cv) if cv.plan.experiment.final.final != "none" else None
            if final is not None:
                final.tell(cv.run)
            if several:
                cv.run.finish()
            rows.append((cv, final))
    log_comparison(top, rows)
    said = [] if summarise is None else summarise(top, rows)
    top.log_metrics({"tracking_seconds": writer.seconds})
    top.close()
    show_comparison(rows, said, writer.how_to_look())
    return top.id


_SHARED_TAGS = (
    Tag.TASK,
    Tag.FAMILY,
    Tag.DATA_SHA256,
    Tag.TEST_SHA256,
    Tag.PHANTOM,
    Tag.KERAS_BACKEND,
    Tag.DEVICE,
    Tag.DEVICE_NAME,
)


def _together(plans: Sequence[Plan]) -> list[list[Plan]]:
    """The plans in groups whose fits are handed out at once: by the compiled engine, those that share its programs."""
    if plans[0].devices.engine != "compiled":
        return [[plan] for plan in plans]
    return [list(group) for _, group in groupby(plans, key=lambda plan: plan.fits[0].job.program)]


def _label(plan: Plan, group: Sequence[Plan]) -> str:
    """What stands before the folds of a plan where progress is shown."""
    return (
        plan.experiment.model.backbone if len(group) == 1 else f"{plan.experiment.label} seed {plan.experiment.cv.seed}"
    )


def _start(bench: Workbench, plan: Plan, parent: TrackedRun | None) -> TrackedRun:
    run = bench.writer.start_run(
        plan.name,
        parent=parent,
        tags={**plan.tags(), Tag.KEY: plan.key},
        params=plan.experiment.flat(),
        later=parent is not None,
    )
    log_data(plan, run)
    return run
