"""Write a publication: one directory of card, checklists, tables, figures, model and environment, with every sha256."""

from __future__ import annotations

import csv
import importlib.metadata
import importlib.util
import json
import math
import platform
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from mammo_mlflow import __version__
from mammo_mlflow.data.cbis_ddsm.ingest import ATTRIBUTION, ATTRIBUTION_FILE
from mammo_mlflow.errors import UserError, expected
from mammo_mlflow.estimate import HIGH, LOW, Estimate
from mammo_mlflow.experiment import RESULTS_VERSION
from mammo_mlflow.files import file_sha256
from mammo_mlflow.names import Artifact, Metric, Tag
from mammo_mlflow.publication.answers import CLAIM, TRIPOD
from mammo_mlflow.publication.card import CARD, CardContents, model_card
from mammo_mlflow.publication.checklists import ChecklistItem, answered, checklist_page
from mammo_mlflow.publication.crate import write_crate
from mammo_mlflow.publication.manifest import METADATA_FILE
from mammo_mlflow.publication.privacy import OWN, Pseudonyms, copy_model, publishable
from mammo_mlflow.publication.published_experiment import FILE, FORMAT, PublishedExperiment
from mammo_mlflow.publication.stored_values import in_words, phantom_settings, repeating_command, stored_values
from mammo_mlflow.tracking.lineage import Lineage, RunRecord
from mammo_mlflow.tracking.results import Client, fetch
from mammo_mlflow.wording import no_formula, scrubbed

PACKAGES = ("huggingface_hub", "rocrate")
"""The packages of the extra `publish`."""
OUT_OF_FOLD, TEST, FOLDS, SCORES = "out_of_fold.csv", "test.csv", "folds.csv", "scores.csv"
"""The tables, in the folder `tables`."""
PATCHES = "patches.png"
"""The figure that shows patches."""
FIGURES = (
    *("answer_sets", "calibration", "calibration_oof", "classes", "comparison", "comparison_roc", "confusion"),
    *("confusion_threshold", "disagreement", "final_fit", "folds", "members_joining", "methods", "roc", "roc_folds"),
    "roc_members",
)
"""The figures that show no patch."""
_TOLD = (Artifact.THRESHOLD, Artifact.RECALIBRATION, Artifact.METHODS, Artifact.WEIGHTS)
_TAGS = (
    *(Tag.TASK, Tag.FAMILY, Tag.BACKBONE, Tag.UNFROZEN, Tag.PRESET, Tag.CONTROL, Tag.DATA_SHA256, Tag.TEST_SHA256),
    *(Tag.FOLDS_SHA256, Tag.WEIGHTS, Tag.WEIGHTS_SOURCE, Tag.WEIGHTS_SHA256, Tag.KERAS_BACKEND, Tag.DEVICE),
    *(Tag.DEVICE_NAME, Tag.PHANTOM, Tag.KEY, Tag.MEMBERS, Tag.METHOD, Tag.FILES_SHA256),
)
_INTERVAL_END = re.compile(rf"({LOW}|{HIGH})$")


@dataclass(frozen=True, kw_only=True)
class Choices:
    """What goes into a publication: patients' own names, pixels, and the model's files, each or not."""

    identities: bool
    pixels: bool
    model: bool


def check_packages() -> None:
    """Check that the packages of the extra are there. Raises `UserError`."""
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        wanted = "the extra publish (pip install 'mammo-mlflow[publish]'; in a clone pip install -e '.[publish]')"
        raise expected("publish", wanted, f"no {' and no '.join(missing)}")


