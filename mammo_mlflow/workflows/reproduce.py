"""The command `reproduce`: run the paper's experiments in order, a command each, and the report last; resumable."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from mammo_mlflow.commands import COMMANDS
from mammo_mlflow.commands.reproduce import ReproduceOptions
from mammo_mlflow.commands.shared import DeviceOptions
from mammo_mlflow.data.patches import check_classes, read_patch_set
from mammo_mlflow.disclosure import Disclosure
from mammo_mlflow.ensembles.methods import ENSEMBLE_VERSION
from mammo_mlflow.errors import gathered
from mammo_mlflow.experiment import RESULTS_VERSION, TASKS
from mammo_mlflow.files import sha256
from mammo_mlflow.jobs.devices import USUAL, Devices, computed_on, find_devices
from mammo_mlflow.jobs.executors import JobFailed
from mammo_mlflow.models.weights import RANDOM_WEIGHTS_VERSION
from mammo_mlflow.names import Tag
from mammo_mlflow.report.fill_rows import HOLDOUT
from mammo_mlflow.report.paper_tables import SIAMESE
from mammo_mlflow.terminal import say
from mammo_mlflow.tracking.orphans import close_orphaned_runs
from mammo_mlflow.tracking.run_queries import find_runs, metric_by_step
from mammo_mlflow.tracking.runs import Writer
from mammo_mlflow.tracking.store import open_writer
from mammo_mlflow.workflows.places import report_folder
from mammo_mlflow.workflows.time_left import CARD, PROCESSOR, TimeLeft, costs_of
from mammo_mlflow.workflows.time_left import SMALL as SMALL_COSTS
from mammo_mlflow.workflows.workbench import ending_runs

SMALL = {"phantom_train": "128", "phantom_test": "96", "phantom_size": "80", "preset": "quick", "epochs": "4"}
"""What `scale=small` gives every command: a small phantom, a few epochs."""

ALWAYS = ("report",)
"""The commands that are repeated whatever was done before."""

VERSIONS = (RESULTS_VERSION, RANDOM_WEIGHTS_VERSION, ENSEMBLE_VERSION)
"""Those of what the steps make."""

PATIENCE_SECONDS = 30.0
"""How long a step may take to end its runs."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Step:
    """A step of `reproduce`: a command with its given options."""

    command: str
    given: dict[str, str]

    @property
    def name(self) -> str:
        """The step's name in the log and on the run."""
        return " ".join([self.command, *(value for key, value in self.given.items() if key in _TOLD)])

    @property
    def kind(self) -> list[str]:
        """The words of what moves the step's time: all but the task in its name, and the members, three in any set."""
        moving = [value for key, value in self.given.items() if key in _TOLD and key not in ("task", "members")]
        return [self.command, *moving]

    @property
    def trains(self) -> bool:
        """Whether the step is told what to compute with, as commands are that train."""
        return set(DeviceOptions.model_fields) <= set(COMMANDS[self.command].options.model_fields)

    @property
    def line(self) -> list[str]:
        """The command line of the step."""
        words = [word for key, value in self.given.items() for word in (f"--{key.replace('_', '-')}", value)]
        return [sys.executable, "-m", "mammo_mlflow", self.command, *words]


_TOLD = ("task", "backbone", "unfrozen_layers", "members", "method")


def run(options: ReproduceOptions) -> str:
    """Run every step that no earlier command finished; return the top run's id.

    Raises `UserError`, and `JobFailed` for a failed step.
    """
    devices = find_devices(options.devices, options.card_memory_gb)
    writer = open_writer({Tag.FAMILY: "reproduce", **devices.tags})
    left_out = ("MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_NAME")
    surroundings = {name: value for name, value in os.environ.items() if name not in left_out}
    surroundings["MLFLOW_EXPERIMENT_ID"] = writer.experiment_id
    todo = list(steps(options))
    key = _key(options)
    earlier = find_runs(writer.client, {Tag.FAMILY: "reproduce", Tag.KEY: key})
    found = earlier if options.resume else []
    done = {step for one in found for step in json.loads(one.data.tags.get(Tag.STEPS, "[]"))}
    table = SMALL_COSTS if options.scale == "small" else CARD if devices.kind == "gpu" else PROCESSOR
    taken = _taken(writer, key, todo, devices) if options.resume else {}  # else they find most of it done
    time_left = TimeLeft(costs_of([step.kind for step in todo], table), taken)
    numbers = [n for n, step in enumerate(todo, 1) if step.name not in done or step.command in ALWAYS]
    with ending_runs(writer):
        tags = Disclosure.of(phantom=options.data == "phantom").tags | {Tag.KEY: key}
        top = writer.start_run(f"reproduce, {options.scale}", parent=None, tags=tags, params={"scale": options.scale})
        writer.ask(lambda: close_orphaned_runs(writer.client, writer.experiment_id, top.id, {key}))
        begun = time.monotonic()
        for position, number in enumerate(numbers):
            step = todo[number - 1]
            where = f"on {computed_on(devices.tags) or USUAL}" if step.trains else ""
            told = ", ".join(filter(None, [step.name, where, time_left.words(numbers[position:])]))
            _log.info("step %d of %d: %s", number, len(todo), told)
            started = time.monotonic()
            if code := _call(step.line, surroundings):
                line = " ".join(step.line[1:])
                raise JobFailed(f"step {number}, {step.name}, ended with code {code}: python {line}")
            seconds = time.monotonic() - started
            if position or not earlier:  # else an earlier command may have done a part of it
                time_left.took(number, seconds)
            done.add(step.name)
            top.log_metrics({"seconds": seconds}, step=number)
            top.set_tags({Tag.STEPS: json.dumps(sorted(done))})
            writer.drain()
        top.close()
    minutes, page = (time.monotonic() - begun) / 60, report_folder(options.out)
    say(f"the study at scale {options.scale}: {minutes:.0f} min; the report is in {page}")
    return top.id


