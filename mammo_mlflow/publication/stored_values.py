"""The values that checklists and model card are made of, each with where it stands in the store."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from mammo_mlflow.data.cbis_ddsm.ingest import ATTRIBUTION_FILE
from mammo_mlflow.data.patches import TASKS
from mammo_mlflow.data.phantom import PhantomSettings, settings_from_name
from mammo_mlflow.estimate import HIGH, LOW, Estimate
from mammo_mlflow.experiment import build_from_text, parameters, that_move
from mammo_mlflow.names import Artifact, Metric, Tag
from mammo_mlflow.tracking.lineage import Lineage, RunRecord

METRIC, PARAMETER, TAG, ARTIFACT, DATA = "metric", "parameter", "tag", "artifact", "data set"
VERSION_TAG, MODEL_FILE = "version tag", "file"
"""The kinds of sources; those of a run first."""
SHOWN = ("roc_auc", "accuracy", "balanced_accuracy", "sensitivity", "specificity", "brier")
"""The scores that card and checklists show, by the names of `evaluation.metrics`."""
CALIBRATION = ("calibration_error", "calibration_slope", "calibration_intercept")
_PREPARING = ("margin", "interpolation", "baseline_side", "tissue", "locate", "size")


class Source(NamedTuple):
    """Where a value stands: the id of a run (or `name/version` of a registered model), what it is there, its name."""

    of: str
    kind: str
    name: str


class StoredValue(NamedTuple):
    """A value as text, with its sources in the store."""

    text: str
    sources: tuple[Source, ...]


def in_words(sources: Iterable[Source]) -> str:
    """Sources as checklists have them: `metric test_roc_auc, test_accuracy of run 3f…; tag … of model NAME/3`."""
    found: dict[tuple[str, str], list[str]] = {}
    for one in sources:
        found.setdefault((one.of, one.kind), []).append(one.name)
    holders = {VERSION_TAG: "model", MODEL_FILE: "model"}
    return "; ".join(
        f"{kind} {', '.join(names)} of {holders.get(kind, 'run')} {of}" for (of, kind), names in found.items()
    )


def stored_values(lineage: Lineage, model: Path | None, folds: pd.DataFrame | None) -> dict[str, StoredValue]:
    """Gather what the store knows of a model, by name; what it does not know is left out.

    `model` is the folder of the model's files, `folds` the table `folds.parquet`; None where they are not at hand.
    """
    final, judged = lineage.final, lineage.cross_validation
    made = _of_tags(lineage) | _of_data(lineage.described) | _of_settings(judged)
    if folds is not None:
        made["levels"] = StoredValue(_levels(folds), (Source(judged.id, ARTIFACT, Artifact.FOLDS),))
    for run, prefix in (
        (judged, Metric.OOF),
        (final, Metric.TEST),
        (final, Metric.BY_PATIENT),
        (final, Metric.BY_LESION),
    ):
        made |= _scores(run, prefix)
    counts = [f"{Metric.TEST}{name}" for name in ("true_positive", "false_negative", "true_negative", "false_positive")]
    if all(name in final.metrics for name in counts):
        said = ", ".join(
            f"{final.metrics[name]:.0f} {name.removeprefix(Metric.TEST).replace('_', ' ')}" for name in counts
        )
        made["confusion"] = StoredValue(
            f"{said} (decided at 0.5)", tuple(Source(final.id, METRIC, one) for one in counts)
        )
    for name in (Metric.TEST_PATIENTS, Metric.TEST_LESIONS, Metric.THRESHOLD):
        if name in final.metrics:
            made[name] = StoredValue(f"{final.metrics[name]:g}", (Source(final.id, METRIC, name),))
    if lineage.folds:
        said = f"{len(lineage.folds)} models of folds ({', '.join(lineage.folds)})"
        made["models"] = StoredValue(said, tuple(Source(one.id, TAG, Tag.FIT) for one in lineage.folds.values()))
    made |= _of_ingest(lineage.ingest) | _of_decision(lineage)
    packages = None if model is None else model / "requirements.txt"
    if packages is not None and packages.is_file():
        said = ", ".join(packages.read_text(encoding="utf-8").split())
        made["packages"] = StoredValue(said, (Source(_spelled(lineage), MODEL_FILE, packages.name),))
    return made


def _spelled(lineage: Lineage) -> str:
    return f"{lineage.version.name}/{lineage.version.number}"


def _of_tags(lineage: Lineage) -> dict[str, StoredValue]:
    """The tags of the final run and of the version by their names without prefix, some in words."""
    final, version = lineage.final, lineage.version
    found = {
        tag.rpartition(".")[2]: StoredValue(final.tags[tag], (Source(final.id, TAG, tag),))
        for tag in (
            *(Tag.FAMILY, Tag.BACKBONE, Tag.UNFROZEN, Tag.PRESET, Tag.CONTROL, Tag.DATA_SHA256, Tag.TEST_SHA256),
            *(Tag.FOLDS_SHA256, Tag.WEIGHTS, Tag.WEIGHTS_SOURCE, Tag.WEIGHTS_SHA256, Tag.KERAS_BACKEND, Tag.DEVICE),
            *(Tag.INTERVALS, Tag.NO_INTERVAL, Tag.RECALIBRATED, Tag.ANSWER_SETS, Tag.MEMBERS, Tag.METHOD, Tag.VERDICT),
            *(Tag.TEST_VERDICT, Tag.SINGLE_VIEWS, Tag.STUDY),
        )
        if final.tags.get(tag)
    }
    task = TASKS[version.tags[Tag.TASK]]
    found["task"] = StoredValue(f"{task[1]} from {task[0]}", (Source(_spelled(lineage), VERSION_TAG, Tag.TASK),))
    for name, tag in (("files", Tag.FILES_SHA256), ("compared", Tag.COMPARED)):
        if tag in version.tags:
            found[name] = StoredValue(version.tags[tag], (Source(_spelled(lineage), VERSION_TAG, tag),))
    if final.tags.get(Tag.PHANTOM) == "true":
        said = "synthetic patches made by a program (a phantom); no figure is a medical result"
        found["phantom"] = StoredValue(said, (Source(final.id, TAG, Tag.PHANTOM),))
    return found


def _of_data(described: RunRecord) -> dict[str, StoredValue]:
    """The data set's sizes, classes and patients, as its description beside the run has them."""
    found = {}
    for name in ("image_size", "abnormalities", "classes", "patients"):
        value = described.data.get(name)
        if isinstance(value, Mapping):
            said = "; ".join(f"{split}: {_counted(counts)}" for split, counts in value.items() if counts is not None)
        else:
            said = "" if value is None else str(value)
        if said:
            found[name] = StoredValue(said, (Source(described.id, DATA, name),))
    warnings = described.data.get("warnings")
    if isinstance(warnings, list):
        # examples name rows and patients
        said = "; ".join(re.sub(r" \(first: .*\)", "", str(one)) for one in warnings) or "none"
        found["warnings"] = StoredValue(said, (Source(described.id, DATA, "warnings"),))
    return found