def write_publication(
    client: Client, lineage: Lineage, model: Path, folder: Path, scratch: Path, choices: Choices
) -> list[ChecklistItem]:
    """Write the publication of a model into the new folder `folder`, and return the answered checklists.

    `model` is the folder of its files, checked. Files of the store are fetched into `scratch`. Raises `UserError` where
    the store lacks the test predictions.
    """
    folder.mkdir()
    judged, final, note = lineage.cross_validation, lineage.final, lineage.version.disclosure.note or ""
    tables = {name: fetch(client, run.id, name, scratch) for run, name in _tables(lineage)}
    for record, name in _tables(lineage):
        if tables[name] is None and (name == Artifact.TEST or name in record.artifacts):
            raise expected("model", f"one whose {name} is in the store", f"{lineage.version} without it")
    frames = {name: pd.read_parquet(path) for name, path in tables.items() if path is not None}
    if Artifact.OOF in frames and judged.params.get("tta", "none") != "none":
        frames[Artifact.OOF] = _with_own_answers(client, lineage, frames[Artifact.OOF], scratch)
    values = stored_values(lineage, model, frames.get(Artifact.FOLDS))
    _write_tables(folder / "tables", lineage, frames, choices)
    for run in dict.fromkeys((judged.id, final.id)):
        artifacts = (judged if run == judged.id else final).artifacts
        for name in artifacts:
            _copy(client, run, name, folder, scratch, choices.pixels)
    if lineage.decision is not None and Artifact.GATES in lineage.decision.artifacts:
        _place(fetch(client, lineage.decision.id, Artifact.GATES, scratch), folder / "tables" / Artifact.GATES)
    if choices.model:
        copy_model(model, folder / "model", choices.pixels)
    items = answered(values)
    _write_checklists(folder / "checklists", items, note)
    _write_environment(folder / "environment")
    experiment = _experiment(lineage)
    _text(folder / FILE, experiment.model_dump_json(indent=1) + "\n")
    attribution = final.tags.get(Tag.PHANTOM) != "true"
    if attribution:
        said = "" if "collection" in values else "Where the patches are of CBIS-DDSM:\n\n"
        _text(folder / ATTRIBUTION_FILE, said + ATTRIBUTION)
    sizes = {"model": _bytes(folder / "model")} if choices.model else {}
    sizes["all other files"] = _bytes(folder) - sum(sizes.values())
    contents = CardContents(left_out=_left_out(choices, bool(lineage.folds)), sizes=sizes, attribution=attribution)
    _text(folder / CARD, model_card(lineage, values, contents))
    known = "collection" in values
    write_crate(
        folder, str(lineage.version), note or str(lineage.version), experiment.files, experiment.commands[0], known
    )
    return items


def _tables(lineage: Lineage) -> list[tuple[RunRecord, str]]:
    judged = lineage.cross_validation
    return [(judged, Artifact.OOF), (judged, Artifact.FOLDS), (lineage.final, Artifact.TEST)]


def _with_own_answers(client: Client, lineage: Lineage, oof: pd.DataFrame, scratch: Path) -> pd.DataFrame:
    """The out-of-fold predictions, beside them each fold's own, which are not averaged over views."""
    own = []
    for run in lineage.folds.values():
        path = fetch(client, run.id, f"{Artifact.FIT}/{Artifact.PREDICTIONS}", scratch)
        if path is not None:
            own.append(pd.read_parquet(path)[["patch", "probability"]])
    if not own:
        return oof
    return oof.merge(pd.concat(own).rename(columns={"probability": OWN}), on="patch", how="left")


def _write_tables(folder: Path, lineage: Lineage, frames: dict[str, pd.DataFrame], choices: Choices) -> None:
    folder.mkdir()
    pseudonyms = None if choices.identities else Pseudonyms()
    for name, target in ((Artifact.OOF, OUT_OF_FOLD), (Artifact.FOLDS, FOLDS), (Artifact.TEST, TEST)):
        if name in frames:
            publishable(frames[name], pseudonyms).to_csv(folder / target, index=False)
    rows = []
    for run, prefixes in ((lineage.cross_validation, (Metric.OOF,)), (lineage.final, (Metric.TEST,))):
        for name in sorted(run.metrics):
            if name.startswith(prefixes) and not _INTERVAL_END.search(name):
                one = Estimate.read(name, run.metrics, run.tags)
                ends = [None if math.isnan(end) else end for end in (one.low, one.high)]
                rows.append((name, one.value, *ends, one.reason, run.id))
    named = ["score", "value", "low", "high", "why_no_interval", "run"]
    pd.DataFrame(rows, columns=named).drop_duplicates(["score", "run"]).to_csv(folder / SCORES, index=False)


