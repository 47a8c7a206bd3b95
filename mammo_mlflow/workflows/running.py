"""Running experiments, whichever family: plans, runs, comparison."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial

from mammo_mlflow.experiment import Experiment
from mammo_mlflow.jobs.session import Session
from mammo_mlflow.planning.activations import missing_activations
from mammo_mlflow.planning.find_base_models import find_sources
from mammo_mlflow.planning.plan import Plan
from mammo_mlflow.tracking.resume import bury_dead_runs, finished_runs
from mammo_mlflow.tracking.runs import TrackedRun
from mammo_mlflow.training.cross_validation import cross_validate
from mammo_mlflow.training.final_model import make_final
from mammo_mlflow.workflows.comparison import Outcome, log_comparison, show_comparison
from mammo_mlflow.workflows.dry_run import show_dry_run
from mammo_mlflow.workflows.options import Options, same_data
from mammo_mlflow.workflows.rails import log_data, open_bench, open_session

Closing = Callable[[TrackedRun, Sequence[Outcome]], list[str]]
"""Logs what a command has to say beyond its table on the top run, and answers it in sentences."""

_log = logging.getLogger(__name__)


def run_experiments(
    experiments: Sequence[Experiment], options: Options, tags: Mapping[str, str], closing: Closing | None = None
) -> None:
    """Cross-validate, finish, compare. `tags` go on every run; `closing` is called last, with the top run.

    Raises `UserError` before any run exists for everything that can be known by then.
    """
    with open_bench(options, experiments[0].training.threads) as bench, ExitStack() as stack:
        session = None
        if any(experiment.family == "conditioned" for experiment in experiments):
            session = stack.enter_context(open_session(bench, options, tags))
            bench.planner.find_sources = find_sources(session, bench.planner, partial(same_data, options))
        plans = bench.planner.plans(_seeded(experiments, options.seeds))
        if options.dry_run:
            show_dry_run(plans, bench.cache, bench.workers)
            return
        session = session or stack.enter_context(open_session(bench, options, tags))
        client, cache = session.writer.client, session.cache
        for plan in plans:  # a disk that is too small is found before any run exists
            if options.resume and len(finished_runs(client, [fit.key for fit in plan.fits])) == len(plan.fits):
                continue  # its activations will not be needed
            missing = missing_activations(cache, plan)
            for entry in plan.activations():
                cache.find(entry.key)  # leased: it is not what makes room
            cache.make_room(sum(entry.bytes for entry in missing), plan.scratch_bytes())
        _run_all(session, plans, options, closing)


def _seeded(experiments: Sequence[Experiment], seeds: int) -> list[Experiment]:
    """Each experiment under `seeds` seeds; only the first gets a final model."""
    repeated = []
    for experiment in experiments:
        for number in range(seeds):
            only_judged = {"final": "none"} if number else {}
            repeated.append(experiment.changed(seed=experiment.cv.seed + number, **only_judged))
    return repeated


def _run_all(session: Session, plans: Sequence[Plan], options: Options, closing: Closing | None) -> None:
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
        log_data(first, top)
        rows = []
        for plan in plans:
            run = _start(session, plan, top)
            rows.append(_run_plan(session, plan, run))
            run.finish()
    log_comparison(top, rows)
    said = [] if closing is None else closing(top, rows)
    top.log_metrics({"tracking_seconds": session.writer.seconds})
    top.finish()
    session.writer.drain()
    show_comparison(rows, said)


_SHARED_TAGS = ("mammo.task", "mammo.family", "mammo.data_sha256", "mammo.test_sha256", "mammo.phantom")


def _start(session: Session, plan: Plan, parent: TrackedRun | None) -> TrackedRun:
    run = session.writer.start_run(
        plan.name, parent=parent, tags={**plan.tags(), "mammo.key": plan.key}, params=plan.experiment.flat()
    )
    log_data(plan, run)
    return run


def _tidy(session: Session, run: TrackedRun, plans: Sequence[Plan], key: str) -> None:
    writer, keys = session.writer, {key, *(plan.key for plan in plans)}
    buried = writer.ask(lambda: bury_dead_runs(writer.client, writer.experiment_id, run.id, keys))
    if buried:
        _log.info("%d runs of an interrupted command were marked KILLED", buried)


def _run_plan(session: Session, plan: Plan, run: TrackedRun) -> Outcome:
    cv = cross_validate(session, plan, run)
    final = make_final(session, cv) if plan.experiment.final.final != "none" else None
    if final is not None:
        run.log_metrics({"test_accuracy": final.accuracy.value, "test_roc_auc": final.roc_auc.value})
        run.set_tags({"mammo.registered_name": final.registered_name, "mammo.version": final.version})
    return cv, final
