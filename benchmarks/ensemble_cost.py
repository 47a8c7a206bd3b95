"""What every way to make an ensemble costs, nested scores included, and what the usual loop over a grid would.

    python benchmarks/ensemble_cost.py [--members 10] [--patches 2676] [--resamples 2000] [--output FILE]

The product's `choose` on made-up out-of-fold predictions (4 folds, 8 patches a patient), one method after another in
one process: seconds, and the process's peak memory so far. A method's time is that of its level 1 of all rows, of those
without each fold, and of the bootstrap interval of the nested score. Then the same with six members, the most for
which grids are exhaustive.

`naive`: a Python loop over the grid {0, 0.34, 0.67, 1} of those six, normalised, multiples removed, which asks
scikit-learn's `roc_auc_score` for each fold of each blend. A part of the blends is really scored; the median of a
blend's seconds times their number is the loop `once`. `nested` repeats it without each fold in turn, on three folds of
four: four times as much. Keeping every fold's score would save the naive loop that, as it does the product, so that
both are printed. Nothing is said about accuracy.
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from pathlib import Path

import numpy as np
from sklearn.metrics import roc_auc_score

from mammo_mlflow.ensembles.blend_weights import EXHAUSTIVE_MEMBERS, PAPER_LEVELS, candidates
from mammo_mlflow.ensembles.methods import fit_ensembles
from mammo_mlflow.evaluation.objectives import parse_objectives
from mammo_mlflow.evaluation.out_of_fold import OutOfFold
from mammo_mlflow.workflows.ensemble import EVERY_METHOD

FOLDS, PATIENT = 4, 8


def main() -> None:
    """Measure every method and the naive loop, print a table, write it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--members", type=int, default=10)
    parser.add_argument("--patches", type=int, default=2676)
    parser.add_argument("--objective", default="roc_auc")
    parser.add_argument("--resamples", type=int, default=2000)
    parser.add_argument("--naive-blends", type=int, default=60, help="blends that the naive loop really scores")
    parser.add_argument("--output", help="file for the numbers as JSON")
    options = parser.parse_args()
    before = peak()
    data = predictions(options.patches, options.members)
    methods = {name: measure(data, name, options.objective, options.resamples) for name in EVERY_METHOD}
    seconds = sum(one["seconds"] for one in methods.values())
    print(f"every method, {options.members} members: {seconds:.1f} s, peak {peak():.0f} MB ({before:.0f} MB at start)")
    few = predictions(options.patches, EXHAUSTIVE_MEMBERS)
    six = {name: measure(few, name, "roc_auc", options.resamples) for name in EVERY_METHOD}
    total = sum(one["seconds"] for one in six.values())
    print(f"every method, {few.members} members: {total:.1f} s, peak {peak():.0f} MB")
    ours, naive = six["grid"]["seconds"], loop(few, options.naive_blends)
    print(
        f"exhaustive grid of {few.members} members: {ours:.1f} s, nested included; naive loop, extrapolated from"
        f" {naive['measured']} of {naive['blends']} blends: once {naive['once']:.0f} s ({naive['once'] / ours:.0f}x),"
        f" nested {naive['nested']:.0f} s ({naive['nested'] / ours:.0f}x)"
    )
    if options.output:
        numbers = {"members": options.members, "patches": options.patches, "seconds": seconds, "peak_mb": peak()}
        numbers |= {"start_mb": before, "methods": methods, "six_members": six, "naive": naive}
        Path(options.output).write_text(json.dumps(numbers, indent=1))


def predictions(patches: int, members: int) -> OutOfFold:
    """Members that see the truth through noise, some of it shared."""
    random = np.random.default_rng(0)
    labels = random.integers(0, 2, patches)
    logits = 0.8 * (labels[:, None] - 0.5) + 0.7 * random.normal(size=(patches, 1))
    p = 1 / (1 + np.exp(-logits - random.normal(size=(patches, members))))
    groups = np.arange(patches) // PATIENT
    return OutOfFold(labels=labels, probabilities=p.astype(np.float32), folds=groups % FOLDS, groups=groups)


def measure(data: OutOfFold, method: str, objective: str, resamples: int) -> dict[str, float]:
    """A method's seconds, the peak memory after it in MB, and both of its scores."""
    start = time.perf_counter()
    found = fit_ensembles(data, parse_objectives(objective)[0], [method], resamples=resamples, known=EVERY_METHOD)[
        method
    ]
    seconds = time.perf_counter() - start
    print(f"{method:>10} {seconds:6.2f} s  chosen on {found.chosen_on:.4f}, nested {found.nested:.4f}")
    return {"seconds": seconds, "peak_mb": peak(), "chosen_on": found.chosen_on, "nested": found.nested.value}


def loop(data: OutOfFold, part: int) -> dict[str, float]:
    """The naive loop's seconds for the whole grid and, with each fold left out in turn, nested."""
    blends = candidates(np.array(sorted(PAPER_LEVELS, reverse=True)), data.members)
    rows = [data.folds == fold for fold in range(FOLDS)]
    taken = []
    for weights in np.random.default_rng(0).permutation(blends)[:part]:
        start = time.perf_counter()
        for fold in rows:
            roc_auc_score(data.labels[fold], data.probabilities[fold] @ weights)
        taken.append(time.perf_counter() - start)
    once = float(np.median(taken)) * len(blends)
    return {"once": once, "nested": once * FOLDS, "measured": len(taken), "blends": len(blends)}


def peak() -> float:
    """The process's peak resident memory in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
