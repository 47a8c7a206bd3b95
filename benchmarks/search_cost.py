"""What a study costs against the same trials done the usual ways, as ratios measured in one run.

    python benchmarks/search_cost.py [--patches 2676] [--trials 12] [--epochs 40] [--views 8] [--output FILE]
    python benchmarks/search_cost.py --unfrozen --trials 6 [--output FILE]

The product's `search` (one trial is a cross-validation of 4 folds; average-pooled head, frozen backbone, no final
model, no pruner) runs three times, each with a tracking store and studies of its own, seconds of the whole command:
one trial, which fills the cache if it was empty; the same trial again; and the study, from the cache as it is then.
What the first one takes longer than the second is the filling of the cache.

`plain Keras`: the very trials of that study, read back from Optuna, with whole networks: the frozen backbone with the
same weights and the head, Keras's augmentation layers ahead of it, `fit`, all processors. `KerasTuner`: its own
`RandomSearch` with whole networks over the same space, executions as folds. Both would take days: for each trial (a few
trials of KerasTuner) some steps are really run, and their median, after a warm-up, times patches, epochs, folds and
trials is what is printed. Plain Keras is charged its steps alone; KerasTuner also what else its own small search took a
trial (building, tracing, checkpoints, oracle), not scaled by epochs. Loops over the data and callbacks are left out.

With `--unfrozen` the study draws 0 to 3 last convolutions to be trained in 10 more epochs, compared with plain Keras.
Cost on 2 cores with 26 patches (150x150) a second in bfloat16: 40 minutes; `--unfrozen --trials 6`: 1.5 to 2 hours, and
6 GB of disk in bfloat16. Phantom data; nothing is said about accuracy.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from common import epoch_seconds, run_measured

FOLDS, TUNING_EPOCHS = 4, 10
POLICIES = ("float32", "mixed_bfloat16")


def main() -> None:
    """Measure all parts, print them as ratios, write them as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", default="mass_calc")
    parser.add_argument("--backbone", default="vgg16")
    parser.add_argument("--weights", default="imagenet", help="imagenet, random or a directory")
    parser.add_argument("--patches", type=int, default=2676, help="training abnormalities of the phantom")
    parser.add_argument("--size", type=int, default=150, help="side of the patches in pixels")
    parser.add_argument("--trials", type=int, default=12)
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--views", type=int, default=8)
    parser.add_argument("--unfrozen", action="store_true", help="let the study unfreeze 0 to 3 convolutions")
    parser.add_argument("--steps", type=int, default=8, help="timed steps of each trial in plain Keras")
    parser.add_argument("--tuner-trials", type=int, default=2, help="trials that KerasTuner really runs")
    parser.add_argument("--cache-dir", default="", help="by default a temporary one, which is empty")
    parser.add_argument("--output", help="file for the numbers as JSON")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        cache = Path(options.cache_dir or folder / "cache").resolve()
        empty = not any(cache.glob("*"))
        print("the product, one trial ...", file=sys.stderr)
        first = product(folder / "first", cache, options, 1)
        print(f"{first['seconds']:.1f} s; again ...", file=sys.stderr)
        second = product(folder / "second", cache, options, 1)
        print(f"{second['seconds']:.1f} s; the study ...", file=sys.stderr)
        study = product(folder / "study", cache, options, options.trials)
        print(f"{study['seconds']:.1f} s", file=sys.stderr)
        numbers: dict[str, Any] = {"options": vars(options), "cache_was_empty": empty}
        numbers |= {"one_trial": first, "one_trial_again": second, "study": study, "ways": {}}
        numbers |= {"fill_seconds": max(0.0, first["seconds"] - second["seconds"]) if empty else None}
        for way in ("plain",) if options.unfrozen else ("plain", "keras_tuner"):
            for policy in POLICIES:
                print(f"{way}, {policy} ...", file=sys.stderr)
                numbers["ways"][f"{way} {policy}"] = whole_networks(folder, way, policy, study["settings"], options)
    numbers["machine"] = machine(numbers["ways"])
    numbers["table"] = table(numbers, options)
    report(numbers, options)
    if options.output:
        Path(options.output).write_text(json.dumps(numbers, indent=1) + "\n")


