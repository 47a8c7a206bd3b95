"""What a cross-validation costs from cached activations, against on-line training with plain Keras, in one run.

    python benchmarks/cached_vs_online.py [--family pretrained] [--data DIR] [--backbone vgg16] [--epochs 40]
        [--unfrozen-layers 0]

The product's command runs twice, from an empty cache and again with another learning rate; the same experiment on
line is plain `fit` with Keras's augmentation layers ahead of the network, as a user would write it, on all
processors: a few timed steps of training and validation, times patches, epochs and folds. Final models are left out
on both sides. With `--family siamese` a patch is a pair, and the two branches share one base, as in the paper. With
`--unfrozen-layers n` the seconds of a fine-tuning epoch are compared too. Phantom data unless
`--data` is given.
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
from pathlib import Path
from typing import Any

import numpy as np
from common import epoch_seconds, run_measured

STEPS = 12
BATCH = 16


def main() -> None:
    """Measure all parts and print them as ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--family", default="pretrained", choices=("pretrained", "siamese"))
    parser.add_argument("--data", default="phantom")
    parser.add_argument("--backbone", default="vgg16")
    parser.add_argument("--task", default="mass_calc")
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--unfrozen-layers", type=int, default=0)
    parser.add_argument("--patches", type=int, default=480, help="training abnormalities of the phantom")
    parser.add_argument("--online", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.online:
        print(json.dumps(online(options.family, options.backbone, options.online, options.unfrozen_layers)))
        return
    steps = {}
    for policy in ("float32", "mixed_bfloat16"):
        command = [sys.executable, __file__, "--online", policy, "--backbone", options.backbone]
        command += ["--unfrozen-layers", str(options.unfrozen_layers), "--family", options.family]
        steps[policy] = json.loads(
            subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1]
        )
    with tempfile.TemporaryDirectory() as name:
        cold = product(Path(name), options, "1e-3")
        warm = product(Path(name), options, "2e-3")
    report(options, steps, cold, warm)
    process_cost()


def online(family: str, backbone: str, policy: str, unfrozen: int) -> dict[str, float]:
    """Seconds a patch, or a pair, of plain Keras training and validation."""
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    import keras
    import tensorflow as tf

    from mammo_mlflow.backbones import BACKBONES

    keras.config.set_dtype_policy(policy)
    application = getattr(keras.applications, BACKBONES[backbone].application)
    base = application(include_top=False, weights=None, input_shape=(150, 150, 3))
    base.trainable = False
    convolutions = [layer for layer in base.layers if isinstance(layer, keras.layers.Conv2D)]
    for layer in convolutions[len(convolutions) - unfrozen :]:
        layer.trainable = True
    encoder = keras.Model(base.input, keras.layers.GlobalAveragePooling2D()(base.output))
    sides = [keras.Input((150, 150, 3)) for _ in range(1 if family == "pretrained" else 2)]
    encoded = [encoder(side) for side in sides]
    x = encoded[0] if len(encoded) == 1 else keras.layers.Subtract()(encoded)
    x = keras.layers.Dense(256, activation="relu")(x)
    model = keras.Model(sides, keras.layers.Dense(1, activation="sigmoid", dtype="float32")(x))
    model.compile(keras.optimizers.Adam(1e-3), "binary_crossentropy", metrics=["accuracy"])
    augment = keras.Sequential(
        [keras.layers.RandomFlip(dtype="float32"), keras.layers.RandomRotation(1.0, dtype="float32")]
    )
    images = np.random.default_rng(0).random((STEPS * BATCH, 150, 150, 3), np.float32) * 255
    labels = np.arange(len(images)) % 2
    copies = tuple(images for _ in sides)
    plain = tf.data.Dataset.from_tensor_slices((copies, labels)).batch(BATCH)
    training = plain.map(
        lambda x, y: (tuple(augment(one, training=True) for one in x), y), num_parallel_calls=tf.data.AUTOTUNE
    ).prefetch(2)
    seconds = {}
    for name, work in (
        ("train", lambda: model.fit(training, epochs=1, verbose=0)),
        ("validate", lambda: model.evaluate(plain, verbose=0)),
    ):
        work()
        start = time.perf_counter()
        work()
        seconds[name] = (time.perf_counter() - start) / len(images)
    return seconds


