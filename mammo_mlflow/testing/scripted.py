"""An executor with scripted answers, to test coordinators in milliseconds and without TensorFlow."""

from __future__ import annotations

import json
import time
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from io import BytesIO
from pathlib import Path

import h5py
import numpy as np
import yaml

from mammo_mlflow.checks import Value
from mammo_mlflow.data.patches import targets
from mammo_mlflow.experiment import Experiment
from mammo_mlflow.jobs.contracts import (
    ActivationJob,
    AssembleJob,
    CalibrateJob,
    DescribeJob,
    DrawJob,
    Emit,
    EpochDone,
    FeatureJob,
    FitJob,
    FitResult,
    Job,
    Part,
    PredictJob,
    StepsDone,
    Suggestion,
    TryJob,
    ViewsJob,
)
from mammo_mlflow.jobs.descriptions import Description, LayerCut
from mammo_mlflow.jobs.executors.base import Answered, AnyJob, Executor, OnEvent, OnIdle
from mammo_mlflow.jobs.executors.target import attempt, call_target
from mammo_mlflow.jobs.failure import Failure
from mammo_mlflow.models.architecture_ranges import CONVOLUTIONS, HEAD_WIDTHS, LAYERS, STRIDE, block_counts, filters
from mammo_mlflow.names import METADATA, Artifact, Tag

FEATURES = (8,)
"""The shape of what every head stands on."""


@dataclass
class Script:
    """A script of how jobs end; `asked` are the jobs that were answered, in order.

    A job whose name ends as a key of `fail` fails by that exception, each time; one that is no `Exception`, as
    `KeyboardInterrupt`, befalls the coordinator itself. `delay` are seconds, by the same ends of names. `order` picks
    the one of the open jobs that is answered next.
    """

    fail: dict[str, BaseException] = field(default_factory=dict)
    delay: dict[str, float] = field(default_factory=dict)
    order: Callable[[Sequence[Job]], int] = lambda waiting: 0
    asked: list[Job] = field(default_factory=list)

    @property
    def fits(self) -> list[str]:
        """The names of the fits whose jobs were answered."""
        return [job.name for job in self.asked if isinstance(job, FitJob)]


class ScriptedExecutor(Executor):
    """An executor that answers the jobs in `ANSWERS` with plausible values; it runs any other job in this process.

    The models that it writes pass vetting, but are no networks: nothing can load them.
    """

    def __init__(self, script: Script, workers: int = 1) -> None:
        self._script, self._workers = script, workers

    def attempts(
        self, next_job: Callable[[], AnyJob | None], on_event: OnEvent[AnyJob], on_idle: OnIdle
    ) -> Answered[AnyJob]:
        """Yield each job with its answer or `Failure` as it ends; see `Executor.attempts`."""
        waiting: list[AnyJob] = []
        while True:
            while len(waiting) < self._workers and (job := next_job()) is not None:
                waiting.append(job)
            if not waiting:
                return
            job = waiting.pop(self._script.order(waiting))
            self._script.asked.append(job)
            answer = attempt(job, partial(on_event, job), self._answer)
            yield job, replace(answer, error=None) if isinstance(answer, Failure) else answer  # as of a child
            on_idle()

    def _answer(self, job: Job, emit: Emit) -> object:
        script = self._script
        time.sleep(sum(seconds for end, seconds in script.delay.items() if job.name.endswith(end)))
        for end, problem in script.fail.items():
            if job.name.endswith(end):
                raise problem
        return ANSWERS.get(type(job), call_target)(job, emit)


def quality(experiment: Experiment) -> float:
    """Return how well an experiment separates the classes: the distance of their means in standard deviations.

    The distance is largest with Adam at a learning rate of 1e-3 and falls with each decade from there; it is small for
    texture features and 0 for controls.
    """
    if experiment.cv.control != "none":
        return 0.0
    training = experiment.training
    found = 0.9 - 0.2 * abs(np.log10(training.learning_rate) + 3) - 0.2 * (training.optimizer != "adam")
    return max(0.0, float(found)) * (0.5 if experiment.family == "texture" else 1.0)


def _describe(job: DescribeJob, emit: Emit) -> Description:
    network = job.network
    whole = network.family == "scratch" or network.model.backbone == "scratch"
    tuned = LayerCut(5, (4, 4, 2), "float32") if network.model.unfrozen_layers else None
    if whole:
        tuned = LayerCut(0, (network.image_size, network.image_size, 1), "float32")
    return Description(
        features=LayerCut(9, FEATURES, "float32"),
        tuned=tuned,
        head=FEATURES,
        parameters=1000,
        patches_per_second=100.0 if job.probe else float("nan"),
    )


