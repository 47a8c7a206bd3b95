"""How often conformal answer sets cover each class, and how many patches they refer, over simulated data sets.

    python benchmarks/answer_sets.py [--simulations 200] [--rows 336 2676]

Patients have one to eight patches of one or both classes, which share a part of what is seen of them. Logistic
regressions of 10 features are trained as the product trains networks: four folds by patients, whose out-of-fold
probabilities give the limits, and a refit on all rows. `out of fold`: each fold by limits of the others, as is
published. `refit` and `mean` (of the folds' models) are the registered models, on 8,000 fresh patches of new patients,
where the positive class is as frequent as in training (45 %) or has drifted (15 %). Coverage is the mean over data
sets. `without patients`: the refit with every patch taken as one patient.
"""

from __future__ import annotations

import argparse
from collections import defaultdict

import numpy as np
from sklearn.linear_model import LogisticRegression

from mammo_mlflow.answer_sets import REFER, AnswerLimits
from mammo_mlflow.evaluation.conformal import answer_limits, cross_fitted_sets
from mammo_mlflow.evaluation.metrics import scores
from mammo_mlflow.evaluation.out_of_fold import OutOfFold
from mammo_mlflow.evaluation.weighted import Floats, Ints

FOLDS, FEATURES, FRESH = 4, 10, 8_000
SHARE, DRIFTED = 0.45, 0.15
DISTANCES = {"no signal": 0.0, "AUC about .75": 1.1, "AUC about .98": 3.2}


def draw(rows: int, apart: float, share: float, random: np.random.Generator) -> tuple[Floats, Ints, Ints]:
    """Features (rows, FEATURES), labels and patients of patches, whose classes lie `apart` in the first feature."""
    sizes = random.integers(1, 9, rows)
    patients = np.repeat(np.arange(rows), sizes)[:rows]
    labels = (random.random(rows) < share).astype(int)
    common = random.normal(size=(rows, FEATURES))[patients]
    features = np.sqrt(0.4) * common + np.sqrt(0.6) * random.normal(size=(rows, FEATURES))
    features[:, 0] += apart * labels
    return features, labels, patients


def measured(sets: Ints, labels: Ints) -> list[float]:
    """Coverage of class 0 and of class 1, and the share referred."""
    held = [float(np.isin(sets[labels == value], (value, REFER)).mean()) for value in (0, 1)]
    return [*held, float((sets == REFER).mean())]


def simulate(rows: int, apart: float, coverage: float, simulations: int) -> tuple[float, dict[str, Floats]]:
    """The mean AUC of the refit, and by name the mean of `measured` over the data sets."""
    found, aucs = defaultdict(list), []
    for seed in range(simulations):
        random = np.random.default_rng([seed, rows])
        x, labels, patients = draw(rows, apart, SHARE, random)
        folds, p = patients % FOLDS, np.empty(rows)
        models = []
        for fold in range(FOLDS):
            models.append(LogisticRegression().fit(x[folds != fold], labels[folds != fold]))
            p[folds == fold] = models[-1].predict_proba(x[folds == fold])[:, 1]
        refit = LogisticRegression().fit(x, labels)
        data = OutOfFold(labels=labels, probabilities=p, folds=folds, groups=patients)
        found["out of fold"].append(measured(cross_fitted_sets(data, coverage), labels))
        limits = answer_limits(data.labels, data.probabilities, data.groups, coverage)
        of_patches = answer_limits(data.labels, data.probabilities, None, coverage)
        for drift, share in (("", SHARE), (", drifted", DRIFTED)):
            fresh, truth, _ = draw(FRESH, apart, share, random)
            answers = {"refit": refit.predict_proba(fresh)[:, 1]}
            answers["mean"] = np.mean([one.predict_proba(fresh)[:, 1] for one in models], axis=0)
            each: dict[str, AnswerLimits] = {"refit": limits, "mean": limits}
            for name, one in each.items():
                found[name + drift].append(measured(one(answers[name]), truth))
            found["refit, without patients" + drift].append(measured(of_patches(answers["refit"]), truth))
            if not drift:
                aucs.append(scores(truth, answers["refit"])["roc_auc"])
    return float(np.mean(aucs)), {name: np.mean(rows_of, axis=0) for name, rows_of in found.items()}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--simulations", type=int, default=200)
    parser.add_argument("--rows", type=int, nargs="+", default=[336, 2676])
    parser.add_argument("--coverages", type=float, nargs="+", default=[0.8, 0.9, 0.95])
    given = parser.parse_args()
    print("| models | rows | asked | of | class 0 | class 1 | referred |\n|---|---|---|---|---|---|---|")
    for name, apart in DISTANCES.items():
        for rows in given.rows:
            for coverage in given.coverages:
                auc, found = simulate(rows, apart, coverage, given.simulations)
                for what, (zero, one, referred) in found.items():
                    told = f"{zero:.3f} | {one:.3f} | {referred:.2f}"
                    print(f"| {name} ({auc:.2f}) | {rows} | {coverage:g} | {what} | {told} |", flush=True)


if __name__ == "__main__":
    main()
