"""What repeating the folds does for a study: the error of a setting's lead, and how often the best setting is found.

Every setting is scored under r assignments of folds and random starts; its value is the mean over all folds of all
repeats, and its lead over the paper's setting has the error of `paired_lead`, which draws a patch with its rows of all
repeats. Simulated scores are binormal: what is hard about a patch is common to all settings, a setting has a part of
its own whatever the folds, and a repeat one of its own, the `noise`. One of k settings has a true lead of 0.02, all
others are as good as the paper's. The repeats of a study with fewer are the first of the study with more.

    python benchmarks/fold_repeats.py [--studies 1000] [--patches 350] [--k 20] [--noise 0.15,0.35]
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.stats import binomtest, norm

from mammo_mlflow.evaluation.metrics import fold_auc
from mammo_mlflow.evaluation.objectives import parse_objectives
from mammo_mlflow.search.winner_test import judge, paired_lead

(AUC,) = parse_objectives("roc_auc")
FOLDS, TRUE_AUC, LEAD = 4, 0.85, 0.02
SHARED = 0.6
"""The share of a score's variance that all settings have in common."""
REPEATS = (1, 2, 5)


@dataclass(frozen=True)
class Repeated:
    """What studies with so many repeats came to, each an average over them or a count.

    `spread`: the standard deviation from study to study of the better setting's lead; `error`: what its bootstrap says
    of that; `picked`: studies whose best setting was the better one; `called`: those of them that also said so.
    """

    repeats: int
    studies: int
    spread: float
    error: float
    picked: int
    called: int


def study(random: np.random.Generator, k: int, n: int, noise: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels (n,), folds (repeats, n) and probabilities (k, repeats, n) of a study in which setting 1 is the best."""
    most = max(REPEATS)
    labels = random.integers(0, 2, n)
    folds = np.stack([random.permutation(np.arange(n) % FOLDS) for _ in range(most)])
    distances = math.sqrt(2) * norm.ppf(TRUE_AUC + LEAD * (np.arange(k) == 1))
    common = math.sqrt(SHARED) * random.normal(size=n)
    own = math.sqrt(1 - SHARED - noise) * random.normal(size=(k, n))
    settings = distances[:, None] * (labels - 0.5) + common + own
    scores = settings[:, None] + math.sqrt(noise) * random.normal(size=(k, most, n))
    return labels, folds, norm.cdf(scores / 2)


def simulate(number: int, k: int = 20, n: int = 350, noise: float = 0.15) -> list[Repeated]:
    """Simulate studies of k settings with each number of repeats."""
    random = np.random.default_rng([k, n, round(1000 * noise)])
    leads: dict[int, list[tuple[float, float]]] = {repeats: [] for repeats in REPEATS}
    picked, called = dict.fromkeys(REPEATS, 0), dict.fromkeys(REPEATS, 0)
    for _ in range(number):
        labels, folds, answered = study(random, k, n, noise)
        for repeats in REPEATS:
            rows = pd.DataFrame(
                {
                    "patch": np.tile(np.arange(n), repeats),
                    "fold": (folds[:repeats] + 1000 * np.arange(repeats)[:, None]).ravel(),
                    "label": np.tile(labels, repeats),
                }
            )
            found = [one[:repeats].ravel() for one in answered]
            values = [fold_auc(rows["label"], one, rows["fold"]) for one in found]
            lead = paired_lead(AUC, rows.assign(probability=found[1]), rows.assign(probability=found[0]))
            leads[repeats].append((lead.value, lead.error))
            if int(np.argmax(values)) == 1:
                picked[repeats] += 1
                called[repeats] += not judge(lead.value, lead.error, k).within_noise
    results = []
    for repeats in REPEATS:
        lead_values, errors = np.transpose(leads[repeats])
        spread = float(lead_values.std(ddof=1))
        results.append(Repeated(repeats, number, spread, float(errors.mean()), picked[repeats], called[repeats]))
    return results


def share(count: int, number: int) -> str:
    """A share in per cent, with Wilson's 95 % interval."""
    found = binomtest(count, number).proportion_ci(method="wilson")
    return f"{100 * count / number:.0f} % [{100 * found.low:.0f}, {100 * found.high:.0f}]"


def main(words: Sequence[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=1000)
    parser.add_argument("--patches", type=int, default=350)
    parser.add_argument("--k", type=int, default=20, help="settings of a study, the paper's among them")
    parser.add_argument("--noise", default="0.15,0.35", help="a repeat's own shares of a score's variance, with commas")
    given = parser.parse_args(words)
    print(
        "| patches | a repeat's own share | repeats | error of a lead: true, bootstrap | best picked | and called so |"
    )
    print("| --- | --- | --- | --- | --- | --- |")
    for noise in map(float, given.noise.split(",")):
        for one in simulate(given.studies, given.k, given.patches, noise):
            shares = f"{share(one.picked, one.studies)} | {share(one.called, one.studies)}"
            print(
                f"| {given.patches:,} | {noise:.0%} | {one.repeats} | {one.spread:.4f}, {one.error:.4f} | {shares} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