def _copy(client: Client, run: str, name: str, folder: Path, scratch: Path, pixels: bool) -> None:
    """Copy an artifact that shows nobody: a figure, or one of the small files beside the tables."""
    stem, figure = Path(name).stem, name.startswith(f"{Artifact.FIGURES}/")
    if figure and (stem in FIGURES or (pixels and name.endswith(PATCHES))):
        _place(fetch(client, run, name, scratch), folder / name)
    elif name in _TOLD:
        _place(fetch(client, run, name, scratch), folder / "tables" / name)


def _place(found: Path | None, target: Path) -> None:
    if found is None:
        raise expected("publish", f"the artifact {target.name}, which the store lists", "none")
    target.parent.mkdir(exist_ok=True)
    if target.suffix == ".png":
        target.write_bytes(found.read_bytes())
    else:
        _text(target, found.read_text(encoding="utf-8"))


def _write_checklists(folder: Path, items: Sequence[ChecklistItem], note: str) -> None:
    folder.mkdir()
    for name, file in ((CLAIM, "claim_2024.md"), (TRIPOD, "tripod_ai.md")):
        _text(folder / file, checklist_page(name, items, note))
    with (folder / "checklists.csv").open("w", encoding="utf-8", newline="") as file_:
        writer = csv.writer(file_)
        writer.writerow(["checklist", "item", "section", "topic", "answer", "authors_must_say", "sources"])
        for one in items:
            rest = one.rest or ("" if one.answer else one.topic)
            row = (*one[:4], one.answer, rest, in_words(one.sources))
            writer.writerow([no_formula(scrubbed(cell)) for cell in row])


def _write_environment(folder: Path) -> None:
    """Write what is installed where this is published, by name and version, and on what system."""
    folder.mkdir()
    installed = {}
    for one in importlib.metadata.distributions():
        with suppress(FileNotFoundError):  # the folder that a package left behind may have no metadata
            if name := one.metadata["Name"]:
                installed[name] = one.version
    lock = "".join(f"{name}=={installed[name]}\n" for name in sorted(installed, key=str.lower))
    _text(folder / "requirements.txt", lock)
    system = {"python": platform.python_version(), "system": platform.system(), "machine": platform.machine()}
    _text(folder / "environment.json", json.dumps({"mammo_mlflow": __version__, **system}, indent=1) + "\n")


def _experiment(lineage: Lineage) -> PublishedExperiment:
    judged, final, version = lineage.cross_validation, lineage.final, lineage.version
    files = lineage.described.data.get("files")
    try:
        command = repeating_command(lineage)
    except UserError as problem:
        raise expected("model", "one whose parameters are an experiment of this version", str(problem)) from None
    return PublishedExperiment(
        format=FORMAT,
        version=__version__,
        results_version=RESULTS_VERSION,
        model=str(version),
        family=version.tags.get(Tag.FAMILY, ""),
        parameters={name: scrubbed(value) for name, value in judged.params.items()},
        tags={
            tag: scrubbed({**final.tags, **version.tags}[tag]) for tag in _TAGS if tag in {**final.tags, **version.tags}
        },
        folds={name: run.tags.get(Tag.KEY, "") for name, run in lineage.folds.items()},
        files={str(name): str(sha) for name, sha in files.items()} if isinstance(files, dict) else {},
        phantom=phantom_settings(lineage),
        decided_at=float(version.tags.get(Tag.THRESHOLD, 0.5)),
        commands=[command, "python -m mammo_mlflow verify --publication DIR"],
    )


def _left_out(choices: Choices, folds: bool) -> list[str]:
    said = []
    if not choices.identities:
        said.append(
            "Patients and lesions have pseudonyms, made with a random salt that was not kept. Who has the data finds "
            "the patient of a row by its number in them."
        )
    if not choices.pixels:
        said.append("No pixels: no figure of patches, and the model's input examples are zeros of the same shape.")
    if not choices.model:
        said.append("The model's files are not here.")
    if folds:
        said.append("The models of the folds are not here: `verify` trains one again.")
    return said


def _text(path: Path, text: str) -> None:
    path.write_text(scrubbed(text), encoding="utf-8")


def _bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def crate_sha256(folder: Path) -> str:
    """The sha256 of a publication's list of files, which stands for the whole publication."""
    return file_sha256(folder / METADATA_FILE)