def product(folder: Path, cache: Path, options: argparse.Namespace, trials: int) -> dict[str, Any]:
    """One run of the product's command: seconds, memory, its trials' settings. Raises SystemExit where one failed."""
    folder.mkdir()
    command = [sys.executable, "-m", "mammo_mlflow", "search", "--data", "phantom"]
    values: dict[str, Any] = {
        "task": options.task,
        "backbone": options.backbone,
        "weights": options.weights,
        "trials": trials,
        "folds": FOLDS,
        "epochs": options.epochs,
        "views": options.views,
        "pooling": "average",
        "batch_size": 16,
        "fresh_seeds": 0,
        "final": "none",
        "pruner": "none",
        "phantom_train": options.patches,
        "phantom_test": 32,
        "phantom_size": options.size,
        "storage": f"sqlite:///{folder}/optuna.db",
        "cache_dir": cache,
    }
    values |= {"tuning_epochs": TUNING_EPOCHS} if options.unfrozen else {"unfrozen_layers": 0}
    for name, value in values.items():
        command += [f"--{name.replace('_', '-')}", str(value)]
    store = f"sqlite:///{folder}/mlflow.db"
    environment = {**os.environ, "MLFLOW_TRACKING_URI": store}
    environment.pop("MLFLOW_EXPERIMENT_NAME", None)
    seconds, memory = run_measured(command, folder, environment)

    import optuna
    from mlflow.tracking import MlflowClient

    from mammo_mlflow.names import Attribute

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    trials_done = optuna.load_study(study_name=None, storage=values["storage"]).trials
    states = [trial.state.name for trial in trials_done]
    if states != ["COMPLETE"] * trials:
        raise SystemExit(f"expected {trials} complete trials, found {states}")
    client = MlflowClient(store)
    runs = client.search_runs([e.experiment_id for e in client.search_experiments()])
    one = next(run for run in runs if "mammo.oof_patches" in run.data.tags)
    return {
        "seconds": seconds,
        "memory": memory,
        "tracking_seconds": sum(run.data.metrics.get("tracking_seconds", 0.0) for run in runs),
        "precision": one.data.params["precision"],
        "patches": int(one.data.tags["mammo.oof_patches"]),
        "settings": [json.loads(trial.user_attrs[Attribute.SETTING]) for trial in trials_done],
    }


