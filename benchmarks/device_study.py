"""What a whole study costs on a graphics card under JAX, and its tracking, in one command of under 9 minutes.

    python benchmarks/device_study.py [--small] [--trials 250] [--limit 530] [--output FILE]

The study is `search` as a user types it: VGG16 frozen, `benchmarks/spaces/frozen_head.yaml`, 4 folds, 40 epochs, with
its final model, figures and closing comparison. A study of one generation runs before it, which computes activations
and compiles most programs, so that the measured one is warm; both have stores of their own. Where JAX finds no card, or
with `--small`, sizes are small and the processor computes: that shows that all of it runs, and no ratio of it means
anything for a card.

`plain loop`: the fastest that plain Keras gives under JAX, compiled, without augmentation and tracking: epochs of the
head on activations that lie in memory, and of the whole network, measured after the one that compiles, times folds,
epochs and trials. `bare client`: a loop that writes every fourth run of the study once more, with the fewest calls that
MLflow's client allows (`create_run`, `log_batch`, `log_inputs`, `log_artifacts`, `set_terminated`), into a store of its
own, while the machine does nothing else, times four; the study's own tracking runs beside training, and tells Optuna
too. The fine-tuned study draws from the shipped space for as long as time is left, and is scaled to 30 trials.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import re
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from common import run_measured
from device_fits import REAL, SMALL, backbone, epoch, networks, random_pixels, spelled

FOLDS, SHARE = 4, 4
"""The bare client writes one run of so many."""
SPACE = Path(__file__).with_name("spaces") / "frozen_head.yaml"
LEAST = 45
"""The least seconds for which the fine-tuned study is begun."""
Numbers = dict[str, Any]


def main() -> None:
    """Measure all parts and print them as one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true", help="small sizes on the processor, as without a card")
    parser.add_argument("--trials", type=int, default=250)
    parser.add_argument("--limit", type=float, default=530, help="seconds of the whole; what does not fit is skipped")
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
    setting = (REAL if on_card else SMALL) | {"card": on_card, "trials": options.trials}
    setting["precision"] = "bfloat16" if found.bfloat16 and on_card else "float32"
    setting["weights"] = "random"
    numbers: Numbers = {"device": str(found.cards[0]), "setting": setting}
    print(found.line, file=sys.stderr)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        numbers["first"] = study(folder, "first", setting, 32, SPACE)
        numbers["warm"] = study(folder, "warm", setting, options.trials, SPACE)
        numbers["bare"] = bare_client(folder)
        numbers["loops"] = run_loops(folder, setting)
        left = end - time.monotonic()
        if left > LEAST:
            numbers["tuned"] = study(folder, "tuned", setting, 30, None, timeout=left - LEAST / 2)
    print(table(numbers))
    if options.output:
        Path(options.output).write_text(json.dumps(numbers, indent=1))


def surroundings(folder: Path, name: str, setting: Numbers) -> dict[str, str]:
    """The environment of a study's command."""
    (folder / "cache").mkdir(exist_ok=True)
    where = {"MLFLOW_TRACKING_URI": f"sqlite:///{folder}/{name}/mlflow.db", "MAMMO_CACHE_DIR": str(folder / "cache")}
    hidden = {} if setting["card"] else {"CUDA_VISIBLE_DEVICES": "-1", "JAX_PLATFORMS": "cpu"}
    return {**os.environ, **where, "MAMMO_OFFLINE": "1", **hidden}


def study(folder: Path, name: str, setting: Numbers, trials: int, space: Path | None, timeout: float = 0.0) -> Numbers:
    """The numbers of a study: seconds and memory of the command, its trials, runs, tracking and log."""
    (folder / name).mkdir()
    line = [sys.executable, "-m", "mammo_mlflow", "search", "--task", "mass_calc", "--backbone", "vgg16"]
    values = {"preset": "paper", "weights": "random", "trials": trials, "views": setting["views"]}
    values |= {"phantom_train": setting["patches"], "phantom_test": setting["test"], "phantom_size": setting["size"]}
    values |= {} if space is None else {"space": space}
    values |= {"timeout": round(timeout), "fresh_seeds": 0, "final": "none"} if timeout else {}
    values |= {} if setting["card"] else {"precision": setting["precision"]}  # bfloat16 is slow on processors
    line += [part for key, value in values.items() for part in (f"--{key.replace('_', '-')}", str(value))]
    log = folder / f"{name}.log"
    with log.open("w") as errors:
        try:
            seconds, memory = run_measured(line, folder, surroundings(folder, name, setting), errors)
        except SystemExit:
            raise SystemExit(f"the study '{name}' failed:\n{log.read_text()[-3000:]}") from None
    with contextlib.closing(sqlite3.connect(folder / name / "optuna.db")) as store:
        states = dict(store.execute("SELECT state, count(*) FROM trials GROUP BY state").fetchall())
    with contextlib.closing(sqlite3.connect(folder / name / "mlflow.db")) as store:
        runs = store.execute("SELECT count(*) FROM runs").fetchone()[0]
        (tracking,) = store.execute("SELECT sum(value) FROM metrics WHERE key = 'tracking_seconds'").fetchone()
    said = log.read_text()
    programs = [int(found) for found in re.findall(r"fits in (\d+) program", said)]
    found = {"seconds": seconds, "memory": memory, "states": states, "runs": runs, "tracking": tracking}
    print(name, found, file=sys.stderr)
    return found | {"generations": len(programs), "programs": programs, "trials": sum(states.values())}


