"""Make a small store with the code that is imported, for later code to find again: README.md says how.

    python make_store.py store_X_Y_Z.tar.xz

Models are narrow and patches of 32 pixels. The one large thing, the backbone's weights, holds values that come again
and again, and fine tuning is too slow to move them, so that all of it is compressed to a few MB.
"""

import lzma
import os
import shlex
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from unittest.mock import patch

import numpy as np

import mammo_mlflow
from mammo_mlflow.models.network import build_base, calibrate_random
from mammo_mlflow.models.synthetic import calibration_patches

DATA = "--phantom-train 48 --phantom-test 24 --phantom-size 32"
SMALL = f"{DATA} --dense 8 --precision float32 --epochs 2"
CONVOLVED = f"{SMALL} --blocks 8/2-8,8 --pooling average"
PRETRAINED = f"{SMALL} --weights weights --views 2"
TUNED = "--unfrozen-layers 1 --tuning-epochs 1 --tuning-learning-rate 1e-20"
SOURCES = "--features-from mammo-benign_malignant-scratch-m1_balanced --condition-from mammo-mass_calc-siamese-scratch"
MEMBERS = "mammo-mass_calc-pretrained-vgg16,mammo-mass_calc-scratch-m1_balanced"
COMMANDS = f"""\
pretrained --task mass_calc --backbone vgg16 {PRETRAINED}
pretrained --task mass_calc --backbone vgg16 {PRETRAINED} {TUNED}
scratch --task mass_calc --backbone m1_balanced {CONVOLVED}
scratch --task benign_malignant --backbone m1_balanced {CONVOLVED}
scratch --task mass_calc --backbone m1 --holdout 0.3 --final fold_average {CONVOLVED}
siamese --task mass_calc --backbone scratch {CONVOLVED}
conditioned --backbone a --views 2 {SOURCES} {SMALL}
controls --family scratch --task mass_calc --backbone m1_balanced --control all {CONVOLVED}
search --task mass_calc --backbone vgg16 --space space.yaml --trials 4 --fresh-seeds 1 {PRETRAINED}
ensemble --task mass_calc --members {MEMBERS} --method average {DATA}
promote --task mass_calc --candidate mammo-mass_calc-pretrained-vgg16 --calibration 1
predict --model models:/mammo-mass_calc@champion --input patches.npy --output champion.csv
predict --model models:/mammo-mass_calc-ensemble-selected/1 --input patches.npy --output ensemble.csv
predict --model models:/mammo-benign_malignant-conditioned-a/1 --input patches.npy --output conditioned.csv
"""
PATCHES = "cache/phantom-v1-48-24-32px-seed0/public_test_tensor.npy"
SPACE = """\
family: pretrained
parameters:
  learning_rate: {low: 1e-4, high: 1e-2, log: true}
  dropout: {low: 0, high: 0.5}
  class_weights: {choices: [none, balanced]}
"""


class Periodic(np.random.RandomState):
    """Normal numbers, the same ones over and over."""

    def normal(self, loc=0.0, scale=1.0, size=None):
        return np.resize(super().normal(loc, 1, 1021), size) * scale


def write_weights(target):
    """Weights of VGG16 through which signals survive."""
    patches = calibration_patches()
    base = build_base("vgg16", patches.shape[1], "average", "float32")
    with patch("numpy.random.RandomState", Periodic):
        calibrate_random(base, patches.astype(np.float32)[..., None])
    base.save_weights(target)


def make(store):
    """The store, in an empty folder."""
    (store / "weights").mkdir()
    write_weights(store / "weights" / "vgg16_notop.weights.h5")
    (store / "space.yaml").write_text(SPACE)
    (store / "commands.txt").write_text(COMMANDS)
    (store / "patches.npy").symlink_to(PATCHES)
    surroundings = {**os.environ, "MAMMO_CACHE_DIR": str(store / "cache"), "MAMMO_OFFLINE": "1"}
    surroundings["PYTHONPATH"] = str(Path(mammo_mlflow.__file__).parents[1])
    for line in COMMANDS.splitlines():
        done = [sys.executable, "-m", "mammo_mlflow", *shlex.split(line)]
        subprocess.run(done, cwd=store, env=surroundings, check=True)


def kept(member):
    """All but what is computed again, cached activations, and what nothing reads, the runs' figures."""
    return None if {"activations", "locks", "figures"} & set(Path(member.name).parts) else member


def main(target):
    """Make one and compress it; equal parts of models are found as far apart as they lie."""
    with tempfile.TemporaryDirectory() as folder:
        make(Path(folder))
        filters = [{"id": lzma.FILTER_LZMA2, "preset": 9, "dict_size": 256 << 20}]
        with lzma.open(target, "w", filters=filters) as file, tarfile.open(fileobj=file, mode="w") as archive:
            archive.add(folder, ".", filter=kept)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
