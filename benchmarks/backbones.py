"""How good is each backbone, frozen, on one data set? For whoever has the weights: out-of-fold results and seconds.

    python benchmarks/backbones.py --weights DIR [--backbones vgg16 resnet50+vgg16 ...] [any option of `pretrained`]

DIR has the files of docs/weights.md; a backbone without a file there has RANDOM weights, and its row says so. Each is
cross-validated under three seeds by the product's own command, on the same folds. ROC AUC is the mean over folds and
seeds, accuracy that at 0.5, each with a 95 % interval, patients as clusters of all their patches and seeds. The last
column is the difference of ROC AUC from the first row, paired. Nothing is chosen by this table.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

from common import how_many, leads, of_seeds, out_of_fold

from mammo_mlflow.backbones import BACKBONES
from mammo_mlflow.errors import UserError
from mammo_mlflow.evaluation.intervals import metric_estimate
from mammo_mlflow.models.weights import find_weights

SEEDS = 3


def weights_of(backbone: str, folder: Path) -> tuple[str, str]:
    """The option `weights` for a backbone, or for several joined by `+`, and what its row says of them."""
    try:
        labels = {find_weights(one, str(folder), phantom=False).label for one in backbone.split("+")}
    except UserError as problem:
        if "found none" not in str(problem):
            raise SystemExit(str(problem)) from None
        return "random", "RANDOM"
    return str(folder.resolve()), ", ".join(sorted(labels))


def main() -> None:
    """Train every backbone and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--backbones", nargs="+", default=[name for name, row in BACKBONES.items() if not row.hub])
    given, options = parser.parse_known_args()
    sources = {name: weights_of(name, given.weights) for name in given.backbones}
    first = None
    with tempfile.TemporaryDirectory() as folder:
        for name, (source, said) in sources.items():
            start = time.perf_counter()
            asked = [*options, "--backbone", name, "--weights", source]
            table = of_seeds(out_of_fold(Path(folder), name, asked, SEEDS))
            seconds = time.perf_counter() - start
            if first is None:
                first = table
                print(f"{how_many(table)}\n")
                print("| backbone | weights | ROC AUC | accuracy | seconds | ROC AUC, less the first |")
                print("|---|---|---|---|---|---|")
            folds = table["seed"].to_numpy() * 1000 + table["fold"].to_numpy()
            groups = table["patient_id" if "patient_id" in table else "patch"].to_numpy()
            auc, accuracy = (
                metric_estimate(metric, table["label"], table["probability"], folds, groups)
                for metric in ("roc_auc", "accuracy")
            )
            lead = "" if table is first else leads(first, table)[0]
            print(f"| {name} | {said} | {auc} | {accuracy} | {seconds:.0f} | {lead} |", flush=True)


if __name__ == "__main__":
    main()