def bare_client(folder: Path) -> Numbers:
    """Seconds of a loop that writes the runs of the warm study again, a share of them, scaled to all."""
    from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, RunTag
    from mlflow.tracking import MlflowClient

    points, texts = defaultdict(list), {"params": defaultdict(list), "tags": defaultdict(list)}
    with contextlib.closing(sqlite3.connect(folder / "warm" / "mlflow.db")) as store:
        runs = store.execute("SELECT run_uuid, name, status, artifact_uri FROM runs ORDER BY start_time").fetchall()
        for run, *point in store.execute("SELECT run_uuid, key, value, timestamp, step FROM metrics"):
            points[run].append(Metric(*point))
        for kind, make in (("params", Param), ("tags", RunTag)):
            for run, key, value in store.execute(f"SELECT run_uuid, key, value FROM {kind}"):
                texts[kind][run].append(make(key, value))
    client = MlflowClient(f"sqlite:///{folder}/bare.db")
    experiment = client.create_experiment("bare", artifact_location=str(folder / "bare"))
    inputs = [DatasetInput(Dataset("phantom", "0" * 36, "local", "{}", None, "{}"), [InputTag("context", "training")])]
    chosen = runs[::SHARE]
    start = time.perf_counter()
    for run, name, status, artifacts in chosen:
        made = client.create_run(experiment, run_name=name).info.run_id
        batch = {kind: found[run][:100] for kind, found in texts.items()}
        client.log_batch(made, metrics=points[run][: 1000 - sum(map(len, batch.values()))], **batch)
        client.log_inputs(made, inputs)
        place = Path(artifacts.removeprefix("file://"))
        if place.exists():
            client.log_artifacts(made, str(place))
        client.set_terminated(made, status)
    return {"seconds": (time.perf_counter() - start) * len(runs) / len(chosen), "written": len(chosen)}


def run_loops(folder: Path, setting: Numbers) -> Numbers:
    """The seconds of an epoch of plain Keras, in a process of its own, as it takes the card."""
    environment = {**os.environ, "XLA_PYTHON_CLIENT_PREALLOCATE": "false", "TF_CPP_MIN_LOG_LEVEL": "3"}
    environment |= {} if setting["card"] else {"CUDA_VISIBLE_DEVICES": "-1", "JAX_PLATFORMS": "cpu"}
    line = [sys.executable, __file__, "--loops", json.dumps(setting)]
    done = subprocess.run(line, stdout=subprocess.PIPE, env=environment, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def measure_loops(setting: Numbers) -> None:
    """Print the seconds of an epoch of the head on activations in memory, and of the whole network."""
    base, head, pixels = backbone(setting)
    import numpy as np

    stored = epoch(head, np.zeros((len(pixels), 512), np.float32))
    whole = epoch(networks().build_whole(base, head), random_pixels(setting))
    print(json.dumps({"stored": stored, "whole": whole}))


def table(numbers: Numbers) -> str:
    """All numbers as one table, below its title."""
    setting, warm, bare = numbers["setting"], numbers["warm"], numbers["bare"]
    trials, epochs = setting["trials"], FOLDS * 40
    title = "" if setting["card"] else "SMALL SIZES ON THE PROCESSOR, which say nothing about a card: "
    title += (
        f"{numbers['device']}, JAX {version('jax')}, Keras {version('keras')}, Python {platform.python_version()}; "
    )
    title += f"{setting['patches']} patches of {setting['size']} pixels, {setting['views']} views, random weights"
    aim = " (aim 150)" if setting["card"] and trials == 250 else ""
    lines = [title, "", "| | seconds | against it | ratio |", "|---|---|---|---|"]
    whole = f"{trials} trials x {FOLDS} folds x 40 epochs, warm, whole command"
    for way, name in (("stored", "plain loop on activations in memory"), ("whole", "plain loop on line")):
        plain = numbers["loops"][way] * epochs * trials
        said = f"{name}: {plain:.0f} s ({numbers['loops'][way]:.2g} s an epoch)"
        lines.append(f"| {whole} | {warm['seconds']:.0f}{aim} | {said} | {plain / warm['seconds']:.0f} |")
    each = warm["tracking"] / trials
    said = f"bare client: {bare['seconds']:.0f} s, from {bare['written']} of {warm['runs']} runs"
    ratio = f"{warm['tracking'] / bare['seconds']:.2f} (aim 1.3)"
    lines.append(f"| its tracking, {each:.2f} s a trial, beside training | {warm['tracking']:.0f} | {said} | {ratio} |")
    lines.append(f"| {numbers['first']['trials']} trials, empty cache | {numbers['first']['seconds']:.0f} | | |")
    tuned = numbers.get("tuned")
    if tuned:
        scaled = tuned["seconds"] / max(1, tuned["trials"]) * 30
        what = f"shipped space, last layers unfrozen, {tuned['trials']} trials {tuned['states']}"
        lines.append(f"| {what} | {tuned['seconds']:.0f} | 30 trials at this rate: {scaled:.0f} s | |")
    memory = ", ".join(f"{who} {size / 2**20:.0f} MB" for who, size in warm["memory"].items())
    lines += ["", f"{warm['generations']} generations, programs in each: {warm['programs']}; memory: {memory}"]
    lines.append(f"coordinator's memory aim: below 500 MB; {spelled(warm['runs'])} runs written")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
