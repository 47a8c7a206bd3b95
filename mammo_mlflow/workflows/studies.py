"""Show the results of studies on the terminal: best setting beside the paper's, and how certain the lead is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from mammo_mlflow.evaluation.intervals import cluster_note
from mammo_mlflow.evaluation.metrics import mean_sd
from mammo_mlflow.jobs.devices import computed_on
from mammo_mlflow.planning.plan import Plan
from mammo_mlflow.search.study_result import StudyResult
from mammo_mlflow.terminal import say, show_table
from mammo_mlflow.workflows.comparison import final_cells

HEADER = ["study", "setting", "trial", "search folds", "fresh seeds", "test accuracy", "test AUC", "registered"]


def show_studies(results: Sequence[StudyResult], storage: str, plan: Plan, how_to_look: str) -> None:
    """Print a table of the studies, a sentence on each, and the commands to go on with."""
    if not results:
        return
    spec, judged = results[0].spec, plan.experiment.judged_by
    names = ", ".join(objective.name for objective in spec.objectives)
    judged += f" repeated under {spec.repeats} seeds" if spec.repeats > 1 else ""
    show_table(f"searched for {names}, {judged}{plan.disclosure.title}", HEADER, list(_rows(results)))
    test = plan.patch_set.test
    how = cluster_note(test.patient_ids)
    say(
        "fresh seeds: mean ± sd, difference with a 95 % interval for all settings that competed at once; "
        f"test results on {len(test)} patches, once ({how})"
    )
    if device := computed_on(plan.tags()):
        say(f"computed on {device}")
    for result in results:
        states = ", ".join(f"{count} {name.lower()}" for name, count in result.states.items() if count)
        say(f"{result.spec.name}: {states}")
        if result.best is None:
            say("  no trial is complete: nothing to compare or register")
        elif result.best.number == 0:
            say("  no setting did better than the paper's on these folds")
        if result.verdict is not None:
            say(f"  {'WARNING: ' if result.verdict.within_noise else ''}{result.verdict.sentence}")
    say(f"compare:  optuna-dashboard '{storage}'   or   {how_to_look}   (study, its trials, their folds)")
    final = next((result.final for result in results if result.final is not None), None)
    if final is not None:
        say(f"serve:    python -m mammo_mlflow serve --model models:/{final.registered_name}/{final.version}")


def _rows(results: Sequence[StudyResult]) -> Iterator[list[str]]:
    for result in results:
        best, fresh = result.best, result.fresh
        if best is None:
            yield [result.spec.name, "best", *["-"] * (len(HEADER) - 2)]
            continue
        found = [", ".join(f"{value:.4g}" for value in best.values), _seeds(fresh.best) if fresh else "-"]
        yield [result.spec.name, "best", str(best.number), *found, *final_cells(result.final)]
        if result.paper is not None and best.number != 0:
            sign = 1 if result.spec.objectives[0].direction == "maximize" else -1
            yield ["", "paper's", "0", f"{result.paper:.4g}", _seeds(fresh.paper) if fresh else "-", *["-"] * 3]
            lead = f"{sign * (best.values[0] - result.paper):+.4g}"
            yield ["", "lead", "", lead, f"{fresh.difference:+.3f}" if fresh else "-", *["-"] * 3]


def _seeds(values: Sequence[float]) -> str:
    mean, sd = mean_sd(values)
    return f"{mean:.3f} ± {sd:.3f}" if len(values) > 1 else f"{mean:.3f}"
