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

from common import how_many, leads, of_seeds, out_of_fold

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
    plain = None
    with tempfile.TemporaryDirectory() as folder:
        for number, (name, own) in enumerate(SETTINGS.items()):
            start = time.perf_counter()
            table = of_seeds(out_of_fold(Path(folder), f"options{number}", [*options, *own], SEEDS))
            seconds = time.perf_counter() - start
            if plain is None:
                plain = table
                print(f"{how_many(plain)}; the plain setting took {seconds:.0f} s\n")
                print("| option | ROC AUC, option - plain | log loss, option - plain | seconds |\n|---|---|---|---|")
            else:
                print(f"| {name} | {' | '.join(leads(plain, table))} | {seconds:.0f} |", flush=True)


if __name__ == "__main__":
    main()
