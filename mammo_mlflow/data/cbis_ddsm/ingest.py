"""CBIS-DDSM as it is published to the four arrays: films one at a time, resumable, the directory whole or not there."""

from __future__ import annotations

import csv
import filecmp
import json
import multiprocessing
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

import pandas as pd

from mammo_mlflow.data.arrays import write_split
from mammo_mlflow.data.cbis_ddsm.collection import Film, find_dicom, match, read_headers
from mammo_mlflow.data.cbis_ddsm.descriptions import Abnormality, LeftOut, read_descriptions, shared_patients
from mammo_mlflow.data.cbis_ddsm.films import VERSION, CutResult, FilmToCut, cut_film, read_patches
from mammo_mlflow.data.cbis_ddsm.settings import IngestSettings
from mammo_mlflow.data.patches import PHANTOM_FILE, PREPARED_FILE, SPLITS, TYPES
from mammo_mlflow.errors import UserError, expected
from mammo_mlflow.files import PARTIAL, file_sha256, locked, tree_sha256
from mammo_mlflow.processes import serve_parent

FILMS, WHOLE, LOCK = "films", "whole", "lock"
LEFT_OUT_FILE, ATTRIBUTION_FILE = "left_out.csv", "ATTRIBUTION.txt"
ATTRIBUTION = """Patches of CBIS-DDSM (Curated Breast Imaging Subset of DDSM), cut and resized from its films; licence:
Creative Commons Attribution 3.0 Unported (CC BY 3.0), https://creativecommons.org/licenses/by/3.0/

Lee RS, Gimenez F, Hoogi A, Miyake KK, Gorovoy M, Rubin DL. A curated mammography data set for use in computer-aided
detection and diagnosis research. Scientific Data 4, 170177 (2017). The Cancer Imaging Archive,
https://doi.org/10.7937/K9/TCIA.2016.7O02S9CY
"""
NOTE = "Cut from films that a program drew: no figure computed from it is a medical result."
_GROUPS = ("density", "shape_or_type", "margins_or_distribution", "assessment", "subtlety", "pathology", "source_file")
_OF_ODD = ["located", "score", "stray"]
"""The columns of groups files that say how a box was found, where some mask of the collection was odd."""

Progress = Callable[[str, int, int], None]
"""Called with what goes on, how much of it is done and how much there is."""


@dataclass(frozen=True, kw_only=True)
class Ingested:
    """What an ingest made: abnormalities by split and type, rows without a patch, sentences of warning.

    `anew` is false where the very same directory was there already.
    """

    directory: Path
    counts: dict[str, dict[str, int]]
    left_out: tuple[LeftOut, ...]
    warnings: tuple[str, ...]
    films: int
    synthetic: bool
    anew: bool = False


def ingest(
    source: Path, out: Path, descriptions: Path, settings: IngestSettings, workers: int, progress: Progress
) -> Ingested:
    """Make the data directory `out` from the DICOM below `source` and the case descriptions below `descriptions`.

    The same rows and films give the same bytes, whatever their folders, order and `workers`. What is finished of an
    ingest that was ended is kept beside `out`, in `<out>.partial`, and taken by the next.

    Raises:
        UserError: no descriptions or DICOM, no abnormality with a patch, no room, `out` holds something else, or
            another ingest is at work on it.
    """
    for name, folder in (("source", source), ("csv", descriptions)):
        if not folder.is_dir():
            raise expected(name, "a directory", f"'{folder}', {'a file' if folder.exists() else 'nothing there'}")
    out = _place(out, settings)
    names, closed = find_dicom(source)
    told = read_descriptions(descriptions)
    headers, broken = read_headers(source, names, lambda done, total: progress("reading headers", done, total))
    excluded = _excluded(told.abnormalities, settings)
    films, unmatched = match(told.abnormalities, headers, excluded, lambda header: file_sha256(source / header.file))
    left_out = [*told.left_out, *excluded.values(), *unmatched, *broken, *closed]
    with _alone(out) as staging:
        _check_room(staging, films, settings.cut.size)
        tasks = [FilmToCut(film, source, staging / FILMS, settings.cut) for film in films]
        answered = _cut_all(tasks, workers, progress)
        left_out += [LeftOut.of(one, said.reason, said.detail) for one, said in answered if said.place is None]
        left_out.sort(key=lambda entry: (entry.file, entry.row or 0))
        kept = [(one, said) for one, said in answered if said.place is not None]
        if not kept:
            shutil.rmtree(staging / FILMS)
            raise _nothing(source, len(told.abnormalities), left_out)
        odd = any(said.odd for _, said in kept)
        made = Ingested(
            directory=out,
            counts=_write(staging / WHOLE, tasks, kept, settings, odd),
            left_out=tuple(left_out),
            warnings=(*told.warnings, *_told_of([said for _, said in kept])),
            films=len(films),
            synthetic=any(film.header.synthetic for film in films),
        )
        _write_facts(staging / WHOLE, made, settings, odd)
        return replace(made, anew=_publish(staging / WHOLE, out))


