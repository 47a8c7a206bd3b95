"""Turn published CBIS-DDSM into a data directory, film by film; an interrupted ingest can be continued."""

from __future__ import annotations

import csv
import filecmp
import json
import multiprocessing
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

import pandas as pd

from mammo_mlflow.data.arrays import write_split
from mammo_mlflow.data.cbis_ddsm.collection import Film, Progress, find_dicom, match_films, read_headers
from mammo_mlflow.data.cbis_ddsm.descriptions import (
    Abnormality,
    Descriptions,
    LeftOut,
    read_descriptions,
    shared_patients,
)
from mammo_mlflow.data.cbis_ddsm.films import VERSION, CutResult, FilmToCut, cut_film, read_patches
from mammo_mlflow.data.cbis_ddsm.settings import IngestSettings
from mammo_mlflow.data.patches import PHANTOM_FILE, PREPARED_FILE, SPLITS, TYPES
from mammo_mlflow.errors import UserError, expected
from mammo_mlflow.files import PARTIAL, file_sha256, locked, read_small, tree_sha256
from mammo_mlflow.processes import serve_parent

FILMS, WHOLE, LOCK = "films", "whole", "lock"
"""The names in the staging folder: finished films, the finished directory, the lock file."""
LEFT_OUT_FILE, ATTRIBUTION_FILE = "left_out.csv", "ATTRIBUTION.txt"
ATTRIBUTION = """Patches of CBIS-DDSM (Curated Breast Imaging Subset of DDSM), cut and resized from its films; licence:
Creative Commons Attribution 3.0 Unported (CC BY 3.0), https://creativecommons.org/licenses/by/3.0/

Lee RS, Gimenez F, Hoogi A, Miyake KK, Gorovoy M, Rubin DL. A curated mammography data set for use in computer-aided
detection and diagnosis research. Scientific Data 4, 170177 (2017). The Cancer Imaging Archive,
https://doi.org/10.7937/K9/TCIA.2016.7O02S9CY
"""
NOTE = "Cut from films that a program drew: no figure computed from it is a medical result."
_GROUPS = ("density", "shape_or_type", "margins_or_distribution", "assessment", "subtlety", "pathology", "source_file")
_ODD_MASK_COLUMNS = ["located", "score", "stray"]
"""The columns of groups files that say how a box was found; written only where some mask was odd."""


@dataclass(frozen=True, kw_only=True)
class IngestResult:
    """The result of an ingest: `counts` by split and type, the rows and files left out, warnings, a sentence each.

    `films` is the number of films; `synthetic` means that a program drew some. `anew` is false where the same directory
    was there already.
    """

    directory: Path
    counts: dict[str, dict[str, int]]
    left_out: tuple[LeftOut, ...]
    warnings: tuple[str, ...]
    films: int
    synthetic: bool
    anew: bool = False


def look(
    source: Path, out: Path, descriptions: Path, settings: IngestSettings
) -> tuple[Path, list[str], list[LeftOut], Descriptions]:
    """Find what an ingest reads, before it begins: where it writes, DICOM files, closed folders, case descriptions.

    Raises `UserError` where there is nothing to read, or no place to write.
    """
    for name, folder in (("source", source), ("csv", descriptions)):
        if not folder.is_dir():
            raise expected(name, "a directory", f"'{folder}', {'a file' if folder.exists() else 'nothing there'}")
    return (_check_out(out, settings), *find_dicom(source), read_descriptions(descriptions))


