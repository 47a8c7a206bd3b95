"""The one-sided error that a decision about a champion may spend, from the runs of the task's earlier decisions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mammo_mlflow.evaluation.spending import ALPHA, Spent, error_of
from mammo_mlflow.files import json_sha256
from mammo_mlflow.names import Tag
from mammo_mlflow.tracking.champions import origin, spent_before
from mammo_mlflow.tracking.registry import Version
from mammo_mlflow.tracking.runs import Writer


@dataclass(frozen=True, kw_only=True)
class Budget:
    """The one-sided `error` that a decision may spend on all the settings that it compares with the champion.

    `compared` is the number of these settings, `data` the sha256 of the training data, `question` the sha256 of what is
    compared on them. `number` is the decision's place among those on these data that compared something.
    """

    question: str
    data: str
    error: float
    compared: int
    number: int

    def tags(self, promoted: int) -> dict[str, str]:
        """The tags of the decision's run; `promoted` is the number of settings of the promoted candidate, or 0.

        The error of these settings is handed on to later decisions.
        """
        errors = {Tag.ERROR: repr(self.error), Tag.HANDED_ON: repr(self.error * promoted / self.compared)}
        return {Tag.QUESTION: self.question, Tag.DATA_SHA256: self.data, **errors}

    def __str__(self) -> str:
        """The number of settings, of the decision, and its error, in words."""
        settings = "1 setting" if self.compared == 1 else f"{self.compared} settings"
        return f"{settings} compared, decision {self.number} on these data may err by {self.error:.2g} of {ALPHA:g}"


def budget_of(
    writer: Writer, task: str, objective: str, champion: Version, candidates: Sequence[tuple[Version, int]]
) -> Budget:
    """Compute the error that a decision may spend, from the candidates and the settings each is the best of.

    A decision that repeats an earlier comparison keeps the earlier decision's error.
    """
    data, phantom = champion.tags.get(Tag.DATA_SHA256, ""), champion.tags.get(Tag.PHANTOM, "")
    facts = {
        "task": task,
        "objective": objective,
        "data": data,
        "champion": [origin(champion), champion.run_id],
        "candidates": sorted([str(version), version.run_id, compared] for version, compared in candidates),
    }
    question = json_sha256(facts)
    earlier = [Spent(*row) for row in writer.ask(lambda: spent_before(writer.client, task, data, phantom))]
    names = [one.question for one in earlier]
    number = names.index(question) + 1 if question in names else len(names) + 1
    error, compared = error_of(question, earlier), sum(compared for _, compared in candidates)
    return Budget(question=question, data=data, error=error, compared=compared, number=number)
