"""The command `predict`: write a registered model's answers for patches in a file as a table."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import numpy as np
import pandas as pd

from mammo_mlflow.answer_sets import read_limits
from mammo_mlflow.commands.predict import PredictOptions
from mammo_mlflow.data.patches import TASKS
from mammo_mlflow.disclosure import ASKED, PHANTOM
from mammo_mlflow.errors import expected
from mammo_mlflow.experiment import ABNORMALITY_TYPE, PATCH, ROWS
from mammo_mlflow.files import check_writable, target_file, whole
from mammo_mlflow.jobs.contracts import Answer, AnswerJob, Event, ExplainJob, Job, PredictJob, StepsDone
from mammo_mlflow.jobs.executors import AnyJob, Executor, JobFailed, machines, make_executor
from mammo_mlflow.names import Artifact, Tag
from mammo_mlflow.pixels import odd_values, summarise
from mammo_mlflow.terminal import TerminalProgress, say
from mammo_mlflow.tracking.registry import Verified, verified_model
from mammo_mlflow.tracking.store import open_client
from mammo_mlflow.wording import in_words
from mammo_mlflow.workflows.input_pairs import InputPairs, find_input_pairs

_JOBS = {"keras": PredictJob, "ensemble": AnswerJob}
"""What asks a model of each kind (`Vetted.kind`)."""

_log = logging.getLogger(__name__)


def run(options: PredictOptions) -> Path:
    """Run `predict`: write a model's predictions for every pair of the input (see `find_input_pairs`) to a table.

    The table `output` has a row for each abnormality: its row in the file, probability, decision at the stored
    threshold, where the model has answer sets the one class or `refer`, for an ensemble each member's probability, and
    a warning where its values look like another scale. With `overlays`, Grad-CAM maps over the patches are drawn into
    that folder first. Returns the table's path. Raises `UserError` before anything is written.
    """
    target, maps = target_file("output", options.output), Path(options.overlays).expanduser().absolute()
    overlays, executor = options.overlays, options.executor
    if overlays:
        file = (maps.exists() and not maps.is_dir()) or maps == target
        if file or not maps.parent.is_dir():
            raise expected("overlays", "a folder, or the name of one in a folder that exists", f"'{overlays}'")
        check_writable("overlays", maps if maps.is_dir() else maps.parent)
    client = open_client()
    with tempfile.TemporaryDirectory() as folder, TerminalProgress() as progress:
        found = verified_model(client, options.model, Path(folder))
        sides = {name: ROWS[name] for name in found.made_of.inputs if name in ROWS}
        if ABNORMALITY_TYPE in found.made_of.inputs:
            raise expected("model", "one that is asked of patches alone", f"{found.version}, which needs the true type")
        need_baseline = ROWS["baseline"] in sides.values()
        (place := Path(folder, "asked")).mkdir()
        asked = find_input_pairs(options, found.made_of.image_size, need_baseline, place)
        threads = 1 if executor == "inline" else max(machines(executor))  # TensorFlow takes them once in a process
        job = _JOBS[found.made_of.kind](
            name="predict",
            model=found.path,
            tensor=asked.tensor,
            threads=threads,
            sides=sides,
            places=asked.places(sides),
        )
        with closing(make_executor(executor, 1)) as workers:
            try:
                answers = np.asarray(_ask(workers, progress, job))
            except JobFailed as problem:
                reason = in_words(str(problem).strip().splitlines()[-1])
                raise expected("model", f"answers of {found.version}", reason) from None
            if overlays:
                _ask(workers, progress, _explain_job(found, job, answers, maps))
        odd = _odd_values(found, job)
        _write(found, answers, asked, odd, target)
    lines = summarise(odd, _rows(len(answers)))
    if lines:
        _log.warning("%s: values as of another scale, their answers mean little: %s", options.input, "; ".join(lines))
    say(f"{len(answers)} abnormalities by {found.version} (threshold {found.threshold:g}): {target}")
    if overlays:
        say(f"Grad-CAM maps: {maps}")
    say(found.version.disclosure.line(ASKED))
    return target


def _ask(workers: Executor, progress: TerminalProgress, job: Job[Answer]) -> Answer:
    def show(_: AnyJob, event: Event) -> None:
        if isinstance(event, StepsDone):
            progress.update(job.name, event.done, event.total)

    ((_, answer),) = workers.run([job], show, lambda: None)
    return answer


def _explain_job(found: Verified, job: PredictJob, answers: np.ndarray, target: Path) -> ExplainJob:
    target.mkdir(exist_ok=True)
    names = found.made_of.columns[2:] or (found.version.name,)
    file = "model.keras" if found.made_of.kind == "keras" else Artifact.MEMBERS
    (network,) = found.path.rglob(file)
    title = f"{found.version}: where '{TASKS[found.version.tags[Tag.TASK]][1]}' comes from"
    note = PHANTOM.mark if PHANTOM in found.version.disclosure else None
    return ExplainJob(
        name="overlays",
        model=network,
        tensor=job.tensor,
        threads=job.threads,
        sides=job.sides,
        places=job.places,
        names=names,
        answers=answers[:, None] if answers.ndim == 1 else answers[:, 2:],
        title=title,
        note=note,
        output=target,
    )


def _odd_values(found: Verified, job: PredictJob) -> dict[str, list[str]]:
    """For each input, say why each patch's values look like another scale than the training patches'; "" where not."""
    pairs = np.load(job.tensor, mmap_mode="r", allow_pickle=False)
    each = {side: pairs[first::2][job.places.get(side, slice(None))] for side, first in job.sides.items()}
    return {side: odd_values(patches, found.made_of.ranges.get(side)) for side, patches in each.items()}


def _rows(count: int) -> list[int]:
    return [2 * number + ROWS[PATCH] for number in range(count)]


def _write(found: Verified, answers: np.ndarray, asked: InputPairs, odd: dict[str, list[str]], target: Path) -> None:
    probability = answers if answers.ndim == 1 else answers[:, 0]
    table: dict[str, Sequence[object] | np.ndarray] = {"row": _rows(len(answers)), "probability": probability}
    table["decision"] = (probability >= found.threshold).astype(int)
    if (limits := read_limits(found.version.tags)) is not None:
        table["set"] = limits.in_words(probability, TASKS[found.version.tags[Tag.TASK]])
    if answers.ndim > 1:
        table |= dict(zip(found.made_of.columns[2:], answers[:, 2:].T, strict=True))
    if asked.cut:
        table["box"] = [str(pair.box) for pair in asked.cut]
        table["baseline_box"] = ["" if pair.baseline is None else str(pair.baseline_box) for pair in asked.cut]
    sides = [[f"{side}: {reason}" if reason else "" for reason in reasons] for side, reasons in odd.items()]
    table["warning"] = ["; ".join(filter(None, told)) for told in zip(*sides, strict=True)]
    with whole(target) as part:
        pd.DataFrame(table).to_csv(part, index=False)