def ingest(
    source: Path, out: Path, descriptions: Path, settings: IngestSettings, workers: int, progress: Progress
) -> IngestResult:
    """Make the data directory `out` from the DICOM below `source` and the case descriptions below `descriptions`.

    The same rows and films give the same bytes, whatever their folders, order and the number of `workers` (processes).
    Finished films of an interrupted ingest are kept beside `out`, in `<out>.partial`, and used by the next.

    Raises:
        UserError: there are no descriptions, DICOM files or patches, the disk has no room, `out` holds something else,
            or another ingest is writing it.
    """
    out, names, closed, described = look(source, out, descriptions, settings)
    headers, broken = read_headers(source, names, progress)
    excluded = _excluded_rows(described.abnormalities, settings)
    films, unmatched = match_films(
        described.abnormalities, headers, excluded, lambda header: file_sha256(source / header.file)
    )
    left_out = [*described.left_out, *excluded.values(), *unmatched, *broken, *closed]
    with _staging_folder(out) as staging:
        _check_room(staging, films, settings.crop.size)
        to_cut = [FilmToCut(film, source, staging / FILMS, settings.crop) for film in films]
        answered = _cut_films(to_cut, workers, progress)
        left_out += [LeftOut.of(one, result.reason, result.detail) for one, result in answered if result.place is None]
        left_out.sort(key=lambda entry: (entry.file, entry.row or 0))
        kept = [(one, result) for one, result in answered if result.place is not None]
        if not kept:
            shutil.rmtree(staging / FILMS)
            raise _no_patches_error(source, len(described.abnormalities), left_out)
        odd = any(result.odd for _, result in kept)
        made = IngestResult(
            directory=out,
            counts=_write_arrays(staging / WHOLE, to_cut, kept, settings, odd),
            left_out=tuple(left_out),
            warnings=(*described.warnings, *_baseline_and_mask_warnings([result for _, result in kept])),
            films=len(films),
            synthetic=any(film.header.synthetic for film in films),
        )
        _write_facts(staging / WHOLE, made, settings, odd)
        return replace(made, anew=_publish(staging / WHOLE, out))


def _check_out(out: Path, settings: IngestSettings) -> Path:
    """Resolve `out`: it has to be missing, empty, or made by an ingest with these settings. Raises `UserError`."""
    out = out.resolve()
    if not out.name or out.is_mount():
        raise expected("out", "a directory to make", f"'{out}'")
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return out
    try:
        made = json.loads(read_small(out / PREPARED_FILE))
        differing = [name for name, value in _settings_facts(settings).items() if made[name] != value]
        differing += ["locate"] if made.get("locate", settings.crop.locate) != settings.crop.locate else []
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        raise expected("out", "a directory that is not there yet", f"'{out}', which `prepare` did not make") from None
    if differing:
        found = f"'{out}', made with other parameters ({', '.join(differing)}); it is left as it is"
        raise expected("out", "a directory that is not there yet", found)
    return out


def _publish(whole: Path, out: Path) -> bool:
    """Move the finished directory to `out`; false where the same bytes are there already.

    Raises `UserError` where others are there, which are left as they are.
    """
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
    """Describe how two directories made with the same settings differ: counts if they do, else file names."""
    old, new = (json.loads(read_small(folder / PREPARED_FILE)) for folder in (out, whole))
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


def _baseline_and_mask_warnings(results: Sequence[CutResult]) -> Iterator[str]:
    """Warn of boxes that were found by odd masks, and of baselines that may lie on an abnormality."""
    if odd := [result for result in results if result.odd]:
        found = Counter(result.located for result in odd if result.located != "mask")
        counted = [f"{count} {how}" for how, count in sorted(found.items())]
        stray = sum(bool(result.stray) for result in odd)
        counted += [f"{stray} without stray pixels"] if stray else []
        yield f"{len(odd)} boxes are of odd masks: {', '.join(counted)} (located, score, stray in the groups files)"
    if unsure := sum(bool(result.unmarked) for result in results):
        yield f"{unsure} baselines are on films of which another abnormality has no mask: they may lie on it (unmarked)"


def _excluded_rows(rows: Sequence[Abnormality], settings: IngestSettings) -> dict[str, LeftOut]:
    """The rows that the settings leave out, by PatientID."""
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
def _staging_folder(out: Path) -> Iterator[Path]:
    """Make and lock the staging folder beside `out`; it is removed when the block ends without an error.

    Raises `UserError` where it cannot be made, holds other files, or another process has locked it.
    """
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
    """Raise `UserError` where the disk has no room for all patches twice: those of films, and the joined tensors."""
    patches = 2 * sum(len(film.abnormalities) for film in films)
    kept = sum(file.stat().st_size for file in (staging / FILMS).glob("*.npz"))
    needed, free = 2 * patches * size * size * 2 - kept, shutil.disk_usage(staging).free
    if needed > free:
        raise expected("out", f"{needed / 1e6:.1f} MB free beside '{staging.parent}'", f"{free / 1e6:.1f} MB")


