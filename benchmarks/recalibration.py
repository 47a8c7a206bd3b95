"""What recalibration does to calibration, Brier score and slope, in simulation and on a small phantom.

    python benchmarks/recalibration.py [--simulations 200] [--rows 336 2676]
    python benchmarks/recalibration.py --data phantom [any option of `pretrained`]

Simulated: patients with a lesion in two views, whose normal scores are correlated by 0.5 within a class; the true
probability follows from the score, and the models answer with another one: `right`; `extreme`, its logit doubled, and
0.5 too high; `timid`, its logit times 0.6; `bent`, its square. Four folds' models and the refit are each off by a shift
of their own beside that, normal with the standard deviation `--between` of the logit. Out of fold is what the product
publishes: each fold through a map fitted on the others. Served is a map fitted on all out-of-fold rows, behind a refit.
True values are what those very maps do to 8,000 fresh patches, the error out of fold being one within folds, as the
estimate is. `covered`: the share of data sets whose 95 % interval of error, slope and intercept holds the true one.

Of the phantom: three seeds, the same folds trained once, each kind less `none` with 95 % intervals, patients resampled
and seeds of a patient together.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

import numpy as np
import pandas as pd
from mlflow.tracking import MlflowClient
from scipy.special import expit, logit

from mammo_mlflow.evaluation.calibration import BINS, LEAST, MEASURES, calibration_estimates, logistic_line
from mammo_mlflow.evaluation.intervals import bootstrap_difference
from mammo_mlflow.evaluation.out_of_fold import OutOfFold
from mammo_mlflow.evaluation.recalibration import RECALIBRATIONS, cross_fitted
from mammo_mlflow.evaluation.weighted import Floats, Ints
from mammo_mlflow.experiment import CALIBRATIONS

FOLDS, FRESH, SEEDS = 4, 8_000, 3
DISTANCE, WITHIN = 1.5, 0.5
ANSWERS = {
    "right": lambda z: z,
    "extreme": lambda z: 2 * z + 0.5,
    "timid": lambda z: 0.6 * z,
    "bent": lambda z: logit(np.clip(expit(z) ** 2, LEAST, 1 - LEAST)),
}


def draw(rows: int, random: np.random.Generator) -> tuple[Ints, Floats, Ints]:
    """Labels, true logits and patients, each (rows,): two views of one lesion a patient."""
    patients = np.arange(rows) // 2
    labels = (random.random(rows // 2) < 0.45).astype(int)[patients]
    noise = np.sqrt(WITHIN) * random.normal(size=rows // 2)[patients]
    score = DISTANCE * (labels - 0.5) + noise + np.sqrt(1 - WITHIN) * random.normal(size=rows)
    return labels, DISTANCE * score + logit(0.45), patients


def true_measures(p: Floats, truth: Floats) -> list[float]:
    """The calibration error in the estimator's bins, slope and intercept of answers p with these true probabilities."""
    bins = np.array_split(np.argsort(p, kind="stable"), BINS)
    error = float(np.sqrt(sum(len(rows) * (p - truth)[rows].mean() ** 2 for rows in bins) / len(p)))
    x = logit(np.clip(p, LEAST, 1 - LEAST))
    slope, intercept = logistic_line(x, truth), logistic_line(x, truth, slope=1.0)
    return [error, np.nan if slope is None else slope[0], np.nan if intercept is None else intercept[1]]


