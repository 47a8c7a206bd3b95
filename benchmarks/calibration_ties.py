"""The calibration error of tied probabilities, in shuffled rows and in rows sorted by class.

    python benchmarks/calibration_ties.py [--seeds 200]

Labels are drawn with the very probabilities that are judged, so that the true error is 0, and again with probabilities
that are 0.2 less (but for those at 0), so that it is about 0.2. `cut` is the estimate in bins of equal count that cut
ties where the count asks for it, `shared` the product's, in which equal probabilities share a bin. `passes`: the share
of data sets within the gate of 0.15.
"""

from __future__ import annotations

import argparse
import math

import numpy as np

from mammo_mlflow.evaluation.calibration import BINS, SMALLEST_BIN, calibration_error
from mammo_mlflow.evaluation.weighted import Floats, Ints

GATE = 0.15
KINDS = ("constant", "tenths", "25 neighbours", "half at 0.5", "no ties")


def draw(kind: str, rows: int, shift: float, random: np.random.Generator) -> tuple[Ints, Floats]:
    """Labels and probabilities (n,) of this kind, that claim `shift` more than what the labels were drawn with."""
    p = random.beta(2, 2, rows)
    if kind == "constant":
        p = np.full(rows, 0.5)
    elif kind == "tenths":
        p = np.round(p, 1)
    elif kind == "25 neighbours":
        p = np.round(25 * p) / 25
    elif kind == "half at 0.5":
        p = np.where(np.arange(rows) % 2 == 0, 0.5, p)
    return (random.random(rows) < np.maximum(p - shift, 0)).astype(int), p


def cut(labels: Ints, p: Floats) -> float:
    """The debiased estimate in bins of equal count, ties in the order of rows."""
    squared = 0.0
    for rows in np.array_split(np.argsort(p, kind="stable"), min(BINS, len(p) // SMALLEST_BIN)):
        frequency = float(labels[rows].mean())
        chance = frequency * (1 - frequency) / (len(rows) - 1)
        squared += len(rows) / len(p) * ((float(p[rows].mean()) - frequency) ** 2 - chance)
    return math.sqrt(max(squared, 0.0))


def main() -> None:
    """Print the table: mean error over data sets, and how many pass the gate."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=200)
    seeds = parser.parse_args().seeds
    names = "cut, shuffled", "cut, by class", "shared, shuffled", "shared, by class"
    header = ["probabilities", "rows", "true error", *names, *(f"passes: {name}" for name in names)]
    print(f"| {' | '.join(header)} |")
    print("|" + "---|" * len(header))
    for kind in KINDS:
        for rows in (60, 300, 2000):
            for shift in (0.0, 0.2):
                found = []
                for seed in range(seeds):
                    labels, p = draw(kind, rows, shift, np.random.default_rng([seed, rows]))
                    order = np.argsort(labels, kind="stable")
                    sides = (labels, p), (labels[order], p[order])
                    found.append([judge(*side) for judge in (cut, calibration_error) for side in sides])
                errors = [f"{value:.3f}" for value in np.mean(found, axis=0)]
                passes = [f"{value:.0%}" for value in np.mean(np.array(found) <= GATE, axis=0)]
                print(f"| {kind} | {rows} | {shift} | {' | '.join(errors)} | {' | '.join(passes)} |", flush=True)


if __name__ == "__main__":
    main()