def _place(out: Path, settings: IngestSettings) -> Path:
    """Where the directory goes: nothing is there yet, or what an ingest with these settings made."""
    out = out.resolve()
    if not out.name or out.is_mount():
        raise expected("out", "a directory to make", f"'{out}'")
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return out
    try:
        made = json.loads((out / PREPARED_FILE).read_text(encoding="utf-8"))
        differing = [name for name, value in _said(settings).items() if made[name] != value]
        differing += ["locate"] if made.get("locate", settings.cut.locate) != settings.cut.locate else []
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        raise expected("out", "a directory that is not there yet", f"'{out}', which `prepare` did not make") from None
    if differing:
        found = f"'{out}', made with other parameters ({', '.join(differing)}); it is left as it is"
        raise expected("out", "a directory that is not there yet", found)
    return out


def _publish(whole: Path, out: Path) -> bool:
    """Give the finished directory its name; where the same bytes are there already that is all, and false."""
    if not out.exists() or not any(out.iterdir()):
        whole.replace(out)
        return True
    if tree_sha256(whole) != tree_sha256(out):
        difference = _difference(whole, out)
        shutil.rmtree(whole)
        found = f"'{out}', made of other files or by an earlier version ({difference}); it is left as it is"
        raise expected("out", "a directory that is not there yet", found)
    return False


def _difference(whole: Path, out: Path) -> str:
    """In what two directories of one ingest's settings differ, for somebody who made the one in `out` before."""
    old, new = (json.loads((folder / PREPARED_FILE).read_text(encoding="utf-8")) for folder in (out, whole))
    found = [
        (f"{split} abnormalities", [sum(one.get("counts", {}).get(split, {}).values()) for one in (old, new)])
        for split in SPLITS
    ]
    found += [
        (f"left out as '{reason}'", [one.get("left_out", {}).get(reason, 0) for one in (old, new)])
        for reason in sorted({*old.get("left_out", {}), *new["left_out"]})
    ]
    said = [f"{there} {what} there, {now} now" for what, (there, now) in found if there != now]
    if "locate" in new and "locate" not in old:
        said.append("locate=mask follows odd masks no more than earlier versions did")
    if said:
        return "; ".join(said)
    names = {path.name for folder in (whole, out) for path in folder.iterdir()}
    _, differing, missing = filecmp.cmpfiles(whole, out, names, shallow=False)
    return ", ".join(sorted([*differing, *missing]))


def _told_of(answers: Sequence[CutResult]) -> Iterator[str]:
    """Sentences about the boxes that rest on odd masks, and the baselines that may lie on an abnormality."""
    if odd := [answer for answer in answers if answer.odd]:
        found = Counter(answer.located for answer in odd if answer.located != "mask")
        counted = [f"{count} {how}" for how, count in sorted(found.items())]
        stray = sum(bool(answer.stray) for answer in odd)
        counted += [f"{stray} without stray pixels"] if stray else []
        yield f"{len(odd)} boxes are of odd masks: {', '.join(counted)} (located, score, stray in the groups files)"
    if unsure := sum(bool(answer.unmarked) for answer in answers):
        yield f"{unsure} baselines are on films of which another abnormality has no mask: they may lie on it (unmarked)"


def _excluded(rows: Sequence[Abnormality], settings: IngestSettings) -> dict[str, LeftOut]:
    """The rows that the settings leave out, by subject."""
    shared = shared_patients(rows) if settings.shared_patients == "drop-train" else set()
    found = {}
    for one in rows:
        if one.split == "train" and one.patient in shared:
            detail = f"{one.patient} is in the test set too (shared_patients=drop-train)"
            found[one.subject] = LeftOut.of(one, "patient in both splits", detail)
        elif one.pathology == "BENIGN_WITHOUT_CALLBACK" and settings.without_callback == "exclude":
            found[one.subject] = LeftOut.of(one, "without callback", "without_callback=exclude")
    return found


@contextmanager
def _alone(out: Path) -> Iterator[Path]:
    """The staging folder beside `out`, for this process alone; it goes when the block ends well."""
    staging = out.with_name(f"{out.name}{PARTIAL}")
    try:
        (staging / FILMS).mkdir(parents=True, exist_ok=True)
    except OSError as problem:
        raise expected("out", "a place that can be written to", f"'{out}': {problem.strerror}") from None
    if foreign := [path.name for path in staging.iterdir() if path.name not in (FILMS, WHOLE, LOCK)]:
        raise expected("out", f"nothing but an ingest's own files in '{staging}'", f"'{foreign[0]}'")
    with locked(staging / LOCK, UserError(f"out: another command is making '{out}'")):
        try:
            yield staging
        except BaseException:
            if not any((staging / FILMS).glob("*.npz")):
                shutil.rmtree(staging, ignore_errors=True)
            raise
        shutil.rmtree(staging, ignore_errors=True)


