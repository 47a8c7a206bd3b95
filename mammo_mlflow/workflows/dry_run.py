"""`dry_run=true`: estimate what a command would train, and the time and disk that takes."""

from __future__ import annotations

from collections.abc import Sequence

from mammo_mlflow.jobs.cache import Cache
from mammo_mlflow.planning.activations import missing_activations
from mammo_mlflow.planning.plan import Plan
from mammo_mlflow.processes import available_cores
from mammo_mlflow.terminal import show_table

HEAD_SECONDS = 1e-4
"""A patch and epoch of a head on cached activations, as measured (docs/benchmarks.md)."""
TUNED_SHARE = 0.1
"""A patch of a fine-tuning epoch on cached activations, as a share of a patch through the whole network."""
BACKWARD = 3.0
"""A trained pass through a network, as a multiple of a pass forward: gradients cost about twice as much."""
OVERHEAD_SECONDS = 20.0


def show_dry_run(plans: Sequence[Plan], cache: Cache, workers: int) -> None:
    """Print fits, epochs, disk (GB) and an estimated time (minutes) of each plan, as if nothing were finished yet.

    Activations, on-line epochs and fine-tuning epochs (a tenth of a whole pass) are taken at the measured speed; a head
    on cached activations takes `HEAD_SECONDS` a patch and epoch. With 0 workers a card trains all folds at once.
    """
    rows = []
    for plan in plans:
        missing = missing_activations(cache, plan.activations())
        experiment, training = plan.experiment, plan.experiment.training
        per_patch = len(plan.sides) / plan.description.patches_per_second
        head = sum(fit.job.epochs for fit in plan.fits)
        tuned = sum(fit.job.tuning_epochs for fit in plan.fits) if experiment.model.unfrozen_layers else 0
        if experiment.trained_whole:
            per_patch *= BACKWARD
        online = experiment.views == 0
        head_cost, tuned_cost = (per_patch, per_patch) if online else (HEAD_SECONDS, TUNED_SHARE * per_patch)
        side_by_side = min(workers or len(plan.fits), len(plan.fits))
        seconds = len(plan.labels) * (head * head_cost + tuned * tuned_cost) / side_by_side + OVERHEAD_SECONDS
        if missing:
            seconds += len(plan.labels) * (training.views + 1) * per_patch * training.threads / available_cores()
        rows.append(
            [
                plan.name,
                str(experiment.cv.seed),
                str(len(plan.fits)),
                str(head + tuned),
                f"{sum(e.bytes for e in missing) / 1e9:.2f} GB",
                f"{plan.scratch_bytes() / 1e9:.2f} GB",
                f"{seconds / 60:.1f} min",
            ]
        )
    header = ["experiment", "seed", "fits", "epochs", "new cache", "models", "about"]
    show_table("dry run: nothing was trained", header, rows)
