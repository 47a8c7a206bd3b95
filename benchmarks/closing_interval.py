"""How often the end of a study calls a setting better where no setting is better than the paper's.

Simulated scores are binormal: what is hard about a patch is the same for all settings and seeds, a setting has a part
of its own that its seeds share, and a seed one of its own. The best of k settings in the search is looked at twice.

Under three fresh seeds it meets the paper's setting. Three intervals of its lead: patches of each seed as if they were
others (version 0.1.0, patients unknown), patches drawn with all their seeds, and these corrected for the choice among
k, as now. With `--verdict` instead the study's verdict, on the folds of the search: how often it says that the lead is
more than the noise of choosing, which 5 % of studies may at most.

    python benchmarks/closing_interval.py [--studies 1000] [--verdict] [--k 20,250] [--patches 350]
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.stats import binomtest, norm

from mammo_mlflow.evaluation.intervals import bootstrap_difference
from mammo_mlflow.evaluation.metrics import fold_auc
from mammo_mlflow.evaluation.objectives import parse_objectives
from mammo_mlflow.search.winner_test import judge, paired_lead, simultaneous

(AUC,) = parse_objectives("roc_auc")
PATCHES, FOLDS, SEEDS, TRUE_AUC = 350, 4, 3, 0.85
SHARED, SETTING = 0.6, 0.25
"""Shares of a score's variance: common to all settings, and a setting's own whatever the seed."""


@dataclass(frozen=True)
class Study:
    """A study of k equally good settings: labels, fold of each patch under each seed, scores but for a seed's part."""

    random: np.random.Generator
    labels: np.ndarray
    folds: list[np.ndarray]
    settings: np.ndarray

    @classmethod
    def drawn(cls, random: np.random.Generator, k: int, n: int = PATCHES) -> Study:
        """A study of `k` settings on `n` patches that nobody has seen before."""
        labels = random.integers(0, 2, n)
        distance = math.sqrt(2) * norm.ppf(TRUE_AUC)
        common = distance * (labels - 0.5) + math.sqrt(SHARED) * random.normal(size=n)
        settings = common + math.sqrt(SETTING) * random.normal(size=(k, n))
        return cls(random, labels, [random.permutation(np.arange(n) % FOLDS) for _ in range(SEEDS + 1)], settings)

    def scores(self, setting: int) -> np.ndarray:
        """The probabilities of a setting under one more seed."""
        own = math.sqrt(1 - SHARED - SETTING) * self.random.normal(size=self.labels.size)
        return probabilities(self.settings[setting] + own)

    def frame(self, seed: int, answered: np.ndarray) -> pd.DataFrame:
        """Out-of-fold predictions under a seed, as `paired_lead` takes them."""
        return pd.DataFrame(
            {
                "patch": np.arange(self.labels.size),
                "fold": self.folds[seed] + 1000 * seed,
                "label": self.labels,
                "probability": answered,
            }
        )

    def search(self) -> tuple[list[np.ndarray], int | None]:
        """The probabilities of all settings in the search, and the best; None where that is the 0th, the paper's."""
        answered = [self.scores(setting) for setting in range(len(self.settings))]
        values = [fold_auc(self.labels, one, self.folds[0]) for one in answered]
        best = int(np.argmax(values))  # the first of equals, as in a study
        return answered, best or None


def studies(number: int, k: int) -> Iterator[tuple[pd.DataFrame, pd.DataFrame]]:
    """Out-of-fold predictions of the best of k settings and of the paper's, which is one of them, under fresh seeds."""
    random = np.random.default_rng(k)
    for _ in range(number):
        study = Study.drawn(random, k)
        _, best = study.search()
        if best is None:
            continue  # the paper's setting is the best, and there is nothing to compare
        frames = []
        for setting in (best, 0):
            parts = [study.frame(seed, study.scores(setting)) for seed in range(1, SEEDS + 1)]
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


@dataclass(frozen=True)
class Verdicts:
    """How many of `studies` called their best setting better, the mean lead and bound, and the errors' honesty.

    `errors`: the mean bootstrap error of the lead of a setting that nobody chose over the standard deviation of that
    lead from study to study, which is 1 where the bootstrap is right.
    """

    studies: int
    better: int
    lead: float
    bound: float
    errors: float

    @property
    def share(self) -> str:
        """The share of studies that called it better, in per cent, with Wilson's 95 % interval."""
        found = binomtest(self.better, self.studies).proportion_ci(method="wilson")
        return f"{100 * self.better / self.studies:.1f} % [{100 * found.low:.1f}, {100 * found.high:.1f}]"


def verdicts(number: int, k: int, patches: int = PATCHES) -> Verdicts:
    """The verdicts of studies of k equally good settings, as `StudyCloser` comes to them."""
    random = np.random.default_rng([k, patches])
    better, found, unchosen = 0, [], []
    for _ in range(number):
        study = Study.drawn(random, k, patches)
        answered, best = study.search()
        paper = study.frame(0, answered[0])
        other = paired_lead(AUC, study.frame(0, answered[1]), paper, resamples=200)  # of its mean error only
        unchosen.append((other.value, other.error))
        if best is None:
            continue  # the paper's setting is the best: no verdict
        lead = paired_lead(AUC, study.frame(0, answered[best]), paper)
        verdict = judge(lead.value, lead.error, k)
        better += not verdict.within_noise
        found.append((lead.value, verdict.bound))
    values, errors = np.transpose(unchosen)
    lead, bound = np.mean(found, axis=0)
    return Verdicts(number, better, lead, bound, float(errors.mean() / values.std(ddof=1)))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=1000)
    parser.add_argument("--verdict", action="store_true", help="the verdict on the folds of the search")
    parser.add_argument("--k", default="", help="settings, with commas between; 2,10,30, or 20,250 of the verdict")
    parser.add_argument("--patches", type=int, default=PATCHES, help="of the verdict")
    given = parser.parse_args()
    ks = [int(k) for k in (given.k or ("20,250" if given.verdict else "2,10,30")).split(",")]
    if given.verdict:
        print("| patches | k | studies | called better | mean lead of the best | mean bound | error: bootstrap/true |")
        print("| --- | --- | --- | --- | --- | --- | --- |")
        for k in ks:
            one = verdicts(given.studies, k, given.patches)
            print(
                f"| {given.patches:,} | {k} | {one.studies:,} | {one.share} | {one.lead:.3f} | {one.bound:.3f} |"
                f" {one.errors:.2f} |",
                flush=True,
            )
        return
    print("| k | above 0: each seed's patches as others | patches drawn whole | and corrected for k | mean widths |")
    print("| --- | --- | --- | --- | --- |")
    for k, above, widths in simulate(given.studies, ks):
        shares = " | ".join(f"{100 * one:.1f} %" for one in above)
        print(f"| {k} | {shares} | {', '.join(f'{one:.3f}' for one in widths)} |", flush=True)


if __name__ == "__main__":
    main()
