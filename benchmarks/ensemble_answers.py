"""What an ensemble's own map and answer sets do: published on nested predictions, and for fresh patients as registered.

    python benchmarks/ensemble_answers.py [--sets 100]

Three members of unequal skill, each too sure by another factor, as the folds' models are and, with a shift of its own
(standard deviation 0.2 on the logit), as their refits are; patients of one to three patches of one class.
"""

import argparse

import numpy as np
from scipy.special import expit

from mammo_mlflow.ensembles.answers import EnsembleAnswers
from mammo_mlflow.ensembles.methods import METHODS
from mammo_mlflow.ensembles.nested import nested_predictions
from mammo_mlflow.evaluation.calibration import calibration_error
from mammo_mlflow.evaluation.calibration import calibration_estimates as measured
from mammo_mlflow.evaluation.conformal import set_estimates
from mammo_mlflow.evaluation.objectives import parse_objectives
from mammo_mlflow.evaluation.out_of_fold import OutOfFold

SKILL, SURE = np.array([1.5, 1.0, 0.6]), np.array([2.0, 1.5, 3.0])
FRESH = 4000


def draw(random: np.random.Generator, rows: int, shift: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels (rows,), members' probabilities (rows, 3) and patients (rows,)."""
    patients = np.repeat(np.arange(rows), random.integers(1, 4, rows))[:rows]
    labels = random.integers(0, 2, rows)[patients]
    shared, own = random.normal(size=(rows, 1))[patients], random.normal(size=(rows, 3))
    evidence = SKILL * (labels[:, None] - 0.5) + 0.6 * shared + 0.8 * own
    return labels, expit(SURE * SKILL * evidence + shift[patients % len(shift)]), patients


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sets", type=int, default=100)
    sets = parser.parse_args().sets
    (objective,) = parse_objectives("roc_auc")
    print(
        "| method | rows | calibrate | out of fold: error, coverage, referred | registered: error, coverage, referred |"
    )
    print("|---|---|---|---|---|")
    for method in ("average", "logistic"):
        for rows in (336, 2676):
            drawn = []
            for seed in range(sets):
                random = np.random.default_rng(seed)
                labels, p, groups = draw(random, rows, random.normal(0, 0.2, (4, 3)))
                data = OutOfFold(labels=labels, probabilities=p, folds=groups % 4, groups=groups)
                fresh = draw(random, FRESH, random.normal(0, 0.2, (1, 3)))
                combiner, nested = nested_predictions(METHODS[method], data, objective)
                drawn.append((data.saying(nested), combiner, fresh))
            for kind in ("none", "platt", "isotonic"):
                found = []
                for nested, combiner, (labels, p, groups) in drawn:
                    answers = EnsembleAnswers(nested=nested, calibrate=kind, coverage=0.9)
                    said, served = answers.predictions, answers.through_map(combiner).predict(p)
                    out = answers.estimates()
                    names = ("coverage_0", "coverage_1", "referred")
                    after = set_estimates(labels, answers.limits(served), groups)
                    found.append(
                        [measured(said.labels, said.probabilities, said.groups, said.folds)["calibration_error"].value]
                        + [out[f"oof_{name}"].value for name in names]
                        + [calibration_error(labels, served)]
                        + [after[name].value for name in names]
                    )
                a, b, c, d, e, f, g, h = np.mean(found, axis=0)
                first, second = f"{a:.3f}, {b:.3f}/{c:.3f}, {d:.2f}", f"{e:.3f}, {f:.3f}/{g:.3f}, {h:.2f}"
                print(f"| {method} | {rows:,} | {kind} | {first} | {second} |", flush=True)


if __name__ == "__main__":
    main()