def _check_room(staging: Path, films: Sequence[Film], size: int) -> None:
    """Every patch lies on the disk twice for a moment."""
    patches = 2 * sum(len(film.abnormalities) for film in films)
    kept = sum(file.stat().st_size for file in (staging / FILMS).glob("*.npz"))
    needed, free = 2 * patches * size * size * 2 - kept, shutil.disk_usage(staging).free
    if needed > free:
        raise expected("out", f"{needed / 1e6:.1f} MB free beside '{staging.parent}'", f"{free / 1e6:.1f} MB")


def _cut_all(tasks: Sequence[FilmToCut], workers: int, progress: Progress) -> list[tuple[Abnormality, CutResult]]:
    """The abnormalities of every film in order, and what became of each."""
    answered, pool = list[tuple[Abnormality, CutResult]](), None
    if workers > 1:
        pool = ProcessPoolExecutor(min(workers, max(1, len(tasks))), multiprocessing.get_context("spawn"), serve_parent)
    try:
        found = pool.map(cut_film, tasks) if pool else map(cut_film, tasks)
        for done, (task, said) in enumerate(zip(tasks, found, strict=True), 1):
            answered += zip(task.film.abnormalities, said, strict=True)
            progress("cutting films", done, len(tasks))
    except BrokenProcessPool:
        ended = f"{workers}, one of which ended (out of memory?); fewer need less"
        raise expected("workers", "as many as the memory holds", ended) from None
    finally:
        if pool is not None:
            pool.shutdown(cancel_futures=True)
    return answered


def _write(
    whole: Path,
    tasks: Sequence[FilmToCut],
    kept: Sequence[tuple[Abnormality, CutResult]],
    settings: IngestSettings,
    odd: bool,
) -> dict[str, dict[str, int]]:
    """The data directory's arrays, and how many abnormalities of each type it has in each split."""
    shutil.rmtree(whole, ignore_errors=True)
    whole.mkdir()
    counts: dict[str, dict[str, int]] = {}
    for split, stem in SPLITS.items():
        files = [task.file for task in tasks if task.film.abnormalities[0].split == split]
        mine = [(one, answer) for one, answer in kept if one.split == split]
        if mine:
            types = [one.type for one, _ in mine]
            counts[split] = {name: types.count(kind) for kind, name in TYPES.items()}
            groups = pd.DataFrame([_describe(one, answer) for one, answer in mine])
            groups = groups if odd else groups.drop(columns=_OF_ODD)
            write_split(whole, stem, settings.cut.size, types, groups, map(read_patches, files))
    return counts


def _write_facts(whole: Path, made: Ingested, settings: IngestSettings, odd: bool) -> None:
    """What stands beside the arrays: how they were made, what was left out, and whose they are."""
    reasons = dict(sorted(Counter(entry.reason for entry in made.left_out).items()))
    located = {"locate": settings.cut.locate} if odd else {}
    said = {**_said(settings), **located, "counts": made.counts, "left_out": reasons}
    (whole / PREPARED_FILE).write_text(json.dumps(said, indent=1) + "\n", encoding="utf-8")
    with (whole / LEFT_OUT_FILE).open("w", encoding="utf-8", errors="backslashreplace", newline="") as file:
        rows = csv.DictWriter(file, [f.name for f in fields(LeftOut)], lineterminator="\n")
        rows.writeheader()
        rows.writerows(asdict(entry) for entry in made.left_out)
    if made.synthetic:
        content = {"generator": "mammo_mlflow prepare", "size": settings.cut.size, "note": NOTE}
        (whole / PHANTOM_FILE).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    else:
        (whole / ATTRIBUTION_FILE).write_text(ATTRIBUTION, encoding="utf-8")


def _said(settings: IngestSettings) -> dict[str, object]:
    """What `prepare.json` says of how a directory was made; it has `locate` too where that made a difference."""
    others = asdict(settings)
    cut = others.pop("cut")
    del cut["locate"]
    return {"generator": "mammo_mlflow prepare", "version": VERSION, **cut, **others}


def _describe(one: Abnormality, answer: CutResult) -> dict[str, object]:
    """A row of a groups file."""
    return {
        "patient_id": one.patient,
        "side": one.side,
        "view": one.view,
        "abnormality_id": one.number,
        **{name: getattr(one, name) for name in _GROUPS},
        "box": answer.box,
        "baseline_side": answer.side,
        "baseline_box": answer.baseline_box,
        "unmarked": answer.unmarked,
        "located": answer.located,
        "score": "" if answer.score is None else f"{answer.score:.4f}",
        "stray": answer.stray,
    }


def _nothing(source: Path, rows: int, left_out: Sequence[LeftOut]) -> UserError:
    """No patch at all: say what most rows lack, with an example."""
    reasons = Counter(entry.reason for entry in left_out).most_common(4)
    counted = ", ".join(f"{count} {reason}" for reason, count in reasons)
    first = next(entry for entry in left_out if entry.reason == reasons[0][0])
    example = f"such as {first.abnormality or first.file}: {first.detail}"
    return expected(f"source: {source}", "films and masks of the rows", f"none of {rows}: {counted} ({example})")
