"""A registered model's answer sets: which probabilities are answered with one class, and which are "refer"."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import numpy.typing as npt

from mammo_mlflow.names import Tag

REFER = 2
"""The answer set of both classes, as a number; 0 and 1 are those of one class alone."""
IN_WORDS = "refer"


@dataclass(frozen=True)
class AnswerLimits:
    """A probability below `low` is answered with class 0 alone, one above `high` with class 1 alone, others with both.

    `coverage` is how often, at least, each class is to be part of the answer to its patches.
    """

    low: float
    high: float
    coverage: float

    def __call__(self, probabilities: npt.ArrayLike) -> npt.NDArray[np.int64]:
        """The answer sets of probabilities (n,): 0, 1 or `REFER`, int64 (n,)."""
        p = np.asarray(probabilities, np.float64)
        return np.where(p < self.low, 0, np.where(p > self.high, 1, REFER)).astype(np.int64)

    def in_words(self, probabilities: npt.ArrayLike, classes: Sequence[str]) -> list[str]:
        """The answer sets of probabilities (n,): the name of the one class, or `refer`."""
        return [[*classes, IN_WORDS][one] for one in self(probabilities)]

    @property
    def tags(self) -> dict[str, str]:
        """The tag of a registered model that has these limits; it is in the model's metadata too."""
        return {Tag.ANSWER_SETS: json.dumps(asdict(self))}


def read_limits(tags: Mapping[str, object]) -> AnswerLimits | None:
    """Read the limits from a model's tags or metadata; None where it has none, or none that can be read."""
    try:
        found = json.loads(str(tags[Tag.ANSWER_SETS]))
        return AnswerLimits(*(float(found[name]) for name in ("low", "high", "coverage")))
    except (KeyError, TypeError, ValueError):
        return None