def _counted(counts: object) -> str:
    return ", ".join(f"{n} {name}" for name, n in counts.items()) if isinstance(counts, Mapping) else str(counts)


def _of_settings(run: RunRecord) -> dict[str, StoredValue]:
    """The parameters of the experiment, each by its name, and all that train it together as `settings`."""
    found = {name: StoredValue(value, (Source(run.id, PARAMETER, name),)) for name, value in run.params.items()}
    family = run.params.get("family")
    named = [item.name for item in parameters(family, "training")] if family else []
    listed = [name for name in named if name in run.params]
    if listed:
        said = ", ".join(f"{name}={run.params[name]}" for name in listed)
        found["settings"] = StoredValue(said, tuple(Source(run.id, PARAMETER, name) for name in listed))
    return {f"set_{name}": value for name, value in found.items()}


def _levels(folds: pd.DataFrame) -> str:
    """Whether patients stand in one fold alone, by the table of the folds."""
    if "patient_id" not in folds:
        return "patients are not known, so that views of one may stand in two folds"
    spread = int((folds.groupby("patient_id")["fold"].nunique() > 1).sum())
    if spread:
        return f"{spread} of {folds['patient_id'].nunique()} patients stand in more than one fold"
    return f"each of the {folds['patient_id'].nunique()} training patients stands in one fold alone"


