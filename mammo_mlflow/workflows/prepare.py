"""The command `prepare`: make a data directory from CBIS-DDSM as it is published, as a tracked run."""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from mammo_mlflow.commands.base import options_of
from mammo_mlflow.commands.prepare import PrepareOptions
from mammo_mlflow.data.cbis_ddsm.ingest import ATTRIBUTION_FILE, LEFT_OUT_FILE, NOTE, IngestResult, ingest, look
from mammo_mlflow.data.patches import PREPARED_FILE, SPLITS, TYPES, read_patch_set
from mammo_mlflow.disclosure import Disclosure
from mammo_mlflow.errors import expected
from mammo_mlflow.evaluation import figures
from mammo_mlflow.names import Tag
from mammo_mlflow.processes import available_cores
from mammo_mlflow.terminal import TerminalProgress, say, show_table
from mammo_mlflow.tracking.orphans import close_orphaned_runs
from mammo_mlflow.tracking.store import open_writer
from mammo_mlflow.tracking.tracked_run import TrackedRun
from mammo_mlflow.workflows.workbench import ending_runs

SHEET_PAIRS = 12

_log = logging.getLogger(__name__)


def run(options: PrepareOptions) -> str:
    """Run `prepare`: make the data directory `out` from the films below `source`; return its run's id.

    Raises `UserError`.
    """
    source, out = options.source, options.out
    if not out:
        raise expected("out", "the name of a directory to make", "''")
    films, target = Path(source).expanduser().absolute(), Path(out).expanduser().absolute()
    descriptions = Path(options.csv).expanduser().absolute() if options.csv else films
    for field, name in (("source", source), ("out", out), ("csv", options.csv)):
        if not name.isprintable():
            raise expected(field, "a name in printable UTF-8", ascii(name))
    look(films, target, descriptions, options.settings())
    writer = open_writer({Tag.FAMILY: "prepare"})
    with ending_runs(writer), TerminalProgress() as progress:
        top = writer.start_run("prepare", parent=None, tags={}, params=_logged(options))
        writer.ask(lambda: close_orphaned_runs(writer.client, writer.experiment_id, top.id, ()))
        workers = options.workers or available_cores()
        made = ingest(films, target, descriptions, options.settings(), workers, progress.update)
        for warning in made.warnings:
            _log.warning("%s", warning)
        _log_all(top, made)
        top.close()
    _show(made)
    return top.id


def _logged(options: PrepareOptions) -> dict[str, object]:
    """The options as parameters of a run: of a path its name alone."""
    paths = [name for name, about in options_of(type(options)).items() if about.path]
    return options.model_dump() | {name: Path(getattr(options, name)).name for name in paths}


def _log_all(run: TrackedRun, made: IngestResult) -> None:
    """Log counts, the rows left out, sheets of patches of each class, and, with both splits, the data's sha256."""
    note = NOTE if made.synthetic else "CBIS-DDSM (Lee et al. 2017), CC BY 3.0"
    metrics = {
        f"{split}_{name.replace(' ', '_')}": count for split, of in made.counts.items() for name, count in of.items()
    }
    metrics |= {re.sub(r"\W+", "_", f"left out {name}"): n for name, n in _reasons(made).items()}
    run.log_metrics({"films": made.films, **metrics})
    run.set_tags(Disclosure.of(phantom=made.synthetic).tags)
    run.log_figure(figures.class_distribution(made.counts, "Abnormalities of each class", note), "classes")
    for name in (LEFT_OUT_FILE, PREPARED_FILE, ATTRIBUTION_FILE, *(f"{stem}_groups.csv" for stem in SPLITS.values())):
        if (made.directory / name).exists():
            run.log_file(made.directory / name)
    for split in made.counts:
        for title, rows in _sheets(made.directory, split):
            name = f"{split} {title}"
            run.log_figure(figures.patch_sheet(rows, name, note), name.replace(" ", "_"), "sheets")
    if set(made.counts) == set(SPLITS):
        found = read_patch_set(made.directory)
        run.set_tags({Tag.DATA_SHA256: found.train_sha256, Tag.TEST_SHA256: found.test_sha256})
        for warning in found.warnings:
            _log.warning("%s: %s", made.directory, warning)


def _sheets(directory: Path, split: str) -> Iterator[tuple[str, list[tuple[str, np.ndarray, np.ndarray]]]]:
    """Yield a title and pairs (name, baseline, patch) of each class, spread over the whole split."""
    stem = SPLITS[split]
    patches = np.load(directory / f"{stem}_tensor.npy", mmap_mode="r", allow_pickle=False)
    types = np.load(directory / f"{stem}_labels.npy", allow_pickle=False)[1::2]
    for kind, title in TYPES.items():
        rows = np.flatnonzero(types == kind)
        if len(rows):
            shown = rows[np.unique(np.linspace(0, len(rows) - 1, SHEET_PAIRS).astype(int))]
            yield title, [(f"patch {row}", patches[2 * row], patches[2 * row + 1]) for row in shown]


def _reasons(made: IngestResult) -> Counter[str]:
    return Counter(entry.reason for entry in made.left_out)


def _show(made: IngestResult) -> None:
    rows = [
        [split, *(str(of[name]) for name in TYPES.values()), str(sum(of.values()))] for split, of in made.counts.items()
    ]
    show_table(f"{made.directory}: abnormalities of {made.films} films", ["split", *TYPES.values(), "all"], rows)
    if made.left_out:
        listed = ", ".join(f"{count} {reason}" for reason, count in _reasons(made).most_common())
        say(f"left out, listed in {made.directory / LEFT_OUT_FILE}: {listed}")
    missing = [split for split in SPLITS if split not in made.counts]
    if missing:
        say(f"no {missing[0]} set: training and testing need both; `predict --input FILE.npy` takes either tensor")
    if "test" in missing:
        say("patients of the official test set are known from its case descriptions alone: were they there?")
    if not made.anew:
        say("it was there already, made of the same files with the same parameters")
    say(Disclosure.of(phantom=made.synthetic).line("films that a program drew, "))