def _calibrate(job: CalibrateJob, emit: Emit) -> None:
    job.output.write_bytes(b"scripted")


def _activations(job: ActivationJob | FeatureJob, emit: Emit) -> None:
    total = len(np.load(job.tensor, mmap_mode="r")) // 2
    np.save(job.output, np.zeros((total, job.views + 1, *job.cut.shape), np.float32))
    emit(StepsDone(total, total))


def _fit(job: FitJob, emit: Emit) -> FitResult:
    """Answer a fit: each fold has a difficulty of its own, each fold of each experiment a random deviation."""
    luck = np.random.default_rng([job.seed, int(job.experiment.key("model", "training")[:8], 16)])
    difficulty = np.random.default_rng(job.seed)
    found = quality(job.experiment) + difficulty.normal(0, 0.15) + luck.normal(0, 0.05)
    lengths = {"network": job.epochs} if job.experiment.trained_whole else {"head": job.epochs}
    if job.experiment.model.unfrozen_layers:
        lengths["tuned"] = job.tuning_epochs
    history: list[dict[str, float | str]] = []
    best = {}
    for stage, length in lengths.items():
        best[stage], last = length, length
        if job.experiment.training.early_stop and len(job.inner_rows):
            best[stage] = int(luck.integers(1, length + 1))
            last = min(length, best[stage] + job.experiment.training.early_stop)
        for number in range(1, last + 1):
            metrics = _metrics(job, found, number, best[stage])
            history.append({"stage": stage, "epoch": len(history) + 1, **metrics})
            emit(EpochDone(len(history), metrics, time.time()))
    tail = job.output / Artifact.TAIL
    _write_network(tail, dict.fromkeys(job.network.sides, job.description.trained.shape), found, job.seed)
    seconds = 1e-4 * len(history) * len(job.train_rows)
    probabilities = _probabilities(job.labels[job.validation_rows], found, job.seed)
    return FitResult(
        probabilities=probabilities,
        history=history,
        best_epochs=best,
        seconds=seconds + 1.0,
        peak_memory=2**26,
        tail=tail,
        training_seconds=seconds,
    )


def _metrics(job: FitJob, found: float, epoch: int, best: int) -> dict[str, float]:
    loss = 0.7 / (1 + max(found, 0.0) * epoch / best)
    metrics = {"loss": loss, "accuracy": 1 - loss / 2}
    if len(job.validation_rows):
        metrics |= {"val_loss": loss + 0.05, "val_accuracy": 0.95 - loss / 2}
    if len(job.inner_rows):
        metrics["inner_loss"] = 0.5 + 0.01 * abs(epoch - best)
    return metrics


def _probabilities(labels: np.ndarray, found: float, seed: int) -> np.ndarray:
    logits = found * (2 * labels - 1) + np.random.default_rng([seed, len(labels)]).normal(size=len(labels))
    return 1 / (1 + np.exp(-logits))


def _assemble(job: AssembleJob, emit: Emit) -> None:
    (job.output / "data").mkdir(parents=True)
    found, seed = _read_part(job.part)
    shapes = {name: one.shape[1:] for name, one in job.examples.items()}
    _write_network(job.output / "data" / "model.keras", shapes, found, seed)
    (job.output / "data" / "keras_module.txt").write_text("keras")
    for name in ("conda.yaml", "python_env.yaml", "requirements.txt"):
        (job.output / name).touch()
    example = json.dumps({name: one.tolist() for name, one in job.examples.items()})
    for name in ("input_example.json", "serving_input_example.json"):
        (job.output / name).write_text(example)
    named = {name: {"name": name} if len(shapes) > 1 else {} for name in shapes}
    inputs = [{**named[name], **_tensor(one.dtype, one.shape[1:])} for name, one in job.examples.items()]
    described = {
        "flavors": {
            "keras": {"data": "data", "save_exported_model": False},
            "python_function": {"data": "data", "loader_module": "mlflow.keras"},
        },
        "metadata": job.metadata,
        "model_uuid": f"{seed:032x}",
        "saved_input_example_info": {
            "artifact_path": "input_example.json",
            "serving_input_path": "serving_input_example.json",
            "type": "ndarray",
        },
        "signature": {"inputs": json.dumps(inputs), "outputs": json.dumps([_tensor(np.dtype("float32"), (1,))])},
    }
    (job.output / "MLmodel").write_text(yaml.safe_dump(json.loads(json.dumps(described))))


