"""Functions that executors are given in tests; children import this module by name."""

import os
import signal
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import psutil

from mammo_mlflow.jobs.contracts import EpochDone, Failure, FitJob, FitResult, FitsJob, FitsProgress, Job, StepsDone


@dataclass(frozen=True, kw_only=True)
class PretendedFit(FitJob):
    """A fit whose answer is drawn."""

    target = "support_jobs:pretend_to_train"


def process_id(job, emit):
    time.sleep(0.2)
    return os.getpid()


def backend_here(job, emit):
    import keras

    return keras.backend.backend()


def die(job, emit):
    os.kill(os.getpid(), signal.SIGKILL)


def die_once(job, emit):
    emit(StepsDone(1, 2))
    if not (mark := Path(job.argument)).exists():
        mark.touch()
        time.sleep(0.2)  # for the event to be sent
        os.kill(os.getpid(), signal.SIGKILL)
    return "done"


def stop(job, emit):
    os.kill(os.getpid(), signal.SIGSTOP)


def hang(job, emit):
    """Be silent for `argument` seconds."""
    emit(StepsDone(1, 2))
    time.sleep(job.argument)


def take_worker_along(job, emit):
    """End the Ray worker that holds the fork server of this process, unless the file `argument` is there already."""
    first = Path(job.argument or "not there")
    if not first.exists():
        if job.argument:
            first.touch()
        emit(StepsDone(0, 1))
        os.kill(psutil.Process().parent().ppid(), signal.SIGKILL)
        time.sleep(60)
    return "answered"


def ray_node(job, emit):
    """Note the start, wait for a file beside that note, and answer the process of the node that it ran on."""
    node, started = psutil.Process().parent().parent().ppid(), Path(job.argument)
    (started / str(os.getpid())).touch()
    while not (started.parent / "gone").exists():
        time.sleep(0.05)
    return node


@dataclass(frozen=True, kw_only=True)
class CopyJob(Job):
    """Copies what it reads into its output."""

    target = "support_jobs:copy_files"

    sources: tuple[Path, ...]
    folder: dict[str, Path]
    output: Path


def copy_files(job, emit):
    """Copy the sources, one after another, and what lies in the folders; tell where, and where that was read."""
    files = [*job.sources, *(file for folder in job.folder.values() for file in folder.iterdir())]
    target = job.output / "joined"
    target.write_bytes(b"".join(file.read_bytes() for file in files))
    return {"joined": target, "read": [str(file) for file in files]}


def full(job, emit):
    raise OSError(28, "No space left on device")


def note_and_sleep(job, emit):
    """Write the process id into the file `argument`, then sleep."""
    path = Path(job.argument)
    part = path.with_suffix(".part")
    part.write_text(str(os.getpid()))
    part.replace(path)
    time.sleep(60)


def meet(job, emit):
    """Ends only once another job with the same directory is there at the same time."""
    directory, name = job.argument
    (Path(directory) / name).touch()
    deadline = time.monotonic() + 20
    while len(list(Path(directory).iterdir())) < 2:
        if time.monotonic() > deadline:
            raise RuntimeError("nobody came")
        time.sleep(0.02)
    return name


def pretend_to_train(job, emit):
    """Stands for a fit: predictions whose quality the learning rate decides, plainly bad outside 1e-4 to 1e-2.

    Within them 1e-3 is best. Every fold has its own difficulty, every fold of every trial its own luck.
    """
    rate = job.experiment.training.learning_rate
    distance = abs(np.log10(rate) + 3)
    rng = np.random.default_rng([job.seed, int(1e9 * rate)])
    quality = 1.5 - 0.3 * distance if distance < 1 else 0.2
    quality += np.random.default_rng(job.seed).normal(0, 0.15) + rng.normal(0, 0.05)
    sides = 2 * job.labels[job.validation_rows] - 1
    logits = quality * sides + np.random.default_rng(job.seed).normal(0, 1, len(sides))
    tail = job.output / "tail.keras"
    tail.write_bytes(b"nobody reads it")
    history = [{"stage": "head", "epoch": 0, "loss": 1.0, "accuracy": 0.5, "val_loss": 1.0, "val_accuracy": 0.5}]
    return FitResult(
        probabilities=1 / (1 + np.exp(-logits)),
        history=history,
        best_epochs={"head": 1},
        seconds=1.0,
        peak_memory=2**20,
        tail=tail,
    )


@dataclass(frozen=True, kw_only=True)
class PretendedFits(FitsJob):
    """Fits that go together, whose answers are drawn."""

    target = "support_jobs:pretend_to_train_together"


def pretend_to_train_together(job, emit):
    """Answers each fit: its seconds are the number of fits, its memory is the process. Names say who fails or kills."""
    for place in range(len(job.fits)):
        emit(FitsProgress(((place, StepsDone(0, 2)),)))
    for place, fit in reversed(list(enumerate(job.fits))):
        if fit.name == "fails":
            what = Failure("learning_rate: expected better", user=True)
        else:
            what = replace(pretend_to_train(fit, emit), seconds=float(len(job.fits)), peak_memory=os.getpid())
        if fit.name == "kills":
            what = EpochDone(1, {"loss": 1.0}, time.time())
        epochs = tuple((place, EpochDone(number, {"loss": 1.0}, time.time())) for number in (1, 2))
        emit(FitsProgress((*epochs, (place, what))))
    if any(fit.name == "kills" for fit in job.fits):
        os.kill(os.getpid(), signal.SIGKILL)


def tell_cards(job, emit):
    """What a process sees of its card."""
    time.sleep(job.argument)
    return os.environ["CUDA_VISIBLE_DEVICES"], os.environ.get("XLA_CLIENT_MEM_FRACTION")


def tell_and_wait(job, emit):
    """Report a step, and end a while later."""
    emit(StepsDone(0, 1))
    time.sleep(job.argument)
    return os.getpid()