def _scores(run: RunRecord, prefix: str) -> dict[str, StoredValue]:
    """A run's scores that begin with `prefix` as one value: each with its interval, or why it has none."""
    parts, sources = [], []
    for name in (*SHOWN, *CALIBRATION):
        if (full := f"{prefix}{name}") in run.metrics:
            one = Estimate.read(full, run.metrics, run.tags)
            parts.append(f"{name} {one}")
            sources += [Source(run.id, METRIC, f"{full}{end}") for end in ("", *((LOW, HIGH) if one.bounded else ()))]
    return {f"{prefix}scores": StoredValue("; ".join(parts), tuple(sources))} if parts else {}


def _of_ingest(ingest: RunRecord | None) -> dict[str, StoredValue]:
    """How patches were cut from CBIS-DDSM, what was left out, and whose they are."""
    if ingest is None:
        return {}
    found = {}
    listed = [name for name in _PREPARING if name in ingest.params]
    if listed:
        said = ", ".join(f"{name}={ingest.params[name]}" for name in listed)
        found["cutting"] = StoredValue(said, tuple(Source(ingest.id, PARAMETER, name) for name in listed))
    left = [name for name in ingest.metrics if name.startswith("left_out_")]
    if left:
        said = ", ".join(f"{ingest.metrics[one]:.0f} {one.removeprefix('left_out_').replace('_', ' ')}" for one in left)
        found["left_out"] = StoredValue(said, tuple(Source(ingest.id, METRIC, one) for one in left))
    if ATTRIBUTION_FILE in ingest.artifacts:
        source = Source(ingest.id, ARTIFACT, ATTRIBUTION_FILE)
        found["collection"] = StoredValue("CBIS-DDSM (Lee et al. 2017), CC BY 3.0", (source,))
    return found


def _of_decision(lineage: Lineage) -> dict[str, StoredValue]:
    """The decision that made the version champion, with its gates."""
    decision, found = lineage.decision, dict[str, StoredValue]()
    if decision is not None and Tag.DECISION in decision.tags:
        found["decision"] = StoredValue(decision.tags[Tag.DECISION], (Source(decision.id, TAG, Tag.DECISION),))
        if Artifact.GATES in decision.artifacts:
            found["gates"] = StoredValue(Artifact.GATES, (Source(decision.id, ARTIFACT, Artifact.GATES),))
    return found


def phantom_settings(lineage: Lineage) -> PhantomSettings | None:
    """The settings of the phantom that a model was trained on; None for other data."""
    phantom = lineage.final.tags.get(Tag.PHANTOM) == "true"
    return settings_from_name(Path(lineage.described.data_name)) if phantom else None


def repeating_command(lineage: Lineage) -> str:
    """The command line that makes the model again, on the phantom it was made of or on a directory `DIR`."""
    params, settings = lineage.cross_validation.params, phantom_settings(lineage)
    family = lineage.version.tags.get(Tag.FAMILY, "")
    words = {name: value for name, value in params.items() if name != "family"}
    if family == "texture":  # a control, which has no command of its own
        kept = ("task", *that_move("judging", "final", "place", family="texture"))
        words = {name: words[name] for name in kept if name in words} | {"control": "texture"}
        family = "controls"
    if family != "ensemble":
        build_from_text(params)  # or it is no experiment of this project
    if settings is None:
        words["data"] = "DIR"
    else:
        words |= settings.options
    given = " ".join(f"--{name.replace('_', '-')} {shlex.quote(value)}" for name, value in words.items())
    return f"python -m mammo_mlflow {family} {given}"