def whole_networks(
    folder: Path, way: str, policy: str, settings: list[dict[str, Any]], options: argparse.Namespace
) -> dict[str, Any]:
    """What `whole_networks.py` measured for one way, in a process of its own."""
    from mammo_mlflow.models.weights import find_weights

    weights = find_weights(options.backbone, options.weights, phantom=True)
    job = {
        "way": way,
        "policy": policy,
        "backbone": options.backbone,
        "size": options.size,
        "weights": str(weights.path or ""),
        "weights_kind": weights.kind,
        "batch": settings[0]["batch_size"],
        "folds": FOLDS,
        "steps": options.steps,
        "tuner_trials": options.tuner_trials,
        "settings": settings,
    }
    path = folder / "job.json"
    path.write_text(json.dumps(job))
    command = [sys.executable, str(Path(__file__).with_name("whole_networks.py")), str(path)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{way}, {policy} failed:\n{done.stderr[-4000:]}")
    return {**json.loads(done.stdout.splitlines()[-1]), "weights": weights.label}


def table(numbers: dict[str, Any], options: argparse.Namespace) -> list[dict[str, Any]]:
    """A row for each way: its seconds, whether measured, and the ratios to the product, warm and from empty."""
    warm, fill = numbers["study"]["seconds"], numbers["fill_seconds"]
    begin = "empty cache" if numbers["cache_was_empty"] else "cache as found"
    rows: list[dict[str, Any]] = [
        {"way": f"product, one trial, {begin}", "seconds": numbers["one_trial"]["seconds"], "how": "measured"},
        {"way": "product, the same trial again", "seconds": numbers["one_trial_again"]["seconds"], "how": "measured"},
        {"way": f"product, {options.trials} trials, warm cache", "seconds": warm, "how": "measured"},
    ]
    if fill is not None:
        whole = f"product, {options.trials} trials and filling the cache"
        rows.append({"way": whole, "seconds": warm + fill, "how": "sum of measured"})
    for name, found in numbers["ways"].items():
        way, policy = name.split()
        cost = plain_cost(found["seconds"], numbers["study"]) if way == "plain" else tuner_cost(found, numbers["study"])
        found |= cost
        row = {"way": f"{'plain Keras' if way == 'plain' else 'KerasTuner'} {policy}", "how": "extrapolated"}
        rows.append({**row, "seconds": sum(cost.values())})
    for row in rows:
        row["to_warm"] = row["seconds"] / warm
        row["to_cold"] = row["seconds"] / (warm + fill) if fill is not None else None
    return rows


def plain_cost(steps: list[dict[str, float]], study: dict[str, Any]) -> dict[str, float]:
    """Seconds of all epochs of all folds of the study's trials, frozen and tuned."""
    cost = {"frozen_epochs_seconds": 0.0, "tuned_epochs_seconds": 0.0}
    for step, setting in zip(steps, study["settings"], strict=True):
        folds, batch = setting["folds"], setting["batch_size"]
        stages = [("frozen", "train", setting["epochs"])]
        stages += [("tuned", "tuned", setting["tuning_epochs"])] if setting["unfrozen_layers"] else []
        for stage, name, epochs in stages:
            epoch = epoch_seconds(study["patches"], folds, step[name] / batch, step["validate"] / batch)
            cost[f"{stage}_epochs_seconds"] += folds * epochs * epoch
    return cost


def tuner_cost(found: dict[str, Any], study: dict[str, Any]) -> dict[str, float]:
    """Seconds of as many trials with KerasTuner: their epochs, and what else its own small search took a trial."""
    step = {"train": found["seconds"]["train"], "validate": found["seconds"]["validate"]}
    epochs = plain_cost([step] * len(study["settings"]), study)
    return epochs | {"overhead_seconds": len(study["settings"]) * found["seconds"]["trial_overhead"]}


def machine(ways: dict[str, Any]) -> dict[str, Any]:
    """Cores, processor, its bfloat16 instructions, and TensorFlow's version."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    facts = {line.split(":")[0].strip(): line.partition(":")[2].strip() for line in lines if ":" in line}
    found = next(iter(ways.values()))
    return {
        "cores": len(os.sched_getaffinity(0)),
        "processor": facts.get("model name", "unknown"),
        "bf16": [flag for flag in facts.get("flags", "").split() if "bf16" in flag],
        "tensorflow": found["tensorflow"],
        "keras": found["keras"],
        "load": os.getloadavg()[2],
    }


def report(numbers: dict[str, Any], options: argparse.Namespace) -> None:
    """Print the numbers, absolute and as ratios."""
    study, facts = numbers["study"], numbers["machine"]
    weights = next(iter(numbers["ways"].values()))["weights"]
    print(
        f"{options.backbone} ({weights} weights), {study['patches']} patches of {options.size}x{options.size}, "
        f"{options.trials} trials x {FOLDS} folds x {options.epochs} epochs, {options.views} views, "
        f"product in {study['precision']}"
    )
    print(f"{'way':<46}{'seconds':>10}  {'':<16}{'to warm':>9}{'to cold':>9}")
    for row in numbers["table"]:
        cold = "-" if row["to_cold"] is None else f"{row['to_cold']:.2f}"
        print(f"{row['way']:<46}{row['seconds']:>10.1f}  {row['how']:<16}{row['to_warm']:>9.2f}{cold:>9}")
    print("to warm, to cold: ratio to the product's study from a warm cache, and with the filling of an empty one")
    print(f"extrapolated: median seconds of a step, times patches, {options.epochs} epochs, folds and trials")
    memory = ", ".join(f"{who} {size / 2**20:.0f} MB" for who, size in study["memory"].items())
    tracked = study["tracking_seconds"]
    print(f"study: peak private memory: {memory}; tracking {tracked:.1f} s, {tracked / study['seconds']:.1%}")
    if options.trials > 1:
        each = (study["seconds"] - numbers["one_trial_again"]["seconds"]) / (options.trials - 1)
        print(f"study: {each:.1f} s for each trial beyond the first")
    for name, found in numbers["ways"].items():
        way, policy = name.split()
        if way == "keras_tuner":
            said = "" if found["seconds"]["tensorboard"] else "; its import of tensorboard, not installed, is left out"
            print(
                f"KerasTuner {policy}: {found['seconds']['trial_overhead']:.1f} s a trial beyond its steps, from "
                f"{options.tuner_trials} small trials of {found['seconds']['seconds']:.1f} s{said}"
            )
        elif options.unfrozen:
            print(f"plain Keras {policy}: {found['tuned_epochs_seconds']:.0f} s of it in tuned epochs")
    if options.unfrozen:
        print("unfrozen layers of the trials:", *(setting["unfrozen_layers"] for setting in study["settings"]))
    bf16 = " ".join(facts["bf16"]) or "none"
    print(
        f"machine: {facts['cores']} cores, {facts['processor']}, bfloat16 instructions: {bf16}; "
        f"load of the last 15 minutes {facts['load']:.1f}; TensorFlow {facts['tensorflow']}, Keras {facts['keras']}"
    )


if __name__ == "__main__":
    main()
