"""How often the closing comparison of a study excludes 0 where no setting is better than the paper's.

Simulated scores are binormal: what is hard about a patch is the same for all settings and seeds, a setting has a part
of its own that its seeds share, and a seed one of its own. The best of k settings in the search meets the paper's
setting under three fresh seeds. Three intervals of its lead: patches of each seed as if they were others (version
0.1.0, patients unknown), patches drawn with all their seeds, and these corrected for the choice among k, as now.

    python benchmarks/closing_interval.py [--studies 1000]
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd
from scipy.stats import norm

from mammo_mlflow.evaluation.intervals import bootstrap_difference
from mammo_mlflow.evaluation.metrics import fold_auc
from mammo_mlflow.evaluation.objectives import parse_objectives
from mammo_mlflow.search.winner_test import paired_lead, simultaneous

(AUC,) = parse_objectives("roc_auc")
PATCHES, FOLDS, SEEDS, TRUE_AUC = 350, 4, 3, 0.85
SHARED, SETTING = 0.6, 0.25
"""Shares of a score's variance: common to all settings, and a setting's own whatever the seed."""


def studies(number: int, k: int) -> Iterator[tuple[pd.DataFrame, pd.DataFrame]]:
    """Out-of-fold predictions of the best of k settings and of the paper's, which is one of them, under fresh seeds."""
    random = np.random.default_rng(k)
    distance, n = math.sqrt(2) * norm.ppf(TRUE_AUC), PATCHES
    for _ in range(number):
        labels = random.integers(0, 2, n)
        common = distance * (labels - 0.5) + math.sqrt(SHARED) * random.normal(size=n)
        settings = common + math.sqrt(SETTING) * random.normal(size=(k, n))
        folds = [random.permutation(np.arange(n) % FOLDS) for _ in range(SEEDS + 1)]

        def scores(setting: int, settings: np.ndarray = settings) -> np.ndarray:
            return settings[setting] + math.sqrt(1 - SHARED - SETTING) * random.normal(size=n)

        searched = [fold_auc(labels, probabilities(scores(setting)), folds[0]) for setting in range(k)]
        best = max(range(1, k), key=lambda setting: searched[setting])
        if searched[best] <= searched[0]:
            continue  # the paper's setting is the best, and there is nothing to compare
        frames = []
        for setting in (best, 0):
            parts = [
                pd.DataFrame(
                    {
                        "patch": np.arange(n),
                        "fold": folds[seed] + 1000 * seed,
                        "label": labels,
                        "probability": probabilities(scores(setting)),
                    }
                )
                for seed in range(1, SEEDS + 1)
            ]
            frames.append(pd.concat(parts, ignore_index=True))
        yield frames[0], frames[1]


def probabilities(scores: np.ndarray) -> np.ndarray:
    """In the order of the scores."""
    return norm.cdf(scores / 2)


def simulate(number: int, ks: Sequence[int] = (2, 10, 30)) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """For each k the share of studies whose interval lies above 0, three ways, and the mean widths of these."""
    for k in ks:
        above, widths = [], []
        for best, paper in studies(number, k):
            pair = best["probability"], paper["probability"]
            naive = bootstrap_difference(best["label"], *pair, folds=best["fold"])
            whole = paired_lead(AUC, best, paper)
            found = [naive, whole, simultaneous(whole, k)]
            above.append([one.low > 0 for one in found])
            widths.append([one.high - one.low for one in found])
        yield k, np.sum(above, axis=0) / number, np.mean(widths, axis=0)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--studies", type=int, default=1000)
    given = parser.parse_args()
    print("| k | above 0: each seed's patches as others | patches drawn whole | and corrected for k | mean widths |")
    print("| --- | --- | --- | --- | --- |")
    for k, above, widths in simulate(given.studies):
        shares = " | ".join(f"{100 * one:.1f} %" for one in above)
        print(f"| {k} | {shares} | {', '.join(f'{one:.3f}' for one in widths)} |", flush=True)


if __name__ == "__main__":
    main()
