"""Every family from an empty store and cache: what each command takes, and the out-of-fold AUC of each model.

    python benchmarks/families.py [--train 320] [--test 128]

Runs the commands one after another on a phantom of that size, with the quick presets and seed 0, so that later ones
find activations of earlier ones. Prints the seconds of each, and of each model and control the out-of-fold AUC with
its 95 % interval (patients as clusters). No figure on a phantom is a medical result.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import mammo_mlflow as mm

COMMANDS = (
    "scratch --task mass_calc",
    "siamese --task mass_calc",
    "pretrained --task mass_calc",
    "siamese --task benign_malignant --backbone resnet50",
    "pretrained --task benign_malignant --backbone resnet50",
    "conditioned",
    "controls --task mass_calc --backbone resnet50",
)


def main() -> None:
    """Run the commands and print both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", type=int, default=320, help="training patches of the phantom")
    parser.add_argument("--test", type=int, default=128, help="test patches of the phantom")
    arguments = parser.parse_args()
    size = ("--phantom-train", str(arguments.train), "--phantom-test", str(arguments.test))
    with tempfile.TemporaryDirectory() as name:
        uri = f"sqlite:///{name}/mlflow.db"
        environment = {**os.environ, "MLFLOW_TRACKING_URI": uri, "MAMMO_CACHE_DIR": str(Path(name, "cache"))}
        print("| command | seconds |\n|---|---|")
        for command in COMMANDS:
            start = time.perf_counter()
            line = [sys.executable, "-m", "mammo_mlflow", *command.split(), *size, "--quiet"]
            subprocess.run(line, cwd=name, env=environment, check=True, stdout=subprocess.DEVNULL)
            print(f"| `{command}` | {time.perf_counter() - start:.0f} |", flush=True)
        print("\n| cross-validation | out-of-fold AUC |\n|---|---|")
        runs = mm.Store(uri).runs().query("fit == ''").dropna(subset="oof_roc_auc")
        for row in runs.sort_values("started").to_dict("records"):
            auc, low, high = (row[f"oof_roc_auc{end}"] for end in ("", "_low", "_high"))
            print(f"| {row['name']} | {auc:.3f} [{low:.3f}, {high:.3f}] |")


if __name__ == "__main__":
    main()
