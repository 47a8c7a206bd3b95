"""What whole commands cost on a graphics card under JAX, against plain Keras on it, in one run of under 9 minutes.

    python benchmarks/device_fits.py [--small] [--weights random] [--limit 540] [--output FILE]

Commands run as a user types them, start, tracking, figures, final model and registration included, each with a store of
its own and, but for the warm one, with an empty cache; the phantom is made before, and the random weights by the first
command. Where JAX finds no card, or with `--small`, sizes are small and the processor computes: that shows that all of
it runs, and no ratio of it means anything for a card.

The loops are the fastest that plain Keras gives under JAX: the product's own network and precision, compiled, full
batches alone, views that lie in memory, no augmentation. Epochs, validation included, are measured after the one that
compiles, and scaled to all folds and epochs; start, compilation, tracking and a final model are left out of a loop and
are in the command. One loop computes the whole network in each epoch, the other, where layers are frozen, activations
once (scaled from one view) and then heads and tails from them.

Last, the same heads by the engine that trains all at once and by the one that trains one after another.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from common import run_measured

FOLDS, BATCH, TIMED, HEADS, ONE_BY_ONE = 4, 16, 2, 48, 2
RESERVE = 150
"""The seconds of the limit that commands leave to the loops."""
REAL = {"patches": 2676, "test": 336, "size": 150, "views": 8, "epochs": 40, "tuning": 10, "scratch": 30}
SMALL = {"patches": 32, "test": 16, "size": 32, "views": 2, "epochs": 2, "tuning": 2, "scratch": 2}
SMALL_M1 = {"blocks": "4/2-4,8", "dense": "32"}
ROWS = {
    "frozen": ("`pretrained`, VGG16 frozen, empty cache", 45),
    "warm": ("the same, activations cached", 25),
    "tuned": ("`pretrained`, last convolution unfrozen", 120),
    "scratch": ("`scratch`, m1_balanced", 90),
    "siamese": ("`siamese`, VGG16 frozen", 60),
}
"""What each command is called in the table, and its aim on one card in seconds."""
Numbers = dict[str, Any]


def main() -> None:
    """Measure all parts and print them as one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true", help="small sizes on the processor, as without a card")
    parser.add_argument("--weights", default="random", help="random, or a directory of weight files")
    parser.add_argument("--limit", type=float, default=540, help="seconds of the whole; what does not fit is skipped")
    parser.add_argument("--output", help="file for the numbers as JSON")
    parser.add_argument("--loops", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.loops:
        measure_loops(json.loads(options.loops))
        return
    end = time.monotonic() + options.limit
    from mammo_mlflow.jobs.devices import find_devices

    os.environ["KERAS_BACKEND"] = "jax"
    found = find_devices("cpu" if options.small else "auto")
    on_card = found.kind == "gpu"
    setting = (REAL if on_card else SMALL) | {"card": on_card, "m1": {} if on_card else SMALL_M1}
    setting["precision"] = "bfloat16" if found.bfloat16 and on_card else "float32"
    setting["weights"] = options.weights if options.weights == "random" else str(Path(options.weights).resolve())
    print(found.line, file=sys.stderr)
    with tempfile.TemporaryDirectory() as name:
        commands = run_commands(Path(name), setting, end - RESERVE)
        loops = run_loops(Path(name), setting, end - 5)
    device = str(found.cards[0])
    print(table(device, setting, commands, loops))
    if options.output:
        numbers = {"device": device, "setting": setting, "commands": commands, "loops": loops}
        Path(options.output).write_text(json.dumps(numbers, indent=1))


def run_commands(folder: Path, setting: Numbers, end: float) -> dict[str, Numbers]:
    """The numbers of each command, or in words why it has none (`missing`)."""
    from mammo_mlflow.data.phantom import PhantomSettings, make_phantom

    phantom = make_phantom(PhantomSettings(setting["patches"], setting["test"], setting["size"], 0), folder)
    found: dict[str, Numbers] = {}
    for row, (_, aim) in ROWS.items():
        cache = folder / ("cache-frozen" if row == "warm" else f"cache-{row}")
        cache.mkdir(exist_ok=True)
        if row != "warm":
            (cache / phantom.name).symlink_to(phantom)
            for path in (folder / "cache-frozen").glob("random-*"):
                if not (cache / path.name).exists():
                    shutil.copy(path, cache)
        environment = {
            **os.environ,
            "MLFLOW_TRACKING_URI": f"sqlite:///{folder}/{row}.db",
            "MAMMO_CACHE_DIR": str(cache),
            "MAMMO_OFFLINE": "1",
        } | ({} if setting["card"] else {"CUDA_VISIBLE_DEVICES": "-1", "JAX_PLATFORMS": "cpu"})
        left = min(end - time.monotonic(), 3 * aim)
        if left < 15:
            found[row] = {"missing": "skipped: no time left"}
            continue
        log = folder / f"{row}.log"
        try:
            with log.open("w") as errors:
                seconds, _ = run_measured(command(row, setting), folder, environment, errors, left)
            activations = re.findall(r"activations: done in ([\d.]+) s", log.read_text())
            found[row] = {"seconds": seconds, "activations": sum(map(float, activations))} | stored(folder, row)
        except subprocess.TimeoutExpired:
            found[row] = {"missing": f"ended after {left:.0f} s"}
        except SystemExit:
            found[row] = {"missing": "failed"}
        print(row, found[row], file=sys.stderr)
        if "missing" in found[row]:
            print(log.read_text()[-2000:], file=sys.stderr)
    return found


def command(row: str, setting: Numbers) -> list[str]:
    """The command of a row, as it is typed."""
    family = row if row in ("scratch", "siamese") else "pretrained"
    line = [sys.executable, "-m", "mammo_mlflow", family, "--task", "mass_calc", "--preset", "paper"]
    line += ["--phantom-train", str(setting["patches"]), "--phantom-test", str(setting["test"])]
    line += ["--phantom-size", str(setting["size"])]
    line += [] if setting["card"] else ["--precision", setting["precision"]]  # bfloat16 is slow on processors
    if row == "scratch":
        line += ["--backbone", "m1_balanced", "--epochs", str(setting["scratch"])]
        return line + [part for name, value in setting["m1"].items() for part in (f"--{name}", value)]
    line += ["--backbone", "vgg16", "--pooling", "average", "--weights", setting["weights"]]
    line += ["--epochs", str(setting["epochs"]), "--views", str(setting["views"])]
    return line + (["--unfrozen-layers", "1", "--tuning-epochs", str(setting["tuning"])] if row == "tuned" else [])


def stored(folder: Path, row: str) -> Numbers:
    """What the fits of a command logged: the seconds of all, and the most memory of the card in GB; 0 if untold."""
    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{folder}/{row}.db")
    runs = client.search_runs([one.experiment_id for one in client.search_experiments()])
    fits = [run.data.metrics for run in runs if "training_seconds" in run.data.metrics]
    memory = max((metrics.get("peak_card_memory_mb", 0) for metrics in fits), default=0)
    return {"fits": sum(metrics["training_seconds"] for metrics in fits), "card_gb": memory * 2**20 / 1e9}


def run_loops(folder: Path, setting: Numbers, end: float) -> dict[str, Numbers]:
    """The numbers of the loops, by what they train; those that did not fit the time are absent."""
    environment = {**os.environ, "XLA_PYTHON_CLIENT_PREALLOCATE": "false", "TF_CPP_MIN_LOG_LEVEL": "3"}
    environment |= {} if setting["card"] else {"CUDA_VISIBLE_DEVICES": "-1", "JAX_PLATFORMS": "cpu"}
    path = folder / "loops"
    with path.open("w") as file, contextlib.suppress(subprocess.TimeoutExpired):
        line = [sys.executable, __file__, "--loops", json.dumps(setting)]
        subprocess.run(line, stdout=file, env=environment, timeout=max(1, end - time.monotonic()))
    found = [json.loads(line) for line in path.read_text().splitlines() if line.startswith("{")]
    return {one.pop("name"): one for one in found}


def measure_loops(setting: Numbers) -> None:
    """Print the seconds of each loop of plain Keras, and of the engines, as a line of JSON."""
    found: dict[str, Numbers] = {}
    for measure in (frozen, heads, tuned, scratch, siamese):
        try:
            found[measure.__name__] = measure(setting, found)
        except Exception as problem:  # the others are worth having
            found[measure.__name__] = {"error": f"{type(problem).__name__}: {problem}"[:300]}
        print(json.dumps({"name": measure.__name__, **found[measure.__name__]}), flush=True)


def frozen(setting: Numbers, found: dict[str, Numbers]) -> Numbers:
    """VGG16 frozen: `whole` in each epoch, `stored` from activations computed once, `heads` of these alone."""
    base, head, pixels = backbone(setting)
    fits, features = FOLDS * setting["epochs"], np.zeros((len(pixels), 512), np.float32)
    trained = fits * epoch(head, features)
    stored = (setting["views"] + 1) * view(base, pixels)[0] + trained
    return {"whole": fits * epoch(networks().build_whole(base, head), pixels), "stored": stored, "heads": trained}


def tuned(setting: Numbers, found: dict[str, Numbers]) -> Numbers:
    """The same with its last convolution trained after the head; activations are of the layer before it."""
    base, head, pixels = backbone(setting)
    fits, cut = FOLDS * setting["tuning"], networks().deepest_cut(base, 1)
    seconds, activations = view(networks().prefix(base, cut), pixels)
    networks().unfreeze(base, 1)
    tail = networks().build_tail(networks().suffix(base, cut), head)
    stored = (setting["views"] + 1) * seconds + fits * epoch(tail, activations) + found["frozen"]["heads"]
    whole = found["frozen"]["whole"] + fits * epoch(networks().build_whole(base, head), pixels)
    return {"whole": whole, "stored": stored}


def siamese(setting: Numbers, found: dict[str, Numbers]) -> Numbers:
    """VGG16 frozen on both patches of a pair; activations are of twice as many patches."""
    base, head, pixels = backbone(setting)
    fits, features, sides = FOLDS * setting["epochs"], np.zeros((len(pixels), 512), np.float32), ("baseline", "patch")
    tail = networks().build_tail(None, head, sides, feature_shape=(512,))
    before = 2 * (found["frozen"]["stored"] - found["frozen"]["heads"])
    stored = before + fits * epoch(tail, dict.fromkeys(sides, features))
    whole = networks().build_whole(base, head, sides)
    return {"whole": fits * epoch(whole, dict.fromkeys(sides, pixels)), "stored": stored}


def scratch(setting: Numbers, found: dict[str, Numbers]) -> Numbers:
    """M1."""
    from mammo_mlflow.model_spec import ModelSpec
    from mammo_mlflow.models.scratch import build_scratch
    from mammo_mlflow.presets import preset_values

    values = preset_values("paper", "m1_balanced", "mass_calc", "scratch") | setting["m1"]
    spec = ModelSpec(**{name: value for name, value in values.items() if name in ModelSpec.__annotations__})
    base = build_scratch(spec, setting["size"], setting["precision"])
    whole = networks().build_whole(base, networks().build_head(base.output_shape[1:], spec))
    return {"whole": FOLDS * setting["scratch"] * epoch(whole, random_pixels(setting))}


def networks() -> Any:
    """The product's module of networks, which imports Keras."""
    from mammo_mlflow.models import network

    return network


def backbone(setting: Numbers) -> tuple[Any, Any, np.ndarray]:
    """VGG16, average-pooled and frozen, a head of 256 units, and patches."""
    from mammo_mlflow.model_spec import ModelSpec

    base = networks().build_base("vgg16", setting["size"], "average", setting["precision"])
    return base, networks().build_head((512,), ModelSpec()), random_pixels(setting)


def random_pixels(setting: Numbers) -> np.ndarray:
    """Patches of noise, float32 (n, size, size, 1)."""
    shape = (setting["patches"], setting["size"], setting["size"], 1)
    return np.random.default_rng(0).integers(0, 65535, shape).astype(np.float32)


def view(model: Any, pixels: np.ndarray) -> tuple[float, np.ndarray]:
    """The seconds of Keras's `predict` for all patches once, after a time that compiles, and what it gives."""
    model.predict(pixels, batch_size=min(256, len(pixels)), verbose=0)
    start = time.perf_counter()
    activations = model.predict(pixels, batch_size=min(256, len(pixels)), verbose=0)
    return time.perf_counter() - start, activations


def epoch(model: Any, inputs: Any) -> float:
    """Seconds of one fold's epoch of Keras's `fit`, validation included, after the epoch that compiles."""
    import keras

    def part(start: int, stop: int) -> Any:
        return keras.tree.map_structure(lambda array: array[start:stop], inputs)

    rows = len(keras.tree.flatten(inputs)[0])
    labels = (np.arange(rows) % 2).astype(np.float32)
    trained = rows * (FOLDS - 1) // FOLDS // BATCH * BATCH
    batch = min(64, rows - trained)
    scored = trained + (rows - trained) // batch * batch
    ends: list[float] = []
    clock = keras.callbacks.LambdaCallback(on_epoch_end=lambda *_: ends.append(time.perf_counter()))
    model.compile("rmsprop", "binary_crossentropy", metrics=["accuracy"], jit_compile=True)
    model.fit(
        part(0, trained),
        labels[:trained],
        batch_size=BATCH,
        epochs=1 + TIMED,
        validation_data=(part(trained, scored), labels[trained:scored]),
        validation_batch_size=batch,
        callbacks=[clock],
        verbose=0,
    )
    return (ends[-1] - ends[0]) / TIMED


def heads(setting: Numbers, found: dict[str, Numbers]) -> Numbers:
    """Seconds of 48 heads by each engine, compilation included; one after another scaled from two."""
    import jax

    from mammo_mlflow.engine.compiled.training import CompiledEngine
    from mammo_mlflow.engine.keras_fit import KerasEngine

    seconds = {}
    with tempfile.TemporaryDirectory() as folder, jax.default_matmul_precision("highest"):
        path = Path(folder) / "activations.npy"
        shape = (setting["patches"], setting["views"] + 1, 512)
        np.save(path, np.random.default_rng(0).normal(size=shape).astype(np.float32))
        for key, engine, count in (("at_once", CompiledEngine(0, print), HEADS), ("each", KerasEngine(), ONE_BY_ONE)):
            fits = list(stage_fits(path, count, setting))
            start = time.perf_counter()
            for _, trained in engine.train(fits):
                if isinstance(trained, Exception):
                    raise trained
                trained.predict()
            seconds[key] = (time.perf_counter() - start) * HEADS / count
    return seconds


def stage_fits(path: Path, count: int, setting: Numbers) -> Iterator[Any]:
    """Fits of heads on stored features, as folds and trials have them."""
    from mammo_mlflow.engine.batches import Batches
    from mammo_mlflow.engine.contract import Stage, StageFit
    from mammo_mlflow.engine.inputs import StoredActivations
    from mammo_mlflow.experiment import TrainingSpec
    from mammo_mlflow.model_spec import ModelSpec
    from mammo_mlflow.models.network import build_head

    rows = np.arange(setting["patches"])
    labels = (rows % 2).astype(np.float32)
    spec = ModelSpec()
    for number in range(count):
        held_out = rows % FOLDS == number % FOLDS
        read = StoredActivations(path)
        yield StageFit(
            network=build_head((512,), spec),
            batches=Batches(read, rows[~held_out], labels, BATCH, setting["views"], [number, 0]),
            spec=TrainingSpec(),
            stage=Stage("head", setting["epochs"], 1e-3),
            validation_rows=rows[held_out],
            inner_rows=rows[:0],
            start=0,
            emit=lambda event: None,
            rebuild=lambda dropout, filled: build_head((512,), spec.filled if filled else spec, dropout),
        )


def table(device: str, setting: Numbers, commands: dict[str, Numbers], loops: dict[str, Numbers]) -> str:
    """All numbers as one table, below its title."""
    card = setting["card"]
    title = "" if card else "SMALL SIZES ON THE PROCESSOR, which say nothing about a card: "
    title += f"{device}, JAX {version('jax')}, Keras {version('keras')}, Python {platform.python_version()}; "
    title += f"{setting['patches']} patches of {setting['size']} pixels, {setting['views']} views, {FOLDS} folds, "
    title += f"{setting['epochs']} epochs (tuning {setting['tuning']}, `scratch` {setting['scratch']}), "
    title += f"{setting['precision']}, {'random' if setting['weights'] == 'random' else 'given'} weights"
    head = ["command", "seconds", *(["aim"] if card else []), "activations", "fits", "card, GB"]
    head += ["loop, whole network", "loop / command", "loop, activations once", "loop / command"]
    lines = [title, "", f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for row, (what, aim) in ROWS.items():
        found, plain = commands[row], loops.get("frozen" if row == "warm" else row, {})
        told = [what, found.get("missing") or spelled(found["seconds"]), *([str(aim)] if card else [])]
        told += [spelled(found.get(key)) for key in ("activations", "fits", "card_gb")]
        told[-1] += " (aim 8)" if card and row in ("frozen", "warm") else ""
        for key in ("whole", "heads" if row == "warm" else "stored"):
            told += [spelled(plain.get(key)), spelled(plain.get(key, 0) / found.get("seconds", 1e9))]
        lines.append(f"| {' | '.join(told)} |")
    one, each = (loops.get("heads", {}).get(key) for key in ("at_once", "each"))
    told = [f"{HEADS} heads x {setting['epochs']} epochs, one program", spelled(one), *["-"] * (5 + card)]
    told += [f"{spelled(each)} (one after another)", spelled(each / one if one else None)]
    lines += [f"| {' | '.join(told)} |", ""]
    lines += [f"Loops are scaled from {TIMED} epochs and one view; heads one after another from {ONE_BY_ONE}."]
    return "\n".join(lines + [f"Not measured, {name}: {one['error']}" for name, one in loops.items() if "error" in one])


def spelled(number: float | None) -> str:
    """A number for the table; "-" where there is none."""
    return f"{number:.1f}" if number and number >= 10 else f"{number:.2g}" if number and number >= 0.01 else "-"


if __name__ == "__main__":
    main()
