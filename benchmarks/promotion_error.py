"""How often equal candidates become champion, and how often a better one is found: the gate `better` and its errors.

Simulated scores are binormal. A patient's patches share a part of what makes them hard, and all settings share a larger
one, as networks on the same patches do; a setting has its own part. The best of k settings by its out-of-fold ROC AUC
is brought to the gate, as a study's winner is. Beside this project's gate stands the one of version 0.1.0, which knew
neither k nor earlier decisions, and, for the power, a plain Bonferroni gate with the whole error for one decision.

    python benchmarks/promotion_error.py [--studies 4000] [--only errors,found,rates] [--processes 2]
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
from scipy.stats import norm

from mammo_mlflow.evaluation.gates import better, no_loss
from mammo_mlflow.evaluation.objectives import parse_objectives
from mammo_mlflow.evaluation.out_of_fold import OutOfFold
from mammo_mlflow.evaluation.spending import ALPHA, Spent, error_of

(AUC,) = parse_objectives("roc_auc")
Row = tuple[str, float, float]
FOLDS = 4
SHARED, PATIENT = 0.6, 0.2
"""Shares of a score's variance that all settings have in common, by patch and by patient."""


@dataclass(frozen=True)
class Design:
    """Patches, two of each patient, and the true ROC AUC of the champion and of settings that are no better."""

    patches: int
    auc: float = 0.85

    def settings(self, random: np.random.Generator, gains: list[float]) -> list[OutOfFold]:
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
            probabilities = 1 / (1 + np.exp(-distance * score))
            made.append(
                OutOfFold(
                    labels=labels, probabilities=probabilities, folds=folds, groups=patients, patches=np.arange(n)
                )
            )
        return made


def best_of(settings: list[OutOfFold]) -> OutOfFold:
    """The setting with the best out-of-fold ROC AUC."""
    return max(settings, key=lambda one: one.score("roc_auc"))


def equal(studies: int, patches: int, k: int) -> Row:
    """The best of k settings of the champion's own ROC AUC, in one decision."""
    random = np.random.default_rng([patches, k])
    naive = passed = 0
    for _ in range(studies):
        champion, *others = Design(patches).settings(random, [0.0] * k)
        best = best_of(others)
        naive += better(best, champion, AUC, ALPHA).passed
        passed += better(best, champion, AUC, error_of("", []), k).passed
    return f"best of {k} equal settings, {patches} patches", naive / studies, passed / studies


def looks(studies: int, first: float = 0.0) -> Row:
    """Twenty commands, each with one new candidate that is no better than the champion of the day.

    With `first` all candidates are better than the first champion, so that one of them takes its place; then none is.
    """
    random = np.random.default_rng(20)
    naive = passed = 0
    for _ in range(studies):
        drawn = Design(350).settings(random, [first] * 20)
        naive += false_champion(drawn, first, spend=False)
        passed += false_champion(drawn, first, spend=True)
    after = f", after a true one of {first:+g}" if first else ""
    return f"20 commands, an equal candidate each{after}, 350 patches", naive / studies, passed / studies


def false_champion(drawn: list[OutOfFold], first: float, spend: bool) -> bool:
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


def found(studies: int, patches: int, gain: float, k: int) -> Row:
    """One of k settings is truly better; the best by its out-of-fold ROC AUC is brought to the gate."""
    random = np.random.default_rng([patches, k, round(100 * gain)])
    plain = passed = 0
    for _ in range(studies):
        champion, *others = Design(patches).settings(random, [gain] + [0.0] * (k - 1))
        best = best_of(others)
        plain += better(best, champion, AUC, ALPHA, k).passed
        passed += better(best, champion, AUC, error_of("", []), k).passed
    return f"lead {gain:+g}, one of {k}, {patches} patches", plain / studies, passed / studies


def rates(studies: int, patches: int, threshold: float) -> Row:
    """How often an equal model, judged at this threshold where the champion has 0.5, loses neither rate by the gates.

    The first rate is that of comparing the points of the sensitivity, as version 0.1.0 did.
    """
    random = np.random.default_rng([patches, round(1000 * threshold)])
    points = passed = 0
    lost = []
    for _ in range(studies):
        champion, other = Design(patches).settings(random, [0.0])
        candidate = replace(other, threshold=threshold)
        found, alarms = ([float(one.decided[one.labels == y].mean()) for one in (candidate, champion)] for y in (1, 0))
        points += found[0] >= found[1]
        lost.append(alarms[0] - alarms[1])
        gates = no_loss("sensitivity", candidate, champion), no_loss("specificity", candidate, champion, 0.05)
        passed += all(gate.passed for gate in gates)
    what = f"threshold {threshold:g} against 0.5, specificity lower by {np.mean(lost):.3f}, {patches} patches"
    return what, points / studies, passed / studies


TABLES: dict[str, tuple[tuple[str, str], list[tuple[Callable[..., Row], tuple[float, ...]]]]] = {
    "errors": (
        ("version 0.1.0", "this gate"),
        [*((equal, (n, k)) for n in (350, 2676) for k in (2, 10, 30)), (looks, ()), (looks, (0.05,))],
    ),
    "found": (
        ("plain Bonferroni", "this gate"),
        [(found, (n, gain, k)) for n in (350, 2676) for gain in (0.03, 0.05) for k in (1, 10, 30)],
    ),
    "rates": (
        ("points of the sensitivity", "these gates"),
        [(rates, (n, threshold)) for n in (350, 2676) for threshold in (0.5, 0.42, 0.3, 1e-9)],
    ),
}
"""By name: what the two rates are of, and the simulations."""


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=4000)
    parser.add_argument("--only", default=",".join(TABLES))
    parser.add_argument("--processes", type=int, default=2)
    given = parser.parse_args()
    with ProcessPoolExecutor(given.processes) as pool:
        for name in given.only.split(","):
            columns, cells = TABLES[name]
            print(f"\n| simulated, {given.studies} times | {' | '.join(columns)} |\n| --- | --- | --- |")
            for row in [pool.submit(simulation, given.studies, *cell) for simulation, cell in cells]:
                what, before, now = row.result()
                print(f"| {what} | {100 * before:.1f} % | {100 * now:.2f} % |", flush=True)


if __name__ == "__main__":
    main()
