"""Does an option of training help? Each against the plain setting: same folds, three seeds, paired differences.

    python benchmarks/training_options.py [any option of `pretrained`, e.g. --task mass_calc --weights DIR]

Each setting is cross-validated by the product's own command. The difference of the out-of-fold ROC AUCs (mean over the
folds, weighted by positive x negative pairs, averaged over seeds) and that of the log losses have 95 % intervals by
resampling patients, each with all of its patches and seeds: `bootstrap_difference`. One is for each option by itself,
not corrected for their number. An option helps where the whole interval is on its side of 0.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
from common import out_of_fold

from mammo_mlflow.evaluation.intervals import bootstrap_difference

SEEDS = 3
SETTINGS: dict[str, list[str]] = {
    "plain": [],
    "AdamW, weight decay 0.004": ["--optimizer", "adamw"],
    "AdamW, weight decay 0.1": ["--optimizer", "adamw", "--weight-decay", "0.1"],
    "cosine": ["--schedule", "cosine"],
    "cosine, warm-up 0.1": ["--schedule", "cosine", "--warm-up", "0.1"],
    "one cycle": ["--schedule", "one_cycle"],
    "label smoothing 0.1": ["--label-smoothing", "0.1"],
    "focal loss, gamma 2": ["--loss", "focal"],
    "last 5 epochs averaged": ["--weight-average", "5"],
}


def main() -> None:
    """Train every setting, compare each with the plain one, print a table."""
    _, options = argparse.ArgumentParser(
        description=__doc__, allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_known_args()
    found, seconds = {}, {}
    with tempfile.TemporaryDirectory() as folder:
        for number, (name, own) in enumerate(SETTINGS.items()):
            start = time.perf_counter()
            found[name] = pd.concat(
                out_of_fold(Path(folder), f"options{number}", [*options, *own], SEEDS),
                keys=range(SEEDS),
                names=["seed"],
            ).reset_index("seed")
            seconds[name] = time.perf_counter() - start
    plain = found.pop("plain")
    groups = plain["patient_id" if "patient_id" in plain else "patch"].to_numpy()
    folds = plain["seed"].to_numpy() * 1000 + plain["fold"].to_numpy()
    print(f"{len(plain) // SEEDS} patches, {len(np.unique(groups))} patients, {SEEDS} seeds\n")
    print("| option | ROC AUC, option - plain | log loss, option - plain | seconds |\n|---|---|---|---|")
    for name, own in found.items():
        if not np.array_equal(own["patch"], plain["patch"]):
            raise SystemExit("the settings have other patches")
        pair, parts = (own["probability"].to_numpy(), plain["probability"].to_numpy()), []
        for metric in ("roc_auc", "log_loss"):
            lead = bootstrap_difference(plain["label"].to_numpy(), *pair, folds=folds, groups=groups, metric=metric)
            helps = lead.high < 0 if metric == "log_loss" else lead.low > 0
            word = "helps" if helps else "no difference shown" if lead.low <= 0 <= lead.high else "**worse**"
            parts.append(f"{lead.value:+.4f} ({lead.low:+.4f} to {lead.high:+.4f}): {word}")
        print(f"| {name} | {parts[0]} | {parts[1]} | {seconds[name]:.0f} |")


if __name__ == "__main__":
    main()