def _cut_films(to_cut: Sequence[FilmToCut], workers: int, progress: Progress) -> list[tuple[Abnormality, CutResult]]:
    """Cut all films in worker processes; the abnormalities in order, each with its result. Raises `UserError`."""
    answered, pool = list[tuple[Abnormality, CutResult]](), None
    if workers > 1:
        pool = ProcessPoolExecutor(
            min(workers, max(1, len(to_cut))), multiprocessing.get_context("spawn"), serve_parent
        )
    try:
        found = pool.map(cut_film, to_cut) if pool else map(cut_film, to_cut)
        for done, (film, results) in enumerate(zip(to_cut, found, strict=True), 1):
            answered += zip(film.film.abnormalities, results, strict=True)
            progress("cutting films", done, len(to_cut))
    except BrokenProcessPool:
        ended = f"{workers}, one of which ended (out of memory?); fewer need less"
        raise expected("workers", "as many as the memory holds", ended) from None
    finally:
        if pool is not None:
            pool.shutdown(cancel_futures=True)
    return answered


def _write_arrays(
    whole: Path,
    to_cut: Sequence[FilmToCut],
    kept: Sequence[tuple[Abnormality, CutResult]],
    settings: IngestSettings,
    odd: bool,
) -> dict[str, dict[str, int]]:
    """Write tensors, labels and groups files into `whole`; the number of abnormalities by split and type."""
    shutil.rmtree(whole, ignore_errors=True)
    whole.mkdir()
    counts: dict[str, dict[str, int]] = {}
    for split, stem in SPLITS.items():
        files = [film.file for film in to_cut if film.film.abnormalities[0].split == split]
        mine = [(one, result) for one, result in kept if one.split == split]
        if mine:
            types = [one.type for one, _ in mine]
            counts[split] = {name: types.count(kind) for kind, name in TYPES.items()}
            groups = pd.DataFrame([_groups_row(one, result) for one, result in mine])
            groups = groups if odd else groups.drop(columns=_ODD_MASK_COLUMNS)
            write_split(whole, stem, settings.crop.size, types, groups, map(read_patches, files))
    return counts


def _write_facts(whole: Path, made: IngestResult, settings: IngestSettings, odd: bool) -> None:
    """Write the files beside the arrays: settings and counts, the table of what was left out, attribution or note."""
    reasons = dict(sorted(Counter(entry.reason for entry in made.left_out).items()))
    located = {"locate": settings.crop.locate} if odd else {}
    said = {**_settings_facts(settings), **located, "counts": made.counts, "left_out": reasons}
    (whole / PREPARED_FILE).write_text(json.dumps(said, indent=1) + "\n", encoding="utf-8")
    with (whole / LEFT_OUT_FILE).open("w", encoding="utf-8", errors="backslashreplace", newline="") as file:
        rows = csv.DictWriter(file, [f.name for f in fields(LeftOut)], lineterminator="\n")
        rows.writeheader()
        rows.writerows(asdict(entry) for entry in made.left_out)
    if made.synthetic:
        content = {"generator": "mammo_mlflow prepare", "size": settings.crop.size, "note": NOTE}
        (whole / PHANTOM_FILE).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    else:
        (whole / ATTRIBUTION_FILE).write_text(ATTRIBUTION, encoding="utf-8")


def _settings_facts(settings: IngestSettings) -> dict[str, object]:
    """The settings as `prepare.json` has them; `locate` is added by the caller only where some mask was odd."""
    others = asdict(settings)
    crop = others.pop("crop")
    del crop["locate"]
    return {"generator": "mammo_mlflow prepare", "version": VERSION, **crop, **others}


def _groups_row(one: Abnormality, result: CutResult) -> dict[str, object]:
    """The row of an abnormality in a groups file."""
    return {
        "patient_id": one.patient,
        "side": one.side,
        "view": one.view,
        "abnormality_id": one.number,
        **{name: getattr(one, name) for name in _GROUPS},
        "box": result.box,
        "baseline_side": result.side,
        "baseline_box": result.baseline_box,
        "unmarked": result.unmarked,
        "located": result.located,
        "score": "" if result.score is None else f"{result.score:.4f}",
        "stray": result.stray,
    }


def _no_patches_error(source: Path, rows: int, left_out: Sequence[LeftOut]) -> UserError:
    """The error for an ingest without a patch: the most frequent reasons, with an example."""
    reasons = Counter(entry.reason for entry in left_out).most_common(4)
    counted = ", ".join(f"{count} {reason}" for reason, count in reasons)
    first = next(entry for entry in left_out if entry.reason == reasons[0][0])
    example = f"such as {first.abnormality or first.file}: {first.detail}"
    return expected(f"source: {source}", "films and masks of the rows", f"none of {rows}: {counted} ({example})")
