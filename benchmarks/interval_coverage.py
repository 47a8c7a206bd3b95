"""How often the intervals of published numbers hold the true value, beside the percentile bootstrap of before.

    python benchmarks/interval_coverage.py [--sets 4000] [--patches 336 126 37] [--auc 0.7 0.9 0.97]
        [--correlation 0 0.4 0.7] [--bootstrap-sets 400] [--most 4] [--prevalence 0.5] [--threshold 0.5]
        [--both-classes] [--processes 2] [--format text|markdown]

A set: patients with 1 to `most` patches, as many as give n; scores normal, of positives shifted so that the ROC AUC is
the one wanted, with a patient's share in common that makes two of its patches correlated so; a patient of one class,
or with `--both-classes` each patch of its own. A probability is the posterior at a prevalence of 1/2. The true values
are those of the population: the AUC of the scores as a whole, the rates and losses at the threshold.

A line for each number of each cell: the true value, the share of intervals that hold it and those that lie below and
above it, the share of sets whose number stands without an interval, and the coverage of the bootstrap with the ratio
of the times. All in per cent; coverage is of those with an interval.
"""

from __future__ import annotations

import argparse
import itertools
import math
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing import get_context

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from scipy.special import expit
from scipy.stats import norm

from mammo_mlflow.evaluation import weighted
from mammo_mlflow.evaluation.intervals import score_estimates
from mammo_mlflow.evaluation.metrics import RATES

RESAMPLES = 2000


