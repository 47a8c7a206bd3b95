"""The objectives of searches and ensembles: metrics of a cross-validation's out-of-fold predictions, or its seconds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from mammo_mlflow.errors import expected, unknown_name
from mammo_mlflow.names import SENSITIVITY_AT

if TYPE_CHECKING:  # `--help` lists the objectives and needs no metric
    from mammo_mlflow.evaluation.out_of_fold import OutOfFold

Direction = Literal["maximize", "minimize"]

SECONDS = "seconds"

DIRECTIONS: dict[str, Direction] = {
    "roc_auc": "maximize",
    "accuracy": "maximize",
    "balanced_accuracy": "maximize",
    "log_loss": "minimize",
    SENSITIVITY_AT: "maximize",
    SECONDS: "minimize",
}
"""The direction of each objective, by its name before any `=`."""

CHOICES = tuple(f"{name}=S" if name == SENSITIVITY_AT else name for name in DIRECTIONS)
"""The objectives as messages list them; S is a specificity in (0, 1)."""
METRIC_CHOICES = tuple(name for name in CHOICES if name != SECONDS)
"""Those that predictions have."""


@dataclass(frozen=True)
class Objective:
    """An objective: the name of a metric (or `seconds`) and whether it is maximised or minimised."""

    name: str
    direction: Direction

    def value(self, oof: OutOfFold, seconds: float) -> float:
        """The objective's value on all or some folds; NaN where undefined, as for folds of one class.

        ROC AUC and sensitivity at a specificity are taken within folds, the other metrics over all rows at a threshold
        of 0.5. `seconds`: training time of the same folds.
        """
        if self.name == SECONDS:
            return seconds
        return oof.score(self.name)


def check_metric(objective: Objective) -> None:
    """Check that an objective is a metric of predictions. Raises UserError."""
    if objective.name == SECONDS:
        raise expected("objective", "a metric of predictions", f"'{SECONDS}'")


def parse_objectives(text: str) -> tuple[Objective, ...]:
    """Parse objectives: one name, or two different ones with a comma between; `seconds` only second.

    Raises UserError, one line about the field `objective`, for anything else.
    """
    parts = text.split(",") if text.strip() else []
    if not 1 <= len(parts) <= 2:
        raise expected("objective", "one name or two with a comma between them", f"'{text}'")
    found = tuple(_objective(part.strip()) for part in parts)
    if len({objective.name for objective in found}) < len(found):
        raise expected("objective", "two different names", f"'{text}'")
    if found[0].name == SECONDS:
        raise expected("objective", f"'{SECONDS}' only as the second of two", f"'{text}'")
    return found


def _objective(text: str) -> Objective:
    """The objective that a text names. Raises UserError."""
    name, separator, argument = (part.strip() for part in text.partition("="))
    if name not in DIRECTIONS or (separator and name != SENSITIVITY_AT):
        raise unknown_name("objective", text, CHOICES)
    if name == SENSITIVITY_AT:
        try:
            specificity = float(argument)
        except ValueError:
            specificity = 0.0
        if not 0 < specificity < 1:
            raise expected("objective", f"'{SENSITIVITY_AT}=' and a number in (0, 1)", f"'{text}'")
        name = f"{name}={specificity}"
    return Objective(name, DIRECTIONS[name.partition("=")[0]])
