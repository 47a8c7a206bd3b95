"""The model card of a publication: the only module that imports huggingface_hub."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mammo_mlflow.data.cbis_ddsm.ingest import ATTRIBUTION
from mammo_mlflow.estimate import Estimate
from mammo_mlflow.names import Metric, Tag
from mammo_mlflow.publication.checklists import AUTHOR, fill
from mammo_mlflow.publication.stored_values import SHOWN, StoredValue, repeating_command
from mammo_mlflow.tracking.lineage import Lineage

CARD = "README.md"
TABLES = {
    Metric.OOF: "out of fold",
    Metric.OOF_BY_LESION: "out of fold by lesion",
    Metric.TEST: "test set",
    f"{Metric.TEST}{Metric.AT_THRESHOLD}": "test set at the threshold",
    Metric.BY_PATIENT: "test set by patient",
    Metric.BY_LESION: "test set by lesion",
}
"""The headings of the columns of scores, by how the names of their metrics begin."""
ABOUT = (
    "It tells {task} on patches of {image_size} pixels a side, which go in as raw 16-bit values.",
    "Family {family}, network {backbone}, unfrozen layers: {unfrozen}.",
    "Initial weights: {weights} ({weights_source}).",
    "An ensemble by {method} of {members}.",
    "Decision threshold {threshold}, by the policy {set_threshold}.",
    "Recalibrated {recalibrated}.",
    "Answer sets: {answer_sets}.",
    "Computed on {device} with Keras on {keras_backend}.",
)
DATA = (
    "The data are {phantom}.",
    "The patches are of {collection}.",
    "Abnormalities: {abnormalities}; patients: {patients}; classes: {classes}.",
    "Cross-validation with folds={set_folds}; {levels}.",
    "Share held out in the place of folds: {set_holdout}.",
    "Sha256 of the training data {data_sha256}, of the test data {test_sha256}.",
)
"""Sentences on a model and on its data, which stand where the store has the values in braces."""
_SETTINGS = ("Settings of the training: {set_settings}.", "Members: {set_members}; method: {set_method}.")


@dataclass(frozen=True, kw_only=True)
class CardContents:
    """What a card tells beside stored values: what was left out, the files' sizes, and whether data are CBIS-DDSM's."""

    left_out: Sequence[str]
    sizes: Mapping[str, int]
    attribution: bool


def model_card(lineage: Lineage, values: Mapping[str, StoredValue], contents: CardContents) -> str:
    """The text of the model card: metadata as the Hugging Face Hub reads them, and the page."""
    from huggingface_hub import EvalResult, ModelCard, ModelCardData

    version, final = lineage.version, lineage.final
    phantom = final.tags.get(Tag.PHANTOM) == "true"
    results = []
    for name in SHOWN:
        one = Estimate.read(f"{Metric.TEST}{name}", final.metrics, final.tags)
        if one.value == one.value:
            results.append(
                EvalResult(
                    task_type="image-classification",
                    dataset_type="phantom" if phantom else "mammography-patches",
                    dataset_name=lineage.described.data_name if phantom else "mammography patches",
                    dataset_split="test",
                    dataset_revision=final.tags.get(Tag.TEST_SHA256),
                    metric_type=name,
                    metric_value=round(one.value, 6),
                    metric_args={"interval_95": [round(one.low, 6), round(one.high, 6)]} if one.bounded else None,
                )
            )
    marks = [fact.name for fact in version.disclosure if fact.name]
    data = ModelCardData(
        library_name="keras",
        pipeline_tag="image-classification",
        tags=["mammography", "mlflow", version.tags[Tag.TASK], *(mark.replace(" ", "-") for mark in marks)],
        model_name=version.name,
        eval_results=results or None,
    )
    page = "\n".join(_page(lineage, values, contents))
    return str(ModelCard(f"---\n{data.to_yaml()}\n---\n\n{page}\n"))


def _page(lineage: Lineage, values: Mapping[str, StoredValue], contents: CardContents) -> list[str]:
    version, final = lineage.version, lineage.final
    note = version.disclosure.note
    lines = [f"# {version}", "", *([f"**{note}**", ""] if note else []), *said(ABOUT, values), ""]
    lines += ["## Scores", "", f"With intervals of 95 % ({final.tags.get(Tag.INTERVALS, 'none stored')}).", ""]
    headings, rows = score_table(lineage)
    lines += [f"| {' | '.join(headings)} |", "|---" * len(headings) + "|"]
    lines += [f"| {' | '.join(row)} |" for row in rows]
    told = "Decided at 0.5 where no threshold is named. All of them, with the run that each is of: `tables/scores.csv`."
    lines += ["", told, ""]
    lines += ["## Intended use", "", f"{AUTHOR}: for whom, where in care, and what it must not be used for.", ""]
    lines += ["## Data", "", *said(DATA, values), ""]
    lines += [
        "## Training",
        "",
        *said(_SETTINGS, values),
        "",
        "Again:",
        "",
        "```bash",
        repeating_command(lineage),
        "```",
        "",
    ]
    lines += ["## Limitations", "", f"{AUTHOR}: limitations, biases, and what the data do not cover.", ""]
    lines += ["## This directory", "", *(f"- {one}" for one in contents.left_out)]
    lines += [f"- `{name}`: {size / 1e6:.1f} MB" for name, size in contents.sizes.items()]
    lines += ["", "Checked by `python -m mammo_mlflow verify --publication DIR`.", ""]
    if contents.attribution:
        asked = (
            ""
            if "collection" in values
            else f"{AUTHOR}: whether the patches are of CBIS-DDSM, which asks for this:\n\n"
        )
        lines += ["## Attribution", "", asked + ATTRIBUTION, ""]
    return lines


def score_table(lineage: Lineage) -> tuple[list[str], list[list[str]]]:
    """A model's stored scores with their intervals, as text: headings, and a row for each score of `SHOWN`.

    Scores are decided at 0.5 but for those at the threshold. Columns that the store has nothing for are left out.
    """
    runs = {name: lineage.cross_validation if name.startswith(Metric.OOF) else lineage.final for name in TABLES}
    columns = [begin for begin, run in runs.items() if any(f"{begin}{name}" in run.metrics for name in SHOWN)]
    rows = []
    for name in SHOWN:
        found = (Estimate.read(f"{begin}{name}", runs[begin].metrics, runs[begin].tags) for begin in columns)
        rows.append([name, *("-" if math.isnan(one.value) and not one.reason else str(one) for one in found)])
    return ["score", *(TABLES[begin] for begin in columns)], rows


def said(sentences: Sequence[str], values: Mapping[str, StoredValue]) -> list[str]:
    """The sentences that the store has all values of, filled with them."""
    return [made.text for made in (fill(one, values) for one in sentences) if made is not None]