@dataclass(frozen=True)
class Design:
    """A cell of the simulation."""

    patches: int
    auc: float
    correlation: float
    most: int = 4
    prevalence: float = 0.5
    threshold: float = 0.5
    both_classes: bool = False

    @property
    def distance(self) -> float:
        """How far positives are shifted, in standard deviations."""
        return math.sqrt(2) * float(norm.ppf(self.auc))

    def draw(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Labels, probabilities and patients (n,) of a set."""
        n = self.patches
        patients = np.repeat(np.arange(n), rng.integers(1, self.most + 1, n))[:n]
        labels = (rng.random(n) < self.prevalence).astype(int)
        labels = labels if self.both_classes else labels[patients]
        shared, own = math.sqrt(self.correlation), math.sqrt(1 - self.correlation)
        scores = self.distance * labels + shared * rng.normal(size=n)[patients] + own * rng.normal(size=n)
        return labels, self._probabilities(scores), patients

    def truth(self) -> dict[str, float]:
        """The population's value of each number."""
        grid = np.linspace(-9, 9, 20_001)
        density = norm.pdf(grid) / norm.pdf(grid).sum()
        of_positive, of_negative = self._probabilities(grid + self.distance), self._probabilities(grid)
        share = self.prevalence
        cut = self.distance / 2 + math.log(self.threshold / (1 - self.threshold)) / self.distance
        sensitivity, specificity = float(norm.sf(cut - self.distance)), float(norm.cdf(cut))
        found, alarms = share * sensitivity, (1 - share) * (1 - specificity)
        losses = {
            name: share * density @ loss(np.ones(len(grid), int), of_positive)
            + (1 - share) * density @ loss(np.zeros(len(grid), int), of_negative)
            for name, loss in weighted.LOSSES.items()
        }
        return {
            "roc_auc": self.auc,
            "accuracy": found + (1 - share) * specificity,
            "sensitivity": sensitivity,
            "specificity": specificity,
            "precision": found / (found + alarms),
            "f1": 2 * found / (share + found + alarms),
            "balanced_accuracy": (sensitivity + specificity) / 2,
            **{name: float(value) for name, value in losses.items()},
        }

    def _probabilities(self, scores: np.ndarray) -> np.ndarray:
        return np.asarray(expit(self.distance * (scores - self.distance / 2)))


def percentile_bootstrap(
    labels: np.ndarray,
    probabilities: np.ndarray,
    threshold: float,
    patients: np.ndarray,
    rng: np.random.Generator,
    resamples: int = RESAMPLES,
) -> dict[str, tuple[float, float]]:
    """The ends by percentiles of resampled patients, as the project had them before: the reference."""
    clusters = int(patients.max()) + 1
    compute = weighted.rates(labels, probabilities, threshold)
    drawn = rng.integers(0, clusters, (resamples, clusters)) + np.arange(resamples)[:, None] * clusters
    counts = np.bincount(drawn.ravel(), minlength=resamples * clusters).reshape(resamples, clusters)
    draws = compute(counts[:, patients].astype(float))
    found = {}
    for name in RATES:
        defined = draws[name][np.isfinite(draws[name])]
        low, high = np.quantile(defined, [0.025, 0.975]) if defined.size else (math.nan, math.nan)
        found[name] = (float(low), float(high))
    return found


@dataclass
class Tally:
    """What became of the intervals of a number."""

    held: int = 0
    below: int = 0
    above: int = 0
    withheld: int = 0

    def add(self, low: float, high: float, true: float) -> None:
        """Count an interval."""
        if math.isnan(low) or math.isnan(high):
            self.withheld += 1
        elif high < true:
            self.below += 1
        elif low > true:
            self.above += 1
        else:
            self.held += 1

    @property
    def coverage(self) -> float:
        """The share of intervals that hold the true value, of those that there are."""
        given = self.held + self.below + self.above
        return self.held / given if given else math.nan


def cell(design: Design, sets: int, bootstraps: int, seed: int) -> tuple[dict[str, Tally], dict[str, Tally], float]:
    """The tallies of the intervals and of the bootstrap's, by number, and how many times longer the latter takes."""
    rng, true = np.random.default_rng(seed), design.truth()
    ours, before = ({name: Tally() for name in true} for _ in range(2))
    seconds = [0.0, 0.0]
    for number in range(sets):
        labels, probabilities, patients = design.draw(rng)
        start = time.perf_counter()
        found = score_estimates(labels, probabilities, design.threshold, patients)
        seconds[0] += time.perf_counter() - start if number < bootstraps else 0
        for name, value in true.items():
            if not math.isnan(found[name].value):
                ours[name].add(found[name].low, found[name].high, value)
        if number < bootstraps:
            start = time.perf_counter()
            ends = percentile_bootstrap(labels, probabilities, design.threshold, patients, rng)
            seconds[1] += time.perf_counter() - start
            for name, value in true.items():
                before[name].add(*ends[name], value)
    return ours, before, seconds[1] / seconds[0] if bootstraps else math.nan


def _cell(task: tuple[Design, int, int, int]) -> tuple[dict[str, Tally], dict[str, Tally], float]:
    return cell(*task)


HEADINGS = ("n", "AUC", "corr.", "number", "true", "held", "below", "above", "withheld", "bootstrap", "times faster")


def lines(designs: Sequence[Design], sets: int, bootstraps: int, processes: int) -> Iterator[list[str]]:
    """The rows of the table, as they are ready."""
    tasks = [(design, sets, bootstraps, seed) for seed, design in enumerate(designs)]
    with get_context("fork").Pool(processes) as pool:
        for design, (ours, before, ratio) in zip(designs, pool.imap(_cell, tasks), strict=True):
            for name, value in design.truth().items():
                one, reference = ours[name], before[name]
                counts = (one.coverage * sets, one.below, one.above, one.withheld)
                yield [
                    str(design.patches),
                    f"{design.auc:g}",
                    f"{design.correlation:g}",
                    name,
                    f"{value:.3f}",
                    *(f"{100 * count / sets:.1f}" for count in counts),
                    f"{100 * reference.coverage:.1f}" if bootstraps else "",
                    f"{ratio:.0f}" if bootstraps else "",
                ]


def main() -> None:
    """Simulate and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", type=int, default=4000)
    parser.add_argument("--bootstrap-sets", type=int, default=400)
    parser.add_argument("--patches", type=int, nargs="+", default=[336, 126, 37])
    parser.add_argument("--auc", type=float, nargs="+", default=[0.7, 0.9, 0.97])
    parser.add_argument("--correlation", type=float, nargs="+", default=[0.0, 0.4, 0.7])
    parser.add_argument("--most", type=int, default=4, help="patches of a patient: 1 to so many")
    parser.add_argument("--prevalence", type=float, default=0.5)
    parser.add_argument("--threshold", type=float, default=0.5)
    parser.add_argument("--both-classes", action="store_true", help="each patch has a class of its own")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--format", choices=("text", "markdown"), default="text")
    given = parser.parse_args()
    rest = (given.most, given.prevalence, given.threshold, given.both_classes)
    grid = itertools.product(given.patches, given.auc, given.correlation)
    designs = [Design(*place, *rest) for place in grid]
    if given.format == "markdown":
        print("| " + " | ".join(HEADINGS) + " |\n|" + "---|" * len(HEADINGS))
    else:
        print("  ".join(HEADINGS))
    for row in lines(designs, given.sets, min(given.bootstrap_sets, given.sets), given.processes):
        print("| " + " | ".join(row) + " |" if given.format == "markdown" else "  ".join(row), flush=True)


if __name__ == "__main__":
    main()
