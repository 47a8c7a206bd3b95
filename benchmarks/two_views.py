"""Does joining a lesion's two views help? Lesion AUC of `views` against the average of two answers of `pretrained`.

    python benchmarks/two_views.py [--data DIR] [any option of both commands, e.g. --weights DIR]

By default on a phantom whose lesions have two views that have to be compared (`PHANTOM`), where joining helps
by construction; no figure on it is a medical result. Both are cross-validated under three seeds, on the same folds, by
the product's own commands, with one setting. A lesion's answer is the average over its patches, out of fold, from
either network: the joined one gives both the same answer, since its sides are interchangeable. The difference of the
lesions' AUCs (mean over the folds, weighted by positive x negative pairs, then over the seeds) has a 95 % interval by
resampling patients, of all seeds at once.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import pandas as pd
from common import out_of_fold

from mammo_mlflow.data.patches import LESION_COLUMNS
from mammo_mlflow.data.phantom import PhantomSettings, make_phantom
from mammo_mlflow.estimate import Difference
from mammo_mlflow.evaluation.intervals import bootstrap_difference
from mammo_mlflow.evaluation.metrics import fold_auc

SEEDS = 3
PHANTOM = PhantomSettings(train=1280, test=64, size=150, views=2)
DEFAULTS = {
    "--task": "benign_malignant",
    "--backbone": "resnet50",
    "--pooling": "average",
    "--preset": "quick",
    "--epochs": "40",
    "--dense": "64",
}


def by_lesion(patches: pd.DataFrame, groups: pd.DataFrame) -> pd.DataFrame:
    """The lesions of an out-of-fold table, a row for each: the mean of its patches' probabilities."""
    told = patches[["patch", "label", "fold", "probability"]].join(groups[list(LESION_COLUMNS)], on="patch")
    return (
        told.groupby([*LESION_COLUMNS, "label", "fold"], sort=True)["probability"]
        .agg(probability="mean", patches="size")
        .reset_index()
    )


def main() -> None:
    """Train both, compare by lesion, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--data", type=Path)
    asked, given = parser.parse_known_args()
    options = [*given]
    for name, value in DEFAULTS.items():
        options += [] if name in given else [name, value]
    with tempfile.TemporaryDirectory() as name:
        data = asked.data or make_phantom(PHANTOM, name)
        groups = pd.read_csv(data / "train_groups.csv")
        options += ["--data", str(data.resolve())]
        alone, joined = (out_of_fold(Path(name), family, options, SEEDS, family) for family in ("pretrained", "views"))
    print("| seed | patches alone | average of two answers | joined | difference, 95 % interval |")
    print("|---|---|---|---|---|")
    pairs = []
    for seed, (patches, other) in enumerate(zip(alone, joined, strict=True)):
        first, second = by_lesion(patches, groups), by_lesion(other, groups)
        if not first[[*LESION_COLUMNS, "fold"]].equals(second[[*LESION_COLUMNS, "fold"]]):
            raise SystemExit("the two were not trained on the same folds")
        aucs = [fold_auc(table["label"], table["probability"], table["fold"]) for table in (patches, first, second)]
        print(f"| {seed} | {' | '.join(f'{auc:.3f}' for auc in aucs)} | {difference([(first, second)]):+.3f} |")
        pairs.append((first, second))
    print(f"| all {SEEDS} | | | | {difference(pairs):+.3f} |")
    lesions = pairs[0][0]
    single, patients = int((lesions["patches"] == 1).sum()), lesions["patient_id"].nunique()
    print(f"\n{len(lesions)} lesions, {single} of them in one view alone, {patients} patients")


def difference(pairs: list[tuple[pd.DataFrame, pd.DataFrame]]) -> Difference:
    """The AUC of the joined answers less that of the averaged ones, with all pairs of tables resampled at once."""
    first, second = (
        pd.concat(tables, keys=range(len(pairs)), names=["seed", "row"]) for tables in zip(*pairs, strict=True)
    )
    folds = first.index.get_level_values("seed").to_numpy() * 1000 + first["fold"].to_numpy()
    label, patients = first["label"].to_numpy(), first["patient_id"].to_numpy()
    return bootstrap_difference(label, second["probability"], first["probability"], folds, patients)


if __name__ == "__main__":
    main()
