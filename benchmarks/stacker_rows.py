"""The dense stacker on few and many rows: nested AUC beside the plain average's, and what each of our changes does.

    python benchmarks/stacker_rows.py [--seeds 24]

Members are logits of the truth with a shared and an own error, two patches a patient, four folds; a seed is a drawn
data set. Kinds of members: `equal`; `unequal` skill from high to almost none; `one good` beside nearly noise; `opposed`
errors that nearly cancel in the average; `weak`. Columns: the average, logistic regression, the neuron as the paper
trains it (Glorot's start, an epoch a pass over the rows), with as many steps as on 2,000 rows, with a start from equal
weights, and with both, which is the product's `dense`.
"""

from __future__ import annotations

import argparse
import math

import numpy as np

from mammo_mlflow.ensembles import stackers
from mammo_mlflow.ensembles.methods import METHODS
from mammo_mlflow.ensembles.nested import Method, method_of, nested_predictions
from mammo_mlflow.evaluation.metrics import out_of_fold
from mammo_mlflow.evaluation.objectives import Objective, parse_objectives
from mammo_mlflow.evaluation.out_of_fold import OutOfFold
from mammo_mlflow.level1 import Combiner

KINDS = ("equal", "unequal", "one good", "opposed", "weak")
MEMBERS = (2, 5, 10)
SEEDS = {96: 1.0, 240: 1.0, 2000: 0.25}
"""Rows, and the share of the seeds that are drawn with so many."""


def draw(kind: str, rows: int, members: int, seed: int) -> OutOfFold:
    """Out-of-fold predictions of members of this kind."""
    random = np.random.default_rng([seed, rows, members])
    patients = np.arange(rows) // 2
    labels = random.integers(0, 2, rows)
    shared, own = random.normal(size=(rows, 1)), random.normal(size=(rows, members))
    skill = np.full(members, 0.8 if kind == "weak" else 2.4)
    if kind == "unequal":
        skill = np.linspace(3.2, 0.4, members)
    elif kind == "one good":
        skill[1:] = 0.3
    elif kind == "opposed":
        own = 1.6 * (own - 0.9 * own.mean(axis=1, keepdims=True))
    logits = skill * (labels[:, None] - 0.5) + 0.7 * shared + own
    return OutOfFold(labels=labels, probabilities=1 / (1 + np.exp(-logits)), folds=patients % 4, groups=patients)


def neuron(glorot: bool, more_steps: bool) -> Method:
    """The dense stacker with or without each of our changes."""

    def fit(data: OutOfFold, objective: Objective, seed: int) -> Combiner:
        random = np.random.default_rng(seed)
        watched, members = stackers._inner(data.units, random), data.members
        limit = math.sqrt(6 / (members + 1))
        equal = np.append(np.full(members, 4 / members), -2.0)
        start = np.append(random.uniform(-limit, limit, members), 0.0) if glorot else equal
        given, stackers.EPOCH_ROWS = stackers.EPOCH_ROWS, stackers.EPOCH_ROWS if more_steps else 1
        try:
            weights = stackers._descend(data.probabilities, data.labels, watched, start, random, stackers.EPOCHS)
        finally:
            stackers.EPOCH_ROWS = given
        return stackers._linear(weights[:-1], weights[-1])

    return method_of(fit)


COLUMNS: dict[str, Method] = {
    "average": METHODS["average"],
    "logistic": METHODS["logistic"],
    "the paper's": neuron(True, False),
    "+ steps": neuron(True, True),
    "+ equal": neuron(False, False),
    "dense": METHODS["dense"],
}


def main() -> None:
    """Print the table: mean nested AUC over seeds, and the lowest lead of dense over the average."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=24)
    seeds = parser.parse_args().seeds
    (objective,) = parse_objectives("roc_auc")
    print("| rows | members | m | " + " | ".join(COLUMNS) + " | dense - average, lowest |")
    print("|" + "---|" * (len(COLUMNS) + 4))
    for rows, share in SEEDS.items():
        for kind in KINDS:
            for members in MEMBERS:
                found = []
                for seed in range(max(1, round(seeds * share))):
                    data = draw(kind, rows, members, seed)
                    predicted = [nested_predictions(method, data, objective, seed)[1] for method in COLUMNS.values()]
                    found.append([out_of_fold("roc_auc", data.labels, p, data.folds) for p in predicted])
                values = np.array(found)
                cells = [f"{value:.3f}" for value in values.mean(axis=0)]
                lowest = (values[:, -1] - values[:, 0]).min()
                print(f"| {rows} | {kind} | {members} | {' | '.join(cells)} | {lowest:+.3f} |", flush=True)


if __name__ == "__main__":
    main()