def simulate(rows: int, answers: str, between: float, simulations: int) -> None:
    """Print a row for each kind of recalibration."""
    told: dict[str, list[list[float]]] = defaultdict(list)
    for seed in range(simulations):
        random = np.random.default_rng([seed, rows])
        labels, z, patients = draw(rows, random)
        _, fresh_z, _ = draw(FRESH, random)
        shifts, folds = random.normal(0, between, FOLDS + 1), patients % FOLDS
        p, truth = expit(ANSWERS[answers](z) + shifts[folds]), expit(fresh_z)
        fresh = expit(ANSWERS[answers](fresh_z) + shifts[:, None])
        data = OutOfFold(labels=labels, probabilities=p, folds=folds, groups=patients)
        for kind in CALIBRATIONS:
            fit = RECALIBRATIONS.get(kind)
            published = p if fit is None else cross_fitted(kind, data)
            maps = [(lambda q: q) if fit is None else fit(labels[folds != k], p[folds != k]) for k in range(FOLDS)]
            served = fresh[FOLDS] if fit is None else fit(labels, p)(fresh[FOLDS])
            # each fold's map and model on a fourth of the fresh patches
            quarter = np.arange(FRESH) // 2 % FOLDS
            again = np.choose(quarter, [maps[k](fresh[k]) for k in range(FOLDS)])
            of_folds = [true_measures(again[quarter == k], truth[quarter == k])[0] for k in range(FOLDS)]
            wanted = [float(np.sqrt(np.mean(np.square(of_folds)))), *true_measures(again, truth)[1:]]
            found = calibration_estimates(labels, published, patients, folds)
            estimates = [found[name] for name in MEASURES]
            covered = [float(one.low <= value <= one.high) for one, value in zip(estimates, wanted, strict=True)]
            least = float((truth * (1 - truth)).mean())
            brier = float(((again - truth) ** 2).mean()) + least
            true_served = true_measures(served, truth)
            row = [found["calibration_error"].value, wanted[0], brier, wanted[1]]
            row += [true_served[0], float(((served - truth) ** 2).mean()) + least, true_served[1], *covered]
            told[kind].append(row)
    for kind, rows_of in told.items():
        error, true, brier, slope, *served, a, b, c = np.nanmean(np.array(rows_of), axis=0)
        out_of_fold = f"{error:.3f} | {true:.3f} | {brier:.4f} | {slope:.2f}"
        print(
            f"| {answers} | {rows} | {kind} | {out_of_fold} | {served[0]:.3f} | {served[1]:.4f} | {served[2]:.2f} "
            f"| {a:.0%}, {b:.0%}, {c:.0%} |",
            flush=True,
        )


def of_phantom(options: list[str]) -> None:
    """Cross-validate under three seeds with each kind of recalibration, and print the paired differences."""
    answers = {}
    with tempfile.TemporaryDirectory() as name:
        store = f"sqlite:///{name}/store.db"
        environment = {**os.environ, "MLFLOW_TRACKING_URI": store, "MLFLOW_EXPERIMENT_NAME": "recalibration"}
        client = MlflowClient(store)
        for kind in CALIBRATIONS:
            more = ["--calibrate", kind, "--seeds", str(SEEDS), "--final", "none"]
            command = [sys.executable, "-m", "mammo_mlflow", "pretrained", *options, *more]
            subprocess.run(command, cwd=name, env=environment, check=True, stdout=subprocess.DEVNULL)
            experiment = client.get_experiment_by_name("recalibration")
            frames = {}
            for run in client.search_runs([experiment.experiment_id], f"params.calibrate = '{kind}'"):
                if "oof.parquet" in [item.path for item in client.list_artifacts(run.info.run_id)]:
                    target = Path(name) / run.info.run_id
                    target.mkdir(exist_ok=True)
                    frame = pd.read_parquet(client.download_artifacts(run.info.run_id, "oof.parquet", str(target)))
                    frames[int(run.data.params["seed"])] = frame
            answers[kind] = pd.concat([frames[seed] for seed in range(SEEDS)])
    print("| calibrate | Brier | less none | calibration error | slope | intercept |")
    print("|---|---|---|---|---|---|")
    for kind, frame in answers.items():
        labels, patients = frame["label"].to_numpy(), frame["patient_id"].to_numpy()
        own = frame["probability" if kind == "none" else "calibrated"].to_numpy()
        lead = bootstrap_difference(labels, own, answers["none"]["probability"], groups=patients, metric="brier")
        estimates = calibration_estimates(labels, own, patients)
        said = " | ".join(f"{estimates[one]:.3f}" for one in MEASURES)
        print(f"| {kind} | {((labels - own) ** 2).mean():.4f} | {lead:+.4f} | {said} |")


def main() -> None:
    """Print one of the two tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--simulations", type=int, default=200)
    parser.add_argument("--rows", type=int, nargs="+", default=[336, 2676])
    parser.add_argument("--between", type=float, default=0.2)
    parser.add_argument("--data")
    asked, options = parser.parse_known_args()
    if asked.data:
        of_phantom(["--data", asked.data, *options])
        return
    header = ["answers", "rows", "calibrate", "error published", "true", "Brier", "slope", "served: error", "Brier"]
    print(f"| {' | '.join([*header, 'slope', 'covered'])} |")
    print("|" + "---|" * 11)
    for rows in asked.rows:
        for answers in ANSWERS:
            simulate(rows, answers, asked.between, asked.simulations)


if __name__ == "__main__":
    main()
