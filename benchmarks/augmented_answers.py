"""Does test-time augmentation help, and what does it cost? Against the plain answers: same fits, three seeds, paired.

    python benchmarks/augmented_answers.py [any option of `pretrained`, e.g. --task mass_calc --unfrozen-layers 1]

The folds are trained once by the product's own command; `tta=views` and `tta=flips` find them finished and answer anew.
Differences have 95 % intervals by resampling patients, each with all of its patches and seeds. The cost is the metric
`tta_seconds` as a share of the fits' seconds, the processes' start included; `flips` first caches the activations of
seven more views of each patch.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from common import how_many, leads, of_seeds, out_of_fold
from mlflow.tracking import MlflowClient

from mammo_mlflow.experiment import TTAS
from mammo_mlflow.names import Metric

SEEDS = 3
STORE = "augmented"


def main() -> None:
    """Answer in each way, compare each with the plain one, print a table."""
    _, options = argparse.ArgumentParser(
        description=__doc__, allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_known_args()
    found, seconds = {}, {}
    with tempfile.TemporaryDirectory() as name:
        folder, seen = Path(name), set[str]()
        for tta in TTAS:
            found[tta] = of_seeds(out_of_fold(folder, STORE, [*options, "--tta", tta], SEEDS))
            client = MlflowClient(f"sqlite:///{folder}/{STORE}.db")
            experiment = client.get_experiment_by_name(STORE).experiment_id
            runs = [run for run in client.search_runs([experiment]) if run.info.run_id not in seen]
            seen |= {run.info.run_id for run in runs}
            wanted = Metric.FIT_SECONDS if tta == "none" else Metric.TTA_SECONDS
            seconds[tta] = sum(run.data.metrics.get(wanted, 0.0) for run in runs)
    plain = found.pop("none")
    print(f"{how_many(plain)}; fits {seconds['none']:.0f} s\n")
    print("| tta | ROC AUC, less plain | log loss, less plain | seconds | of the fits' |\n|---|---|---|---|---|")
    for tta, own in found.items():
        share = f"{seconds[tta]:.1f} | {seconds[tta] / seconds['none']:.1%}"
        print(f"| `{tta}` | {' | '.join(leads(plain, own))} | {share} |")


if __name__ == "__main__":
    main()
