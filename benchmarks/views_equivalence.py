"""Is anything lost by training on cached views? AUC of `views=8` against `views=0` on the same folds and seeds.

    python benchmarks/views_equivalence.py --data DIR|phantom [any option of `pretrained`, e.g. --backbone vgg16]

Both are cross-validated under three seeds by the product's own command. The difference of the out-of-fold AUCs (mean
over the folds, weighted by positive x negative pairs, averaged over seeds) gets a 95 % interval by resampling
patients.
The margin, 0.03 AUC, was fixed before the first run: "no worse" is said only where the whole interval lies above -0.03,
"the same" where it lies within +-0.03. Cost: that of the on-line runs.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
from common import out_of_fold

from mammo_mlflow.evaluation.intervals import bootstrap_difference
from mammo_mlflow.evaluation.metrics import fold_auc

MARGIN = 0.03
SEEDS = 3


def main() -> None:
    """Run both, compare, say the verdict."""
    _, options = argparse.ArgumentParser(description=__doc__, allow_abbrev=False).parse_known_args()
    with tempfile.TemporaryDirectory() as name:
        cached, online = (
            out_of_fold(Path(name), f"views{views}", [*options, "--views", str(views)], SEEDS) for views in (8, 0)
        )
    for seed, (first, second) in enumerate(zip(cached, online, strict=True)):
        aucs = [fold_auc(part["label"], part["probability"], part["fold"]) for part in (first, second)]
        print(f"seed {seed}: views=8 {aucs[0]:.4f}, views=0 {aucs[1]:.4f}, difference {aucs[0] - aucs[1]:+.4f}")
    both = pd.concat(cached, keys=range(len(cached)), names=["seed", "row"]).reset_index("seed")
    other = pd.concat(online)
    groups = both["patient_id"].to_numpy() if "patient_id" in both else both["patch"].to_numpy()
    folds = both["seed"].to_numpy() * 1000 + both["fold"].to_numpy()
    estimate = bootstrap_difference(
        both["label"].to_numpy(),
        both["probability"].to_numpy(),
        other["probability"].to_numpy(),
        folds=folds,
        groups=groups,
    )
    verdict = "inconclusive at this size"
    if estimate.low > -MARGIN:
        verdict = "the same within the margin" if estimate.high < MARGIN else "no worse"
    elif estimate.high < -MARGIN:
        verdict = "WORSE"
    print(f"{len(cached[0])} patches, {len(np.unique(groups))} patients, {len(cached)} seeds")
    print(f"AUC(views=8) - AUC(views=0) = {estimate:+.4f}; margin {MARGIN}: {verdict}")


if __name__ == "__main__":
    main()