def _tensor(dtype: np.dtype, shape: Sequence[int]) -> dict[str, object]:
    return {"type": "tensor", "tensor-spec": {"dtype": str(dtype), "shape": [-1, *shape]}}


def _read_part(part: Part) -> tuple[float, int]:
    """What stands for its tails: their mean quality, the seed of the first."""
    each = [_read_network(path) for path in part.tails]
    return float(np.mean([found for found, _ in each])), each[0][1]


def _predict(job: PredictJob, emit: Emit) -> np.ndarray:
    """Answer a prediction as well as the fits did, where labels lie beside the patches; else as if of one class."""
    total = len(np.load(job.tensor, mmap_mode="r")) // 2
    beside = job.tensor.with_name(job.tensor.name.replace("tensor", "labels"))
    labels = np.zeros(total)
    if beside != job.tensor and beside.exists():
        task = yaml.safe_load((job.model / "MLmodel").read_text())["metadata"][METADATA][Tag.TASK]
        labels = targets(np.load(beside)[1::2].astype(int), task)
    emit(StepsDone(total, total))
    return _probabilities(labels, *_read_network(job.model / "data" / "model.keras"))


def _views(job: ViewsJob, emit: Emit) -> list[np.ndarray]:
    """Answer test-time augmentation as the fits did, with another deviation of each patch and a little better."""
    pairs = [(fit, _read_network(tail)) for fit, tail in zip(job.fits, job.tails, strict=True)]
    emit(StepsDone(len(pairs), len(pairs)))
    return [
        _probabilities(fit.labels[fit.validation_rows], found + 0.1, seed + job.views) for fit, (found, seed) in pairs
    ]


def _try(job: TryJob, emit: Emit) -> dict[str, np.ndarray]:
    example = json.loads((job.model / "input_example.json").read_text())
    return {"probability": np.full(len(next(iter(example.values()))), 0.5)}


def _draw(job: DrawJob, emit: Emit) -> dict[str, Value]:
    """Answer a drawn architecture with fewer draws than KerasTuner's, under the same names."""

    def ask(name: str, kind: str, **distribution: object) -> int:
        return int(emit(Suggestion(name, {"kind": kind, **distribution})) or 0)

    def count(name: str, low: int, high: int) -> int:
        return ask(name, "int", low=low, high=high, step=1, log=False)

    widths = [
        ask(f"dense_{n}", "categorical", choices=list(HEAD_WIDTHS))
        for n in range(1, count("dense_layers", 1, LAYERS) + 1)
    ]
    drawn: dict[str, Value] = {"dense": "-".join(map(str, widths))}
    if job.architecture == "scratch":
        blocks = []
        for n in range(1, count("block_count", *block_counts(job.network.image_size, STRIDE)) + 1):
            width = ask(f"filters_{n}", "categorical", choices=list(filters(n)))
            blocks.append([str(width)] * count(f"convolutions_{n}", 1, CONVOLUTIONS))
        blocks[0][0] += f"/{STRIDE}"
        drawn["blocks"] = ",".join("-".join(block) for block in blocks)
    return drawn


ANSWERS: dict[type[Job], Callable[..., object]] = {
    DescribeJob: _describe,
    CalibrateJob: _calibrate,
    ActivationJob: _activations,
    FeatureJob: _activations,
    FitJob: _fit,
    AssembleJob: _assemble,
    PredictJob: _predict,
    TryJob: _try,
    DrawJob: _draw,
    ViewsJob: _views,
}
"""By kind of job, what answers it. Ensembles join real networks, and maps are drawn over them: neither is here."""


def _write_network(path: Path, inputs: Mapping[str, Sequence[int]], found: float, seed: int) -> None:
    """A Keras file of inputs alone, whose weights are what its answers are drawn with."""
    layers = [
        {"class_name": "InputLayer", "module": "keras.layers", "config": {"name": name, "batch_shape": [None, *shape]}}
        for name, shape in inputs.items()
    ]
    config = {"class_name": "Functional", "module": "keras.src.models.functional", "config": {"layers": layers}}
    with h5py.File(held := BytesIO(), "w") as weights:
        weights.attrs["quality"], weights.attrs["seed"] = found, seed
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("metadata.json", "{}")
        archive.writestr("config.json", json.dumps(config))
        archive.writestr("model.weights.h5", held.getvalue())


def _read_network(path: Path) -> tuple[float, int]:
    with zipfile.ZipFile(path) as archive, h5py.File(BytesIO(archive.read("model.weights.h5"))) as weights:
        return float(weights.attrs["quality"]), int(weights.attrs["seed"])