def product(folder: Path, options: argparse.Namespace, rate: str) -> dict[str, Any]:
    """The product's command once: its seconds, the fits' own numbers, and the memory of its processes."""
    store = f"sqlite:///{folder}/mlflow.db"
    command = [
        sys.executable,
        "-m",
        "mammo_mlflow",
        options.family,
        "--task",
        options.task,
        "--backbone",
        options.backbone,
    ]
    command += ["--data", options.data, "--preset", "quick", "--views", "8", "--epochs", str(options.epochs)]
    command += [
        "--final",
        "none",
        "--learning-rate",
        rate,
        "--phantom-train",
        str(options.patches),
        "--phantom-test",
        "32",
    ]
    command += ["--unfrozen-layers", str(options.unfrozen_layers)]
    environment = {**os.environ, "MLFLOW_TRACKING_URI": store, "MAMMO_CACHE_DIR": str(folder / "cache")}
    seconds, memory = run_measured(command, folder, environment)
    from mlflow.tracking import MlflowClient

    client = MlflowClient(store)
    runs = client.search_runs(
        [e.experiment_id for e in client.search_experiments()], order_by=["attributes.start_time DESC"]
    )
    newest = [run for run in runs if run.data.params.get("learning_rate") == str(float(rate))]
    fits = [run for run in newest if "mammo.fit" in run.data.tags]
    top = next(run for run in newest if "mammo.fit" not in run.data.tags)
    tuned = []
    for run in fits:
        times = [point.timestamp for point in client.get_metric_history(run.info.run_id, "loss")]
        tuned += [b - a for a, b in zip(times[options.epochs :], times[options.epochs + 1 :], strict=False)]
    return {
        "seconds": seconds,
        "memory": memory,
        "training": [run.data.metrics["training_seconds"] for run in fits],
        "beyond": [run.data.metrics["seconds"] - run.data.metrics["training_seconds"] for run in fits],
        "tracking": top.data.metrics["tracking_seconds"],
        "tuned_epoch": statistics.median(tuned) / 1000 if tuned else float("nan"),
        "folds": int(top.data.params["folds"]),
        "patches": int(top.data.tags["mammo.oof_patches"]),
        "precision": top.data.params["precision"],
    }


def report(options: argparse.Namespace, steps: dict[str, Any], cold: dict[str, Any], warm: dict[str, Any]) -> None:
    """Print the numbers, absolute and as ratios."""
    n, folds = cold["patches"], cold["folds"]
    what = f"{options.family} {options.backbone}, {n} patches, {folds} folds x {options.epochs} epochs"
    print(f"{what}, {os.cpu_count()} processors")
    for name, run in (("empty cache", cold), ("warm cache", warm)):
        memory = ", ".join(f"{who} {size / 2**20:.0f} MB" for who, size in run["memory"].items())
        print(f"product, {name}: {run['seconds']:.1f} s; peak private memory: {memory}")
    for policy, step in steps.items():
        epoch = epoch_seconds(n, folds, step["train"], step["validate"])
        total = epoch * folds * options.epochs
        print(
            f"plain Keras {policy}: {epoch:.1f} s an epoch, {total:.0f} s in all: "
            f"{total / cold['seconds']:.1f}x an empty cache, {total / warm['seconds']:.0f}x a warm one"
        )
        if options.unfrozen_layers:
            mine = cold["tuned_epoch"] / min(folds, os.cpu_count() or 1)  # folds run side by side, a thread each
            print(f"  with the last {options.unfrozen_layers} unfrozen: {epoch / mine:.1f}x an epoch ({mine:.2f} s)")
    tracked = cold["tracking"]
    print(f"tracking: {tracked:.1f} s, {tracked / cold['seconds']:.1%} of the empty-cache job, figures included")
    print(f"a fold beyond its training: {statistics.median(warm['beyond']):.2f} s in its process")


def process_cost() -> None:
    """What starting a process from the fork server and getting an answer costs."""
    from mammo_mlflow.jobs.contracts import DescribeJob
    from mammo_mlflow.jobs.descriptions import Network
    from mammo_mlflow.jobs.executors import make_executor
    from mammo_mlflow.model_spec import ModelSpec

    executor = make_executor("process", 1)
    scratch = Network(family="scratch", model=ModelSpec(backbone="m1"), image_size=32, precision="float32")
    jobs = [DescribeJob(name=str(i), network=scratch, threads=1) for i in range(6)]
    list(executor.run(jobs[:1], lambda *_: None, lambda: None))  # starts the server
    start = time.perf_counter()
    list(executor.run(jobs[1:], lambda *_: None, lambda: None))
    print(f"a process: {(time.perf_counter() - start) / 5:.2f} s from start to answer")


if __name__ == "__main__":
    main()
