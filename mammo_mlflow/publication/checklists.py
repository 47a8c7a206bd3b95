"""The reporting checklists: each item answered from the store, with its sources, or left to the authors.

Topics are those of `checklists.csv`, in words of this project's own: not the wording that was published.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from importlib.resources import files
from string import Formatter
from typing import NamedTuple

from mammo_mlflow.publication.answers import ANSWERS
from mammo_mlflow.publication.stored_values import Source, StoredValue, in_words

AUTHOR = "author must say"
"""What stands for what the store does not know."""
CHECKED = (
    "By topic, in our own words, written from memory of CLAIM (2024 update; Tejani et al., Radiology: Artificial "
    "Intelligence) and TRIPOD+AI (Collins et al., BMJ 2024;385:e078378): check numbers and wording against the "
    "published lists."
)


class ChecklistItem(NamedTuple):
    """An item of a checklist, its answer, what of it the authors must say, and the sources of the answer."""

    checklist: str
    item: str
    section: str
    topic: str
    answer: str
    rest: str
    sources: tuple[Source, ...]

    @property
    def said(self) -> str:
        """The answer and what is left to the authors, as one text."""
        return (
            " ".join(filter(None, (self.answer, f"{AUTHOR}: {self.rest}" if self.answer and self.rest else "")))
            or AUTHOR
        )


def answered(values: Mapping[str, StoredValue]) -> list[ChecklistItem]:
    """Answer every item of both checklists from stored values, in the lists' order."""
    answers = {(name, item): one for one in ANSWERS for name, items in one.items.items() for item in items}
    made = []
    for row in _topics():
        found = answers.get((row["checklist"], row["item"]))
        said = [] if found is None else [one for one in (fill(each, values) for each in found.sentences) if one]
        made.append(
            ChecklistItem(
                checklist=row["checklist"],
                item=row["item"],
                section=row["section"],
                topic=row["topic"],
                answer=" ".join(one.text for one in said),
                rest=found.rest if found is not None and said else "",
                sources=tuple(dict.fromkeys(source for one in said for source in one.sources)),
            )
        )
    return made


def fill(sentence: str, values: Mapping[str, StoredValue]) -> StoredValue | None:
    """Fill a sentence with stored values; None where the store lacks one of them. Without any it is no answer."""
    names = [name for _, name, _, _ in Formatter().parse(sentence) if name]
    if not names or any(name not in values for name in names):
        return None
    text = sentence.format_map({name: values[name].text for name in names})
    return StoredValue(text, tuple(source for name in names for source in values[name].sources))


def _topics() -> Iterator[dict[str, str]]:
    text = files("mammo_mlflow.publication").joinpath("checklists.csv").read_text(encoding="utf-8")
    yield from csv.DictReader(text.splitlines())


def checklist_page(name: str, items: Sequence[ChecklistItem], note: str) -> str:
    """A checklist as a Markdown page: a row for each item, its answer, and where in the store that stands."""
    own = [one for one in items if one.checklist == name]
    open_items = sum(not one.answer for one in own)
    rows = [
        f"| {' | '.join(map(_cell, (one.item, one.section, one.topic, one.said, in_words(one.sources))))} |"
        for one in own
    ]
    lines = [f"# {name}", "", *([f"**{note}**", ""] if note else []), CHECKED, ""]
    lines += [f"{len(own)} items, {open_items} of them wholly left to the authors.", ""]
    lines += ["| item | section | topic | answer | source |", "|---|---|---|---|---|", *rows]
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