def _taken(writer: Writer, key: str, todo: Sequence[Step], devices: Devices) -> dict[int, float]:
    """The seconds that steps took in runs of a key on the same devices, by number: of several the most.

    Whoever runs a step again finds most of it done. The first step of a run that came after another is left out: a part
    of it may have been done before.
    """
    names = (Tag.KERAS_BACKEND, Tag.DEVICE, Tag.DEVICE_NAME)
    taken: dict[int, float] = {}
    runs = find_runs(writer.client, {Tag.FAMILY: "reproduce", Tag.KEY: key})[::-1]  # oldest first
    for position, run in enumerate(runs):
        if any(run.data.tags.get(name) != devices.tags.get(name) for name in names):
            continue
        found = sorted(metric_by_step(writer.client, run.info.run_id, "seconds").items())
        done = json.loads(run.data.tags.get(Tag.STEPS, "[]"))
        for number, seconds in found[1:] if position else found:
            if 0 < number <= len(todo) and todo[number - 1].name in done:
                taken[number] = max(seconds, taken.get(number, 0.01))
    return taken


def _key(options: ReproduceOptions) -> str:
    """Return the sha256 of scale, settings, data and code versions: steps finished under the same key count as done.

    Steps of older code are run again, which trains only what has changed. So are those that are asked for on another
    kind of device; with devices=auto what is done stays done.
    """
    data = "phantom"
    if options.data != data:
        found = read_patch_set(Path(options.data).expanduser())
        gathered(partial(check_classes, found.train.types), TASKS)
        data = f"{found.train_sha256} {found.test_sha256}"
    made_of = [options.scale, SMALL if options.scale == "small" else {}, data, VERSIONS]
    made_of += [options.devices] if options.devices != "auto" else []
    return sha256(json.dumps(made_of))


def _call(line: list[str], surroundings: dict[str, str]) -> int:
    """Run a step and return its exit code; where this process is ended, it ends the step first."""
    with subprocess.Popen(line, env=surroundings) as child:
        try:
            return child.wait()
        except BaseException:
            child.terminate()
            try:
                child.wait(PATIENCE_SECONDS)
            except subprocess.TimeoutExpired:
                child.kill()
            raise


def steps(options: ReproduceOptions) -> Iterator[Step]:
    """Yield every step of the paper in order."""
    small = options.scale == "small"
    common = dict(SMALL) if small else {"data": options.data, "preset": "paper"}
    if options.data != "phantom":
        common["data"] = str(Path(options.data).expanduser().absolute())
    data = {name: value for name, value in common.items() if name not in ("preset", "epochs")}
    fields = DeviceOptions.model_fields.items()
    common |= {name: str(getattr(options, name)) for name, field in fields if getattr(options, name) != field.default}
    for task in TASKS:
        of_task = {"task": task, **common}
        if small:
            for name in ("m1", "m1_balanced", "m1_early_stop", "m2"):
                yield Step("scratch", {**of_task, "backbone": name, **HOLDOUT})
            yield Step("scratch", {**of_task, "backbone": "m1_10fold", "folds": "10"})
        else:
            yield Step("scratch", {**of_task, "preset": "table"})
        yield Step("pretrained", of_task)
        yield Step("pretrained", {**of_task, "unfrozen_layers": "1"})
        for backbone in SIAMESE:
            yield Step("siamese", {**of_task, "backbone": backbone})
        for backbone in SIAMESE[1:]:
            yield Step("siamese", {**of_task, "backbone": backbone, "unfrozen_layers": "1"})
        for members in ("pretrained", "tuned"):
            for method in ("dense", "grid"):
                yield Step("ensemble", {"task": task, "members": members, "method": method, **data})
    yield Step("conditioned", {"task": "benign_malignant", **common})
    for task in TASKS:
        yield Step("controls", {"task": task, "backbone": "resnet50", **common})
    yield Step("report", {"out": str(report_folder(options.out)), "data": "phantom", **data})
