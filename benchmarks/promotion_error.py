"""How often equal candidates become champion, and how often a better one is found: the gate `better` and its errors.

Simulated scores are binormal. A patient's patches share a part of what makes them hard, and all settings share a larger
one, as networks on the same patches do; a setting has its own part. The best of k settings by its out-of-fold ROC AUC
is brought to the gate, as a study's winner is. Beside this project's gate stands the one of version 0.1.0, which knew
neither k nor earlier decisions, and, for the power, a plain Bonferroni gate with the whole error for one decision.

    python benchmarks/promotion_error.py [--studies 4000] [--only equal,looks,found]
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import norm

from mammo_mlflow.evaluation.gates import Predictions, better
from mammo_mlflow.evaluation.metrics import fold_auc
from mammo_mlflow.evaluation.objectives import parse_objectives
from mammo_mlflow.evaluation.spending import ALPHA, Spent, error_of

(AUC,) = parse_objectives("roc_auc")
FOLDS = 4
SHARED, PATIENT = 0.6, 0.2
"""Shares of a score's variance that all settings have in common, by patch and by patient."""


@dataclass(frozen=True)
class Design:
    """Patches, two of each patient, and the true ROC AUC of the champion and of settings that are no better."""

    patches: int
    auc: float = 0.85

    def settings(self, random: np.random.Generator, gains: list[float]) -> list[Predictions]:
        """The champion and settings with these true leads over it, on one drawing of patients."""
        n = self.patches
        patients = np.arange(n) // 2
        folds = random.permutation(np.arange(patients[-1] + 1) % FOLDS)[patients]
        labels = random.integers(0, 2, n)
        common = math.sqrt(SHARED) * random.normal(size=n) + math.sqrt(PATIENT) * random.normal(size=n)[patients]
        own = math.sqrt(1 - SHARED - PATIENT)
        made = []
        for gain in [0.0, *gains]:
            distance = math.sqrt(2) * norm.ppf(self.auc + gain)
            score = distance * (labels - 0.5) + common + own * random.normal(size=n)
            made.append(Predictions(np.arange(n), labels, folds, patients, 1 / (1 + np.exp(-distance * score)), 0.5))
        return made


def best_of(settings: list[Predictions]) -> Predictions:
    """The setting with the best out-of-fold ROC AUC."""
    return max(settings, key=lambda one: fold_auc(one.folds, one.labels, one.probabilities))


def equal(
    studies: int, sizes: Sequence[int] = (350, 2676), ks: Sequence[int] = (2, 10, 30)
) -> Iterator[tuple[str, float, float]]:
    """The best of k settings of the champion's own ROC AUC, in one decision."""
    for patches in sizes:
        for k in ks:
            random = np.random.default_rng([patches, k])
            naive = passed = 0
            for _ in range(studies):
                champion, *others = Design(patches).settings(random, [0.0] * k)
                best = best_of(others)
                naive += better(best, champion, AUC, ALPHA).passed
                passed += better(best, champion, AUC, error_of("", []), k).passed
            yield f"best of {k} equal settings, {patches} patches", naive / studies, passed / studies


def looks(studies: int, first: float = 0.0) -> Iterator[tuple[str, float, float]]:
    """Twenty commands, each with one new candidate that is no better than the champion of the day."""
    random = np.random.default_rng(20)
    naive = passed = 0
    for _ in range(studies):
        drawn = Design(350).settings(random, [first] * 20)
        naive += false_champion(drawn, first, spend=False)
        passed += false_champion(drawn, first, spend=True)
    after = f" after a true one of {first:+g}" if first else ""
    yield f"20 commands, an equal candidate each{after}, 350 patches", naive / studies, passed / studies


def false_champion(drawn: list[Predictions], first: float, spend: bool) -> bool:
    """Whether a setting that is no better than the champion of the day takes its place."""
    champion, *candidates = drawn
    lacking = first > 0
    earlier: list[Spent] = []
    for number, candidate in enumerate(candidates):
        error = error_of(str(number), earlier) if spend else ALPHA
        promoted = better(candidate, champion, AUC, error).passed
        if promoted and not lacking:
            return True
        if promoted:
            champion, lacking = candidate, False
        earlier.append(Spent(str(number), error, error if promoted else 0.0))
    return False


def found(
    studies: int,
    sizes: Sequence[int] = (350, 2676),
    gains: Sequence[float] = (0.03, 0.05),
    ks: Sequence[int] = (1, 10, 30),
) -> Iterator[tuple[str, float, float]]:
    """One of k settings is truly better; the best by its out-of-fold ROC AUC is brought to the gate."""
    for patches in sizes:
        for gain in gains:
            for k in ks:
                random = np.random.default_rng([patches, k, round(100 * gain)])
                plain = passed = 0
                for _ in range(studies):
                    champion, *others = Design(patches).settings(random, [gain] + [0.0] * (k - 1))
                    best = best_of(others)
                    plain += better(best, champion, AUC, ALPHA, k).passed
                    passed += better(best, champion, AUC, error_of("", []), k).passed
                yield f"lead {gain:+g}, one of {k}, {patches} patches", plain / studies, passed / studies


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--studies", type=int, default=4000)
    parser.add_argument("--only", default="equal,looks,found")
    given = parser.parse_args()
    only = given.only.split(",")
    print("| simulated | version 0.1.0 | this gate |\n| --- | --- | --- |")
    if "equal" in only:
        for what, naive, passed in equal(given.studies):
            print(f"| {what} | {100 * naive:.1f} % | {100 * passed:.2f} % |", flush=True)
    if "looks" in only:
        for first in (0.0, 0.05):
            for what, naive, passed in looks(given.studies, first):
                print(f"| {what} | {100 * naive:.1f} % | {100 * passed:.2f} % |", flush=True)
    if "found" in only:
        print("\n| simulated | plain Bonferroni | this gate | ratio |\n| --- | --- | --- | --- |")
        for what, plain, passed in found(given.studies):
            ratio = passed / plain if plain else math.nan
            print(f"| {what} | {100 * plain:.1f} % | {100 * passed:.1f} % | {ratio:.2f} |", flush=True)


if __name__ == "__main__":
    main()
