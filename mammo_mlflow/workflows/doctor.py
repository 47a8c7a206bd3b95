"""The command `doctor`: look at everything that commands need, a line for each finding, and mend what is safe."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path

from packaging.requirements import Requirement

from mammo_mlflow.backbones import PAPER_BACKBONES
from mammo_mlflow.commands.doctor import DoctorOptions
from mammo_mlflow.errors import UserError
from mammo_mlflow.files import default_cache
from mammo_mlflow.findings import BROKEN, FINE, ODD, Finding
from mammo_mlflow.jobs.cache import Cache
from mammo_mlflow.jobs.devices import find_devices
from mammo_mlflow.models.weights import find_weights
from mammo_mlflow.search.checkup import check_studies
from mammo_mlflow.terminal import say
from mammo_mlflow.tracking.checkup import check_tracking
from mammo_mlflow.tracking.store import open_writer, store_folder
from mammo_mlflow.tracking.undelivered import UNDELIVERED, kept_writes
from mammo_mlflow.workflows.places import storage_url
from mammo_mlflow.workflows.workbench import left_scratch, remove_scratch

PACKAGE = "mammo-mlflow"
SHOWN = ("mlflow", "optuna", "keras", "tensorflow", "jax", "ray")
"""The packages whose versions are shown; where one is missing that need not be there, it is left out."""
LITTLE_GB, TOO_LITTLE_GB = 5.0, 0.5
"""Free space that is odd, and that is too little for any command."""


def run(options: DoctorOptions) -> int:
    """Run `doctor`; return 1 where something is broken, and stays so, else 0."""
    cache = Path(options.cache_dir).expanduser() if options.cache_dir else default_cache()
    broken = mended = 0
    for finding in _findings(cache, storage_url(options.storage)):
        if options.fix and finding.fix is not None:
            finding.fix()
            mended += 1
            say(f"{'mended':6}  {finding.where}: {finding.found}")
            continue
        broken += finding.level == BROKEN
        say(finding.line)
    said = f"{broken} broken" if broken else "nothing is broken"
    say(f"{said}{f', {mended} mended' if mended else ''}")
    return 1 if broken else 0


def _findings(cache: Path, storage: str) -> Iterator[Finding]:
    yield from _versions()
    yield from _devices()
    yield from _weights()
    yield from _cache(cache)
    yield from check_tracking()
    yield from check_studies(storage)
    for name, folder in {"cache": cache, "store": store_folder()}.items():
        yield _room(f"disk of the {name}", folder)


def _versions() -> Iterator[Finding]:
    """Look for packages that are missing or of a version that this one does not work with."""
    wrong = []
    for text in importlib.metadata.requires(PACKAGE) or ():
        need = Requirement(text)
        if need.marker is not None and not need.marker.evaluate({"extra": ""}):
            continue
        try:
            found = importlib.metadata.version(need.name)
        except importlib.metadata.PackageNotFoundError:
            found = "none"
        if found == "none" or not need.specifier.contains(found, prereleases=True):
            wrong.append(f"{need.name} {found} (wanted {need.specifier})")
    shown = [f"Python {platform.python_version()}"]
    for name in (PACKAGE, *SHOWN):
        with suppress(importlib.metadata.PackageNotFoundError):
            shown.append(f"{name} {importlib.metadata.version(name)}")
    yield Finding(FINE, "versions", ", ".join(shown))
    if wrong:
        yield Finding(BROKEN, "packages", ", ".join(wrong), f"pip install -U {PACKAGE}, or pip install -e .")


def _devices() -> Iterator[Finding]:
    try:
        yield Finding(FINE, "devices", find_devices().line.removeprefix("devices: "))
    except UserError as problem:
        yield Finding(BROKEN, "devices", str(problem), "--devices cpu computes on the processor")


def _weights() -> Iterator[Finding]:
    """Look which weights a command would take for each backbone, without a download."""
    before = os.environ.get("MAMMO_OFFLINE")
    os.environ["MAMMO_OFFLINE"] = "1"
    try:
        for backbone in PAPER_BACKBONES:
            where = f"weights of {backbone}"
            try:
                found = find_weights(backbone, "imagenet", phantom=False)
            except UserError as problem:
                damaged = "no ImageNet weights" not in str(problem)
                fetched = (
                    "a command downloads them where there is a network; else MAMMO_WEIGHTS_DIR names a folder of them"
                )
                said = str(problem) if damaged else "none at hand"
                yield Finding(BROKEN if damaged else ODD, where, said, "remove the file" if damaged else fetched)
                continue
            kind = {"int8": "ImageNet's, rounded to int8", "file": "ImageNet's, in full"}.get(found.kind, found.kind)
            yield Finding(FINE, where, f"{kind}, from {found.source}")
    finally:
        os.environ.pop("MAMMO_OFFLINE")
        if before is not None:
            os.environ["MAMMO_OFFLINE"] = before


def _cache(root: Path) -> Iterator[Finding]:
    where = f"cache {root}"
    if not root.exists():
        yield Finding(FINE, where, "none yet", "the first command makes it")
        return
    try:
        cache = Cache(root)
    except UserError as problem:
        yield Finding(BROKEN, where, str(problem), "set MAMMO_CACHE_DIR")
        return
    yield Finding(FINE, where, f"{cache.size() / 1e9:.2f} GB of activations (cache_limit_gb is {cache.limit / 1e9:g})")
    if partial_entries := cache.partial():
        found = f"{len(partial_entries)} entries half made"
        yield Finding(ODD, where, found, "doctor --fix removes those of dead processes", cache.remove_partial)
    for folder in left_scratch(cache.root):
        advice = "doctor --fix removes it, as the next command does"
        yield Finding(
            ODD, where, f"{folder.name} was left by a killed command", advice, partial(remove_scratch, folder)
        )
    if kept := kept_writes(root / UNDELIVERED):
        found = f"what {len(kept)} commands could not deliver to a tracking server"
        advice = "the next command on that server delivers it; doctor --fix does so now"
        yield Finding(ODD, where, found, advice, partial(open_writer, {}, root))


def _room(where: str, folder: Path) -> Finding:
    there = next(one for one in (folder, *folder.absolute().parents) if one.exists())
    free = shutil.disk_usage(there).free / 1e9
    level = BROKEN if free < TOO_LITTLE_GB else ODD if free < LITTLE_GB else FINE
    advice = "" if level == FINE else "make room, or set MAMMO_CACHE_DIR or MLFLOW_TRACKING_URI to another disk"
    return Finding(level, where, f"{free:.1f} GB free", advice)
