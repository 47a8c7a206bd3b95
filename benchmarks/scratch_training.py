"""What training M1 from scratch costs, against plain Keras with `ImageDataGenerator` on the host, in one run.

    python benchmarks/scratch_training.py [--patches 480] [--epochs 5]

The product's command cross-validates M1 (the paper's setting, no final model) on phantom patches of 150 x 150 pixels,
folds side by side. Plain Keras is `fit` on `ImageDataGenerator.flow` with the same policy, as the paper's notebooks
had it, on all processors, a fold after the other. Both rates are the patches trained on in an epoch, validation
included, divided by its seconds; the first epoch, which traces the network, is left out. The rate of the whole
command is told too.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from common import run_measured

STEPS, VALIDATION, BATCH, SIZE = 24, 8, 16, 150
POLICIES = ("float32", "mixed_bfloat16")


def main() -> None:
    """Measure both and print them as ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--patches", type=int, default=480)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--plain", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.plain:
        print(json.dumps(plain(options.plain)))
        return
    rates = {}
    for policy in POLICIES:
        command = [sys.executable, __file__, "--plain", policy]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        rates[policy] = json.loads(done.stdout.splitlines()[-1])
    with tempfile.TemporaryDirectory() as name:
        mine = product(Path(name), options)
    print(f"M1, batches of {BATCH}, {options.patches} patches, {options.epochs} epochs, {os.cpu_count()} processors")
    memory = ", ".join(f"{who} {size / 2**20:.0f} MB" for who, size in mine["memory"].items())
    print(f"product, {mine['precision']}: {mine['rate']:.1f} patches a second; peak memory: {memory}")
    print(f"product, whole command (start, tracing, figures): {mine['whole']:.1f} patches a second")
    for policy, rate in rates.items():
        print(
            f"plain Keras {policy}: {rate:.1f} patches a second; the product trains {mine['rate'] / rate:.1f}x as fast"
        )


def plain(policy: str) -> float:
    """Patches a second of plain Keras."""
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    import keras
    from keras import layers
    from keras.src.legacy.preprocessing.image import ImageDataGenerator

    keras.config.set_dtype_policy(policy)
    patch = x = layers.Input((SIZE, SIZE, 1))
    for block in (((32, 2), (32, 1), (32, 1)), ((64, 1),) * 2, ((128, 1),) * 2, ((256, 1),)):
        for filters, stride in block:
            x = layers.Conv2D(filters, 3, strides=stride, padding="same")(x)
            x = layers.ReLU()(layers.BatchNormalization()(x))
        x = layers.Dropout(0.1)(layers.MaxPooling2D()(x))
    x = layers.Flatten()(x)
    for _ in range(2):
        x = layers.Dropout(0.5)(layers.ReLU()(layers.BatchNormalization()(layers.Dense(2048)(x))))
    model = keras.Model(patch, layers.Dense(1, activation="sigmoid", dtype="float32")(x))
    model.compile("adam", "binary_crossentropy", metrics=["accuracy"])
    generator = ImageDataGenerator(
        rescale=1 / 65535,
        rotation_range=180,
        horizontal_flip=True,
        vertical_flip=True,
        height_shift_range=0.1,
        width_shift_range=0.1,
        shear_range=0.01,
        zoom_range=0.1,
    )
    times: list[float] = []

    class Clock(keras.callbacks.Callback):
        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            times.append(time.perf_counter())

    pixels = np.random.default_rng(0).integers(0, 65535, (STEPS * BATCH, SIZE, SIZE, 1)).astype(np.float32)
    labels = np.arange(len(pixels)) % 2
    few = slice(0, VALIDATION * BATCH)
    model.fit(
        generator.flow(pixels, labels, batch_size=BATCH),
        validation_data=(pixels[few] / 65535, labels[few]),
        epochs=3,
        callbacks=[Clock()],
        verbose=0,
    )
    return 2 * len(pixels) / (times[-1] - times[0])


def product(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """One run of the product's command: its rates, and the memory of its processes."""
    store = f"sqlite:///{folder}/mlflow.db"
    command = [sys.executable, "-m", "mammo_mlflow", "scratch", "--task", "mass_calc", "--backbone", "m1"]
    command += ["--preset", "paper", "--epochs", str(options.epochs), "--final", "none"]
    command += ["--phantom-train", str(options.patches), "--phantom-test", "32", "--phantom-size", str(SIZE)]
    environment = {**os.environ, "MLFLOW_TRACKING_URI": store, "MAMMO_CACHE_DIR": str(folder / "cache")}
    seconds, memory = run_measured(command, folder, environment)
    from mlflow.tracking import MlflowClient

    client = MlflowClient(store)
    runs = client.search_runs([one.experiment_id for one in client.search_experiments()])
    fits = [run for run in runs if "mammo.fit" in run.data.tags]
    folds = len(fits)
    trained = options.patches * (folds - 1) // folds
    epochs = []
    for run in fits:
        times = [point.timestamp / 1000 for point in client.get_metric_history(run.info.run_id, "loss")]
        epochs += [after - before for before, after in pairwise(times)]
    return {
        "rate": trained / statistics.median(epochs) * min(folds, os.cpu_count() or 1),
        "whole": trained * folds * options.epochs / seconds,
        "precision": fits[0].data.params["precision"],
        "memory": memory,
    }


if __name__ == "__main__":
    main()
